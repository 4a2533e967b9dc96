//! Which block does what: decided once a step, from segments and ranks alone.
//!
//! A segment is cut into row tiles; a row tile and a projection make a *group*; the blocks of a group are its
//! *members*, each with a slice of the inputs and a slice of the outputs. A plan gives each group as many members as
//! its share of the bytes, such that all of them together fill the chip about once. Members exchange their sums, or,
//! where there are few inputs, each multiplies all of them.

use std::ops::Range;

use super::layout::{self, TILE_WIDTH};
use super::variant::{RowTile, Variant};
use crate::Error;

mod job;
mod memory;
mod mixed;
mod prompts;
mod rules;
mod site;
mod tile;
mod tuning;

pub use job::Job;
pub use site::{PROJECTIONS_MAX, Site};
pub use tuning::{Exchange, Follows, Release, Tuning};

use memory::{exchange_bytes, inbox_cells, ring, ring_alone, ring_slot, ring_unit};
use rules::{Group, choose_release, groups, is_brief, share_blocks, sums_alone};
use tile::choose_row_tile;

/// Consecutive rows of a batch that use one adapter. Rows in no segment are left alone and cost nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Rows of x and y, below [`ROWS_MAX`]; may be empty.
    pub rows: Range<u32>,
    /// Device address of the adapter's packed weights, 16-byte aligned.
    pub weights: u64,
    /// The adapter's rank, 1 to 256.
    pub rank: u32,
    /// What v·B is multiplied by: a finite number.
    pub scale: f32,
}

/// What the chip offers to a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chip {
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Shared memory that one block may have.
    pub shared_bytes_block_max: u32,
    /// Blocks in the largest cluster: 16 on Hopper, 1 where there are no clusters.
    pub cluster_max: u32,
}

impl Chip {
    /// Far beyond any chip; sums of these stay below 2^32.
    const MULTIPROCESSORS_MAX: u32 = 1 << 16;
    const SHARED_BYTES_MAX: u32 = 1 << 24;

    pub(crate) fn check(self) -> Result<(), Error> {
        for (what, found, most) in [
            ("multiprocessors", self.multiprocessors, Chip::MULTIPROCESSORS_MAX),
            ("bytes of shared memory a block", self.shared_bytes_block_max, Chip::SHARED_BYTES_MAX),
            ("blocks in the largest cluster", self.cluster_max, Chip::MULTIPROCESSORS_MAX),
        ] {
            if found == 0 || found > most {
                return Err(Error::shape("chip", format!("{found} {what} are not in 1..={most}")));
            }
        }
        Ok(())
    }
}

/// The work of one launch, block by block.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    site: Site,
    variant: Variant,
    jobs: Vec<Job>,
    shared_bytes: u32,
    depth: u32,
    release: Release,
    inbox_cells: u32,
    cluster: u32,
    rows_end: u32,
    rank_max: u32,
}

/// One past the largest row of a batch.
pub const ROWS_MAX: u32 = 1 << 24;

/// Bytes of an inbox cell: partial sums of 16 ranks × 8 rows in fp32.
pub const CELL_BYTES: usize = 512;

impl Plan {
    /// Plans one launch over these segments, which must be in row order and must not overlap. Where the tile that the rules
    /// choose needs more shared memory than the chip has, a smaller one serves, unless `tuning` asks for that tile.
    ///
    /// # Errors
    /// [`Error::Shape`] for a rank out of range, rows out of order or beyond [`ROWS_MAX`], an address that is null or
    /// misaligned, a scale that is no finite number, a chip that cannot be, or a rank that needs more shared memory than
    /// a block can have, with the row tile asked for or with any.
    pub fn new(site: &Site, segments: &[Segment], chip: Chip, tuning: Tuning) -> Result<Self, Error> {
        chip.check()?;
        check_segments(segments)?;
        let rank_max = rank_max(segments);
        let mut row_tile = match tuning.row_tile {
            Some(chosen) if rank_max > chosen.rank_max() => {
                let why = format!("{} rows a group hold ranks up to {}", chosen.rows(), chosen.rank_max());
                return Err(Error::shape(format!("rank {rank_max}"), why));
            }
            Some(chosen) => chosen,
            None => choose_row_tile(site, segments, rank_max, chip, tuning.follows),
        };
        let shared_bytes_max = chip.shared_bytes_block_max;
        loop {
            let plan = Plan::of_tiles(site, segments, row_tile, chip, tuning);
            if plan.shared_bytes <= shared_bytes_max {
                return Ok(plan);
            }
            // The rules were measured on chips with more shared memory than others have.
            row_tile = match row_tile.smaller() {
                Some(smaller) if tuning.row_tile.is_none() => smaller,
                smaller => {
                    let remedy =
                        if smaller.is_some() { "; use a smaller row tile" } else { ", too few for any row tile" };
                    let needed = plan.shared_bytes;
                    let why = format!(
                        "needs {needed} bytes of shared memory a block, the GPU has {shared_bytes_max}{remedy}"
                    );
                    return Err(Error::shape(format!("rank {rank_max} with {} rows a group", row_tile.rows()), why));
                }
            };
        }
    }

