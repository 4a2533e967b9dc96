//! The comparison as plain text, for a terminal.

use crate::compare::{Basis, Cell, Comparison, PointComparison, PolicyRow, Standing};
use crate::format;
use crate::metric::{Metric, Unit};

/// A table of texts: the caller draws it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextTable {
    /// What the rows are about: the point of a sweep; empty without one.
    pub title: String,
    /// Column headings.
    pub headings: Vec<String>,
    /// Rows, each as long as the headings.
    pub rows: Vec<Vec<String>>,
    /// One sentence below.
    pub verdict: String,
}

/// The metrics of the first table, with the one that decides in front. Cost is in dollars where every pool has a price.
pub(crate) fn leading(primary: Metric, points: &[PointComparison]) -> Vec<Metric> {
    let priced =
        points.iter().flat_map(|point| &point.policies).any(|row| row.value(Metric::UsdPerMillionTokens).is_some());
    let cost = if priced { Metric::UsdPerMillionTokens } else { Metric::GpuHoursPerMillionTokens };
    let mut metrics = vec![primary];
    metrics.extend(
        [Metric::Goodput, Metric::Attainment, Metric::TtftP99, Metric::TpotP99, cost]
            .into_iter()
            .filter(|m| *m != primary),
    );
    metrics
}

/// The comparison as texts: a table for each point of the sweep.
pub fn tables(comparison: &Comparison) -> Vec<TextTable> {
    let metrics = leading(comparison.primary, &comparison.points);
    let mut headings = vec!["policy".to_owned()];
    headings.extend(metrics.iter().map(|metric| metric.title().to_owned()));
    comparison
        .points
        .iter()
        .map(|point| TextTable {
            title: point_name(&point.point),
            headings: headings.clone(),
            rows: point.policies.iter().map(|row| text_row(row, point, &metrics)).collect(),
            verdict: point.verdict.sentence.clone(),
        })
        .collect()
}

/// What the marks in the cells mean; empty where no cell has any.
pub fn legend(comparison: &Comparison) -> String {
    let cells = comparison.points.iter().flat_map(|point| &point.policies).flat_map(|row| &row.cells);
    let differences: Vec<_> = cells.filter_map(|cell| cell.difference.as_ref()).collect();
    if differences.is_empty() {
        return String::new();
    }
    let mut text = "in brackets, the paired difference to the baseline ± half of its 95 % interval; tie: under 1 %; ?: more seeds would tell".to_owned();
    if differences.iter().any(|difference| difference.basis == Basis::Blocks) {
        text += &format!("\none seed: ± is {ONE_SEED}");
    }
    text
}

/// What an interval means where there is one run of each policy.
pub(crate) const ONE_SEED: &str = "the scatter of 20 blocks of time of the run, taken as independent; the same seed would give the same figures again";

/// Axes and values of a point in one line.
pub(crate) fn point_name(point: &[(String, String)]) -> String {
    point.iter().map(|(axis, value)| format!("{axis} = {value}")).collect::<Vec<_>>().join(", ")
}

fn text_row(row: &PolicyRow, point: &PointComparison, metrics: &[Metric]) -> Vec<String> {
    let mut marks = Vec::new();
    if row.policy == point.baseline {
        marks.push("baseline");
    }
    if row.bound {
        marks.push("bound");
    }
    if row.is_saturated() {
        marks.push("saturated");
    }
    let name = if marks.is_empty() { row.policy.clone() } else { format!("{} ({})", row.policy, marks.join(", ")) };
    let cells = metrics
        .iter()
        .map(|metric| row.cell(*metric).map_or_else(String::new, |cell| text_cell(cell, row.is_saturated())));
    std::iter::once(name).chain(cells).collect()
}

fn text_cell(cell: &Cell, saturated: bool) -> String {
    let Some(value) = cell.value else { return "–".to_owned() };
    let value = format::value(cell.metric, value);
    match &cell.difference {
        _ if saturated => value,
        None => value,
        Some(difference) if difference.standing == Standing::Tie => format!("{value} (tie)"),
        Some(difference) => {
            let scale = difference
                .relative
                .filter(|_| cell.metric.unit() != Unit::Share)
                .map(|relative| relative / difference.mean);
            match difference.interval {
                Some(interval) => {
                    let open = if difference.standing == Standing::CannotTell { "?" } else { "" };
                    let text = format::with_interval(cell.metric, difference.mean, interval, scale);
                    format!("{value} ({text}{open})")
                }
                None => format!("{value} ({})", format::signed(cell.metric, difference.mean)),
            }
        }
    }
}
