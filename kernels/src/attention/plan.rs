//! Which block does what in the attention of a step: decided once, from lengths alone.
//!
//! **Decode.** A *unit* is one KV block of one group of queries. All units of all sequences stand in one line, by sequence, then
//! group, then block, and every worker (a CUDA block) gets the same number of consecutive ones. So the chip is full
//! whether there are many short sequences or one long one. Where a sequence's group is cut, its parts are added up by the
//! worker that finishes last, in the order of the line.
//!
//! **Prefill.** A *tile* is up to 64 or 128 new tokens of one sequence; a CUDA block serves a tile and a head. Tiles with the most
//! keys come first, so that the work ends evenly.

use super::layout::{AttentionShape, blocks_of};
use super::operands::Extent;
use super::variant::{QUERIES_MAX, Variant, depths};
use crate::Error;
use crate::lora::plan::Chip;

/// One sequence with one new token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeSequence {
    /// Its row in q and in the result.
    pub row: u32,
    /// Its tokens, the new one included; at least one.
    pub context: u32,
    /// Index of its first KV block in the block table.
    pub table: u32,
}

/// One sequence with any number of new tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefillSequence {
    /// The first of its consecutive rows in q and in the result.
    pub row: u32,
    /// New tokens; none is allowed.
    pub tokens: u32,
    /// Tokens before them.
    pub prefix: u32,
    /// Index of its first KV block in the block table.
    pub table: u32,
}

/// Choices of a decode plan, for measuring what they are worth. `None` leaves a choice to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeTuning {
    /// Workers at most.
    pub workers: Option<u32>,
    /// KV blocks in a warp's ring.
    pub depth: Option<u32>,
}

/// Fewest units of a worker: one for each of its warps.
const UNITS_MIN: u32 = 4;

/// What one CUDA block of a decode launch does; the same fields as `Worker` in `decode_attention.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Worker {
    /// Sequence of its first unit.
    pub sequence: u32,
    /// Group of its first unit: KV head, or part of one where more than 8 query heads share it.
    pub group: u32,
    /// KV block of its first unit, counted within the sequence.
    pub block: u32,
    /// Units; zero for a worker with nothing to do.
    pub units: u32,
    /// Units of every worker but the last.
    pub quota: u32,
}

/// The work of one decode launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodePlan {
    pub(crate) shape: AttentionShape,
    pub(crate) depth: u32,
    pub(crate) workers: Vec<Worker>,
    /// Sequences, each with its first unit in the line.
    pub(crate) sequences: Vec<(DecodeSequence, u32)>,
    pub(crate) extent: Extent,
}

impl DecodePlan {
    /// Plans one launch. `table`: KV blocks of all sequences, as the launch will be given them.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that the kernels do not serve, a sequence without tokens, or one whose KV blocks are
    /// not in the table.
    pub fn new(
        shape: AttentionShape,
        sequences: &[DecodeSequence],
        table: &[u32],
        chip: Chip,
        tuning: DecodeTuning,
    ) -> Result<Self, Error> {
        shape.check()?;
        let (depth, resident) = ring(&shape, chip, tuning)?;
        let groups = groups(&shape);
        let mut extent = Extent::default();
        let mut placed = Vec::with_capacity(sequences.len());
        let mut units = 0_u64;
        for (index, sequence) in sequences.iter().enumerate() {
            if sequence.context == 0 {
                return Err(Error::shape(format!("sequence {index}"), "has no token to attend to"));
            }
            extent.include(index, sequence.row, 1, u64::from(sequence.context), sequence.table, table)?;
            placed.push((*sequence, units as u32));
            units += u64::from(blocks_of(sequence.context)) * u64::from(groups);
            if units > u64::from(u32::MAX) {
                return Err(Error::shape("decode batch", "has more KV blocks times heads than can be counted"));
            }
        }
        let most = tuning.workers.unwrap_or(chip.multiprocessors * resident).max(1);
        let quota = (units as u32).div_ceil(most).max(UNITS_MIN);
        let workers = cut(&placed, units as u32, quota, groups);
        Ok(DecodePlan { shape, depth, workers, sequences: placed, extent })
    }

    /// Workers of the largest plan that this chip gets without tuning: the capacity that fits every step.
    ///
    /// # Errors
    /// As [`DecodePlan::new`].
    pub fn workers_max(shape: &AttentionShape, chip: Chip) -> Result<u32, Error> {
        shape.check()?;
        Ok(chip.multiprocessors * ring(shape, chip, DecodeTuning::default())?.1)
    }

