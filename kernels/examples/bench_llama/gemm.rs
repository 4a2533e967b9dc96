//! Both ways to multiply: checked against float64, then timed on cold weights beside the bytes they move.

use std::sync::Arc;

use aril_kernels::cache::Cache;
use aril_kernels::gemm::GemmShape;
use aril_kernels::gemm::cublaslt::{CublasLt, Trial};
use aril_kernels::gemm::few_rows::{FewRows, Tuning};
use aril_kernels::gpu::{Gpu, Overlap};
use aril_kernels::program::Compiler;
use aril_kernels::reference::llama::multiply;
use aril_kernels::reference::lora::Deviation;
use aril_kernels::source::Sources;
use aril_kernels::timing::{Stopwatch, Summary};
use aril_kernels::{Element, Error};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::{Options, rounded};

struct Bench {
    gpu: Gpu,
    stream: Arc<CudaStream>,
    stopwatch: Stopwatch,
    few: FewRows,
    few_ampere: FewRows,
    library: CublasLt,
    repeats: usize,
}

pub(crate) fn run(gpu: &Gpu, options: &Options) -> Result<(Value, usize), Error> {
    let stream = gpu.stream()?;
    let sources = options.build.sources.as_deref().map_or_else(Sources::built_in, Sources::in_folder);
    let cache = Cache::of_user();
    let compiler = Compiler::new(gpu, sources.clone(), cache.clone());
    let bench = Bench {
        gpu: gpu.clone(),
        stopwatch: Stopwatch::new(gpu, &stream, &sources, cache.as_ref())?,
        few: FewRows::new(&compiler, &stream)?,
        few_ampere: FewRows::new(&compiler.clone().with_architecture("compute_80"), &stream)?,
        library: CublasLt::open(gpu, &stream)?,
        repeats: options.repeats,
        stream,
    };
    let mut wrong = 0;
    for element in Element::ALL {
        for (rows, inputs, outputs) in [
            (1, 4096, 4096),
            (3, 72, 40),
            (8, 64, 128),
            (17, 200, 1000),
            (32, 1024, 512),
            (33, 4096, 136),
            (64, 520, 4096),
        ] {
            wrong += bench.check(GemmShape::dense(element, rows, inputs, outputs))?;
        }
    }
    if !options.time {
        return Ok((Value::Null, wrong));
    }
    let mut timed = Vec::new();
    let widths = [
        (4096, 12288),
        (4096, 4096),
        (4096, 22016),
        (11008, 4096),
        (4096, 32000),
        (5120, 15360),
        (5120, 5120),
        (4096, 6144),
        (4096, 28672),
        (14336, 4096),
        (8192, 1280),
        (1024, 8192),
        (8192, 7168),
        (3584, 8192),
    ];
    for (inputs, outputs) in widths {
        for &rows in if options.quick { &[8, 32][..] } else { &[1, 8, 16, 32, 64] } {
            timed.push(bench.time(GemmShape::dense(Element::Bf16, rows, inputs, outputs))?);
        }
    }
    for &rows in if options.quick { &[][..] } else { &[128, 256, 2048] } {
        timed.push(bench.time(GemmShape::dense(Element::Bf16, rows, 4096, 4096))?);
    }
    Ok((json!(timed), wrong))
}

impl Bench {
    fn address(&self, slice: &CudaSlice<u16>) -> u64 {
        slice.device_ptr(&self.stream).0
    }

