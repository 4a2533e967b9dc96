//! A profile compiled into a price list: what a step costs, in nanoseconds of look-up and without allocating.

mod attention;
mod lora;
mod memory;
mod overlap;
mod prompts;
mod quick;
mod ranges;
mod rows;
mod vidur;

use crate::batch::{BatchShape, CostModel, Coverage, Price, Sag, SegmentSums};
use crate::profile::check::BadProfile;
use crate::profile::lora::LoraKernel;
use crate::profile::{HostCost, Profile, Rows, Sagging, StepRows};
use crate::time::Span;
use attention::Attention;
use lora::Lora;
use overlap::{Adapters, Overlap};
use prompts::Prompts;
use ranges::{OUTSIDE, Ranges};
use rows::RowTable;
use vidur::VidurCost;

/// A [`CostModel`] made of a [`Profile`] and the choice of a LoRA kernel.
///
/// A batch of decode rows alone is promised exactly: its constant part is rounded to a picosecond once, a token of
/// context costs whole picoseconds, and so does a token of the longest context. `Price::steps` ends where another bound of
/// the attention takes over or the longest context leaves the profile's range. A step with prompts is priced by itself.
#[derive(Clone, Debug)]
pub struct CompiledCost {
    /// Without and with adapter copies beside the step.
    tables: [Tables; 2],
    lora: Lora,
    overlap: Overlap,
    prompts: Prompts,
    /// What comes on top for prompts, and behind them.
    sag: Option<Sagging>,
    /// Whole layers by a peer's tables, adapters excepted: then all else is zero.
    vidur: Option<VidurCost>,
    ranges: Ranges,
    counts: Counts,
}

/// What is known when the profile and the kernel are, times the slow-down of the moment.
#[derive(Clone, Debug)]
struct Tables {
    slowdown: f64,
    scale: f64,
    /// The scale over all layers.
    layers: f64,
    gap_us: f64,
    /// Beyond that, over all layers, what a step with a prompt takes.
    gap_prompt_us: f64,
    /// The same in one with prompts and decode rows.
    gap_mixed_us: f64,
    host: HostCost,
    /// What the host takes by the number of sequences alone.
    host_sequences: Vec<f64>,
    /// All that depends on the number of rows, before scale and slow-down; gaps are in it.
    all_rows: RowTable,
    /// All that depends on the number of sequences, before scale and slow-down.
    sequences: RowTable,
    /// Scale and slow-down are in it.
    attention: Attention,
}

/// Look-ups, and those out of range by reason.
#[derive(Clone, Debug, Default)]
struct Counts {
    lookups: u64,
    outside: [u64; OUTSIDE.len()],
}

/// Rows and sequences up to which sums are tabulated: what serving meets, and small enough to stay in a cache.
const DENSE_ROWS: u32 = 8192;
const DENSE_SEQUENCES: u32 = 1024;

impl CompiledCost {
    /// Makes the price list of a profile for one LoRA kernel.
    ///
    /// Configured slots and their largest rank are read from each [`BatchShape`].
    ///
    /// # Errors
    /// When the profile has impossible figures, or none for the kernel; the message lists those it has.
    pub fn compile(profile: &Profile, kernel: LoraKernel) -> Result<CompiledCost, BadProfile> {
        profile.check()?;
        let lora = Lora::compile(profile, kernel)?;
        let alone = Tables::compile(profile, 1.0);
        let beside_copies = alone.slowed(profile, profile.load.step_slowdown);
        let mut cost = CompiledCost {
            tables: [alone, beside_copies],
            lora,
            overlap: Overlap::compile(profile, kernel),
            prompts: Prompts::new(profile.prefill_attention.clone(), profile.whole_step.prompt_scale),
            sag: profile.clock_sag.map(|sag| sag.ready()),
            vidur: profile.vidur.as_ref().map(VidurCost::new),
            ranges: Ranges::new(&profile.validity, kernel == LoraKernel::Merged),
            counts: Counts::default(),
        };
        let one_row = BatchShape {
            decode_contexts: &[1],
            decode_context_sum: 1,
            decode_context_max: 1,
            prefills: &[],
            segments: &[],
            segment_sums: SegmentSums::default(),
            census: None,
            lora_slots: 0,
            lora_rank_max: 0,
            copies_in_flight: false,
            sag: Sag::NONE,
            rested: Span::ZERO,
        };
        let price = cost.price(&one_row);
        cost.counts = Counts::default();
        if let Some(vidur) = &mut cost.vidur {
            vidur.outside = Default::default();
        }
        if price.first.is_zero() {
            return Err(BadProfile {
                profile: profile.name.clone(),
                key: "whole_step".to_owned(),
                problem: "a step of one row would take no time".to_owned(),
            });
        }
        Ok(cost)
    }

