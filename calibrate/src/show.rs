//! What a profile says, in the figures that people compare.

use std::fmt;

use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{ClockSag, Profile, ProvenanceKind};

use crate::error::CalibrateError;
use crate::probe::{Probe, Shape};

/// The rank of the reference adapter.
const RANK: u32 = 16;

/// A profile in a page.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// How its figures are known.
    pub kind: ProvenanceKind,
    /// Where they come from.
    pub source: String,
    /// What to know before using it.
    pub note: Option<String>,
    /// Model, GPU, GPUs of a replica, engine.
    pub subject: String,
    /// Decode steps without LoRA.
    pub decode: Vec<DecodeFigure>,
    /// Prefills of a whole prompt, alone: (tokens, microseconds).
    pub prefill: Vec<(u32, f64)>,
    /// Each LoRA kernel that it has figures for.
    pub lora: Vec<LoraFigures>,
    /// A load of a rank-16 adapter from pinned memory: (bytes, microseconds).
    pub load: (u64, f64),
    /// A load beside a running step: how many times as long take pinned copies, pageable ones, and the step.
    pub beside: [f64; 3],
    /// What steps take longer behind prompts, where that is known.
    pub clock_sag: Option<ClockSag>,
}

/// A decode step without LoRA.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeFigure {
    /// Sequences.
    pub rows: u32,
    /// Tokens of each.
    pub context: u32,
    /// Microseconds.
    pub us: f64,
    /// Is it within the range of the profile?
    pub known: bool,
}

/// What LoRA costs with one kernel, microseconds a step: the three figures, at rank 16.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraFigures {
    /// The kernel.
    pub kernel: LoraKernel,
    /// How its figures are known.
    pub kind: ProvenanceKind,
    /// One adapter on one row, minus the same step with LoRA off.
    pub fixed_us: f64,
    /// LoRA on with one slot and no adapter in the step, minus the same step with LoRA off.
    pub idle_us: f64,
    /// What a further adapter adds, at 32 rows: the mean from 1 to 32 adapters.
    pub segment_us: f64,
    /// What a further rank of every adapter adds, at 32 rows and 32 adapters: the mean from rank 16 to 64.
    pub rank_us: f64,
    /// What a further row of the same adapter adds: the mean from 1 to 32 rows, LoRA's part alone.
    pub row_us: f64,
}

/// Sums up a profile.
///
/// # Errors
/// When its figures are impossible.
pub fn show(profile: &Profile) -> Result<Summary, CalibrateError> {
    let mut bare = Probe::new(profile, LoraKernel::None)?;
    let mut decode = Vec::new();
    for (rows, context) in [(1, 128), (32, 128), (1, 2048), (32, 2048), (128, 1024)] {
        let shape = Shape::decode(rows, context);
        decode.push(DecodeFigure { rows, context, us: bare.us(&shape), known: bare.knows(&shape) });
    }
    let prefill = [128, 512, 2048, 8192].map(|tokens| (tokens, bare.us(&Shape::prefill(tokens, 0)))).to_vec();
    let lora: Result<Vec<_>, _> = profile.lora.keys().map(|&kernel| lora_figures(profile, kernel)).collect();
    let bytes = profile.model.adapter_bytes_per_gpu(RANK, &LoraTarget::LAYER, profile.tensor_parallel);
    Ok(Summary {
        name: profile.name.clone(),
        kind: profile.provenance.kind,
        source: profile.provenance.source.clone(),
        note: profile.provenance.note.clone(),
        subject: format!(
            "{} on {} x {}, engine {}",
            profile.model.name, profile.tensor_parallel, profile.gpu.name, profile.engine
        ),
        decode,
        prefill,
        lora: lora?,
        load: (bytes, profile.load.link(true).duration(bytes).as_secs_f64() * 1e6),
        beside: [
            profile.load.copy_slowdown,
            profile.load.pageable_copy_slowdown.unwrap_or(profile.load.copy_slowdown),
            profile.load.step_slowdown,
        ],
        clock_sag: profile.clock_sag,
    })
}

/// The three figures of a LoRA kernel.
///
/// # Errors
/// When the profile has none for it.
pub fn lora_figures(profile: &Profile, kernel: LoraKernel) -> Result<LoraFigures, CalibrateError> {
    let mut probe = Probe::new(profile, kernel)?;
    let context = 512;
    let mut extra = |rows: u32, segments: u32, rank: u32| {
        let off = Shape::decode(rows, context);
        let on = off.clone().with_adapters(segments, rank);
        probe.us(&on) - probe.us(&off)
    };
    let (one, rows, segments, ranks) = (extra(1, 1, RANK), extra(32, 1, RANK), extra(32, 32, RANK), extra(32, 32, 64));
    let idle = Shape { slots: 1, rank_max: RANK, ..Shape::decode(1, context) };
    let idle_us = probe.us(&idle) - probe.us(&Shape::decode(1, context));
    Ok(LoraFigures {
        kernel,
        kind: profile.lora_kind(kernel),
        fixed_us: one,
        idle_us,
        segment_us: (segments - rows) / 31.0,
        rank_us: (ranks - segments) / 48.0,
        row_us: (rows - one) / 31.0,
    })
}

/// What steps take longer behind prompts, in words.
pub(crate) fn behind_prompts(sag: &ClockSag) -> String {
    format!(
        "decode rows +{:.1} to +{:.1} % (one to 32), prompts +{:.1} %; a charge of {:.0} ms, twice",
        sag.slower(1) * 1e2,
        sag.slower(32) * 1e2,
        sag.prompts * 1e2,
        sag.us / 1e3
    )
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.name, self.subject)?;
        writeln!(f, "{}: {}", self.kind.as_str(), self.source)?;
        if let Some(note) = &self.note {
            writeln!(f, "{note}")?;
        }
        writeln!(f)?;
        for DecodeFigure { rows, context, us, known } in &self.decode {
            let range = if *known { "" } else { "  (outside the profile's range)" };
            writeln!(f, "decode step, {rows:>3} rows of {context:>4} tokens: {:>9.3} ms{range}", us / 1e3)?;
        }
        for (tokens, us) in &self.prefill {
            writeln!(f, "prefill of {tokens:>4} tokens:               {:>9.3} ms", us / 1e3)?;
        }
        writeln!(
            f,
            "load of a rank-{RANK} adapter, {:.1} MB:     {:>9.3} ms",
            self.load.0 as f64 / 1e6,
            self.load.1 / 1e3
        )?;
        let [pinned, pageable, step] = self.beside;
        writeln!(
            f,
            "a load beside a step:         copies x {pinned:.2} (pageable x {pageable:.2}), the step x {step:.2}"
        )?;
        if let Some(sag) = &self.clock_sag {
            writeln!(f, "right behind long prompts:    {}", behind_prompts(sag))?;
        }
        writeln!(f)?;
        writeln!(f, "LoRA, us a step  | first adapter | idle slot | further adapter | further rank | further row |")?;
        for lora in &self.lora {
            writeln!(
                f,
                "{:<16} | {:>13.1} | {:>9.1} | {:>15.2} | {:>12.2} | {:>11.3} | {}",
                lora.kernel,
                lora.fixed_us,
                lora.idle_us,
                lora.segment_us,
                lora.rank_us,
                lora.row_us,
                lora.kind.as_str()
            )?;
        }
        Ok(())
    }
}
