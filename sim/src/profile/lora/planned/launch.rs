//! What one launch takes.

use super::classes::{Class, Classes, PAIRS_MAX};
use super::share::{Members, Rule, cells};
use super::site::{Run, Site};
use super::tile::Tile;
use super::{Planned, PlannedTile, SharedOut};

/// The share of a chip's multiprocessors that clusters of the largest size find room on beside a product.
pub(super) const CLUSTERS_ROOM: f64 = 0.9;

/// The blocks of a launch.
#[derive(Clone, Copy)]
struct Blocks {
    count: f64,
    /// What all of them take, and the longest.
    work_us: f64,
    longest_us: f64,
    /// Do two fit a multiprocessor?
    two: bool,
}

/// The groups of a class: of each projection so many.
#[derive(Clone, Copy)]
struct Group {
    pairs: u32,
    count: f64,
    /// Rows of all, of one, and of the largest.
    rows: f64,
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
    /// Groups of a projection, and pairs of granules of all of them: each reads its adapter's weights.
    count: f64,
    weights: f64,
    /// Rows of all segments, and granules.
    rows: f64,
    granules: f64,
}

impl Group {
    const NONE: Group =
        Group { pairs: 0, count: 0.0, rows: 0.0, rows_mean: 0.0, rows_most: 0.0, cells: 0, piece_us: 0.0 };
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
                rows,
                rows_mean: rows / f64::from(groups),
                rows_most: f64::from(rows_most),
                cells: cells(class.pairs, rows_most),
                piece_us: cost.piece_us(class.pairs),
            };
        }
        Cut {
            tile,
            cost,
            classes,
            list,
            count: f64::from(classes.groups[tile.size()]),
            weights,
            rows: classes.rows as f64,
            granules: classes.granules as f64,
        }
    }
}

impl PlannedTile {
    /// What a piece takes whatever rows it has.
    pub(super) fn piece_us(&self, pairs: u32) -> f64 {
        let pairs = f64::from(pairs);
        self.us_per_piece + pairs * (self.us_per_piece_pair + self.us_per_piece_pair_squared * pairs)
    }

    /// What a block takes whatever pieces it has.
    fn block_us(&self, shares: bool, cells: u32) -> f64 {
        self.us_per_block + if shares { self.us_shared + self.us_per_cell * f64::from(cells) } else { 0.0 }
    }

    /// What a block of such a group takes whatever its pieces, and its pieces. `alone`: those that widen multiply all inputs and exchange nothing.
    fn block(&self, run: &Run, group: &Group, members: f64, alone: bool) -> (f64, f64) {
        if alone && run.widens {
            return (self.block_us(false, group.cells), run.pieces_in + (run.pieces - run.pieces_in) / members);
        }
        (self.block_us(members > 1.0, group.cells), run.pieces / members)
    }
}

impl Planned {
    /// What a launch takes, microseconds.
    pub(super) fn launch_us(&self, site: &Site, rule: Rule, cut: &Cut<'_>) -> f64 {
        let cost = cut.cost;
        let blocks = match rule.members {
            Some(members) => self.equal(site, members, cut),
            None => self.proportional(site, rule.at_once, cut),
        };
        if self.rounds {
            return self.launch_in_rounds_us(site, &blocks, cut);
        }
        let Blocks { count, work_us, longest_us, two } = blocks;
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
        // A granule is 8 ranks of 2 bytes; so is a row's number.
        let again = match self.us_per_megabyte_again {
            0.0 => 0.0,
            us => us * cut.weights * site.columns * 32e-6,
        };
        let (weights, rows) = (cut.granules * site.columns * 16e-6, cut.rows * 2e-6);
        let beyond = (weights + rows * site.kept - self.cache_megabytes).max(0.0);
        let memory = self.us_per_megabyte * weights
            + self.us_per_megabyte_of_rows * (rows * site.moved)
            + again
            + self.us_per_megabyte_beyond * beyond;
        // What the product beside it takes anyway hides the blocks' way, but not what the memory needs for both.
        let blocks_us = (blocks_us * slower - site.us_hidden).max(0.0);
        let waits = count > chip || (rule.fills_clusters() && count > chip * CLUSTERS_ROOM);
        let waiting = if waits { site.us_waiting } else { 0.0 };
        cost.us + site.scale * (blocks_us * blocks_us + memory * memory).sqrt() + waiting
    }

    /// The same, round by round: all places of the chip are taken again and again, and at last some of them.
    fn launch_in_rounds_us(&self, site: &Site, blocks: &Blocks, cut: &Cut<'_>) -> f64 {
        let cost = cut.cost;
        let &Blocks { count, work_us, longest_us, two } = blocks;
        let (weights, rows) = (cut.granules * site.columns * 16e-6, cut.rows * 2e-6);
        let missed = weights + rows * site.kept - self.cache_megabytes;
        let missed = if missed > 0.0 { (missed / self.cache_megabytes_more).min(1.0) } else { 0.0 };
        let moved = rows * site.moved_once;
        let fetched = self.us_per_megabyte * weights + self.us_per_megabyte_beyond * missed * moved;
        let of_groups = cut.weights * site.columns * 32e-6;
        let cached = self.us_per_megabyte_again * of_groups + self.us_per_megabyte_of_rows * moved;
        let memory_of_block = fetched.max(cached) / count;
        let places = f64::from(self.multiprocessors) * if two { 2.0 } else { 1.0 };
        let round = |blocks: f64, way_us: f64| {
            let slower = if two { 1.0 + cost.crowded * (blocks / places) } else { cost.lonely };
            let (way, memory) = (way_us * slower, blocks * memory_of_block);
            (way * way + memory * memory).sqrt()
        };
        let full = (count / places).floor();
        let us = if count <= places {
            round(count, longest_us)
        } else {
            let (left, mean) = (count - full * places, work_us / count);
            let last = if left > 0.0 { round(left, mean) } else { 0.0 };
            full * round(places, mean) + last + cost.uneven * (longest_us - mean).max(0.0)
        };
        cost.us + site.scale * us
    }