    /// Prices every step anew, from now on: the direct way, which must come to the same.
    pub fn forgetful(mut self) -> CompiledCost {
        self.lora.forget();
        self.prompts.forget();
        self
    }

    /// How many prices of adapters or of prompts did the look-ups need, and how many of them were not known from before?
    pub fn asked_and_made(&self) -> (u64, u64) {
        let ((asked, made), (more, of_them)) = (self.lora.asked_and_made(), self.prompts.asked_and_made());
        (asked + more, made + of_them)
    }

    /// Any step, by a peer's tables; adapters come on top where the profile has figures for them.
    fn table_price(&mut self, shape: &BatchShape<'_>, rows: StepRows) -> Option<Price> {
        let layer = self.vidur.as_mut()?.layer(shape);
        let tables = &self.tables[usize::from(shape.copies_in_flight)];
        let ms = layer.ms + self.lora.us(shape, rows) / 1e3;
        let first = Span::from_secs_f64(ms * tables.layers / 1e3 * tables.slowdown);
        Some(Price::lasting(first, layer.steps))
    }

    /// A batch of decode rows alone: affine in its contexts.
    fn decode_price(&mut self, shape: &BatchShape<'_>, rows: StepRows) -> Price {
        let longest = shape.decode_context_max;
        let adapters = self.adapters(shape, rows);
        let tables = &mut self.tables[usize::from(shape.copies_in_flight)];
        let mut price = tables.attention.price(rows.decode_rows, shape.decode_context_sum, longest);
        price.first += ps(tables.fixed_us(shape, rows, rows.decode_rows, 0.0, adapters, None));
        // Beyond the range every step is a look-up of its own kind; within it, the promise ends where the range does.
        if let Some(left) = self.ranges.context.max.checked_sub(longest) {
            price.steps = price.steps.min(left.saturating_add(1));
        }
        match &self.sag {
            Some(sag) if shape.sag != Sag::NONE => behind(sag, shape, rows, price),
            _ => price,
        }
    }

    /// A step with prompts.
    fn mixed_price(&mut self, shape: &BatchShape<'_>, rows: StepRows) -> Price {
        // What takes longest comes first: a processor does the rest meanwhile.
        let adapters = self.adapters(shape, rows);
        let prefill = self.prompts.us(shape.prefills);
        let tables = &mut self.tables[usize::from(shape.copies_in_flight)];
        let decode = tables.attention.now(rows.decode_rows, shape.decode_context_sum, shape.decode_context_max);
        let sequences = rows.decode_rows.saturating_add(shape.prefills.len() as u32);
        let fixed_us = tables.fixed_us(shape, rows, sequences, prefill, adapters, self.sag.as_ref());
        let price = Price::once(ps(fixed_us) + decode);
        match &self.sag {
            Some(sag) if shape.sag != Sag::NONE => behind(sag, shape, rows, price),
            // Clocks at rest need not wait until time is whole.
            Some(sag) => Price { sag: sag.after_rest(rows, fixed_us + us(decode)), ..price },
            None => price,
        }
    }

    fn adapters(&mut self, shape: &BatchShape<'_>, rows: StepRows) -> Adapters {
        let launched = !shape.segments.is_empty() && self.lora.launches();
        self.overlap.of(self.lora.us(shape, rows), launched, rows)
    }

    /// Counts what is out of range, once a look-up and reason.
    fn count(&mut self, shape: &BatchShape<'_>, rows: StepRows) {
        self.counts.lookups += 1;
        let outside = self.ranges.outside(shape, rows, self.lora.is_on());
        if outside > 0 {
            for (reason, count) in self.counts.outside.iter_mut().enumerate() {
                *count += u64::from(outside >> reason & 1);
            }
        }
    }
}

