//! One way of serving adapters at one point: its buffers, its check against float64, its time.

use std::sync::Arc;

use aril_kernels::baseline::launch::BaselineKernels;
use aril_kernels::baseline::layout::{RowMajorLayout, RowMajorPlace, stride};
use aril_kernels::baseline::table::{Entries, Table};
use aril_kernels::baseline::{bgmv, gathered, looped, padded};
use aril_kernels::cublas::Cublas;
use aril_kernels::gpu::{Gpu, Overlap};
use aril_kernels::lora::launch::{Intermediate, Matrix};
use aril_kernels::lora::layout::ProjectionShape;
use aril_kernels::lora::plan::Segment;
use aril_kernels::reference::lora::Deviation;
use aril_kernels::timing::Stopwatch;
use aril_kernels::{Element, Error};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, result};

use crate::inputs::Inputs;
use crate::points::Point;

/// Another system's way to serve adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Bgmv,
    Padded,
    Gathered,
    Looped,
}

impl Way {
    pub(crate) const ALL: [Way; 4] = [Way::Bgmv, Way::Padded, Way::Gathered, Way::Looped];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Bgmv => "bgmv",
            Way::Padded => "padded",
            Way::Gathered => "gathered",
            Way::Looped => "looped",
        }
    }

    /// Whether shrink and expand can be launched by themselves.
    pub(crate) fn splits(self) -> bool {
        self != Way::Gathered
    }
}

/// Which part of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Pair,
    Shrink,
    Expand,
}

/// What all ways run with.
pub(crate) struct Tools<'a> {
    pub(crate) gpu: &'a Gpu,
    pub(crate) stream: &'a Arc<CudaStream>,
    pub(crate) stopwatch: &'a Stopwatch,
    pub(crate) kernels: &'a BaselineKernels,
    pub(crate) cublas: &'a mut Cublas,
}

/// The weights of a way in device memory, one layer a set, and the tables that name them.
struct Adapters {
    layout: RowMajorLayout,
    segments: Vec<Segment>,
    by_row: Table,
    by_adapter: Option<Table>,
    _memory: CudaSlice<u16>,
}

/// Activations of one call.
struct Activations {
    x: CudaSlice<u16>,
    y: CudaSlice<u16>,
    v: CudaSlice<f32>,
    v_narrow: CudaSlice<u16>,
}

/// The buffers of one way at one point.
pub(crate) struct Setup {
    way: Way,
    point: Point,
    adapters: Adapters,
    activations: Vec<Activations>,
    gathered: Option<CudaSlice<u16>>,
    sets: usize,
}

const MIB: u64 = 1 << 20;
const GUARD: u16 = 0x7fc1;
const GUARD_LENGTH: usize = 4096;

fn driver(doing: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |code| Error::Driver { doing: doing.to_owned(), code: format!("{code:?}") }
}

/// What every adapter of the point is padded to: its largest rank, or more.
pub(crate) fn padded_stride(point: &Point, padded_to: Option<u32>) -> u32 {
    let rank_max = point.segments.iter().map(|&(_, rank)| rank).max().unwrap_or(1);
    stride(rank_max.max(padded_to.unwrap_or(0)))
}

