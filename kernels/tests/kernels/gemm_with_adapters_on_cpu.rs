//! A GEMM and the adapters of its projections in one launch, on the CPU shim against float64.

use std::sync::OnceLock;

use aril_kernels::Element;
use aril_kernels::gemm::few_rows::{Shares, Variant};
use aril_kernels::lora::plan::{CELL_BYTES, Chip, Exchange, Job, Plan, Tuning};
use aril_kernels::lora::variant::RowTile;
use aril_kernels::reference::llama::multiply;
use aril_kernels::reference::lora::Deviation;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::batch::{Batch, Part};
use crate::shim::{Buffer, Case, Pointer, Program, Runner};

const CHIP: Chip = Chip { multiprocessors: 16, shared_bytes_block_max: 232_448, cluster_max: 16 };
const KERNEL: &str = "gemm_with_adapters";
/// Bytes of the arguments: the GEMM's, then the adapters'.
const GEMM: usize = 80;
const LORA: usize = 48 + 4 * 48 + 16;

fn program(element: Element, rows: u32) -> Program {
    let defines = Variant::of(element, rows).defines_with_adapters();
    Program { source: "gemm_with_adapters.cu", defines, kernel: KERNEL }
}

fn runner() -> Option<&'static Runner> {
    static RUNNER: OnceLock<Option<Runner>> = OnceLock::new();
    // Each number of row tiles once: compiling them is what takes time.
    let programs =
        || [(Element::Bf16, 8), (Element::F16, 16), (Element::Bf16, 32)].map(|(e, rows)| program(e, rows)).into();
    RUNNER.get_or_init(|| Runner::build(KERNEL, programs(), |_, source| source.to_owned())).as_ref()
}

