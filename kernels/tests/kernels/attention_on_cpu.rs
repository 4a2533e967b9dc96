//! Decode and prefill attention on the CPU shim against float64, on the batches that break kernels.

use std::sync::OnceLock;

use aril_kernels::Element;
use aril_kernels::attention::layout::{AttentionShape, BLOCK_TOKENS, blocks_of};
use aril_kernels::attention::plan::{
    DecodePlan, DecodeSequence, DecodeTuning, PrefillForm, PrefillPlan, PrefillSequence, PrefillTuning,
};
use aril_kernels::attention::variant::Variant;
use aril_kernels::lora::plan::Chip;
use aril_kernels::reference::attention::attend;
use aril_kernels::reference::lora::Deviation;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shim::{Around, Buffer, Case, Pointer, Program, Runner};

const CHIP: Chip = Chip { multiprocessors: 4, shared_bytes_block_max: 232_448, cluster_max: 16 };
/// A chip on which the pieces of all sequences of a test find room.
const LARGE: Chip = Chip { multiprocessors: 40, ..CHIP };
const GAP: u32 = 8;

fn program(variant: Variant) -> Program {
    Program::of(variant.unit("sm_80"), variant.kernel())
}

fn runner() -> Option<&'static Runner> {
    static RUNNER: OnceLock<Option<Runner>> = OnceLock::new();
    let programs = || Variant::all().map(program).collect();
    RUNNER.get_or_init(|| Runner::build("attention", programs(), |_, source| source.to_owned())).as_ref()
}

/// Sequences of (tokens before, new tokens), their caches and queries, all rounded to the element's format.
struct Batch {
    shape: AttentionShape,
    sequences: Vec<(u32, u32)>,
    /// First row of each sequence; sequences lie in another order than they are listed, with unused rows between.
    rows: Vec<u32>,
    row_count: u32,
    /// First entry of each sequence in the table.
    entries: Vec<u32>,
    table: Vec<u32>,
    cache: Vec<u16>,
    q: Vec<u16>,
    /// Keys and values of each sequence, `[KV head][token][width]`.
    kv: Vec<Vec<(Vec<f32>, Vec<f32>)>>,
}

impl Batch {
    fn new(shape: AttentionShape, sequences: &[(u32, u32)], seed: u64) -> Batch {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (element, width) = (shape.element, shape.head_dim as usize);
        let layout = shape.kv_layout();
        let blocks: u32 = sequences.iter().map(|&(prefix, new)| blocks_of(prefix + new)).sum();
        let mut free: Vec<u32> = (0..blocks + 3).collect();
        free.shuffle(&mut random);
        // What no token fills is NaN, as is all of what no sequence owns.
        let mut cache = vec![u16::MAX; (blocks + 3) as usize * layout.block_elements()];
        let (mut table, mut entries, mut kv) = (vec![u32::MAX], Vec::new(), Vec::new());
        for &(prefix, new) in sequences {
            entries.push(table.len() as u32);
            let own: Vec<u32> = (0..blocks_of(prefix + new)).map(|_| free.pop().expect("enough blocks")).collect();
            let mut heads = Vec::new();
            for kv_head in 0..shape.kv_heads {
                let (mut keys, mut values) = (Vec::new(), Vec::new());
                for token in 0..prefix + new {
                    let (block, inside) = (own[(token / BLOCK_TOKENS) as usize], token % BLOCK_TOKENS);
                    for (first, out) in [
                        (layout.key(block, kv_head, inside), &mut keys),
                        (layout.value(block, kv_head, inside), &mut values),
                    ] {
                        for slot in &mut cache[first..first + width] {
                            *slot = element.encode(random.random::<f32>() * 4.0 - 2.0);
                            out.push(element.decode(*slot));
                        }
                    }
                }
                heads.push((keys, values));
            }
            kv.push(heads);
            table.extend(own);
        }
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        order.shuffle(&mut random);
        let (mut rows, mut row_count) = (vec![0; sequences.len()], 1);
        for index in order {
            rows[index] = row_count;
            row_count += sequences[index].1 + 1;
        }
        let q = (0..row_count * (shape.row_elements() + GAP))
            .map(|_| element.encode(random.random::<f32>() * 2.0 - 1.0))
            .collect();
        Batch { shape, sequences: sequences.to_vec(), rows, row_count, entries, table, cache, q, kv }
    }

