//! The figures, as SVG.

use std::path::Path;

use crate::chart::{Curve, Outcome, chart};
use crate::{Measured, Set};

const POPULARITIES: [&str; 4] = ["distinct", "uniform", "skewed", "identical"];

pub(crate) fn draw(folder: &Path, set: &Set<'_>) -> Outcome {
    let file = |figure: &str| folder.join(format!("{}-{figure}.svg", set.name));
    let points = set.points;
    pair(&file("pair"), set)?;
    let figure: Vec<&Measured<'_>> = points.iter().filter(|point| point.text("group") == "figure").collect();
    roofline(&file("figure-7"), &figure, set.report["copy_2gib_bytes_per_us"].as_f64().unwrap_or(f64::NAN) / 1e6)?;
    let operator = POPULARITIES.map(|popularity| Curve {
        name: popularity.to_owned(),
        points: select(&figure, 11008, 16, popularity, |point| point.median("pair_us")),
        scattered: false,
    });
    chart(&file("figure-8"), "pair 4096 → 11008, rank 16, fp16", "rows", "microseconds", &operator)?;
    let by_rank: Vec<Curve> = [8, 16, 32, 64]
        .into_iter()
        .flat_map(|rank| ["distinct", "identical"].map(|popularity| (rank, popularity)))
        .map(|(rank, popularity)| Curve {
            name: format!("rank {rank}, {popularity}"),
            points: select(&figure, 4096, rank, popularity, |point| point.median("expand_us")),
            scattered: false,
        })
        .collect();
    chart(&file("figure-9"), "expand to 4096, fp16", "rows", "microseconds", &by_rank)
}

/// (rows, value) of one rank and popularity, by rows.
fn select(
    points: &[&Measured<'_>],
    outputs: u32,
    rank: u32,
    popularity: &str,
    value: impl Fn(&Measured<'_>) -> f64,
) -> Vec<(f64, f64)> {
    let mut found: Vec<(f64, f64)> = points
        .iter()
        .filter(|point| point.number("outputs") == f64::from(outputs))
        .filter_map(|point| {
            let (found_rank, rows, name) = point.batch()?;
            (found_rank == rank && name == popularity).then(|| (f64::from(rows), value(point)))
        })
        .collect();
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    found
}

fn pair(path: &Path, set: &Set<'_>) -> Outcome {
    let table: Vec<&Measured<'_>> = set.points.iter().filter(|point| point.text("group") == "table").collect();
    let megabytes = |point: &Measured<'_>| point.bytes("pair") / 1e6;
    let (least, most) = table
        .iter()
        .map(|point| megabytes(point))
        .fold((f64::MAX, 0.0_f64), |(least, most), at| (least.min(at), most.max(at)));
    let line = |name: &str, fixed: f64, rate: f64| Curve {
        name: name.to_owned(),
        points: (0..=60)
            .map(|n| least * (most / least).powf(f64::from(n) / 60.0))
            .map(|megabytes| (megabytes, fixed + megabytes / rate))
            .collect(),
        scattered: false,
    };
    let peer = |pick: fn((f64, &str, f64)) -> f64| -> Vec<(f64, f64)> {
        table
            .iter()
            .filter_map(|point| Some((megabytes(point), pick(set.best_peer("pair", point)?))))
            .filter(|(_, us)| us.is_finite())
            .collect()
    };
    let elsewhere = if set.is_h200() { "" } else { ", scaled by its copy" };
    let mut curves = vec![
        Curve {
            name: "ours".to_owned(),
            points: table.iter().map(|point| (megabytes(point), point.median("pair_us"))).collect(),
            scattered: true,
        },
        Curve { name: format!("best peer{elsewhere}"), points: peer(|best| best.0), scattered: true },
        Curve { name: format!("vLLM{elsewhere}"), points: peer(|best| best.2), scattered: true },
    ];
    if set.is_h200() {
        curves.push(line("target: 3.0 µs + bytes / 3.70 TB/s", 3.0, 3.70));
        curves.push(line("yardstick: 1.75 µs + bytes / 4.257 TB/s", 1.75, 4.257));
    } else {
        let of = |us: &dyn Fn(&Measured<'_>) -> f64| table.iter().map(|point| (megabytes(point), us(point))).collect();
        curves.push(Curve {
            name: "target: 1.15 × copy + 1 µs".to_owned(),
            points: of(&|point| set.target(point)),
            scattered: true,
        });
        curves.push(Curve { name: "copy".to_owned(), points: of(&|point| point.median("copy_us")), scattered: true });
    }
    chart(path, "pair, 40 points", "minimal megabytes", "microseconds", &curves)
}

/// GFLOP/s over FLOP per byte of the expand 16 → 4096, under the two roofs of the chip.
fn roofline(path: &Path, points: &[&Measured<'_>], terabytes: f64) -> Outcome {
    let at = |point: &Measured<'_>| {
        let rows = point.number("rows");
        let flop = rows * 16.0 * 4096.0 * 2.0;
        // Punica counts y once: rows·(16 + outputs) + weights.
        let adapters = point.0["segments"].as_array().map_or(0.0, |segments| segments.len() as f64);
        let bytes = (rows * (16.0 + 4096.0) + adapters * 16.0 * 4096.0) * 2.0;
        (flop / bytes, flop / point.median("expand_us") / 1e3)
    };
    let mut curves: Vec<Curve> = POPULARITIES
        .iter()
        .map(|&popularity| Curve {
            name: popularity.to_owned(),
            points: points
                .iter()
                .filter(|point| point.number("outputs") == 4096.0)
                .filter(|point| point.batch().is_some_and(|(rank, _, name)| rank == 16 && name == popularity))
                .map(|point| at(point))
                .collect(),
            scattered: true,
        })
        .collect();
    let roof = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0];
    curves.push(Curve {
        name: format!("{terabytes:.2} TB/s"),
        points: roof.iter().map(|&intensity| (intensity, intensity * terabytes * 1e3)).collect(),
        scattered: false,
    });
    chart(path, "roofline of the expand 16 → 4096, fp16, 1 to 64 rows", "FLOP per byte", "GFLOP/s", &curves)
}
