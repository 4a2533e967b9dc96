//! The plan's rules: which tiles, how many members a group, and whether two blocks fit a multiprocessor.

use super::Planned;
use super::classes::{Class, Classes};
use super::site::Site;
use super::tile::Tile;

/// Bytes of exchange are so many, some times: cells, and barriers of staged tiles.
const EXCHANGE_UNIT: u32 = 256;

/// What the plan decides about a launch. It follows from whole numbers alone: how many groups each class has, and the fewest and the most rows
/// of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(super) tile: Tile,
    pub(super) shared: Shared,
}

/// How many members has each group?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// All as many.
    Equal(Members),
    /// In proportion to their bytes; `at_once`: as many as find room at once.
    ByBytes { at_once: bool },
    /// By how long they take, of a few places or of more.
    ByLength { few: bool },
}

/// The blocks of every group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Members {
    pub(super) count: u8,
    /// So many times as many blocks: each set of members multiplies all inputs, and they share the outputs.
    pub(super) sets: u8,
    pub(super) cluster: bool,
    /// Do two blocks fit a multiprocessor?
    pub(super) two: bool,
}

impl Rule {
    /// Those of every group, where all have as many.
    pub(super) fn members(&self) -> Option<Members> {
        match self.shared {
            Shared::Equal(members) => Some(members),
            Shared::ByBytes { .. } | Shared::ByLength { .. } => None,
        }
    }
}

impl Shared {
    /// So many members of every group; whether two blocks fit is asked later.
    pub(super) fn equal(count: u32, sets: u32, cluster: bool) -> Shared {
        Shared::Equal(Members { count: count as u8, sets: sets as u8, cluster, two: false })
    }
}

/// What the rules ask about all groups of a launch.
pub(super) struct Groups<'a> {
    pub(super) planned: &'a Planned,
    pub(super) site: &'a Site,
    pub(super) classes: &'a Classes,
    pub(super) tile: Tile,
    pub(super) count: u32,
    bytes_min: u64,
    pub(super) bytes_max: u64,
}

pub(super) fn power_below(value: u32) -> u32 {
    1 << value.max(1).ilog2()
}

