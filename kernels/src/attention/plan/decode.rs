//! One new token a sequence: the line of units and who has which part of it.

use super::super::layout::{AttentionShape, blocks_of};
use super::super::operands::Extent;
use super::super::variant::{QUERIES_MAX, Variant, depths};
use crate::Error;
use crate::lora::plan::Chip;

mod line;

use line::Line;

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

/// Choices of a decode plan, for measuring what they are worth. `None` leaves a choice to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DecodeTuning {
    /// Workers at most.
    pub workers: Option<u32>,
    /// KV blocks in a warp's ring.
    pub depth: Option<u32>,
    /// Empty places before the units of each (sequence, group).
    pub empty: Option<u32>,
    /// Places of a (sequence, group) are a multiple of this, and so are the shares of the line of all.
    pub grain: Option<u32>,
    /// Whether cuts fall evenly within each (sequence, group), or wherever they fall in the line of all.
    pub even: Option<bool>,
}

/// Empty places before the units of each (sequence, group): to begin and end one takes as long as this many units.
pub const EMPTY: u32 = 8;

/// Places of a (sequence, group) in the line of all are a multiple of this, and so are shares: rounds of a worker's warps, a unit each,
/// so that nothing is cut that has one round.
pub const GRAIN: u32 = 4;

/// What it costs a worker that a (sequence, group) is cut at one of its ends, in units.
pub const CUT: u32 = 3;

/// Fewest units of a worker: one for each of its warps.
pub const UNITS_MIN: u32 = 4;

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
    line: Line,
    pub(crate) workers: Vec<Worker>,
    /// Sequences, each with its place in the line.
    pub(crate) sequences: Vec<(DecodeSequence, u32)>,
    pub(crate) extent: Extent,
}

impl DecodePlan {
    /// Plans one launch. `table`: KV blocks of all sequences, as the launch will be given them.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that the kernels do not serve, a chip that cannot be or has too little shared memory, a
    /// sequence without tokens, or one whose KV blocks are not in the table.
    pub fn new(
        shape: AttentionShape,
        sequences: &[DecodeSequence],
        table: &[u32],
        chip: Chip,
        tuning: DecodeTuning,
    ) -> Result<Self, Error> {
        shape.check()?;
        chip.check()?;
        let (depth, resident) = ring(&shape, chip, tuning)?;
        let groups = groups(&shape);
        let mut extent = Extent::default();
        let most = tuning.workers.unwrap_or(chip.multiprocessors * resident).max(1);
        let mut units = 0_u64;
        for (index, sequence) in sequences.iter().enumerate() {
            if sequence.context == 0 {
                return Err(Error::shape(format!("sequence {index}"), "has no token to attend to"));
            }
            extent.include(index, sequence.row, 1, u64::from(sequence.context), sequence.table, table)?;
            units += (u64::from(blocks_of(sequence.context)) + 1024) * u64::from(groups);
            if units > u64::from(u32::MAX / 2) {
                return Err(Error::shape("decode batch", "has more KV blocks times heads than can be counted"));
            }
        }
        let contexts = || sequences.iter().map(|sequence| blocks_of(sequence.context));
        let (empty, grain) = (tuning.empty.unwrap_or(EMPTY).min(1000), tuning.grain.unwrap_or(GRAIN).clamp(1, 1000));
        let dense = Line::dense(contexts(), groups, empty, grain, most);
        let even = Line::even(contexts(), groups, most);
        let line = match (tuning.even, even) {
            (Some(false), _) | (_, None) => dense,
            (Some(true), Some(even)) => even,
            (None, Some(even)) if even.makespan <= dense.makespan => even,
            (None, Some(_)) => dense,
        };
        let placed = line.place(sequences);
        let workers = line.cut(&placed);
        Ok(DecodePlan { shape, depth, line, workers, sequences: placed, extent })
    }