    /// Blocks where every group has as many members: sums over projections need not be written out.
    fn equal(&self, site: &Site, rule: Members, cut: &Cut<'_>) -> Blocks {
        let (cost, size) = (cut.cost, f64::from(cut.tile.rows()));
        let (members, sets) = (f64::from(rule.count), f64::from(rule.sets));
        let of_group = members * sets * f64::from(site.projections);
        // Each set multiplies all inputs, and all of them share the outputs.
        let pieces = site.pieces + (sets - 1.0) * (site.pieces_in * f64::from(site.projections));
        let most = (site.pieces_in + site.pieces_out_most / sets) / members;
        let of_rows = cost.us_per_piece_of_rows / size;
        let (mut work_us, mut longest_us) = (0.0, 0.0_f64);
        for group in cut.groups() {
            let piece = group.piece_us;
            if members > 1.0 && self.is_alone(site, cut.tile, rule.cluster, group.pairs) {
                for run in site.runs() {
                    let (block, pieces) = cost.block(run, group, members, true);
                    let us = |rows: f64| block + pieces * (piece + of_rows * rows);
                    work_us += group.count * members * f64::from(run.times) * us(group.rows_mean);
                    longest_us = longest_us.max(us(group.rows_most));
                }
                continue;
            }
            let block = cost.block_us(members > 1.0, group.cells);
            work_us += group.count * (of_group * block + pieces * piece) + group.rows * (pieces * of_rows);
            longest_us = longest_us.max(block + most * (piece + of_rows * group.rows_most));
        }
        Blocks { count: cut.count * of_group, work_us, longest_us, two: rule.two }
    }

    /// Blocks where groups have members in proportion to their bytes.
    fn proportional(&self, site: &Site, at_once: bool, cut: &Cut<'_>) -> Blocks {
        let chip = self.multiprocessors;
        let mut total = 0.0;
        for group in cut.groups() {
            for run in site.runs() {
                let bytes = group.count * run.bytes(group.pairs, group.rows_mean);
                (0..run.times).for_each(|_| total += bytes);
            }
        }
        if !at_once {
            return self.spread(site, cut, chip * 3 / 2, total);
        }
        // As many as find room at once: shares are rounded down.
        let (mut blocks, step) = (2 * chip, chip / 16 + 1);
        loop {
            let spread = self.spread(site, cut, blocks, total);
            if spread.count <= f64::from(chip) || blocks < chip + step {
                return spread;
            }
            blocks -= step;
        }
    }

    /// So many blocks in proportion to bytes, `bytes_total` those of all groups.
    fn spread(&self, site: &Site, cut: &Cut<'_>, blocks: u32, bytes_total: f64) -> Blocks {
        let (cost, tile) = (cut.cost, cut.tile);
        let of_rows = cost.us_per_piece_of_rows / f64::from(tile.rows());
        let blocks = f64::from(blocks);
        let (mut count, mut work_us, mut longest_us, mut exchange) = (0.0, 0.0, 0.0_f64, 0);
        for group in cut.groups() {
            let may_be_alone = self.is_alone(site, tile, false, group.pairs);
            for run in site.runs() {
                let share = blocks * run.bytes(group.pairs, group.rows_mean) / bytes_total;
                let members = (share as u32).clamp(1, run.members_most.min(self.multiprocessors));
                let alone = members > 1 && may_be_alone;
                let wide = f64::from(members);
                let (block, pieces) = cost.block(run, group, wide, alone);
                let us = |rows: f64| block + pieces * (group.piece_us + of_rows * rows);
                let mine = group.count * wide * f64::from(run.times);
                count += mine;
                work_us += mine * us(group.rows_mean);
                longest_us = longest_us.max(us(group.rows_most));
                let exchanging = if alone && run.widens { 1 } else { members };
                exchange = exchange.max(tile.exchange(group.pairs, group.cells, exchanging, false));
            }
        }
        Blocks { count, work_us, longest_us, two: self.two_fit(cut.classes, tile, count as u32, exchange) }
    }

    /// How a launch is shared out.
    pub(super) fn shared_out_by(&self, site: &Site, rule: Rule, classes: &Classes) -> SharedOut {
        let cut = self.cut(rule.tile, classes);
        let blocks = match rule.members {
            Some(members) => self.equal(site, members, &cut),
            None => self.proportional(site, rule.at_once, &cut),
        };
        let cluster = rule.members.is_some_and(|members| members.cluster);
        let shares = rule.members.is_none_or(|members| members.count > 1);
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
mod tests;
