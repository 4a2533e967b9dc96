//! What one launch takes.

use super::classes::{Class, Classes, PAIRS_MAX};
use super::share::{Members, Rule, cells};
use super::site::{Run, Site};
use super::tile::Tile;
use super::{Planned, PlannedTile, SharedOut};

/// The share of a chip's multiprocessors that clusters of the largest size find room on beside a product.
const CLUSTERS_ROOM: f64 = 0.9;

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
    fn piece_us(&self, pairs: u32) -> f64 {
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
            None => self.proportional(site, cut),
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
    fn proportional(&self, site: &Site, cut: &Cut<'_>) -> Blocks {
        let (cost, tile) = (cut.cost, cut.tile);
        let of_rows = cost.us_per_piece_of_rows / f64::from(tile.rows());
        let mut total = 0.0;
        for group in cut.groups() {
            for run in site.runs() {
                let bytes = group.count * run.bytes(group.pairs, group.rows_mean);
                (0..run.times).for_each(|_| total += bytes);
            }
        }
        let blocks = f64::from(self.multiprocessors * 3 / 2);
        let (mut count, mut work_us, mut longest_us, mut exchange) = (0.0, 0.0, 0.0_f64, 0);
        for group in cut.groups() {
            let may_be_alone = self.is_alone(site, tile, false, group.pairs);
            for run in site.runs() {
                let share = blocks * run.bytes(group.pairs, group.rows_mean) / total;
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
            None => self.proportional(site, &cut),
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
mod tests {
    use super::super::PlannedSite;
    use super::*;
    use crate::batch::Segment;

    fn planned() -> Planned {
        let tile = |times: f64| PlannedTile {
            us: 0.9 * times,
            us_per_block: 1.1,
            us_per_piece: 0.013 * times,
            us_per_piece_of_rows: 0.98,
            us_per_piece_pair: 1.4 / times,
            us_per_piece_pair_squared: 0.1,
            us_shared: 0.3,
            us_per_cell: 0.5,
            crowded: 0.15,
            lonely: 0.7,
            rounding: 0.9,
            uneven: 0.5,
        };
        let site = |inputs, outputs: &[u32]| PlannedSite {
            inputs,
            outputs: outputs.to_vec(),
            scale: 1.0 + f64::from(inputs) * 1e-5,
            us_waiting: 0.3,
            us_hidden: 0.4,
        };
        Planned {
            multiprocessors: 132,
            shared_bytes: 232_448,
            cluster_max: 16,
            beside: false,
            alone: true,
            packs: false,
            rounds: false,
            sites: vec![
                site(4096, &[4096, 1024, 1024]),
                site(1024, &[8192, 512]),
                site(4096, &[14336, 14336]),
                site(14336, &[4096]),
            ],
            tiles: vec![tile(1.0), tile(1.3), tile(1.7), tile(1.5)],
            us_per_megabyte: 0.21,
            us_per_megabyte_again: 0.05,
            us_per_megabyte_of_rows: 0.2,
            cache_megabytes: 1.5,
            cache_megabytes_more: 20.0,
            us_per_megabyte_beyond: 0.3,
        }
    }

    /// A launch, every class of every projection by itself.
    fn by_hand(planned: &Planned, site: &PlannedSite, rule: Rule, classes: &Classes) -> f64 {
        let cost = &planned.tiles[rule.tile as usize];
        let size = f64::from(rule.tile.rows());
        let tiles = |outputs: u32| f64::from(site.inputs.div_ceil(32) + outputs.div_ceil(32));
        let bytes = |outputs: u32, pairs: f64, rows: f64| {
            tiles(outputs) * pairs * 1024.0 + rows * 2.0 * (f64::from(site.inputs) + 2.0 * f64::from(outputs))
        };
        let parts = || classes.iter().flat_map(|class| site.outputs.iter().map(move |&outputs| (class, outputs)));
        let of = |class: &Class, outputs: u32| {
            let count = f64::from(class.groups[rule.tile.size()]);
            (count, bytes(outputs, f64::from(class.pairs), class.rows as f64 / count))
        };
        let total: f64 = parts().map(|(class, outputs)| of(class, outputs)).map(|(count, bytes)| count * bytes).sum();
        let (mut blocks, mut work, mut longest, mut exchange) = (0.0, 0.0, 0.0_f64, 0);
        for (class, outputs) in parts() {
            let (count, bytes) = of(class, outputs);
            let most = f64::from(outputs.min(site.inputs).div_ceil(32).min(32));
            let proportional = (f64::from(planned.multiprocessors * 3 / 2) * bytes / total).floor().clamp(1.0, most);
            let members = rule.members.map_or(proportional, |members| f64::from(members.count));
            let sets = rule.members.map_or(1.0, |members| f64::from(members.sets));
            let pairs = f64::from(class.pairs);
            let rows_most = class.most.min(rule.tile.rows());
            let exchanged = class.pairs * rows_most.div_ceil(8);
            let cluster = rule.members.is_some_and(|members| members.cluster);
            let alone = members > 1.0
                && !cluster
                && rule.tile == Tile::Rows8
                && outputs > site.inputs
                && site.inputs.div_ceil(32) * class.pairs <= 96;
            let pieces = match alone {
                true => f64::from(site.inputs.div_ceil(32)) + f64::from(outputs.div_ceil(32)) / members,
                false => {
                    f64::from(site.inputs.div_ceil(32)) / members + f64::from(outputs.div_ceil(32)) / (members * sets)
                }
            };
            let block = |rows: f64| {
                let by_pairs = pairs * (cost.us_per_piece_pair + cost.us_per_piece_pair_squared * pairs);
                let piece = cost.us_per_piece + cost.us_per_piece_of_rows * rows / size + by_pairs;
                let shared = cost.us_shared + cost.us_per_cell * f64::from(exchanged);
                let shared = if members > 1.0 && !alone { shared } else { 0.0 };
                cost.us_per_block + pieces / 64.0 * piece + shared
            };
            blocks += count * members * sets;
            work += count * members * sets * block(class.rows as f64 / count);
            longest = longest.max(block(f64::from(rows_most)));
            let exchanging = if alone { 1 } else { members as u32 };
            exchange = exchange.max(rule.tile.exchange(class.pairs, exchanged, exchanging, false));
        }
        let two = rule
            .members
            .map_or_else(|| planned.two_fit(classes, rule.tile, blocks as u32, exchange), |members| members.two);
        let chip = f64::from(planned.multiprocessors);
        let rounds = blocks / if two { 2.0 * chip } else { chip };
        let mean = work / blocks;
        let uneven = (longest - mean).max(0.0) * cost.uneven;
        let many = (rounds + cost.rounding * (rounds.ceil() - rounds)) * mean + uneven;
        let us = if rounds <= 1.0 { longest } else { many };
        let crowded = if two { 1.0 + cost.crowded * (blocks / chip - 1.0).clamp(0.0, 1.0) } else { cost.lonely };
        let outputs = || site.outputs.iter().map(|&outputs| f64::from(outputs));
        let inputs = f64::from(site.inputs);
        let weights: f64 = outputs().map(|outputs| classes.granules as f64 * (inputs + outputs) * 16e-6).sum();
        let rows: f64 = outputs().map(|outputs| classes.rows as f64 * (inputs + 2.0 * outputs) * 2e-6).sum();
        let groups: f64 = parts()
            .map(|(class, outputs)| {
                of(class, outputs).0 * f64::from(class.pairs) * (inputs + f64::from(outputs)) * 32e-6
            })
            .sum();
        let kept: f64 = inputs + outputs().sum::<f64>();
        if planned.rounds {
            let moved = classes.rows as f64 * 2e-6 * (inputs + outputs().map(|outputs| 2.0 * outputs).sum::<f64>());
            let missed = (weights + kept * classes.rows as f64 * 2e-6 - planned.cache_megabytes).max(0.0);
            let missed = (missed / planned.cache_megabytes_more).min(1.0);
            let memory = (weights * planned.us_per_megabyte + missed * moved * planned.us_per_megabyte_beyond)
                .max(groups * planned.us_per_megabyte_again + moved * planned.us_per_megabyte_of_rows);
            // Every round by itself, the last of what is left.
            let places = if two { 2.0 * chip } else { chip };
            let (mut us, mut left) = (0.0, blocks);
            while left > 0.0 {
                let round = left.min(places);
                let way = if blocks > places { mean } else { longest };
                let slower = if two { 1.0 + cost.crowded * round / places } else { cost.lonely };
                us += (way * slower).hypot(memory * round / blocks);
                left -= round;
            }
            let uneven = if blocks > places { cost.uneven * (longest - mean).max(0.0) } else { 0.0 };
            return cost.us + site.scale * (us + uneven);
        }
        let beyond = (weights + kept * classes.rows as f64 * 2e-6 - planned.cache_megabytes).max(0.0);
        let memory = beyond * planned.us_per_megabyte_beyond
            + weights * planned.us_per_megabyte
            + rows * planned.us_per_megabyte_of_rows
            + groups * planned.us_per_megabyte_again;
        let large = rule.members.is_some_and(|members| members.cluster && members.count == 16);
        let waiting = if blocks > chip || (large && blocks > 0.9 * chip) { site.us_waiting } else { 0.0 };
        cost.us + site.scale * (us * crowded - site.us_hidden).max(0.0).hypot(memory) + waiting
    }

    #[test]
    fn sums_over_projections_are_those_of_every_group_written_out() {
        let (mut planned, mut state) = (planned(), 1_u64);
        let mut draw = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % below
        };
        let (mut equal, mut proportional, mut alone, mut sets) = (0, 0, 0, 0);
        for batch in 0..4000 {
            (planned.rounds, planned.packs) = (batch % 2 == 1, batch % 4 >= 2);
            let ranks = [&[16_u32][..], &[8, 16, 32, 64, 128]][draw(2) as usize];
            let most = 2 << draw(6);
            let mut segment = || Segment {
                rank: ranks[draw(ranks.len() as u32) as usize],
                decode_rows: 1 + draw(most),
                prefill_rows: if draw(10) == 0 { draw(2000) } else { 0 },
            };
            let mut segments: Vec<Segment> = (0..1 + most).map(|_| segment()).collect();
            if batch % 7 == 0 {
                // Few single rows, which may have several sets of members.
                segments.truncate(1 + most as usize % 3);
                segments.iter_mut().for_each(|segment| {
                    *segment = Segment { rank: 16, decode_rows: 1, prefill_rows: 0 };
                });
            }
            let classes = Classes::of(&segments);
            for site in &planned.sites {
                let ready = Site::of(site);
                let rule = planned.rule(&ready, &classes, planned.tile(&ready, &classes));
                match rule.members {
                    Some(members) => (equal, sets) = (equal + 1, sets + u32::from(members.sets > 1)),
                    None => proportional += 1,
                }
                alone += u32::from(planned.shared_out_by(&ready, rule, &classes).alone);
                let (us, by_hand) = (
                    planned.launch_us(&ready, rule, &planned.cut(rule.tile, &classes)),
                    by_hand(&planned, site, rule, &classes),
                );
                assert!((us / by_hand - 1.0).abs() < 1e-12, "{us} {by_hand} {rule:?} {segments:?}");
            }
        }
        let seen = (equal, proportional, alone, sets);
        assert!(equal > 1000 && proportional > 1000 && alone > 30 && sets > 10, "{seen:?}");
    }
}
