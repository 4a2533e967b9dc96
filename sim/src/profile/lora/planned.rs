//! Adapters as the plan of our kernels shares them out: which tiles of rows, how many blocks a group, how many of them at once.
//!
//! The rules are those of `aril-kernels` (`lora/plan/rules.rs`), over classes of equal ranks instead of single groups; a test of `aril-calibrate`
//! compares both.

mod abreast;
mod alike;
mod classes;
mod four;
mod launch;
mod mixed;
mod places;
mod prompts;
mod share;
mod site;
mod tile;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::curve::not_negative;
use crate::batch::Segment;
pub(crate) use abreast::{Abreast, Ready};
pub(crate) use classes::Classes;
use launch::Cut;
pub(crate) use share::Rule;
pub(crate) use site::Site;
pub(crate) use tile::Tile;

/// What the launches of a layer cost: of each site the start, and the longer of what blocks take and what the memory takes, both hiding part of
/// the other (the root of the sum of squares); in [rounds](Planned::rounds), where blocks fill the chip again and again, of each of them.
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
    /// Do the members of groups of few inputs that widen multiply all of them, each for itself, where they would exchange sums through global memory?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// Do few groups have as many members as find room rather than a power of two, and groups of one row clusters that fill the chip more than once?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub packs: bool,
    /// Do batches of prompts alone have rules of their own?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub prompts: bool,
    /// Have groups whose ranks differ members by how long they take, and prompts of large ranks beside other segments tiles of 32 rows?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mixed: bool,
    /// Do blocks and memory hide part of each other round by round, the last of which has fewer blocks, and does what the cache serves hide
    /// what it does not? Otherwise it is all blocks beside all of the memory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rounds: bool,
    /// Is it known how the hardware deals blocks out? In rounds clusters lie within a part of the chip then, the shortest blocks are the last, and
    /// what the cache serves adds to what the memory does; otherwise cache and memory hide part of each other, too. Where it is not known, blocks are
    /// dealt out one by one as if all were as long; in rounds cache or memory hides the other, otherwise they add.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dealt: bool,
    /// The launches of a layer.
    pub sites: Vec<PlannedSite>,
    /// What tiles of 8, 16 and 32 rows cost; and, where the kernels have them, those of 16 rows in blocks of twice as many warps.
    pub tiles: Vec<PlannedTile>,
    /// 10⁶ bytes of weights, each adapter's once.
    pub us_per_megabyte: f64,
    /// 10⁶ bytes of weights, as often as groups read them: from the cache.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_per_megabyte_again: f64,
    /// 10⁶ bytes of rows read and written.
    pub us_per_megabyte_of_rows: f64,
    /// So many 10⁶ bytes of weights and rows, each counted once, stay in the cache: what writes and reads rows just before and after
    /// finds them there. In rounds: from so many on fewer and fewer do.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub cache_megabytes: f64,
    /// In rounds: so many 10⁶ bytes more, and nothing is found in the cache any longer.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub cache_megabytes_more: f64,
    /// 10⁶ bytes beyond those; in rounds 10⁶ bytes of rows, by the share that is not found.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_per_megabyte_beyond: f64,
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
    /// The same again for each kind of tile, in order; none: 1 for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<f64>,
    /// Where blocks must wait for the product beside them, microseconds: nearly as many of them as multiprocessors, or more.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_waiting: f64,
    /// What the memory takes longer then, since less of it hides beside the product: a share.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub waiting: f64,
    /// What the product beside it hides of the blocks' way, microseconds.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_hidden: f64,
    /// The same beside the products of more rows, which are other kernels; by their rows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_rows: Vec<PlannedBeside>,
}

/// How a launch fares beside a product of many rows: in place of what its [`PlannedSite`] says.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlannedBeside {
    /// From so many rows on.
    pub rows: u32,
    /// As [`PlannedSite::scale`].
    #[serde(default = "super::super::one", skip_serializing_if = "super::super::is_one")]
    pub scale: f64,
    /// As [`PlannedSite::us_waiting`].
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_waiting: f64,
    /// As [`PlannedSite::waiting`].
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub waiting: f64,
    /// As [`PlannedSite::us_hidden`].
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_hidden: f64,
}

