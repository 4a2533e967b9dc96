//! Whole steps, and copies of adapters alone and beside them.

use std::time::{Duration, Instant};

use aril_kernels::copy::HostMemory;
use aril_kernels::llama::{AdapterWeights, Beside};
use aril_sim::profile::lora::LoraKernel;

use super::sequences::Drawn;
use super::{LlamaGpu, broken};
use crate::machine::{AT_REST, Answer, BEHIND, MachineError, Question, REST_BEFORE_S, StepShape, rest_us, served};

/// Replays of a step that a copy lies beside: so many at least.
const REPLAYS: usize = 20;
/// Steps before those that count: plans and graphs are made by the first.
const WARM: usize = 2;

impl LlamaGpu {
    /// The same steps for both questions: what the GPU takes and what the host adds.
    pub(super) fn steps_known(
        &mut self,
        kernel: LoraKernel,
        shape: &StepShape,
        repeats: usize,
    ) -> Result<Vec<(f64, f64)>, MachineError> {
        let key = Question::Step { kernel, shape: shape.clone() }.key();
        if let Some(samples) = self.steps.remove(&key) {
            return Ok(samples);
        }
        let samples = self.steps(kernel, shape, repeats)?;
        self.steps.insert(key, samples.clone());
        Ok(samples)
    }

    /// Whole steps as an engine runs them, one after the other: the GPU's part of each, from the first copy of metadata to the last
    /// sampled token, and what the host adds, from the call to its return less the GPU's part; microseconds.
    fn steps(
        &mut self,
        kernel: LoraKernel,
        shape: &StepShape,
        repeats: usize,
    ) -> Result<Vec<(f64, f64)>, MachineError> {
        let on = self.prepare(kernel, shape)?;
        let drawn = Drawn::of(shape, &self.identity, on);
        let mut samples = Vec::with_capacity(repeats);
        // A second finds plans and graphs warm where a step is short.
        let warm = if shape.prompt_rows() > 256 { 1 } else { WARM };
        for repeat in 0..repeats + warm {
            let sequences = drawn.sequences();
            let began = Instant::now();
            let result = self.llama.step(&sequences).map_err(broken)?;
            let us = began.elapsed().as_secs_f64() * 1e6;
            if repeat >= warm {
                samples.push((result.device_us, (us - result.device_us).max(0.0)));
            }
            rest(rest_us(shape.rows(), result.device_us) * 1e-6);
        }
        Ok(samples)
    }

    /// The same step with adapters and without, by turns.
    pub(super) fn added(&mut self, shape: &StepShape, repeats: usize) -> Result<Answer, MachineError> {
        self.prepare(LoraKernel::Segmented, shape)?;
        let drawn = [true, false].map(|on| Drawn::of(shape, &self.identity, on));
        let mut parts = [Vec::with_capacity(repeats), Vec::with_capacity(repeats)];
        for repeat in 0..repeats + WARM {
            for (part, drawn) in parts.iter_mut().zip(&drawn) {
                let us = self.llama.step(&drawn.sequences()).map_err(broken)?.device_us;
                if repeat >= WARM {
                    part.push(us);
                }
                rest(rest_us(shape.rows(), us) * 1e-6);
            }
        }
        let [with, without] = parts;
        Ok(Answer::difference(with, without))
    }

    /// Steps at rest, prompts, steps behind them: each of them, one row after the other.
    pub(super) fn behind(
        &mut self,
        prompts: &StepShape,
        times: u32,
        shape: &StepShape,
        repeats: usize,
    ) -> Result<Answer, MachineError> {
        // Kernels, plans and graphs are there before the first row.
        self.steps(LoraKernel::None, prompts, 1)?;
        self.steps(LoraKernel::None, shape, 1)?;
        let (prompts, rows) = (Drawn::of(prompts, &self.identity, false), Drawn::of(shape, &self.identity, false));
        let (prompts, rows) = (prompts.sequences(), rows.sequences());
        let steps = |of, count| std::iter::repeat_n(of, count);
        let row: Vec<_> =
            steps(&rows, AT_REST).chain(steps(&prompts, times as usize)).chain(steps(&rows, BEHIND)).collect();
        let mut answer = Answer { us: Vec::new(), parts: vec![Vec::new(); row.len()] };
        for _ in 0..repeats {
            rest(REST_BEFORE_S);
            let mut us = 0.0;
            for (part, sequences) in answer.parts.iter_mut().zip(&row) {
                let step = self.llama.step(sequences).map_err(broken)?;
                part.push(step.device_us);
                us += step.device_us;
            }
            answer.us.push(us);
        }
        Ok(answer)
    }

