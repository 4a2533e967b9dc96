//! What one launch takes.

use super::Planned;
use super::PlannedTile;
use super::classes::{Class, Classes};
use super::share::{Rule, cells};
use super::site::Site;
use super::tile::Tile;

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
    rows_most: u32,
}

impl Group {
    fn of(tile: Tile, class: &Class) -> Group {
        let (count, rows) = (f64::from(class.groups[tile as usize]), class.rows as f64);
        Group { pairs: class.pairs, count, rows, rows_mean: rows / count, rows_most: class.most.min(tile.rows()) }
    }

    fn cells(&self) -> u32 {
        cells(self.pairs, self.rows_most)
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
}

impl Planned {
    /// What a launch takes, microseconds.
    pub(super) fn launch_us(&self, site: &Site, rule: Rule, classes: &Classes) -> f64 {
        let cost = &self.tiles[rule.tile as usize];
        let Blocks { count, work_us, longest_us, two } = match rule.members {
            Some(_) => self.equal(site, rule, classes),
            None => self.proportional(site, rule.tile, classes),
        };
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
        let memory = self.us_per_megabyte * classes.granules as f64 * site.columns * 16e-6
            + self.us_per_megabyte_of_rows * classes.rows as f64 * site.moved * 2e-6;
        let blocks_us = blocks_us * slower;
        cost.us + (blocks_us * blocks_us + memory * memory).sqrt()
    }

    /// Blocks where every group has as many members: sums over projections need not be written out.
    fn equal(&self, site: &Site, rule: Rule, classes: &Classes) -> Blocks {
        let (cost, size) = (&self.tiles[rule.tile as usize], f64::from(rule.tile.rows()));
        let (members, two) = rule.members.map_or((1.0, false), |members| (f64::from(members.count), members.two));
        let of_group = members * f64::from(site.projections);
        let (of_rows, most) = (cost.us_per_piece_of_rows / size, site.pieces_most / members);
        let (mut work_us, mut longest_us) = (0.0, 0.0_f64);
        for class in classes.iter() {
            let group = Group::of(rule.tile, class);
            let (piece, block) = (cost.piece_us(group.pairs), cost.block_us(members > 1.0, group.cells()));
            work_us += group.count * (of_group * block + site.pieces * piece) + group.rows * (site.pieces * of_rows);
            longest_us = longest_us.max(block + most * (piece + of_rows * f64::from(group.rows_most)));
        }
        Blocks { count: f64::from(classes.groups[rule.tile as usize]) * of_group, work_us, longest_us, two }
    }

    /// Blocks where groups have members in proportion to their bytes.
    fn proportional(&self, site: &Site, tile: Tile, classes: &Classes) -> Blocks {
        let (cost, size) = (&self.tiles[tile as usize], f64::from(tile.rows()));
        let mut total = 0.0;
        for class in classes.iter() {
            let group = Group::of(tile, class);
            for run in site.runs() {
                let bytes = group.count * run.bytes(group.pairs, group.rows_mean);
                (0..run.times).for_each(|_| total += bytes);
            }
        }
        let blocks = f64::from(self.multiprocessors * 3 / 2);
        let (mut count, mut work_us, mut longest_us, mut exchange) = (0.0, 0.0, 0.0_f64, 0);
        for class in classes.iter() {
            let group = Group::of(tile, class);
            let (cells, piece) = (group.cells(), cost.piece_us(group.pairs));
            for run in site.runs() {
                let share = blocks * run.bytes(group.pairs, group.rows_mean) / total;
                let members = (share as u32).clamp(1, run.members_most.min(self.multiprocessors));
                let (block, wide) = (cost.block_us(members > 1, cells), f64::from(members));
                let pieces = run.pieces / wide;
                let us = |rows: f64| block + pieces * (piece + cost.us_per_piece_of_rows / size * rows);
                let mine = group.count * wide * f64::from(run.times);
                count += mine;
                work_us += mine * us(group.rows_mean);
                longest_us = longest_us.max(us(f64::from(group.rows_most)));
                exchange = exchange.max(tile.exchange(group.pairs, cells, members, false));
            }
        }
        Blocks { count, work_us, longest_us, two: self.two_fit(classes, tile, count as u32, exchange) }
    }

    /// Rows of a tile and blocks of a launch.
    pub(super) fn tile_and_blocks(&self, site: &Site, rule: Rule, classes: &Classes) -> (u32, f64) {
        let blocks = match rule.members {
            Some(_) => self.equal(site, rule, classes),
            None => self.proportional(site, rule.tile, classes),
        };
        (rule.tile.rows(), blocks.count)
    }
}