    /// Prints what is wrong and returns how many of the ways are.
    fn check(&self, shape: GemmShape) -> Result<usize, Error> {
        let seed = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64);
        let mut random = SmallRng::seed_from_u64(seed);
        let mut draw = |count: u32, scale: f32| -> Vec<u16> {
            (0..count).map(|_| shape.element.encode((random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
        };
        let x = draw(shape.rows * shape.inputs, 1.0);
        let w = draw(shape.outputs * shape.inputs, 1.0);
        let decode = |bits: &[u16]| bits.iter().map(|&bits| shape.element.decode(bits)).collect::<Vec<f32>>();
        let weights = decode(&w);
        let expected: Vec<f64> = x
            .chunks_exact(shape.inputs as usize)
            .flat_map(|row| {
                let row: Vec<f64> = decode(row).into_iter().map(f64::from).collect();
                multiply(&row, &weights)
            })
            .collect();
        let driver = |doing: &str| {
            let doing = doing.to_owned();
            move |code: cudarc::driver::DriverError| Error::Driver { doing, code: format!("{code:?}") }
        };
        let stream = &self.stream;
        let (x, w) = (stream.clone_htod(&x).map_err(driver("x"))?, stream.clone_htod(&w).map_err(driver("w"))?);
        let (x, w) = ((self.address(&x), x), (self.address(&w), w));
        let length = (shape.rows * shape.outputs) as usize;
        let mut wrong = 0;
        let mut first: Option<Vec<u16>> = None;
        for way in ["own", "own again", "own in a graph", "sm_80", "cublaslt"] {
            // Poisoned: a NaN where nothing is written, and a guard behind.
            let y = stream.clone_htod(&vec![0x7fff_u16; length + 1024]).map_err(driver("y"))?;
            let to = self.address(&y);
            stream.synchronize().map_err(driver("uploading"))?;
            let overlap = Overlap::Programmatic;
            // SAFETY: all matrices live until the synchronisation below; one stream.
            unsafe {
                match way {
                    "cublaslt" => {
                        let plan = self.library.plan(stream, shape, None)?;
                        self.library.launch(stream, &plan, w.0, x.0, to, 0.0)?;
                    }
                    "sm_80" => {
                        self.few_ampere.launch(stream, &self.few_ampere.plan(shape)?, w.0, x.0, to, None, overlap)?
                    }
                    "own in a graph" => {
                        let plan = self.few.plan(shape)?;
                        let graph =
                            self.stopwatch.capture(|| self.few.launch(stream, &plan, w.0, x.0, to, None, overlap))?;
                        graph.launch().map_err(driver("replaying"))?;
                        stream.synchronize().map_err(driver("replaying"))?;
                    }
                    _ => self.few.launch(stream, &self.few.plan(shape)?, w.0, x.0, to, None, overlap)?,
                }
            }
            stream.synchronize().map_err(driver(way))?;
            let bits = stream.clone_dtoh(&y).map_err(driver("y"))?;
            let result = bits[..length].iter().map(|&bits| f64::from(shape.element.decode(bits)));
            let deviation = Deviation::of(result, &expected);
            let bound = if shape.element == Element::Bf16 { 4e-3 } else { 6e-4 };
            let mut right = deviation.relative_norm < bound && bits[length..].iter().all(|&bits| bits == 0x7fff);
            if way.starts_with("own") {
                right &= *first.get_or_insert_with(|| bits.clone()) == bits;
            }
            if !right {
                println!("WRONG gemm {way} {shape:?}: {deviation:?}");
                wrong += 1;
            }
        }
        Ok(wrong)
    }

    fn time(&self, shape: GemmShape) -> Result<Value, Error> {
        let bytes = shape.bytes();
        let sets = (512_u64 << 20).div_ceil(bytes).clamp(3, 24) as usize;
        let matrix = u64::from(shape.inputs) * u64::from(shape.outputs);
        let mut weights = self.gpu.allocate::<u16>(&self.stream, sets * matrix as usize, "weights")?;
        self.stopwatch.fill(&mut weights, shape.element, 1, 0.05)?;
        let mut x = self.gpu.allocate::<u16>(&self.stream, (shape.rows * shape.inputs) as usize, "x")?;
        self.stopwatch.fill(&mut x, shape.element, 2, 1.0)?;
        let y = self.gpu.allocate::<u16>(&self.stream, (shape.rows * shape.outputs) as usize, "y")?;
        let (base, x_at, y_at) = (self.address(&weights), self.address(&x), self.address(&y));
        let addresses: Vec<u64> = (0..sets as u64).map(|set| base + set * matrix * 2).collect();
        // SAFETY: all matrices live until this function returns, and it waits for what it launched.
        let plan =
            unsafe { self.library.plan(&self.stream, shape, Some(Trial { weights: &addresses, x: x_at, y: y_at }))? };
        let library = self.stopwatch.capture(|| {
            for &w in &addresses {
                // SAFETY: as above.
                unsafe { self.library.launch(&self.stream, &plan, w, x_at, y_at, 0.0)? };
            }
            Ok(())
        })?;
        let each = |samples: Vec<f64>| rounded(samples.into_iter().map(|us| us / sets as f64).collect());
        let library = each(self.stopwatch.replays_us(&library, self.repeats)?);
        let run_own = |tuning: Tuning, overlap: Overlap| -> Result<Vec<f64>, Error> {
            let plan = self.few.plan_with(shape, tuning)?;
            let graph = self.stopwatch.capture(|| {
                for &w in &addresses {
                    // SAFETY: as above.
                    unsafe { self.few.launch(&self.stream, &plan, w, x_at, y_at, None, overlap)? };
                }
                Ok(())
            })?;
            Ok(each(self.stopwatch.replays_us(&graph, self.repeats)?))
        };
        let median = |samples: &[f64]| Summary::of(samples).map_or(f64::NAN, |summary| summary.median);
        let own = if shape.rows <= 64 { run_own(Tuning::default(), Overlap::Programmatic)? } else { Vec::new() };
        if shape.rows == 1 || shape.rows == 16 || shape.rows == 32 || shape.rows == 64 {
            let mut line = "     tuned:".to_owned();
            let chip = self.gpu.chip().multiprocessors;
            for (blocks, stages, wide, overlap) in [
                (chip, None, true, Overlap::None),
                (chip, None, false, Overlap::Programmatic),
                (chip, Some(4), true, Overlap::Programmatic),
                (chip, Some(8), true, Overlap::Programmatic),
                (2 * chip, Some(4), true, Overlap::None),
            ] {
                let tuning = Tuning { blocks: Some(blocks), stages, wide: Some(wide) };
                let figure = run_own(tuning, overlap).map_or(f64::NAN, |samples| median(&samples));
                let plain = if overlap == Overlap::None { " plain" } else { "" };
                let wide = if wide { " wide" } else { "" };
                line += &format!(" {blocks}×{}{plain}{wide} {figure:.2},", stages.unwrap_or(0));
            }
            println!("{line}");
        }
        println!(
            "gemm {:>3} rows {:>5}→{:<5} own {:7.2} us {:5.0} GB/s, cublaslt {:7.2} us {:5.0} GB/s ({:?})",
            shape.rows,
            shape.inputs,
            shape.outputs,
            median(&own),
            bytes as f64 / median(&own) / 1e3,
            median(&library),
            bytes as f64 / median(&library) / 1e3,
            plan.chosen(),
        );
        Ok(json!({
            "rows": shape.rows, "inputs": shape.inputs, "outputs": shape.outputs, "bytes": bytes, "sets": sets,
            "own_us": own, "cublaslt_us": library, "cublaslt_proposal": plan.chosen().proposal,
        }))
    }
}
