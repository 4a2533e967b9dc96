//! The plan's rules: which tiles, how many members a group, and whether two blocks fit a multiprocessor.

use super::classes::{Class, Classes};
use super::{Planned, PlannedSite};

/// The most projections of a launch.
pub(super) const PROJECTIONS: usize = 4;

/// Blocks of a cluster that takes all of a group of multiprocessors.
const CLUSTER_LARGE: u32 = 16;

/// Rows of a group, and how they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tile {
    Rows8,
    Staged16,
    Staged32,
}

impl Tile {
    pub(super) const ALL: [Tile; 3] = [Tile::Rows8, Tile::Staged16, Tile::Staged32];

    pub(super) fn rows(self) -> u32 {
        8 << self as u32
    }

    fn is_staged(self) -> bool {
        self != Tile::Rows8
    }

    fn warps(self) -> u32 {
        if self == Tile::Staged32 { 16 } else { 8 }
    }

    /// Blocks that share a multiprocessor, as far as registers go.
    fn blocks_min(self) -> u32 {
        if self == Tile::Staged32 { 1 } else { 2 }
    }

    /// Bytes of a ring of depth 1.
    fn unit(self) -> u32 {
        if self.is_staged() { 1024 } else { self.warps() * 1024 }
    }

    /// Bytes of one step of the work of a group, and warps whose sums of a cell are added up.
    fn stage(self, pairs: u32) -> (u32, u32) {
        let (row_tiles, granules) = (self.rows() / 8, 2 * pairs);
        let mut tiles = 32 / row_tiles;
        while tiles > (self.warps() / row_tiles).max(1) && tiles * granules * 512 > 32 << 10 {
            tiles /= 2;
        }
        let row_warps = row_tiles.div_ceil(2);
        let mut rank_warps = 1;
        while 2 * rank_warps < pairs && row_warps * rank_warps < self.warps() {
            rank_warps *= 2;
        }
        (row_tiles * 8 * (tiles * 64 + 64) + tiles * granules * 512, self.warps() / row_warps / rank_warps)
    }

    fn slot(self, pairs: u32) -> u32 {
        if self.is_staged() { self.stage(pairs).0 } else { self.unit() }
    }

    /// Shared memory of the exchange.
    fn exchange(self, pairs: u32, cells: u32, members: u32, cluster: bool) -> u32 {
        let barriers = if cluster { 16 } else { 0 } + if self.is_staged() { 256 } else { 0 };
        let k_warps = if self.is_staged() {
            self.stage(pairs).1
        } else {
            let mut splits = 1;
            while splits * 2 < pairs {
                splits *= 2;
            }
            8 / splits
        };
        let others = if self.is_staged() || cells >= 5 || cells * members >= 64 {
            cells + if cluster { members * cells.div_ceil(members) } else { 0 }
        } else if members > 1 {
            members * cells
        } else {
            0
        };
        (k_warps * cells + others) * 512 + barriers
    }

    /// Depth of the ring of a block that has a multiprocessor for itself.
    fn ring_alone(self, exchange: u32, chip: u32) -> u32 {
        let room = chip.saturating_sub(exchange);
        if self.is_staged() { room / 1024 } else { (room / self.unit()).clamp(4, 11) }
    }

    /// Depth of the ring beside the exchange, such that the next launch's blocks find room; none if it would be too short.
    fn ring(self, slot: u32, exchange: u32, blocks: u32, planned: &Planned) -> Option<u32> {
        let chip = planned.shared_bytes;
        let beside = (chip.div_ceil(2) + 512).saturating_sub(1024 + exchange);
        if self.is_staged() {
            let alone = chip.saturating_sub(exchange);
            let rooms = if self.blocks_min() > 1 { [beside, alone] } else { [alone; 2] };
            return rooms.into_iter().find(|bytes| bytes / slot >= 2).map(|bytes| bytes / 1024);
        }
        let (beside, alone) = (beside / slot, self.ring_alone(exchange, chip));
        if beside > 5 {
            Some(beside.min(11))
        } else {
            (2 * blocks <= planned.multiprocessors && alone > 5).then_some(alone)
        }
    }
}

/// Groups of one class and one projection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub(super) pairs: f64,
    pub(super) cells: f64,
    /// Inputs and outputs, in 64 times 64 columns.
    pub(super) pieces: f64,
    pub(super) members: f64,
    pub(super) blocks: f64,
    /// The share of a tile that has rows: on average, and at most.
    pub(super) rows_mean: f64,
    pub(super) rows_most: f64,
}

