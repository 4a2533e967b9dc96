//! Adapters as the plan of our kernels shares them out: which tiles of rows, how many blocks a group, how many of them at once.
//!
//! The rules are those of `aril-kernels` (`lora/plan/rules.rs`), over classes of equal ranks instead of single groups; a test of `aril-calibrate`
//! compares both.

mod classes;
mod share;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::curve::not_negative;
use crate::batch::Segment;
pub(crate) use classes::Classes;

/// What the launches of a layer cost: of each site the start, and the longer of what blocks take and what the memory takes, both hiding part of
/// the other (the root of the sum of squares).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// Multiprocessors of the chip.
    pub multiprocessors: u32,
    /// Shared memory that a block may have.
    pub shared_bytes: u32,
    /// Blocks of the largest cluster; 1: there are none.
    pub cluster_max: u32,
    /// Do the launches run beside products, with which they share the multiprocessors? Members of few groups then exchange as those of many.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
    /// The launches of a layer.
    pub sites: Vec<PlannedSite>,
    /// What tiles of 8, 16 and 32 rows cost: three.
    pub tiles: Vec<PlannedTile>,
    /// 10⁶ bytes of weights, each adapter's once.
    pub us_per_megabyte: f64,
    /// 10⁶ bytes of rows read and written.
    pub us_per_megabyte_of_rows: f64,
}

/// The projections that one launch serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlannedSite {
    /// Width of what they read.
    pub inputs: u32,
    /// Width of what each writes.
    pub outputs: Vec<u32>,
    /// How much longer the launch takes here than the figures of all launches say: what it follows or runs beside is another product each.
    #[serde(default = "super::super::one", skip_serializing_if = "super::super::is_one")]
    pub scale: f64,
    /// Where blocks must wait for the product beside them, microseconds: more of them than multiprocessors, or clusters that fill whole groups
    /// of multiprocessors.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_waiting: f64,
}

/// What a launch with tiles of one size costs, microseconds. 64 columns of inputs and outputs are a piece; sixteen ranks are a pair of granules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlannedTile {
    /// A launch.
    pub us: f64,
    /// A block.
    pub us_per_block: f64,
    /// Each of its pieces, 64 of them.
    pub us_per_piece: f64,
    /// The same, by the share of the tile that has rows.
    pub us_per_piece_of_rows: f64,
    /// The same, by pairs of granules, and by their square.
    pub us_per_piece_pair: f64,
    /// By the square of the pairs.
    pub us_per_piece_pair_squared: f64,
    /// A block that shares a group with others.
    pub us_shared: f64,
    /// Each cell of sums that they exchange.
    pub us_per_cell: f64,
    /// How much longer blocks take that share a multiprocessor, where all do.
    pub crowded: f64,
    /// How much longer they take than otherwise where only one fits a multiprocessor: a factor.
    pub lonely: f64,
    /// How much of what the last round lacks to be full is lost, 0 to 1.
    pub rounding: f64,
    /// How much of what the longest block takes beyond the mean is seen where there are several rounds, 0 to 1.
    pub uneven: f64,
}

/// The share of a chip's multiprocessors that clusters of the largest size find room on beside a product.
const CLUSTERS_ROOM: f64 = 0.9;

impl Planned {
    /// What the launches of one layer take, microseconds.
    pub fn us(&self, segments: &[Segment]) -> f64 {
        self.us_of(&Classes::of(segments))
    }

    /// The same of segments that are sorted by their ranks.
    pub(crate) fn us_of(&self, classes: &Classes) -> f64 {
        (0..self.sites.len()).map(|site| self.launch_us(site, classes)).sum()
    }

    /// What each launch of one layer takes, microseconds.
    pub fn sites_us(&self, segments: &[Segment]) -> Vec<f64> {
        let classes = Classes::of(segments);
        (0..self.sites.len()).map(|site| self.launch_us(site, &classes)).collect()
    }

    /// Rows of a tile and blocks of the launch of a site, for whoever compares plans.
    pub fn shared(&self, site: usize, segments: &[Segment]) -> (u32, f64) {
        let classes = Classes::of(segments);
        let share = self.share(&self.sites[site], &classes);
        (share.tile.rows(), share.parts(&self.sites[site], &classes).map(|part| part.blocks).sum())
    }

