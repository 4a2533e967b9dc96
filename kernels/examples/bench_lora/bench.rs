//! One point on the GPU: its buffers, its check against float64, its time.

use std::sync::Arc;

use aril_kernels::gemm::GemmShape;
use aril_kernels::gemm::cublaslt::{CublasLt, CublasLtPlan};
use aril_kernels::gpu::{Gpu, Overlap};
use aril_kernels::lora::launch::{Inbox, Intermediate, LoadedPlan, LoraKernels, Matrix};
use aril_kernels::lora::layout::{AdapterLayout, ProjectionShape};
use aril_kernels::lora::plan::{Plan, Segment, Site, Tuning};
use aril_kernels::reference::lora::Deviation;
use aril_kernels::timing::{Stopwatch, Summary};
use aril_kernels::{Element, Error};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use crate::inputs::{Inputs, expected_of_all, packed, y_of_all};
use crate::points::Point;

pub(crate) struct Bench {
    pub(crate) gpu: Gpu,
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) kernels: LoraKernels,
    pub(crate) ampere: LoraKernels,
    pub(crate) stopwatch: Stopwatch,
    pub(crate) inbox: Inbox,
    /// The library of the backbone; `None` where it is not installed.
    pub(crate) library: Option<CublasLt>,
    pub(crate) repeats: usize,
}

/// Which kernel, and what runs before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Pair,
    Shrink,
    Expand,
}

/// What precedes each call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// The same call on another layer's weights, back to back, overlapping as programmatic launches do.
    Itself,
    /// The same, but each call begins when the one before it is finished.
    ItselfPlain,
    /// A kernel that does not let its successor begin early; its own time is subtracted.
    Uncooperative,
    /// The backbone's GEMM of the same x into the same y, by cuBLASLt, on cold weights; its own time is subtracted.
    Gemm,
}

/// The buffers of one point: `sets` layers of weights, activations that are warm or rotate.
pub(crate) struct Prepared {
    layout: AdapterLayout,
    element: Element,
    _weights: CudaSlice<u16>,
    pub(crate) segments: Vec<Segment>,
    x: Vec<CudaSlice<u16>>,
    y: Vec<CudaSlice<u16>>,
    v: Vec<CudaSlice<f32>>,
    v_stride: u32,
    pub(crate) sets: usize,
    rows: u32,
    inputs: u32,
    /// Outputs of each projection; they lie side by side in y.
    outputs: Vec<u32>,
}

pub(crate) struct Backbone {
    plan: CublasLtPlan,
    weights: Vec<CudaSlice<u16>>,
}

const MIB: u64 = 1 << 20;