impl CostModel for CompiledCost {
    fn price(&mut self, shape: &BatchShape<'_>) -> Price {
        let rows = StepRows::from(shape);
        self.count(shape, rows);
        if let Some(price) = self.table_price(shape, rows) {
            return price;
        }
        if shape.is_decode_only() { self.decode_price(shape, rows) } else { self.mixed_price(shape, rows) }
    }

    fn coverage(&self) -> Coverage {
        let tables = self.vidur.iter().flat_map(|vidur| vidur::OUTSIDE.into_iter().zip(vidur.outside));
        let outside = OUTSIDE.into_iter().zip(self.counts.outside).chain(tables).filter(|(_, count)| *count > 0);
        Coverage { lookups: self.counts.lookups, outside: outside.collect() }
    }
}

/// A price at rest, on clocks that have sagged: step by step until they are back.
fn behind(sag: &Sagging, shape: &BatchShape<'_>, rows: StepRows, price: Price) -> Price {
    let (longer_us, after) = sag.behind(shape.sag, us(shape.rested), rows, us(price.first));
    if longer_us == 0.0 && after == Sag::NONE {
        return price;
    }
    Price { sag: after, ..Price::once(price.first + ps(longer_us)) }
}

impl Tables {
    fn compile(profile: &Profile, slowdown: f64) -> Tables {
        let layers = f64::from(profile.model.layers);
        let scale = profile.whole_step.scale;
        Tables {
            slowdown,
            scale,
            layers: layers * scale,
            gap_us: profile.whole_step.us,
            gap_prompt_us: profile.whole_step.us_per_layer_prompt * layers,
            gap_mixed_us: profile.whole_step.us_per_layer_mixed * layers,
            host: profile.host.clone(),
            host_sequences: (0..=DENSE_SEQUENCES).map(|sequences| profile.host.sequences_us(sequences)).collect(),
            all_rows: RowTable::compile(profile, Rows::All, DENSE_ROWS),
            sequences: RowTable::compile(profile, Rows::Sequences, DENSE_SEQUENCES),
            attention: Attention::compile(&profile.decode_attention, layers * scale * slowdown),
        }
    }

    /// The same with a slow-down; only decode attention has it in its figures.
    fn slowed(&self, profile: &Profile, slowdown: f64) -> Tables {
        let attention = Attention::compile(&profile.decode_attention, self.layers * slowdown);
        Tables { slowdown, attention, ..self.clone() }
    }

    /// Everything but decode attention, microseconds.
    #[inline(always)]
    fn fixed_us(
        &self,
        shape: &BatchShape<'_>,
        StepRows { prompt_tokens, decode_rows }: StepRows,
        sequences: u32,
        prompts_us: f64,
        adapters: Adapters,
        sag: Option<&Sagging>,
    ) -> f64 {
        let rows = StepRows { prompt_tokens, decode_rows }.all();
        let (prompts, segments) = (shape.prefills.len() as u32, shape.segments.len() as u32);
        let host = self.host_sequences.get(sequences as usize).copied();
        let host = host.unwrap_or_else(|| self.host.sequences_us(sequences));
        let host = self.host.beyond_us(host, prompts, prompt_tokens, segments);
        let rows = self.scale * (self.all_rows.us(rows) + self.sequences.us(sequences));
        let layers = self.layers * (prompts_us + adapters.us);
        let mut gap = self.gap_us + adapters.gap_us;
        if !shape.prefills.is_empty() {
            gap += self.gap_prompt_us;
            if decode_rows > 0 {
                gap += self.gap_mixed_us;
            }
            if let Some(sag) = sag {
                gap += sag.own_us(prompt_tokens, (rows + layers + gap).max(0.0));
            }
        }
        // Gaps may be below zero, where parts overlap; a step is not.
        (host + rows + layers + gap).max(host) * self.slowdown
    }
}

fn us(span: Span) -> f64 {
    span.as_ps() as f64 * 1e-6
}

/// The one place where microseconds become time.
fn ps(us: f64) -> Span {
    Span::from_secs_f64(us * 1e-6)
}