    /// The same with queries some of which are many times as large: their scores lie tens of powers of two apart, and the
    /// largest comes anywhere.
    fn with_scores_far_apart(mut self) -> Batch {
        let (element, stride) = (self.shape.element, self.stride() as usize);
        for (row, scale) in self.q.chunks_exact_mut(stride).zip([12.0, 30.0, 1.0].into_iter().cycle()) {
            row.iter_mut().for_each(|bits| *bits = element.encode(element.decode(*bits) * scale));
        }
        self
    }

    /// The same where a head of a sequence's first new token looks for one token: its query is that token's key.
    fn looking_for(mut self, index: usize, head: u32, token: u32) -> Batch {
        let width = self.shape.head_dim as usize;
        let (keys, _) = &self.kv[index][(head / self.shape.queries()) as usize];
        let key = keys[token as usize * width..][..width].iter().map(|&value| self.shape.element.encode(value));
        let first = (self.rows[index] * self.stride()) as usize + head as usize * width;
        self.q.splice(first..first + width, key);
        self
    }

    fn stride(&self) -> u32 {
        self.shape.row_elements() + GAP
    }

    /// `None` for rows that no sequence has.
    fn expected(&self) -> Vec<Option<Vec<f64>>> {
        let width = self.shape.head_dim as usize;
        let mut out = vec![None; self.row_count as usize];
        for (index, &(prefix, new)) in self.sequences.iter().enumerate() {
            for token in 0..new {
                let row = (self.rows[index] + token) as usize;
                let mut values = Vec::new();
                for head in 0..self.shape.heads {
                    let from = row * self.stride() as usize + head as usize * width;
                    let query: Vec<f32> =
                        self.q[from..from + width].iter().map(|&bits| self.shape.element.decode(bits)).collect();
                    let (keys, vs) = &self.kv[index][(head / self.shape.queries()) as usize];
                    let seen = (prefix + token + 1) as usize * width;
                    values.extend(attend(&query, &keys[..seen], &vs[..seen], self.shape.softmax_scale()));
                }
                out[row] = Some(values);
            }
        }
        out
    }

    fn decode_plan(&self, tuning: DecodeTuning) -> DecodePlan {
        let sequences: Vec<_> = (0..self.sequences.len())
            .map(|index| DecodeSequence {
                row: self.rows[index],
                context: self.sequences[index].0 + 1,
                table: self.entries[index],
            })
            .collect();
        DecodePlan::new(self.shape, &sequences, &self.table, CHIP, tuning).expect("a valid batch")
    }

    /// A plan for a chip with more or fewer multiprocessors: more or fewer pieces.
    fn prefill_plan_on(&self, form: PrefillForm, chip: Chip) -> PrefillPlan {
        let sequences: Vec<_> = (0..self.sequences.len())
            .map(|index| {
                let (prefix, tokens) = self.sequences[index];
                PrefillSequence { row: self.rows[index], tokens, prefix, table: self.entries[index] }
            })
            .collect();
        let tuning = PrefillTuning { form: Some(form), quota: None };
        PrefillPlan::new(self.shape, &sequences, &self.table, chip, tuning).expect("a valid batch")
    }

    /// Checks every row that a sequence has, and that no other was touched.
    fn check(&self, out: &[u8], what: &str) {
        let out = words_of(out);
        let (norm, element) = match self.shape.element {
            Element::Bf16 => (1e-2, 0.05),
            Element::F16 => (2e-3, 0.01),
        };
        let stride = self.stride() as usize;
        let (mut values, mut reference) = (Vec::new(), Vec::new());
        for (row, expected) in self.expected().into_iter().enumerate() {
            let (here, gap) = out[row * stride..(row + 1) * stride].split_at(self.shape.row_elements() as usize);
            assert!(gap.iter().all(|&bits| bits == u16::MAX), "{what}: written beyond row {row}");
            match expected {
                Some(expected) => {
                    values.extend(here.iter().map(|&bits| f64::from(self.shape.element.decode(bits))));
                    reference.extend(expected);
                }
                None => assert!(here.iter().all(|&bits| bits == u16::MAX), "{what}: row {row} was written"),
            }
        }
        let deviation = Deviation::of(values.into_iter(), &reference);
        assert!(deviation.within(norm, element), "{what}: {deviation:?}");
    }
}