/// A launch.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub(super) tile: Tile,
    /// Do two blocks fit a multiprocessor?
    pub(super) two: bool,
    /// Members of every group, and whether they are clusters; none where groups have members in proportion to their bytes.
    members: Option<(u32, bool)>,
    /// Bytes of all groups.
    total: f64,
    multiprocessors: u32,
}

impl Share {
    /// Are its groups clusters of the most blocks that there can be?
    pub(super) fn fills_clusters(&self) -> bool {
        self.members.is_some_and(|(members, cluster)| cluster && members >= CLUSTER_LARGE)
    }

    /// Groups by class and projection.
    pub(super) fn parts<'a>(self, site: &'a PlannedSite, classes: &'a Classes) -> impl Iterator<Item = Part> + use<'a> {
        let of = move |(pairs, class): (u32, &'a Class)| {
            site.outputs.iter().map(move |&outputs| self.part(site.inputs, outputs, pairs, class))
        };
        classes.iter().flat_map(of)
    }

    fn part(self, inputs: u32, outputs: u32, pairs: u32, class: &Class) -> Part {
        let size = f64::from(self.tile.rows());
        let count = f64::from(class.groups[self.tile as usize]);
        let rows = class.rows as f64 / count;
        let most = class.most.min(self.tile.rows());
        let members = match self.members {
            Some((members, _)) => f64::from(members),
            None => {
                let blocks = f64::from(self.multiprocessors * 3 / 2);
                let most = f64::from(outputs.min(inputs).div_ceil(32).min(32).min(self.multiprocessors));
                (blocks * bytes(inputs, outputs, pairs, rows) / self.total).floor().clamp(1.0, most.max(1.0))
            }
        };
        Part {
            pairs: f64::from(pairs),
            cells: f64::from(cells(pairs, most)),
            pieces: f64::from(inputs.div_ceil(32) + outputs.div_ceil(32)) / 64.0,
            members,
            blocks: count * members,
            rows_mean: rows / size,
            rows_most: f64::from(most) / size,
        }
    }
}

/// What the rules ask about all groups of a launch.
struct Groups<'a> {
    planned: &'a Planned,
    site: &'a PlannedSite,
    classes: &'a Classes,
    tile: Tile,
    count: u32,
    bytes_min: u64,
    bytes_max: u64,
    widens: bool,
}

/// Cells of one member's sums, of a group of so many rows.
fn cells(pairs: u32, rows: u32) -> u32 {
    pairs * rows.div_ceil(8)
}

fn bytes(inputs: u32, outputs: u32, pairs: u32, rows: f64) -> f64 {
    let tiles = inputs.div_ceil(32) + outputs.div_ceil(32);
    f64::from(tiles * pairs) * 1024.0 + rows * 2.0 * (f64::from(inputs) + 2.0 * f64::from(outputs))
}

fn power_below(value: u32) -> u32 {
    1 << value.max(1).ilog2()
}

