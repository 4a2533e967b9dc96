//! Another system's way over the seven projections of one layer, timed: what a step of such a system would add to each layer.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use super::launch::BaselineKernels;
use super::layout::{RowMajorLayout, RowMajorPlace, stride};
use super::table::{Entries, Table};
use super::{bgmv, gathered, looped, merged, padded};
use crate::cache::Cache;
use crate::cublas::Cublas;
use crate::gpu::{Gpu, Overlap};
use crate::lora::launch::{Intermediate, Matrix};
use crate::lora::layout::ProjectionShape;
use crate::lora::plan::Segment;
use crate::program::Compiler;
use crate::source::Sources;
use crate::timing::Stopwatch;
use crate::{Element, Error};

/// A way to serve adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Way {
    /// [`bgmv`].
    Bgmv,
    /// [`padded`], every adapter at the largest rank of the batch.
    Padded,
    /// [`gathered`].
    Gathered,
    /// [`looped`].
    Looped,
}

/// Everything that the ways share on one GPU.
#[derive(Debug)]
pub struct Ways {
    gpu: Gpu,
    stream: Arc<CudaStream>,
    stopwatch: Stopwatch,
    kernels: BaselineKernels,
    cublas: Cublas,
}

/// Weights of so many bytes, over all layers of a measurement, keep the L2 cold.
const COLD_BYTES: usize = 512 << 20;
/// Layers of a measurement.
const LAYERS: std::ops::RangeInclusive<usize> = 2..=8;

impl Ways {
    /// Compiles the kernels and opens cuBLAS, on a stream of its own.
    ///
    /// # Errors
    /// A missing library, compiler and driver errors; 256 MiB of device memory must be free.
    pub fn open(gpu: &Gpu, element: Element) -> Result<Self, Error> {
        let (sources, cache) = (Sources::built_in(), Cache::of_user());
        let stream = gpu.stream()?;
        let compiler = Compiler::new(gpu, sources.clone(), cache.clone());
        Ok(Ways {
            stopwatch: Stopwatch::new(gpu, &stream, &sources, cache.as_ref())?,
            kernels: BaselineKernels::new(&compiler, element)?,
            cublas: Cublas::new(gpu, &stream)?,
            gpu: gpu.clone(),
            stream,
        })
    }

    /// Microseconds a layer of a way over all `projections`, for adapters of (rows, rank) on consecutive rows: each of `repeats`
    /// replays of a graph of a few layers with a cold L2, over their number.
    ///
    /// Inputs of one layer share a buffer, and so do outputs: as in a step, they are warm.
    ///
    /// # Errors
    /// [`Error::Shape`] for what a way cannot serve; [`Error::OutOfMemory`]; driver errors.
    pub fn time_layer(
        &mut self,
        way: Way,
        projections: &[ProjectionShape],
        adapters: &[(u32, u32)],
        repeats: usize,
    ) -> Result<Vec<f64>, Error> {
        let setup = Setup::new(self, way, projections, adapters)?;
        let Ways { stream, stopwatch, kernels, cublas, .. } = self;
        let graph = stopwatch.capture(|| {
            setup.layout.places().iter().try_for_each(|&place| setup.launch(stream, kernels, cublas, place))
        })?;
        let samples = stopwatch.replays_us(&graph, repeats)?;
        let layers = setup.layout.places().len() as f64 / projections.len() as f64;
        Ok(samples.into_iter().map(|us| us / layers).collect())
    }

    /// Microseconds of adding one adapter of this rank to `layers` layers of weights, and of taking another out: a switch of merged
    /// weights.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] for a few layers of weights; driver errors.
    pub fn time_switch(
        &mut self,
        projections: &[ProjectionShape],
        layers: u32,
        rank: u32,
        repeats: usize,
    ) -> Result<Vec<f64>, Error> {
        // Four layers are more than any cache holds; the others take as long.
        let measured = 4;
        let shapes: Vec<ProjectionShape> = (0..measured)
            .flat_map(|_| projections)
            .map(|&ProjectionShape { inputs, outputs }| ProjectionShape { inputs, outputs })
            .collect();
        let layout = RowMajorLayout::new(&shapes)?;
        let elements: usize = shapes.iter().map(|shape| shape.inputs as usize * shape.outputs as usize).sum();
        let element = self.kernels.element();
        let mut weights = self.gpu.allocate::<u16>(&self.stream, elements, "weights to merge into")?;
        self.stopwatch.fill(&mut weights, element, 3, 0.02)?;
        let mut adapter = self.gpu.allocate::<u16>(&self.stream, layout.elements(stride(rank)), "an adapter")?;
        self.stopwatch.fill(&mut adapter, element, 4, 0.001)?;
        let base = weights.device_ptr(&self.stream).0;
        let from = adapter.device_ptr(&self.stream).0;
        let Ways { stopwatch, cublas, .. } = self;
        let graph = stopwatch.capture(|| {
            for scale in [-0.5, 0.5] {
                let mut address = base;
                for place in layout.places() {
                    let (rows, columns) = (place.shape.outputs, place.shape.inputs);
                    let matrix = Matrix { address, rows, columns, stride: columns };
                    // SAFETY: both buffers live until the replays are done; the places are the adapter's.
                    unsafe { merged::merge(cublas, element, *place, matrix, from, rank, scale)? };
                    address += 2 * u64::from(rows) * u64::from(columns);
                }
            }
            Ok(())
        })?;
        let samples = stopwatch.replays_us(&graph, repeats)?;
        let times = f64::from(layers) / f64::from(measured);
        Ok(samples.into_iter().map(|us| us * times).collect())
    }
}

