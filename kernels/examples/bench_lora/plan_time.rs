//! What a step pays for a plan: making it, on the host, and bringing it to the GPU.

use std::time::Instant;

use aril_kernels::Error;
use aril_kernels::lora::plan::{Job, Plan, Tuning};
use aril_kernels::timing::Summary;
use cudarc::driver::sys;

use crate::bench::{Bench, Prepared, driver};

/// Plans of a graph that is timed: so many copies hide its start.
const COPIES: usize = 32;

impl Bench {
    /// Host time of making the plan, microseconds.
    pub(crate) fn plan_host_us(&self, prepared: &Prepared) -> Result<f64, Error> {
        let mut samples = Vec::new();
        for _ in 0..20 {
            let start = Instant::now();
            let plan: Plan = self.plan(prepared, Tuning::default())?;
            samples.push(start.elapsed().as_secs_f64() * 1e6);
            drop(plan);
        }
        Ok(Summary::of(&samples).expect("twenty samples").median)
    }

    /// Time of the GPU for a plan's table to arrive from pinned memory, microseconds, as one of [`COPIES`] in a graph.
    pub(crate) fn plan_device_us(&mut self, plan: &Plan, repeats: usize) -> Result<Summary, Error> {
        let table: Vec<u8> = plan.jobs().iter().copied().flat_map(Job::to_bytes).collect();
        let target = self.gpu.allocate::<u8>(&self.stream, table.len().max(16), "a plan")?;
        let doing = "pinning a plan";
        // SAFETY: all of it is written below, before anything reads it.
        let mut source = unsafe { self.gpu.context().alloc_pinned_with_flags::<u8>(table.len().max(16), 0) }
            .map_err(driver(doing))?;
        source.as_mut_slice().map_err(driver(doing))?[..table.len()].copy_from_slice(&table);
        let (from, to) = (source.as_ptr().map_err(driver(doing))?, self.address(&target));
        let stream = self.stream.cu_stream();
        let graph = self.stopwatch.capture(|| {
            for _ in 0..COPIES {
                // SAFETY: both are at least so long and live until the replays are done.
                unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), table.len().max(16), stream) }
                    .result()
                    .map_err(driver("capturing a plan's copy"))?;
            }
            Ok(())
        })?;
        let samples = self.stopwatch.replays_us(&graph, repeats)?;
        let each: Vec<f64> = samples.into_iter().map(|us| us / COPIES as f64).collect();
        Ok(Summary::of(&each).expect("at least one replay"))
    }

    /// Time in which a loaded plan is replaced as a step does it, microseconds, from the stream's reaching that until
    /// its table is there: the host's part of it counts, since the stream waits for it.
    pub(crate) fn plan_replaced_us(&mut self, plan: &Plan, repeats: usize) -> Result<Summary, Error> {
        let mut loaded = self.kernels.load(&self.stream, plan, plan.jobs().len() as u32)?;
        let event =
            || self.gpu.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver("an event"));
        let (start, end) = (event()?, event()?);
        let mut samples = Vec::new();
        for _ in 0..=repeats {
            self.stream.synchronize().map_err(driver("waiting"))?;
            start.record(&self.stream).map_err(driver("timing a plan"))?;
            loaded.replace(&self.stream, plan)?;
            end.record(&self.stream).map_err(driver("timing a plan"))?;
            end.synchronize().map_err(driver("timing a plan"))?;
            samples.push(f64::from(start.elapsed_ms(&end).map_err(driver("timing a plan"))?) * 1e3);
        }
        // The first is not counted.
        Ok(Summary::of(&samples[1..]).expect("at least one"))
    }
}