impl Groups<'_> {
    fn most_rows(&self, class: &Class) -> u32 {
        class.most.min(self.tile.rows())
    }

    fn is_brief(&self, members: u32) -> bool {
        let widest = self.site.outputs.iter().copied().max().unwrap_or(0).max(self.site.inputs).div_ceil(32);
        widest.div_ceil(members * 8) * self.classes.pairs_max() <= 2
    }

    fn members_wanted(&self) -> u32 {
        let (count, slots) = (self.count.max(1), self.planned.multiprocessors);
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
        let large = (self.bytes_max >> if self.widens { 17 } else { 18 }).min(16);
        let worth = if count <= 6 { 8 } else { (self.bytes_max >> 16).clamp(1, 8).max(large) as u32 };
        fill.min(power_below(worth))
    }

    fn fits(&self, members: u32) -> bool {
        self.classes.iter().all(|(pairs, class)| {
            let exchange = self.tile.exchange(pairs, cells(pairs, self.most_rows(class)), members, members > 1);
            self.tile.ring(self.tile.slot(pairs), exchange, self.count * members, self.planned).is_some()
        })
    }

    fn prefers_global(&self, members: u32) -> bool {
        let chip = self.planned.multiprocessors;
        let little =
            || self.widens && self.classes.iter().all(|(pairs, class)| cells(pairs, self.most_rows(class)) == 1);
        let large = self.bytes_max >= 700 << 10 && self.count * 8 > chip && self.count * members < chip && little();
        large || (self.bytes_max > 2 * self.bytes_min && members < 4)
    }

    fn polls_well(&self, members: u32) -> bool {
        let (blocks, chip) = (self.count * members, self.planned.multiprocessors);
        self.tile == Tile::Rows8
            && (2..=4).contains(&members)
            && blocks <= chip
            && blocks * 4 > chip * 3
            && self.classes.iter().all(|(pairs, class)| cells(pairs, self.most_rows(class)) <= 2)
            && !self.prefers_global(members)
    }

    /// Members of every group and whether they are clusters; none where groups have members in proportion to their bytes.
    fn members(&self) -> Option<(u32, bool)> {
        if self.planned.cluster_max <= 1 {
            return None;
        }
        let narrowest = self.site.outputs.iter().map(|&outputs| outputs.min(self.site.inputs).div_ceil(32)).min();
        let most =
            narrowest.unwrap_or(1).min(32).min(self.planned.multiprocessors).min(self.planned.cluster_max).max(1);
        // Large clusters start late after a kernel that does not let them begin, and most of the bytes would wait for them.
        let many = |(pairs, class): (u32, &Class)| cells(pairs, class.fewest[self.tile as usize]) > 1;
        let late = !self.planned.beside && self.widens && self.classes.iter().all(many);
        let most = if late { most.min(8) } else { most };
        let mut members = power_below(self.members_wanted().clamp(1, most));
        while members > 1 && !self.fits(members) {
            members /= 2;
        }
        if !self.planned.beside && self.polls_well(members) {
            return Some((members, false));
        }
        (!self.prefers_global(members)).then_some((members, members > 1))
    }
}

impl Planned {
    /// How a launch shares out its work.
    pub(super) fn share(&self, site: &PlannedSite, classes: &Classes) -> Share {
        let tile = self.tile(site, classes);
        let projections = site.outputs.len() as u32;
        let mut groups = Groups {
            planned: self,
            site,
            classes,
            tile,
            count: classes.groups[tile as usize] * projections,
            bytes_min: u64::MAX,
            bytes_max: 0,
            widens: site.outputs.iter().all(|&outputs| outputs > site.inputs),
        };
        let mut total = 0.0;
        for (pairs, class) in classes.iter() {
            for &outputs in &site.outputs {
                let of = |rows: u32| bytes(site.inputs, outputs, pairs, f64::from(rows)) as u64;
                groups.bytes_min = groups.bytes_min.min(of(class.fewest[tile as usize]));
                groups.bytes_max = groups.bytes_max.max(of(groups.most_rows(class)));
                let count = f64::from(class.groups[tile as usize]);
                total += count * bytes(site.inputs, outputs, pairs, class.rows as f64 / count);
            }
        }
        let members = groups.members();
        let mut share = Share { tile, two: false, members, total, multiprocessors: self.multiprocessors };
        let cluster = members.is_some_and(|(_, cluster)| cluster);
        let (mut blocks, mut exchange) = (0.0, 0);
        for part in share.parts(site, classes) {
            blocks += part.blocks;
            exchange = exchange.max(tile.exchange(part.pairs as u32, part.cells as u32, part.members as u32, cluster));
        }
        let slot = classes.iter().map(|(pairs, _)| tile.slot(pairs)).max().unwrap_or(1);
        let depth = tile.ring(slot, exchange, blocks as u32, self);
        let depth =
            depth.unwrap_or_else(|| tile.ring_alone(exchange, self.shared_bytes)).max((2 * slot).div_ceil(tile.unit()));
        let shared = exchange + depth * tile.unit();
        share.two = tile.blocks_min() > 1 && 2 * (shared + 1024) <= self.shared_bytes + 1024;
        share
    }

    fn tile(&self, site: &PlannedSite, classes: &Classes) -> Tile {
        if classes.most <= 8 {
            return Tile::Rows8;
        }
        let prompts = classes.least >= 16;
        let room = if prompts { self.multiprocessors / 2 } else { self.multiprocessors };
        if classes.groups[0] * site.outputs.len() as u32 <= room {
            return Tile::Rows8;
        }
        if prompts && (33..=128).contains(&classes.rank_max) { Tile::Staged32 } else { Tile::Staged16 }
    }
}
