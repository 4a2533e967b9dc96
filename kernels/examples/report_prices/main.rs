//! What other ways of serving adapters cost, and adapter copies, as a page with figures:
//! `cargo run -p aril-kernels --example report_prices -- h200`.
//!
//! The argument names a card. Reads `baselines-CARD.json`, `copies-CARD.json` and `peers-h200.tsv` of
//! `kernels/measurements`, and `slots-CARD.json` and `copies-CARD-first.json` of an earlier run where they are there;
//! writes `prices-CARD.md` and its figures beside them. Where the ways were not measured on a card, the page is of the
//! copies alone.

#[path = "../report_lora/chart.rs"]
mod chart;
mod copies;
mod figures;
mod peers;
mod ways;

use std::fmt::Write as _;
use std::path::Path;

use aril_kernels::source::Sources;
use serde_json::Value;

use peers::Peers;

/// The ways that were measured: the key in the data, what it is called, the column of the published comparison.
pub(crate) const WAYS: [Way; 4] = [
    Way {
        key: "padded",
        name: "padded to the largest rank",
        note: "vLLM's grid and tiles: a slot for each adapter and each row tile of the whole batch, split-K with atomic sums into a \
               zeroed v. v is zeroed by a launch of its own, which is in *shrink* and in *pair*. Every rank of the batch is padded \
               to the largest.",
        peer: "vllm_us",
        peer_name: "vLLM",
    },
    Way {
        key: "bgmv",
        name: "BGMV",
        note: "Punica's idea: a block a row and rank, then a block a row and some columns; an adapter is read again for each of its \
               rows. The original serves one rank of 8 to 64 a batch; this one takes any mix.",
        peer: "punica_bgmv_us",
        peer_name: "Punica's BGMV",
    },
    Way {
        key: "gathered",
        name: "gather + batched GEMM",
        note: "Weights of each row copied next to one another, ranks padded to the largest, then two strided batched GEMMs of cuBLAS.",
        peer: "gather_bmm_us",
        peer_name: "torch gather + bmm",
    },
    Way {
        key: "looped",
        name: "loop over adapters",
        note: "Two GEMMs of cuBLAS an adapter, one adapter after the other, in a captured graph.",
        peer: "loop_us",
        peer_name: "torch loop",
    },
];

pub(crate) struct Way {
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    /// What is measured.
    pub(crate) note: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) peer_name: &'static str,
}

/// A measured batch, or a measured copy.
#[derive(Clone, Copy)]
pub(crate) struct Measured<'a>(pub(crate) &'a Value);

