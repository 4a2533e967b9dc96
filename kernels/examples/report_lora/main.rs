//! The measurements as a page with figures: `cargo run -p aril-kernels --example report_lora`.
//!
//! Reads every `kernels/measurements/lora-*.json` and `peers-h200.tsv`, writes `lora-*.md` and its figures beside them. Counters
//! (`lora-*-counters.*`) and tried plans (`lora-*-tried.json`) of a card come with its page.

mod chart;
mod counters;
mod figures;
mod page;
mod tried;

use std::path::Path;

use aril_kernels::lora::variant::SOURCES;
use aril_kernels::source::Sources;
use serde_json::Value;

use counters::Counters;

/// One measured batch.
pub(crate) struct Measured<'a>(pub(crate) &'a Value);

impl Measured<'_> {
    pub(crate) fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    pub(crate) fn number(&self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap_or(f64::NAN)
    }

    /// Median microseconds of `pair_us`, `shrink_us`, …
    pub(crate) fn median(&self, key: &str) -> f64 {
        self.0[key]["median"].as_f64().unwrap_or(f64::NAN)
    }

    pub(crate) fn bytes(&self, kernel: &str) -> f64 {
        self.0["bytes"][kernel].as_f64().unwrap_or(f64::NAN)
    }

    /// `r16 32 distinct` → (16, 32, "distinct"), for the batches of one rank.
    pub(crate) fn batch(&self) -> Option<(u32, u32, &str)> {
        let mut words = self.text("batch").split(' ');
        let rank = words.next()?.strip_prefix('r')?.parse().ok()?;
        Some((rank, words.next()?.parse().ok()?, words.next()?))
    }
}

/// What the public kernels took at the same point.
pub(crate) struct Peer {
    fields: Vec<String>,
}

impl Peer {
    /// Best, its name, vLLM.
    pub(crate) fn best(&self) -> (f64, &str, f64) {
        let number = |index: usize| self.fields[index].parse().unwrap_or(f64::NAN);
        (number(8), &self.fields[9], number(10))
    }
}

pub(crate) struct Peers(Vec<Peer>);

impl Peers {
    pub(crate) fn find(&self, kernel: &str, point: &Measured<'_>) -> Option<&Peer> {
        let (rank, rows, popularity) = point.batch()?;
        let key = [
            kernel.to_owned(),
            point.text("element").to_owned(),
            point.number("inputs").to_string(),
            point.number("outputs").to_string(),
            rank.to_string(),
            rows.to_string(),
            popularity.to_owned(),
        ];
        self.0.iter().find(|peer| peer.fields[..7] == key)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("measurements");
    let table = std::fs::read_to_string(folder.join("peers-h200.tsv"))?;
    let peers = table
        .lines()
        .skip(1)
        .map(|line| Peer { fields: line.split('\t').map(str::to_owned).collect() })
        .filter(|peer| peer.fields.len() > 10)
        .collect();
    let peers = Peers(peers);
    let current = Sources::built_in().hash_of(SOURCES)?;
    for entry in std::fs::read_dir(&folder)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // `lora-h100.json`, …; what other files of a card hold comes with it.
        let is_ours = name.strip_prefix("lora-").is_some_and(|card| !card.contains('-'));
        if !is_ours || path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
        let results = report["results"].as_array().ok_or("the report has no results")?;
        let points: Vec<Measured<'_>> = results.iter().map(Measured).collect();
        let counters = Counters::read(&folder, &name)?;
        let set = Set { name: &name, report: &report, points: &points, peers: &peers, current: &current };
        figures::draw(&folder, &set)?;
        std::fs::write(path.with_extension("md"), page::write(&set, &counters))?;
    }
    Ok(())
}

/// The first digits of a report's hash of its sources.
pub(crate) fn short_hash(report: &Value) -> &str {
    report["source_sha256"].as_str().and_then(|hash| hash.get(..8)).unwrap_or("?")
}

/// What a call takes after another kernel, in microseconds.
pub(crate) struct After {
    pub(crate) us: f64,
    pub(crate) p10: f64,
    pub(crate) p90: f64,
    /// After a plain copy kernel, since the difference to the GEMM is no time.
    pub(crate) stands_in: bool,
}

impl After {
    /// The larger distance of a percentile from the median, as a share of it.
    pub(crate) fn spread(&self) -> f64 {
        (self.p90 / self.us - 1.0).max(1.0 - self.p10 / self.us)
    }
}

/// One run on one GPU.
pub(crate) struct Set<'a> {
    /// `lora-h200`, …: the name of its files.
    pub(crate) name: &'a str,
    pub(crate) report: &'a Value,
    pub(crate) points: &'a [Measured<'a>],
    /// Measured on an H200.
    pub(crate) peers: &'a Peers,
    /// Hash of the sources of this revision.
    pub(crate) current: &'a str,
}

