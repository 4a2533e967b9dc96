//! A step to run copies beside: the GEMMs of Llama-2-7B's layers on a decode batch, and the memory traffic of its KV.

use std::sync::Arc;

use aril_kernels::cublas::{Cublas, Operand, Product};
use aril_kernels::gpu::Gpu;
use aril_kernels::timing::Stopwatch;
use aril_kernels::{Element, Error};
use cudarc::driver::{CudaEvent, CudaGraph, CudaSlice, CudaStream, DevicePtr, sys};
use serde_json::{Value, json};

use crate::driver;

/// q, k, v, o, gate, up, down.
const PROJECTIONS: [(u32, u32); 7] =
    [(4096, 4096), (4096, 4096), (4096, 4096), (4096, 4096), (4096, 11008), (4096, 11008), (11008, 4096)];
const LAYERS: u32 = 32;
const CONTEXT: u64 = 1024;

/// A captured step.
pub(crate) struct Step {
    stream: Arc<CudaStream>,
    graph: CudaGraph,
    begin: CudaEvent,
    end: CudaEvent,
    rows: u32,
    layers: u32,
    kv_bytes: u64,
    _cublas: Cublas,
    _buffers: Vec<CudaSlice<u16>>,
}

impl Step {
    /// A step of `rows` decode rows. Weights of `layers` layers exist and are used in turn; each layer also moves as many
    /// bytes as reading the KV of 1,024 tokens a row would.
    pub(crate) fn new(
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        stopwatch: &Stopwatch,
        rows: u32,
        layers: u32,
    ) -> Result<Step, Error> {
        let element = Element::Bf16;
        let mut cublas = Cublas::new(gpu, stream)?;
        let mut buffers = Vec::new();
        let mut buffer = |elements: u64, what: &str| -> Result<u64, Error> {
            let mut memory = gpu.allocate::<u16>(stream, elements as usize, what)?;
            stopwatch.fill(&mut memory, element, buffers.len() as u64, 0.02)?;
            let address = memory.device_ptr(stream).0;
            buffers.push(memory);
            Ok(address)
        };
        let mut weights = Vec::new();
        for _ in 0..layers {
            for (inputs, outputs) in PROJECTIONS {
                weights.push(buffer(u64::from(inputs) * u64::from(outputs), "the step's weights")?);
            }
        }
        let x = buffer(u64::from(rows) * 11008, "the step's inputs")?;
        let y = buffer(u64::from(rows) * 11008, "the step's outputs")?;
        // K and V, 4096 wide, two bytes each; half is read and half written, the same traffic as reading it all.
        let kv_bytes = u64::from(rows) * CONTEXT * 4096 * 2 * 2;
        let kv = buffer(kv_bytes / 2, "the step's KV")?;
        let graph = stopwatch.capture(|| {
            for layer in 0..LAYERS {
                for (index, (inputs, outputs)) in PROJECTIONS.into_iter().enumerate() {
                    let weight = weights[(layer % layers) as usize * PROJECTIONS.len() + index];
                    let product = Product {
                        element,
                        rows,
                        columns: outputs,
                        depth: inputs,
                        a: Operand::plain(x, inputs),
                        b: Operand::transposed(weight, inputs),
                        c: Operand::plain(y, outputs),
                        alpha: 1.0,
                        beta: 0.0,
                        batch: 1,
                    };
                    // SAFETY: the buffers live in the step and hold these shapes.
                    unsafe { cublas.multiply(&product)? };
                    if index == 2 {
                        let half = kv_bytes / 2;
                        // SAFETY: the buffer holds `kv_bytes`.
                        unsafe { stopwatch.copy_uncooperatively(kv + half, kv, half as usize)? };
                    }
                }
            }
            Ok(())
        })?;
        graph.upload().map_err(driver("uploading the step"))?;
        let event =
            || gpu.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver("making an event"));
        let (begin, end) = (event()?, event()?);
        let stream = stream.clone();
        Ok(Step { stream, graph, begin, end, rows, layers, kv_bytes, _cublas: cublas, _buffers: buffers })
    }

    pub(crate) fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    pub(crate) fn launch(&self) -> Result<(), Error> {
        self.graph.launch().map_err(driver("launching the step"))
    }

    /// Microseconds a step with nothing beside it: `repeats` times ten replays.
    pub(crate) fn alone_us(&self, repeats: usize) -> Result<Vec<f64>, Error> {
        const REPLAYS: usize = 10;
        self.launch()?;
        let mut samples = Vec::new();
        for _ in 0..repeats {
            self.begin.record(&self.stream).map_err(driver("timing the step"))?;
            for _ in 0..REPLAYS {
                self.launch()?;
            }
            self.end.record(&self.stream).map_err(driver("timing the step"))?;
            self.end.synchronize().map_err(driver("timing the step"))?;
            let milliseconds = self.begin.elapsed_ms(&self.end).map_err(driver("timing the step"))?;
            samples.push(f64::from(milliseconds) * 1e3 / REPLAYS as f64);
        }
        Ok(samples)
    }

    pub(crate) fn describe(&self) -> Value {
        json!({
            "what": "the GEMMs of 32 layers of Llama-2-7B on decode rows, and a copy kernel a layer that moves the bytes of its KV",
            "rows": self.rows,
            "context": CONTEXT,
            "layers_of_weights_in_turn": self.layers,
            "kv_bytes_a_layer": self.kv_bytes,
        })
    }
}
