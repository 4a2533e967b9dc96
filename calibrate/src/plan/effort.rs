//! About how long an answer takes: for budgets and repetitions alone, never for a profile.

use aril_sim::profile::lora::LoraKernel;

use crate::machine::{AT_REST, BEHIND, Identity, Question, REST_BEFORE_S, StepShape, served};

/// What a model needs, at rates that any data-centre GPU of the last years about reaches.
pub(super) struct Effort {
    layers: f64,
    /// One layer's weights, microseconds to stream them.
    weights_us: f64,
    /// A row through one layer.
    row_us: f64,
    /// A token of context in one layer.
    token_us: f64,
    /// A thousand pairs of query and key in one layer.
    kilopair_us: f64,
}

/// Rates: bytes and operations a microsecond.
const BYTES: f64 = 2.5e6;
const OPERATIONS: f64 = 4e8;

/// Device time that the repetitions of one answer are given, microseconds; and how many there are at least and at most.
const GIVEN_US: f64 = 16_000.0;
const REPEATS: (f64, f64) = (3.0, 11.0);
/// The same of differences between two steps, each of which scatters.
const ADDED_US: f64 = 150_000.0;
/// What takes longer than this at once is steadier than what is short: two are enough.
const LONG_US: f64 = 60_000.0;
/// Adapters of so few rows run beside products, and are told from them by a difference: more repetitions.
const BESIDE: (u32, u32) = (32, 6);

/// Settling, preparing a shape, capturing it; seconds.
const PREPARING_S: f64 = 0.05;

impl Effort {
    pub(super) fn of(identity: &Identity) -> Effort {
        let model = &identity.model;
        let degree = f64::from(identity.tensor_parallel.max(1));
        let parameters = model.layer_matrix_parameters() as f64 / degree;
        let layers = f64::from(model.layers);
        let kv = model.kv_bytes_per_token_per_gpu(identity.tensor_parallel) as f64 / layers;
        Effort {
            layers,
            weights_us: parameters * model.weights.bytes() as f64 / BYTES,
            row_us: parameters * 2.0 / OPERATIONS,
            token_us: kv / BYTES,
            kilopair_us: 4e3 * model.query_width() as f64 / degree / OPERATIONS,
        }
    }

    /// One layer of a step.
    fn layer_us(&self, shape: &StepShape) -> f64 {
        let pairs: f64 =
            shape.prompts.iter().map(|p| f64::from(p.chunk) * (f64::from(p.prefix) + f64::from(p.chunk) / 2.0)).sum();
        let arithmetic = f64::from(shape.rows()) * self.row_us + pairs * 1e-3 * self.kilopair_us;
        (self.weights_us + shape.kv_tokens() as f64 * self.token_us).max(arithmetic)
    }

    /// One repetition on the device, microseconds: operations run once a layer.
    fn device_us(&self, question: &Question) -> f64 {
        let step = |shape: &StepShape| self.layer_us(shape) * self.layers;
        match question {
            Question::Operation { shape, .. } => step(shape) / 3.0,
            Question::Lora { kernel: LoraKernel::Segmented, shape } => step(shape),
            Question::Lora { kernel: LoraKernel::Loop, shape } => {
                200.0 * shape.adapters.len() as f64 + self.layer_us(shape)
            }
            Question::Lora { shape, .. } => 2.0 * self.layer_us(shape),
            Question::Step { shape, .. } | Question::Host { shape, .. } => step(shape),
            Question::Added { shape } => 2.0 * step(shape),
            Question::Behind { prompts, times, shape } => {
                (AT_REST + BEHIND) as f64 * step(shape) + f64::from(*times) * step(prompts) + REST_BEFORE_S * 1e6
            }
            Question::Served { shapes, steps, pauses } => {
                let alone = |shape: &StepShape| step(shape) + REST_BEFORE_S * 1e6;
                let all_alone: f64 = shapes.iter().map(alone).sum();
                let order = served::order(shapes, *steps, *pauses);
                let run: f64 = order.iter().map(|served| step(&shapes[served.shape]) + served.rested_us).sum();
                served::ALONE as f64 * all_alone + run
            }
            // Many replays, so that copies begin and end among them.
            Question::StepBesideLoad { shape } => 4.0 * step(shape),
            Question::Load { rank, beside, .. } => {
                f64::from(*rank) * 250.0 + beside.as_ref().map_or(0.0, |shape| step(shape) * 4.0)
            }
            Question::Switch { .. } => 30_000.0,
            Question::Copy { bytes } => *bytes as f64 / BYTES,
        }
    }

    /// More repetitions where they are cheap.
    pub(super) fn repeats(&self, question: &Question) -> u32 {
        let device_us = self.device_us(question);
        let given = |us: f64| (us / device_us.max(1.0)).clamp(REPEATS.0, REPEATS.1) as u32;
        match question {
            Question::Step { .. } if device_us > LONG_US => 2,
            Question::Added { .. } => given(ADDED_US),
            Question::Behind { .. } => 3,
            Question::Served { .. } => 1,
            Question::Lora { kernel: LoraKernel::Segmented, shape } if shape.rows() <= BESIDE.0 => BESIDE.1,
            _ => given(GIVEN_US),
        }
    }

    /// All of an answer, seconds.
    pub(super) fn seconds(&self, question: &Question) -> f64 {
        // Our kernels are measured launch by launch.
        let parts = if matches!(question, Question::Lora { kernel: LoraKernel::Segmented, .. }) { 1.6 } else { 1.0 };
        parts * PREPARING_S + f64::from(self.repeats(question) + 1) * (self.device_us(question) + 150.0) * 1e-6
    }
}
