//! What one launch takes.

use super::classes::{Class, Classes, PAIRS_MAX};
use super::share::{Members, Rule, Shared};
use super::site::Site;
use super::tile::Tile;
use super::{Planned, PlannedTile, SharedOut};

/// The share of a chip's multiprocessors on which blocks find room beside a product.
pub(super) const ROOM: f64 = 0.9;

/// Whatever comes to a whole number of blocks but for its rounding does: shares are rounded down.
pub(super) const WHOLE: f64 = 1.0 + 8.0 * f64::EPSILON;

/// The same where shares are rounded up.
pub(super) const HARDLY: f64 = 1.0 - 8.0 * f64::EPSILON;

/// The blocks of a launch.
#[derive(Clone, Copy)]
struct Blocks {
    count: f64,
    /// What all of them take, the longest, and one of the shortest groups.
    work_us: f64,
    longest_us: f64,
    shortest_us: f64,
    /// Do two fit a multiprocessor?
    two: bool,
    /// Those of a cluster; 1: there are none.
    cluster: u32,
}

/// How many members has each group?
#[derive(Clone, Copy)]
enum Deal {
    /// All as many.
    Equal(Members),
    /// In proportion to their bytes: so many blocks a byte.
    ByBytes(f64),
    /// By how long they take: so many blocks a [length](Tile::length) of a kibibyte.
    ByLength(f64),
}

/// What a launch moves, 10⁶ bytes or microseconds by granules of segments, by pairs of granules of groups and by rows.
#[derive(Clone, Copy)]
pub(super) struct Moved {
    /// What the cache would have to hold, 10⁶ bytes.
    pub(super) megabytes_granule: f64,
    pub(super) megabytes_row: f64,
    /// Weights from the memory, and again for each group; then rows.
    pub(super) us_granule: f64,
    pub(super) us_pair: f64,
    pub(super) us_row: f64,
    /// In rounds: of each row what is not found in the cache.
    pub(super) us_row_missed: f64,
}

/// The groups of a class: of each projection so many.
#[derive(Clone, Copy)]
struct Group {
    pairs: u32,
    count: f64,
    /// Rows of one, and of the largest.
    rows_mean: f64,
    rows_most: f64,
    cells: u32,
    /// What a piece takes whatever rows it has.
    piece_us: f64,
}

/// Segments cut into groups of one size of tile, which is the same for all launches that have it.
pub(super) struct Cut<'a> {
    pub(super) tile: Tile,
    cost: &'a PlannedTile,
    classes: &'a Classes,
    list: [Group; PAIRS_MAX],
    /// Pairs of granules of all groups of a projection: each reads its adapter's weights.
    weights: f64,
    /// Rows of all segments, and granules.
    rows: f64,
    granules: f64,
}

impl Group {
    const NONE: Group = Group { pairs: 0, count: 0.0, rows_mean: 0.0, rows_most: 0.0, cells: 0, piece_us: 0.0 };
}

impl Cut<'_> {
    fn groups(&self) -> &[Group] {
        &self.list[..self.classes.count_of_classes()]
    }
}

impl Planned {
    /// All groups where tiles are of this size.
    pub(super) fn cut<'a>(&'a self, tile: Tile, classes: &'a Classes) -> Cut<'a> {
        let cost = &self.tiles[tile as usize];
        let (mut list, mut weights) = ([Group::NONE; PAIRS_MAX], 0.0);
        for (group, class) in list.iter_mut().zip(classes.iter()) {
            let (groups, rows, rows_most) = (class.groups[tile.size()], class.rows as f64, class.most.min(tile.rows()));
            weights += f64::from(groups * class.pairs);
            *group = Group {
                pairs: class.pairs,
                count: f64::from(groups),
                rows_mean: rows / f64::from(groups),
                rows_most: f64::from(rows_most),
                cells: tile.cells(class.pairs, rows_most),
                piece_us: cost.piece_us(class.pairs),
            };
        }
        Cut { tile, cost, classes, list, weights, rows: classes.rows as f64, granules: classes.granules as f64 }
    }
}

impl PlannedTile {
    /// What a piece takes whatever rows it has.
    pub(super) fn piece_us(&self, pairs: u32) -> f64 {
        let pairs = f64::from(pairs);
        self.us_per_piece + pairs * (self.us_per_piece_pair + self.us_per_piece_pair_squared * pairs)
    }
}

