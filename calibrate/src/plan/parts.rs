//! Operations alone, copies of memory, and loads.

use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::pad;
use aril_sim::random;
use rand::RngExt;

use super::Draft;
use super::steps::{log_uniform, ragged};
use crate::machine::{Part, Prompt, Question, StepShape};

/// Numbers of rows of the first stage.
const ROWS_FIRST: [u32; 26] = [
    1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 65, 96, 128, 129, 192, 256, 257, 384, 512, 768, 1024, 1536, 2048, 3072, 4096,
    8192,
];

/// Those that are enough for what only moves bytes.
const ROWS_FEW: [u32; 11] = [1, 8, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

/// Those added later: around the edges of tiles, between them, and further out.
const ROWS_LATER: [u32; 42] = [
    3, 5, 6, 7, 9, 10, 14, 15, 17, 20, 28, 31, 33, 40, 56, 63, 72, 80, 112, 127, 144, 160, 176, 224, 255, 288, 320,
    352, 448, 511, 513, 640, 896, 1025, 1280, 1792, 2304, 2560, 3584, 5120, 6144, 7168,
];

/// Decode rows and contexts of the first stage.
const DECODE_ROWS: [u32; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const CONTEXTS: [u32; 9] = [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192];

pub(super) fn plan(draft: &mut Draft, row_buckets: &[u32], seed: u64) {
    for bytes in [1 << 26, 1 << 28, 1 << 30] {
        draft.ask(1, Question::Copy { bytes });
    }
    by_rows(draft, row_buckets, seed);
    decode_attention(draft, seed);
    prefill_attention(draft, seed);
    loads(draft);
}

/// Every size that rows are padded to, and some between, where they are padded; else the lists above.
fn by_rows(draft: &mut Draft, row_buckets: &[u32], seed: u64) {
    let (first, later): (Vec<u32>, Vec<u32>) = if row_buckets.is_empty() {
        (ROWS_FIRST.to_vec(), ROWS_LATER.to_vec())
    } else {
        // A library picks another kernel for every size: no product is known before each was measured.
        let mut random = random::stream(seed, "calibration rows");
        let between = (0..24).map(|_| log_uniform(&mut random, 3, draft.limits.rows));
        (row_buckets.to_vec(), between.collect())
    };
    for (stage, list) in [(1, &first), (2, &later)] {
        for &rows in list {
            for operation in Part::ALL.into_iter().filter(|part| part.is_by_rows()) {
                // What only moves bytes is smooth: a few sizes tell.
                let few = ROWS_FEW.iter().any(|few| pad(row_buckets, *few) == rows);
                let stage = if operation.is_product() || few || row_buckets.is_empty() { stage } else { 2 };
                // One row a sequence: no more rows than sequences.
                let shape =
                    if operation.is_by_sequence() { StepShape::decode(rows, 16) } else { StepShape::prompt(rows, 0) };
                draft.ask(stage, Question::Operation { operation, shape });
            }
        }
    }
}

fn decode_attention(draft: &mut Draft, seed: u64) {
    let mut ask = |stage, shape| draft.ask(stage, Question::Operation { operation: Part::DecodeAttention, shape });
    for (r, rows) in DECODE_ROWS.into_iter().enumerate() {
        for (c, context) in CONTEXTS.into_iter().enumerate() {
            ask(if (r + c) % 2 == 0 { 1 } else { 2 }, StepShape::decode(rows, context));
        }
    }
    for rows in [1, 2, 3, 4, 6, 8] {
        for context in [12_288, 16_384, 24_576, 32_768] {
            ask(if rows % 2 == 0 { 2 } else { 1 }, StepShape::decode(rows, context));
        }
    }
    for rows in [3, 6, 12, 24, 48, 96, 160, 192, 320, 384, 448] {
        for context in [48, 200, 700, 1500, 3000] {
            ask(2, StepShape::decode(rows, context));
        }
    }
    let mut random = random::stream(seed, "calibration decode attention");
    for index in 0..80 {
        let rows = DECODE_ROWS[index % DECODE_ROWS.len()].max(2) + random.random_range(0..4);
        ask(if index < 30 { 1 } else { 2 }, StepShape::ragged(&ragged(&mut random, rows, draft_kv(rows))));
    }
    // Short contexts, alike and not: pieces that take longer to begin and end than to read.
    for rows in [3, 6, 12, 20, 24, 28, 40, 48, 56, 80, 96, 112, 160, 192, 224, 320, 384, 448] {
        for context in [16, 32, 64, 96] {
            ask(2, StepShape::decode(rows, context));
        }
    }
    for (index, rows) in [16, 32, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512].into_iter().enumerate() {
        for mean in [24, 48, 80, 140] {
            ask(if index % 3 == 0 { 1 } else { 2 }, StepShape::ragged(&ragged(&mut random, rows, mean)));
        }
    }
    // One long row among short ones: what a split over blocks must balance.
    for rows in [2, 8, 32, 128] {
        for longest in [2048, 8192, 30_000] {
            let contexts: Vec<u32> = (0..rows).map(|row| if row == 0 { longest } else { 128 }).collect();
            ask(2, StepShape::ragged(&contexts));
        }
    }
}

/// The mean context that so many rows may have.
fn draft_kv(rows: u32) -> u32 {
    (60_000 / rows).clamp(64, 6000)
}

fn prefill_attention(draft: &mut Draft, seed: u64) {
    let mut ask = |stage, shape| draft.ask(stage, Question::Operation { operation: Part::PrefillAttention, shape });
    let chunks = [16, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
    let prefixes = [0, 256, 1024, 4096, 16_384, 32_000];
    for (c, chunk) in chunks.into_iter().enumerate() {
        for (p, prefix) in prefixes.into_iter().enumerate() {
            ask(if (c + p) % 2 == 0 { 1 } else { 2 }, StepShape::prompt(chunk, prefix));
        }
    }
    for chunk in [32, 48, 96, 160, 192, 320, 384, 640, 768, 1280, 1536, 3072, 6144] {
        for prefix in [0, 500, 2000, 8000] {
            ask(2, StepShape::prompt(chunk, prefix));
        }
    }
    let mut random = random::stream(seed, "calibration prefill attention");
    for index in 0..60 {
        let prompts = (0..random.random_range(2..9)).map(|_| Prompt {
            chunk: 16 << random.random_range(0..6),
            prefix: if random.random_bool(0.5) { 0 } else { 64 << random.random_range(0..7) },
        });
        let shape = StepShape { prompts: prompts.collect(), ..StepShape::default() };
        ask(if index < 20 { 1 } else { 2 }, shape);
    }
}

fn loads(draft: &mut Draft) {
    for rank in [8, 16, 32, 64, 128] {
        for pinned in [true, false] {
            draft.ask(1, Question::Load { rank, pinned, beside: None });
        }
    }
    let beside =
        [StepShape::decode(1, 512), StepShape::decode(32, 512), StepShape::decode(128, 512), StepShape::prompt(512, 0)];
    for (index, shape) in beside.into_iter().enumerate() {
        let stage = if index == 1 { 1 } else { 2 };
        for rank in [16, 64] {
            draft.ask(stage, Question::Load { rank, pinned: true, beside: Some(shape.clone()) });
        }
        draft.ask(stage, Question::Load { rank: 16, pinned: false, beside: Some(shape.clone()) });
        draft.ask(stage, Question::StepBesideLoad { shape: shape.clone() });
        draft.ask(stage, Question::Step { kernel: LoraKernel::None, shape });
    }
    draft.ask(1, Question::Switch { rank: 16 });
    draft.ask(2, Question::Switch { rank: 64 });
}
