//! Do rare adapters wait longer?

use super::cdf::legend;
use super::plot::{Mark, Plot, SMALL};
use super::scale::Scale;
use super::{Figure, FigureTable, colour};
use crate::ReportError;
use crate::compare::PolicyRuns;
use crate::format;
use crate::metrics::PopularityClass;
use crate::pooled::Pooled;

/// Time to first token by the popularity of the adapter.
pub(crate) fn popularity(
    title: &str,
    of: fn(&PopularityClass) -> Option<f64>,
    policies: &[PolicyRuns<'_>],
    pooled: &[&Pooled],
) -> Result<Figure, ReportError> {
    let longest = pooled.iter().max_by_key(|policy| policy.by_popularity.len());
    let classes: Vec<String> =
        longest.map(|policy| policy.by_popularity.iter().map(class_name).collect()).unwrap_or_default();
    let values = || pooled.iter().flat_map(|policy| &policy.by_popularity).filter_map(of);
    let (low, high) = values().fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    if classes.len() < 2 || high == 0.0 {
        return Ok(Figure {
            title: title.to_owned(),
            note: "Nothing to draw: fewer than two adapters were asked for.".to_owned(),
            ..Figure::default()
        });
    }
    let mut marks = Vec::new();
    for (index, policy) in pooled.iter().enumerate() {
        let points: Vec<(f64, f64)> =
            policy.by_popularity.iter().enumerate().filter_map(|(i, class)| Some((i as f64, of(class)?))).collect();
        marks.push(Mark::Line { colour: colour::series(index), width: 4, points: points.clone() });
        marks.push(Mark::Dots { colour: colour::series(index), points });
    }
    let plot = Plot {
        name: title.to_owned(),
        size: SMALL,
        x: Scale::names(classes.clone()),
        y: Scale::log(low * 0.8, high * 1.25, format::axis_seconds),
        x_label: "adapters by rank of popularity".to_owned(),
        y_label: title.to_owned(),
        left: 120,
        grid: (false, true),
        marks,
    };
    let mut headings = vec!["adapters by rank".to_owned(), "requests".to_owned()];
    headings.extend(pooled.iter().map(|policy| policy.policy.clone()));
    let rows = classes.iter().enumerate().map(|(i, class)| {
        let requests = pooled.first().and_then(|policy| policy.by_popularity.get(i)).map_or(0, |class| class.requests);
        let cells = pooled.iter().map(|policy| {
            let class = policy.by_popularity.get(i);
            let time = class.and_then(of).map_or_else(|| "–".to_owned(), format::seconds);
            match class.and_then(|class| class.hit_rate) {
                Some(rate) => format!("{time}, {} hits", format::share(rate)),
                None => time,
            }
        });
        [class.clone(), format::count(requests)].into_iter().chain(cells).collect()
    });
    Ok(Figure {
        title: title.to_owned(),
        note: String::new(),
        svg: plot.draw()?,
        legend: legend(policies),
        table: FigureTable { headings, rows: rows.collect() },
        small: true,
    })
}

fn class_name(class: &PopularityClass) -> String {
    if class.first == class.last { class.first.to_string() } else { format!("{}–{}", class.first, class.last) }
}
