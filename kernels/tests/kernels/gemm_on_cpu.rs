//! The GEMM of few rows on the CPU shim against float64.

use std::sync::OnceLock;

use aril_kernels::Element;
use aril_kernels::gemm::few_rows::{Shares, Variant};
use aril_kernels::reference::llama::multiply;
use aril_kernels::reference::lora::Deviation;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shim::{Buffer, Case, Pointer, Program, Runner};

fn program(variant: Variant) -> Program {
    Program { source: "gemm.cu", defines: variant.defines(), kernel: "gemm_few_rows" }
}

fn runner() -> Option<&'static Runner> {
    static RUNNER: OnceLock<Option<Runner>> = OnceLock::new();
    let programs = || Variant::all().map(program).collect();
    RUNNER.get_or_init(|| Runner::build("gemm", programs(), |_, source| source.to_owned())).as_ref()
}

fn bytes<T: Copy, const N: usize>(values: impl IntoIterator<Item = T>, encode: impl Fn(T) -> [u8; N]) -> Vec<u8> {
    values.into_iter().flat_map(encode).collect()
}

/// y of one launch, its guard and the inbox checked.
fn run(runner: &Runner, element: Element, rows: u32, inputs: u32, outputs: u32, blocks_max: u32, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut draw =
        |count: u32| -> Vec<u16> { (0..count).map(|_| element.encode(random.random::<f32>() * 2.0 - 1.0)).collect() };
    let (x_stride, y_stride) = (inputs + 8, outputs + 16);
    let (w, x) = (draw(outputs * inputs), draw(rows * x_stride));
    let variant = Variant::of(element, rows);
    let shares = Shares::new(inputs, outputs, blocks_max);
    let inbox = shares.blocks as usize * variant.tiles as usize * 256 * 16;
    let y = vec![0x7fff_u16; (rows * y_stride) as usize];
    let words = |values: &[u16]| bytes(values.iter().copied(), u16::to_le_bytes);
    let buffer = |content, hidden, output| Buffer { content, hidden, output };
    let mut arguments = vec![0_u8; 32];
    let last = [x_stride, y_stride, rows, inputs, outputs, shares.tile_steps, shares.total_steps, shares.block_steps];
    arguments.extend(bytes(last, u32::to_le_bytes));
    let case = Case {
        program: program(variant),
        blocks: shares.blocks as usize,
        threads: 256,
        shared_bytes: variant.shared_bytes() as usize,
        cluster: 1,
        seed,
        buffers: vec![
            buffer(words(&w), false, false),
            buffer(words(&x), true, false),
            buffer(words(&y), false, true),
            buffer(vec![0xff; inbox], false, true),
        ],
        pointers: (0..4).map(|n| Pointer { holder: None, offset: 8 * n, target: n, addend: 0 }).collect(),
        arguments,
    };
    let what = format!("{element:?} {rows} rows {inputs}→{outputs} in {} blocks", shares.blocks);
    let mut results = match runner.run(&case) {
        Ok(results) => results,
        Err(error) => panic!("{what}: {error}"),
    };
    assert!(results.pop().expect("the inbox").iter().all(|&byte| byte == 0xff), "{what}: the inbox is not empty");
    let result: Vec<u16> = results[0].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let decode = |bits: &[u16]| bits.iter().map(|&bits| element.decode(bits)).collect::<Vec<f32>>();
    let weights = decode(&w);
    for (row, line) in result.chunks_exact(y_stride as usize).enumerate() {
        let input = decode(&x[row * x_stride as usize..][..inputs as usize]);
        let expected = multiply(&input.into_iter().map(f64::from).collect::<Vec<_>>(), &weights);
        let (values, guard) = line.split_at(outputs as usize);
        let deviation = Deviation::of(values.iter().map(|&bits| f64::from(element.decode(bits))), &expected);
        let bound = if element == Element::Bf16 { 4e-3 } else { 6e-4 };
        assert!(deviation.relative_norm < bound, "{what}, row {row}: {deviation:?}");
        assert!(guard.iter().all(|&bits| bits == 0x7fff), "{what}, row {row}: written beyond the outputs");
    }
}

#[test]
fn every_variant_agrees_with_float64_on_ragged_shapes() {
    let Some(runner) = runner() else { return };
    for element in Element::ALL {
        for (rows, inputs, outputs, blocks) in [
            (1, 512, 256, 3),   // tiles split among blocks in the middle
            (5, 72, 40, 4),     // less than a step of inputs, less than a tile of outputs
            (16, 200, 392, 6),  // ragged both ways
            (27, 640, 136, 16), // many blocks a tile
            (64, 136, 512, 2),  // several tiles a block
        ] {
            run(runner, element, rows, inputs, outputs, blocks, 3);
        }
    }
}

#[test]
fn one_block_and_a_block_for_each_step_give_what_others_give() {
    let Some(runner) = runner() else { return };
    for blocks in [1, 2, 3, 5, 7, 20] {
        run(runner, Element::Bf16, 9, 320, 512, blocks, u64::from(blocks));
    }
}
