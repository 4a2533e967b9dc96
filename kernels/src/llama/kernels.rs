//! The launches of a step's small kernels: embedding, norm, rotary embedding with KV append, activation, sampling.
//!
//! Every address is of dense 16-bit matrices unless said otherwise; shapes come from the model and were checked with it.

use crate::Error;
use crate::gpu::Overlap;
use crate::llama::LlamaShape;
use crate::program::{Compiler, Grid, Kernel};
use crate::{Element, llama};

use cudarc::driver::CudaStream;

const THREADS: u32 = 256;

/// Blocks that share a row's logits.
pub const SAMPLING_PARTS: u32 = 16;

/// The small kernels of one model.
#[derive(Debug)]
pub struct StepKernels {
    shape: LlamaShape,
    embed: Kernel,
    norm: Kernel,
    norm_threads: u32,
    rope: Kernel,
    activation: Kernel,
    largest_of_parts: Kernel,
    largest_of_rows: Kernel,
}

/// The same layout as `Arguments` in `embedding.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct EmbedArguments {
    table: u64,
    tokens: u64,
    h: u64,
    vectors: u32,
    reserved: u32,
}

/// The same layout as `Arguments` in `norm.cu`: residual, what is added to it (0: nothing), and where the result goes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct NormArguments {
    /// \[rows\]\[hidden\], the residual stream.
    pub h: u64,
    /// \[rows\]\[hidden\], added to it, or 0.
    pub y: u64,
    /// \[rows\]\[hidden\], added too and put back to zero, or 0.
    pub delta: u64,
    /// \[hidden\].
    pub weight: u64,
    /// \[slots\]\[hidden\].
    pub out: u64,
    /// i32 \[rows\]: the row of `out`, negative for none; 0: the same row.
    pub slots: u64,
    /// Hidden width in vectors of 8; set by the launch.
    pub vectors: u32,
    /// Set by the launch.
    pub epsilon: f32,
}

/// The same layout as `Arguments` in `rope.cu`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct RopeArguments {
    /// \[rows\]\[q, k, v\], as their GEMM leaves them.
    pub y: u64,
    /// The same shape, added and put back to zero, or 0.
    pub delta: u64,
    /// \[rows\]\[heads · D\].
    pub q: u64,
    /// The layer's part of the KV cache, \[block\]\[KV head\]\[k, v\]\[16 tokens\]\[D\].
    pub cache: u64,
    /// fp32 pairs (cos, sin) \[positions\]\[D / 2\].
    pub table: u64,
    /// u32 \[rows\].
    pub positions: u64,
    /// i32 \[rows\]: block · 16 + token in the block, or negative.
    pub slots: u64,
    /// Set by the launch.
    pub heads: u32,
    /// Set by the launch.
    pub kv_heads: u32,
    /// Set by the launch.
    pub blocks_row: u32,
    /// Nothing.
    pub reserved: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct ActivationArguments {
    y: u64,
    delta: u64,
    out: u64,
    rows: u32,
    vectors: u32,
}

#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct SamplingArguments {
    logits: u64,
    partial: u64,
    tokens: u64,
    vectors: u32,
    parts: u32,
}

impl StepKernels {
    /// Compiles and loads the kernels of this shape and format.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that they do not serve; compiler and driver errors.
    pub fn new(compiler: &Compiler, shape: LlamaShape, element: Element) -> Result<Self, Error> {
        shape.check()?;
        let format = || ("ELEMENT", element.device_name().to_owned());
        let (threads, vectors) = norm_threads(&shape)?;
        Ok(StepKernels {
            shape,
            embed: compiler.kernel("embedding.cu", Vec::new(), "embed")?,
            norm: compiler.kernel(
                "norm.cu",
                vec![format(), ("THREADS", threads.to_string()), ("VECTORS", vectors.to_string())],
                "rms_norm",
            )?,
            norm_threads: threads,
            rope: compiler.kernel(
                "rope.cu",
                vec![format(), ("HEAD", shape.head_dim.to_string())],
                "rope_and_append",
            )?,
            activation: compiler.kernel("activation.cu", vec![format()], "silu_mul")?,
            largest_of_parts: compiler.kernel("sampling.cu", vec![format()], "largest_of_parts")?,
            largest_of_rows: compiler.kernel("sampling.cu", vec![format()], "largest_of_rows")?,
        })
    }

    /// h\[r\] = table\[tokens\[r\]\].
    ///
    /// # Errors
    /// [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// Live matrices of the model's shape with at least `rows` rows; every token below the vocabulary.
    pub unsafe fn embed(
        &self,
        stream: &CudaStream,
        rows: u32,
        table: u64,
        tokens: u64,
        h: u64,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let arguments = EmbedArguments { table, tokens, h, vectors: self.shape.hidden / 8, reserved: 0 };
        let grid = Grid { blocks: rows, threads: THREADS, shared_bytes: 0 };
        // SAFETY: the kernel's layout; the rest is the caller's promise.
        unsafe { self.embed.launch(stream, grid, &arguments, overlap) }
    }

    /// RMSNorm with the residual's sum; see `norm.cu`.
    ///
    /// # Errors
    /// [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// Live matrices of the model's shape with at least `rows` rows; slots within `out`.
    pub unsafe fn norm(
        &self,
        stream: &CudaStream,
        rows: u32,
        mut arguments: NormArguments,
        overlap: Overlap,
    ) -> Result<(), Error> {
        arguments.vectors = self.shape.hidden / 8;
        arguments.epsilon = self.shape.rms_epsilon;
        let threads = self.norm_threads;
        let grid = Grid { blocks: rows, threads, shared_bytes: (threads + 32) * 4 };
        // SAFETY: the kernel's layout; the rest is the caller's promise.
        unsafe { self.norm.launch(stream, grid, &arguments, overlap) }
    }

