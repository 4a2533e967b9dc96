//! Bars: what decides, and what the slowest first tokens waited for.

use super::cdf::legend;
use super::plot::{Mark, Plot};
use super::scale::Scale;
use super::{Figure, FigureTable, colour};
use crate::ReportError;
use crate::compare::{CONFIDENCE, PolicyRuns};
use crate::format;
use crate::metric::{Metric, Unit};
use crate::metrics::{Parts, Tail};
use crate::statistics::t_interval;

const BAR: f64 = 0.34;

/// A metric, a bar a policy, with its interval over seeds as a whisker.
pub(crate) fn primary_bars(metric: Metric, policies: &[PolicyRuns<'_>]) -> Result<Figure, ReportError> {
    let title = format::capital(metric.title());
    let values: Vec<(f64, Option<(f64, f64)>)> = policies
        .iter()
        .map(|policy| {
            let interval = t_interval(&policy.values(metric), CONFIDENCE).map(|interval| (interval.low, interval.high));
            (policy.mean(metric).unwrap_or(0.0), interval)
        })
        .collect();
    let high = values
        .iter()
        .map(|(value, interval)| interval.map_or(*value, |(_, high)| high.max(*value)))
        .fold(0.0, f64::max);
    let write: fn(f64) -> String = match metric.unit() {
        Unit::Seconds => format::axis_seconds,
        Unit::Share => |x| format!("{:.0} %", x * 100.0),
        _ => format::axis,
    };
    let x = Scale::linear(0.0, high * 1.15, 6, true, write);
    let mut marks = Vec::new();
    for (index, (value, interval)) in values.iter().enumerate() {
        let y = index as f64;
        marks.push(Mark::Box { colour: colour::series(index), from: (0.0, y - BAR), to: (*value, y + BAR) });
        if let Some((low, high)) = interval.filter(|(low, high)| high > low) {
            marks.push(Mark::Line { colour: colour::RULE, width: 4, points: vec![(low, y), (high, y)] });
        }
        let end = interval.map_or(*value, |(_, high)| high.max(*value));
        marks.push(Mark::Text { text: format::value(metric, *value), at: (end, y), right: true });
    }
    let plot = bars(title.clone(), policies.iter().map(|policy| policy.policy).collect(), x, marks);
    let rows = policies.iter().zip(&values).map(|(policy, (value, interval))| {
        let interval = interval.map_or_else(
            || "one seed".to_owned(),
            |(low, high)| format!("{} to {}", format::value(metric, low), format::value(metric, high)),
        );
        vec![policy.policy.to_owned(), format::value(metric, *value), interval]
    });
    Ok(Figure {
        note: "Whiskers: 95 % interval of the mean over seeds.".to_owned(),
        svg: plot.draw()?,
        legend: legend(policies),
        table: FigureTable {
            headings: ["policy", metric.title(), "95 % interval of the mean"].map(str::to_owned).to_vec(),
            rows: rows.collect(),
        },
        title,
        small: false,
    })
}

/// The p99 of the time to first token taken apart, a bar a policy.
pub(crate) fn tail_bars(tails: &[(&str, &Tail)]) -> Result<Figure, ReportError> {
    let title = "Where the p99 of the time to first token goes".to_owned();
    let high = tails.iter().filter_map(|(_, tail)| tail.ttft_s).fold(0.0, f64::max);
    let x = Scale::linear(0.0, high * 1.12, 6, true, format::axis_seconds);
    let mut marks = Vec::new();
    for (index, (_, tail)) in tails.iter().enumerate() {
        let (y, mut at) = (index as f64, 0.0);
        for (part, length) in tail.parts.map(|parts| parts.values()).unwrap_or_default().iter().enumerate() {
            if *length > 0.0 {
                marks.push(Mark::Box { colour: colour::series(part), from: (at, y - BAR), to: (at + length, y + BAR) });
            }
            at += length;
        }
        let text = tail.ttft_s.map_or_else(|| "no first token".to_owned(), format::seconds);
        marks.push(Mark::Text { text, at: (at, y), right: true });
    }
    let plot = bars(title.clone(), tails.iter().map(|(name, _)| *name).collect(), x, marks);
    let mut headings = vec!["policy".to_owned(), "requests".to_owned(), "TTFT".to_owned()];
    headings.extend(Parts::NAMES.map(str::to_owned));
    let rows = tails.iter().map(|(name, tail)| {
        let mut row = vec![
            (*name).to_owned(),
            format::count(tail.requests),
            tail.ttft_s.map_or_else(|| "–".to_owned(), format::seconds),
        ];
        row.extend(tail.parts.map(|parts| parts.values()).unwrap_or_default().map(format::seconds));
        row
    });
    Ok(Figure {
        note: "Means over the requests between the 98.5th and the 99.5th percentile of each run; the parts add up to their time to first token."
            .to_owned(),
        svg: plot.draw()?,
        legend: Parts::NAMES.iter().enumerate().map(|(part, name)| (colour::series_class(part), (*name).to_owned())).collect(),
        table: FigureTable { headings, rows: rows.collect() },
        title,
        small: false,
    })
}

/// Horizontal bars, the first on top.
fn bars(name: String, names: Vec<&str>, x: Scale, marks: Vec<Mark>) -> Plot {
    let height = 110 + 62 * names.len() as u32;
    let longest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    let names = names.iter().map(|name| shorten(name)).collect();
    Plot {
        name,
        size: (1880, height),
        x,
        y: Scale::names(names).downwards(),
        x_label: String::new(),
        y_label: String::new(),
        left: (40 + 15 * longest.min(28) as u32).max(120),
        grid: (true, false),
        marks,
    }
}

/// A name that fits beside its bar.
fn shorten(name: &str) -> String {
    if name.chars().count() <= 28 { name.to_owned() } else { name.chars().take(27).collect::<String>() + "…" }
}