impl Adapters {
    fn new(
        tools: &Tools<'_>,
        way: Way,
        point: &Point,
        padded_to: u32,
        sets: usize,
        fill: Fill<'_>,
    ) -> Result<Self, Error> {
        let shape = ProjectionShape { inputs: point.inputs, outputs: point.outputs };
        let layout = RowMajorLayout::new(&vec![shape; sets])?;
        let strides: Vec<u32> =
            point.segments.iter().map(|&(_, rank)| if way == Way::Padded { padded_to } else { stride(rank) }).collect();
        let total: usize = strides.iter().map(|&stride| layout.elements(stride)).sum();
        let memory = match fill {
            Fill::Random => {
                let mut memory = tools.gpu.allocate::<u16>(tools.stream, total, "the adapters")?;
                tools.stopwatch.fill(&mut memory, point.element, 1, 0.02)?;
                memory
            }
            Fill::With(weights) => {
                let mut packed = vec![0; total];
                let mut offset = 0;
                for ((&(_, rank), &stride), (a, b)) in point.segments.iter().zip(&strides).zip(weights) {
                    let length = layout.elements(stride);
                    layout.pack(0, rank, stride, a, b, &mut packed[offset..offset + length])?;
                    offset += length;
                }
                tools.stream.clone_htod(&packed).map_err(driver("uploading adapters"))?
            }
        };
        let base = memory.device_ptr(tools.stream).0;
        let (mut segments, mut row, mut offset) = (Vec::new(), 0, 0);
        for (&(rows, rank), &stride) in point.segments.iter().zip(&strides) {
            segments.push(Segment { rows: row..row + rows, weights: base + offset as u64 * 2, rank, scale: 0.75 });
            row += rows;
            offset += layout.elements(stride);
        }
        let by_row = Table::load(tools.gpu, tools.stream, Entries::by_row(&segments, row)?)?;
        let by_adapter = (way == Way::Padded)
            .then(|| Table::load(tools.gpu, tools.stream, Entries::by_adapter(&segments, row, padded_to)?))
            .transpose()?;
        Ok(Adapters { layout, segments, by_row, by_adapter, _memory: memory })
    }
}

enum Fill<'a> {
    Random,
    With(&'a [(Vec<u16>, Vec<u16>)]),
}

impl Setup {
    /// Buffers for timing: as many layers as keep the L2 cold, activations that are warm up to 4 MiB and rotate above.
    pub(crate) fn new(tools: &Tools<'_>, way: Way, point: &Point, padded_to: Option<u32>) -> Result<Self, Error> {
        let sets = (512 * MIB).div_ceil(point.bytes("pair")).clamp(4, 32) as usize;
        let stride = padded_stride(point, padded_to);
        let adapters = Adapters::new(tools, way, point, stride, sets, Fill::Random)?;
        let rows = point.rows();
        let bytes = 2 * u64::from(rows) * u64::from(point.inputs + point.outputs);
        let copies = if bytes <= 4 * MIB { 1 } else { (128 * MIB).div_ceil(bytes) };
        let mut activations = Vec::new();
        for copy in 0..copies {
            let mut x = tools.gpu.allocate::<u16>(tools.stream, (rows * point.inputs) as usize, "x")?;
            tools.stopwatch.fill(&mut x, point.element, 2 + copy, 1.0)?;
            let mut y = tools.gpu.allocate::<u16>(tools.stream, (rows * point.outputs) as usize, "y")?;
            tools.stopwatch.fill(&mut y, point.element, 1000 + copy, 1.0)?;
            let length = (rows * stride) as usize;
            let v = tools.stream.clone_htod(&vec![0.5_f32; length]).map_err(driver("filling v"))?;
            let mut v_narrow = tools.gpu.allocate::<u16>(tools.stream, length, "v")?;
            tools.stopwatch.fill(&mut v_narrow, point.element, 5, 1.0)?;
            activations.push(Activations { x, y, v, v_narrow });
        }
        Setup::with(tools, way, point, adapters, activations, sets)
    }

    fn with(
        tools: &Tools<'_>,
        way: Way,
        point: &Point,
        adapters: Adapters,
        activations: Vec<Activations>,
        sets: usize,
    ) -> Result<Self, Error> {
        let shape = ProjectionShape { inputs: point.inputs, outputs: point.outputs };
        let gathered = (way == Way::Gathered)
            .then(|| {
                let length = gathered::elements(adapters.by_row.entries(), shape);
                let memory = tools.gpu.allocate::<u16>(tools.stream, length, "gathered weights")?;
                let address = memory.device_ptr(tools.stream).0;
                // All ones is a NaN of both formats: what is not gathered shows.
                // SAFETY: the allocation is that long.
                unsafe { result::memset_d8_async(address, 0xff, length * 2, tools.stream.cu_stream()) }
                    .map_err(driver("poisoning gathered weights"))?;
                Ok::<_, Error>(memory)
            })
            .transpose()?;
        Ok(Setup { way, point: point.clone(), adapters, activations, gathered, sets })
    }

