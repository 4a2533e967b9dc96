//! What a model holds in device memory: weights, activations, the KV cache, adapter slots.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

use crate::gpu::Gpu;
use crate::llama::kernels::{SAMPLING_PARTS, rope_table};
use crate::llama::{LlamaSettings, LlamaShape, LoraPath, ModelWeights, Projection, Tensor, batch};
use crate::lora::layout::AdapterLayout;
use crate::timing::Stopwatch;
use crate::{Element, Error};

/// Device memory of one kind of value with its address.
#[derive(Debug)]
pub(crate) struct Buffer<T> {
    pub(crate) slice: CudaSlice<T>,
    pub(crate) address: u64,
}

impl<T: cudarc::driver::DeviceRepr> Buffer<T> {
    pub(crate) fn new(gpu: &Gpu, stream: &Arc<CudaStream>, length: usize, what: &str) -> Result<Self, Error> {
        let slice = gpu.allocate::<T>(stream, length, what)?;
        let address = slice.device_ptr(stream).0;
        Ok(Buffer { slice, address })
    }
}

impl<T: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits> Buffer<T> {
    pub(crate) fn zeroed(gpu: &Gpu, stream: &Arc<CudaStream>, length: usize, what: &str) -> Result<Self, Error> {
        let mut buffer = Buffer::new(gpu, stream, length, what)?;
        stream.memset_zeros(&mut buffer.slice).map_err(Error::driver(format!("clearing {what}")))?;
        Ok(buffer)
    }
}

/// Weights of one layer; projections that share an input lie one after the other.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Buffer<u16>,
    pub(crate) mlp_norm: Buffer<u16>,
    /// \[q, k, v columns\]\[hidden\].
    pub(crate) qkv: Buffer<u16>,
    /// \[hidden\]\[q columns\].
    pub(crate) o: Buffer<u16>,
    /// \[gate, up columns\]\[hidden\].
    pub(crate) gate_up: Buffer<u16>,
    /// \[hidden\]\[intermediate\].
    pub(crate) down: Buffer<u16>,
}

/// All weights of a model.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) embedding: Buffer<u16>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Buffer<u16>,
    pub(crate) lm_head: Buffer<u16>,
}

/// Makes weight buffers one after the other.
struct Loader<'a, 'w> {
    gpu: &'a Gpu,
    stream: &'a Arc<CudaStream>,
    element: Element,
    stopwatch: &'a Stopwatch,
    source: ModelWeights<'w>,
    drawn: u64,
}

impl Loader<'_, '_> {
    /// One buffer of the tensors given, row-major, one after the other. `inputs`: what a row of weights is summed over,
    /// or `None` for norms.
    fn load(&mut self, what: &str, tensors: &[(Tensor, usize)], inputs: Option<u32>) -> Result<Buffer<u16>, Error> {
        let length = tensors.iter().map(|(_, length)| length).sum();
        let mut buffer = Buffer::<u16>::new(self.gpu, self.stream, length, what)?;
        match &mut self.source {
            ModelWeights::Random { seed } => {
                self.drawn += 1;
                match inputs {
                    // A uniform value in ±s has variance s²/3: sums over `inputs` of them keep the size of x.
                    Some(inputs) => {
                        let scale = (3.0 / inputs as f32).sqrt();
                        let seed = seed.wrapping_mul(1 << 20).wrapping_add(self.drawn);
                        self.stopwatch.fill(&mut buffer.slice, self.element, seed, scale)?;
                    }
                    None => {
                        let ones = vec![self.element.encode(1.0); length];
                        let upload = || Error::driver(format!("uploading {what}"));
                        self.stream.memcpy_htod(&ones, &mut buffer.slice).map_err(upload())?;
                    }
                }
            }
            ModelWeights::Given(give) => {
                let mut values = Vec::with_capacity(length);
                for &(tensor, expected) in tensors {
                    let given = give(tensor)?;
                    if given.len() != expected {
                        let why = format!("has {} elements, the shape says {expected}", given.len());
                        return Err(Error::shape(format!("{tensor:?}"), why));
                    }
                    values.extend(given);
                }
                let upload = Error::driver(format!("uploading {what}"));
                self.stream.memcpy_htod(&values, &mut buffer.slice).map_err(upload)?;
                self.stream.synchronize().map_err(Error::driver(format!("uploading {what}")))?;
            }
        }
        Ok(buffer)
    }
}