impl Set<'_> {
    /// Whether it was measured where the targets and the peers were.
    pub(crate) fn is_h200(&self) -> bool {
        self.report["gpu"].as_str().is_some_and(|gpu| gpu.contains("H200"))
    }

    /// What a pair may take back to back: 3.0 µs + bytes / 3.70 TB/s on an H200, which is 1.15 × a copy of the bytes
    /// + 1 µs there; on another GPU the latter.
    pub(crate) fn target(&self, point: &Measured<'_>) -> f64 {
        if self.is_h200() { 3.0 + point.bytes("pair") / 3.70e6 } else { 1.15 * point.median("copy_us") + 1.0 }
    }

    /// What it may take after a kernel that does not let its successor begin early: 4.6 µs + bytes / 3.41 TB/s, which is
    /// 1.25 × a copy + 2.4 µs.
    pub(crate) fn target_after(&self, point: &Measured<'_>) -> f64 {
        if self.is_h200() { 4.6 + point.bytes("pair") / 3.41e6 } else { 1.25 * point.median("copy_us") + 2.4 }
    }

    /// Both targets in terms of the copy of another run at this point.
    pub(crate) fn targets_at(&self, copy_us: f64, point: &Measured<'_>) -> [f64; 2] {
        if self.is_h200() {
            [self.target(point), self.target_after(point)]
        } else {
            [1.15 * copy_us + 1.0, 1.25 * copy_us + 2.4]
        }
    }

    /// A pair after a GEMM of cuBLASLt; after a plain copy kernel in runs that did not measure that, and for prompts: the
    /// GEMM takes many times as long as the call, so that the difference of the two is no time of a call.
    pub(crate) fn after(&self, point: &Measured<'_>) -> After {
        let gemm = point.median("pair_after_gemm_us");
        let is_time = gemm > point.median("pair_us");
        let key = if is_time { "pair_after_gemm_us" } else { "pair_after_uncooperative_us" };
        let number = |which: &str| point.0[key][which].as_f64().unwrap_or(f64::NAN);
        After { us: number("median"), p10: number("p10"), p90: number("p90"), stands_in: !is_time && gemm.is_finite() }
    }

    /// Whether a point misses its target back to back, and after another kernel.
    pub(crate) fn misses(&self, point: &Measured<'_>) -> [bool; 2] {
        let after = self.after(point).us;
        [point.median("pair_us") > self.target(point), after > self.target_after(point)]
    }

    /// The points that miss a target. Those of Punica's figures have none: they are kernels alone, after nothing.
    pub(crate) fn missed(&self) -> Vec<&Measured<'_>> {
        let has_target = |point: &&Measured<'_>| point.text("group") != "figure";
        self.points.iter().filter(has_target).filter(|point| self.misses(point).contains(&true)).collect()
    }

    /// What the best peer would take here: its time on an H200, or, on another GPU, as many copies of the bytes as that is
    /// there. The copies there are the yardstick of the comparison, 1.75 µs + bytes / 4.257 TB/s: those that were timed
    /// beside shrink and expand are no measure, since what a copy of that size writes stays in the L2 or does not.
    pub(crate) fn best_peer(&self, kernel: &str, point: &Measured<'_>) -> Option<(f64, &str, f64)> {
        let peer = self.peers.find(kernel, point)?;
        let (best, name, vllm) = peer.best();
        if self.is_h200() {
            return Some((best, name, vllm));
        }
        let copy =
            point.median(if kernel == "pair" { "copy_us".to_owned() } else { format!("copy_{kernel}_us") }.as_str());
        let copies = copy / (1.75 + point.bytes(kernel) / 4.257e6);
        Some((best * copies, name, vllm * copies))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_that_misses_is_among_those_that_are_looked_into() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = std::fs::read_to_string(folder.join("ci/gpu.sh")).expect("the script of a GPU's runs");
        let near: Vec<&str> = script
            .lines()
            .filter_map(|line| line.trim().strip_prefix("near=\"")?.strip_suffix('"'))
            .flat_map(|points| points.split('|'))
            .collect();
        let peers = Peers(Vec::new());
        for card in ["h100", "h200"] {
            let text = std::fs::read_to_string(folder.join(format!("measurements/lora-{card}.json")));
            let report: Value = serde_json::from_str(&text.expect("measurements")).expect("JSON");
            let points: Vec<Measured<'_>> =
                report["results"].as_array().expect("points").iter().map(Measured).collect();
            let set = Set { name: card, report: &report, points: &points, peers: &peers, current: "" };
            assert!(!set.missed().is_empty());
            for point in set.missed() {
                let name = point.text("point");
                assert!(near.iter().any(|part| name.contains(part)), "add {name} ({card}) to `near` in ci/gpu.sh");
            }
        }
    }
}
