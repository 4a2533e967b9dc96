//! BGMV, padded and gather kernels on the CPU shim against float64, on the batches that break kernels.

use std::sync::OnceLock;

use aril_kernels::Element;
use aril_kernels::baseline::launch::{Grid, THREADS, unit};
use aril_kernels::baseline::layout::{RowMajorLayout, stride};
use aril_kernels::baseline::table::{Entries, Entry};
use aril_kernels::baseline::{bgmv, gathered, padded};
use aril_kernels::lora::layout::ProjectionShape;
use aril_kernels::lora::plan::Segment;
use aril_kernels::reference::lora::Deviation;

use crate::batch::{Batch, Part};
use crate::shim::{Around, Buffer, Case, Pointer, Program, Runner};

const KERNELS: [&str; 6] = ["bgmv_shrink", "bgmv_expand", "zero_v", "padded_shrink", "padded_expand", "gather_weights"];
const GAP: usize = 8;
/// Where adapter n seems to lie while a table is made; the runner fills in the true addresses.
const APART: u64 = 1 << 20;

const fn part(rows: u32, rank: u32) -> Part {
    Part { rows, rank }
}

/// Single rows, an empty segment, rows without an adapter, odd ranks.
const RAGGED: [Part; 7] = [part(1, 16), part(1, 1), part(2, 0), part(0, 8), part(3, 13), part(1, 24), part(1, 0)];
/// A segment over several row tiles between single rows.
const LOPSIDED: [Part; 4] = [part(1, 7), part(75, 20), part(1, 0), part(1, 40)];

fn programs(element: Element) -> [Program; 6] {
    KERNELS.map(|kernel| Program::of(unit(element, "sm_80"), kernel))
}

fn bytes_of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words_of(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Rows of `width` moved apart by [`GAP`], which is filled with NaN.
fn spread(words: &[u16], width: usize) -> Vec<u16> {
    words.chunks_exact(width).flat_map(|row| row.iter().copied().chain([u16::MAX; GAP])).collect()
}

fn narrow(words: &[u16], width: usize) -> Vec<u16> {
    words.chunks_exact(width + GAP).flat_map(|row| row[..width].to_vec()).collect()
}

/// One projection of a batch, whose adapters lie row-major with two projections each: what is launched is the second.
struct Launch<'a> {
    runner: &'a Runner,
    batch: &'a Batch,
    layout: RowMajorLayout,
    seed: u64,
}

