//! Quantities over time, a line a policy.

use super::cdf::legend;
use super::plot::{Mark, Plot, SMALL};
use super::scale::Scale;
use super::{Figure, FigureTable, colour};
use crate::ReportError;
use crate::compare::PolicyRuns;
use crate::format;
use crate::metrics::{RunResult, Series};

/// Points of a line: bins are averaged down to so many.
const POINTS: usize = 120;
/// Rows of its table.
const ROWS: usize = 12;

/// One of the series.
type OfSeries = fn(&Series) -> &Vec<f64>;

/// What is drawn over time.
pub(crate) struct Quantity {
    pub(crate) title: &'static str,
    pub(crate) label: &'static str,
    pub(crate) of: OfSeries,
    /// Drawn once, in the colour of rules: the same for all policies, or nearly so.
    pub(crate) reference: Option<(&'static str, OfSeries)>,
}

/// A quantity over time in the first run of each policy.
pub(crate) fn over_time(quantity: &Quantity, policies: &[PolicyRuns<'_>]) -> Result<Figure, ReportError> {
    let first = |policy: &PolicyRuns<'_>| -> Option<(f64, Vec<f64>)> {
        let (_, run) = policy.runs.first()?;
        Some(thin(run, (quantity.of)(&run.series)))
    };
    let lines: Vec<(f64, Vec<f64>)> = policies.iter().filter_map(first).collect();
    let reference = policies
        .first()
        .and_then(|policy| policy.runs.first())
        .and_then(|(_, run)| quantity.reference.map(|(_, of)| thin(run, of(&run.series))));
    let all = || lines.iter().chain(&reference);
    let end = policies
        .iter()
        .filter_map(|policy| policy.runs.first())
        .map(|(_, run)| run.metrics.window.run_s)
        .fold(0.0, f64::max);
    let high = all().flat_map(|(_, values)| values).copied().fold(0.0, f64::max);
    let mut marks = Vec::new();
    let line = |(width, values): &(f64, Vec<f64>), colour, thick| Mark::Line {
        colour,
        width: thick,
        points: values.iter().enumerate().map(|(i, value)| (((i as f64 + 0.5) * width).min(end), *value)).collect(),
    };
    marks.extend(reference.iter().map(|values| line(values, colour::RULE, 3)));
    marks.extend(lines.iter().enumerate().map(|(index, values)| line(values, colour::series(index), 4)));
    let plot = Plot {
        name: quantity.title.to_owned(),
        size: SMALL,
        x: Scale::time(end),
        y: Scale::linear(0.0, if high > 0.0 { high } else { 1.0 }, 5, true, format::axis),
        x_label: String::new(),
        y_label: quantity.label.to_owned(),
        left: 100,
        grid: (false, true),
        marks,
    };
    let mut names = legend(policies);
    if let (Some((name, _)), Some(_)) = (quantity.reference, &reference) {
        names.insert(0, ("rule".to_owned(), name.to_owned()));
    }
    Ok(Figure {
        title: quantity.title.to_owned(),
        note: String::new(),
        svg: plot.draw()?,
        table: table(&names, reference.iter().chain(&lines), end),
        legend: names,
        small: true,
    })
}

/// The share of the time in steps that was spent at a batch of at least so many.
pub(crate) fn batch_sizes(policies: &[PolicyRuns<'_>]) -> Result<Figure, ReportError> {
    let title = "Time in steps by batch size".to_owned();
    let rows_max = policies
        .iter()
        .flat_map(|policy| &policy.runs)
        .map(|(_, run)| run.metrics.gpu.busy_hours_by_rows.len())
        .max()
        .unwrap_or(1);
    let share = |policy: &PolicyRuns<'_>, rows: usize| {
        let shares: Vec<f64> = policy.runs.iter().filter_map(|(_, run)| run.metrics.gpu.busy_at_least(rows)).collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
    };
    let last = rows_max.saturating_sub(1).max(1);
    let step = last.div_ceil(256).max(1);
    let marks = policies
        .iter()
        .enumerate()
        .map(|(index, policy)| Mark::Line {
            colour: colour::series(index),
            width: 4,
            points: (1..=last)
                .step_by(step)
                .filter_map(|rows| share(policy, rows).map(|share| (rows as f64, share)))
                .collect(),
        })
        .collect();
    let plot = Plot {
        name: title.clone(),
        size: SMALL,
        x: Scale::linear(0.0, last as f64, 8, false, format::axis),
        y: Scale::linear(0.0, 1.0, 5, true, |share| format!("{:.0} %", share * 100.0)),
        x_label: "sequences in the batch".to_owned(),
        y_label: "GPU time in steps with at least so many".to_owned(),
        left: 100,
        grid: (true, true),
        marks,
    };
    let mut marks_at: Vec<usize> = (0..5).map(|i| (last >> i).max(1)).collect();
    marks_at.dedup();
    marks_at.reverse();
    let headings = std::iter::once("policy".to_owned()).chain(marks_at.iter().map(|rows| format!("at least {rows}")));
    let rows = policies.iter().map(|policy| {
        let cells = marks_at.iter().map(|rows| share(policy, *rows).map_or_else(|| "–".to_owned(), format::share));
        std::iter::once(policy.policy.to_owned()).chain(cells).collect()
    });
    Ok(Figure {
        note: String::new(),
        svg: plot.draw()?,
        legend: legend(policies),
        table: FigureTable { headings: headings.collect(), rows: rows.collect() },
        title,
        small: true,
    })
}

/// Bins averaged down to a bounded number: their width, and the values. The last bins end with the run.
fn thin(run: &RunResult, values: &[f64]) -> (f64, Vec<f64>) {
    let width = run.series.bin_s;
    let bins = ((run.metrics.window.run_s / width).ceil() as usize).min(values.len());
    let merge = bins.div_ceil(POINTS).max(1);
    // A bin that the end of the run cuts short would look like a drop: leave it out unless it is the only one.
    let whole = if bins > merge { bins - bins % merge } else { bins };
    let thinned = values[..whole].chunks(merge).map(|part| part.iter().sum::<f64>() / part.len() as f64).collect();
    (width * merge as f64, thinned)
}

fn table<'a>(
    names: &[(String, String)],
    lines: impl Iterator<Item = &'a (f64, Vec<f64>)> + Clone,
    end: f64,
) -> FigureTable {
    let headings = std::iter::once("from".to_owned()).chain(names.iter().map(|(_, name)| name.clone())).collect();
    let rows = (0..ROWS)
        .map(|row| {
            let (from, to) = (end * row as f64 / ROWS as f64, end * (row + 1) as f64 / ROWS as f64);
            let cells = lines.clone().map(|(width, values)| {
                let bins = (from / width) as usize..((to / width).ceil() as usize).min(values.len());
                let part = values.get(bins).unwrap_or_default();
                if part.is_empty() {
                    "–".to_owned()
                } else {
                    format::number(part.iter().sum::<f64>() / part.len() as f64)
                }
            });
            std::iter::once(format::seconds(from)).chain(cells).collect()
        })
        .collect();
    FigureTable { headings, rows }
}
