//! The step to run copies beside: a decode step of Llama-2-7B with an adapter a row, as a server would replay it.

use std::sync::Arc;

use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{
    AdapterWeights, Build, CapturedStep, Llama, LlamaSettings, LlamaShape, LoraOrder, LoraPath, ModelWeights, Sequence,
};
use aril_kernels::{Element, Error};
use cudarc::driver::{CudaEvent, CudaStream, sys};
use serde_json::{Value, json};

use crate::driver;

const CONTEXT: u32 = 1024;
const RANK: u32 = 16;

/// A captured step and the model that it belongs to.
pub(crate) struct Step {
    step: CapturedStep,
    begin: CudaEvent,
    end: CudaEvent,
    rows: u32,
    // Dropped after the graph that reads its memory.
    _llama: Llama,
}

impl Step {
    /// One new token of each of `rows` sequences of 1,024 tokens, each with an adapter of its own on all projections.
    pub(crate) fn new(gpu: &Gpu, rows: u32) -> Result<Step, Error> {
        let settings = LlamaSettings {
            rows_max: rows,
            adapter_slots: rows,
            rank_max: RANK,
            lora: LoraPath::Segmented(LoraOrder::default()),
            ..LlamaSettings::for_sequences(Element::Bf16, rows, CONTEXT)
        };
        let weights = ModelWeights::Random { seed: 1 };
        let mut llama = Llama::open(gpu, LlamaShape::llama_2_7b(), settings, &Build::default(), weights)?;
        llama.fill_kv(2)?;
        for slot in 0..rows {
            llama.load_adapter(slot, RANK, 1.0, AdapterWeights::Random { seed: 10 + u64::from(slot) })?;
        }
        let blocks: Vec<Vec<u32>> =
            (0..rows).map(|row| (0..CONTEXT / 16).map(|block| block * rows + row).collect()).collect();
        let tokens: Vec<[u32; 1]> = (0..rows).map(|row| [row + 1]).collect();
        let sequences: Vec<Sequence<'_>> = blocks
            .iter()
            .zip(&tokens)
            .zip(0..)
            .map(|((blocks, tokens), slot)| Sequence {
                tokens,
                prefix: CONTEXT - 1,
                blocks,
                adapter: Some(slot),
                sample: true,
            })
            .collect();
        let step = llama.capture_step(&sequences)?;
        let event =
            || gpu.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver("making an event"));
        let (begin, end) = (event()?, event()?);
        Ok(Step { step, begin, end, rows, _llama: llama })
    }

    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        self.step.stream()
    }

    pub(crate) fn launch(&self) -> Result<(), Error> {
        self.step.launch()
    }

    /// Microseconds a step with nothing beside it: `repeats` times ten replays.
    pub(crate) fn alone_us(&self, repeats: usize) -> Result<Vec<f64>, Error> {
        const REPLAYS: usize = 10;
        let timed = || driver("timing the step");
        self.launch()?;
        let mut samples = Vec::new();
        for _ in 0..repeats {
            self.begin.record(self.stream()).map_err(timed())?;
            for _ in 0..REPLAYS {
                self.launch()?;
            }
            self.end.record(self.stream()).map_err(timed())?;
            self.end.synchronize().map_err(timed())?;
            let milliseconds = self.begin.elapsed_ms(&self.end).map_err(timed())?;
            samples.push(f64::from(milliseconds) * 1e3 / REPLAYS as f64);
        }
        Ok(samples)
    }

    pub(crate) fn describe(&self) -> Value {
        json!({
            "what": format!(
                "a whole decode step of Llama-2-7B as a graph, each row with an adapter of its own of rank {RANK} on all projections"
            ),
            "rows": self.rows,
            "context": CONTEXT,
        })
    }
}
