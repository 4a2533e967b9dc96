//! How long does a captured sequence of launches take when the L2 cache is cold?
//!
//! One graph holds several calls. Before each replay 256 MiB are read, so that the cache holds none of the operands
//! and no dirty line is written back inside the timed part; events are recorded around the replay.

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{
    CudaEvent, CudaFunction, CudaGraph, CudaModule, CudaSlice, CudaStream, DevicePtr, LaunchConfig, PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;

use crate::cache::Cache;
use crate::compile::Unit;
use crate::gpu::Gpu;
use crate::source::Sources;
use crate::{Element, Error};

/// Bytes read before each replay: more than four times the L2 of any GPU known so far.
const SWEEP_BYTES: usize = 256 << 20;

/// A replay that heats a card, microseconds.
pub const LONG_US: f64 = 1000.0;

/// No rest is longer than this, seconds.
const REST_S_MAX: f64 = 0.06;

/// Captures, replays and times on one stream.
#[derive(Debug)]
pub struct Stopwatch {
    stream: Arc<CudaStream>,
    _module: Arc<CudaModule>,
    fill_f16: CudaFunction,
    fill_bf16: CudaFunction,
    read_all: CudaFunction,
    copy_vectors: CudaFunction,
    swept: CudaSlice<u8>,
    sink: CudaSlice<u32>,
    start: CudaEvent,
    end: CudaEvent,
    blocks: u32,
    rest: f64,
}

const THREADS: u32 = 256;

impl Stopwatch {
    /// A stopwatch on this stream, which must not be the default one.
    ///
    /// # Errors
    /// Compiler and driver errors; 256 MiB of device memory must be free.
    pub fn new(gpu: &Gpu, stream: &Arc<CudaStream>, sources: &Sources, cache: Option<&Cache>) -> Result<Self, Error> {
        let unit = Unit { source: "memory.cu", architecture: gpu.architecture(), defines: Vec::new() };
        let cubin = unit.compile(sources, cache)?;
        let module = gpu
            .context()
            .load_module(Ptx::from_binary(cubin.image))
            .map_err(Error::driver("loading the measuring kernels"))?;
        let function = |name: &str| module.load_function(name).map_err(Error::driver(format!("finding kernel {name}")));
        let event = || {
            gpu.context()
                .new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
                .map_err(Error::driver("making an event"))
        };
        let mut swept = gpu.allocate::<u8>(stream, SWEEP_BYTES, "sweeping the L2 cache")?;
        stream.memset_zeros(&mut swept).map_err(Error::driver("clearing the sweep buffer"))?;
        Ok(Stopwatch {
            fill_f16: function("fill_f16")?,
            fill_bf16: function("fill_bf16")?,
            read_all: function("read_all")?,
            copy_vectors: function("copy_vectors")?,
            swept,
            sink: gpu.allocate(stream, 1, "the sweep's sink")?,
            start: event()?,
            end: event()?,
            blocks: gpu.chip().multiprocessors * 8,
            rest: 0.0,
            stream: stream.clone(),
            _module: module,
        })
    }

    fn config(&self) -> LaunchConfig {
        LaunchConfig { grid_dim: (self.blocks, 1, 1), block_dim: (THREADS, 1, 1), shared_mem_bytes: 0 }
    }

    /// Fills a buffer with random values in ±`scale`, the same for the same seed.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn fill(&self, buffer: &mut CudaSlice<u16>, element: Element, seed: u64, scale: f32) -> Result<(), Error> {
        let count = buffer.len() as u64 / 2;
        let function = match element {
            Element::F16 => &self.fill_f16,
            Element::Bf16 => &self.fill_bf16,
        };
        let mut launch = self.stream.launch_builder(function);
        launch.arg(&mut *buffer).arg(&count).arg(&seed).arg(&scale).arg(&self.blocks);
        // SAFETY: the kernel writes `count` words of two elements, as many as the buffer holds.
        unsafe { launch.launch(self.config()) }.map_err(Error::driver("filling a buffer")).map(|_| ())
    }

    /// Launches a plain kernel that copies `bytes` (a multiple of 16) and never lets its successor begin early: what a
    /// call finds before it in a step whose GEMMs know nothing of programmatic launches.
    ///
    /// # Errors
    /// [`Error::Driver`].
    ///
    /// # Safety
    /// Both addresses must be multiples of 16 and lie in live device memory of at least `bytes`.
    pub unsafe fn copy_uncooperatively(&self, to: u64, from: u64, bytes: usize) -> Result<(), Error> {
        let count = (bytes / 16) as u64;
        let mut launch = self.stream.launch_builder(&self.copy_vectors);
        launch.arg(&to).arg(&from).arg(&count).arg(&self.blocks);
        // SAFETY: the caller's promise.
        unsafe { launch.launch(self.config()) }.map_err(Error::driver("launching a copy kernel")).map(|_| ())
    }

    /// Captures what `launches` does on the stream.
    ///
    /// # Errors
    /// What `launches` returns, or [`Error::Driver`] if something in it cannot be captured.
    pub fn capture(&self, launches: impl FnOnce() -> Result<(), Error>) -> Result<CudaGraph, Error> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(Error::driver("beginning a capture"))?;
        let launched = launches();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(Error::driver("ending a capture"));
        launched?;
        graph?.ok_or_else(|| Error::Driver { doing: "ending a capture".to_owned(), code: "it is empty".to_owned() })
    }

    /// From now on, rests after every replay of [`LONG_US`] or more, for so many times as long: a card that multiplies without a
    /// pause reaches its power limit, and is slower from then on.
    pub fn set_rest(&mut self, times: f64) {
        self.rest = times;
    }

    /// Microseconds of each of `repeats` replays with a cold L2, after one that is not counted.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn replays_us(&self, graph: &CudaGraph, repeats: usize) -> Result<Vec<f64>, Error> {
        Ok(self.replays_in_turn_us([graph], repeats)?.into_iter().map(|[us]| us).collect())
    }

    /// The same of several graphs in turn, so that what moves between replays moves all of them.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn replays_in_turn_us<const N: usize>(
        &self,
        graphs: [&CudaGraph; N],
        repeats: usize,
    ) -> Result<Vec<[f64; N]>, Error> {
        for graph in graphs {
            graph.upload().map_err(Error::driver("timing a graph"))?;
            self.replay_us(graph)?;
        }
        let mut samples = Vec::with_capacity(repeats);
        for _ in 0..repeats {
            let mut each = [0.0; N];
            for (us, graph) in each.iter_mut().zip(graphs) {
                self.sweep()?;
                *us = self.replay_us(graph)?;
            }
            samples.push(each);
        }
        Ok(samples)
    }

    /// One replay, and the rest after it.
    fn replay_us(&self, graph: &CudaGraph) -> Result<f64, Error> {
        let timed = || Error::driver("timing a graph");
        self.start.record(&self.stream).map_err(timed())?;
        graph.launch().map_err(timed())?;
        self.end.record(&self.stream).map_err(timed())?;
        self.end.synchronize().map_err(timed())?;
        let us = f64::from(self.start.elapsed_ms(&self.end).map_err(timed())?) * 1e3;
        if us >= LONG_US && self.rest > 0.0 {
            std::thread::sleep(Duration::from_secs_f64((us * 1e-6 * self.rest).min(REST_S_MAX)));
        }
        Ok(us)
    }

    /// Microseconds of a device copy that moves `bytes` (half read, half written), in a graph of `calls` of them with a
    /// cold L2: the driver's copy or a kernel's, whichever has the lower median.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] or [`Error::Driver`].
    pub fn copies_us(&self, gpu: &Gpu, bytes: u64, calls: usize, repeats: usize) -> Result<Vec<f64>, Error> {
        let half = (bytes / 2).next_multiple_of(16) as usize;
        let from = gpu.allocate::<u8>(&self.stream, half * calls, "a copy's source")?;
        let to = gpu.allocate::<u8>(&self.stream, half * calls, "a copy's target")?;
        let (source, target) = (from.device_ptr(&self.stream).0, to.device_ptr(&self.stream).0);
        let timed = |kernel: bool| {
            let graph = self.capture(|| {
                for call in 0..calls {
                    let offset = (call * half) as u64;
                    // SAFETY: both buffers hold `calls` times `half` bytes and live until the replays are done.
                    unsafe {
                        if kernel {
                            self.copy_uncooperatively(target + offset, source + offset, half)?;
                        } else {
                            let stream = self.stream.cu_stream();
                            sys::cuMemcpyDtoDAsync_v2(target + offset, source + offset, half, stream)
                                .result()
                                .map_err(Error::driver("capturing a copy"))?;
                        }
                    }
                }
                Ok(())
            })?;
            let samples = self.replays_us(&graph, repeats)?;
            Ok::<Vec<f64>, Error>(samples.iter().map(|sample| sample / calls as f64).collect())
        };
        let (driver, kernel) = (timed(false)?, timed(true)?);
        let median = |samples: &[f64]| Summary::of(samples).map_or(f64::INFINITY, |summary| summary.median);
        Ok(if median(&driver) < median(&kernel) { driver } else { kernel })
    }

    /// Reads 256 MiB, so that the L2 holds nothing else, nor a line to be written back.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn sweep(&self) -> Result<(), Error> {
        let (vectors, _guard) = self.swept.device_ptr(&self.stream);
        let (sink, _sink_guard) = self.sink.device_ptr(&self.stream);
        let count = (SWEEP_BYTES / 16) as u64;
        let mut launch = self.stream.launch_builder(&self.read_all);
        launch.arg(&vectors).arg(&count).arg(&sink).arg(&self.blocks);
        // SAFETY: the kernel reads `count` vectors of 16 bytes, all of the buffer, and writes at most one word.
        unsafe { launch.launch(self.config()) }.map_err(Error::driver("sweeping the L2 cache")).map(|_| ())
    }
}

/// Median and spread of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The tenth percentile.
    pub p10: f64,
    /// The ninetieth percentile.
    pub p90: f64,
}

impl Summary {
    /// Of these samples; `None` if there are none.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |share: f64| sorted[(share * last as f64).round() as usize];
        Some(Summary { median: at(0.5), p10: at(0.1), p90: at(0.9) })
    }
}