impl PlannedSite {
    /// How its launch fares in a step of so many rows.
    pub(crate) fn beside(&self, rows: u32) -> PlannedBeside {
        self.more_rows.iter().rev().find(|beside| beside.rows <= rows).copied().unwrap_or_else(|| self.own())
    }

    /// Its own figures.
    fn own(&self) -> PlannedBeside {
        let PlannedSite { scale, us_waiting, waiting, us_hidden, .. } = *self;
        PlannedBeside { rows: 0, scale, us_waiting, waiting, us_hidden }
    }
}

impl PlannedBeside {
    fn check(&self) -> Result<(), String> {
        not_negative("scale", self.scale)?;
        not_negative("us_waiting", self.us_waiting)?;
        not_negative("waiting", self.waiting)?;
        not_negative("us_hidden", self.us_hidden)
    }
}

/// How a launch is shared out, for whoever compares plans.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedOut {
    /// Rows of a tile.
    pub rows: u32,
    /// Do its blocks have twice as many warps?
    pub wide: bool,
    /// Blocks.
    pub blocks: f64,
    /// Do any groups exchange nothing though they have several blocks?
    pub alone: bool,
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
    /// Each of those that share the group.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub us_per_member: f64,
    /// The first two where they exchange sums through global memory, for want of a cluster; where absent, the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apart: Option<PlannedExchange>,
    /// How much longer blocks take that share a multiprocessor, where all do. In rounds: where any do.
    pub crowded: f64,
    /// In rounds: how much longer the memory takes where none do though two would fit, so that less is asked for at a time.
    #[serde(default, skip_serializing_if = "super::super::is_zero")]
    pub sparse: f64,
    /// How much longer they take than otherwise where only one fits a multiprocessor: a factor.
    pub lonely: f64,
    /// How much of what the last round lacks to be full is lost, 0 to 1.
    pub rounding: f64,
    /// How much of what the longest block takes beyond the mean is seen where there are several rounds, 0 to 1.
    pub uneven: f64,
}

/// What exchanging sums with other blocks of a group costs, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlannedExchange {
    /// A block.
    pub us: f64,
    /// Each cell of sums.
    pub us_per_cell: f64,
}

/// The launches of a layer are at most so many.
pub(crate) const SITES: usize = 4;

/// Kinds of tiles.
pub(crate) const TILES: usize = Tile::ALL.len();

/// The launches of a layer, made ready.
pub(crate) type Sites = [Option<Site>; SITES];

/// What the plan decides about each launch of a layer.
pub(crate) type Rules = [Option<Rule>; SITES];

impl Planned {
    /// What the launches of one layer take in a step of so many rows, microseconds.
    pub fn us(&self, segments: &[Segment], rows: u32) -> f64 {
        self.launches_us(segments, rows).into_iter().sum()
    }

    /// What each launch of one layer takes in a step of so many rows, microseconds.
    pub fn sites_us(&self, segments: &[Segment], rows: u32) -> Vec<f64> {
        self.launches_us(segments, rows)[..self.sites.len()].to_vec()
    }

    fn launches_us(&self, segments: &[Segment], rows: u32) -> [f64; SITES] {
        let (sites, classes) = (self.compiled(rows), Classes::of(segments));
        self.us_by(&sites, &self.rules(&sites, &classes), &classes)
    }

    /// How the launch of a site is shared out.
    pub fn shared_out(&self, site: usize, segments: &[Segment]) -> SharedOut {
        let (site, classes) = (Site::of(&self.sites[site], 0), Classes::of(segments));
        let rule = self.rule(&site, &classes, self.tile(&site, &classes));
        self.shared_out_by(&site, rule, &classes)
    }