    fn launch_us(&self, site: usize, classes: &Classes) -> f64 {
        let site = &self.sites[site];
        if classes.is_empty() {
            return 0.0;
        }
        let share = self.share(site, classes);
        let cost = &self.tiles[share.tile as usize];
        let (mut blocks, mut work, mut longest) = (0.0, 0.0, 0.0_f64);
        for part in share.parts(site, classes) {
            let block = |rows: f64| {
                let piece = cost.us_per_piece
                    + cost.us_per_piece_of_rows * rows
                    + part.pairs * (cost.us_per_piece_pair + cost.us_per_piece_pair_squared * part.pairs);
                let exchange = if part.members > 1.0 { cost.us_shared + cost.us_per_cell * part.cells } else { 0.0 };
                cost.us_per_block + part.pieces / part.members * piece + exchange
            };
            blocks += part.blocks;
            work += part.blocks * block(part.rows_mean);
            longest = longest.max(block(part.rows_most));
        }
        let chip = f64::from(self.multiprocessors);
        let rounds = blocks / (chip * if share.two { 2.0 } else { 1.0 });
        let mean = work / blocks;
        let blocks_us = if rounds <= 1.0 {
            longest
        } else {
            let lacking = cost.rounding * (rounds.ceil() - rounds);
            (rounds + lacking) * mean + cost.uneven * (longest - mean).max(0.0)
        };
        let crowded = if share.two { ((blocks - chip) / chip).clamp(0.0, 1.0) } else { 0.0 };
        let slower = (1.0 + cost.crowded * crowded) * if share.two { 1.0 } else { cost.lonely };
        let columns: u32 = site.outputs.iter().map(|outputs| site.inputs + outputs).sum();
        let moved: u32 = site.outputs.iter().map(|outputs| site.inputs + 2 * outputs).sum();
        // A granule is 8 ranks of 2 bytes; so is a row's number.
        let memory = self.us_per_megabyte * classes.granules as f64 * f64::from(columns) * 16e-6
            + self.us_per_megabyte_of_rows * classes.rows as f64 * f64::from(moved) * 2e-6;
        let waits = blocks > chip || (share.fills_clusters() && blocks > chip * CLUSTERS_ROOM);
        let waiting = if waits { site.us_waiting } else { 0.0 };
        cost.us + site.scale * (blocks_us * slower).hypot(memory) + waiting
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if self.tiles.len() != 3 {
            return Err(format!("{} sizes of tiles: three are needed", self.tiles.len()));
        }
        if self.multiprocessors == 0 || self.cluster_max == 0 || self.sites.is_empty() {
            return Err("no multiprocessors, no blocks of a cluster or no sites".to_owned());
        }
        for site in &self.sites {
            if site.inputs == 0
                || site.outputs.is_empty()
                || site.outputs.len() > share::PROJECTIONS
                || site.outputs.contains(&0)
            {
                return Err("a site without inputs or outputs, or with too many".to_owned());
            }
            not_negative("scale", site.scale)?;
            not_negative("us_waiting", site.us_waiting)?;
        }
        not_negative("us_per_megabyte", self.us_per_megabyte)?;
        not_negative("us_per_megabyte_of_rows", self.us_per_megabyte_of_rows)?;
        self.tiles.iter().flat_map(PlannedTile::values).try_for_each(|value| not_negative("tiles", value))
    }
}

impl PlannedTile {
    /// Its figures, in order.
    pub fn values(&self) -> [f64; 12] {
        [
            self.us,
            self.us_per_block,
            self.us_per_piece,
            self.us_per_piece_of_rows,
            self.us_per_piece_pair,
            self.us_per_piece_pair_squared,
            self.us_shared,
            self.us_per_cell,
            self.crowded,
            self.lonely,
            self.rounding,
            self.uneven,
        ]
    }

    /// Of such figures.
    pub fn of_values(values: [f64; 12]) -> PlannedTile {
        let [
            us,
            us_per_block,
            us_per_piece,
            us_per_piece_of_rows,
            us_per_piece_pair,
            us_per_piece_pair_squared,
            us_shared,
            us_per_cell,
            crowded,
            lonely,
            rounding,
            uneven,
        ] = values;
        PlannedTile {
            us,
            us_per_block,
            us_per_piece,
            us_per_piece_of_rows,
            us_per_piece_pair,
            us_per_piece_pair_squared,
            us_shared,
            us_per_cell,
            crowded,
            lonely,
            rounding: rounding.min(1.0),
            uneven: uneven.min(1.0),
        }
    }
}
