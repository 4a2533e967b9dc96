//! Should a profile be believed? Impossible figures are errors; what is possible and strange is a doubt.

use std::fmt;

use aril_sim::profile::lora::LoraKernel;
use aril_sim::profile::{Profile, ProvenanceKind};

use crate::error::CalibrateError;
use crate::probe::{Probe, Shape};

/// Something that is possible and strange.
#[derive(Clone, Debug, PartialEq)]
pub enum Doubt {
    /// A step is faster than the data sheet's peaks allow.
    BelowRoofline {
        /// Which step.
        step: String,
        /// What the profile says, microseconds.
        us: f64,
        /// The least that the hardware needs, microseconds.
        least_us: f64,
    },
    /// A larger batch costs less than a smaller one.
    Decreasing {
        /// The larger.
        step: String,
        /// What it costs, microseconds.
        us: f64,
        /// The smaller.
        than: String,
        /// What that costs, microseconds.
        than_us: f64,
    },
    /// A measured profile does not say with what it was measured.
    Unsaid {
        /// The missing key.
        key: &'static str,
    },
    /// A measured profile is of other kernels than those of this build.
    OtherKernels {
        /// Hash of the kernels that were measured.
        measured: String,
        /// Hash of the kernels of this build.
        built: String,
    },
    /// A measured profile does not say how far it is from what its fit did not see.
    NotHeldOut,
    /// A measured profile claims to hold everywhere.
    NoRange,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::BelowRoofline { step, us, least_us } => {
                write!(f, "{step} takes {us:.1} us, but the data sheet's peaks need {least_us:.1} us")
            }
            Doubt::Decreasing { step, us, than, than_us } => {
                write!(f, "{step} takes {us:.1} us, less than {than} with {than_us:.1} us")
            }
            Doubt::Unsaid { key } => write!(f, "measured, but provenance.{key} is missing"),
            Doubt::OtherKernels { measured, built } => {
                let short = |hash: &str| hash.chars().take(12).collect::<String>();
                let (measured, built) = (short(measured), short(built));
                write!(
                    f,
                    "measured with kernels {measured}, this build has {built}: measure again to price what it runs"
                )
            }
            Doubt::NotHeldOut => f.write_str("measured, but nothing was held out to judge the fit by"),
            Doubt::NoRange => f.write_str("measured, but no validity range is given"),
        }
    }
}

/// Checks every figure, and a grid of steps against the hardware and against each other: those of them that the profile says it knows.
///
/// # Errors
/// When a figure is impossible.
pub fn check(profile: &Profile) -> Result<Vec<Doubt>, CalibrateError> {
    let mut doubts = Vec::new();
    let mut bare = Probe::new(profile, LoraKernel::None)?;
    let lines = known(&bare, decode_grid().into_iter().chain(prefill_grid()));
    for shape in lines.iter().flatten() {
        let (us, least_us) = (bare.us(shape), least_us(profile, shape));
        // Picoseconds are rounded.
        if us < least_us * (1.0 - 1e-9) {
            doubts.push(Doubt::BelowRoofline { step: describe(shape), us, least_us });
        }
    }
    for line in &lines {
        doubts.extend(decreasing(&mut bare, line));
    }
    for &kernel in profile.lora.keys() {
        let mut probe = Probe::new(profile, kernel)?;
        for line in known(&probe, lora_grid()) {
            doubts.extend(decreasing(&mut probe, &line));
        }
    }
    doubts.extend(provenance(profile));
    Ok(doubts)
}

/// The least that a step without LoRA needs by the data sheet's peaks, microseconds: each matrix and each key and value read
/// once, each row multiplied by each matrix; embedding, norms, activations, collectives and the host are left out.
pub fn least_us(profile: &Profile, shape: &Shape) -> f64 {
    let (model, gpu, degree) = (&profile.model, &profile.gpu, f64::from(profile.tensor_parallel));
    let layers = f64::from(model.layers);
    let matrices = layers * model.layer_matrix_parameters() as f64;
    let head = model.head_parameters() as f64;
    let contexts: f64 = shape.contexts.iter().map(|&context| f64::from(context)).sum();
    let prompts: f64 = shape.prefills.iter().map(|part| f64::from(part.chunk)).sum();
    let sequences = (shape.contexts.len() + shape.prefills.len()) as f64;
    let kv = contexts * model.kv_bytes_per_token_per_gpu(profile.tensor_parallel) as f64;
    let bytes = (matrices * model.weights.bytes() as f64 + head * 2.0) / degree + kv;
    let flops = 2.0 * (matrices * (shape.contexts.len() as f64 + prompts) + head * sequences) / degree;
    (bytes / (gpu.gigabytes_per_second * 1e3)).max(flops / (gpu.teraflops(model.weights) * 1e6))
}

