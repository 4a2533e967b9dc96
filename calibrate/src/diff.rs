//! How far are two profiles from each other, part by part, on the same shapes?

use std::fmt;

use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{HostCost, Profile};
use statrs::statistics::{Data, Distribution, OrderStatistics};

use crate::error::CalibrateError;
use crate::probe::{Probe, Shape};
use crate::show::behind_prompts;

/// Two profiles beside each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// The first, to which the second is compared.
    pub from: String,
    /// The second.
    pub to: String,
    /// What they say of themselves and differ in: key, first, second.
    pub labels: Vec<(&'static str, String, String)>,
    /// Steps, the host's part of them, and what LoRA kernels take on the GPU, as far as both can price it.
    pub parts: Vec<PartDiff>,
    /// LoRA kernels that only one of them has.
    pub only_one: Vec<(LoraKernel, String)>,
}

/// The differences of one part over shapes that both profiles know.
#[derive(Clone, Debug, PartialEq)]
pub struct PartDiff {
    /// Which part.
    pub part: String,
    /// Over how many shapes.
    pub shapes: usize,
    /// Median of |second / first − 1|, percent.
    pub median_percent: f64,
    /// Its 95th percentile, percent.
    pub p95_percent: f64,
    /// Mean of second / first − 1, percent.
    pub mean_signed_percent: f64,
    /// The shape with the largest difference, and that difference, percent.
    pub worst: (String, f64),
}

/// Decode rows that are compared.
const ROWS: [u32; 10] = [1, 2, 4, 8, 16, 24, 32, 64, 128, 256];

/// Compares two profiles.
///
/// # Errors
/// When the figures of one are impossible.
pub fn diff(from: &Profile, to: &Profile) -> Result<Diff, CalibrateError> {
    let mut parts = Vec::new();
    let bare = (Probe::new(from, LoraKernel::None)?, Probe::new(to, LoraKernel::None)?);
    parts.extend(compare("decode steps", &bare, &decode_shapes(), |probe, shape| probe.us(shape)));
    parts.extend(compare("prefill steps", &bare, &prefill_shapes(), |probe, shape| probe.us(shape)));
    parts.extend(host(from, to));
    // What adapters add is the GPU's: a host takes what it takes at the moment, and is a part of its own.
    let gpu = [from, to].map(|profile| Profile { host: HostCost::default(), ..profile.clone() });
    let mut only_one = Vec::new();
    for kernel in LoraKernel::ALL {
        match (from.lora.contains_key(&kernel), to.lora.contains_key(&kernel)) {
            // Merged into the weights an adapter costs a step nothing: what it costs is the merging.
            (true, true) if kernel == LoraKernel::Merged => {
                let us = |profile: &Profile| profile.lora[&kernel].us_per_switch;
                parts.extend(part("merging", vec![("a switch".to_owned(), us(from), us(to))]));
            }
            (true, true) => {
                let pair = (Probe::new(&gpu[0], kernel)?, Probe::new(&gpu[1], kernel)?);
                parts.extend(compare(&format!("lora {kernel}"), &pair, &lora_shapes(), |probe, shape| {
                    let off = Shape { segments: Vec::new(), slots: 0, ..shape.clone() };
                    probe.us(shape) - probe.us(&off)
                }));
            }
            (true, false) => only_one.push((kernel, from.name.clone())),
            (false, true) => only_one.push((kernel, to.name.clone())),
            (false, false) => {}
        }
    }
    Ok(Diff { from: from.name.clone(), to: to.name.clone(), labels: labels(from, to), parts, only_one })
}

/// The host's part of decode steps, without adapters and with one for each row.
fn host(from: &Profile, to: &Profile) -> Option<PartDiff> {
    let steps = ROWS.iter().flat_map(|&rows| [0, rows].map(|adapters| (rows, adapters)));
    let figures = steps.map(|(rows, adapters)| {
        let us = |profile: &Profile| profile.host.step_us(rows, 0, 0, adapters);
        (format!("{rows} rows of {adapters} adapters"), us(from), us(to))
    });
    part("host", figures.collect())
}