fn halves(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn part(rows: u32, rank: u32) -> Part {
    Part { rows, rank }
}

/// One launch: `blocks` of the GEMM at most, `members` blocks of adapters at most. Returns y of the GEMM and of each of
/// the adapters' projections.
fn run(runner: &Runner, batch: &Batch, w: &[u16], [blocks, members]: [u32; 2], seed: u64) -> Vec<Vec<u16>> {
    let element = batch.site.element();
    let inputs = batch.site.inputs();
    let outputs: u32 = batch.site.places().iter().map(|place| place.shape.outputs).sum();
    let variant = Variant::of(element, batch.rows);
    let shares = Shares::new(inputs, outputs, blocks);
    let tuning = Tuning {
        row_tile: Some(RowTile::Rows8),
        exchange: Some(Exchange::Global),
        blocks: Some(members),
        shared_bytes: Some(CHIP.shared_bytes_block_max - variant.shared_bytes()),
    };
    let segments = batch.segments(|adapter| (adapter as u64 + 1) * 4096);
    let plan = Plan::new(&batch.site, &segments, CHIP, tuning).expect("a valid batch");
    assert_eq!((plan.cluster(), plan.variant().rows), (1, RowTile::Rows8));
    // Two more jobs have nothing to do.
    let jobs: Vec<u8> = plan.jobs().iter().copied().chain([Job::default(); 2]).flat_map(|job| job.to_bytes()).collect();
    let count = plan.jobs().len() as u32 + 2;
    let tiles = variant.tiles as usize;
    let buffer = |content, hidden, output| Buffer { content, hidden, output };
    let mut buffers = vec![
        buffer(halves(w), false, false),
        buffer(halves(&batch.x), true, false),
        buffer(halves(&vec![0x7fff; (batch.rows * outputs) as usize]), true, true),
        buffer(vec![0xff; shares.blocks as usize * 2 * tiles * 256 * 16], false, true),
        buffer(jobs, false, false),
        buffer(vec![0xff; plan.inbox_cells() as usize * CELL_BYTES], false, true),
    ];
    let pointer = |holder, offset, target| Pointer { holder, offset, target, addend: 0 };
    let mut pointers: Vec<Pointer> = (0..4).map(|n| pointer(None, 8 * n, n)).collect();
    pointers.push(pointer(None, GEMM, 4));
    pointers.push(pointer(None, GEMM + 8, 1));
    pointers.push(pointer(None, GEMM + 16, 5));
    let mut arguments = vec![0_u8; GEMM + LORA];
    let mut put = |offset: usize, value: u32| arguments[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    let gemm =
        [inputs, outputs, batch.rows, inputs, outputs, shares.tile_steps, shares.total_steps, shares.block_steps];
    for (index, value) in gemm.into_iter().enumerate() {
        put(32 + 4 * index, value);
    }
    for (offset, value) in [(24, inputs), (28, inputs), (32, count), (40, plan.depth())] {
        put(GEMM + offset, value);
    }
    for (index, place) in batch.site.places().iter().enumerate() {
        let at = GEMM + 48 + index * 48;
        for (offset, value) in
            [(0, place.a_tiles as u32), (8, place.b_tiles as u32), (32, place.shape.outputs), (40, place.shape.outputs)]
        {
            put(at + offset, value);
        }
        pointers.push(pointer(None, at + 16, buffers.len()));
        buffers.push(buffer(halves(&batch.y[index]), true, true));
    }
    let first_adapter = buffers.len();
    buffers.extend(batch.adapters.iter().map(|adapter| buffer(halves(&adapter.packed), false, false)));
    for (index, job) in plan.jobs().iter().enumerate() {
        pointers.push(pointer(Some(4), index * Job::BYTES, first_adapter + (job.weights / 4096 - 1) as usize));
    }
    let case = Case {
        program: program(element, batch.rows),
        blocks: shares.blocks.max(count) as usize + 1,
        threads: 512,
        shared_bytes: (variant.shared_bytes() + plan.shared_bytes()) as usize,
        cluster: 1,
        seed,
        buffers,
        pointers,
        arguments,
    };
    let mut results = runner.run(&case).unwrap_or_else(|error| panic!("{error}"));
    for inbox in [results.remove(1), results.remove(1)] {
        assert!(inbox.iter().all(|&byte| byte == 0xff), "an inbox is not empty after the launch");
    }
    results.iter().map(|bytes| words(bytes)).collect()
}

#[test]
fn one_launch_multiplies_and_adds_what_adapters_add() {
    let Some(runner) = runner() else { return };
    let batches: [(Element, u32, &[u32], &[Part]); 4] = [
        (Element::Bf16, 200, &[136, 72], &[part(1, 16), part(1, 5), part(3, 0), part(2, 40)]),
        (Element::F16, 264, &[256], &[part(1, 8), part(0, 16), part(12, 130)]),
        (Element::Bf16, 512, &[128, 64, 64], &[part(9, 16), part(11, 0), part(12, 24)]),
        (Element::Bf16, 72, &[40], &[part(1, 1)]),
    ];
    for (index, (element, inputs, outputs, parts)) in batches.into_iter().enumerate() {
        let bound = if element == Element::Bf16 { (4e-3, 1e-2) } else { (6e-4, 2e-3) };
        let batch = Batch::new(element, inputs, outputs, parts, index as u64);
        let mut random = ChaCha8Rng::seed_from_u64(50 + index as u64);
        let count = inputs * outputs.iter().sum::<u32>();
        let w: Vec<u16> = (0..count).map(|_| element.encode(random.random::<f32>() * 2.0 - 1.0)).collect();
        for split in [[3, 4], [7, 16]] {
            let what = format!("{element:?} {inputs}→{outputs:?} {parts:?} in {split:?}");
            let results = run(runner, &batch, &w, split, 9);
            let weights = batch.decode(&w);
            let expected: Vec<f64> = batch
                .x
                .chunks_exact(inputs as usize)
                .flat_map(|row| multiply(&batch.decode(row).into_iter().map(f64::from).collect::<Vec<_>>(), &weights))
                .collect();
            let norm = |bits: &[u16], expected: &[f64]| {
                Deviation::of(batch.decode(bits).into_iter().map(f64::from), expected).relative_norm
            };
            assert!(norm(&results[0], &expected) < bound.0, "{what}: {}", norm(&results[0], &expected));
            for (projection, delta) in results[1..].iter().enumerate() {
                let deviation = norm(delta, &batch.expected_y(projection));
                assert!(deviation < bound.1, "{what}, projection {projection}: {deviation}");
            }
        }
    }
}
