//! The first screen: verdict, trust, one table, one figure.

use maud::{Markup, html};

use super::{Point, figure, policy_name};
use crate::ReportError;
use crate::compare::{Basis, Cell, Difference, PointComparison, PolicyRow, PolicyRuns};
use crate::figure::{cdf, primary_bars, sweep_lines};
use crate::format;
use crate::input::{ProfileNote, Provenance, ReportInput};
use crate::metric::{Metric, Unit};
use crate::summary::Summary;
use crate::terminal::{leading, point_name};

pub(super) fn opening(input: &ReportInput, summary: &Summary, points: &[Point<'_>]) -> Result<Markup, ReportError> {
    let comparison = &summary.comparison;
    Ok(html! {
        header {
            h1 { (input.name) }
            @if !input.description.is_empty() { p.question { (input.description) } }
            p.verdict { (comparison.verdict.sentence) }
        }
        (trust(input, points))
        @for note in &comparison.notes { p.warning { (note) } }
        @if let [point] = points {
            (lead_table(input, point))
        } @else {
            (sweep_table(input, points))
        }
        (lead_figure(input, points)?)
    })
}

/// What to know before believing a number.
fn trust(input: &ReportInput, points: &[Point<'_>]) -> Markup {
    let trust = &input.trust;
    let outside = trust.coverage.outside_total();
    let of_all = if trust.coverage.lookups > 0 { outside as f64 / trust.coverage.lookups as f64 } else { 0.0 };
    let runs: Vec<&PolicyRuns<'_>> = points.iter().flat_map(|point| &point.policies).collect();
    let saturated = runs.iter().filter(|policy| policy.is_saturated()).count();
    let measured: u64 = runs.iter().flat_map(|policy| &policy.runs).map(|(_, run)| run.metrics.measured.offered).sum();
    html! {
        div.trust {
            @for (kind, source, names) in profiles(&trust.profiles) {
                div title=(names.join(", ")) {
                    b { "costs" }
                    span class={ "kind " (kind.name()) } { (kind.name()) } " " (few(&names)) " " span.note { (source) }
                }
            }
            div.warn[outside > 0] {
                b { "look-ups out of range" }
                @if outside == 0 { "none of " } @else { (format::share(of_all)) " of " } (format::count(trust.coverage.lookups))
                @for (what, count) in trust.coverage.outside.iter().filter(|(_, count)| *count > 0) { " " span.note { (what) ": " (format::count(*count)) } }
            }
            div { b { "seeds" } (seeds(&trust.seeds)) @if trust.seeds.len() == 1 { " " span.note { "intervals from blocks of time" } } }
            div { b { "what counts" } (trust.warmup) " " span.note { (format::count(measured)) " measured requests in all runs" } }
            @if saturated > 0 { div.warn { b { "saturated" } (saturated) " of " (runs.len()) " policies, not ranked" } }
            @if !trust.not_modelled.is_empty() { div.wide { b { "not modelled" } (trust.not_modelled.join(" · ")) } }
        }
    }
}

/// Profiles of the same kind and source together: names in order of first appearance.
fn profiles(profiles: &[ProfileNote]) -> Vec<(Provenance, &str, Vec<&str>)> {
    let mut groups: Vec<(Provenance, &str, Vec<&str>)> = Vec::new();
    for profile in profiles {
        match groups.iter_mut().find(|(kind, source, _)| (*kind, *source) == (profile.kind, profile.source.as_str())) {
            Some((_, _, names)) => names.push(&profile.name),
            None => groups.push((profile.kind, &profile.source, vec![&profile.name])),
        }
    }
    groups
}

/// The first names of a long list.
fn few(names: &[&str]) -> String {
    match names {
        [a, b, rest @ ..] if rest.len() > 1 => format!("{a}, {b} and {} more", rest.len()),
        _ => format::list(names),
    }
}

fn seeds(seeds: &[u64]) -> String {
    match seeds {
        [] => "none".to_owned(),
        [only] => format!("one ({only})"),
        [first, .., last] if seeds.windows(2).all(|pair| pair[0].checked_add(1) == Some(pair[1])) => {
            format!("{} ({first} to {last})", seeds.len())
        }
        _ if seeds.len() <= 6 => {
            format!("{} ({})", seeds.len(), seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
        }
        [first, .., last] => format!("{} ({first}, …, {last})", seeds.len()),
    }
}

/// Policies × the metrics that are asked for first, as paired differences.
pub(super) fn lead_table(input: &ReportInput, point: &Point<'_>) -> Markup {
    let comparison = point.comparison;
    let metrics = leading(input.primary, std::slice::from_ref(comparison));
    html! {
        div.scroll {
            table.lead {
                thead { tr {
                    th scope="col" { "policy" }
                    @for metric in &metrics { th.primary[*metric == input.primary] scope="col" { (heading(*metric)) } }
                } }
                tbody {
                    @for (row, policy) in comparison.policies.iter().zip(&point.policies) {
                        tr.off[row.bound || row.is_saturated()] {
                            th scope="row" {
                                (policy_name(&row.policy, row.bound, row.is_saturated()))
                                span.against { (role(row, comparison)) }
                            }
                            @for metric in &metrics {
                                td.primary[*metric == input.primary] { @if let Some(cell) = row.cell(*metric) { (lead_cell(cell, row, policy)) } }
                            }
                        }
                    }
                }
            }
        }
        p.note { (basis(comparison)) }
    }
}

fn heading(metric: Metric) -> String {
    match metric {
        Metric::Goodput => "goodput, good requests".to_owned(),
        Metric::Attainment => "attainment, of all offered".to_owned(),
        _ => metric.title().to_owned(),
    }
}

fn role(row: &PolicyRow, comparison: &PointComparison) -> String {
    if row.policy == comparison.baseline {
        return "baseline".to_owned();
    }
    row.saturated_reason.clone().filter(|_| row.is_saturated()).unwrap_or_default()
}

/// A value, linked to its manifest, and the paired difference below.
fn lead_cell(cell: &Cell, row: &PolicyRow, policy: &PolicyRuns<'_>) -> Markup {
    let Some(value) = cell.value else { return html! { "–" } };
    html! {
        (manifest_link(&format::value(cell.metric, value), policy))
        @if let Some(difference) = cell.difference.as_ref().filter(|_| !row.is_saturated()) { (against(cell.metric, difference)) }
    }
}

/// A number that leads to the manifest of its run, or to the list of its runs.
fn manifest_link(text: &str, policy: &PolicyRuns<'_>) -> Markup {
    match policy.runs.as_slice() {
        [(info, _)] => html! { a href={ (info.folder()) "/manifest.toml" } { (text) } },
        [(info, _), ..] => html! { a href={ "#" (super::runs::anchor(info)) } { (text) } },
        [] => html! { (text) },
    }
}

/// A paired difference in small print: ties look tied.
fn against(metric: Metric, difference: &Difference) -> Markup {
    let class = match difference.is_better(metric) {
        Some(true) => "against better",
        Some(false) => "against worse",
        None => "against",
    };
    // Shares differ in percentage points; anything else by a part of the baseline.
    let scale = difference
        .relative
        .filter(|_| difference.mean != 0.0 && metric.unit() != Unit::Share)
        .map(|relative| relative / difference.mean);
    let text = match difference.interval {
        None if difference.mean == 0.0 => "the same".to_owned(),
        Some(interval) if difference.mean == 0.0 && interval.low == interval.high => "the same".to_owned(),
        None => format!(
            "{}, no interval",
            scale.map_or_else(
                || format::signed(metric, difference.mean),
                |s| format::signed_percent(difference.mean * s)
            )
        ),
        Some(interval) => {
            let text = format::plus_minus(metric, difference.mean, (interval.high - interval.low) / 2.0, scale);
            if difference.is_tie() { format!("tie: {text}") } else { text }
        }
    };
    html! { span class=(class) { (text) } }
}

/// What the intervals of a table rest on.
fn basis(comparison: &PointComparison) -> String {
    let differences = comparison.policies.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.difference.as_ref());
    let interval = differences
        .clone()
        .find_map(|difference| difference.interval.map(|interval| (difference.basis, interval.samples)));
    match interval {
        Some((Basis::Seeds, n)) => format!(
            "Below each value, the difference to {} with the half width of its 95 % interval, paired over {n} seeds on the same requests. A tie cannot be told from zero.",
            comparison.baseline
        ),
        Some((_, n)) => format!(
            "Below each value, the difference to {} on the same requests with the half width of its 95 % interval, from {n} blocks of time of the only seed, taken as independent: more seeds would be better.",
            comparison.baseline
        ),
        None => "No intervals: one seed, and too little time for blocks, or nothing to compare with.".to_owned(),
    }
}

/// One row a point: the metric that decides, a column a policy.
fn sweep_table(input: &ReportInput, points: &[Point<'_>]) -> Markup {
    let policies = policy_names(points);
    html! {
        div.scroll {
            table.lead {
                thead { tr { th scope="col" { "point" } @for policy in &policies { th scope="col" { (policy_name(policy, is_bound(points, policy), false)) } } th.text scope="col" { "verdict" } } }
                tbody {
                    @for point in points {
                        tr {
                            th.point scope="row" { @for (axis, value) in &point.comparison.point { span.against { (axis) } (value) } }
                            @for name in &policies {
                                td {
                                    @let row = point.comparison.policies.iter().zip(&point.policies).find(|(row, _)| row.policy == *name);
                                    @if let Some((row, policy)) = row {
                                        @if let Some(cell) = row.cell(input.primary) { (lead_cell(cell, row, policy)) }
                                        @if row.is_saturated() { span.against { "saturated" } }
                                    } @else { "–" }
                                }
                            }
                            td.text { (short(&point.comparison.verdict)) }
                        }
                    }
                }
            }
        }
        p.note { (format::capital(input.primary.title())) " at each point, with paired differences to the best policy there" @if let Some(baseline) = &input.baseline { " or to " (baseline) } "; the other metrics are below." }
    }
}

fn short(verdict: &crate::compare::Verdict) -> String {
    use crate::compare::VerdictKind;
    match (verdict.kind, &verdict.winner) {
        (VerdictKind::Better, Some(winner)) => format!("{winner} is best"),
        (VerdictKind::CannotTell, _) => "cannot tell".to_owned(),
        (VerdictKind::Saturated, _) => "all saturated".to_owned(),
        _ => "nothing to compare".to_owned(),
    }
}

fn is_bound(points: &[Point<'_>], policy: &str) -> bool {
    points.iter().flat_map(|point| &point.comparison.policies).any(|row| row.policy == policy && row.bound)
}

/// Policies in order of first appearance.
pub(super) fn policy_names(points: &[Point<'_>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in points.iter().flat_map(|point| &point.comparison.policies) {
        if !names.contains(&row.policy) {
            names.push(row.policy.clone());
        }
    }
    names
}

/// The points that agree on all axes but one, and what they agree on.
type Chart<'a> = (Vec<(String, String)>, Vec<&'a PointComparison>);

/// The one figure of the first screen: the sweep's lines, the distribution of first tokens, or bars of what decides in a closed loop.
fn lead_figure(input: &ReportInput, points: &[Point<'_>]) -> Result<Markup, ReportError> {
    if let [point] = points {
        let closed =
            point.policies.iter().flat_map(|policy| &policy.runs).all(|(_, run)| run.metrics.saturation.is_none());
        let drawn = if closed {
            primary_bars(input.primary, &point.policies)?
        } else {
            cdf(
                "Time to first token",
                &point.policies,
                |d| &d.ttft,
                &super::figures::limits(point, |class| class.ttft),
                false,
            )?
        };
        return Ok(figure(&drawn, input));
    }
    let policies = policy_names(points);
    let axes: Vec<&str> = points
        .first()
        .map(|point| point.comparison.point.iter().map(|(axis, _)| axis.as_str()).collect())
        .unwrap_or_default();
    // The axis with the most values goes along x; each combination of the others gets a chart.
    let values = |axis: &str| {
        let mut seen: Vec<&str> = points
            .iter()
            .flat_map(|p| &p.comparison.point)
            .filter(|(name, _)| name == axis)
            .map(|(_, value)| value.as_str())
            .collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len()
    };
    let Some(along) = axes.iter().copied().max_by_key(|axis| values(axis)) else { return Ok(html! {}) };
    let rest = |comparison: &PointComparison| {
        comparison.point.iter().filter(|(axis, _)| axis != along).cloned().collect::<Vec<_>>()
    };
    let mut charts: Vec<Chart<'_>> = Vec::new();
    for point in points {
        let key = rest(point.comparison);
        match charts.iter_mut().find(|(other, _)| *other == key) {
            Some((_, members)) => members.push(point.comparison),
            None => charts.push((key, vec![point.comparison])),
        }
    }
    let metrics =
        if input.primary == Metric::TtftP99 { vec![input.primary] } else { vec![input.primary, Metric::TtftP99] };
    let small = charts.len() * metrics.len() > 1;
    let mut drawn = Vec::new();
    for metric in metrics {
        for (key, members) in &charts {
            let title = if key.is_empty() {
                format::capital(metric.title())
            } else {
                format!("{}, {}", format::capital(metric.title()), point_name(key))
            };
            drawn.push(sweep_lines(metric, along, members, &policies, &title, small)?);
        }
    }
    Ok(html! { div.grid[small] { @for drawn in &drawn { (figure(drawn, input)) } } })
}