fn bytes_of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words_of(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// A case with the operands that both kernels have; `first` are the plan's own buffers.
fn case(batch: &Batch, variant: Variant, blocks: usize, first: Vec<Buffer>, last: Vec<Buffer>, seed: u64) -> Case {
    let fixed = |content| Buffer { content, hidden: false, output: false };
    let hidden = |content| Buffer { content, hidden: true, output: false };
    let mut buffers = first;
    buffers.push(fixed(batch.table.iter().flat_map(|id| id.to_le_bytes()).collect()));
    buffers.push(hidden(bytes_of(&batch.cache)));
    buffers.push(hidden(bytes_of(&batch.q)));
    buffers.push(Buffer { content: vec![0xff; batch.q.len() * 2], hidden: true, output: true });
    buffers.extend(last);
    let pointers = (0..buffers.len()).map(|target| Pointer { holder: None, offset: target * 8, target, addend: 0 });
    let pointers = pointers.collect();
    let mut arguments = vec![0; buffers.len() * 8];
    let scale = batch.shape.softmax_scale() * std::f32::consts::LOG2_E;
    arguments.extend(scale.to_le_bytes());
    let shape = &batch.shape;
    let words = match variant {
        Variant::Decode { .. } => vec![shape.kv_heads, shape.queries(), shape.queries().div_ceil(8)],
        Variant::Prefill { .. } => {
            let packed = PrefillForm::packed(shape);
            vec![shape.heads / packed, shape.kv_heads, packed, shape.queries() / packed, 0]
        }
    };
    arguments.extend([batch.stride(), batch.stride()].into_iter().chain(words).flat_map(u32::to_le_bytes));
    let shared_bytes = variant.shared_bytes(shape.queries()) as usize;
    Case {
        program: program(variant),
        blocks,
        threads: 128,
        shared_bytes,
        cluster: 1,
        seed,
        around: Around::default(),
        buffers,
        pointers,
        arguments,
    }
}

fn decode(runner: &Runner, batch: &Batch, plan: &DecodePlan, seed: u64) -> Result<Vec<u8>, String> {
    // Two workers more than the plan has: a launch of a larger capacity.
    let workers = plan.workers().len() + 2;
    let plain = |content| Buffer { content, hidden: false, output: false };
    let poisoned = |floats: usize| Buffer { content: vec![0xff; floats * 4], hidden: true, output: false };
    let first = vec![plain(plan.worker_bytes(workers)), plain(plan.sequence_bytes())];
    let queries = batch.shape.queries().min(8) as usize;
    let counters = Buffer { content: vec![0; workers * 16], hidden: false, output: true };
    let sums = 2 * workers * queries * batch.shape.head_dim as usize;
    let last = vec![poisoned(sums), poisoned(2 * workers * 8 * 4), counters];
    let mut outputs = runner.run(&case(batch, plan.variant(), workers, first, last, seed))?;
    if outputs[1].iter().any(|&byte| byte != 0) {
        return Err("a counter is not back at zero after the launch".to_owned());
    }
    Ok(outputs.remove(0))
}

fn prefill(runner: &Runner, batch: &Batch, plan: &PrefillPlan, seed: u64) -> Result<Vec<u8>, String> {
    // One piece more than the plan has: a launch of a larger capacity.
    let pieces = plan.pieces().len() + 1;
    let first = vec![Buffer { content: plan.piece_bytes(pieces), hidden: false, output: false }];
    let blocks = pieces * plan.form().groups(&batch.shape) as usize;
    let places = blocks * 64 * plan.form().fragments as usize;
    let poisoned = |floats: usize| Buffer { content: vec![0xff; floats * 4], hidden: true, output: false };
    let counters = Buffer { content: vec![0; blocks * 4], hidden: false, output: true };
    let last = vec![poisoned(places * batch.shape.head_dim as usize), poisoned(places * 4), counters];
    let mut outputs = runner.run(&case(batch, plan.variant(), blocks, first, last, seed))?;
    if outputs[1].iter().any(|&byte| byte != 0) {
        return Err("a counter is not back at zero after the launch".to_owned());
    }
    Ok(outputs.remove(0))
}

fn shape(element: Element, heads: u32, kv_heads: u32, head_dim: u32) -> AttentionShape {
    AttentionShape { element, heads, kv_heads, head_dim }
}

fn check_decode(runner: &Runner, batch: &Batch, tuning: DecodeTuning, seed: u64) {
    let plan = batch.decode_plan(tuning);
    let what = format!("{:?}, {} workers, {tuning:?}", batch.shape, plan.workers().len());
    let out = decode(runner, batch, &plan, seed).unwrap_or_else(|error| panic!("{what}: {error}"));
    batch.check(&out, &what);
    let again = decode(runner, batch, &plan, seed + 1).expect("it ran before");
    assert!(again == out, "{what}: another order of warps gives other bits");
}

#[test]
fn decode_agrees_with_float64_on_ragged_contexts_in_every_variant() {
    let Some(runner) = runner() else { return };
    let contexts = [1, 16, 17, 250, 15, 90].map(|context| (context - 1, 1));
    for element in Element::ALL {
        for (heads, kv_heads, head_dim) in [(3, 3, 64), (8, 2, 128)] {
            let batch = Batch::new(shape(element, heads, kv_heads, head_dim), &contexts, 3);
            for depth in if head_dim == 64 { [4, 6] } else { [2, 3] } {
                check_decode(runner, &batch, DecodeTuning { depth: Some(depth), ..DecodeTuning::default() }, 5);
            }
        }
    }
}

#[test]
fn decode_splits_one_long_sequence_over_any_number_of_workers() {
    let Some(runner) = runner() else { return };
    let batch = Batch::new(shape(Element::F16, 8, 1, 64), &[(700, 1)], 11);
    for workers in [1, 2, 3, 7, 11] {
        for even in [true, false] {
            let tuning = DecodeTuning { workers: Some(workers), even: Some(even), ..DecodeTuning::default() };
            check_decode(runner, &batch, tuning, 1);
        }
    }
    // More parts than are added up at once: in two levels, the last of them with a rest of one part.
    let batch = Batch::new(shape(Element::Bf16, 2, 1, 64), &[(2170, 1), (3, 1)], 12);
    for empty in [0, 1, 2] {
        let (workers, empty, grain) = (Some(36), Some(empty), Some(1));
        let tuning = DecodeTuning { workers, empty, grain, even: Some(false), ..DecodeTuning::default() };
        let parts = batch.decode_plan(tuning).workers().iter().filter(|worker| worker.sequence == 0).count();
        assert!(parts > 17, "{parts} parts");
        check_decode(runner, &batch, tuning, 1);
    }
}

/// More than 256 parts leave more than 16 bundles: those, too, are more than are added up at once. The largest score is in
/// the last part, so that all that was added up before is rescaled.
#[test]
fn decode_adds_up_more_bundles_than_at_once() {
    let Some(runner) = runner() else { return };
    let context = 258 * 4 * BLOCK_TOKENS;
    let shape = shape(Element::F16, 2, 1, 64);
    let batch = Batch::new(shape, &[(context - 1, 1)], 13).looking_for(0, 0, context - 1).looking_for(0, 1, 70);
    let (workers, empty, grain) = (Some(258), Some(0), Some(1));
    let plan = batch.decode_plan(DecodeTuning { workers, empty, grain, even: Some(false), ..DecodeTuning::default() });
    assert!(plan.workers().len() > 256, "{} parts", plan.workers().len());
    batch.check(&decode(runner, &batch, &plan, 1).expect("it runs"), "more than 16 bundles");
}

/// Shares of whole rounds of a worker's warps: no context of up to four KV blocks is cut, and none among the empty places behind it.
#[test]
fn decode_shares_out_whole_rounds() {
    let Some(runner) = runner() else { return };
    let contexts = [64, 1, 300, 17, 48, 90, 33, 16, 130, 64, 5].map(|context| (context - 1, 1));
    let batch = Batch::new(shape(Element::Bf16, 4, 2, 64), &contexts, 9);
    for workers in [1, 3, 5, 16] {
        let tuning = DecodeTuning { workers: Some(workers), even: Some(false), ..DecodeTuning::default() };
        let plan = batch.decode_plan(tuning);
        let whole = |sequence: u32| contexts[sequence as usize].0 < 64;
        assert!(plan.workers().iter().all(|worker| worker.block == 0 || !whole(worker.sequence)), "{workers} workers");
        check_decode(runner, &batch, tuning, 1);
    }
}

#[test]
fn decode_serves_any_number_of_queries_a_kv_head() {
    let Some(runner) = runner() else { return };
    for (heads, kv_heads) in [(5, 1), (7, 7), (12, 1), (16, 1), (20, 2)] {
        let batch = Batch::new(shape(Element::Bf16, heads, kv_heads, 64), &[(70, 1), (0, 1), (200, 1)], 4);
        check_decode(runner, &batch, DecodeTuning { workers: Some(5), ..DecodeTuning::default() }, 2);
    }
}

#[test]
fn decode_of_nothing_touches_nothing() {
    let Some(runner) = runner() else { return };
    let batch = Batch::new(shape(Element::Bf16, 2, 2, 128), &[], 4);
    let plan = batch.decode_plan(DecodeTuning::default());
    assert!(plan.workers().is_empty());
    batch.check(&decode(runner, &batch, &plan, 1).expect("it runs"), "no sequences");
}

fn check_prefill(runner: &Runner, batch: &Batch, plan: &PrefillPlan, seed: u64) {
    let what = format!("{:?}, {:?}, {} pieces", batch.shape, plan.form(), plan.pieces().len());
    let out = prefill(runner, batch, plan, seed).unwrap_or_else(|error| panic!("{what}: {error}"));
    batch.check(&out, &what);
    let again = prefill(runner, batch, plan, seed + 1).expect("it ran before");
    assert!(again == out, "{what}: another order of warps gives other bits");
}

#[test]
fn prefill_agrees_with_float64_on_ragged_chunks_and_prefixes_in_every_variant() {
    let Some(runner) = runner() else { return };
    let chunks = [(0, 1), (0, 64), (37, 130), (16, 0), (129, 17), (0, 15), (63, 66)];
    for element in Element::ALL {
        for (heads, kv_heads, head_dim) in [(2, 1, 64), (2, 2, 128)] {
            let batch = Batch::new(shape(element, heads, kv_heads, head_dim), &chunks, 8);
            for form in PrefillForm::ALL {
                check_prefill(runner, &batch, &batch.prefill_plan_on(form, LARGE), 3);
            }
        }
    }
}

#[test]
fn prefill_packs_any_number_of_queries_a_kv_head() {
    let Some(runner) = runner() else { return };
    for (heads, kv_heads) in [(5, 1), (12, 1), (16, 1), (17, 1), (20, 2)] {
        let batch = Batch::new(shape(Element::Bf16, heads, kv_heads, 64), &[(70, 9), (0, 1), (200, 3)], 4);
        for form in PrefillForm::ALL {
            check_prefill(runner, &batch, &batch.prefill_plan_on(form, LARGE), 2);
        }
    }
}

#[test]
fn prefill_cuts_the_keys_of_a_tile_into_any_number_of_pieces() {
    let Some(runner) = runner() else { return };
    let batch = Batch::new(shape(Element::F16, 2, 1, 64), &[(1100, 21)], 11);
    for (multiprocessors, pieces) in [(1, 2), (2, 4), (9, 5)] {
        let plan = batch.prefill_plan_on(PrefillForm { fragments: 1, split: true }, Chip { multiprocessors, ..CHIP });
        assert_eq!(plan.pieces().len(), pieces, "on {multiprocessors}");
        check_prefill(runner, &batch, &plan, 1);
    }
    // Long and short ones in one launch, a diagonal that falls on a border, tiles of whose pieces some see no key.
    let batch = Batch::new(shape(Element::Bf16, 2, 1, 128), &[(700, 60), (0, 33), (900, 130), (255, 2), (3, 5)], 12);
    for fragments in [1, 2] {
        let plan = batch.prefill_plan_on(PrefillForm { fragments, split: true }, LARGE);
        assert!(plan.pieces().iter().any(|piece| piece.part.1 > 3));
        assert!(plan.pieces().iter().any(|piece| piece.part.1 == 1));
        check_prefill(runner, &batch, &plan, 1);
    }
}

/// Scores that lead by more than weights may grow rescale all that was summed before, in some rows of a warp and not in
/// others; by more still, the weights of fp16 would be infinite without.
#[test]
fn prefill_rescales_where_scores_are_far_apart() {
    let Some(runner) = runner() else { return };
    for element in Element::ALL {
        let chunks = [(300, 1), (62, 3), (0, 130), (700, 40)];
        let batch = Batch::new(shape(element, 2, 1, 64), &chunks, 31).with_scores_far_apart();
        for form in PrefillForm::ALL {
            check_prefill(runner, &batch, &batch.prefill_plan_on(form, LARGE), 3);
        }
    }
    // In one piece more than are added up at once.
    let batch = Batch::new(shape(Element::F16, 2, 1, 64), &[(4350, 20)], 32).with_scores_far_apart();
    let plan = batch.prefill_plan_on(PrefillForm { fragments: 1, split: true }, LARGE);
    assert!(plan.pieces().iter().all(|piece| piece.part.1 > 16));
    check_prefill(runner, &batch, &plan, 1);
}

/// Tiles of new tokens that begin at every distance from the end of a key tile.
#[test]
fn prefill_sees_no_later_key_wherever_a_tile_begins() {
    let Some(runner) = runner() else { return };
    let chunks: Vec<_> = [58, 59, 60, 61, 62, 63, 64, 65, 126].map(|prefix| (prefix, 9)).into();
    let batch = Batch::new(shape(Element::F16, 2, 1, 64), &chunks, 34);
    for form in PrefillForm::ALL {
        check_prefill(runner, &batch, &batch.prefill_plan_on(form, LARGE), 3);
    }
}

#[test]
fn prefill_of_one_token_and_decode_agree() {
    let Some(runner) = runner() else { return };
    let batch = Batch::new(shape(Element::Bf16, 4, 2, 128), &[(300, 1), (12, 1), (31, 1)], 21);
    let other = decode(runner, &batch, &batch.decode_plan(DecodeTuning::default()), 3).expect("it runs");
    batch.check(&other, "decode");
    for split in [false, true] {
        let one = batch.prefill_plan_on(PrefillForm { fragments: 1, split }, LARGE);
        batch.check(&prefill(runner, &batch, &one, 3).expect("it runs"), "prefill");
    }
}

/// What the shim is for: each of these faults passes unnoticed on some GPU, some of the time.
#[test]
fn planted_faults_in_attention_are_found() {
    let faults = [
        (
            "decode_attention.cu",
            "copy_wait<DEPTH - 1>();",
            "copy_wait<DEPTH>();",
            "a ring's oldest unit used before it is waited for",
        ),
        ("decode_attention.cu", "row < rows ? 16 : 0;", "16;", "what lies behind the last token used"),
        ("decode_attention.cu", "  dependency_wait();\n#pragma", "#pragma", "keys read before they are appended"),
        ("decode_attention.cu", "if (*said) *counter = 0;", "", "a counter not put back"),
        (
            "decode_attention.cu",
            "    block_barrier();\n    const bool whole",
            "    const bool whole",
            "sums read before the other warps left theirs",
        ),
        (
            "prefill_attention.cu",
            "    copy_wait<0>();\n",
            "    copy_wait<1>();\n",
            "a key tile used before it is waited for",
        ),
        ("prefill_attention.cu", "n * STEP + first < left ? 16 : 0", "16", "what lies behind the last token used"),
        (
            "prefill_attention.cu",
            "    block_barrier();  // this",
            "    // this",
            "a key tile read before all have filled it",
        ),
        ("prefill_attention.cu", "h * 8 + i);", "h * 8 + i) + 1;", "a key seen before its time"),
        ("prefill_attention.cu", "    parts.wait();\n", "", "sums read before the other pieces left theirs"),
        ("prefill_attention.cu", "    parts.release();\n", "", "a counter not put back"),
    ];
    let shape = shape(Element::Bf16, 2, 1, 64);
    let batch = Batch::new(shape, &[(100, 1), (9, 1), (260, 1)], 5);
    let chunks = Batch::new(shape, &[(251, 70), (0, 130)], 6);
    let decode_plan = batch.decode_plan(DecodeTuning { workers: Some(4), ..DecodeTuning::default() });
    let prefill_plan = chunks.prefill_plan_on(PrefillForm { fragments: 1, split: true }, LARGE);
    assert!(prefill_plan.pieces().iter().any(|piece| piece.part.1 > 1));
    for (index, (source, from, to, what)) in faults.into_iter().enumerate() {
        let plant = |program: &Program, text: &str| {
            if program.source != source {
                return text.to_owned();
            }
            assert!(text.contains(from), "the fault to plant is no longer in {source}: {from}");
            text.replacen(from, to, 1)
        };
        let is_decode = source.starts_with("decode");
        let variant = if is_decode { decode_plan.variant() } else { prefill_plan.variant() };
        let Some(runner) = Runner::build(&format!("attention_fault{index}"), vec![program(variant)], plant) else {
            return;
        };
        let found = std::panic::catch_unwind(|| {
            if is_decode {
                batch.check(&decode(&runner, &batch, &decode_plan, 7).expect("no fault"), what);
            } else {
                chunks.check(&prefill(&runner, &chunks, &prefill_plan, 7).expect("no fault"), what);
            }
        });
        assert!(found.is_err(), "not found: {what}");
    }
}