    /// Workers of the largest plan that this chip gets without tuning: the capacity that fits every step.
    ///
    /// # Errors
    /// As [`DecodePlan::new`].
    pub fn workers_max(shape: &AttentionShape, chip: Chip) -> Result<u32, Error> {
        shape.check()?;
        chip.check()?;
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
            words.extend([sequence, group, block, units, quota, self.line.empty, self.line.grain, 0]);
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

/// The ring with which two blocks share a multiprocessor, or else the one that a block can have; and how many share.
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

#[cfg(test)]
mod tests {
    use super::super::impossible;
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

    fn check_cover(plan: &DecodePlan, contexts: &[u32]) {
        let groups = groups(&plan.shape);
        let mut seen: Vec<Vec<u32>> =
            contexts.iter().map(|&context| vec![0; (blocks_of(context) * groups) as usize]).collect();
        for (number, worker) in plan.workers().iter().enumerate() {
            let (mut sequence, mut group, mut block) = (worker.sequence as usize, worker.group, worker.block);
            assert!(worker.units > 0);
            for _ in 0..worker.units {
                let blocks = blocks_of(contexts[sequence]);
                seen[sequence][(group * blocks + block) as usize] += 1;
                // What the kernel derives the parts of a (sequence, group) from.
                let Line { empty, grain, .. } = plan.line;
                let places = (empty + blocks).div_ceil(grain) * grain;
                let place = plan.sequences[sequence].1 + group * places + empty + block;
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
        assert!(plan.workers().len() as u32 <= DecodePlan::workers_max(&plan.shape, CHIP).expect("a valid shape"));
    }

    #[test]
    fn every_block_of_every_group_has_exactly_one_worker() {
        for (shape, contexts) in [
            (shape(32, 8, 128), vec![1, 5000, 16, 17, 333, 1, 1]),
            (shape(7, 7, 64), vec![2048; 9]),
            (shape(24, 2, 128), vec![100_000]),
            (shape(8, 1, 64), (1..200).map(|n| n * n).collect()),
            (shape(1, 1, 64), vec![1]),
        ] {
            let (sequences, table) = sequences(&contexts);
            let forms = [(None, None), (Some(false), None), (Some(false), Some(1)), (Some(true), None)];
            for (even, grain) in forms {
                let tuning = DecodeTuning { even, grain, ..DecodeTuning::default() };
                let plan = DecodePlan::new(shape, &sequences, &table, CHIP, tuning).expect("a valid batch");
                check_cover(&plan, &contexts);
            }
        }
    }

    #[test]
    fn few_long_sequences_are_cut_evenly_and_many_wherever_the_work_is_even() {
        let plan = |shape: AttentionShape, contexts: &[u32]| {
            let (sequences, table) = sequences(contexts);
            DecodePlan::new(shape, &sequences, &table, CHIP, DecodeTuning::default()).expect("a valid batch")
        };
        // 32 of them, 8 workers each, 16 units a worker.
        let few = plan(shape(8, 1, 128), &[2048; 32]);
        assert!(few.workers().len() == 256 && few.workers().iter().all(|worker| worker.units == 16));
        // One worker each, none cut.
        let whole = plan(shape(32, 32, 128), &[1024; 8]);
        assert!(whole.workers().len() == 256 && whole.workers().iter().all(|worker| worker.units == 64));
        // More of them than workers: the line is cut into 264.
        let many = plan(shape(32, 32, 128), &[2048; 32]);
        let units = || many.workers().iter().map(|worker| worker.units);
        assert_eq!(many.workers().len(), 264);
        assert!(units().max().expect("workers") < 131_072 / 264 + 16, "{:?}", units().max());
        // A long one among short ones.
        let mut contexts = vec![100; 31];
        contexts.insert(5, 65_536);
        let mixed = plan(shape(32, 8, 128), &contexts);
        assert!(mixed.workers().iter().map(|worker| worker.units).max().expect("workers") < 34_752 / 264 + 16);
        assert!(plan(shape(1, 1, 64), &[]).workers().is_empty());
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
    fn a_chip_that_cannot_be_or_has_no_room_for_a_ring_is_refused() {
        let shape = shape(8, 8, 128);
        for (chip, wrong) in impossible(CHIP) {
            let plan = DecodePlan::new(shape, &[], &[], chip, DecodeTuning::default());
            for error in [plan.err(), DecodePlan::workers_max(&shape, chip).err()] {
                assert!(matches!(&error, Some(Error::Shape { what, .. }) if what == wrong), "{chip:?}: {error:?}");
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
    }
}
