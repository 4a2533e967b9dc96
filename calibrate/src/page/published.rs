//! What others published, from the files of `calibrate/published`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::charts::series;
use super::{Kind, Series};
use crate::error::CalibrateError;
use crate::published::facts;
use crate::text::parse;

const VLLM: &str = include_str!("../../published/vllm_lora_itl.tsv");
const LINES: &str = include_str!("../../published/lora_lines.toml");

/// The corners of the paper's Figure 1.
pub(super) fn paper_steps() -> Result<Vec<Series>, CalibrateError> {
    let facts = facts()?;
    let mut by: BTreeMap<u32, Vec<(f64, f64)>> = BTreeMap::new();
    for step in &facts.decode_step {
        by.entry(step.context).or_default().push((f64::from(step.rows), step.ms));
    }
    let name = |context: u32| format!("Punica on an A100, context {context}");
    Ok(by.into_iter().map(|(context, points)| series(name(context), Kind::Published, points)).collect())
}

/// The straight lines of other simulators.
pub(super) fn lines(rank: u32) -> Result<Vec<Series>, CalibrateError> {
    #[derive(Deserialize)]
    struct Lines {
        line: Vec<Line>,
    }
    #[derive(Deserialize)]
    struct Line {
        name: String,
        version: String,
        at_zero: f64,
        once: f64,
        slope_by_rank: BTreeMap<String, f64>,
    }
    let lines: Lines = parse("lora_lines.toml", LINES)?;
    let of = |line: Line| {
        let slope = line.slope_by_rank.get(&rank.to_string()).copied().unwrap_or(0.0);
        let at = |adapters: f64| (adapters, line.at_zero + line.once + slope * adapters);
        let mut points = vec![(0.0, line.at_zero)];
        points.extend([1.0, 64.0, 128.0, 192.0, 256.0].map(at));
        series(format!("{} {}", line.name, line.version), Kind::OtherModel, points)
    };
    Ok(lines.line.into_iter().map(of).collect())
}

/// vLLM's inter-token latency over its own without adapters, for one rank: one series a dataset.
pub(super) fn vllm(rank: u32) -> Result<Vec<Series>, CalibrateError> {
    let bad = |line: &str| CalibrateError::Text {
        origin: "vllm_lora_itl.tsv".to_owned(),
        line: 1,
        column: 1,
        message: format!("`{line}` is no row of figures"),
    };
    let mut by: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
    for line in VLLM.lines().filter(|line| !line.starts_with('#')).skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [dataset, _, of_rank, adapters, itl] = fields.as_slice() else { return Err(bad(line)) };
        let number = |text: &str| text.parse::<f64>().map_err(|_| bad(line));
        if number(of_rank)? == f64::from(rank) {
            by.entry(dataset).or_default().push((number(adapters)?, number(itl)?));
        }
    }
    let ratio = |points: Vec<(f64, f64)>| {
        let off = points.iter().find(|(adapters, _)| *adapters == 0.0).map(|(_, itl)| *itl)?;
        Some(points.into_iter().map(|(adapters, itl)| (adapters, itl / off)).collect())
    };
    let name = |dataset: &str| format!("vLLM 0.5.0, {dataset} lengths");
    Ok(by
        .into_iter()
        .filter_map(|(dataset, points)| Some(series(name(dataset), Kind::Published, ratio(points)?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_curves_start_at_one_and_step_up_with_the_first_adapter() {
        let curves = vllm(16).unwrap();
        assert!(curves.len() >= 2);
        for curve in curves {
            assert_eq!(curve.points[0], (0.0, 1.0), "{}", curve.name);
            let first = curve.points.iter().find(|(adapters, _)| *adapters == 1.0).unwrap();
            assert!((1.05..1.25).contains(&first.1), "{}: {first:?}", curve.name);
        }
    }

    /// At rank 32 and 96 adapters one line is at 6.76 times the step.
    #[test]
    fn the_lines_are_those_of_their_sources() {
        let blis = lines(32).unwrap().remove(0);
        let at = |x: f64| blis.points.iter().find(|(adapters, _)| *adapters == x).unwrap().1;
        assert!((at(64.0) - (1.0 + 0.06 * 64.0)).abs() < 1e-9);
        let twin = lines(16).unwrap().remove(1);
        assert_eq!(twin.points[0].1, 1.0);
        assert!((twin.points[1].1 - 2.0193).abs() < 1e-9);
        assert_eq!(paper_steps().unwrap().len(), 2);
    }
}