    pub(crate) fn sets(&self) -> usize {
        self.sets
    }

    /// Blocks of the shrink and of the expand; for gathered, of the gather.
    pub(crate) fn blocks(&self) -> [u64; 2] {
        let shape = ProjectionShape { inputs: self.point.inputs, outputs: self.point.outputs };
        let rows = self.adapters.by_row.entries();
        match (self.way, &self.adapters.by_adapter) {
            (Way::Bgmv, _) => [bgmv::shrink_grid(rows).blocks, bgmv::expand_grid(rows, shape.outputs).blocks],
            (Way::Padded, Some(table)) => {
                let entries = table.entries();
                [padded::shrink_grid(entries, shape.inputs).blocks, padded::expand_grid(entries, shape.outputs).blocks]
            }
            (Way::Gathered, _) => [gathered::grid(rows, shape).blocks, 0],
            _ => [0, 0],
        }
    }

    /// Microseconds a call of each replay of a graph of all sets.
    pub(crate) fn time(
        &self,
        tools: &mut Tools<'_>,
        part: Part,
        overlap: Overlap,
        repeats: usize,
    ) -> Result<Vec<f64>, Error> {
        let stopwatch = tools.stopwatch;
        let graph = stopwatch.capture(|| (0..self.sets).try_for_each(|set| self.launch(tools, part, set, overlap)))?;
        let samples = stopwatch.replays_us(&graph, repeats)?;
        Ok(samples.into_iter().map(|sample| sample / self.sets as f64).collect())
    }