impl Bench {
    pub(crate) fn address<T>(&self, slice: &CudaSlice<T>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    pub(crate) fn prepare(&self, point: &Point) -> Result<Prepared, Error> {
        let (element, rows) = (point.element, point.rows());
        let sets = (512 * MIB).div_ceil(point.bytes("pair")).clamp(4, 32) as usize;
        let shapes: Vec<_> =
            point.projections().map(|outputs| ProjectionShape { inputs: point.inputs, outputs }).collect();
        let layout = AdapterLayout::new(&shapes.repeat(sets))?;
        let total = point.segments.iter().map(|&(_, rank)| layout.elements(rank)).sum();
        let mut weights = self.gpu.allocate::<u16>(&self.stream, total, "the adapters")?;
        self.stopwatch.fill(&mut weights, element, 1, 0.02)?;
        let (base, mut row, mut offset) = (self.address(&weights), 0, 0);
        let mut segments = Vec::new();
        for &(count, rank) in &point.segments {
            segments.push(Segment { rows: row..row + count, weights: base + offset as u64 * 2, rank, scale: 1.0 });
            row += count;
            offset += layout.elements(rank);
        }
        let (inputs, width) = (point.inputs, point.outputs_of_all());
        let activations = 2 * u64::from(rows) * u64::from(inputs + width);
        let copies = if activations <= 4 * MIB { 1 } else { (128 * MIB).div_ceil(activations) as usize };
        let v_stride = point.segments.iter().map(|&(_, rank)| rank).max().unwrap_or(1).next_multiple_of(4);
        let (mut x, mut y, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for copy in 0..copies as u64 {
            let mut buffer = self.gpu.allocate::<u16>(&self.stream, (rows * inputs) as usize, "x")?;
            self.stopwatch.fill(&mut buffer, element, 2 + copy, 1.0)?;
            x.push(buffer);
            let mut buffer = self.gpu.allocate::<u16>(&self.stream, (rows * width) as usize, "y")?;
            self.stopwatch.fill(&mut buffer, element, 1000 + copy, 1.0)?;
            y.push(buffer);
            let length = (rows * v_stride) as usize * shapes.len();
            v.push(self.stream.clone_htod(&vec![0.5_f32; length]).map_err(driver("filling v"))?);
        }
        let outputs = point.projections().collect();
        Ok(Prepared { layout, element, _weights: weights, segments, x, y, v, v_stride, sets, rows, inputs, outputs })
    }

    pub(crate) fn plan(&self, prepared: &Prepared, tuning: Tuning) -> Result<Plan, Error> {
        let site = prepared.site(0)?;
        Plan::new(&site, &prepared.segments, self.gpu.chip(), tuning)
    }

    /// Microseconds a call, as the median over replays of a graph of `sets` calls, and all samples.
    pub(crate) fn time(
        &mut self,
        prepared: &Prepared,
        plan: &Plan,
        call: Call,
        before: Before,
        repeats: usize,
    ) -> Result<(Summary, Vec<f64>), Error> {
        let backbone = if before == Before::Gemm { Some(self.backbone(prepared)?) } else { None };
        self.time_after(prepared, plan, call, before, backbone.as_ref(), repeats)
    }

    /// The same with the backbone of [`Before::Gemm`] given. What precedes a call is replayed without it in turn: its own
    /// time moves with the clocks.
    pub(crate) fn time_after(
        &mut self,
        prepared: &Prepared,
        plan: &Plan,
        call: Call,
        before: Before,
        backbone: Option<&Backbone>,
        repeats: usize,
    ) -> Result<(Summary, Vec<f64>), Error> {
        if plan.inbox_cells() > 1 << 18 {
            return Err(Error::Shape { what: "inbox".to_owned(), why: "over 128 MiB".to_owned() });
        }
        let loaded = self.kernels.load(&self.stream, plan, plan.jobs().len() as u32)?;
        let backbone = backbone.filter(|_| before == Before::Gemm);
        let with = self.graph(prepared, &loaded, Some(call), before, backbone)?;
        let mut samples: Vec<f64> = if matches!(before, Before::Uncooperative | Before::Gemm) {
            let without = self.graph(prepared, &loaded, None, before, backbone)?;
            let pairs = self.stopwatch.replays_in_turn_us([&with, &without], repeats)?;
            pairs.into_iter().map(|[with, without]| with - without).collect()
        } else {
            self.stopwatch.replays_us(&with, repeats)?
        };
        samples.iter_mut().for_each(|sample| *sample /= prepared.sets as f64);
        Ok((Summary::of(&samples).expect("at least one replay"), samples))
    }

    /// The backbone's GEMM of a point, with weights for several layers.
    pub(crate) fn backbone(&self, prepared: &Prepared) -> Result<Backbone, Error> {
        let missing = Error::LibraryMissing { library: "cuBLASLt", remedy: "install the CUDA toolkit" };
        let library = self.library.as_ref().ok_or(missing)?;
        let width = prepared.outputs.iter().sum::<u32>();
        let length = prepared.inputs as usize * width as usize;
        let count = (256 * MIB as usize / (2 * length)).clamp(2, prepared.sets.max(2));
        let mut weights = Vec::new();
        for index in 0..count as u64 {
            let mut buffer = self.gpu.allocate::<u16>(&self.stream, length, "weights of the backbone")?;
            self.stopwatch.fill(&mut buffer, prepared.element, 5000 + index, 0.02)?;
            weights.push(buffer);
        }
        let shape = GemmShape::dense(prepared.element, prepared.rows, prepared.inputs, width);
        // SAFETY: no trial.
        let plan = unsafe { library.plan(&self.stream, shape, None)? };
        Ok(Backbone { plan, weights })
    }

    fn graph(
        &mut self,
        prepared: &Prepared,
        loaded: &LoadedPlan,
        call: Option<Call>,
        before: Before,
        backbone: Option<&Backbone>,
    ) -> Result<cudarc::driver::CudaGraph, Error> {
        let Bench { stream, stopwatch, inbox, library, .. } = self;
        let overlap = if before == Before::ItselfPlain { Overlap::None } else { Overlap::Programmatic };
        stopwatch.capture(|| {
            for set in 0..prepared.sets {
                let copy = set % prepared.x.len();
                let x = matrix(stream, &prepared.x[copy], prepared.rows, prepared.inputs);
                let (y, v) = (prepared.results(stream, copy), prepared.intermediates(stream, copy));
                let site = prepared.site(set)?;
                if before == Before::Uncooperative {
                    // A few rows' worth of bytes from the far end of v's neighbours to y would do; x is copied to
                    // itself, so that the call finds it just written, as in a step.
                    let bytes = (u64::from(prepared.rows * prepared.inputs) * 2).min(MIB) as usize / 16 * 16;
                    // SAFETY: x is that long; source and destination are the same vectors.
                    unsafe { stopwatch.copy_uncooperatively(x.address, x.address, bytes)? };
                }
                if let (Some(library), Some(backbone)) = (library.as_ref(), backbone) {
                    let weights = backbone.weights[set % backbone.weights.len()].device_ptr(stream).0;
                    // SAFETY: matrices of the plan's shape that live until the replays are done; one stream.
                    unsafe { library.launch(stream, &backbone.plan, weights, x.address, y[0].address, 0.0)? };
                }
                // SAFETY: all buffers live in `prepared`, laid out for `site`; one stream.
                unsafe {
                    match call {
                        Some(Call::Pair) => loaded.pair(stream, &site, inbox, x, &y, overlap)?,
                        Some(Call::Shrink) => loaded.shrink(stream, &site, inbox, x, &v, overlap)?,
                        Some(Call::Expand) => loaded.expand(stream, &site, &v, &y, overlap)?,
                        None => {}
                    }
                }
            }
            Ok(())
        })
    }

    /// A device copy that moves the same bytes, timed the same way.
    pub(crate) fn time_copy(&mut self, bytes: u64, sets: usize) -> Result<Summary, Error> {
        let samples = self.stopwatch.copies_us(&self.gpu, bytes, sets, self.repeats)?;
        Ok(Summary::of(&samples).expect("at least one replay"))
    }

    /// Launches the pair once, on weights that no cache holds: what a profiler looks at.
    pub(crate) fn launch_once(&mut self, prepared: &Prepared, plan: &Plan) -> Result<(), Error> {
        let Bench { stream, kernels, stopwatch, inbox, .. } = self;
        let loaded = kernels.load(stream, plan, plan.jobs().len() as u32)?;
        let x = matrix(stream, &prepared.x[0], prepared.rows, prepared.inputs);
        let y = prepared.results(stream, 0);
        let site = prepared.site(0)?;
        stopwatch.sweep()?;
        // SAFETY: all buffers live in `prepared`, laid out for `site`, until the synchronisation below; one stream.
        unsafe { loaded.pair(stream, &site, inbox, x, &y, Overlap::None)? };
        stream.synchronize().map_err(driver("running a launch"))
    }

    /// Runs pair, shrink and expand on fresh random inputs; returns the worst deviations of y, and whether the same
    /// launches in a graph gave the same bits. Rows without an adapter must keep their bits. v and the guard behind y are
    /// poisoned. Projections lie side by side in y, as in the launches that are timed.
    pub(crate) fn check(&mut self, point: &Point, tuning: Tuning, seed: u64, ampere: bool) -> Result<Checked, Error> {
        let inputs = Inputs::draw_each(point, seed);
        let scales = vec![0.75; point.segments.len()];
        let results = self.results(point, &inputs, &scales, tuning, ampere)?;
        let expected = expected_of_all(&inputs, point, 0.75);
        let before = y_of_all(&inputs, point);
        let length = expected.len();
        let width = point.outputs_of_all() as usize;
        // The worst of the segments, each for itself: one is not lost among others.
        let deviation = |result: &Vec<u16>| {
            let (mut worst, mut row) = (Deviation { relative_norm: 0.0, element_max: 0.0 }, 0);
            for &(rows, rank) in &point.segments {
                let range = row * width..(row + rows as usize) * width;
                row += rows as usize;
                if rows == 0 || rank == 0 {
                    continue;
                }
                let got = result[range.clone()].iter().map(|&bits| f64::from(point.element.decode(bits)));
                let this = Deviation::of(got, &expected[range]);
                // Not `max`, for which NaN is nothing.
                let larger = |a: f64, b: f64| if b > a || b.is_nan() { b } else { a };
                worst.relative_norm = larger(worst.relative_norm, this.relative_norm);
                worst.element_max = larger(worst.element_max, this.element_max);
            }
            worst
        };
        let others_are_whole = |result: &Vec<u16>| {
            let mut row = 0;
            point.segments.iter().all(|&(rows, rank)| {
                let range = row * width..(row + rows as usize) * width;
                row += rows as usize;
                rank > 0 || result[range.clone()] == before[range]
            })
        };
        Ok(Checked {
            others_are_whole: results.iter().all(others_are_whole),
            pair: deviation(&results[0]),
            separate: deviation(&results[2]),
            graph_is_equal: results[0] == results[1],
            guard_is_whole: results.iter().all(|result| result[length..].iter().all(|&bits| bits == GUARD)),
        })
    }

    /// y, and the guard behind it, after the pair, after the pair in a graph, and after shrink and expand.
    pub(crate) fn results(
        &mut self,
        point: &Point,
        inputs: &[Inputs],
        scales: &[f32],
        tuning: Tuning,
        ampere: bool,
    ) -> Result<Vec<Vec<u16>>, Error> {
        let kernels = if ampere { &self.ampere } else { &self.kernels };
        let stream = &self.stream;
        let shapes: Vec<_> =
            point.projections().map(|outputs| ProjectionShape { inputs: point.inputs, outputs }).collect();
        let layout = AdapterLayout::new(&shapes)?;
        let (packed, mut segments) = packed(inputs, point, &layout)?;
        let weights = stream.clone_htod(&packed).map_err(driver("uploading adapters"))?;
        let base = self.address(&weights);
        for (segment, &scale) in segments.iter_mut().zip(scales) {
            segment.weights += base;
            segment.scale = scale;
        }
        let site = Site::new(point.element, layout.places())?;
        let mut chip = self.gpu.chip();
        if ampere {
            chip.cluster_max = 1;
        }
        let plan = Plan::new(&site, &segments, chip, tuning)?;
        let loaded = kernels.load(stream, &plan, plan.jobs().len() as u32 + 3)?;
        let x = stream.clone_htod(&inputs[0].x).map_err(driver("uploading x"))?;
        let (rows, width) = (point.rows(), point.outputs_of_all());
        let before = y_of_all(inputs, point);
        let guarded: Vec<u16> = before.iter().copied().chain([GUARD; 4096]).collect();
        let v_stride = plan.rank_max().max(1);
        let v_length = ((rows * v_stride) as usize).next_multiple_of(4);
        let poison = vec![f32::NAN; v_length * shapes.len() + 4096];
        let x_matrix = matrix(stream, &x, rows, point.inputs);
        let mut results = Vec::new();
        for how in 0..3 {
            let y = stream.clone_htod(&guarded).map_err(driver("uploading y"))?;
            let v = stream.clone_htod(&poison).map_err(driver("poisoning v"))?;
            let mut y_address = self.address(&y);
            let mut y_of = |columns: u32| {
                let matrix = Matrix { address: y_address, rows, columns, stride: width };
                y_address += u64::from(columns) * 2;
                matrix
            };
            let y_matrix: Vec<Matrix> = point.projections().map(&mut y_of).collect();
            let v_address = self.address(&v);
            let v_of =
                |n: usize| Intermediate { address: v_address + (n * v_length) as u64 * 4, rows, stride: v_stride };
            let v_matrix: Vec<Intermediate> = (0..shapes.len()).map(v_of).collect();
            let inbox = &mut self.inbox;
            let overlap = Overlap::Programmatic;
            stream.synchronize().map_err(driver("uploading"))?;
            // SAFETY: all buffers live until the synchronisation below; one stream.
            let mut pair = || unsafe { loaded.pair(stream, &site, inbox, x_matrix, &y_matrix, overlap) };
            match how {
                0 => pair()?,
                1 => self.stopwatch.capture(pair)?.launch().map_err(driver("replaying"))?,
                // SAFETY: as above.
                _ => unsafe {
                    loaded.shrink(stream, &site, inbox, x_matrix, &v_matrix, overlap)?;
                    loaded.expand(stream, &site, &v_matrix, &y_matrix, overlap)?;
                },
            }
            stream.synchronize().map_err(driver("running a check"))?;
            results.push(stream.clone_dtoh(&y).map_err(driver("downloading y"))?);
        }
        Ok(results)
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub(crate) pair: Deviation,
    pub(crate) separate: Deviation,
    pub(crate) graph_is_equal: bool,
    pub(crate) guard_is_whole: bool,
    /// Whether rows without an adapter are as they were.
    pub(crate) others_are_whole: bool,
}

impl Checked {
    pub(crate) fn passes(&self, element: Element) -> bool {
        // No rounding of y gives more than 0.0039 and 0.00049. Where v were rounded, 0.03, and 0.004.
        let (norm, largest) = if element == Element::Bf16 { (4.4e-3, 4e-3) } else { (5.6e-4, 5e-4) };
        let close = self.pair.within(norm, largest) && self.separate.within(norm, largest);
        close && self.graph_is_equal && self.guard_is_whole && self.others_are_whole
    }
}

pub(crate) const GUARD: u16 = 0x7fc1;

pub(crate) fn driver(doing: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |code| Error::Driver { doing: doing.to_owned(), code: format!("{code:?}") }
}

pub(crate) fn matrix(stream: &Arc<CudaStream>, slice: &CudaSlice<u16>, rows: u32, columns: u32) -> Matrix {
    Matrix { address: slice.device_ptr(stream).0, rows, columns, stride: columns }
}

impl Prepared {
    /// The projections of one layer.
    fn site(&self, set: usize) -> Result<Site, Error> {
        let count = self.outputs.len();
        Site::new(self.element, &self.layout.places()[set * count..(set + 1) * count])
    }

    /// y of each projection.
    fn results(&self, stream: &Arc<CudaStream>, copy: usize) -> Vec<Matrix> {
        let (rows, stride) = (self.rows, self.outputs.iter().sum());
        let mut address = self.y[copy].device_ptr(stream).0;
        let mut next = |&columns: &u32| {
            let matrix = Matrix { address, rows, columns, stride };
            address += u64::from(columns) * 2;
            matrix
        };
        self.outputs.iter().map(&mut next).collect()
    }

    /// v of each projection.
    fn intermediates(&self, stream: &Arc<CudaStream>, copy: usize) -> Vec<Intermediate> {
        let (rows, stride) = (self.rows, self.v_stride);
        let first = self.v[copy].device_ptr(stream).0;
        let address = |n: usize| first + n as u64 * u64::from(rows * stride) * 4;
        (0..self.outputs.len()).map(|n| Intermediate { address: address(n), rows, stride }).collect()
    }

    pub(crate) fn activations_are_warm(&self) -> bool {
        self.x.len() == 1
    }
}
