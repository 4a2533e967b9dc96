//! Which model: widths, counts and the constants of its formulas.

use crate::Error;
use crate::llama::Projection;
use crate::lora::layout::ProjectionShape;

/// The shape of a Llama model, or of one GPU's part of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LlamaShape {
    /// Transformer layers.
    pub layers: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads; queries share them in groups of `heads / kv_heads`.
    pub kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// Width of the gated MLP.
    pub intermediate: u32,
    /// Rows of the embedding and of the LM head.
    pub vocab: u32,
    /// Base of the rotary frequencies.
    pub rope_theta: f32,
    /// How frequencies are stretched for long contexts, if they are.
    pub rope_scaling: Option<RopeScaling>,
    /// Added to the mean square in RMSNorm.
    pub rms_epsilon: f32,
}

/// The frequency scaling of Llama 3.1 (`rope_type: llama3` in Hugging Face configurations).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeScaling {
    /// Long wavelengths are divided by this.
    pub factor: f32,
    /// Wavelengths above `original_context / low_frequency_factor` are long.
    pub low_frequency_factor: f32,
    /// Wavelengths below `original_context / high_frequency_factor` are left alone; those between are blended.
    pub high_frequency_factor: f32,
    /// Context that the model was trained with first, tokens.
    pub original_context: u32,
}

impl LlamaShape {
    /// Llama-2-7B.
    pub fn llama_2_7b() -> Self {
        LlamaShape {
            layers: 32,
            hidden: 4096,
            heads: 32,
            kv_heads: 32,
            head_dim: 128,
            intermediate: 11008,
            vocab: 32000,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rms_epsilon: 1e-5,
        }
    }

    /// Llama-2-13B.
    pub fn llama_2_13b() -> Self {
        LlamaShape {
            layers: 40,
            hidden: 5120,
            heads: 40,
            kv_heads: 40,
            intermediate: 13824,
            ..LlamaShape::llama_2_7b()
        }
    }

    /// Llama-3.1-8B.
    pub fn llama_3_1_8b() -> Self {
        LlamaShape {
            layers: 32,
            hidden: 4096,
            heads: 32,
            kv_heads: 8,
            head_dim: 128,
            intermediate: 14336,
            vocab: 128_256,
            rope_theta: 500_000.0,
            rope_scaling: Some(RopeScaling {
                factor: 8.0,
                low_frequency_factor: 1.0,
                high_frequency_factor: 4.0,
                original_context: 8192,
            }),
            rms_epsilon: 1e-5,
        }
    }

    /// One GPU's part of Llama-3.1-70B split over eight by tensor parallelism: heads, KV heads, MLP and vocabulary
    /// divided by eight. The sums over GPUs that such a split needs are not part of it.
    pub fn llama_3_1_70b_shard_tp8() -> Self {
        LlamaShape {
            layers: 80,
            hidden: 8192,
            heads: 8,
            kv_heads: 1,
            intermediate: 28672 / 8,
            vocab: 128_256 / 8,
            ..LlamaShape::llama_3_1_8b()
        }
    }

    /// A model of two layers with grouped queries, for tests.
    pub fn tiny() -> Self {
        LlamaShape {
            layers: 2,
            hidden: 256,
            heads: 4,
            kv_heads: 2,
            head_dim: 64,
            intermediate: 384,
            vocab: 512,
            ..LlamaShape::llama_3_1_8b()
        }
    }

