//! How long does it take to add an adapter to every weight of Llama-2-7B?

use std::sync::Arc;

use aril_kernels::baseline::layout::{RowMajorLayout, RowMajorPlace, stride};
use aril_kernels::baseline::merged::{self, MergeKernel};
use aril_kernels::cublas::Cublas;
use aril_kernels::gpu::Overlap;
use aril_kernels::lora::launch::Matrix;
use aril_kernels::lora::layout::ProjectionShape;
use aril_kernels::reference::lora::{self, Deviation, Weights};
use aril_kernels::timing::{Stopwatch, Summary};
use aril_kernels::{Element, Error};
use cudarc::driver::{CudaStream, DevicePtr};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::{Machine, Options, figures, rounded};

const LAYERS: usize = 32;
/// q, k, v, o; gate, up; down.
const PROJECTIONS: [(u32, u32); 7] =
    [(4096, 4096), (4096, 4096), (4096, 4096), (4096, 4096), (4096, 11008), (4096, 11008), (11008, 4096)];

fn driver(doing: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |code| Error::Driver { doing: doing.to_owned(), code: format!("{code:?}") }
}

/// Our kernel, or a GEMM with beta = 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Kernel,
    Gemm,
}

/// Checks a merge and an unmerge, then times the merge of one adapter into all layers.
pub(crate) fn measure(machine: &mut Machine, options: &Options) -> Result<Value, Error> {
    let mut deviations = Vec::new();
    for (seed, (element, shape, rank)) in
        [(Element::Bf16, (1024, 2816), 16), (Element::F16, (2816, 1024), 64), (Element::Bf16, (200, 136), 5)]
            .into_iter()
            .enumerate()
    {
        for &by in if options.own { &[By::Kernel][..] } else { &[By::Kernel, By::Gemm] } {
            let (merged, unmerged) = check(machine, by, element, shape, rank, seed as u64)?;
            let norm = if element == Element::Bf16 { 1e-2 } else { 2e-3 };
            let correct = merged.relative_norm < norm && unmerged.relative_norm < 2.0 * norm;
            if !correct {
                println!("WRONG merge by {by:?}, {shape:?} rank {rank}: {merged:?}, unmerged {unmerged:?}");
            }
            deviations.push(json!({
                "by": format!("{by:?}").to_lowercase(), "element": element.name(), "inputs": shape.0, "outputs": shape.1,
                "rank": rank, "correct": correct, "relative_norm": merged.relative_norm,
                "relative_norm_after_unmerge": unmerged.relative_norm,
            }));
        }
    }
    let mut times = Vec::new();
    for rank in if options.time { &[8, 16, 64, 128, 256][..] } else { &[] } {
        let rank = *rank;
        times.push(time(machine, rank, options.repeats.min(20))?);
    }
    Ok(json!({ "model": "Llama-2-7B", "layers": LAYERS, "checks": deviations, "times": times }))
}