    fn launch(&self, tools: &mut Tools<'_>, part: Part, set: usize, overlap: Overlap) -> Result<(), Error> {
        let place: RowMajorPlace = self.adapters.layout.places()[set];
        let buffers = &self.activations[set % self.activations.len()];
        let (stream, rows) = (tools.stream, self.point.rows());
        let matrix = |slice: &CudaSlice<u16>, columns| Matrix {
            address: slice.device_ptr(stream).0,
            rows,
            columns,
            stride: columns,
        };
        let (x, y) = (matrix(&buffers.x, self.point.inputs), matrix(&buffers.y, self.point.outputs));
        let stride = (buffers.v_narrow.len() as u32).checked_div(rows).unwrap_or(8);
        let v = Intermediate { address: buffers.v.device_ptr(stream).0, rows, stride };
        let v_narrow = matrix(&buffers.v_narrow, stride);
        let (shrinks, expands) = (part != Part::Expand, part != Part::Shrink);
        let kernels = tools.kernels;
        // SAFETY: all buffers live in `self`, one stream, shapes are checked by each launch.
        unsafe {
            match (self.way, &self.adapters.by_adapter) {
                (Way::Padded, Some(table)) => {
                    if shrinks {
                        padded::shrink(kernels, stream, table, place, x, v, overlap)?;
                    }
                    if expands {
                        padded::expand(kernels, stream, table, place, v, y, overlap)?;
                    }
                }
                (Way::Gathered, _) => {
                    let table = &self.adapters.by_row;
                    let gathered = self.gathered.as_ref().expect("made for this way").device_ptr(stream).0;
                    gathered::pair(kernels, tools.cublas, stream, table, place, gathered, x, v_narrow, y)?;
                }
                (Way::Looped, _) => {
                    for segment in &self.adapters.segments {
                        if shrinks {
                            looped::shrink(tools.cublas, self.point.element, place, segment, x, v_narrow)?;
                        }
                        if expands {
                            looped::expand(tools.cublas, self.point.element, place, segment, v_narrow, y)?;
                        }
                    }
                }
                _ => {
                    let table = &self.adapters.by_row;
                    if shrinks {
                        bgmv::shrink(kernels, stream, table, place, x, v, overlap)?;
                    }
                    if expands {
                        bgmv::expand(kernels, stream, table, place, v, y, overlap)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked {
    pub(crate) deviation: Deviation,
    /// Whether a replay of a graph, with overlap, was as near to the reference.
    pub(crate) in_graph: Deviation,
    pub(crate) guard_is_whole: bool,
}

impl Checked {
    pub(crate) fn passes(&self, element: Element) -> bool {
        let (norm, largest) = if element == Element::Bf16 { (1e-2, 0.15) } else { (2e-3, 0.02) };
        self.guard_is_whole && [self.deviation, self.in_graph].iter().all(|one| one.within(norm, largest))
    }
}

/// Runs a way on these inputs with the kernels of both architectures, each launched and captured; v, gathered weights
/// and the guard behind y are poisoned.
pub(crate) fn check<'a>(
    tools: &mut Tools<'a>,
    older: &'a BaselineKernels,
    way: Way,
    point: &Point,
    padded_to: Option<u32>,
    inputs: &Inputs,
    expected: &[f64],
) -> Result<[Checked; 2], Error> {
    let stream = tools.stream.clone();
    let stride = padded_stride(point, padded_to);
    let adapters = Adapters::new(tools, way, point, stride, 1, Fill::With(&inputs.weights))?;
    let guarded: Vec<u16> = inputs.y.iter().copied().chain([GUARD; GUARD_LENGTH]).collect();
    let length = (point.rows() * stride) as usize;
    let (nan, nan_narrow) = (vec![f32::NAN; length], vec![u16::MAX; length]);
    let activations = Activations {
        x: stream.clone_htod(&inputs.x).map_err(driver("uploading x"))?,
        y: stream.clone_htod(&guarded).map_err(driver("uploading y"))?,
        v: stream.clone_htod(&nan).map_err(driver("poisoning v"))?,
        v_narrow: stream.clone_htod(&nan_narrow).map_err(driver("poisoning v"))?,
    };
    let mut setup = Setup::with(tools, way, point, adapters, vec![activations], 1)?;
    let here = tools.kernels;
    let mut run = |kernels: &'a BaselineKernels, captured: bool| -> Result<(Deviation, bool), Error> {
        tools.kernels = kernels;
        let buffers = &mut setup.activations[0];
        stream.memcpy_htod(&guarded, &mut buffers.y).map_err(driver("uploading y"))?;
        stream.memcpy_htod(&nan, &mut buffers.v).map_err(driver("poisoning v"))?;
        stream.memcpy_htod(&nan_narrow, &mut buffers.v_narrow).map_err(driver("poisoning v"))?;
        stream.synchronize().map_err(driver("uploading"))?;
        if captured {
            let stopwatch = tools.stopwatch;
            let graph = stopwatch.capture(|| setup.launch(tools, Part::Pair, 0, Overlap::Programmatic))?;
            graph.launch().map_err(driver("replaying"))?;
            stream.synchronize().map_err(driver("running a check"))?;
        } else {
            setup.launch(tools, Part::Pair, 0, Overlap::None)?;
        }
        stream.synchronize().map_err(driver("running a check"))?;
        let result = stream.clone_dtoh(&setup.activations[0].y).map_err(driver("downloading y"))?;
        let (y, guard) = result.split_at(inputs.y.len());
        let values = y.iter().map(|&bits| f64::from(point.element.decode(bits)));
        Ok((Deviation::of(values, expected), guard.iter().all(|&bits| bits == GUARD)))
    };
    let mut both = |kernels| -> Result<Checked, Error> {
        let ((deviation, whole), (in_graph, still_whole)) = (run(kernels, false)?, run(kernels, true)?);
        Ok(Checked { deviation, in_graph, guard_is_whole: whole && still_whole })
    };
    let found = [both(here)?, both(older)?];
    tools.kernels = here;
    Ok(found)
}
