//! A metric along an axis of a sweep, a line a policy.

use super::plot::{Mark, Plot, SMALL, WIDE};
use super::scale::Scale;
use super::{Figure, FigureTable, colour};
use crate::ReportError;
use crate::compare::PointComparison;
use crate::format;
use crate::metric::{Metric, Unit};

/// `metric` along `axis`, over the points that agree on all other axes. Saturated runs have a dot and no line.
pub(crate) fn sweep_lines(
    metric: Metric,
    axis: &str,
    points: &[&PointComparison],
    policies: &[String],
    title: &str,
    small: bool,
) -> Result<Figure, ReportError> {
    let place = |point: &PointComparison| {
        point.point.iter().find(|(name, _)| name == axis).map_or_else(String::new, |(_, value)| value.clone())
    };
    let places: Vec<String> = points.iter().map(|point| place(point)).collect();
    let numbers: Vec<Option<f64>> = places.iter().map(|text| text.parse::<f64>().ok()).collect();
    // Numbers keep their distances, if they go up; anything else gets equal ones.
    let numeric =
        numbers.iter().all(Option::is_some) && numbers.windows(2).all(|pair| pair[0] < pair[1]) && numbers.len() > 2;
    let at = |index: usize| if numeric { numbers[index].unwrap_or(0.0) } else { index as f64 };
    let value = |policy: &str, index: usize| {
        let row = points[index].policies.iter().find(|row| row.policy == policy)?;
        Some((row.value(metric)?, row.is_saturated()))
    };
    let all = || policies.iter().flat_map(|policy| (0..points.len()).filter_map(|index| value(policy, index)));
    let high = all().map(|(value, _)| value).fold(0.0, f64::max);
    let write: fn(f64) -> String = match metric.unit() {
        Unit::Seconds => format::axis_seconds,
        Unit::Share => |x| format!("{:.0} %", x * 100.0),
        _ => format::axis,
    };
    let mut marks = Vec::new();
    for (series, policy) in policies.iter().enumerate() {
        let found: Vec<(f64, f64, bool)> = (0..points.len())
            .filter_map(|index| value(policy, index).map(|(value, saturated)| (at(index), value, saturated)))
            .collect();
        for part in found.split(|(_, _, saturated)| *saturated).filter(|part| part.len() > 1) {
            let points = part.iter().map(|(x, y, _)| (*x, *y)).collect();
            marks.push(Mark::Line { colour: colour::series(series), width: 4, points });
        }
        marks.push(Mark::Dots {
            colour: colour::series(series),
            points: found.iter().map(|(x, y, _)| (*x, *y)).collect(),
        });
    }
    let (first, last) = (at(0), at(points.len().saturating_sub(1)));
    let x = match numeric {
        true if first > 0.0 && last / first >= 8.0 => Scale::log(first, last, format::axis),
        true => Scale::linear(first, last, 6, false, format::axis),
        false => Scale::names(places.clone()),
    };
    let low = all().map(|(value, _)| value).filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
    let y = match metric.unit() {
        Unit::Seconds if low.is_finite() && high / low > 20.0 => Scale::log(low * 0.8, high * 1.25, write),
        _ => Scale::linear(0.0, high, 5, true, write),
    };
    let plot = Plot {
        name: title.to_owned(),
        size: if small { SMALL } else { WIDE },
        x,
        y,
        x_label: axis.to_owned(),
        y_label: format::capital(metric.title()),
        left: 120,
        grid: (false, true),
        marks,
    };
    let headings = std::iter::once(axis.to_owned()).chain(policies.iter().cloned()).collect();
    let rows = places.iter().enumerate().map(|(index, place)| {
        let cells = policies.iter().map(|policy| match value(policy, index) {
            Some((value, true)) => format!("{} (saturated)", format::value(metric, value)),
            Some((value, false)) => format::value(metric, value),
            None => "–".to_owned(),
        });
        std::iter::once(place.clone()).chain(cells).collect()
    });
    Ok(Figure {
        title: title.to_owned(),
        note: if all().any(|(_, saturated)| saturated) {
            "Dots without a line: saturated.".to_owned()
        } else {
            String::new()
        },
        svg: plot.draw()?,
        legend: policies
            .iter()
            .enumerate()
            .map(|(index, name)| {
                let bound = points.iter().flat_map(|point| &point.policies).any(|row| row.policy == *name && row.bound);
                (colour::series_class(index), if bound { format!("{name} (bound)") } else { name.clone() })
            })
            .collect(),
        table: FigureTable { headings, rows: rows.collect() },
        small,
    })
}