impl Planned {
    /// What a launch takes, microseconds.
    pub(super) fn launch_us(&self, site: &Site, rule: Rule, cut: &Cut<'_>) -> f64 {
        let cost = cut.cost;
        let (blocks, moved) = (self.blocks(site, rule, cut), self.moved(site));
        if self.rounds {
            return self.launch_in_rounds_us(site, &blocks, &moved, cut);
        }
        let Blocks { count, work_us, longest_us, two, .. } = blocks;
        let chip = f64::from(self.multiprocessors);
        let rounds = count / (chip * if two { 2.0 } else { 1.0 });
        let blocks_us = if rounds <= 1.0 {
            longest_us
        } else {
            let mean = work_us / count;
            let lacking = cost.rounding * (rounds.ceil() - rounds);
            (rounds + lacking) * mean + cost.uneven * (longest_us - mean).max(0.0)
        };
        let crowded = if two { ((count - chip) / chip).clamp(0.0, 1.0) } else { 0.0 };
        let slower = (1.0 + cost.crowded * crowded) * if two { 1.0 } else { cost.lonely };
        let kept = moved.megabytes_granule * cut.granules + moved.megabytes_row * cut.rows;
        let beyond = self.us_per_megabyte_beyond * (kept - self.cache_megabytes).max(0.0);
        let (fetched, cached) =
            (moved.us_granule * cut.granules + beyond, moved.us_row * cut.rows + moved.us_pair * cut.weights);
        let memory = if self.dealt { (fetched * fetched + cached * cached).sqrt() } else { fetched + cached };
        // What the product beside it takes anyway hides the blocks' way, but not what the memory needs for both.
        let blocks_us = (blocks_us * slower - site.us_hidden).max(0.0);
        let waiting = if count > chip * ROOM { site.us_waiting + site.waiting * memory } else { 0.0 };
        cost.us + site.scales[cut.tile as usize] * (blocks_us * blocks_us + memory * memory).sqrt() + waiting
    }

    /// The same, round by round: all places of the chip are taken again and again, and at last some of them.
    fn launch_in_rounds_us(&self, site: &Site, blocks: &Blocks, moved: &Moved, cut: &Cut<'_>) -> f64 {
        let cost = cut.cost;
        let &Blocks { count, work_us, longest_us, shortest_us, two, cluster } = blocks;
        let missed = moved.megabytes_granule * cut.granules + moved.megabytes_row * cut.rows - self.cache_megabytes;
        let missed = if missed > 0.0 { (missed * (1.0 / self.cache_megabytes_more)).min(1.0) } else { 0.0 };
        let fetched = moved.us_granule * cut.granules + missed * (moved.us_row_missed * cut.rows);
        let cached = moved.us_pair * cut.weights + moved.us_row * cut.rows;
        let of_each = 1.0 / count;
        let both = fetched.max(cached) + self.added() * fetched.min(cached);
        let (memory_of_block, mean) = (both * of_each, work_us * of_each);
        let (chip, places) = (f64::from(self.multiprocessors), self.places_at_once(cluster, two));
        let pairs_up = self.pairs_up(cluster);
        let round = |blocks: f64, way_us: f64| {
            // Blocks that share a multiprocessor take longer, but where hardly any do the memory is not asked for enough.
            let crowded = if blocks > chip || pairs_up { cost.crowded } else { 0.0 };
            let slower = if two { 1.0 + crowded } else { cost.lonely };
            let apart = (2.0 - blocks / chip).clamp(0.0, 1.0);
            let sparse = if two { 1.0 + cost.sparse * apart } else { 1.0 };
            let (way, memory) = (way_us * slower, blocks * memory_of_block * sparse);
            (way * way + memory * memory).sqrt()
        };
        let rounds = count / places;
        let us = if rounds <= 1.0 {
            round(count, longest_us)
        } else {
            let full = rounds.floor();
            let left = count - full * places;
            // The longest begin first: at last there are the shortest, which begin as soon as there is room.
            let way_us = if self.dealt { mean.min(mean * (rounds - full) + shortest_us) } else { mean };
            let last = if left > 0.0 { round(left, way_us) } else { 0.0 };
            full * round(places, mean) + last + cost.uneven * (longest_us - mean).max(0.0)
        };
        cost.us + site.scales[cut.tile as usize] * us
    }

    /// What a launch moves.
    pub(super) fn moved(&self, site: &Site) -> Moved {
        // A granule is 8 ranks of 2 bytes; so is a row's number.
        let (granule, row) = (site.columns * 16e-6, 2e-6);
        let moved = row * if self.rounds { site.moved_once } else { site.moved };
        Moved {
            megabytes_granule: granule,
            megabytes_row: row * site.kept,
            us_granule: self.us_per_megabyte * granule,
            us_pair: self.us_per_megabyte_again * (2.0 * granule),
            us_row: self.us_per_megabyte_of_rows * moved,
            us_row_missed: self.us_per_megabyte_beyond * moved,
        }
    }

    fn blocks(&self, site: &Site, rule: Rule, cut: &Cut<'_>) -> Blocks {
        match rule.shared {
            Shared::Equal(members) => {
                let cluster = if members.cluster { u32::from(members.count) } else { 1 };
                Blocks { two: members.two, cluster, ..self.deal(site, Deal::Equal(members), cut).0 }
            }
            Shared::ByBytes { at_once } => self.by_bytes(site, at_once, cut),
            Shared::ByLength { few } => {
                let lengths = cut.groups().iter().map(|group| group.count * f64::from(cut.tile.length(group.pairs)));
                let total = site.bytes_pair * lengths.sum::<f64>();
                self.spread(site, Deal::ByLength(f64::from(self.places(few)) * HARDLY / total), cut)
            }
        }
    }