impl Weights {
    pub(crate) fn load(
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        shape: &LlamaShape,
        element: Element,
        stopwatch: &Stopwatch,
        source: ModelWeights<'_>,
    ) -> Result<Self, Error> {
        let mut loader = Loader { gpu, stream, element, stopwatch, source, drawn: 0 };
        let hidden = shape.hidden as usize;
        let table = shape.vocab as usize * hidden;
        let embedding = loader.load("the embedding", &[(Tensor::Embedding, table)], Some(1))?;
        let mut layers = Vec::new();
        for layer in 0..shape.layers {
            let fused = |projections: &[Projection]| -> Vec<(Tensor, usize)> {
                let length = |p: Projection| {
                    let shape = shape.projection(p);
                    shape.inputs as usize * shape.outputs as usize
                };
                projections
                    .iter()
                    .map(|&projection| (Tensor::Projection { layer, projection }, length(projection)))
                    .collect()
            };
            use Projection::{Down, Gate, K, O, Q, Up, V};
            let norm = |tensor| [(tensor, hidden)];
            layers.push(Layer {
                attention_norm: loader.load("a norm", &norm(Tensor::AttentionNorm { layer }), None)?,
                mlp_norm: loader.load("a norm", &norm(Tensor::MlpNorm { layer }), None)?,
                qkv: loader.load("weights of q, k and v", &fused(&[Q, K, V]), Some(shape.hidden))?,
                o: loader.load("weights of o", &fused(&[O]), Some(shape.query_width()))?,
                gate_up: loader.load("weights of gate and up", &fused(&[Gate, Up]), Some(shape.hidden))?,
                down: loader.load("weights of down", &fused(&[Down]), Some(shape.intermediate))?,
            });
        }
        let final_norm = loader.load("a norm", &[(Tensor::FinalNorm, hidden)], None)?;
        let lm_head = loader.load("the LM head", &[(Tensor::LmHead, table)], Some(shape.hidden))?;
        Ok(Weights { embedding, layers, final_norm, lm_head })
    }
}

/// Activations of one step, all 16-bit and dense, with room for the largest bucket of rows.
#[derive(Debug)]
pub(crate) struct Activations {
    /// The residual stream, \[rows\]\[hidden\].
    pub(crate) h: Buffer<u16>,
    /// Normalised, \[rows\]\[hidden\].
    pub(crate) x: Buffer<u16>,
    /// \[rows\]\[q, k, v\].
    pub(crate) qkv: Buffer<u16>,
    /// Rotated queries, \[rows\]\[q\].
    pub(crate) q: Buffer<u16>,
    /// What attention gave, \[rows\]\[q\].
    pub(crate) attended: Buffer<u16>,
    /// Output of o and of down, \[rows\]\[hidden\].
    pub(crate) y: Buffer<u16>,
    /// \[rows\]\[gate, up\].
    pub(crate) gate_up: Buffer<u16>,
    /// \[rows\]\[intermediate\].
    pub(crate) activated: Buffer<u16>,
    /// What adapters add to qkv, y and gate_up; all zero between their uses. Empty where adapters are off.
    pub(crate) delta_qkv: Buffer<u16>,
    pub(crate) delta_y: Buffer<u16>,
    pub(crate) delta_gate_up: Buffer<u16>,
    /// Normalised rows that are sampled, \[samples\]\[hidden\].
    pub(crate) sampled: Buffer<u16>,
    /// \[samples\]\[vocab\].
    pub(crate) logits: Buffer<u16>,
    /// Keys of the sampling's first stage.
    pub(crate) partial: Buffer<u64>,
    /// Sampled tokens.
    pub(crate) tokens: Buffer<u32>,
    /// (cos, sin) of the rotary embedding.
    pub(crate) rope: Buffer<f32>,
}

