//! The sequences of a step in the order in which the GPU sees them, and what the kernels must know of each row.

use std::ops::Range;

use crate::Error;
use crate::llama::{LlamaSettings, LlamaShape, LoraPath, Sequence};

/// A checked step. Rows: sequences of one new token first, then the others, each by adapter, so that an adapter's rows
/// are neighbours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Row ranges and the sequence that each belongs to, in row order.
    pub(crate) places: Vec<Place>,
    /// Sequences of one new token: the first so many rows.
    pub(crate) decode_rows: u32,
    /// All rows.
    pub(crate) rows: u32,
    /// Sequences that want a token.
    pub(crate) samples: u32,
    /// For each sequence that wants a token, in the caller's order, its row.
    pub(crate) sample_rows: Vec<u32>,
}

/// One sequence's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index among the caller's sequences.
    pub(crate) sequence: usize,
    /// Its rows.
    pub(crate) rows: Range<u32>,
    /// Its adapter's slot.
    pub(crate) adapter: Option<u32>,
}

impl Batch {
    /// Orders and checks a step.
    ///
    /// # Errors
    /// [`Error::Shape`] names the sequence and what is wrong with it.
    pub(crate) fn new(sequences: &[Sequence<'_>], shape: &LlamaShape, settings: &LlamaSettings) -> Result<Self, Error> {
        if sequences.is_empty() || sequences.len() > settings.sequences_max as usize {
            let why = format!("{} sequences; 1 to {} can be in one", sequences.len(), settings.sequences_max);
            return Err(Error::shape("step", why));
        }
        let mut rows = 0_u64;
        for (index, sequence) in sequences.iter().enumerate() {
            if let Some(why) = fault(sequence, shape, settings) {
                return Err(Error::shape(format!("sequence {index} of a step"), why));
            }
            rows += sequence.tokens.len() as u64;
        }
        if rows > u64::from(settings.rows_max) {
            let why = format!("has {rows} new tokens; {} fit", settings.rows_max);
            return Err(Error::shape("step", why));
        }
        if let Some((index, block)) = shared_write(sequences, settings) {
            let why = format!(
                "names KV block {block}, to which this step writes elsewhere; only blocks that no sequence writes to may be shared"
            );
            return Err(Error::shape(format!("sequence {index} of a step"), why));
        }
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.sort_by_key(|&index| {
            let Sequence { tokens, adapter, .. } = sequences[index];
            (tokens.len() > 1, adapter.map_or(0, |slot| slot + 1), index)
        });
        let mut places = Vec::with_capacity(order.len());
        let (mut row, mut decode_rows) = (0, 0);
        let mut first_row = vec![0; sequences.len()];
        for index in order {
            let Sequence { tokens, adapter, .. } = sequences[index];
            let end = row + tokens.len() as u32;
            first_row[index] = row;
            places.push(Place { sequence: index, rows: row..end, adapter });
            row = end;
            if tokens.len() == 1 {
                decode_rows = end;
            }
        }
        let sample_rows: Vec<u32> = sequences
            .iter()
            .zip(first_row)
            .filter(|(sequence, _)| sequence.sample)
            .map(|(sequence, first)| first + sequence.tokens.len() as u32 - 1)
            .collect();
        Ok(Batch { places, decode_rows, rows: row, samples: sample_rows.len() as u32, sample_rows })
    }

    /// Whether every sequence has one new token.
    pub(crate) fn is_decode(&self) -> bool {
        self.decode_rows == self.rows
    }

    /// Consecutive rows that share an adapter, and its slot.
    pub(crate) fn segments(&self) -> Vec<(Range<u32>, u32)> {
        let mut segments: Vec<(Range<u32>, u32)> = Vec::new();
        for place in &self.places {
            let Some(slot) = place.adapter else { continue };
            match segments.last_mut() {
                Some((rows, last)) if *last == slot && rows.end == place.rows.start => rows.end = place.rows.end,
                _ => segments.push((place.rows.clone(), slot)),
            }
        }
        segments
    }

    /// Token, position, KV slot and sample slot of each of `padded` rows; rows beyond the last get token 0, position 0
    /// and no slots.
    pub(crate) fn rows(&self, sequences: &[Sequence<'_>], padded: u32, block_tokens: u32) -> Rows {
        let count = padded as usize;
        let mut rows = Rows {
            tokens: vec![0; count],
            positions: vec![0; count],
            slots: vec![-1; count],
            samples: vec![-1; count],
        };
        for place in &self.places {
            let sequence = &sequences[place.sequence];
            for (offset, (row, &token)) in (place.rows.start as usize..).zip(sequence.tokens).enumerate() {
                let position = sequence.prefix + offset as u32;
                let block = sequence.blocks[(position / block_tokens) as usize];
                rows.tokens[row] = token;
                rows.positions[row] = position;
                rows.slots[row] = (block * block_tokens + position % block_tokens) as i32;
            }
        }
        for (slot, &row) in self.sample_rows.iter().enumerate() {
            rows.samples[row as usize] = slot as i32;
        }
        rows
    }
}

/// What the kernels read of each row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows {
    /// Token.
    pub(crate) tokens: Vec<u32>,
    /// Position in its sequence.
    pub(crate) positions: Vec<u32>,
    /// Where its K and V go: block · 16 + token in the block; negative: nowhere.
    pub(crate) slots: Vec<i32>,
    /// Its row among the logits; negative: none.
    pub(crate) samples: Vec<i32>,
}

fn fault(sequence: &Sequence<'_>, shape: &LlamaShape, settings: &LlamaSettings) -> Option<String> {
    let Sequence { tokens, prefix, blocks, adapter, .. } = *sequence;
    if tokens.is_empty() {
        return Some("has no new token".to_owned());
    }
    let context = u64::from(prefix) + tokens.len() as u64;
    if context > u64::from(settings.context_max) {
        return Some(format!("has {context} tokens; {} fit", settings.context_max));
    }
    let needed = context.div_ceil(u64::from(settings.block_tokens));
    if (blocks.len() as u64) < needed {
        return Some(format!("has {} KV blocks for {context} tokens, which need {needed}", blocks.len()));
    }
    if let Some(block) = blocks.iter().find(|&&block| block >= settings.kv_blocks) {
        return Some(format!("names KV block {block} of {}", settings.kv_blocks));
    }
    if let Some(token) = tokens.iter().find(|&&token| token >= shape.vocab) {
        return Some(format!("has token {token}; the vocabulary has {}", shape.vocab));
    }
    match adapter {
        Some(slot) if settings.lora == LoraPath::Off => {
            Some(format!("names adapter slot {slot}, but adapters are off"))
        }
        Some(slot) if slot >= settings.adapter_slots => {
            Some(format!("names adapter slot {slot} of {}", settings.adapter_slots))
        }
        _ => None,
    }
}

/// A sequence, and a KV block of it that the step writes to in another place too, if there is one. Every step asks: one pass over the
/// blocks and a bit for each that there is.
fn shared_write(sequences: &[Sequence<'_>], settings: &LlamaSettings) -> Option<(usize, u32)> {
    let mut written = vec![0_u64; settings.kv_blocks.div_ceil(64) as usize];
    let at = |block: u32| ((block / 64) as usize, 1_u64 << (block % 64));
    // Blocks that are only read, and those that new tokens go to; spare ones behind them are neither.
    let parts = |sequence: &Sequence<'_>| {
        let first = sequence.prefix / settings.block_tokens;
        let end = (sequence.prefix + sequence.tokens.len() as u32).div_ceil(settings.block_tokens);
        (0..first as usize, first as usize..end as usize)
    };
    for (index, sequence) in sequences.iter().enumerate() {
        for &block in &sequence.blocks[parts(sequence).1] {
            let (word, bit) = at(block);
            if written[word] & bit != 0 {
                return Some((index, block));
            }
            written[word] |= bit;
        }
    }
    for (index, sequence) in sequences.iter().enumerate() {
        let is_written = |&&block: &&u32| {
            let (word, bit) = at(block);
            written[word] & bit != 0
        };
        if let Some(&block) = sequence.blocks[parts(sequence).0].iter().find(is_written) {
            return Some((index, block));
        }
    }
    None
}

/// Rows that a graph or a GEMM plan is made for, at least `rows`: few sizes, so that they can be kept, and little waste.
pub fn bucket(rows: u32) -> u32 {
    match rows {
        0..=2 => rows.max(1),
        3..=4 => 4,
        5..=64 => rows.next_multiple_of(8),
        65..=128 => rows.next_multiple_of(16),
        129..=256 => rows.next_multiple_of(32),
        257..=1024 => rows.next_multiple_of(64),
        _ => rows.checked_next_multiple_of(256).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;
    use crate::llama::LoraOrder;

    fn settings() -> LlamaSettings {
        LlamaSettings {
            adapter_slots: 4,
            rank_max: 16,
            lora: LoraPath::Segmented(LoraOrder::Before),
            ..LlamaSettings::for_sequences(Element::Bf16, 8, 64)
        }
    }

    fn sequence<'a>(tokens: &'a [u32], prefix: u32, blocks: &'a [u32], adapter: Option<u32>) -> Sequence<'a> {
        Sequence { tokens, prefix, blocks, adapter, sample: true }
    }

    #[test]
    fn decode_rows_come_first_and_an_adapter_s_rows_are_neighbours() {
        let prompt = [5; 20];
        let sequences = [
            sequence(&prompt, 0, &[0, 1], Some(2)),
            sequence(&[1], 3, &[2], Some(1)),
            sequence(&[2], 17, &[3, 4], None),
            sequence(&[3], 0, &[5], Some(1)),
        ];
        let batch = Batch::new(&sequences, &LlamaShape::tiny(), &settings()).expect("a valid step");
        assert_eq!((batch.rows, batch.decode_rows, batch.samples), (23, 3, 4));
        assert_eq!(batch.segments(), [(1..3, 1), (3..23, 2)]);
        assert_eq!(batch.sample_rows, [22, 1, 0, 2]);
        let rows = batch.rows(&sequences, 24, 16);
        assert_eq!(rows.tokens[..4], [2, 1, 3, 5]);
        assert_eq!(rows.positions[..5], [17, 3, 0, 0, 1]);
        assert_eq!(rows.slots[..3], [4 * 16 + 1, 2 * 16 + 3, 5 * 16]);
        assert_eq!((rows.slots[22], rows.slots[23]), (16 + 3, -1));
        assert_eq!((rows.samples[22], rows.samples[0], rows.samples[21]), (0, 2, -1));
    }

    #[test]
    fn a_step_that_cannot_be_computed_is_refused() {
        let (shape, settings) = (LlamaShape::tiny(), settings());
        let long = [1; 65];
        for sequence in [
            sequence(&[], 0, &[0], None),
            sequence(&[512], 0, &[0], None),
            sequence(&[1], 16, &[0], None),
            sequence(&[1], 0, &[99], None),
            sequence(&[1], 0, &[0], Some(4)),
            sequence(&long, 0, &[0, 1, 2, 3, 4], None),
            // Their sum is 1 in 32 bits.
            sequence(&[1, 2], u32::MAX, &[0], None),
        ] {
            let batch = Batch::new(&[sequence], &shape, &settings);
            assert!(matches!(batch, Err(Error::Shape { .. })), "{sequence:?}");
        }
        assert!(Batch::new(&[], &shape, &settings).is_err());
    }

    #[track_caller]
    fn refused(batch: Result<Batch, Error>, what_is_wrong: &str, why_it_is: &str) {
        match batch {
            Err(Error::Shape { what, why }) => {
                assert!(what == what_is_wrong && why.contains(why_it_is), "{what}: {why}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_step_has_no_more_sequences_and_tokens_than_there_is_room_for() {
        let (shape, settings) = (LlamaShape::tiny(), LlamaSettings { rows_max: 40, ..settings() });
        let blocks: Vec<u32> = (0..9).collect();
        let of = |count: usize| -> Vec<_> {
            blocks[..count].iter().map(|block| sequence(&[1], 0, std::slice::from_ref(block), None)).collect()
        };
        assert_eq!(Batch::new(&of(8), &shape, &settings).expect("all of them").rows, 8);
        refused(Batch::new(&of(9), &shape, &settings), "step", "9 sequences; 1 to 8");
        let prompt = [1; 21];
        let both = |tokens| [sequence(&prompt, 0, &[0, 1], None), sequence(tokens, 0, &[2, 3], None)];
        assert_eq!(Batch::new(&both(&prompt[..19]), &shape, &settings).expect("all of them").rows, 40);
        refused(Batch::new(&both(&prompt[..20]), &shape, &settings), "step", "41 new tokens; 40 fit");
    }

    #[test]
    fn where_adapters_are_off_a_sequence_that_names_one_is_refused() {
        let settings = LlamaSettings { lora: LoraPath::Off, ..settings() };
        let with = |adapter| Batch::new(&[sequence(&[1], 0, &[0], adapter)], &LlamaShape::tiny(), &settings);
        with(None).expect("no adapter");
        refused(with(Some(0)), "sequence 0 of a step", "adapters are off");
    }

    #[test]
    fn a_kv_block_that_a_step_writes_to_is_in_one_place() {
        let new = |sequences: &[Sequence<'_>]| Batch::new(sequences, &LlamaShape::tiny(), &settings());
        let prompt = [1; 20];
        // Two new tokens' blocks, twice in a sequence, one that another reads, before it and after.
        let (read, write) = (sequence(&[1], 16, &[3, 4], None), sequence(&[1], 15, &[3], None));
        for (sequences, index, block) in [
            (vec![sequence(&[1], 0, &[2], None), sequence(&[1], 9, &[2], None)], 1, 2),
            (vec![sequence(&prompt, 0, &[5, 5], None)], 0, 5),
            (vec![sequence(&[1], 16, &[6, 6], None)], 0, 6),
            (vec![sequence(&prompt, 16, &[7, 8, 7], None)], 0, 7),
            (vec![read, write], 0, 3),
            (vec![write, read], 1, 3),
        ] {
            let why = format!("names KV block {block}, to which this step writes elsewhere");
            refused(new(&sequences), &format!("sequence {index} of a step"), &why);
        }
        // A full block before the new tokens, and what lies behind them.
        let shared = [sequence(&[1], 16, &[3, 4], None), sequence(&prompt, 16, &[3, 5, 6], None)];
        new(&shared).expect("a block that is only read");
        new(&[sequence(&[1], 0, &[0, 1], None), sequence(&[1], 0, &[1, 0], None)]).expect("spare blocks");
    }

    #[test]
    fn buckets_hold_their_rows_and_waste_little() {
        for rows in 1..5000 {
            let padded = bucket(rows);
            assert!(padded >= rows && bucket(padded) == padded, "{rows}");
            assert!(rows < 64 || padded - rows <= rows / 4 + 1, "{rows}");
        }
        assert_eq!(
            [u32::MAX - 256, u32::MAX - 255, u32::MAX - 254, u32::MAX].map(bucket),
            [u32::MAX - 255, u32::MAX - 255, u32::MAX, u32::MAX]
        );
    }
}