    /// Columns of q.
    pub fn query_width(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// Columns of k, and of v.
    pub fn kv_width(&self) -> u32 {
        self.kv_heads * self.head_dim
    }

    /// Inputs and outputs of one projection.
    pub fn projection(&self, projection: Projection) -> ProjectionShape {
        let (inputs, outputs) = match projection {
            Projection::Q => (self.hidden, self.query_width()),
            Projection::K | Projection::V => (self.hidden, self.kv_width()),
            Projection::O => (self.query_width(), self.hidden),
            Projection::Gate | Projection::Up => (self.hidden, self.intermediate),
            Projection::Down => (self.intermediate, self.hidden),
        };
        ProjectionShape { inputs, outputs }
    }

    /// 16-bit elements of all weights that a decode step reads: every projection and the LM head, norms included, the
    /// embedding (of which a step reads one row a token) not.
    pub fn weights_read(&self) -> u64 {
        let layer: u64 = Projection::ALL
            .iter()
            .map(|&p| {
                let ProjectionShape { inputs, outputs } = self.projection(p);
                u64::from(inputs) * u64::from(outputs)
            })
            .sum();
        let hidden = u64::from(self.hidden);
        u64::from(self.layers) * (layer + 2 * hidden) + u64::from(self.vocab) * hidden + hidden
    }

    /// Bytes that the KV cache holds for one token, over all layers.
    pub fn kv_bytes_token(&self) -> u64 {
        u64::from(self.layers) * 2 * u64::from(self.kv_width()) * 2
    }

    /// The inverse frequencies of the rotary embedding, `head_dim / 2` of them, radians a token.
    ///
    /// As `_compute_llama3_parameters` of Hugging Face transformers where there is a scaling.
    pub fn rope_frequencies(&self) -> Vec<f64> {
        let half = self.head_dim / 2;
        (0..half)
            .map(|index| {
                let frequency = f64::from(self.rope_theta).powf(-f64::from(index) / f64::from(half));
                self.rope_scaling.map_or(frequency, |scaling| scaling.scale(frequency))
            })
            .collect()
    }

    /// Checks that the kernels serve this shape.
    ///
    /// # Errors
    /// [`Error::Shape`] names the field and what would do.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |field: &str, why: String| Err(Error::shape(format!("model shape: {field}"), why));
        let counts = [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("intermediate", self.intermediate),
            ("vocab", self.vocab),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(field, "must not be zero".to_owned());
        }
        if self.heads > 1 << 10 || self.layers > 1 << 10 {
            return refuse("heads and layers", format!("more than {} of either", 1 << 10));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return refuse("kv_heads", format!("{} does not divide {} heads", self.kv_heads, self.heads));
        }
        if self.head_dim != 64 && self.head_dim != 128 {
            return refuse("head_dim", format!("{} is neither 64 nor 128", self.head_dim));
        }
        for (field, width) in [("hidden", self.hidden), ("intermediate", self.intermediate), ("vocab", self.vocab)] {
            if width % 8 != 0 || width > 1 << 18 {
                return refuse(field, format!("{width} is not a multiple of 8 up to {}", 1 << 18));
            }
        }
        let positive = |value: f32| value.is_finite() && value > 0.0;
        if !positive(self.rope_theta) || !positive(self.rms_epsilon) {
            return refuse("rope_theta and rms_epsilon", "must be positive".to_owned());
        }
        self.rope_scaling.map_or(Ok(()), RopeScaling::check)
    }
}

impl RopeScaling {
    /// Checks that every frequency has a scaled one.
    fn check(self) -> Result<(), Error> {
        let RopeScaling { factor, low_frequency_factor: low, high_frequency_factor: high, original_context } = self;
        let refuse = |field: &str, why: String| Err(Error::shape(format!("model shape: rope_scaling.{field}"), why));
        for (field, value) in [("factor", factor), ("low_frequency_factor", low), ("high_frequency_factor", high)] {
            if !value.is_finite() || value <= 0.0 {
                return refuse(field, format!("{value} is not positive and finite"));
            }
        }
        if high <= low {
            return refuse("high_frequency_factor", format!("{high} is not more than low_frequency_factor, {low}"));
        }
        if original_context == 0 {
            return refuse("original_context", "must not be zero".to_owned());
        }
        Ok(())
    }