fn check(
    machine: &mut Machine,
    by: By,
    element: Element,
    (inputs, outputs): (u32, u32),
    rank: u32,
    seed: u64,
) -> Result<(Deviation, Deviation), Error> {
    let mut random = SmallRng::seed_from_u64(seed + 77);
    let mut draw = |count: u32, scale: f32| -> Vec<u16> {
        (0..count).map(|_| element.encode((random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
    };
    let (a, b) = (draw(inputs * rank, 0.5), draw(rank * outputs, 0.5));
    let base = draw(inputs * outputs, 1.0);
    let layout = RowMajorLayout::new(&[ProjectionShape { inputs, outputs }])?;
    let mut packed = vec![0; layout.elements(stride(rank))];
    layout.pack(0, rank, stride(rank), &a, &b, &mut packed)?;
    let stream = machine.ours.stream.clone();
    let weights = stream.clone_htod(&base).map_err(driver("uploading weights"))?;
    let adapter = stream.clone_htod(&packed).map_err(driver("uploading an adapter"))?;
    let (weights_at, adapter_at) = (weights.device_ptr(&stream).0, adapter.device_ptr(&stream).0);
    let matrix = Matrix { address: weights_at, rows: outputs, columns: inputs, stride: inputs };
    let decode = |bits: &[u16]| -> Vec<f32> { bits.iter().map(|&bits| element.decode(bits)).collect() };
    let (a, b, base) = (decode(&a), decode(&b), decode(&base));
    let expected = lora::merge(&base, inputs as usize, 0.75, Weights { a: &a, b: &b, rank: rank as usize });
    let before: Vec<f64> = base.iter().copied().map(f64::from).collect();
    let mut found = Vec::new();
    for (scale, wanted) in [(0.75, &expected), (-0.75, &before)] {
        // SAFETY: both buffers live until the synchronisation below.
        unsafe { Merger::of(machine, element).0.merge(by, layout.places()[0], matrix, adapter_at, rank, scale)? };
        stream.synchronize().map_err(driver("merging"))?;
        let now = stream.clone_dtoh(&weights).map_err(driver("downloading weights"))?;
        found.push(Deviation::of(now.iter().map(|&bits| f64::from(element.decode(bits))), wanted));
    }
    Ok((found[0], found[1]))
}

/// Microseconds of merging one adapter into all projections of all layers, and of a copy of the same bytes.
fn time(machine: &mut Machine, rank: u32, repeats: usize) -> Result<Value, Error> {
    let element = Element::Bf16;
    let shapes: Vec<ProjectionShape> =
        (0..LAYERS).flat_map(|_| PROJECTIONS).map(|(inputs, outputs)| ProjectionShape { inputs, outputs }).collect();
    let layout = RowMajorLayout::new(&shapes)?;
    let elements: usize = shapes.iter().map(|shape| shape.inputs as usize * shape.outputs as usize).sum();
    let bench = &machine.ours;
    let stream = bench.stream.clone();
    let mut weights = bench.gpu.allocate::<u16>(&stream, elements, "the weights of Llama-2-7B")?;
    bench.stopwatch.fill(&mut weights, element, 3, 0.02)?;
    let mut adapter = bench.gpu.allocate::<u16>(&stream, layout.elements(stride(rank)), "an adapter")?;
    bench.stopwatch.fill(&mut adapter, element, 4, 0.001)?;
    let adapter_at = adapter.device_ptr(&stream).0;
    let (mut merger, stopwatch) = Merger::of(machine, element);
    let mut timed = |by: By| {
        let graph = stopwatch.capture(|| {
            let mut address = weights.device_ptr(&stream).0;
            for place in layout.places() {
                let (rows, columns) = (place.shape.outputs, place.shape.inputs);
                let matrix = Matrix { address, rows, columns, stride: columns };
                // SAFETY: both buffers live until the replays are done; the places are the adapter's.
                unsafe { merger.merge(by, *place, matrix, adapter_at, rank, 0.5)? };
                address += 2 * u64::from(rows) * u64::from(columns);
            }
            Ok(())
        })?;
        stopwatch.replays_us(&graph, repeats)
    };
    let (samples, gemm_samples) = (timed(By::Kernel)?, timed(By::Gemm)?);
    drop(weights);
    let [merge, gemm] = [&samples, &gemm_samples].map(|samples| Summary::of(samples).expect("at least one replay"));
    // The weights read and written, the adapter read.
    let bytes = 4 * elements as u64 + 2 * layout.elements(rank) as u64;
    let copy = machine.ours.time_copy(bytes / 8, 1)?.median * 8.0;
    println!(
        "merge of rank {rank} into Llama-2-7B: {:.0} µs, by GEMMs {:.0}; a copy of the same bytes {copy:.0}",
        merge.median, gemm.median
    );
    Ok(json!({
        "rank": rank,
        "bytes": bytes,
        "merge_us": figures(merge),
        "merge_samples_us": rounded(&samples),
        "merge_by_gemm_us": figures(gemm),
        "merge_by_gemm_samples_us": rounded(&gemm_samples),
        "copy_us": copy,
        "us_per_switch": 2.0 * merge.median.min(gemm.median),
    }))
}

/// Both ways to merge, for one number format.
struct Merger<'a> {
    kernel: &'a MergeKernel,
    cublas: &'a mut Cublas,
    stream: &'a Arc<CudaStream>,
}

impl Merger<'_> {
    fn of(machine: &mut Machine, element: Element) -> (Merger<'_>, &Stopwatch) {
        let kernel = machine.merges.iter().find(|one| one.element() == element).expect("both were compiled");
        let merger = Merger { kernel, cublas: &mut machine.cublas, stream: &machine.ours.stream };
        (merger, &machine.ours.stopwatch)
    }

    /// # Safety
    /// As [`MergeKernel::merge`].
    unsafe fn merge(
        &mut self,
        by: By,
        place: RowMajorPlace,
        weights: Matrix,
        adapter: u64,
        rank: u32,
        scale: f32,
    ) -> Result<(), Error> {
        let (element, overlap) = (self.kernel.element(), Overlap::Programmatic);
        // SAFETY: the caller's promise.
        unsafe {
            match by {
                By::Kernel => self.kernel.merge(self.stream, place, weights, adapter, rank, scale, overlap),
                By::Gemm => merged::merge(self.cublas, element, place, weights, adapter, rank, scale),
            }
        }
    }
}
