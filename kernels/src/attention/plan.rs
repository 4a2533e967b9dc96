//! Which block does what in the attention of a step: decided once, from lengths alone.
//!
//! **Decode.** A *unit* is one KV block of one group of queries. All units of all sequences stand in one line, by sequence, then
//! group, then block; before the units of each (sequence, group) the line has empty places for what it costs to begin and
//! end one. Every worker (a CUDA block) gets the same number of consecutive places. So the chip is full whether there are
//! many short sequences or one long one. Where a (sequence, group) is cut, its parts are added up by the worker that finishes
//! last, in the order of the line.
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
    /// Empty places before the units of each (sequence, group).
    pub empty: Option<u32>,
}

/// Empty places before the units of each (sequence, group): to begin and end one takes as long as this many units.
const EMPTY: u32 = 2;

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
    /// Places in the line of every worker but the last.
    pub quota: u32,
}

const WORKER_WORDS: usize = 12;

/// Size of a worker in device memory.
pub const WORKER_BYTES: usize = WORKER_WORDS * 4;

/// The work of one decode launch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodePlan {
    pub(crate) shape: AttentionShape,
    pub(crate) depth: u32,
    empty: u32,
    pub(crate) workers: Vec<Worker>,
    /// Sequences, each with its place in the line.
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
        let empty = tuning.empty.unwrap_or(EMPTY);
        let mut places = 0_u64;
        for (index, sequence) in sequences.iter().enumerate() {
            if sequence.context == 0 {
                return Err(Error::shape(format!("sequence {index}"), "has no token to attend to"));
            }
            extent.include(index, sequence.row, 1, u64::from(sequence.context), sequence.table, table)?;
            placed.push((*sequence, places as u32));
            places += (u64::from(blocks_of(sequence.context)) + u64::from(empty)) * u64::from(groups);
            if places > u64::from(u32::MAX / 2) {
                return Err(Error::shape("decode batch", "has more KV blocks times heads than can be counted"));
            }
        }
        let most = tuning.workers.unwrap_or(chip.multiprocessors * resident).max(1);
        let quota = (places as u32).div_ceil(most).max(UNITS_MIN + empty);
        let line = Line { places: places as u32, empty, groups };
        let workers = line.cut(&placed, quota);
        Ok(DecodePlan { shape, depth, empty, workers, sequences: placed, extent })
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
        let mut words: Vec<u32> = Vec::with_capacity(count * WORKER_WORDS);
        for worker in self.workers.iter().take(count) {
            let Worker { sequence, group, block, units, quota } = *worker;
            words.extend([sequence, group, block, units, quota, self.empty, 0, 0]);
            words.extend(self.sequence_words(sequence as usize));
        }
        words.resize(count * WORKER_WORDS, 0);
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    /// The bytes that the kernel reads of sequences.
    pub fn sequence_bytes(&self) -> Vec<u8> {
        (0..self.sequences.len()).flat_map(|index| self.sequence_words(index)).flat_map(u32::to_le_bytes).collect()
    }

    fn sequence_words(&self, index: usize) -> [u32; 4] {
        let (sequence, place) = self.sequences[index];
        [sequence.row, sequence.context, sequence.table, place]
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

/// All units, with empty places between.
#[derive(Debug, Clone, Copy)]
struct Line {
    places: u32,
    empty: u32,
    groups: u32,
}

impl Line {
    /// Cuts the line into workers of `quota` places, more than there are empty ones in a row: each has a unit.
    fn cut(self, sequences: &[(DecodeSequence, u32)], quota: u32) -> Vec<Worker> {
        let Line { places, empty, groups } = self;
        let mut index = 0;
        let mut workers: Vec<Worker> = Vec::new();
        for begin in (0..places).step_by(quota as usize) {
            while index + 1 < sequences.len() && sequences[index + 1].1 <= begin {
                index += 1;
            }
            let (sequence, first) = sequences[index];
            let width = blocks_of(sequence.context) + empty;
            let (group, inside) = ((begin - first) / width, (begin - first) % width);
            debug_assert!(group < groups);
            let (sequence, block) = (index as u32, inside.saturating_sub(empty));
            workers.push(Worker { sequence, group, block, units: 0, quota });
        }
        for (number, worker) in (0..).zip(&mut workers) {
            let end = places.min((number + 1) * quota);
            worker.units = self.units_before(sequences, end) - self.units_before(sequences, number * quota);
        }
        workers
    }

    /// Units at places below `end`.
    fn units_before(self, sequences: &[(DecodeSequence, u32)], end: u32) -> u32 {
        let Line { empty, groups, .. } = self;
        let index = sequences.partition_point(|&(_, first)| first < end);
        let whole = sequences[..index.saturating_sub(1)].len() as u32;
        let Some(&(sequence, first)) = sequences[..index].last() else { return 0 };
        let width = blocks_of(sequence.context) + empty;
        let (group, inside) = ((end - first) / width, (end - first) % width);
        // What precedes this sequence, less its empty places; its whole groups; and a part of one.
        first - whole * groups * empty + group * (width - empty) + inside.saturating_sub(empty)
    }
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

/// Tall tiles read keys half as often, which makes their rows cheaper; short ones waste fewer rows and end more evenly. The
/// shorter makespan of the two, by rules of thumb from measured batches.
fn choose_fragments(shape: &AttentionShape, sequences: &[PrefillSequence], chip: Chip) -> u32 {
    let makespan = |fragments: u32, cost: f64| {
        // A tile's keys and, in units of keys, what it costs to begin and end one.
        let keys = |tile: Tile| f64::from(tile.position + tile.rows) + 160.0;
        let tiles = sequences.iter().flat_map(|&sequence| tiles(sequence, 64 * fragments));
        let (total, longest) =
            tiles.map(keys).fold((0.0, 0.0), |(total, longest), keys| (total + keys, f64::max(longest, keys)));
        let slots = f64::from(2 * chip.multiprocessors);
        cost * f64::from(fragments) * f64::max(total * f64::from(shape.heads) / slots, longest)
    };
    if makespan(1, 1.135) < makespan(2, 1.0) { 1 } else { 2 }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    const CHIP: Chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };

    fn shape(heads: u32, kv_heads: u32, head_dim: u32) -> AttentionShape {
        AttentionShape { element: Element::Bf16, heads, kv_heads, head_dim }
    }

    /// Sequences of these contexts, one after the other in a table that lists blocks from the last to the first.
    fn sequences(contexts: &[u32]) -> (Vec<DecodeSequence>, Vec<u32>) {
        let mut sequences = Vec::new();
        let mut next = 0;
        for (row, &context) in (0..).zip(contexts) {
            sequences.push(DecodeSequence { row, context, table: next });
            next += blocks_of(context);
        }
        (sequences, (0..next).rev().collect())
    }

    #[test]
    fn every_block_of_every_group_has_exactly_one_worker() {
        for (shape, contexts) in [
            (shape(32, 8, 128), vec![1, 5000, 16, 17, 333, 1, 1]),
            (shape(7, 7, 64), vec![2048; 9]),
            (shape(24, 2, 128), vec![100_000]),
            (shape(1, 1, 64), vec![1]),
        ] {
            let (sequences, table) = sequences(&contexts);
            let plan =
                DecodePlan::new(shape, &sequences, &table, CHIP, DecodeTuning::default()).expect("a valid batch");
            let groups = groups(&shape);
            let mut seen: Vec<Vec<u32>> =
                contexts.iter().map(|&context| vec![0; (blocks_of(context) * groups) as usize]).collect();
            for (number, worker) in plan.workers().iter().enumerate() {
                let (mut sequence, mut group, mut block) = (worker.sequence as usize, worker.group, worker.block);
                assert!(worker.units > 0);
                for _ in 0..worker.units {
                    let blocks = blocks_of(contexts[sequence]);
                    seen[sequence][(group * blocks + block) as usize] += 1;
                    // What the kernel derives the parts of a (sequence, group) from.
                    let place = plan.sequences[sequence].1 + group * (blocks + plan.empty) + plan.empty + block;
                    assert_eq!(place / worker.quota, number as u32);
                    block += 1;
                    if block == blocks {
                        (block, group) = (0, group + 1);
                    }
                    if group == groups {
                        (group, sequence) = (0, sequence + 1);
                    }
                }
            }
            assert!(seen.iter().flatten().all(|&count| count == 1), "{contexts:?}");
            let places: u32 = contexts.iter().map(|&context| (blocks_of(context) + EMPTY) * groups).sum();
            assert_eq!(plan.workers()[0].quota, places.div_ceil(264).max(UNITS_MIN + EMPTY), "the work is even");
            assert!(plan.workers().len() as u32 <= DecodePlan::workers_max(&shape, CHIP).expect("a valid shape"));
        }
    }

    #[test]
    fn two_blocks_share_a_multiprocessor_of_a_large_gpu_and_one_fits_a_small_one() {
        for kv_heads in [1, 2, 4, 8] {
            for head_dim in [64, 128] {
                let shape = shape(8, kv_heads, head_dim);
                let two = |depth| {
                    let variant = Variant::Decode { element: shape.element, head_dim, depth };
                    2 * (variant.shared_bytes(shape.queries()) + 1024) <= 233_472
                };
                let (depth, resident) = ring(&shape, CHIP, DecodeTuning::default()).expect("it fits");
                assert!(resident == 2 && two(depth) && depth == depths(head_dim)[0], "{shape:?}");
                let small = Chip { multiprocessors: 46, shared_bytes_block_max: 101_376, cluster_max: 1 };
                assert!(ring(&shape, small, DecodeTuning::default()).is_ok(), "{shape:?}");
            }
        }
    }

    #[test]
    fn sequences_that_their_table_does_not_hold_are_refused() {
        let new = |sequence, table: &[u32]| {
            DecodePlan::new(shape(8, 8, 128), &[sequence], table, CHIP, DecodeTuning::default())
        };
        let sequence = DecodeSequence { row: 0, context: 17, table: 1 };
        let plan = new(sequence, &[9, 4, 7]).expect("two blocks from entry 1 on");
        assert_eq!(plan.extent, Extent { rows: 1, blocks: 8, entries: 3 });
        for (sequence, table) in [
            (sequence, &[9, 4][..]),
            (DecodeSequence { context: 0, ..sequence }, &[9, 4, 7]),
            (DecodeSequence { table: u32::MAX, ..sequence }, &[9, 4, 7]),
            (DecodeSequence { row: u32::MAX, ..sequence }, &[9, 4, 7]),
            (sequence, &[9, u32::MAX, 7]),
        ] {
            assert!(matches!(new(sequence, table), Err(Error::Shape { .. })), "{sequence:?} in {table:?}");
        }
        let prefill = PrefillSequence { row: 0, tokens: 16, prefix: u32::MAX - 3, table: 0 };
        let plan = PrefillPlan::new(shape(8, 8, 128), &[prefill], &[0], CHIP, PrefillTuning::default());
        assert!(matches!(plan, Err(Error::Shape { .. })));
    }

    #[test]
    fn every_new_token_has_one_tile_and_the_longest_come_first() {
        let sequences = [(0, 300, 5), (512, 1, 0), (600, 0, 0), (700, 129, 4000)]
            .map(|(row, tokens, prefix)| PrefillSequence { row, tokens, prefix, table: 0 });
        let table: Vec<u32> = (0..300).collect();
        for fragments in [1, 2] {
            let tuning = PrefillTuning { fragments: Some(fragments) };
            let plan = PrefillPlan::new(shape(8, 2, 128), &sequences, &table, CHIP, tuning).expect("a valid batch");
            let mut seen = vec![0; 900];
            for tile in plan.tiles() {
                assert!(tile.rows <= 64 * fragments && tile.rows > 0);
                for row in tile.row..tile.row + tile.rows {
                    seen[row as usize] += 1;
                    let sequence =
                        sequences.iter().find(|s| (s.row..s.row + s.tokens).contains(&row)).expect("its rows");
                    assert_eq!(tile.position + row - tile.row, sequence.prefix + row - sequence.row);
                }
            }
            let expected = |row: u32| u32::from(sequences.iter().any(|s| (s.row..s.row + s.tokens).contains(&row)));
            assert!((0..).zip(&seen).all(|(row, &count)| count == expected(row)));
            assert!(plan.tiles().is_sorted_by_key(|tile| std::cmp::Reverse(tile.position + tile.rows)));
        }
    }

    #[test]
    fn tiles_are_tall_where_they_fill_the_chip_and_their_rows() {
        let table: Vec<u32> = (0..1000).collect();
        let fragments = |shape, sequences: &[(u32, u32)]| {
            let sequences: Vec<_> = sequences
                .iter()
                .map(|&(prefix, tokens)| PrefillSequence { row: 0, tokens, prefix, table: 0 })
                .collect();
            let plan = PrefillPlan::new(shape, &sequences, &table, CHIP, PrefillTuning::default());
            plan.expect("a valid batch").fragments
        };
        assert_eq!(fragments(shape(32, 32, 128), &[(0, 4096)]), 2);
        assert_eq!(fragments(shape(32, 32, 128), &[(0, 2048)]), 2);
        assert_eq!(fragments(shape(8, 1, 128), &[(0, 4096)]), 1);
        assert_eq!(fragments(shape(32, 8, 128), &[(8192, 512)]), 1);
        assert_eq!(fragments(shape(32, 8, 128), &[(0, 30); 64]), 1);
    }

    #[test]
    fn the_work_of_a_causal_prompt_is_half_of_a_square() {
        let sequence = PrefillSequence { row: 0, tokens: 4096, prefix: 0, table: 0 };
        let table: Vec<u32> = (0..256).collect();
        let plan = PrefillPlan::new(shape(32, 32, 128), &[sequence], &table, CHIP, PrefillTuning::default());
        let square = 4.0 * 4096.0 * 4096.0 * 32.0 * 128.0;
        let share = plan.expect("a valid batch").flops() / square;
        assert!((share - 0.5).abs() < 2e-4, "{share}");
    }
}