    fn scale(self, frequency: f64) -> f64 {
        let wavelength = 2.0 * std::f64::consts::PI / frequency;
        let original = f64::from(self.original_context);
        let (low, high) = (f64::from(self.low_frequency_factor), f64::from(self.high_frequency_factor));
        let stretched = frequency / f64::from(self.factor);
        if wavelength > original / low {
            stretched
        } else if wavelength < original / high {
            frequency
        } else {
            let share = (original / wavelength - low) / (high - low);
            (1.0 - share) * stretched + share * frequency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_have_the_parameters_of_the_models() {
        // Parameter counts of the published checkpoints, less the embedding.
        for (shape, parameters, embedding) in [
            (LlamaShape::llama_2_7b(), 6_738_415_616_u64, 32_000 * 4096),
            (LlamaShape::llama_2_13b(), 13_015_864_320, 32_000 * 5120),
            (LlamaShape::llama_3_1_8b(), 8_030_261_248, 128_256 * 4096),
        ] {
            assert_eq!(shape.weights_read(), parameters - embedding, "{shape:?}");
            shape.check().expect("a published model");
        }
        LlamaShape::llama_3_1_70b_shard_tp8().check().expect("a shard");
        LlamaShape::tiny().check().expect("the test model");
    }

    #[test]
    fn llama_3_frequencies_keep_short_waves_and_stretch_long_ones() {
        let shape = LlamaShape::llama_3_1_8b();
        let plain = LlamaShape { rope_scaling: None, ..shape };
        let (scaled, plain) = (shape.rope_frequencies(), plain.rope_frequencies());
        assert_eq!(scaled[0], plain[0]);
        assert_eq!(scaled[63], plain[63] / 8.0);
        assert!(scaled.iter().zip(&plain).all(|(s, p)| *s <= *p && *s >= p / 8.0));
    }

    #[test]
    fn a_shape_that_no_kernel_serves_is_refused() {
        let tiny = LlamaShape::tiny();
        for shape in [
            LlamaShape { head_dim: 96, ..tiny },
            LlamaShape { kv_heads: 3, ..tiny },
            LlamaShape { hidden: 252, ..tiny },
            LlamaShape { layers: 0, ..tiny },
            LlamaShape { rms_epsilon: f32::NAN, ..tiny },
            LlamaShape { heads: 1026, ..tiny },
            LlamaShape { heads: u32::MAX - 1, ..tiny },
            LlamaShape { layers: 1025, ..tiny },
        ] {
            assert!(matches!(shape.check(), Err(Error::Shape { .. })), "{shape:?}");
        }
        LlamaShape { heads: 1024, layers: 1024, ..tiny }.check().expect("the most of both");
    }

    #[test]
    fn a_scaling_that_gives_no_frequencies_is_refused() {
        let right = LlamaShape::tiny().rope_scaling.expect("a scaling");
        let of = |scaling| LlamaShape { rope_scaling: Some(scaling), ..LlamaShape::tiny() };
        for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            for (scaling, field) in [
                (RopeScaling { factor: wrong, ..right }, "factor"),
                (RopeScaling { low_frequency_factor: wrong, ..right }, "low_frequency_factor"),
                (RopeScaling { high_frequency_factor: wrong, ..right }, "high_frequency_factor"),
            ] {
                is_refused(of(scaling), field);
            }
        }
        is_refused(of(RopeScaling { original_context: 0, ..right }), "original_context");
        // A wave between the two would be blended by a share that is no number.
        for high in [right.low_frequency_factor, right.low_frequency_factor / 2.0] {
            is_refused(of(RopeScaling { high_frequency_factor: high, ..right }), "high_frequency_factor");
        }
        for scaling in [
            RopeScaling { factor: f32::MIN_POSITIVE, ..right },
            RopeScaling { factor: f32::MAX, original_context: u32::MAX, ..right },
            RopeScaling { high_frequency_factor: f32::MAX, low_frequency_factor: f32::MIN_POSITIVE, ..right },
        ] {
            let shape = LlamaShape { rope_theta: f32::MAX, ..of(scaling) };
            shape.check().expect("all of it is positive");
            assert!(shape.rope_frequencies().into_iter().all(f64::is_finite), "{scaling:?}");
        }
    }

    #[track_caller]
    fn is_refused(shape: LlamaShape, field: &str) {
        match shape.check() {
            Err(Error::Shape { what, .. }) => assert_eq!(what, format!("model shape: rope_scaling.{field}")),
            other => panic!("{other:?}: {shape:?}"),
        }
    }
}