    /// Each of the shapes alone, at rest; then steps of them as they are served: each of them.
    pub(super) fn served(&mut self, shapes: &[StepShape], steps: u32, pauses: bool) -> Result<Answer, MachineError> {
        let widest = shapes.iter().max_by_key(|shape| shape.adapters.len());
        self.prepare(LoraKernel::Segmented, widest.unwrap_or(&StepShape::default()))?;
        let drawn: Vec<Drawn> = shapes.iter().map(|shape| Drawn::of(shape, &self.identity, true)).collect();
        let sequences: Vec<_> = drawn.iter().map(Drawn::sequences).collect();
        // Kernels, plans and graphs are there before the first that counts.
        for step in &sequences {
            self.llama.step(step).map_err(broken)?;
        }
        let mut answer = Answer { us: Vec::new(), parts: vec![Vec::new(); shapes.len()] };
        for (part, (step, shape)) in answer.parts.iter_mut().zip(sequences.iter().zip(shapes)) {
            for time in 0..served::ALONE {
                if time == 0 || !shape.prompts.is_empty() {
                    rest(REST_BEFORE_S);
                }
                part.push(self.llama.step(step).map_err(broken)?.device_us);
            }
        }
        for served in served::order(shapes, steps, pauses) {
            if served.rested_us > 0.0 {
                rest(served.rested_us * 1e-6);
            }
            answer.parts.push(vec![self.llama.step(&sequences[served.shape]).map_err(broken)?.device_us]);
        }
        answer.us.push(answer.parts[shapes.len()..].iter().flatten().sum());
        Ok(answer)
    }

    /// A step beside a copy. Replays have no metadata; how much longer one takes beside a copy is a ratio.
    pub(super) fn step_beside_load(&mut self, shape: &StepShape, repeats: usize) -> Result<Vec<f64>, MachineError> {
        let alone: Vec<f64> = self.steps(LoraKernel::None, shape, repeats)?.iter().map(|step| step.0).collect();
        let beside = self.beside(16, shape, repeats.max(REPLAYS))?;
        let (step, replay) = (crate::measure::median(&alone), crate::measure::median(&beside.alone_us));
        Ok(beside.beside_us.iter().map(|us| us * step / replay).collect())
    }

    /// Copies of an adapter, alone or beside steps.
    pub(super) fn load(
        &mut self,
        rank: u32,
        pinned: bool,
        beside: Option<&StepShape>,
        repeats: usize,
    ) -> Result<Vec<f64>, MachineError> {
        if let Some(shape) = beside {
            let replays = repeats.max(REPLAYS);
            let copies_us = if pinned {
                self.beside(rank, shape, replays)?.copies_us
            } else {
                let drawn = Drawn::of(shape, &self.identity, false);
                self.loaded[0] = 0;
                self.llama.time_pageable_beside(&drawn.sequences(), 0, rank, replays).map_err(broken)?
            };
            if copies_us.is_empty() {
                return Err(MachineError::Unsupported("no copy was over before the steps were".to_owned()));
            }
            return Ok(copies_us);
        }
        self.loaded[0] = 0;
        let memory = if pinned { HostMemory::Pinned } else { HostMemory::Pageable };
        self.llama.time_loads(0, rank, memory, repeats).map_err(broken)
    }

    fn beside(&mut self, rank: u32, shape: &StepShape, replays: usize) -> Result<Beside, MachineError> {
        let adapter = match &self.pinned {
            Some((known, adapter)) if *known == rank => adapter.clone(),
            _ => {
                self.pinned = None;
                let weights = AdapterWeights::Random { seed: 1 };
                let adapter = self.llama.pin_adapter(rank, 1.0, weights).map_err(broken)?;
                self.pinned = Some((rank, adapter.clone()));
                adapter
            }
        };
        let drawn = Drawn::of(shape, &self.identity, false);
        self.loaded[0] = 0;
        self.llama.time_beside(&drawn.sequences(), 0, &adapter, replays).map_err(broken)
    }
}

/// Lets the card rest, and wakes before: a thread that comes from sleep is slower at what it does next than one that serves.
fn rest(seconds: f64) {
    const AWAKE: Duration = Duration::from_micros(400);
    if seconds == 0.0 {
        return;
    }
    let began = Instant::now();
    let whole = Duration::from_secs_f64(seconds);
    std::thread::sleep(whole.saturating_sub(AWAKE));
    while began.elapsed() < whole.max(AWAKE) {
        std::hint::spin_loop();
    }
}
