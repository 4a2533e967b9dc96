//! The measurements as a page with figures: `cargo run -p aril-kernels --example report_lora`.
//!
//! Reads `kernels/measurements/lora-h200.json` and `peers-h200.tsv`, writes `lora-h200.md` and its figures beside them.

mod chart;
mod figures;
mod page;

use std::path::Path;

use serde_json::Value;

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
    let report: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("lora-h200.json"))?)?;
    let table = std::fs::read_to_string(folder.join("peers-h200.tsv"))?;
    let peers = table
        .lines()
        .skip(1)
        .map(|line| Peer { fields: line.split('\t').map(str::to_owned).collect() })
        .filter(|peer| peer.fields.len() > 10)
        .collect();
    let peers = Peers(peers);
    let results = report["results"].as_array().ok_or("the report has no results")?;
    let points: Vec<Measured<'_>> = results.iter().map(Measured).collect();
    figures::draw(&folder, &points, &peers)?;
    std::fs::write(folder.join("lora-h200.md"), page::write(&report, &points, &peers))?;
    Ok(())
}