    /// Rotary embedding and KV append; see `rope.cu`.
    ///
    /// # Errors
    /// [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// Live matrices of the model's shape with at least `rows` rows; slots within the cache, positions within the table.
    pub unsafe fn rope(
        &self,
        stream: &CudaStream,
        rows: u32,
        mut arguments: RopeArguments,
        overlap: Overlap,
    ) -> Result<(), Error> {
        arguments.heads = self.shape.heads;
        arguments.kv_heads = self.shape.kv_heads;
        let items = (self.shape.heads + 2 * self.shape.kv_heads) * self.shape.head_dim / 8;
        arguments.blocks_row = items.div_ceil(THREADS);
        let grid = Grid { blocks: rows * arguments.blocks_row, threads: THREADS, shared_bytes: 0 };
        // SAFETY: the kernel's layout; the rest is the caller's promise.
        unsafe { self.rope.launch(stream, grid, &arguments, overlap) }
    }

    /// out = silu(gate)·up; `delta` 0 for none.
    ///
    /// # Errors
    /// [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// Live matrices of the model's shape with at least `rows` rows.
    pub unsafe fn activation(
        &self,
        stream: &CudaStream,
        rows: u32,
        y: u64,
        delta: u64,
        out: u64,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let vectors = self.shape.intermediate / 8;
        let arguments = ActivationArguments { y, delta, out, rows, vectors };
        let grid = Grid { blocks: (rows * vectors).div_ceil(THREADS), threads: THREADS, shared_bytes: 0 };
        // SAFETY: the kernel's layout; the rest is the caller's promise.
        unsafe { self.activation.launch(stream, grid, &arguments, overlap) }
    }

    /// tokens\[r\] = the lowest index of the largest logit; `partial` holds u64 \[rows\]\[[`SAMPLING_PARTS`]\].
    ///
    /// # Errors
    /// [`Error::Driver`] if the launch is refused.
    ///
    /// # Safety
    /// Live matrices of the model's shape with at least `rows` rows.
    pub unsafe fn sample(
        &self,
        stream: &CudaStream,
        rows: u32,
        logits: u64,
        partial: u64,
        tokens: u64,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let vectors = self.shape.vocab / 8;
        let arguments = SamplingArguments { logits, partial, tokens, vectors, parts: SAMPLING_PARTS };
        let grid = |blocks| Grid { blocks, threads: THREADS, shared_bytes: THREADS * 8 };
        // SAFETY: the kernels' layout; the rest is the caller's promise.
        unsafe {
            self.largest_of_parts.launch(stream, grid(rows * SAMPLING_PARTS), &arguments, overlap)?;
            self.largest_of_rows.launch(stream, grid(rows), &arguments, overlap)
        }
    }
}

/// Threads of the norm's blocks and the vectors of 8 elements that each holds: two at most, since a row's latency is that of
/// what one thread does in turn.
fn norm_threads(shape: &LlamaShape) -> Result<(u32, u32), Error> {
    let vectors = shape.hidden / 8;
    let threads = vectors.div_ceil(2).next_power_of_two().max(THREADS);
    if threads > 1024 {
        let why = format!("{} is more than the norm's 16384", shape.hidden);
        return Err(Error::shape("model shape: hidden", why));
    }
    Ok((threads, vectors.div_ceil(threads)))
}

/// The (cos, sin) table of the rotary embedding, fp32, for positions below `context`: \[context\]\[D / 2\]\[2\].
pub fn rope_table(shape: &llama::LlamaShape, context: u32) -> Vec<f32> {
    let frequencies = shape.rope_frequencies();
    let mut table = Vec::with_capacity(context as usize * frequencies.len() * 2);
    for position in 0..context {
        for frequency in &frequencies {
            let (sin, cos) = (f64::from(position) * frequency).sin_cos();
            table.extend([cos as f32, sin as f32]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rotary_table_holds_the_angles_of_every_position() {
        let shape = LlamaShape::tiny();
        let table = rope_table(&shape, 20);
        let half = shape.head_dim as usize / 2;
        assert_eq!(table.len(), 20 * half * 2);
        assert!(table[..2 * half].chunks_exact(2).all(|pair| pair == [1.0, 0.0]), "position 0 turns nothing");
        let frequencies = shape.rope_frequencies();
        let (cos, sin) = (table[(19 * half + 3) * 2], table[(19 * half + 3) * 2 + 1]);
        assert!((f64::from(cos) - (19.0 * frequencies[3]).cos()).abs() < 1e-7);
        assert!((f64::from(sin) - (19.0 * frequencies[3]).sin()).abs() < 1e-7);
    }

    #[test]
    fn a_model_wider_than_the_norm_is_refused() {
        let wide = LlamaShape { hidden: 16392, ..LlamaShape::tiny() };
        assert!(matches!(norm_threads(&wide), Err(Error::Shape { .. })));
        assert_eq!(norm_threads(&LlamaShape::tiny()).expect("it fits"), (256, 1));
        assert_eq!(norm_threads(&LlamaShape::llama_2_7b()).expect("it fits"), (256, 2));
        assert_eq!(norm_threads(&LlamaShape::llama_2_13b()).expect("it fits"), (512, 2));
        assert_eq!(norm_threads(&LlamaShape::llama_3_1_70b_shard_tp8()).expect("it fits"), (512, 2));
    }
}
