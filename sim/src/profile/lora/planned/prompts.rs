//! The plan's rules for batches of prompts alone (`lora/plan/prompts.rs` of `aril-kernels`).

use super::Planned;
use super::classes::{Class, Classes};
use super::share::{Groups, Shared, power_below};
use super::site::Site;

/// Rows of the smallest prompt.
pub(super) const ROWS: u32 = 16;
/// Bytes of all groups of 8 rows, and of y, a multiprocessor, up to which x and y are held in registers.
const BYTES_OF_REGISTERS: f64 = 320.0 * 1024.0;
const BYTES_OF_Y: f64 = 26.0 * 1024.0;
/// Members from which on differences of bytes do not matter, and those beyond which the exchange costs more than shorter slices save.
const MEMBERS_EVEN: u32 = 4;
const MEMBERS_MAX: u32 = 8;
/// Bytes of a block up to which further blocks only add to the exchange.
const BYTES_SLICE: u64 = 256 << 10;
/// Blocks of the largest cluster.
const LARGE: u32 = 16;

impl Planned {
    /// Had groups of 8 rows, so many of them, better hold x and y in registers?
    pub(super) fn suits_registers(&self, site: &Site, classes: &Classes, groups: u32) -> bool {
        let (slots, rows) = (f64::from(self.multiprocessors), classes.rows as f64);
        let pairs: f64 = classes.iter().map(|class| f64::from(class.groups[0] * class.pairs)).sum();
        let weights = || site.runs().iter().map(|run| f64::from(run.times) * run.bytes(1, 0.0)).sum::<f64>() * pairs;
        groups * 2 <= self.multiprocessors
            && 2.0 * rows * site.outputs() <= BYTES_OF_Y * slots
            && weights() + 2.0 * rows * site.moved <= BYTES_OF_REGISTERS * slots
    }
}

impl Groups<'_> {
    /// Are these prompts alone, whose own rules hold?
    pub(super) fn of_prompts(&self) -> bool {
        self.planned.prompts && !self.planned.beside && self.classes.are_prompts
    }

    /// How many blocks each group gets, of `most` members at most; none where the rules of all batches say it.
    pub(super) fn share_of_prompts(&self, most: u32) -> Option<Shared> {
        let (count, slots) = (self.count, self.planned.multiprocessors);
        if count == 0 || count >= slots {
            return None;
        }
        let most = (slots / count).min(most);
        let rows = f64::from(self.tile.rows());
        let each = || self.classes.iter().flat_map(|class| self.site.runs().iter().map(move |run| (class, run)));
        if most <= MEMBERS_EVEN {
            let full = || each().map(|(class, run)| run.bytes(class.pairs, rows) as u64);
            if full().max()? * 2 > full().min()? * 3 {
                return Some(Shared::ByBytes { at_once: true });
            }
        }
        if !self.tile.is_staged() {
            return share_registers(count, most.min(MEMBERS_MAX), slots);
        }
        if most < 2 {
            return None;
        }
        if self.pair_up(most.min(MEMBERS_MAX)) {
            if most < 3 {
                return None;
            }
            let room = if most >= MEMBERS_EVEN { slots * 3 / 2 / count } else { most };
            let worth = self.bytes_max.div_ceil(BYTES_SLICE) as u32;
            let members = worth.max(slots / 2 / count).min(room).min(MEMBERS_MAX);
            return Some(Shared::equal(members, 1, members > 1));
        }
        if most >= LARGE && count < slots / LARGE && self.fits(LARGE) {
            return Some(Shared::equal(LARGE, 1, true));
        }
        let find = |&members: &u32| self.fits(members) && find_room(members, count, slots);
        let members = (2..=most.min(MEMBERS_MAX)).rev().find(find).unwrap_or(1);
        let heavy = || {
            each().any(|(class, run)| {
                let weights = run.bytes(class.pairs, 0.0);
                weights * 2.0 >= (run.bytes(class.pairs, rows) - weights) * 3.0
            })
        };
        if members < MEMBERS_EVEN && most > members && heavy() {
            return Some(Shared::equal(most.min(MEMBERS_MAX), 1, false));
        }
        Some(Shared::equal(members, 1, members > 1))
    }

    /// Would more blocks than multiprocessors wait, since not two find room on one?
    pub(super) fn queue(&self, members: u32) -> bool {
        let chip = self.planned.multiprocessors;
        self.of_prompts() && self.tile.is_staged() && self.count * members > chip && !self.pair_up(members)
    }

    /// Do two blocks of every group find room on a multiprocessor?
    fn pair_up(&self, members: u32) -> bool {
        let two = |class: &Class| {
            let exchange = self.tile.exchange(class.pairs, self.cells(class), members, members > 1);
            let depth = self.tile.ring(self.tile.slot(class.pairs), exchange, self.count * members, self.planned);
            let shared = |depth: u32| exchange + depth * self.tile.unit();
            depth.is_some_and(|depth| 2 * (shared(depth) + 1024) <= self.planned.shared_bytes + 1024)
        };
        self.tile.blocks_min() > 1 && self.classes.iter().all(two)
    }
}

/// Groups of 8 rows.
fn share_registers(count: u32, most: u32, slots: u32) -> Option<Shared> {
    let nearly_all = |members: u32| count * members * 8 > slots * 7;
    let power = power_below(most);
    if power < MEMBERS_EVEN || count < slots / LARGE {
        return None;
    }
    Some(match nearly_all(power) {
        true => Shared::equal(power, 1, false),
        false => Shared::equal(if nearly_all(most) { most - 1 } else { most }, 1, true),
    })
}

/// Do so many clusters with a multiprocessor a block all find room?
fn find_room(members: u32, clusters: u32, slots: u32) -> bool {
    members <= 2 || (clusters <= slots / LARGE * (LARGE / members) && clusters * members * 19 <= slots * 16)
}