    /// The heads and the number format.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// One worker a CUDA block, in block order.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// The compiled form that runs it.
    pub fn variant(&self) -> Variant {
        Variant::Decode { element: self.shape.element, head_dim: self.shape.head_dim, depth: self.depth }
    }

    /// The bytes that the kernel reads of workers; `count` of them, the rest with nothing to do.
    pub fn worker_bytes(&self, count: usize) -> Vec<u8> {
        let blank = std::iter::repeat(Worker::default());
        let words = self.workers.iter().copied().chain(blank).take(count);
        words
            .flat_map(|w| [w.sequence, w.group, w.block, w.units, w.quota, 0, 0, 0])
            .flat_map(u32::to_le_bytes)
            .collect()
    }

    /// The bytes that the kernel reads of sequences.
    pub fn sequence_bytes(&self) -> Vec<u8> {
        let words = self
            .sequences
            .iter()
            .flat_map(|&(sequence, first_unit)| [sequence.row, sequence.context, sequence.table, first_unit]);
        words.flat_map(u32::to_le_bytes).collect()
    }

    /// The fewest bytes that the launch moves: keys, values, q and the result, each once.
    pub fn bytes(&self) -> u64 {
        let shape = &self.shape;
        let tokens: u64 = self.sequences.iter().map(|(sequence, _)| u64::from(sequence.context)).sum();
        let kv = tokens * 2 * u64::from(shape.kv_heads) * u64::from(shape.head_dim);
        2 * (kv + 2 * self.sequences.len() as u64 * u64::from(shape.row_elements()))
    }
}

/// Groups of queries a sequence.
pub(crate) fn groups(shape: &AttentionShape) -> u32 {
    shape.kv_heads * shape.queries().div_ceil(QUERIES_MAX)
}

/// The deepest ring with which two blocks share a multiprocessor, or else the deepest that one can have; and how many share.
fn ring(shape: &AttentionShape, chip: Chip, tuning: DecodeTuning) -> Result<(u32, u32), Error> {
    let bytes = |depth| {
        let variant = Variant::Decode { element: shape.element, head_dim: shape.head_dim, depth };
        variant.shared_bytes(shape.queries())
    };
    // A block occupies 1 KiB beyond what it asks for, and a multiprocessor has that much more than a block may have.
    let fit = |depth| (chip.shared_bytes_block_max + 1024) / (bytes(depth) + 1024);
    let allowed: Vec<u32> =
        depths(shape.head_dim).into_iter().filter(|&depth| tuning.depth.is_none_or(|wanted| wanted == depth)).collect();
    let two = allowed.iter().find(|&&depth| fit(depth) >= 2).map(|&depth| (depth, 2));
    let one = allowed.iter().find(|&&depth| fit(depth) >= 1).map(|&depth| (depth, 1));
    two.or(one).ok_or_else(|| {
        let why = format!("needs more shared memory a block than the {} bytes there are", chip.shared_bytes_block_max);
        Error::shape("decode attention", why)
    })
}

/// Cuts the line of units into workers of `quota`.
fn cut(sequences: &[(DecodeSequence, u32)], units: u32, quota: u32, groups: u32) -> Vec<Worker> {
    let mut index = 0;
    (0..units.div_ceil(quota))
        .map(|worker| {
            let first = worker * quota;
            while index + 1 < sequences.len() && sequences[index + 1].1 <= first {
                index += 1;
            }
            let (sequence, first_unit) = sequences[index];
            let blocks = blocks_of(sequence.context);
            let inside = first - first_unit;
            debug_assert!(inside < blocks * groups);
            Worker {
                sequence: index as u32,
                group: inside / blocks,
                block: inside % blocks,
                units: quota.min(units - first),
                quota,
            }
        })
        .collect()
}

/// Up to 64 or 128 new tokens of one sequence; the same fields as `Tile` in `prefill_attention.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tile {
    /// First row in q and in the result.
    pub row: u32,
    /// Rows; zero for a tile with nothing to do.
    pub rows: u32,
    /// Position of the first row in its sequence.
    pub position: u32,
    /// Index of the sequence's first KV block in the block table.
    pub table: u32,
}

/// Choices of a prefill plan, for measuring what they are worth. `None` leaves a choice to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefillTuning {
    /// Fragments of 16 rows a warp: 1 for tiles of 64 rows, 2 for 128.
    pub fragments: Option<u32>,
}

/// The work of one prefill launch.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillPlan {
    pub(crate) shape: AttentionShape,
    pub(crate) fragments: u32,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) extent: Extent,
    flops: f64,
}