impl Groups<'_> {
    fn most_rows(&self, class: &Class) -> u32 {
        class.most.min(self.tile.rows())
    }

    pub(super) fn cells(&self, class: &Class) -> u32 {
        self.tile.cells(class.pairs, self.most_rows(class))
    }

    fn is_brief(&self, members: u32) -> bool {
        self.site.widest.div_ceil(32).div_ceil(members * 8) * self.classes.pairs_max() <= 2
    }

    fn members_wanted(&self) -> u32 {
        let (count, slots) = (self.count.max(1), self.planned.multiprocessors);
        if self.planned.packs {
            return self.members_wanted_packed(count, slots);
        }
        if self.bytes_max > 2 * self.bytes_min {
            return (2 * slots / count).clamp(1, 8);
        }
        let fill = power_below(slots / count);
        let doubled = count * fill * 2 <= self.tile.blocks_min() * slots;
        let fill = if doubled && (fill == 1 || count * fill * 10 <= slots * 9) { fill * 2 } else { fill };
        if self.tile == Tile::Rows8
            && let Some(members) = [8, 16].into_iter().find(|&m| count * m <= slots && self.is_brief(m))
        {
            return members;
        }
        let large = (self.bytes_max >> if self.site.widens { 17 } else { 18 }).min(16);
        let worth = if count <= 6 { 8 } else { (self.bytes_max >> 16).clamp(1, 8).max(large) as u32 };
        fill.min(power_below(worth))
    }

    fn members_wanted_packed(&self, count: u32, slots: u32) -> u32 {
        if self.tile.blocks_min() == 1 {
            let fill = (slots / count).clamp(1, 8);
            return if fill > 2 && count * fill * 8 > slots * 7 { fill - 1 } else { fill };
        }
        if self.bytes_max > 2 * self.bytes_min {
            return match self.tile.is_staged() {
                true => (slots * 7 / 4 / count).clamp(1, 3),
                false => power_below((2 * slots / count).min(8)),
            };
        }
        let fill = power_below(slots / count);
        let doubled = count * fill * 2 <= self.tile.blocks_min() * slots;
        let fill = if doubled && (fill == 1 || count * fill * 10 <= slots * 9) { fill * 2 } else { fill };
        let tiles = self.site.tiles_least;
        let large = (self.bytes_max >> if self.site.widens { 17 } else { 18 }).min(16) as u32;
        if count <= 4 && count * 12 <= slots && tiles > 128 && large < 12 && !self.planned.beside {
            return 12;
        }
        let worth = match (count <= 6, self.site.narrows) {
            (true, false) => 8,
            (true, true) => large.max(8),
            (false, _) => large.max((self.bytes_max >> 16).clamp(1, 8) as u32),
        };
        fill.min(power_below(worth))
    }

    /// Do clusters of more than 8 blocks start too late? After a kernel that does not let them begin, where most of the bytes would wait for them.
    fn starts_late(&self) -> bool {
        let many = |class: &Class| self.tile.cells(class.pairs, class.fewest(self.tile)) > 1;
        !self.planned.beside && self.site.widens && self.classes.iter().all(many)
    }

    /// Members and sets of them whose slices are short enough for the shortest code, or for sets to be worth it; none for most groups.
    fn short_members(&self) -> Option<(u32, u32)> {
        /// Sets that there may be, units of weights that a warp of the shortest code has at most, and of the next.
        const SETS_MAX: u32 = 4;
        const BRIEF: u32 = 2;
        const BATCH: u32 = 4;
        let (count, slots, pairs) = (self.count.max(1), self.planned.multiprocessors, self.classes.pairs_max());
        if self.tile != Tile::Rows8 || self.bytes_max > 2 * self.bytes_min || count * 8 > slots {
            return None;
        }
        let most = if self.starts_late() { 8 } else { 16 };
        let find = |units: u32, least: u32, step: usize, sets: std::ops::RangeInclusive<u32>, room: u32| {
            // Members that inputs need, and blocks that outputs need: eight warps each.
            let tiles = 8 * (units / pairs);
            if tiles == 0 {
                return None;
            }
            let (inputs, outputs) = (self.site.input_tiles.div_ceil(tiles), self.site.output_tiles.div_ceil(tiles));
            (least..=most).step_by(step).filter(|&members| members >= inputs).find_map(|members| {
                let wanted = outputs.div_ceil(members).max(*sets.start());
                let fits = count * members * wanted <= if wanted > 1 { room } else { slots };
                (wanted <= *sets.end() && fits).then_some((members, wanted))
            })
        };
        if self.planned.beside {
            return find(BRIEF, 8, 8, 1..=1, slots);
        }
        let least = if count <= 2 && self.site.tiles_least > 64 { 10 } else { 8 };
        let brief = find(BRIEF, least, 1, 1..=SETS_MAX, slots * 3 / 4);
        brief.or_else(|| if pairs <= 2 { find(BATCH, 8, 1, 2..=SETS_MAX, slots / 2) } else { None })
    }

    /// Had groups of one row whose few members could poll better be clusters that fill the chip more than once?
    fn packs_well(&self, members: u32) -> bool {
        let alone = |class: &Class| self.planned.is_alone(self.site, self.tile, false, class.pairs);
        self.polls(members)
            && self.bytes_max <= 2 * self.bytes_min
            && self.classes.iter().all(|class| class.most == 1 && !alone(class))
    }

    /// Members of those: six in place of four, or three where two cells are exchanged.
    fn members_packed(&self, members: u32) -> u32 {
        let cells = self.classes.iter().map(|class| self.cells(class)).max().unwrap_or(1);
        let quarters = match cells {
            _ if members < 4 => 5,
            1 => 6,
            _ => 3,
        };
        (self.planned.multiprocessors * quarters / 4 / self.count.max(1)).max(1)
    }

    pub(super) fn fits(&self, members: u32) -> bool {
        self.classes.iter().all(|class| {
            let exchange = self.tile.exchange(class.pairs, self.cells(class), members, members > 1);
            self.tile.ring(self.tile.slot(class.pairs), exchange, self.count * members, self.planned).is_some()
        })
    }

    fn prefers_global(&self, members: u32) -> bool {
        let chip = self.planned.multiprocessors;
        let little = || self.site.widens && self.classes.iter().all(|class| self.cells(class) == 1);
        let large = self.bytes_max >= 700 << 10 && self.count * 8 > chip && self.count * members < chip && little();
        let enough = match (self.planned.packs && self.tile.is_staged(), self.tile.blocks_min()) {
            (true, 1) => 1,
            (true, _) => 2,
            (false, _) => 4,
        };
        large || (self.bytes_max > 2 * self.bytes_min && members < enough)
    }

    fn polls(&self, members: u32) -> bool {
        let (blocks, chip) = (self.count * members, self.planned.multiprocessors);
        self.tile == Tile::Rows8
            && (2..=4).contains(&members)
            && blocks <= chip
            && blocks * 4 > chip * 3
            && self.classes.iter().all(|class| self.cells(class) <= 2)
    }

    /// How many members each has.
    fn shared(&self) -> Shared {
        let of_prompts = self.of_prompts() && self.planned.cluster_max > 1;
        let shared = if of_prompts { self.share_of_prompts(self.members_most()) } else { None };
        shared.or_else(|| self.equally()).unwrap_or_else(|| match self.are_lopsided() {
            true => Shared::ByLength { few: self.has_few_places() },
            false => Shared::ByBytes { at_once: false },
        })
    }

    /// Members of a cluster, at most.
    fn members_most(&self) -> u32 {
        let narrowest = self.site.narrowest.div_ceil(32);
        narrowest.min(32).min(self.planned.multiprocessors).min(self.planned.cluster_max).max(1)
    }

    /// To all as many members, where that suits them.
    fn equally(&self) -> Option<Shared> {
        if self.planned.cluster_max <= 1 {
            return None;
        }
        let most = self.members_most();
        let most = if self.starts_late() { most.min(8) } else { most };
        let short = if self.planned.packs { self.short_members() } else { None };
        let (wanted, sets) = short.unwrap_or_else(|| (self.members_wanted(), 1));
        let mut members =
            if self.planned.packs && wanted <= most { wanted.max(1) } else { power_below(wanted.clamp(1, most)) };
        while members > 1 && (!self.fits(members) || self.queue(members)) {
            members /= 2;
        }
        if self.planned.packs && !self.planned.beside && self.packs_well(members) {
            let more = self.members_packed(members);
            if self.fits(more) {
                return Some(Shared::equal(more, 1, more > 1));
            }
        }
        if self.are_uneven(members) || self.prefers_global(members) {
            return None;
        }
        if !self.planned.beside && self.polls(members) {
            return Some(Shared::equal(members, 1, false));
        }
        let sets = if members == wanted { sets } else { 1 };
        Some(Shared::equal(members, sets, members > 1))
    }
}

