//! How many requests took no longer than so long?

use super::plot::{Mark, Plot, SMALL, WIDE, ends};
use super::scale::Scale;
use super::{Figure, FigureTable, colour};
use crate::ReportError;
use crate::compare::PolicyRuns;
use crate::distribution::Distribution;
use crate::format;
use crate::metrics::Distributions;
use crate::pooled::Pooled;

/// Points of a line: enough that no step is visible.
const POINTS: u32 = 240;
const QUANTILES: [f64; 9] = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999];

/// The cumulative distribution of a duration, a line a policy; `limits` are drawn as vertical rules with their names.
pub(crate) fn cdf(
    title: &str,
    policies: &[PolicyRuns<'_>],
    what: fn(&Distributions) -> &Distribution,
    limits: &[(String, f64)],
    small: bool,
) -> Result<Figure, ReportError> {
    let distributions: Vec<Distribution> = policies.iter().map(|policy| Pooled::distribution(policy, what)).collect();
    let seconds = |distribution: &Distribution, q: f64| distribution.quantile(q).map(|ps| ps as f64 / 1e12);
    let low = distributions.iter().filter_map(|d| seconds(d, 0.002)).fold(f64::INFINITY, f64::min);
    let high = distributions.iter().filter_map(|d| seconds(d, 0.999)).fold(0.0, f64::max);
    if high == 0.0 {
        return Ok(Figure {
            title: title.to_owned(),
            note: "Nothing to draw: no request came that far.".to_owned(),
            ..Figure::default()
        });
    }
    // A picosecond is nothing to look at; times of zero sit at the left end of a logarithmic axis.
    let x = Scale::log(low.max(high / 1e6) * 0.9, high * 1.1, format::axis_seconds);
    let y = Scale::linear(0.0, 1.0, 5, true, |share| format!("{:.0} %", share * 100.0));
    let mut marks = Vec::new();
    let (left, right) = ends(&x);
    for (index, (name, limit)) in limits.iter().filter(|(_, limit)| *limit > left && *limit < right).enumerate() {
        marks.push(Mark::Line { colour: colour::RULE, width: 2, points: vec![(*limit, 0.0), (*limit, 1.0)] });
        // Names of close limits must not lie over each other, nor outside.
        let is_left = (limit / left).ln() < 0.6 * (right / left).ln();
        marks.push(Mark::Text { text: name.clone(), at: (*limit, 0.06 + 0.09 * index as f64), right: is_left });
    }
    for (index, distribution) in distributions.iter().enumerate() {
        let points: Vec<(f64, f64)> = (0..=POINTS)
            .map(|i| f64::from(i) / f64::from(POINTS))
            .filter_map(|q| seconds(distribution, q).map(|s| (s, q)))
            .collect();
        marks.push(Mark::Line { colour: colour::series(index), width: 5, points });
    }
    let plot = Plot {
        name: title.to_owned(),
        size: if small { SMALL } else { WIDE },
        x,
        y,
        x_label: String::new(),
        y_label: "requests that took no longer".to_owned(),
        left: 100,
        grid: (true, true),
        marks,
    };
    let headings =
        std::iter::once("policy".to_owned()).chain(QUANTILES.iter().map(|q| format!("p{}", format::axis(q * 100.0))));
    let rows = policies.iter().zip(&distributions).map(|(policy, distribution)| {
        let cells = QUANTILES.iter().map(|q| seconds(distribution, *q).map_or_else(|| "–".to_owned(), format::seconds));
        std::iter::once(policy.policy.to_owned()).chain(cells).collect()
    });
    Ok(Figure {
        title: title.to_owned(),
        note: String::new(),
        svg: plot.draw()?,
        legend: legend(policies),
        table: FigureTable { headings: headings.collect(), rows: rows.collect() },
        small,
    })
}

/// Policies by colour; bounds say so.
pub(super) fn legend(policies: &[PolicyRuns<'_>]) -> Vec<(String, String)> {
    let name = |policy: &PolicyRuns<'_>| {
        if policy.bound { format!("{} (bound)", policy.policy) } else { policy.policy.to_owned() }
    };
    policies.iter().enumerate().map(|(index, policy)| (colour::series_class(index), name(policy))).collect()
}