impl Launch<'_> {
    fn new<'a>(runner: &'a Runner, batch: &'a Batch, seed: u64) -> Launch<'a> {
        let shapes: Vec<ProjectionShape> = batch.site.places().iter().map(|place| place.shape).collect();
        Launch { runner, batch, layout: RowMajorLayout::new(&shapes).expect("multiples of 8"), seed }
    }

    fn shape(&self) -> ProjectionShape {
        self.layout.places()[1].shape
    }

    fn stride_max(&self) -> u32 {
        self.batch.adapters.iter().map(|adapter| stride(adapter.rank)).max().expect("an adapter")
    }

    fn segments(&self) -> Vec<Segment> {
        self.batch.segments(|adapter| (adapter as u64 + 1) * APART)
    }

    /// The adapters, each at its entry's stride.
    fn adapters(&self, padded_to: Option<u32>) -> Vec<Vec<u16>> {
        let pack = |adapter: &crate::batch::Adapter| {
            let stride = padded_to.unwrap_or_else(|| stride(adapter.rank));
            let mut memory = vec![u16::MAX; self.layout.elements(stride)];
            for (index, (a, b)) in adapter.weights.iter().enumerate() {
                self.layout.pack(index, adapter.rank, stride, a, b, &mut memory).expect("the shapes fit");
            }
            memory
        };
        self.batch.adapters.iter().map(pack).collect()
    }

    /// Runs a kernel; buffers are [segments, x, y, v, adapters…]. Returns y and v as they are afterwards.
    fn run(
        &self,
        kernel: &'static str,
        (entries, grid): (&[Entry], Grid),
        padded_to: Option<u32>,
        (y, v): (Vec<u8>, Vec<f32>),
        v_stride: u32,
    ) -> Result<(Vec<u8>, Vec<f32>), String> {
        let (place, shape) = (self.layout.places()[1], self.shape());
        let buffer = |content: Vec<u8>, hidden, output| Buffer { content, hidden, output };
        let mut buffers = vec![
            buffer(entries.iter().flat_map(|entry| entry.to_bytes()).collect(), false, false),
            buffer(bytes_of(&spread(&self.batch.x, shape.inputs as usize)), true, false),
            buffer(y, true, true),
            buffer(v.iter().flat_map(|value| value.to_le_bytes()).collect(), true, true),
        ];
        let pointer = |holder, offset, target| Pointer { holder, offset, target, addend: 0 };
        let mut pointers: Vec<Pointer> = (0..4).map(|n| pointer(None, 8 * n, n)).collect();
        for (index, entry) in entries.iter().enumerate().filter(|(_, entry)| entry.weights != 0) {
            let adapter = (entry.weights / APART - 1) as usize;
            pointers.push(pointer(Some(0), index * Entry::BYTES, buffers.len() + adapter));
        }
        buffers.extend(self.adapters(padded_to).iter().map(|adapter| buffer(bytes_of(adapter), false, false)));
        let mut arguments = vec![0_u8; 32];
        arguments.extend(place.a_units.to_le_bytes());
        arguments.extend(place.b_units.to_le_bytes());
        let strides = [shape.inputs + GAP as u32, shape.outputs + GAP as u32, v_stride, shape.inputs, shape.outputs];
        arguments.extend(strides.into_iter().chain(grid.tiles).flat_map(u32::to_le_bytes));
        arguments.extend([0; 4]);
        let case = Case {
            program: Program::of(unit(self.batch.site.element(), "sm_80"), kernel),
            blocks: grid.blocks as usize,
            threads: THREADS as usize,
            shared_bytes: grid.shared_bytes as usize,
            cluster: 1,
            seed: self.seed,
            around: Around::default(),
            buffers,
            pointers,
            arguments,
        };
        let mut outputs = self.runner.run(&case).map_err(|error| format!("{kernel}: {error}"))?;
        let v =
            outputs.pop().expect("v").chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok((outputs.pop().expect("y"), v))
    }

    fn y(&self) -> Vec<u8> {
        bytes_of(&spread(&self.batch.y[1], self.shape().outputs as usize))
    }

    /// Shrink and expand, by row or by adapter; checks v and returns y.
    fn pair(&self, padded_to: Option<u32>) -> Result<Vec<u16>, String> {
        let (batch, shape, segments) = (self.batch, self.shape(), self.segments());
        let (entries, kernels) = match padded_to {
            None => (Entries::by_row(&segments, batch.rows), ["bgmv_shrink", "bgmv_expand"]),
            Some(stride) => (Entries::by_adapter(&segments, batch.rows, stride), ["padded_shrink", "padded_expand"]),
        };
        let entries = entries.expect("a valid batch");
        let grids = match padded_to {
            None => [bgmv::shrink_grid(&entries), bgmv::expand_grid(&entries, shape.outputs)],
            Some(_) => [padded::shrink_grid(&entries, shape.inputs), padded::expand_grid(&entries, shape.outputs)],
        };
        let v_stride = entries.stride_max() + 4;
        let mut blank = vec![f32::NAN; batch.rows as usize * v_stride as usize];
        if padded_to.is_some() {
            let grid = padded::zero_grid(&entries, v_stride);
            (_, blank) = self.run("zero_v", (entries.entries(), grid), padded_to, (self.y(), blank), v_stride)?;
        }
        let (y, v) = self.run(kernels[0], (entries.entries(), grids[0]), padded_to, (self.y(), blank), v_stride)?;
        if y != self.y() {
            return Err("the shrink wrote y".to_owned());
        }
        self.check_v(&v, v_stride as usize, padded_to)?;
        let (y, after) = self.run(kernels[1], (entries.entries(), grids[1]), padded_to, (y, v.clone()), v_stride)?;
        if after.iter().map(|v| v.to_bits()).ne(v.iter().map(|v| v.to_bits())) {
            return Err("the expand wrote v".to_owned());
        }
        let words = words_of(&y);
        let width = shape.outputs as usize;
        if words.chunks_exact(width + GAP).any(|row| row[width..].iter().any(|&word| word != u16::MAX)) {
            return Err("y was written beyond its columns".to_owned());
        }
        Ok(narrow(&words, width))
    }

    fn check_v(&self, v: &[f32], v_stride: usize, padded_to: Option<u32>) -> Result<(), String> {
        let mut expected = vec![if padded_to.is_some() { 0.0 } else { f64::NAN }; v.len()];
        let unscaled = self.batch.expected_v(1, v_stride, f64::NAN);
        for segment in self.segments() {
            for row in segment.rows.clone() {
                let line = row as usize * v_stride;
                for rank in 0..stride(segment.rank) as usize {
                    let inside = rank < segment.rank as usize;
                    expected[line + rank] = if inside { unscaled[line + rank] * f64::from(segment.scale) } else { 0.0 };
                }
            }
        }
        for (index, (&value, &expected)) in v.iter().zip(&expected).enumerate() {
            let close = if expected.is_nan() { value.is_nan() } else { (f64::from(value) - expected).abs() < 2e-4 };
            if !close {
                return Err(format!("v[{}][{}] is {value}, not {expected}", index / v_stride, index % v_stride));
            }
        }
        Ok(())
    }

    fn check_y(&self, y: &[u16]) -> Result<(), String> {
        let (batch, outputs) = (self.batch, self.shape().outputs as usize);
        let (norm, element) = match batch.site.element() {
            Element::Bf16 => (1e-2, 0.15),
            Element::F16 => (2e-3, 0.02),
        };
        let values = batch.decode(y).into_iter().map(f64::from);
        let deviation = Deviation::of(values, &batch.expected_y(1));
        if !deviation.within(norm, element) {
            return Err(format!("{deviation:?}"));
        }
        for row in 0..batch.rows as usize {
            let served = batch.segments.iter().any(|&(first, rows, ..)| (first..first + rows).contains(&(row as u32)));
            let range = row * outputs..(row + 1) * outputs;
            if !served && y[range.clone()] != batch.y[1][range] {
                return Err(format!("row {row} has no adapter and was written"));
            }
        }
        Ok(())
    }

    /// The gathered weights, each row's padded to the largest stride.
    fn gather(&self) -> Result<Vec<u16>, String> {
        let (batch, shape) = (self.batch, self.shape());
        let entries = Entries::by_row(&self.segments(), batch.rows).expect("a valid batch");
        let grid = gathered::grid(&entries, shape);
        let blank = vec![0xff_u8; gathered::elements(&entries, shape) * 2];
        let v = vec![f32::NAN; 4];
        let (gathered, _) = self.run("gather_weights", (entries.entries(), grid), None, (blank, v), 4)?;
        Ok(words_of(&gathered))
    }

    fn expected_gather(&self) -> Vec<u16> {
        let shape = self.shape();
        let entries = Entries::by_row(&self.segments(), self.batch.rows).expect("a valid batch");
        let single = RowMajorLayout::new(&[shape]).expect("multiples of 8");
        let stride = entries.stride_max();
        let mut expected = vec![0; entries.entries().len() * single.elements(stride)];
        for (entry, into) in entries.entries().iter().zip(expected.chunks_exact_mut(single.elements(stride))) {
            if entry.rows > 0 {
                let adapter = &self.batch.adapters[(entry.weights / APART - 1) as usize];
                let (a, b) = &adapter.weights[1];
                single.pack(0, adapter.rank, stride, a, b, into).expect("the shapes fit");
            }
        }
        expected
    }
}