/// Of each line the steps that are within the profile's ranges: what it says of others is what it says at their ends.
fn known(probe: &Probe, lines: impl IntoIterator<Item = Vec<Shape>>) -> Vec<Vec<Shape>> {
    lines.into_iter().map(|line| line.into_iter().filter(|shape| probe.knows(shape)).collect()).collect()
}

/// Neighbours on a line of growing shapes of which the larger is cheaper.
fn decreasing(probe: &mut Probe, line: &[Shape]) -> Vec<Doubt> {
    let prices: Vec<f64> = line.iter().map(|shape| probe.us(shape)).collect();
    let pairs = line.windows(2).zip(prices.windows(2));
    pairs
        .filter(|(_, prices)| prices[1] < prices[0] * (1.0 - 1e-9))
        .map(|(shapes, prices)| Doubt::Decreasing {
            step: describe(&shapes[1]),
            us: prices[1],
            than: describe(&shapes[0]),
            than_us: prices[0],
        })
        .collect()
}

/// Lines of decode batches: more rows, then longer contexts.
fn decode_grid() -> Vec<Vec<Shape>> {
    let rows = [1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512];
    let contexts = [1, 16, 128, 512, 2048, 8192, 32_768];
    let by_rows = contexts.map(|context| rows.map(|rows| Shape::decode(rows, context)).to_vec());
    let by_context = rows.map(|rows| contexts.map(|context| Shape::decode(rows, context)).to_vec());
    by_rows.into_iter().chain(by_context).collect()
}

/// Lines of prompts: longer chunks, then longer prefixes.
fn prefill_grid() -> Vec<Vec<Shape>> {
    let chunks = [1, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192];
    let prefixes = [0, 512, 4096, 32_768];
    let by_chunk = prefixes.map(|prefix| chunks.map(|chunk| Shape::prefill(chunk, prefix)).to_vec());
    let by_prefix = chunks.map(|chunk| prefixes.map(|prefix| Shape::prefill(chunk, prefix)).to_vec());
    by_chunk.into_iter().chain(by_prefix).collect()
}

/// Lines of adapters: more of them on the same rows, then larger ranks.
fn lora_grid() -> Vec<Vec<Shape>> {
    let segments = [1, 2, 4, 8, 16, 32, 64, 128];
    let ranks = [8, 16, 32, 64, 128];
    let shape = |segments, rank| Shape { slots: 128, ..Shape::decode(128, 512) }.with_adapters(segments, rank);
    let by_segments = ranks.map(|rank| segments.map(|segments| shape(segments, rank)).to_vec());
    let by_rank = segments.map(|segments| ranks.map(|rank| shape(segments, rank)).to_vec());
    by_segments.into_iter().chain(by_rank).collect()
}

fn describe(shape: &Shape) -> String {
    let mut parts = Vec::new();
    if let Some(context) = shape.contexts.first() {
        parts.push(format!("{} rows of {context} tokens", shape.contexts.len()));
    }
    parts.extend(shape.prefills.iter().map(|part| format!("a prompt of {} tokens after {}", part.chunk, part.prefix)));
    if let Some(segment) = shape.segments.first() {
        parts.push(format!("{} adapters of rank {}", shape.segments.len(), segment.rank));
    }
    parts.join(", ")
}

/// The hash of the kernel sources of this build.
pub fn built_hash() -> Option<String> {
    aril_kernels::source::Sources::built_in().hash().ok()
}

/// The doubt about a measured profile whose kernels are not those of this build.
pub fn other_kernels(profile: &Profile) -> Option<Doubt> {
    let measured = profile.provenance.kind == ProvenanceKind::Measured;
    let hash = profile.provenance.kernel_source_hash.as_ref().filter(|_| measured)?;
    let built = built_hash()?;
    (*hash != built).then(|| Doubt::OtherKernels { measured: hash.clone(), built })
}

fn provenance(profile: &Profile) -> Vec<Doubt> {
    if profile.provenance.kind != ProvenanceKind::Measured {
        return Vec::new();
    }
    let p = &profile.provenance;
    let said = [
        ("gpu", &p.gpu),
        ("driver", &p.driver),
        ("cuda", &p.cuda),
        ("clocks", &p.clocks),
        ("kernel_source_hash", &p.kernel_source_hash),
        ("commit", &p.commit),
        ("date", &p.date),
    ];
    let mut doubts: Vec<_> =
        said.into_iter().filter(|(_, value)| value.is_none()).map(|(key, _)| Doubt::Unsaid { key }).collect();
    doubts.extend(other_kernels(profile));
    if profile.held_out.is_empty() {
        doubts.push(Doubt::NotHeldOut);
    }
    if profile.validity == Default::default() {
        doubts.push(Doubt::NoRange);
    }
    doubts
}
