//! A made-up GPU whose true coefficients are known: noise, jitter, throttling and all.
//!
//! What the fit makes of its answers can be compared with the truth, on any machine and in any test. Nothing of it ever ships
//! as a measurement: its name says what it is.

mod truth;

use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::random::{self, Stream};
use rand::RngExt;

use super::{Answer, Clocks, Identity, Limits, Machine, MachineError, Question, Throttle, served};

pub use truth::Truth;

/// A GPU that answers from [`Truth`], and how badly.
#[derive(Clone, Debug)]
pub struct SyntheticGpu {
    /// What it really takes.
    pub truth: Truth,
    /// Standard deviation of a single answer, share of it.
    pub noise: f64,
    /// How often an answer is an outlier, and by how much it is longer then.
    pub outliers: (f64, f64),
    /// Answers, by their number, during which it is too hot and takes so much longer.
    pub hot: Option<(std::ops::Range<u64>, f64)>,
    identity: Identity,
    random: Stream,
    answers: u64,
    seconds: f64,
}

impl SyntheticGpu {
    /// About an H200 running Llama-2-7B; `seed` decides about its noise.
    pub fn h200_llama_2_7b(seed: u64) -> SyntheticGpu {
        let model = Model::named("llama-2-7b").expect("a known model");
        let gpu = Gpu::named("h200").expect("a known GPU");
        SyntheticGpu {
            truth: Truth::of(&gpu, &model),
            noise: 0.004,
            outliers: (0.01, 0.25),
            hot: None,
            identity: Identity {
                gpu: "synthetic H200".to_owned(),
                gpu_name: gpu.name,
                driver: "none".to_owned(),
                cuda: "none".to_owned(),
                kernel_source_hash: super::SYNTHETIC.to_owned(),
                multiprocessors: 132,
                model,
                tensor_parallel: 1,
                row_buckets: Vec::new(),
                limits: Limits {
                    rows: 8704,
                    sequences: 512,
                    context: 40_960,
                    kv_tokens: 131_072,
                    rank_sum: 4096,
                    rank: 128,
                    adapters: 256,
                },
            },
            random: random::stream(seed, "synthetic GPU"),
            answers: 0,
            seconds: 0.0,
        }
    }

    fn is_hot(&self) -> bool {
        self.hot.as_ref().is_some_and(|(when, _)| when.contains(&self.answers))
    }

    /// Counts an answer and the time that it took.
    fn answered(&mut self, answer: Answer) -> Answer {
        self.seconds += answer.us.iter().sum::<f64>() * 1e-6 + 0.005;
        self.answers += 1;
        answer
    }

    /// So many answers, one at least.
    fn answers(&mut self, us: f64, repeats: u32) -> Vec<f64> {
        (0..repeats.max(1)).map(|_| self.answer(us)).collect()
    }

    /// One answer: the truth with noise.
    fn answer(&mut self, us: f64) -> f64 {
        // The sum of twelve uniform draws is normal enough.
        let normal: f64 = (0..12).map(|_| self.random.random::<f64>()).sum::<f64>() - 6.0;
        let mut answer = us * (1.0 + self.noise * normal);
        if self.random.random_bool(self.outliers.0) {
            answer *= 1.0 + self.outliers.1;
        }
        if self.is_hot() {
            answer *= self.hot.as_ref().map_or(1.0, |(_, factor)| *factor);
        }
        // A timer resolves so much.
        (answer * 1e3).round() * 1e-3
    }
}

impl Machine for SyntheticGpu {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn measure(&mut self, question: &Question, repeats: u32) -> Result<Answer, MachineError> {
        if let Question::Lora { kernel: LoraKernel::Loop, shape } = question
            && !shape.prompts.is_empty()
        {
            return Err(MachineError::Unsupported("the loop computes decode rows alone here".to_owned()));
        }
        if let Question::Behind { prompts, times, shape } = question {
            let row = self.truth.behind(prompts, *times, shape);
            let parts: Vec<Vec<f64>> = row.into_iter().map(|us| self.answers(us, repeats)).collect();
            let us = (0..repeats.max(1) as usize).map(|repeat| parts.iter().map(|step| step[repeat]).sum()).collect();
            return Ok(self.answered(Answer { us, parts }));
        }
        if let Question::Added { shape } = question {
            let [with, without] = [LoraKernel::Segmented, LoraKernel::None]
                .map(|kernel| self.answers(self.truth.repeated_step(kernel, shape), repeats));
            return Ok(self.answered(Answer::difference(with, without)));
        }
        if let Question::Served { shapes, steps, pauses } = question {
            let alone = shapes.iter().map(|shape| self.truth.step(LoraKernel::Segmented, shape));
            let alone: Vec<(f64, usize)> = alone.map(|us| (us, served::ALONE)).collect();
            let run = self.truth.served(shapes, *steps, *pauses).into_iter().map(|us| (us, 1));
            let each = alone.into_iter().chain(run);
            let parts: Vec<Vec<f64>> = each.map(|(us, times)| (0..times).map(|_| self.answer(us)).collect()).collect();
            let us = vec![parts[shapes.len()..].iter().flatten().sum()];
            return Ok(self.answered(Answer { us, parts }));
        }
        let us = self.truth.us(question);
        let answers = self.answers(us, repeats);
        Ok(self.answered(answers.into()))
    }

    fn clocks(&mut self) -> Clocks {
        Clocks {
            sm_mhz: Some(if self.is_hot() { 1500 } else { 1980 }),
            memory_mhz: Some(3201),
            temperature_c: Some(if self.is_hot() { 88 } else { 55 }),
            power_w: Some(420.0),
            throttled: if self.is_hot() { vec![Throttle::Thermal] } else { Vec::new() },
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds
    }

    fn rest(&mut self, seconds: f64) {
        self.seconds += seconds;
    }
}