fn right<T>(result: Result<T, String>, what: &str) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{what}: {error}"),
    }
}

/// Both number formats, built once a test process.
fn runner() -> Option<&'static Runner> {
    static RUNNER: OnceLock<Option<Runner>> = OnceLock::new();
    let all = || Element::ALL.into_iter().flat_map(programs).collect();
    RUNNER.get_or_init(|| Runner::build("baselines", all(), |_, source| source.to_owned())).as_ref()
}

#[test]
fn other_ways_of_serving_agree_with_float64_on_any_mix_of_ranks() {
    let Some(runner) = runner() else { return };
    let shapes: [(Element, &[Part], u32, &[u32]); 6] = [
        (Element::Bf16, &RAGGED, 200, &[40, 136]),
        (Element::F16, &RAGGED, 200, &[40, 136]),
        (Element::Bf16, &[part(1, 16)], 4104, &[8, 320]),
        (Element::Bf16, &[part(1, 8), part(1, 64), part(1, 128)], 264, &[8, 72]),
        (Element::Bf16, &[part(1, 256), part(0, 3), part(1, 5)], 104, &[24, 72]),
        (Element::F16, &[part(2, 3), part(1, 3)], 8, &[8, 1032]),
    ];
    for (index, (element, parts, inputs, outputs)) in shapes.into_iter().enumerate() {
        let batch = Batch::new(element, inputs, outputs, parts, index as u64);
        let launch = Launch::new(runner, &batch, index as u64);
        let what = format!("batch {index}, bgmv");
        let y = right(launch.pair(None), &what);
        right(launch.check_y(&y), &what);
        let what = format!("batch {index}, padded");
        let y = right(launch.pair(Some(launch.stride_max())), &what);
        right(launch.check_y(&y), &what);
        assert!(right(launch.gather(), "gather") == launch.expected_gather(), "batch {index}, gathered");
    }
}