    /// The numbers of rows from which on launches fare otherwise, the first 0.
    pub(crate) fn rows_apart(&self) -> Vec<u32> {
        let mut rows: Vec<u32> = self.sites.iter().flat_map(|site| &site.more_rows).map(|beside| beside.rows).collect();
        rows.push(0);
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// Its launches in a step of so many rows, made ready.
    pub(crate) fn compiled(&self, rows: u32) -> Sites {
        std::array::from_fn(|index| self.sites.get(index).map(|site| Site::of(site, rows)))
    }

    /// The same side by side.
    pub(crate) fn abreast(&self, sites: &Sites) -> Abreast {
        Abreast::of(self, sites)
    }

    /// What the plan decides about these segments.
    pub(crate) fn rules(&self, sites: &Sites, classes: &Classes) -> Rules {
        if classes.is_empty() {
            return [None; SITES];
        }
        sites.each_ref().map(|site| site.as_ref().map(|site| self.rule(site, classes, self.tile(site, classes))))
    }

    /// What each launch of one layer takes, by what the plan decided about it; microseconds.
    pub(crate) fn us_by(&self, sites: &Sites, rules: &Rules, classes: &Classes) -> [f64; SITES] {
        let mut last: Option<Cut<'_>> = None;
        std::array::from_fn(|index| {
            let (Some(site), Some(rule)) = (&sites[index], rules[index]) else { return 0.0 };
            // Mostly all launches have tiles of one size.
            if last.as_ref().is_none_or(|cut| cut.tile != rule.tile) {
                last = Some(self.cut(rule.tile, classes));
            }
            last.as_ref().map_or(0.0, |cut| self.launch_us(site, rule, cut))
        })
    }

    pub(crate) fn check(&self) -> Result<(), String> {
        if !(Tile::SIZES.len()..=Tile::ALL.len()).contains(&self.tiles.len()) {
            return Err(format!("{} kinds of tiles: three or four are needed", self.tiles.len()));
        }
        if self.multiprocessors == 0 || self.cluster_max == 0 || self.sites.is_empty() {
            return Err("no multiprocessors, no blocks of a cluster or no sites".to_owned());
        }
        if self.sites.len() > SITES {
            return Err(format!("{} sites: a layer has {SITES} launches at most", self.sites.len()));
        }
        for site in &self.sites {
            if site.inputs == 0
                || site.outputs.is_empty()
                || site.outputs.len() > site::PROJECTIONS
                || site.outputs.contains(&0)
            {
                return Err("a site without inputs or outputs, or with too many".to_owned());
            }
            site.own().check()?;
            if site.scales.len() > TILES {
                return Err(format!("{} scales of a site: there are {TILES} kinds of tiles", site.scales.len()));
            }
            site.scales.iter().try_for_each(|scale| not_negative("scales", *scale))?;
            if !site.more_rows.is_sorted_by(|one, next| one.rows < next.rows) {
                return Err("more_rows of a site: rows must rise".to_owned());
            }
            for beside in &site.more_rows {
                beside.check().map_err(|problem| format!("more_rows: {problem}"))?;
            }
        }
        not_negative("us_per_megabyte", self.us_per_megabyte)?;
        not_negative("us_per_megabyte_of_rows", self.us_per_megabyte_of_rows)?;
        not_negative("us_per_megabyte_again", self.us_per_megabyte_again)?;
        not_negative("cache_megabytes", self.cache_megabytes)?;
        not_negative("us_per_megabyte_beyond", self.us_per_megabyte_beyond)?;
        not_negative("cache_megabytes_more", self.cache_megabytes_more)?;
        self.tiles.iter().flat_map(PlannedTile::values).try_for_each(|value| not_negative("tiles", value))
    }
}

impl PlannedTile {
    /// So many figures.
    pub const FIGURES: usize = 16;

    /// What members pay for exchanging their sums within a cluster, or through global memory.
    pub(crate) fn exchange(&self, cluster: bool) -> PlannedExchange {
        let near = PlannedExchange { us: self.us_shared, us_per_cell: self.us_per_cell };
        if cluster { near } else { self.apart.unwrap_or(near) }
    }

    /// Its figures, in order.
    pub fn values(&self) -> [f64; PlannedTile::FIGURES] {
        let apart = self.exchange(false);
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
            apart.us,
            apart.us_per_cell,
            self.us_per_member,
            self.sparse,
        ]
    }

    /// Of such figures.
    pub fn of_values(values: [f64; PlannedTile::FIGURES]) -> PlannedTile {
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
            us_apart,
            us_per_cell_apart,
            us_per_member,
            sparse,
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
            us_per_member,
            apart: Some(PlannedExchange { us: us_apart, us_per_cell: us_per_cell_apart }),
            crowded,
            // More: and more blocks would take less.
            sparse: sparse.min(0.5),
            lonely,
            rounding: rounding.min(1.0),
            uneven: uneven.min(1.0),
        }
    }
}
