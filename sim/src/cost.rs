//! A profile compiled into a price list: what a step costs, in nanoseconds of look-up and without allocating.

mod attention;
mod lora;
mod quick;
mod rows;
mod vidur;

use crate::batch::{BatchShape, CostModel, Coverage, Price, SegmentSums};
use crate::profile::attention::PrefillAttention;
use crate::profile::check::BadProfile;
use crate::profile::lora::LoraKernel;
use crate::profile::{HostCost, Profile, Range, Rows, Validity};
use crate::time::Span;
use attention::Attention;
use lora::Lora;
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
    /// Whole layers by a peer's tables, adapters excepted: then all else is zero.
    vidur: Option<VidurCost>,
    validity: Validity,
    merged: bool,
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
    /// The scale of adapters, and beyond the gap, over all layers, what a step that computes adapters takes: of few rows, and of more than so
    /// many.
    lora_few_rows: (f64, f64),
    few_rows: u32,
    lora_rows: (f64, f64),
    /// The same in one with a prompt.
    gap_prompt_us: f64,
    /// The same in one with prompts and decode rows.
    gap_mixed_us: f64,
    host: HostCost,
    /// All that depends on the number of rows, before scale and slow-down; gaps are in it.
    all_rows: RowTable,
    /// All that depends on the number of sequences, before scale and slow-down.
    sequences: RowTable,
    /// Scale and slow-down are in it.
    attention: Attention,
    prefill_attention: PrefillAttention,
    lora: Lora,
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

const OUTSIDE: [&str; 8] = [
    "decode rows",
    "context",
    "rows in a step",
    "prefill chunk",
    "prefill prefix",
    "adapters in a step",
    "rank",
    "several adapters merged",
];

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
        let alone = Tables::compile(profile, lora, 1.0);
        let beside_copies = alone.slowed(profile, profile.load.step_slowdown);
        let mut cost = CompiledCost {
            tables: [alone, beside_copies],
            vidur: profile.vidur.as_ref().map(VidurCost::new),
            validity: profile.validity.clone(),
            merged: kernel == LoraKernel::Merged,
            counts: Counts::default(),
        };
        let one_row = BatchShape {
            decode_contexts: &[1],
            decode_context_sum: 1,
            prefills: &[],
            segments: &[],
            segment_sums: SegmentSums::default(),
            lora_slots: 0,
            lora_rank_max: 0,
            copies_in_flight: false,
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

    /// Any step, by a peer's tables; adapters come on top where the profile has figures for them.
    fn table_price(&mut self, shape: &BatchShape<'_>) -> Option<Price> {
        let layer = self.vidur.as_mut()?.layer(shape);
        let tables = &mut self.tables[usize::from(shape.copies_in_flight)];
        let ms = layer.ms + tables.lora.us(shape) / 1e3;
        let first = Span::from_secs_f64(ms * tables.layers / 1e3 * tables.slowdown);
        Some(Price { first, increment: Span::ZERO, steps: layer.steps })
    }

    /// A batch of decode rows alone: affine in its contexts.
    fn decode_price(&mut self, shape: &BatchShape<'_>, longest: u32) -> Price {
        let tables = &mut self.tables[usize::from(shape.copies_in_flight)];
        let rows = shape.decode_rows();
        let mut price = tables.attention.price(rows, shape.decode_context_sum, longest);
        price.first += tables.fixed(shape, rows, rows, 0.0);
        // Beyond the range every step is a look-up of its own kind; within it, the promise ends where the range does.
        if let Some(range) = self.validity.context
            && longest <= range.max
        {
            price.steps = price.steps.min((range.max - longest).saturating_add(1));
        }
        price
    }

    /// A step with prompts.
    fn mixed_price(&mut self, shape: &BatchShape<'_>, longest: u32) -> Price {
        let tables = &mut self.tables[usize::from(shape.copies_in_flight)];
        let (decode_rows, prompts) = (shape.decode_rows(), shape.prefills.len() as u32);
        let rows = decode_rows.saturating_add(shape.prefill_tokens());
        let attention = &tables.prefill_attention;
        let prefill = attention.prompts_us(shape.prefills.iter().map(|part| (part.chunk, part.prefix)));
        let fixed = tables.fixed(shape, rows, decode_rows.saturating_add(prompts), attention.us + prefill);
        let decode = tables.attention.price(decode_rows, shape.decode_context_sum, longest).first;
        Price::once(fixed + decode)
    }

    /// Counts what is out of range, once a look-up and reason.
    fn count(&mut self, shape: &BatchShape<'_>, longest: u32) {
        self.counts.lookups += 1;
        let v = &self.validity;
        let decode_rows = shape.decode_rows();
        // A kernel that computes no adapters is in range whatever they are.
        let adapters = !shape.segments.is_empty() && self.tables[0].lora.is_on();
        let (least, largest) = shape.segment_sums.ranks;
        let outside = |range: Option<Range>, value: u32| range.is_some_and(|range| !range.contains(value));
        let mut flags = [
            decode_rows > 0 && outside(v.decode_rows, decode_rows),
            decode_rows > 0 && outside(v.context, longest),
            false,
            false,
            false,
            adapters && outside(v.segments, shape.segments.len() as u32),
            adapters && (outside(v.rank, least) || outside(v.rank, largest)),
            // Weights hold one adapter at a time: a step with two cannot exist.
            self.merged && shape.segments.len() > 1,
        ];
        if !shape.is_decode_only() {
            flags[2] = outside(v.rows, decode_rows.saturating_add(shape.prefill_tokens()));
            flags[3] = shape.prefills.iter().any(|part| outside(v.chunk, part.chunk));
            flags[4] = shape.prefills.iter().any(|part| outside(v.prefix, part.prefix));
        }
        for (count, flag) in self.counts.outside.iter_mut().zip(flags) {
            *count += u64::from(flag);
        }
    }
}

