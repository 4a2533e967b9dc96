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
    norm_form: NormForm,
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
        let norm_form = NormForm::of(&shape)?;
        Ok(StepKernels {
            shape,
            embed: compiler.kernel("embedding.cu", Vec::new(), "embed")?,
            norm: compiler.kernel("norm.cu", norm_form.defines(element), "rms_norm")?,
            norm_form,
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
        // SAFETY: the kernel's layout; the rest is the caller's promise.
        unsafe { self.norm.launch(stream, self.norm_form.grid(rows), &arguments, overlap) }
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NormForm {
    threads: u32,
    vectors: u32,
}

impl NormForm {
    fn of(shape: &LlamaShape) -> Result<Self, Error> {
        let vectors = shape.hidden / 8;
        let threads = vectors.div_ceil(2).next_power_of_two().max(THREADS);
        if threads > 1024 {
            let why = format!("{} is more than the norm's 16384", shape.hidden);
            return Err(Error::shape("model shape: hidden", why));
        }
        Ok(NormForm { threads, vectors: vectors.div_ceil(threads) })
    }

    fn defines(self, element: Element) -> Vec<(&'static str, String)> {
        let NormForm { threads, vectors } = self;
        let format = ("ELEMENT", element.device_name().to_owned());
        vec![format, ("THREADS", threads.to_string()), ("VECTORS", vectors.to_string())]
    }

    /// `block_sum` of `norm.cu` keeps a float a thread and 32 more in shared memory.
    fn grid(self, rows: u32) -> Grid {
        Grid { blocks: rows, threads: self.threads, shared_bytes: (self.threads + 32) * 4 }
    }
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
        assert!(matches!(NormForm::of(&wide), Err(Error::Shape { .. })));
        let widest = LlamaShape { hidden: 16384, ..wide };
        for (shape, threads, vectors) in [
            (LlamaShape::tiny(), 256, 1),
            (LlamaShape::llama_2_7b(), 256, 2),
            (LlamaShape::llama_2_13b(), 512, 2),
            (LlamaShape::llama_3_1_70b_shard_tp8(), 512, 2),
            (widest, 1024, 2),
        ] {
            assert_eq!(NormForm::of(&shape).expect("it fits"), NormForm { threads, vectors });
        }
    }

    #[test]
    fn the_norm_runs_as_many_threads_as_it_is_compiled_for_with_shared_memory_for_each() {
        for (threads, shared_bytes) in [(256, 1152), (512, 2176), (1024, 4224)] {
            let form = NormForm { threads, vectors: 2 };
            assert!(form.defines(Element::Bf16).contains(&("THREADS", threads.to_string())));
            assert_eq!(form.grid(7), Grid { blocks: 7, threads, shared_bytes });
        }
    }
}
