//! Measures adapter copies host → device: pinned and pageable, by size, alone and beside a running step.
//!
//! `cargo run --release -p aril-kernels --example bench_copies -- --out results.json`
//!
//! Options: `--repeats N` (copies a figure), `--rows N` (of the step), `--budget SECONDS` (begin no figure
//! after that), `--source-hash` (of the kernels that this binary holds, without a GPU).

#[path = "../bench_lora/provenance.rs"]
mod provenance;
mod step;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use aril_kernels::Error;
use aril_kernels::copy::{HostBuffer, HostMemory};
use aril_kernels::gpu::Gpu;
use aril_kernels::source::Sources;
use aril_kernels::timing::Summary;
use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, sys};
use serde_json::{Value, json};

use step::Step;

struct Options {
    out: PathBuf,
    repeats: usize,
    rows: u32,
    budget_s: f64,
    source_hash: bool,
}

fn options() -> Result<Options, String> {
    let mut options =
        Options { out: "bench_copies.json".into(), repeats: 20, rows: 32, budget_s: f64::INFINITY, source_hash: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--source-hash" {
            options.source_hash = true;
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{argument} needs a value"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{argument} needs a number"));
        match argument.as_str() {
            "--out" => options.out = value.into(),
            "--repeats" => options.repeats = number()? as usize,
            "--rows" => options.rows = number()?,
            "--budget" => options.budget_s = f64::from(number()?),
            other => return Err(format!("unknown option {other}; see the head of examples/bench_copies/main.rs")),
        }
    }
    Ok(options)
}

const MIB: usize = 1 << 20;
const LARGEST: usize = 512 * MIB;
/// What an adapter of 80 MiB (rank 16 on all projections of Llama-2-7B) is copied in where each matrix travels by itself.
const PIECES: usize = 2 * 7 * 32;

pub(crate) fn driver(doing: &'static str) -> impl FnOnce(cudarc::driver::DriverError) -> Error {
    move |code| Error::Driver { doing: doing.to_owned(), code: format!("{code:?}") }
}

/// Two streams, a target on the device and a source of each kind.
struct Machine {
    gpu: Gpu,
    copies: Arc<CudaStream>,
    target: CudaSlice<u8>,
    sources: Vec<HostBuffer>,
}

impl Machine {
    fn event(&self) -> Result<CudaEvent, Error> {
        self.gpu.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver("making an event"))
    }

    /// Starts one copy between two events.
    fn copy(&mut self, kind: HostMemory, bytes: usize, pieces: usize) -> Result<(CudaEvent, CudaEvent), Error> {
        let (begin, end) = (self.event()?, self.event()?);
        let source = self.sources.iter().find(|source| source.kind() == kind).expect("a source of each kind");
        begin.record(&self.copies).map_err(driver("recording an event"))?;
        // SAFETY: the target is used by copies alone, and sources are never written.
        unsafe { source.copy_to(&self.copies, &mut self.target, bytes, pieces)? };
        end.record(&self.copies).map_err(driver("recording an event"))?;
        Ok((begin, end))
    }

    /// Microseconds of copies, one at a time, by events; and of the host's thread until the call returned.
    fn alone(
        &mut self,
        kind: HostMemory,
        bytes: usize,
        pieces: usize,
        repeats: usize,
    ) -> Result<(Vec<f64>, Vec<f64>), Error> {
        let (mut device, mut host) = (Vec::new(), Vec::new());
        for n in 0..=repeats {
            let start = Instant::now();
            let (begin, end) = self.copy(kind, bytes, pieces)?;
            let called = start.elapsed().as_secs_f64() * 1e6;
            end.synchronize().map_err(driver("copying"))?;
            // The first one is not counted.
            if n > 0 {
                device.push(elapsed_us(&begin, &end)?);
                host.push(called);
            }
        }
        Ok((device, host))
    }

    /// Microseconds of copies with nothing else running, the next one asked for before the last is finished.
    fn in_a_row(&mut self, kind: HostMemory, bytes: usize, pieces: usize, count: usize) -> Result<Vec<f64>, Error> {
        let mut events = Vec::new();
        for _ in 0..count + 2 {
            self.copy_in_turn(&mut events, kind, bytes, pieces)?;
        }
        self.copies.synchronize().map_err(driver("copying"))?;
        // The first one had an idle engine, the last none behind it.
        events[1..=count].iter().map(|(begin, end)| elapsed_us(begin, end)).collect()
    }

    /// Starts another copy once at most one is in flight: the copy engine never waits for the host, and little is left
    /// to run when the caller stops.
    fn copy_in_turn(
        &mut self,
        events: &mut Vec<(CudaEvent, CudaEvent)>,
        kind: HostMemory,
        bytes: usize,
        pieces: usize,
    ) -> Result<(), Error> {
        events.push(self.copy(kind, bytes, pieces)?);
        if let Some((_, end)) = events.len().checked_sub(3).and_then(|at| events.get(at)) {
            end.synchronize().map_err(driver("copying"))?;
        }
        Ok(())
    }

    /// Copies one after the other for as long as `replays` of the step run. Returns microseconds a step, and of each copy
    /// that began and ended while steps ran.
    fn beside(
        &mut self,
        step: &Step,
        kind: HostMemory,
        bytes: usize,
        pieces: usize,
        replays: usize,
    ) -> Result<(f64, Vec<f64>), Error> {
        let (begin, end) = (self.event()?, self.event()?);
        // The first copies start before the step does, so that every replay has one beside it.
        let mut events = vec![self.copy(kind, bytes, pieces)?];
        begin.record(step.stream()).map_err(driver("recording an event"))?;
        for _ in 0..replays {
            step.launch()?;
        }
        end.record(step.stream()).map_err(driver("recording an event"))?;
        while !is_complete(&end)? {
            self.copy_in_turn(&mut events, kind, bytes, pieces)?;
        }
        self.copies.synchronize().map_err(driver("copying"))?;
        let step_us = elapsed_us(&begin, &end)? / replays as f64;
        let mut copies = Vec::new();
        for (copy_begin, copy_end) in &events {
            if elapsed_us(&begin, copy_begin)? >= 0.0 && elapsed_us(copy_end, &end)? >= 0.0 {
                copies.push(elapsed_us(copy_begin, copy_end)?);
            }
        }
        Ok((step_us, copies))
    }
}

