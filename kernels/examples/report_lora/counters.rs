//! What bounds a point that misses its target: a profiler's counters of one launch, and versions of the kernels.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use crate::{Measured, Set, short_hash, tried};

/// Counters of one launch a point and the plans that were tried, as they were measured; without files, none.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// `lora-*-counters.json`: which launches the profiler saw, in order.
    launches: Value,
    /// `lora-*-counters.csv`: ncu's raw page, a row a launch.
    rows: Vec<Vec<String>>,
    /// `lora-*-tried.json`, by `bench_lora --explore`.
    tried: Value,
    /// `lora-*-bounds.log`, if there is one: what these points took with parts of the kernels left out.
    left_out: Option<String>,
    /// `lora-*-versions.json`: versions of the kernels beside one another, by `bench_lora`, with `--explore --compare` or a
    /// build for each.
    versions: Value,
}

/// A column of the table and the counter that it shows.
const COLUMNS: [(&str, &str); 7] = [
    ("ncu, µs", "gpu__time_duration.sum"),
    ("DRAM %", "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed"),
    ("L2 %", "lts__throughput.avg.pct_of_peak_sustained_elapsed"),
    ("issue %", "sm__inst_issued.avg.pct_of_peak_sustained_elapsed"),
    ("tensor %", "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed"),
    ("warps %", "sm__warps_active.avg.pct_of_peak_sustained_active"),
    ("waves", "launch__waves_per_multiprocessor"),
];

/// Those that are a unit's share of its peak.
const UNITS: [(&str, &str); 4] = [COLUMNS[1], COLUMNS[2], COLUMNS[3], COLUMNS[4]];

/// From this share of its peak on, percent, a unit is near it.
const NEAR_PEAK: f64 = 80.0;

const STALLS: (&str, &str) = ("smsp__average_warps_issue_stalled_", "_per_issue_active.ratio");

impl Counters {
    /// Those of a set of measurements (`lora-h100`, …) in a folder.
    pub(crate) fn read(folder: &Path, name: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let text = |suffix: &str| std::fs::read_to_string(folder.join(format!("{name}-{suffix}"))).ok();
        let json = |suffix: &str| text(suffix).map_or(Ok(Value::Null), |text| serde_json::from_str(&text));
        let csv = text("counters.csv").unwrap_or_default();
        // The profiler's and the program's own lines come first.
        let rows = csv.lines().filter(|line| line.starts_with('"')).map(fields).collect();
        let left_out = format!("{name}-bounds.log");
        Ok(Counters {
            left_out: folder.join(&left_out).exists().then_some(left_out),
            launches: json("counters.json")?,
            rows,
            tried: json("tried.json")?,
            versions: json("versions.json")?,
        })
    }

    /// The page's sections: what bounds the points that miss, and what was tried.
    pub(crate) fn write(&self, page: &mut String, set: &Set<'_>) {
        let missed = set.missed();
        if !missed.is_empty() {
            self.write_bounds(page, set, &missed);
            tried::write(page, &self.tried, set, &missed, &self.bounds(&missed));
        } else if self.versions.is_object() {
            page.push_str("\n## What was tried\n");
        }
        self.write_versions(page);
    }

    /// The profiler's row of a point; `None` where it saw no launch of it.
    fn row(&self, point: &Measured<'_>) -> Option<&Vec<String>> {
        let launches = self.launches["launches"].as_array()?;
        let index = launches.iter().position(|launch| launch["point"].as_str() == Some(point.text("point")))?;
        // Names and units come first.
        self.rows.get(index + 2)
    }