impl Activations {
    pub(crate) fn new(
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        shape: &LlamaShape,
        settings: &LlamaSettings,
    ) -> Result<Self, Error> {
        let rows = batch::bucket(settings.rows_max) as usize;
        let samples = batch::bucket(settings.sequences_max) as usize;
        let (hidden, query) = (shape.hidden as usize, shape.query_width() as usize);
        let qkv = query + 2 * shape.kv_width() as usize;
        let intermediate = shape.intermediate as usize;
        let delta_rows = if settings.lora == LoraPath::Off { 0 } else { rows };
        let matrix = |rows: usize, columns: usize| Buffer::<u16>::zeroed(gpu, stream, rows * columns, "activations");
        let mut activations = Activations {
            h: matrix(rows, hidden)?,
            x: matrix(rows, hidden)?,
            qkv: matrix(rows, qkv)?,
            q: matrix(rows, query)?,
            attended: matrix(rows, query)?,
            y: matrix(rows, hidden)?,
            gate_up: matrix(rows, 2 * intermediate)?,
            activated: matrix(rows, intermediate)?,
            delta_qkv: matrix(delta_rows, qkv)?,
            delta_y: matrix(delta_rows, hidden)?,
            delta_gate_up: matrix(delta_rows, 2 * intermediate)?,
            sampled: matrix(samples, hidden)?,
            logits: matrix(samples, shape.vocab as usize)?,
            partial: Buffer::zeroed(gpu, stream, samples * SAMPLING_PARTS as usize, "sampling")?,
            tokens: Buffer::zeroed(gpu, stream, samples, "sampling")?,
            rope: Buffer::new(
                gpu,
                stream,
                settings.context_max as usize * shape.head_dim as usize,
                "the rotary table",
            )?,
        };
        let table = rope_table(shape, settings.context_max);
        stream.memcpy_htod(&table, &mut activations.rope.slice).map_err(Error::driver("uploading the rotary table"))?;
        stream.synchronize().map_err(Error::driver("uploading the rotary table"))?;
        Ok(activations)
    }
}

/// The KV cache: for each layer \[block\]\[KV head\]\[k, v\]\[16 tokens\]\[head_dim\].
#[derive(Debug)]
pub(crate) struct KvCache {
    memory: Buffer<u16>,
    layer_bytes: u64,
}

impl KvCache {
    pub(crate) fn new(
        gpu: &Gpu,
        stream: &Arc<CudaStream>,
        shape: &LlamaShape,
        settings: &LlamaSettings,
    ) -> Result<Self, Error> {
        let layer = settings.kv_blocks as usize * settings.block_tokens as usize * 2 * shape.kv_width() as usize;
        let memory = Buffer::zeroed(gpu, stream, layer * shape.layers as usize, "the KV cache")?;
        Ok(KvCache { memory, layer_bytes: layer as u64 * 2 })
    }

    pub(crate) fn layer(&self, layer: u32) -> u64 {
        self.memory.address + u64::from(layer) * self.layer_bytes
    }

    /// Everything, to be filled before a measurement: a cache of zeros would flatter it.
    pub(crate) fn memory_mut(&mut self) -> &mut CudaSlice<u16> {
        &mut self.memory.slice
    }
}

/// The layout of every adapter of this model: seven projections a layer.
pub(crate) fn adapter_layout(shape: &LlamaShape) -> Result<AdapterLayout, Error> {
    let shapes: Vec<_> =
        (0..shape.layers).flat_map(|_| Projection::ALL.map(|projection| shape.projection(projection))).collect();
    AdapterLayout::new(&shapes)
}