impl CostModel for CompiledCost {
    fn price(&mut self, shape: &BatchShape<'_>) -> Price {
        let longest = shape.decode_contexts.iter().copied().fold(0, u32::max);
        self.count(shape, longest);
        if let Some(price) = self.table_price(shape) {
            return price;
        }
        if shape.is_decode_only() { self.decode_price(shape, longest) } else { self.mixed_price(shape, longest) }
    }

    fn coverage(&self) -> Coverage {
        let tables = self.vidur.iter().flat_map(|vidur| vidur::OUTSIDE.into_iter().zip(vidur.outside));
        let outside = OUTSIDE.into_iter().zip(self.counts.outside).chain(tables).filter(|(_, count)| *count > 0);
        Coverage { lookups: self.counts.lookups, outside: outside.collect() }
    }
}

impl Tables {
    fn compile(profile: &Profile, lora: Lora, slowdown: f64) -> Tables {
        let layers = f64::from(profile.model.layers);
        let scale = profile.whole_step.scale;
        let lora_of = |rows: u32| {
            let (scale, us) = profile.whole_step.lora(rows);
            (scale, us * layers)
        };
        Tables {
            slowdown,
            scale,
            layers: layers * scale,
            gap_us: profile.whole_step.us,
            lora_few_rows: lora_of(0),
            few_rows: profile.whole_step.lora_few_rows.map_or(0, |few| few.rows_max),
            lora_rows: lora_of(u32::MAX),
            gap_prompt_us: profile.whole_step.us_per_layer_prompt * layers,
            gap_mixed_us: profile.whole_step.us_per_layer_mixed * layers,
            host: profile.host.clone(),
            all_rows: RowTable::compile(profile, Rows::All, DENSE_ROWS),
            sequences: RowTable::compile(profile, Rows::Sequences, DENSE_SEQUENCES),
            attention: Attention::compile(&profile.decode_attention, layers * scale * slowdown),
            prefill_attention: profile.prefill_attention.clone(),
            lora,
        }
    }

    /// The same with a slow-down; only decode attention has it in its figures.
    fn slowed(&self, profile: &Profile, slowdown: f64) -> Tables {
        let attention = Attention::compile(&profile.decode_attention, self.layers * slowdown);
        Tables { slowdown, attention, ..self.clone() }
    }

    /// Everything but decode attention, rounded once.
    fn fixed(&mut self, shape: &BatchShape<'_>, rows: u32, sequences: u32, prefill_attention_us: f64) -> Span {
        let host = self.host.step_us(sequences, shape.prefills.len() as u32, shape.segments.len() as u32);
        let (lora_scale, gap_lora_us) = if rows <= self.few_rows { self.lora_few_rows } else { self.lora_rows };
        let rows = self.scale * (self.all_rows.us(rows) + self.sequences.us(sequences));
        let layers = self.layers * (prefill_attention_us + lora_scale * self.lora.us(shape));
        let mut gap = self.gap_us;
        if !shape.segments.is_empty() && self.lora.launches() {
            gap += gap_lora_us;
        }
        if !shape.prefills.is_empty() {
            gap += self.gap_prompt_us;
            if shape.decode_rows() > 0 {
                gap += self.gap_mixed_us;
            }
        }
        // Gaps may be below zero, where parts overlap; a step is not.
        ps((host + rows + layers + gap).max(host) * self.slowdown)
    }
}

/// The one place where microseconds become time.
fn ps(us: f64) -> Span {
    Span::from_secs_f64(us * 1e-6)
}