    /// Every point that misses, with counters of those that the profiler saw.
    fn write_bounds(&self, page: &mut String, set: &Set<'_>, missed: &[&Measured<'_>]) {
        page.push_str("\n## What bounds the points that miss\n");
        if !self.rows.is_empty() {
            let _ = writeln!(
                page,
                "\nCounters of one launch alone on a cold L2, by `ncu` on one {} with sources `{}`, {}: the share of its \
                 peak that each unit reached over the launch, warps of 64 a multiprocessor while it is busy, and, of the \
                 cycles between two instructions of a warp, the largest waits. A launch alone has no predecessor beside which \
                 it begins, and takes longer than a call in a row. Small launches reach no unit's peak: what they take is \
                 latency, from the start of a block over its first weights and one exchange to its last store.",
                self.launches["gpu"].as_str().unwrap_or("?").trim_start_matches("NVIDIA "),
                short_hash(&self.launches),
                self.launches["date"].as_str().unwrap_or("?"),
            );
        }
        page.push_str("\n| point | back to back, over target | after another, over target |");
        for (title, _) in COLUMNS {
            let _ = write!(page, " {title} |");
        }
        page.push_str(" warps wait for (cycles) |\n|---|---|---|");
        page.push_str(&"---|".repeat(COLUMNS.len() + 1));
        page.push('\n');
        for &point in missed {
            let over = |us: f64, target: f64| format!("{:+.1} %", (us / target - 1.0) * 100.0);
            let _ = write!(
                page,
                "| {} | {} | {} |",
                point.text("point"),
                over(point.median("pair_us"), set.target(point)),
                over(set.after(point).us, set.target_after(point)),
            );
            let (Some(head), Some(row)) = (self.rows.first(), self.row(point)) else {
                let _ = writeln!(page, " not measured |{}", " |".repeat(COLUMNS.len()));
                continue;
            };
            for (_, counter) in COLUMNS {
                let value = number(head, row, counter);
                let is_time = counter == COLUMNS[0].1;
                let _ = write!(
                    page,
                    " {:.*} |",
                    usize::from(value < 10.0 && !is_time),
                    if is_time { value / 1e3 } else { value }
                );
            }
            let _ = writeln!(page, " {} |", stalls(head, row));
        }
    }

    /// What the counters say of these points: a unit that is near its peak at one of them, or that none is. Nothing where the
    /// profiler saw none of them.
    fn bounds(&self, points: &[&Measured<'_>]) -> String {
        let Some(head) = self.rows.first() else { return String::new() };
        let rows: Vec<&Vec<String>> = points.iter().filter_map(|point| self.row(point)).collect();
        if rows.is_empty() {
            return String::new();
        }
        let largest = |counter| rows.iter().map(|row| number(head, row, counter)).fold(f64::NAN, f64::max);
        let peaks = UNITS.map(|(title, counter)| (title.trim_end_matches(" %"), largest(counter)));
        let mut text = said_of(&peaks);
        if let Some(log) = &self.left_out {
            let _ = write!(
                text,
                " ([{log}]({log}) is what they take with parts of the kernels left out, and what that says)"
            );
        }
        text
    }

    fn write_versions(&self, page: &mut String) {
        let Some(runs) = self.versions["runs"].as_array() else { return };
        let what = |name: &str| self.versions["names"][name].as_str().unwrap_or("?").to_owned();
        for run in runs {
            let points = run["points"].as_array().map(Vec::as_slice).unwrap_or_default();
            let Some(versions) = points.first().and_then(|point| point["versions"].as_array()) else { continue };
            let names: Vec<&str> = versions.iter().filter_map(|version| version["version"].as_str()).collect();
            let _ = write!(
                page,
                "\nVersions of the kernels that were tried, in one run on one {}, {}: pair back to back / after a plain copy \
                 kernel, µs.",
                run["gpu"].as_str().unwrap_or("?").trim_start_matches("NVIDIA "),
                run["date"].as_str().unwrap_or("?"),
            );
            for name in &names {
                let _ = write!(page, " *{name}*: {}.", what(name));
            }
            for counted in run["counted"].as_array().map(Vec::as_slice).unwrap_or_default() {
                let _ = write!(page, " Counters of one launch of *{}*:", counted["version"].as_str().unwrap_or("?"));
                for (title, counter) in COLUMNS.iter().filter(|(_, counter)| counted["counters"][counter].is_number()) {
                    let _ = write!(page, " {title} {:.1},", counted["counters"][counter].as_f64().unwrap_or(f64::NAN));
                }
                let _ = write!(page, " largest waits {}.", counted["waits"].as_str().unwrap_or("?"));
            }
            let _ =
                write!(page, "\n\n| point | copy | {} |\n|---|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
            for point in points {
                let us = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
                let _ = write!(page, "| {} | {:.2} |", point["point"].as_str().unwrap_or("?"), us(&point["copy_us"]));
                for version in point["versions"].as_array().map(Vec::as_slice).unwrap_or_default() {
                    let (pair, after) = (us(&version["pair_us"]), us(&version["after_us"]));
                    if pair.is_nan() {
                        page.push_str(" – |");
                    } else {
                        let _ = write!(page, " {pair:.2} / {after:.2} |");
                    }
                }
                page.push('\n');
            }
        }
    }
}

/// Which units are near their peak, of each unit's largest share of it, percent, over some launches.
fn said_of(peaks: &[(&str, f64)]) -> String {
    let listed = |near: bool| {
        let which = peaks.iter().filter(|(_, share)| !near || *share >= NEAR_PEAK);
        which.map(|(unit, share)| format!("{unit} {share:.0} %")).collect::<Vec<_>>().join(", ")
    };
    if peaks.iter().any(|(_, share)| *share >= NEAR_PEAK) {
        format!(", and the counters above say where a unit is near its peak (the largest shares: {})", listed(true))
    } else {
        format!(
            ". The counters above show no unit near its peak (the largest shares: {}): such launches are bound by latency and by \
             how unevenly their blocks end",
            listed(false)
        )
    }
}

/// The three largest waits.
fn stalls(head: &[String], row: &[String]) -> String {
    let mut waits: Vec<(f64, &str)> = head
        .iter()
        .filter_map(|counter| Some((counter, counter.strip_prefix(STALLS.0)?.strip_suffix(STALLS.1)?)))
        .filter(|(_, name)| *name != "selected")
        .map(|(counter, name)| (number(head, row, counter), name))
        .collect();
    waits.sort_by(|a, b| b.0.total_cmp(&a.0));
    let largest: Vec<String> =
        waits.iter().take(3).map(|(cycles, name)| format!("{} {cycles:.1}", name.replace('_', " "))).collect();
    largest.join(", ")
}

fn number(head: &[String], row: &[String], counter: &str) -> f64 {
    let index = head.iter().position(|name| name == counter);
    let text = index.and_then(|index| row.get(index)).map_or(String::new(), |text| text.replace(',', ""));
    text.parse().unwrap_or(f64::NAN)
}

/// The fields of one line, all of them in quotes.
fn fields(line: &str) -> Vec<String> {
    line.trim().trim_start_matches('"').trim_end_matches('"').split("\",\"").map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_named_as_a_bound_only_where_it_is_near_its_peak() {
        let far = said_of(&[("DRAM", 54.2), ("L2", 62.9)]);
        assert!(far.contains("no unit near its peak (the largest shares: DRAM 54 %, L2 63 %)"), "{far}");
        let near = said_of(&[("DRAM", 91.0), ("L2", 62.9)]);
        assert!(near.contains("a unit is near its peak (the largest shares: DRAM 91 %)"), "{near}");
    }
}