    /// The plan with groups of so many rows, whether or not the chip has the shared memory.
    fn of_tiles(site: &Site, segments: &[Segment], row_tile: RowTile, chip: Chip, tuning: Tuning) -> Self {
        let mut groups = groups(site, segments, row_tile);
        let cluster = share_blocks(&mut groups, segments, row_tile, chip, tuning);
        let brief = row_tile == RowTile::Rows8
            && tuning.row_tile.is_none()
            && is_brief(&groups, segments, |group| (group.members, group.sets));
        let row_tile = if brief { RowTile::Brief8 } else { row_tile };
        let release =
            tuning.release.unwrap_or_else(|| choose_release(&groups, segments, row_tile, cluster, chip, tuning));
        let short = tuning.short && !row_tile.is_staged();
        let mut plan = Plan {
            site: site.clone(),
            variant: Variant { element: site.element(), rows: row_tile, short },
            jobs: Vec::with_capacity(groups.iter().map(|group| group.blocks() as usize).sum()),
            shared_bytes: 0,
            depth: 0,
            release,
            inbox_cells: 0,
            cluster,
            rows_end: segments.last().map_or(0, |segment| segment.rows.end),
            rank_max: rank_max(segments),
        };
        for group in &groups {
            let rank = segments[group.segment].rank;
            let alone = sums_alone(group, rank, row_tile, cluster, tuning);
            plan.add(group, &segments[group.segment], alone);
        }
        let (blocks, exchange) = (plan.jobs.len() as u32, plan.shared_bytes);
        let used = segments.iter().filter(|segment| !segment.rows.is_empty());
        let slot = used.map(|segment| ring_slot(row_tile, segment.rank)).max().unwrap_or(0);
        plan.depth = match tuning.shared_bytes {
            Some(bytes) => bytes.saturating_sub(exchange) / ring_unit(row_tile),
            None => ring(row_tile, slot.max(1), exchange, blocks, chip)
                .unwrap_or_else(|| ring_alone(row_tile, exchange, chip)),
        };
        // Two slots at least: one that is read and one that is filled.
        plan.depth = plan.depth.max((2 * slot).div_ceil(ring_unit(row_tile)));
        plan.shared_bytes += plan.depth * ring_unit(row_tile);
        plan
    }

    /// The jobs of a group. `alone`: each member multiplies all inputs, and the group exchanges nothing.
    fn add(&mut self, group: &Group, segment: &Segment, alone: bool) {
        let shape = self.site.places()[group.projection].shape;
        let (k_tiles, c_tiles) = (shape.inputs.div_ceil(TILE_WIDTH), shape.outputs.div_ceil(TILE_WIDTH));
        let members = if alone { 1 } else { group.members };
        for block in 0..group.blocks() {
            let member = block % members;
            let k = slice(k_tiles, member, members);
            let c = slice(c_tiles, block, group.blocks());
            self.jobs.push(Job {
                weights: segment.weights,
                row: group.rows.start,
                rows: group.rows.end - group.rows.start,
                rank: segment.rank,
                projection: group.projection as u32,
                k_tile: k.start,
                k_tiles: k.end - k.start,
                column_tile: c.start,
                column_tiles: c.end - c.start,
                member,
                members,
                inbox: self.inbox_cells,
                scale: segment.scale,
            });
        }
        if members > 1 && self.cluster == 1 {
            self.inbox_cells += inbox_cells(self.variant.rows, group.cells, members);
        }
        let exchange = exchange_bytes(self.variant.rows, segment.rank, group.cells, members, self.cluster > 1);
        self.shared_bytes = self.shared_bytes.max(exchange);
    }

    /// The site it was made for; it serves every site with the same shapes, as the same projections of all layers.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The compiled form that runs it.
    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// One job a block, in block order.
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// Dynamic shared memory a block.
    pub fn shared_bytes(&self) -> u32 {
        self.shared_bytes
    }

    /// Depth of a warp's ring, in units of two tiles.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    /// When a launch lets the next one start its blocks.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Inbox cells ([`CELL_BYTES`] each) that the members exchange their partial sums through.
    pub fn inbox_cells(&self) -> u32 {
        self.inbox_cells
    }

    /// Blocks in a cluster: the members of every group, or 1 where they exchange through global memory.
    pub fn cluster(&self) -> u32 {
        self.cluster
    }

    /// One past the last row that it touches.
    pub fn rows_end(&self) -> u32 {
        self.rows_end
    }

    /// The largest rank in it.
    pub fn rank_max(&self) -> u32 {
        self.rank_max
    }
}

/// The largest rank that a row has.
fn rank_max(segments: &[Segment]) -> u32 {
    segments.iter().filter(|segment| !segment.rows.is_empty()).map(|segment| segment.rank).max().unwrap_or(0)
}

fn check_segments(segments: &[Segment]) -> Result<(), Error> {
    let mut end = 0;
    for (index, segment) in segments.iter().enumerate() {
        let Range { start, end: stop } = segment.rows;
        if start > stop || start < end {
            let why = format!("rows {start}..{stop} after row {end}: segments must be in order and must not overlap");
            return Err(Error::shape(format!("segment {index}"), why));
        }
        if stop > ROWS_MAX {
            let why = format!("rows {start}..{stop}: a batch has {ROWS_MAX} at most");
            return Err(Error::shape(format!("segment {index}"), why));
        }
        end = stop;
        if start == stop {
            continue;
        }
        layout::check_rank(segment.rank)?;
        layout::check_scale(segment.scale)?;
        if segment.weights == 0 || segment.weights % 16 != 0 {
            let why = format!("address {:#x} is null or not a multiple of 16", segment.weights);
            return Err(Error::shape(format!("weights of segment {index}"), why));
        }
    }
    Ok(())
}

/// The `member`-th of `members` nearly equal parts of `tiles`.
fn slice(tiles: u32, member: u32, members: u32) -> Range<u32> {
    let cut = |n: u32| (u64::from(tiles) * u64::from(n) / u64::from(members)) as u32;
    cut(member)..cut(member + 1)
}

#[cfg(test)]
mod tests;