/// The buffers of one measurement.
struct Setup {
    way: Way,
    element: Element,
    layout: RowMajorLayout,
    segments: Vec<Segment>,
    by_row: Table,
    by_adapter: Option<Table>,
    rows: u32,
    stride: u32,
    x: CudaSlice<u16>,
    y: CudaSlice<u16>,
    v: CudaSlice<f32>,
    v_narrow: CudaSlice<u16>,
    gathered: Option<CudaSlice<u16>>,
    _weights: CudaSlice<u16>,
}

impl Setup {
    fn new(ways: &Ways, way: Way, projections: &[ProjectionShape], adapters: &[(u32, u32)]) -> Result<Self, Error> {
        let Ways { gpu, stream, stopwatch, kernels, .. } = ways;
        let element = kernels.element();
        let rows: u32 = adapters.iter().map(|(rows, _)| rows).sum();
        let widest = stride(adapters.iter().map(|&(_, rank)| rank).max().unwrap_or(1));
        let one = RowMajorLayout::new(&shapes(projections, 1))?;
        let strides: Vec<u32> =
            adapters.iter().map(|&(_, rank)| if way == Way::Padded { widest } else { stride(rank) }).collect();
        let bytes: usize = strides.iter().map(|&stride| one.elements(stride) * 2).sum();
        let layers = COLD_BYTES.div_ceil(bytes.max(1)).clamp(*LAYERS.start(), *LAYERS.end());
        let layout = RowMajorLayout::new(&shapes(projections, layers))?;
        let total: usize = strides.iter().map(|&stride| layout.elements(stride)).sum();
        let random = |length: usize, seed: u64, scale: f32, what: &str| {
            let mut memory = gpu.allocate::<u16>(stream, length, what)?;
            stopwatch.fill(&mut memory, element, seed, scale)?;
            Ok::<_, Error>(memory)
        };
        let weights = random(total, 1, 0.02, "the adapters")?;
        let base = weights.device_ptr(stream).0;
        let (mut segments, mut row, mut offset) = (Vec::new(), 0, 0);
        for (&(rows, rank), &stride) in adapters.iter().zip(&strides) {
            segments.push(Segment { rows: row..row + rows, weights: base + offset as u64 * 2, rank, scale: 0.75 });
            row += rows;
            offset += layout.elements(stride);
        }
        let by_row = Table::load(gpu, stream, Entries::by_row(&segments, rows)?)?;
        let by_adapter = (way == Way::Padded)
            .then(|| Table::load(gpu, stream, Entries::by_adapter(&segments, rows, widest)?))
            .transpose()?;
        let inputs = projections.iter().map(|shape| shape.inputs).max().unwrap_or(1) as usize;
        let outputs = projections.iter().map(|shape| shape.outputs).max().unwrap_or(1) as usize;
        let copied = |shape: &ProjectionShape| {
            gathered::elements(by_row.entries(), ProjectionShape { inputs: shape.inputs, outputs: shape.outputs })
        };
        let gathered = (way == Way::Gathered)
            .then(|| random(projections.iter().map(copied).max().unwrap_or(1), 6, 0.02, "gathered weights"))
            .transpose()?;
        let v_length = rows as usize * widest as usize;
        let mut v = gpu.allocate::<f32>(stream, v_length, "v")?;
        stream.memset_zeros(&mut v).map_err(Error::driver("clearing v"))?;
        Ok(Setup {
            way,
            element,
            layout,
            segments,
            by_row,
            by_adapter,
            rows,
            stride: widest,
            x: random(rows as usize * inputs, 2, 1.0, "x")?,
            y: random(rows as usize * outputs, 3, 1.0, "y")?,
            v,
            v_narrow: random(v_length, 5, 1.0, "v")?,
            gathered,
            _weights: weights,
        })
    }

    /// One projection of one layer.
    fn launch(
        &self,
        stream: &Arc<CudaStream>,
        kernels: &BaselineKernels,
        cublas: &mut Cublas,
        place: RowMajorPlace,
    ) -> Result<(), Error> {
        let matrix = |slice: &CudaSlice<u16>, columns: u32| Matrix {
            address: slice.device_ptr(stream).0,
            rows: self.rows,
            columns,
            stride: columns,
        };
        let (x, y) = (matrix(&self.x, place.shape.inputs), matrix(&self.y, place.shape.outputs));
        let v = Intermediate { address: self.v.device_ptr(stream).0, rows: self.rows, stride: self.stride };
        let v_narrow = matrix(&self.v_narrow, self.stride);
        // SAFETY: all buffers live in `self` and are large enough for every projection; one stream; launches check shapes.
        unsafe {
            match (self.way, &self.by_adapter, &self.gathered) {
                (Way::Padded, Some(table), _) => {
                    padded::shrink(kernels, stream, table, place, x, v, Overlap::None)?;
                    padded::expand(kernels, stream, table, place, v, y, Overlap::None)
                }
                (Way::Gathered, _, Some(gathered)) => {
                    let gathered = gathered.device_ptr(stream).0;
                    gathered::pair(kernels, cublas, stream, &self.by_row, place, gathered, x, v_narrow, y)
                }
                (Way::Looped, _, _) => looped::pair(cublas, self.element, place, &self.segments, x, v_narrow, y),
                _ => {
                    bgmv::shrink(kernels, stream, &self.by_row, place, x, v, Overlap::None)?;
                    bgmv::expand(kernels, stream, &self.by_row, place, v, y, Overlap::None)
                }
            }
        }
    }
}

fn shapes(projections: &[ProjectionShape], layers: usize) -> Vec<ProjectionShape> {
    let copy = |shape: &ProjectionShape| ProjectionShape { inputs: shape.inputs, outputs: shape.outputs };
    (0..layers).flat_map(|_| projections.iter().map(copy)).collect()
}