#[test]
fn padded_adapters_agree_with_float64_over_several_row_tiles_and_at_any_padding() {
    let Some(runner) = runner() else { return };
    let shapes: [(Element, &[Part], u32, u32); 3] = [
        (Element::F16, &LOPSIDED, 0, 136),
        (Element::Bf16, &LOPSIDED, 24, 200),
        (Element::Bf16, &[part(150, 16)], 0, 1096),
    ];
    for (index, (element, parts, further, inputs)) in shapes.into_iter().enumerate() {
        let batch = Batch::new(element, inputs, &[8, 136], parts, index as u64 + 50);
        let launch = Launch::new(runner, &batch, index as u64);
        let what = format!("batch {index}");
        let y = right(launch.pair(Some(launch.stride_max() + further)), &what);
        right(launch.check_y(&y), &what);
    }
}

/// Each of these passes unnoticed on a GPU that is kind.
#[test]
fn planted_faults_in_other_ways_are_found() {
    let faults = [
        ("if (at < vectors) a[n]", "a[n]", "x read past its end"),
        ("if (first < s.stride && column + n", "if (column + n", "weights read past the last column"),
        ("16 * m + 8 * half + i < rows)", "16 * m + 8 * half + i < SHRINK_ROWS)", "x read past its last row"),
        ("row >= rows || rank >= ranks", "rank >= ranks", "v written beyond the segment"),
        (
            "          if (8 * n < (int)columns)\n            *(u32*)",
            "            *(u32*)",
            "y written past its last column",
        ),
        ("  block_barrier();\n  if (thread_index() == 0) *to", "  if (thread_index() == 0) *to", "sums read too early"),
        ("if (at < vectors) to[at]", "to[at]", "gathered weights written past their end"),
    ];
    let batch = Batch::new(Element::Bf16, 200, &[40, 136], &RAGGED, 7);
    for (index, (from, to, what)) in faults.into_iter().enumerate() {
        let change = |_: &Program, source: &str| {
            assert!(source.contains(from), "the fault to plant is no longer in the source: {from}");
            source.replacen(from, to, 1)
        };
        let name = format!("baseline-fault{index}");
        let Some(runner) = Runner::build(&name, programs(Element::Bf16).to_vec(), change) else { return };
        let launch = Launch::new(&runner, &batch, 3);
        let faulty = |padded_to| launch.pair(padded_to).and_then(|y| launch.check_y(&y)).is_err();
        let gathers = || launch.gather().is_ok_and(|gathered| gathered == launch.expected_gather());
        assert!(faulty(None) || faulty(Some(launch.stride_max())) || !gathers(), "not found: {what}");
    }
}