/// The shapes that both know, priced by both; nothing where there are none that cost anything.
fn compare(
    name: &str,
    (from, to): &(Probe, Probe),
    shapes: &[(String, Shape)],
    us: impl Fn(&mut Probe, &Shape) -> f64,
) -> Option<PartDiff> {
    let (mut a, mut b) = (from.clone(), to.clone());
    let known = shapes.iter().filter(|(_, shape)| from.knows(shape) && to.knows(shape));
    part(name, known.map(|(shape, asked)| (shape.clone(), us(&mut a, asked), us(&mut b, asked))).collect())
}

/// How far figures of two lie apart; nothing where none of the first are above 0.
fn part(name: &str, figures: Vec<(String, f64, f64)>) -> Option<PartDiff> {
    let percents = figures.into_iter().filter(|(_, from, _)| *from > 0.0);
    let percents: Vec<(String, f64)> = percents.map(|(shape, from, to)| (shape, (to / from - 1.0) * 100.0)).collect();
    let worst = percents.iter().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))?.clone();
    let ratios: Vec<f64> = percents.iter().map(|(_, percent)| *percent).collect();
    let mut sizes = Data::new(ratios.iter().map(|percent| percent.abs()).collect::<Vec<_>>());
    Some(PartDiff {
        part: name.to_owned(),
        shapes: ratios.len(),
        median_percent: sizes.median(),
        p95_percent: sizes.percentile(95),
        mean_signed_percent: Data::new(ratios).mean().unwrap_or(0.0),
        worst,
    })
}

fn decode_shapes() -> Vec<(String, Shape)> {
    let contexts = [16, 128, 512, 1024, 2048, 8192];
    let pairs = ROWS.iter().flat_map(|&rows| contexts.iter().map(move |&context| (rows, context)));
    pairs.map(|(rows, context)| (format!("{rows} rows of {context}"), Shape::decode(rows, context))).collect()
}

fn prefill_shapes() -> Vec<(String, Shape)> {
    let chunks = [16, 64, 256, 512, 1024, 2048, 8192];
    let prefixes = [0, 512, 4096];
    let pairs = chunks.iter().flat_map(|&chunk| prefixes.iter().map(move |&prefix| (chunk, prefix)));
    pairs.map(|(chunk, prefix)| (format!("{chunk} tokens after {prefix}"), Shape::prefill(chunk, prefix))).collect()
}

fn lora_shapes() -> Vec<(String, Shape)> {
    let mut shapes = Vec::new();
    for segments in [1, 2, 4, 8, 16, 32, 64] {
        for (rank, rows_each) in [(8, 1), (16, 1), (16, 4), (64, 1)] {
            let shape = Shape::decode(segments * rows_each, 512).with_adapters(segments, rank);
            shapes.push((format!("{segments} adapters of rank {rank}, {rows_each} rows each"), shape));
        }
    }
    shapes
}

/// What the two say of themselves and differ in.
fn labels(from: &Profile, to: &Profile) -> Vec<(&'static str, String, String)> {
    let of = |profile: &Profile| {
        let p = &profile.provenance;
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        [
            ("kind", p.kind.as_str().to_owned()),
            ("source", p.source.clone()),
            ("model", profile.model.name.clone()),
            ("gpu", profile.gpu.name.clone()),
            ("tensor_parallel", profile.tensor_parallel.to_string()),
            ("engine", profile.engine.clone()),
            ("driver", text(&p.driver)),
            ("cuda", text(&p.cuda)),
            ("clocks", text(&p.clocks)),
            ("clock_sag", profile.clock_sag.as_ref().map_or_else(|| "-".to_owned(), behind_prompts)),
            ("kernel_source_hash", text(&p.kernel_source_hash)),
            ("commit", text(&p.commit)),
            ("date", text(&p.date)),
        ]
    };
    let pairs = of(from).into_iter().zip(of(to));
    pairs.filter(|(a, b)| a.1 != b.1).map(|((key, a), (_, b))| (key, a, b)).collect()
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} -> {}", self.from, self.to)?;
        for (key, from, to) in &self.labels {
            writeln!(f, "  {key}: {from} -> {to}")?;
        }
        for p in &self.parts {
            writeln!(
                f,
                "{:<16} {:>3} shapes: median {:.1} %, 95th percentile {:.1} %, mean {:+.1} %, worst {:+.1} % ({})",
                p.part, p.shapes, p.median_percent, p.p95_percent, p.mean_signed_percent, p.worst.1, p.worst.0
            )?;
        }
        for (kernel, profile) in &self.only_one {
            writeln!(f, "lora {kernel}: only in {profile}")?;
        }
        Ok(())
    }
}