impl Planned {
    /// How a launch with tiles of this size shares out its work.
    pub(super) fn rule(&self, site: &Site, classes: &Classes, tile: Tile) -> Rule {
        let mut groups = Groups {
            planned: self,
            site,
            classes,
            tile,
            count: classes.groups[tile.size()] * site.projections,
            bytes_min: u64::MAX,
            bytes_max: 0,
        };
        for class in classes.iter() {
            for run in site.runs() {
                let of = |rows: u32| run.bytes(class.pairs, f64::from(rows)) as u64;
                groups.bytes_min = groups.bytes_min.min(of(class.fewest(tile)));
                groups.bytes_max = groups.bytes_max.max(of(groups.most_rows(class)));
            }
        }
        let mut shared = groups.shared();
        if let Shared::Equal(members) = &mut shared {
            let (count, cluster) = (u32::from(members.count), members.cluster);
            let exchange = |class: &Class| {
                let alone = self.is_alone(site, tile, cluster, class.pairs);
                let of = |members| tile.exchange(class.pairs, groups.cells(class), members, cluster);
                if !alone {
                    return of(count);
                }
                site.runs().iter().map(|run| of(if run.widens { 1 } else { count })).max().unwrap_or(0)
            };
            let exchanged = classes.iter().map(exchange).max();
            let blocks = groups.count * count * u32::from(members.sets);
            members.two = self.two_fit(classes, tile, blocks, exchanged.unwrap_or(0));
        }
        Rule { tile, shared }
    }

    /// Do the members of the widening projections' groups of this rank multiply all inputs, each for itself? Only where they would exchange
    /// their sums through global memory.
    pub(super) fn is_alone(&self, site: &Site, tile: Tile, cluster: bool, pairs: u32) -> bool {
        /// Units of weights (16 ranks × 32 inputs) up to which a block multiplies them sooner than sums arrive.
        const UNITS: u32 = 96;
        self.alone
            && !self.beside
            && !cluster
            && tile == Tile::Rows8
            && site.widens_some
            && site.input_tiles * pairs <= UNITS
    }