impl<'a> Measured<'a> {
    pub(crate) fn text(self, key: &str) -> &'a str {
        self.0[key].as_str().unwrap_or_default()
    }

    pub(crate) fn number(self, key: &str) -> f64 {
        self.0[key].as_f64().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(self, key: &str) -> f64 {
        self.0[key]["median"].as_f64().unwrap_or(f64::NAN)
    }

    /// Median microseconds of `pair_us`, `shrink_us`, … of a way.
    pub(crate) fn way(self, way: &str, key: &str) -> f64 {
        self.0["ways"][way][key]["median"].as_f64().unwrap_or(f64::NAN)
    }

    /// (rank, rows, popularity) of the batches of one rank.
    pub(crate) fn batch(self) -> Option<(u32, u32, &'a str)> {
        let mut words = self.text("batch").split(' ');
        let rank = words.next()?.strip_prefix('r')?.parse().ok()?;
        Some((rank, words.next()?.parse().ok()?, words.next()?))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let card = std::env::args().nth(1).ok_or("which card? See the head of examples/report_prices/main.rs")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("measurements");
    let read = |name: &str| -> Result<Value, Box<dyn std::error::Error>> {
        Ok(serde_json::from_str(&std::fs::read_to_string(folder.join(format!("{name}-{card}.json")))?)?)
    };
    let (baselines, copies) = (read("baselines"), read("copies")?);
    let Ok(baselines) = baselines else { return copies_alone(&folder, &card, &copies) };
    let peers = Peers::read(&std::fs::read_to_string(folder.join("peers-h200.tsv"))?);
    let mut page = format!(
        "# Other ways of serving adapters, and adapter copies, on one {}\n\n\
         Written by `cargo run -p aril-kernels --example report_prices -- {card}` from `baselines-{card}.json` (measured by \
         `bench_baselines`) and `copies-{card}.json` (by `bench_copies`). All of it is measured; the columns named after \
         other projects are published figures, measured by the same method on an H200 (`peers-h200.tsv`).\n\n",
        baselines["gpu"].as_str().unwrap_or("?"),
    );
    staleness(&mut page, &[("ways", &baselines), ("copies", &copies)])?;
    provenance(&mut page, &baselines, &copies);
    ways::write(&mut page, &baselines, &read("slots").unwrap_or_default(), &peers, &card);
    copies::write(&mut page, &copies, &card);
    let first = std::fs::read_to_string(folder.join(format!("copies-{card}-first.json")));
    if let Ok(first) = first {
        copies::again(&mut page, &serde_json::from_str(&first)?);
    }
    figures::draw(&folder, &card, &baselines, &copies)?;
    std::fs::write(folder.join(format!("prices-{card}.md")), page)?;
    Ok(())
}

fn copies_alone(folder: &Path, card: &str, copies: &Value) -> Result<(), Box<dyn std::error::Error>> {
    let mut page = format!(
        "# Adapter copies on one {}\n\n\
         Written by `cargo run -p aril-kernels --example report_prices -- {card}` from `copies-{card}.json` (measured by \
         `bench_copies`). Other ways of serving adapters were not measured on this card.\n\n",
        copies["gpu"].as_str().unwrap_or("?"),
    );
    staleness(&mut page, &[("copies", copies)])?;
    provenance(&mut page, &Value::Null, copies);
    copies::write(&mut page, copies, card);
    figures::throughput(&folder.join(format!("prices-{card}-copies.svg")), copies)?;
    std::fs::write(folder.join(format!("prices-{card}.md")), page)?;
    Ok(())
}

/// Says which of the runs measured another state of the sources than this one.
fn staleness(page: &mut String, runs: &[(&str, &Value)]) -> Result<(), Box<dyn std::error::Error>> {
    let current = Sources::built_in().hash()?;
    let older: Vec<&str> = runs
        .iter()
        .filter(|(_, report)| report["source_sha256"].as_str() != Some(current.as_str()))
        .map(|&(name, _)| name)
        .collect();
    if !older.is_empty() {
        let _ = writeln!(
            page,
            "**The kernels have changed since these runs** ({}): the figures are those of an older state of the sources.\n",
            older.join(", ")
        );
    }
    Ok(())
}

fn provenance(page: &mut String, baselines: &Value, copies: &Value) {
    page.push_str("| | ways | copies |\n|---|---|---|\n");
    let rows = [
        ("GPU", "gpu"),
        ("driver, SM and memory clock, highest SM clock, °C, W before", "clocks_before"),
        ("the same after", "clocks_after"),
        ("CUDA", "driver_cuda"),
        ("NVRTC", "nvrtc"),
        ("cuBLAS", "cublas"),
        ("kernel sources, SHA-256", "source_sha256"),
        ("date", "date"),
        ("replays a figure", "repeats"),
    ];
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (name, key) in rows {
        let _ = writeln!(page, "| {name} | {} | {} |", text(&baselines[key]), text(&copies[key]));
    }
    if let Some(rate) = baselines["copy_2gib_bytes_per_us"].as_f64() {
        let _ = writeln!(page, "| copy of 2 GiB on the device, read and written | {:.2} TB/s | |", rate / 1e6);
    }
    page.push('\n');
}
