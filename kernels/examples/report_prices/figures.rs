//! The figures: time against adapters, throughput of copies against their size.

use std::path::Path;

use serde_json::Value;

use crate::chart::{Curve, Outcome, chart};
use crate::{Measured, WAYS};

pub(crate) fn draw(folder: &Path, card: &str, baselines: &Value, copies: &Value) -> Outcome {
    let points: Vec<Measured<'_>> = baselines["results"].as_array().into_iter().flatten().map(Measured).collect();
    adapters(&folder.join(format!("prices-{card}-adapters.svg")), &points)?;
    throughput(&folder.join(format!("prices-{card}-copies.svg")), copies)
}

fn adapters(path: &Path, points: &[Measured<'_>]) -> Outcome {
    let distinct: Vec<(f64, Measured<'_>)> = points
        .iter()
        .filter(|point| (point.number("inputs"), point.number("outputs")) == (4096.0, 4096.0))
        .filter(|point| point.text("element") == "bf16")
        .filter_map(|point| {
            let (rank, rows, popularity) = point.batch()?;
            (rank == 16 && popularity == "distinct").then(|| (f64::from(rows), *point))
        })
        .collect();
    let curve = |name: &str, us: &dyn Fn(&Measured<'_>) -> f64| {
        let mut points: Vec<(f64, f64)> = distinct.iter().map(|(adapters, point)| (*adapters, us(point))).collect();
        points.retain(|(_, us)| us.is_finite());
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { name: name.to_owned(), points, scattered: false }
    };
    let mut curves = vec![curve("ours", &|point| point.median("ours_us"))];
    curves.extend(WAYS.iter().map(|way| curve(way.name, &|point| point.way(way.key, "pair_us"))));
    curves.push(curve("copy of the minimal bytes", &|point| point.median("copy_us")));
    chart(path, "pair, bf16 4096 → 4096, rank 16, one row an adapter", "adapters", "microseconds", &curves)
}

pub(crate) fn throughput(path: &Path, copies: &Value) -> Outcome {
    let results: Vec<Measured<'_>> = copies["results"].as_array().into_iter().flatten().map(Measured).collect();
    let mut curves = Vec::new();
    for memory in ["pinned", "pageable"] {
        for (name, key) in [("alone", "alone_us"), ("beside a step", "beside_us")] {
            let points = results
                .iter()
                .filter(|copy| copy.text("memory") == memory && copy.number("pieces") == 1.0)
                .map(|copy| (copy.number("bytes") / f64::from(1 << 20), copy.number("bytes") / copy.median(key) / 1e3))
                .filter(|(_, rate)| rate.is_finite())
                .collect();
            curves.push(Curve { name: format!("{memory}, {name}"), points, scattered: false });
        }
    }
    chart(path, "adapter copies, host → device", "MiB", "GB/s", &curves)
}