fn elapsed_us(begin: &CudaEvent, end: &CudaEvent) -> Result<f64, Error> {
    let mut milliseconds = 0.0_f32;
    // SAFETY: both events were recorded and are complete; the order is free, which the safe wrapper's is too.
    unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, begin.cu_event(), end.cu_event()) }
        .result()
        .map_err(driver("reading events"))?;
    Ok(f64::from(milliseconds) * 1e3)
}

fn is_complete(event: &CudaEvent) -> Result<bool, Error> {
    // SAFETY: the event is live.
    match unsafe { sys::cuEventQuery(event.cu_event()) } {
        sys::CUresult::CUDA_SUCCESS => Ok(true),
        sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        other => other.result().map(|()| true).map_err(driver("asking an event")),
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    if options.source_hash {
        println!("{}", provenance::source_hashes(None)?);
        return Ok(());
    }
    let start = Instant::now();
    let gpu = Gpu::open(0)?;
    let sources = Sources::built_in();
    let copies = gpu.stream()?;
    // Contents differ from byte to byte: pages of one value may be one page.
    let content: Vec<u8> = (0..LARGEST as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let pinning = Instant::now();
    let buffers = HostMemory::ALL.map(|kind| HostBuffer::new(&gpu, kind, &content));
    let pinning_ms = pinning.elapsed().as_secs_f64() * 1e3;
    let buffers = buffers.into_iter().collect::<Result<Vec<_>, _>>()?;
    let target = gpu.allocate::<u8>(&copies, LARGEST, "the copies' target")?;
    copies.synchronize().map_err(driver("allocating"))?;
    let clocks_before = provenance::clocks();
    let step = Step::new(&gpu, options.rows)?;
    let mut machine = Machine { gpu, copies, target, sources: buffers };
    check(&mut machine, &content)?;

    let step_alone = step.alone_us(options.repeats)?;
    let alone = Summary::of(&step_alone).expect("at least one replay");
    println!("step alone: {:.0} µs ({:.0} to {:.0})", alone.median, alone.p10, alone.p90);
    let mut results = Vec::new();
    let mut left_out = Vec::new();
    let mut cases: Vec<(usize, usize)> = [1, 2, 4, 8, 16, 32, 64, 80, 128, 256, 512].map(|mib| (mib * MIB, 1)).to_vec();
    cases.insert(0, (64 << 10, 1));
    cases.insert(1, (256 << 10, 1));
    cases.push((80 * MIB, PIECES));
    for kind in HostMemory::ALL {
        for &(bytes, pieces) in &cases {
            if start.elapsed().as_secs_f64() > options.budget_s {
                left_out.push(format!("{} {bytes}", kind.name()));
                continue;
            }
            // At least about 100 ms of steps, and time for a dozen copies.
            let (device, host) = machine.alone(kind, bytes, pieces, options.repeats)?;
            let copy = Summary::of(&device).expect("at least one copy");
            let replays = ((12.0 * copy.median).max(1e5) / alone.median).ceil().min(200.0) as usize;
            let mut beside = Vec::new();
            let mut steps = Vec::new();
            for _ in 0..3 {
                let (step_us, copies_us) = machine.beside(&step, kind, bytes, pieces, replays)?;
                steps.push(step_us);
                beside.extend(copies_us);
            }
            let row = machine.in_a_row(kind, bytes, pieces, options.repeats)?;
            let row_summary = Summary::of(&row).expect("at least one copy");
            // The step's own time again, next to the figure that it is compared with.
            let again = Summary::of(&step.alone_us(3)?).expect("at least one replay").median;
            let beside_summary = Summary::of(&beside);
            let slowed = Summary::of(&steps).expect("three runs").median;
            let beside_us = beside_summary.map_or(f64::NAN, |summary| summary.median);
            println!(
                "{:8} {:9} B in {pieces:3}: alone {:9.1} µs ({:5.1} GB/s)  in a row {:9.1}  beside {beside_us:9.1} µs (× {:.3})  step {again:.0} → {slowed:.0} µs (× {:.4})",
                kind.name(),
                bytes,
                copy.median,
                bytes as f64 / copy.median / 1e3,
                row_summary.median,
                beside_us / row_summary.median,
                slowed / again,
            );
            results.push(json!({
                "memory": kind.name(),
                "bytes": bytes,
                "pieces": pieces,
                "alone_us": figures(copy),
                "alone_samples_us": rounded(&device),
                "in_a_row_us": figures(row_summary),
                "in_a_row_samples_us": rounded(&row),
                "host_us": Summary::of(&host).map(figures),
                "beside_us": beside_summary.map(figures),
                "beside_copies": beside.len(),
                "beside_samples_us": rounded(&thinned(&beside)),
                "step_alone_us": again,
                "step_beside_us": slowed,
                "step_beside_samples_us": rounded(&steps),
                "step_replays": replays,
            }));
        }
    }
    let report = json!({
        "what": "adapter copies host → device, microseconds by events on a stream of their own, alone and beside replays of a step",
        "gpu": machine.gpu.name(),
        "driver_cuda": machine.gpu.driver_version(),
        "clocks_before": clocks_before,
        "clocks_after": provenance::clocks(),
        "source_sha256": sources.hash()?,
        "date": provenance::date(),
        "allocating_and_filling_both_host_buffers_ms": pinning_ms,
        "step": step.describe(),
        "step_alone_us": figures(alone),
        "step_alone_samples_us": rounded(&step_alone),
        "left_out": left_out,
        "results": results,
    });
    std::fs::write(&options.out, serde_json::to_string(&report)?.replace("{\"alone_samples", "\n{\"alone_samples"))?;
    println!("{:.0} s; written to {}", start.elapsed().as_secs_f64(), options.out.display());
    Ok(())
}

/// What arrives is what was sent, from both kinds of memory, whole and in pieces.
fn check(machine: &mut Machine, content: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
    for kind in HostMemory::ALL {
        for (bytes, pieces) in [(8 * MIB + 24, 1), (3 * MIB + 8, 7)] {
            let stream = machine.copies.clone();
            stream.memset_zeros(&mut machine.target).map_err(driver("clearing the target"))?;
            machine.copy(kind, bytes, pieces)?;
            stream.synchronize().map_err(driver("copying"))?;
            let arrived = stream.clone_dtoh(&machine.target.slice(..bytes + MIB)).map_err(driver("reading back"))?;
            if arrived[..bytes] != content[..bytes] || arrived[bytes..].iter().any(|&byte| byte != 0) {
                return Err(format!("a {} copy of {bytes} bytes in {pieces} pieces arrived wrong", kind.name()).into());
            }
        }
    }
    Ok(())
}

/// At most about a hundred samples, evenly spread over all of them.
fn thinned(samples: &[f64]) -> Vec<f64> {
    samples.iter().copied().step_by(samples.len().div_ceil(100).max(1)).collect()
}

fn rounded(samples: &[f64]) -> Vec<f64> {
    samples.iter().map(|us| (us * 10.0).round() / 10.0).collect()
}

fn figures(summary: Summary) -> Value {
    let rounded = |us: f64| (us * 10.0).round() / 10.0;
    json!({ "median": rounded(summary.median), "p10": rounded(summary.p10), "p90": rounded(summary.p90) })
}