    /// Places that groups are shared out over by how long they take.
    pub(super) fn places(&self, few: bool) -> u32 {
        self.multiprocessors * 3 / if few { 4 } else { 2 }
    }

    /// Blocks where groups have members in proportion to their bytes.
    fn by_bytes(&self, site: &Site, at_once: bool, cut: &Cut<'_>) -> Blocks {
        let chip = self.multiprocessors;
        let total = site.bytes_pair * cut.weights + site.bytes_row * cut.rows;
        let spread = |blocks: u32| self.spread(site, Deal::ByBytes(f64::from(blocks) * WHOLE / total), cut);
        if !at_once {
            return spread(chip * 3 / 2);
        }
        // As many as find room at once: shares are rounded down.
        let (mut blocks, step) = (2 * chip, chip / 16 + 1);
        loop {
            let dealt = spread(blocks);
            if dealt.count <= f64::from(chip) || blocks < chip + step {
                return dealt;
            }
            blocks -= step;
        }
    }

    /// The blocks of groups that do not all have as many members.
    fn spread(&self, site: &Site, deal: Deal, cut: &Cut<'_>) -> Blocks {
        let (dealt, exchange) = self.deal(site, deal, cut);
        Blocks { two: self.two_fit(cut.classes, cut.tile, dealt.count as u32, exchange), ..dealt }
    }

    /// The blocks of all groups, whether two fit a multiprocessor left open; and the most bytes that one exchanges without a cluster.
    fn deal(&self, site: &Site, deal: Deal, cut: &Cut<'_>) -> (Blocks, u32) {
        let (cost, tile) = (cut.cost, cut.tile);
        let of_rows = cost.us_per_piece_of_rows / f64::from(tile.rows());
        let (sets, cluster) = match deal {
            Deal::Equal(members) => (f64::from(members.sets), members.cluster),
            Deal::ByBytes(_) | Deal::ByLength(_) => (1.0, false),
        };
        let shared = cost.exchange(cluster);
        let (mut count, mut work_us, mut exchange) = (0.0, 0.0, 0);
        let (mut longest_us, mut shortest_us) = (0.0_f64, f64::INFINITY);
        for group in cut.groups() {
            let shared_us = shared.us + shared.us_per_cell * f64::from(group.cells);
            let may_be_alone = self.is_alone(site, tile, cluster, group.pairs);
            for run in site.runs() {
                let most = || f64::from(run.members_most.min(self.multiprocessors));
                let members = match deal {
                    Deal::Equal(members) => f64::from(members.count),
                    Deal::ByBytes(blocks) => {
                        (run.bytes(group.pairs, group.rows_mean) * blocks).floor().clamp(1.0, most())
                    }
                    Deal::ByLength(blocks) => {
                        (run.bytes_pair * f64::from(tile.length(group.pairs)) * blocks).ceil().clamp(1.0, most())
                    }
                };
                // Those that widen multiply all inputs then and exchange nothing.
                let alone = members > 1.0 && may_be_alone && run.widens;
                // Each set multiplies all inputs, and all of them share the outputs.
                let pieces = match alone {
                    true => run.pieces_in + run.pieces_out / members,
                    false => (run.pieces_in + run.pieces_out / sets) / members,
                };
                let shared_us = shared_us + cost.us_per_member * members;
                let block = cost.us_per_block + if members > 1.0 && !alone { shared_us } else { 0.0 };
                let mine = (members * sets) * (group.count * f64::from(run.times));
                count += mine;
                let mean_us = block + pieces * (group.piece_us + of_rows * group.rows_mean);
                work_us += mine * mean_us;
                shortest_us = shortest_us.min(mean_us);
                longest_us = longest_us.max(block + pieces * (group.piece_us + of_rows * group.rows_most));
                let exchanging = if alone { 1 } else { members as u32 };
                exchange = exchange.max(tile.exchange(group.pairs, group.cells, exchanging, false));
            }
        }
        (Blocks { count, work_us, longest_us, shortest_us, two: false, cluster: 1 }, exchange)
    }

    /// How a launch is shared out.
    pub(super) fn shared_out_by(&self, site: &Site, rule: Rule, classes: &Classes) -> SharedOut {
        let cut = self.cut(rule.tile, classes);
        let blocks = self.blocks(site, rule, &cut);
        let cluster = rule.members().is_some_and(|members| members.cluster);
        let shares = rule.members().is_none_or(|members| members.count > 1);
        let alone = |class: &Class| shares && self.is_alone(site, rule.tile, cluster, class.pairs);
        SharedOut {
            rows: rule.tile.rows(),
            wide: rule.tile == Tile::Wide16,
            blocks: blocks.count,
            alone: classes.iter().any(alone),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
