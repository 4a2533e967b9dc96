//! The GEMM of few rows on the CPU shim against float64.

use std::sync::OnceLock;

use aril_kernels::Element;
use aril_kernels::gemm::few_rows::{Shares, Variant};
use aril_kernels::reference::llama::multiply;
use aril_kernels::reference::lora::Deviation;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::shim::{Around, Buffer, Case, Pointer, Program, Runner};

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

/// One launch against float64; its guard and the inbox checked too. y, or what is wrong. `seed`: of the order of warps and
/// of `delays`.
fn run(
    runner: &Runner,
    element: Element,
    [rows, inputs, outputs, blocks_max]: [u32; 4],
    seed: u64,
    delays: bool,
) -> Result<Vec<u16>, String> {
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let mut draw =
        |count: u32| -> Vec<u16> { (0..count).map(|_| element.encode(random.random::<f32>() * 2.0 - 1.0)).collect() };
    let (x_stride, y_stride) = (inputs + 8, outputs + 16);
    let (w, x) = (draw(outputs * inputs), draw(rows * x_stride));
    let variant = Variant::of(element, rows);
    let shares = Shares::new(inputs, outputs, blocks_max).expect("a small shape");
    let inbox = shares.blocks as usize * 2 * variant.tiles as usize * 256 * 16;
    let y = vec![0x7fff_u16; (rows * y_stride) as usize];
    let words = |values: &[u16]| bytes(values.iter().copied(), u16::to_le_bytes);
    let buffer = |content, hidden, output| Buffer { content, hidden, output };
    let mut arguments = vec![0_u8; 32];
    let last = [x_stride, y_stride, rows, inputs, outputs, shares.tile_steps, shares.total_steps, shares.block_steps];
    arguments.extend(bytes(last, u32::to_le_bytes));
    // The word that says that x is there, its mark, and nothing.
    let told = arguments.len();
    arguments.extend([0; 8]);
    arguments.extend(bytes([7, 0], u32::to_le_bytes));
    let case = Case {
        program: program(variant),
        blocks: shares.blocks as usize,
        threads: 256,
        shared_bytes: variant.shared_bytes() as usize,
        cluster: 1,
        seed,
        around: Around { delays, ..Around::default() },
        buffers: vec![
            buffer(words(&w), false, false),
            buffer(words(&x), true, false),
            // Whatever ran before may still use these: nothing is written to them before the wait.
            buffer(words(&y), true, true),
            buffer(vec![0xff; inbox], true, true),
            buffer(vec![0; 4], true, true),
        ],
        pointers: (0..5)
            .map(|n| Pointer { holder: None, offset: if n < 4 { 8 * n } else { told }, target: n, addend: 0 })
            .collect(),
        arguments,
    };
    let what = format!("{element:?} {rows} rows {inputs}→{outputs} in {} blocks", shares.blocks);
    let mut results = runner.run(&case).map_err(|error| format!("{what}: {error}"))?;
    if results.pop().expect("the word") != 7_u32.to_le_bytes() {
        return Err(format!("{what}: nobody says that x is there"));
    }
    if results.pop().expect("the inbox").iter().any(|&byte| byte != 0xff) {
        return Err(format!("{what}: the inbox is not empty"));
    }
    let result: Vec<u16> = results[0].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let decode = |bits: &[u16]| bits.iter().map(|&bits| element.decode(bits)).collect::<Vec<f32>>();
    let weights = decode(&w);
    for (row, line) in result.chunks_exact(y_stride as usize).enumerate() {
        let input = decode(&x[row * x_stride as usize..][..inputs as usize]);
        let expected = multiply(&input.into_iter().map(f64::from).collect::<Vec<_>>(), &weights);
        let (values, guard) = line.split_at(outputs as usize);
        let deviation = Deviation::of(values.iter().map(|&bits| f64::from(element.decode(bits))), &expected);
        let bound = if element == Element::Bf16 { 4e-3 } else { 6e-4 };
        if deviation.relative_norm.is_nan() || deviation.relative_norm > bound {
            return Err(format!("{what}, row {row}: {deviation:?}"));
        }
        if guard.iter().any(|&bits| bits != 0x7fff) {
            return Err(format!("{what}, row {row}: written beyond the outputs"));
        }
    }
    Ok(result)
}

fn check(runner: &Runner, element: Element, shape: [u32; 4], seed: u64) {
    if let Err(wrong) = run(runner, element, shape, seed, false) {
        panic!("{wrong}");
    }
}

#[test]
fn every_variant_agrees_with_float64_on_ragged_shapes() {
    let Some(runner) = runner() else { return };
    for element in Element::ALL {
        for shape in [
            [1, 512, 256, 3],    // tiles split among blocks in the middle
            [5, 72, 40, 4],      // less than a step of inputs, less than a tile of outputs
            [16, 200, 264, 4],   // ragged both ways
            [27, 384, 136, 12],  // a block for each step
            [64, 136, 256, 2],   // a tile a block
            [30, 1408, 136, 21], // more blocks of a tile than one has sums of
            [20, 1216, 72, 19],  // more than are asked for at once
        ] {
            check(runner, element, shape, 3);
        }
    }
}

#[test]
fn any_number_of_blocks_gives_the_same() {
    let Some(runner) = runner() else { return };
    for blocks in [1, 2, 3, 5, 7, 20] {
        check(runner, Element::Bf16, [9, 192, 384, blocks], u64::from(blocks));
    }
}

/// Blocks that begin late and warps that fall asleep: where a block has several tiles, or a tile more blocks than are asked
/// for at once.
#[test]
fn whatever_is_late_changes_no_bit() {
    let Some(runner) = runner() else { return };
    for shape in [[5, 512, 256, 3], [16, 200, 264, 4], [30, 1408, 136, 21]] {
        let run =
            |seed, delays| run(runner, Element::F16, shape, seed, delays).unwrap_or_else(|wrong| panic!("{wrong}"));
        let right = run(1, false);
        for seed in 0..4 {
            assert!(run(seed, true) == right, "{shape:?}, seed {seed}: other bits");
        }
    }
}

#[test]
fn planted_faults_are_found() {
    let variant = Variant::of(Element::Bf16, 8);
    let faults = [
        ("a step is used before it has arrived", "copy_wait<STAGES - 2>();", "copy_wait<STAGES - 1>();"),
        ("x is asked for before the preceding kernel is done", "  dependency_wait();\n", ""),
        (
            "x is said to be there before the preceding kernel is done",
            "  dependency_wait();\n  if (args.ready &&",
            "  if (args.ready && thread_index() == 0) store_release(args.ready, args.mark);\n  dependency_wait();\n  if (args.ready &&",
        ),
        ("a tile's other blocks are not waited for", "while (!arrived(parts[n]))", "while (false)"),
        ("rows beyond the last are written", "if (row < args.rows)", "if (true)"),
    ];
    for (index, (fault, right, wrong)) in faults.into_iter().enumerate() {
        let plant = |program: &Program, source: &str| {
            if program.source != "gemm.cu" {
                return source.to_owned();
            }
            assert!(source.contains(right), "{fault}: the line to change is gone");
            source.replace(right, wrong)
        };
        let name = format!("gemm-fault-{index}");
        let Some(runner) = Runner::build(&name, vec![program(variant)], plant) else { return };
        assert!(run(&runner, Element::Bf16, [5, 384, 256, 5], 1, false).is_err(), "{fault}, and nobody noticed");
    }
}
