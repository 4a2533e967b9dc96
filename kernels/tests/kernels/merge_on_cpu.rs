//! The merge kernel on the CPU shim against float64.

use aril_kernels::Element;
use aril_kernels::baseline::layout::{RowMajorLayout, stride};
use aril_kernels::baseline::merged::{grid, unit};
use aril_kernels::lora::layout::ProjectionShape;
use aril_kernels::reference::lora::{Deviation, Weights, merge};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shim::{Around, Buffer, Case, Pointer, Program, Runner};

const GAP: u32 = 8;
const SCALE: f32 = 0.75;

fn bytes_of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Merges a random adapter into random weights, rows [`GAP`] apart; `Err` says what was wrong.
fn check(runner: &Runner, element: Element, shape: ProjectionShape, rank: u32, seed: u64) -> Result<(), String> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw = |count: u32, scale: f32| -> Vec<u16> {
        (0..count).map(|_| element.encode((random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
    };
    let (inputs, outputs) = (shape.inputs, shape.outputs);
    let (a, b, base) = (draw(inputs * rank, 1.0), draw(rank * outputs, 1.0), draw(inputs * outputs, 1.0));
    let layout = RowMajorLayout::new(&[shape]).expect("multiples of 8");
    let ranks = stride(rank);
    let mut adapter = vec![0; layout.elements(ranks)];
    layout.pack(0, rank, ranks, &a, &b, &mut adapter).expect("the shapes fit");
    let (width, w_stride) = (inputs as usize, inputs + GAP);
    let spread: Vec<u16> =
        base.chunks_exact(width).flat_map(|row| row.iter().copied().chain([u16::MAX; GAP as usize])).collect();
    let buffers = vec![
        Buffer { content: bytes_of(&spread), hidden: true, output: true },
        Buffer { content: bytes_of(&adapter[..width * ranks as usize]), hidden: false, output: false },
        Buffer { content: bytes_of(&adapter[width * ranks as usize..]), hidden: false, output: false },
    ];
    let pointers = (0..3).map(|n| Pointer { holder: None, offset: 8 * n, target: n, addend: 0 }).collect();
    let mut arguments = vec![0_u8; 24];
    arguments.extend([w_stride, inputs, outputs, ranks, inputs.div_ceil(128)].into_iter().flat_map(u32::to_le_bytes));
    arguments.extend(SCALE.to_le_bytes());
    let grid = grid(shape, rank);
    let case = Case {
        program: Program::of(unit(element, "sm_80"), "merge_adapter"),
        blocks: grid.blocks as usize,
        threads: grid.threads as usize,
        shared_bytes: grid.shared_bytes as usize,
        cluster: 1,
        seed,
        around: Around::default(),
        buffers,
        pointers,
        arguments,
    };
    let merged = runner.run(&case)?.pop().expect("the weights");
    let merged: Vec<u16> = merged.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let rows = || merged.chunks_exact(w_stride as usize);
    if rows().any(|row| row[width..].iter().any(|&word| word != u16::MAX)) {
        return Err("written between the rows".to_owned());
    }
    let decode = |bits: &[u16]| -> Vec<f32> { bits.iter().map(|&bits| element.decode(bits)).collect() };
    let expected = merge(&decode(&base), width, SCALE, Weights { a: &decode(&a), b: &decode(&b), rank: rank as usize });
    let values = rows().flat_map(|row| row[..width].iter().map(|&bits| f64::from(element.decode(bits))));
    let deviation = Deviation::of(values, &expected);
    let norm = if element == Element::Bf16 { 4e-3 } else { 5e-4 };
    if deviation.within(norm, 0.2) { Ok(()) } else { Err(format!("{deviation:?}")) }
}

const fn shape(inputs: u32, outputs: u32) -> ProjectionShape {
    ProjectionShape { inputs, outputs }
}

fn programs() -> Vec<Program> {
    Element::ALL.into_iter().map(|element| Program::of(unit(element, "sm_80"), "merge_adapter")).collect()
}

#[test]
fn a_merge_of_any_rank_and_width_agrees_with_float64() {
    let Some(runner) = Runner::build("merge", programs(), |_, source| source.to_owned()) else { return };
    let cases = [
        (Element::Bf16, shape(128, 128), 16),
        (Element::F16, shape(200, 136), 5),
        (Element::Bf16, shape(136, 8), 24),
        (Element::F16, shape(8, 264), 64),
        (Element::Bf16, shape(264, 40), 256),
        (Element::F16, shape(40, 40), 1),
    ];
    for (seed, (element, shape, rank)) in cases.into_iter().enumerate() {
        if let Err(error) = check(&runner, element, shape, rank, seed as u64) {
            panic!("{shape:?}, rank {rank}: {error}");
        }
    }
}

#[test]
fn planted_faults_in_the_merge_are_found() {
    let faults = [
        ("  block_barrier();\n", "", "A used before it is there"),
        ("if (first + 4 * q < args.ranks) {", "{", "ranks of the next output"),
        ("first_output + i + 8 * half < args.outputs && ", "", "W read past its last row"),
        (" || first_input + 32 * g + 8 * q >= args.inputs) continue", ") continue", "W written past its last column"),
    ];
    for (index, (from, to, what)) in faults.into_iter().enumerate() {
        let change = |_: &Program, source: &str| {
            assert!(source.contains(from), "the fault to plant is no longer in the source: {from}");
            source.replacen(from, to, 1)
        };
        let Some(runner) = Runner::build(&format!("merge-fault{index}"), programs(), change) else { return };
        assert!(check(&runner, Element::Bf16, shape(72, 24), 8, 3).is_err(), "not found: {what}");
    }
}