    /// Do two of so many blocks fit a multiprocessor, with so many bytes of shared memory to exchange sums?
    pub(super) fn two_fit(&self, classes: &Classes, tile: Tile, blocks: u32, exchange: u32) -> bool {
        let slot = classes.iter().map(|class| tile.slot(class.pairs)).max().unwrap_or(1);
        self.two_fit_of(slot, tile, blocks, exchange)
    }

    /// The same where the longest stage takes so many bytes.
    fn two_fit_of(&self, slot: u32, tile: Tile, blocks: u32, exchange: u32) -> bool {
        let depth = tile.ring(slot, exchange, blocks, self);
        let depth =
            depth.unwrap_or_else(|| tile.ring_alone(exchange, self.shared_bytes)).max((2 * slot).div_ceil(tile.unit()));
        let shared = exchange + depth * tile.unit();
        tile.blocks_min() > 1 && 2 * (shared + 1024) <= self.shared_bytes + 1024
    }

    /// The most bytes of exchange with which two of so many blocks fit; below zero where they never do. With fewer they fit too.
    pub(super) fn exchange_most(&self, tile: Tile, pairs: u32, blocks: u32) -> f64 {
        let slot = tile.slot(pairs).max(1);
        let fit = |units: u32| self.two_fit_of(slot, tile, blocks, units * EXCHANGE_UNIT);
        let (mut fits, mut fails) = (0, self.shared_bytes / EXCHANGE_UNIT + 1);
        if !fit(fits) {
            return -1.0;
        }
        while fails - fits > 1 {
            let middle = u32::midpoint(fits, fails);
            if fit(middle) { fits = middle } else { fails = middle }
        }
        f64::from(fits * EXCHANGE_UNIT)
    }

    /// The tiles of a launch.
    pub(super) fn tile(&self, site: &Site, classes: &Classes) -> Tile {
        if classes.most <= Tile::Rows8.rows() {
            return Tile::Rows8;
        }
        let small = classes.groups[Tile::Rows8.size()] * site.projections;
        if classes.are_prompts {
            self.tile_of_prompts(site, classes, small)
        } else if small <= self.groups_in_registers(classes) {
            Tile::Rows8
        } else {
            self.tile_beside_prompts(classes)
        }
    }

    /// Of a batch of not only prompts whose groups are too many for registers.
    pub(super) fn tile_beside_prompts(&self, classes: &Classes) -> Tile {
        if self.suits_tiles_of_32(classes) { Tile::Staged32 } else { Tile::Staged16 }
    }

    /// Of a batch of not only prompts, with a segment of more than 8 rows: so many groups of 8 rows at most hold x and y in registers.
    pub(super) fn groups_in_registers(&self, classes: &Classes) -> u32 {
        let fewer = classes.groups[Tile::Staged16.size()] * 4 <= classes.groups[Tile::Rows8.size()] * 3;
        // Which of them is as good as drawn: no branch.
        [self.multiprocessors, self.multiprocessors * 9 / 20][usize::from(self.packs & fewer)]
    }

    /// The same of prompts alone, so many groups of 8 rows.
    fn tile_of_prompts(&self, site: &Site, classes: &Classes, small: u32) -> Tile {
        let groups = |tile: Tile| classes.groups[tile.size()] * site.projections;
        let in_registers = match self.prompts && !self.beside {
            true => self.suits_registers(site, classes, small),
            false => small <= self.multiprocessors / 2,
        };
        if in_registers {
            return Tile::Rows8;
        }
        let few = || groups(Tile::Wide16) * 2 <= self.multiprocessors;
        let many = || groups(Tile::Staged32) * 8 > self.multiprocessors * 3;
        if (33..=128).contains(&classes.rank_max) {
            Tile::Staged32
        } else if classes.rank_max > 16 && self.tiles.len() > Tile::Wide16 as usize && few() {
            Tile::Wide16
        } else if self.packs && (17..=128).contains(&classes.rank_max) && (self.prompts || many()) {
            Tile::Staged32
        } else {
            Tile::Staged16
        }
    }
}