impl PrefillPlan {
    /// Plans one launch. `table`: KV blocks of all sequences, as the launch will be given them.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that the kernels do not serve, or a sequence whose KV blocks are not in the table.
    pub fn new(
        shape: AttentionShape,
        sequences: &[PrefillSequence],
        table: &[u32],
        chip: Chip,
        tuning: PrefillTuning,
    ) -> Result<Self, Error> {
        shape.check()?;
        let mut extent = Extent::default();
        for (index, sequence) in sequences.iter().enumerate() {
            let context = u64::from(sequence.prefix) + u64::from(sequence.tokens);
            if sequence.tokens > 0 {
                extent.include(index, sequence.row, sequence.tokens, context, sequence.table, table)?;
            }
        }
        let fragments = match tuning.fragments {
            Some(fragments @ 1..=2) => fragments,
            Some(other) => return Err(Error::shape("prefill tuning", format!("{other} fragments a warp; 1 or 2"))),
            None => choose_fragments(&shape, sequences, chip),
        };
        let mut tiles: Vec<Tile> = sequences.iter().flat_map(|sequence| tiles(*sequence, 64 * fragments)).collect();
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile.position + tile.rows));
        let flops = sequences.iter().map(|sequence| flops(&shape, *sequence)).sum();
        Ok(PrefillPlan { shape, fragments, tiles, extent, flops })
    }

    /// The heads and the number format.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// Tiles; a launch has one CUDA block for each of them and each head.
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// The compiled form that runs it.
    pub fn variant(&self) -> Variant {
        let AttentionShape { element, head_dim, .. } = self.shape;
        Variant::Prefill { element, head_dim, fragments: self.fragments }
    }

    /// Multiplications and additions of the two products, keys after a row's own not counted.
    pub fn flops(&self) -> f64 {
        self.flops
    }

    /// The bytes that the kernel reads of tiles; `count` of them, the rest with nothing to do.
    pub fn tile_bytes(&self, count: usize) -> Vec<u8> {
        let tiles = self.tiles.iter().copied().chain(std::iter::repeat(Tile::default())).take(count);
        tiles.flat_map(|tile| [tile.row, tile.rows, tile.position, tile.table]).flat_map(u32::to_le_bytes).collect()
    }
}

fn tiles(sequence: PrefillSequence, rows: u32) -> impl Iterator<Item = Tile> {
    (0..sequence.tokens).step_by(rows as usize).map(move |first| Tile {
        row: sequence.row + first,
        rows: rows.min(sequence.tokens - first),
        position: sequence.prefix + first,
        table: sequence.table,
    })
}

/// Tall tiles read keys half as often; short ones waste fewer rows and fill the chip with less work.
fn choose_fragments(shape: &AttentionShape, sequences: &[PrefillSequence], chip: Chip) -> u32 {
    let tall: u32 = sequences.iter().map(|sequence| sequence.tokens.div_ceil(128)).sum();
    let short: u32 = sequences.iter().map(|sequence| sequence.tokens.div_ceil(64)).sum();
    let few_blocks = tall * shape.heads < 2 * chip.multiprocessors;
    if short == tall || few_blocks { 1 } else { 2 }
}

fn flops(shape: &AttentionShape, sequence: PrefillSequence) -> f64 {
    let (tokens, prefix) = (f64::from(sequence.tokens), f64::from(sequence.prefix));
    let pairs = tokens * prefix + tokens * (tokens + 1.0) / 2.0;
    4.0 * pairs * f64::from(shape.heads) * f64::from(shape.head_dim)
}

impl Extent {
    /// Includes a sequence's rows and KV blocks; refuses one whose blocks are not in the table.
    fn include(
        &mut self,
        index: usize,
        row: u32,
        rows: u32,
        context: u64,
        first: u32,
        table: &[u32],
    ) -> Result<(), Error> {
        let what = || format!("sequence {index}");
        let fits = |end: u64| u32::try_from(end).map_err(|_| Error::shape(what(), "is longer than can be counted"));
        let context = fits(context)?;
        let rows_end = fits(u64::from(row) + u64::from(rows))?;
        let entries_end = fits(u64::from(first) + u64::from(blocks_of(context)))?;
        let Some(blocks) = table.get(first as usize..entries_end as usize) else {
            let why = format!(
                "its {context} tokens need entries {first} to {entries_end} of the block table, which has {}",
                table.len()
            );
            return Err(Error::shape(what(), why));
        };
        let blocks_end = blocks.iter().map(|&block| u64::from(block) + 1).max().unwrap_or(0);
        self.rows = self.rows.max(rows_end);
        self.entries = self.entries.max(entries_end);
        self.blocks = self.blocks.max(fits(blocks_end)?);
        Ok(())
    }
}
