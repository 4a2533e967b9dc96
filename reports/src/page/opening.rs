//! The first screen: verdict, trust, one table, one figure.

use maud::{Markup, html};

use super::{Point, figure, policy_name};
use crate::ReportError;
use crate::compare::{Basis, Cell, Difference, PointComparison, PolicyRow, PolicyRuns, Standing};
use crate::figure::{cdf, primary_bars, sweep_lines};
use crate::format;
use crate::input::{ProfileNote, Provenance, ReportInput};
use crate::metric::{Metric, Unit};
use crate::summary::Summary;
use crate::terminal::{ONE_SEED, leading, point_name};

pub(super) fn opening(input: &ReportInput, summary: &Summary, points: &[Point<'_>]) -> Result<Markup, ReportError> {
    let comparison = &summary.comparison;
    Ok(html! {
        header {
            h1 { (input.name) }
            @if !input.description.is_empty() { p.question { (input.description) } }
            @let (verdict, evidence) = comparison.verdict.in_two();
            p.verdict { (verdict) @if !evidence.is_empty() { ": " span.evidence { (evidence) } } }
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
    let outside = trust.coverage.outside_least();
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
                @if outside == 0 { "none of " } @else { (format::share(of_all)) @if trust.coverage.outside.len() > 1 { " or more" } " of " } (format::count(trust.coverage.lookups))
                @for (what, count) in trust.coverage.outside.iter().filter(|(_, count)| *count > 0) { " " span.note { (what) ": " (format::count(*count)) } }
            }
            div { b { "seeds" } (seeds(&trust.seeds)) @if trust.seeds.len() == 1 { " " span.note { "intervals are " (ONE_SEED) } } }
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
        p.note { (basis(comparison, false)) }
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
    let class = match difference.standing {
        Standing::Better => "against better",
        Standing::Worse => "against worse",
        Standing::Tie | Standing::CannotTell => "against",
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
            let text = format::with_interval(metric, difference.mean, interval, scale);
            match difference.standing {
                Standing::Tie => format!("tie: {text}"),
                Standing::CannotTell => format!("{text}?"),
                Standing::Better | Standing::Worse => text,
            }
        }
    };
    html! { span class=(class) { (text) } }
}

/// What the intervals of a table rest on. `best_of_each`: each point of a sweep has a baseline of its own.
fn basis(comparison: &PointComparison, best_of_each: bool) -> String {
    let differences = comparison.policies.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.difference.as_ref());
    let interval = differences
        .clone()
        .find_map(|difference| difference.interval.map(|interval| (difference.basis, interval.samples)));
    let Some((basis, n)) = interval else {
        return "No intervals: one seed, and too little time for blocks, or nothing to compare with.".to_owned();
    };
    let baseline = if best_of_each { "the best policy there" } else { &comparison.baseline };
    let rests_on = match basis {
        Basis::Seeds => format!("paired over {n} seeds on the same requests"),
        _ => format!("from {n} blocks of time of the only seed, taken as independent: more seeds would be better"),
    };
    format!(
        "Below each value, the difference to {baseline} with the half width of its 95 % interval, {rests_on}. A tie is under 1 % \
         (0.5 points of a share). A question mark: too uncertain to tell from zero; more seeds would tell."
    )
}

/// More rows than this would hide what the sweep is about: then each point shows who is among the best there.
const SWEEP_ROWS_MAX: usize = 60;

/// The points one below the other, each with its policies × the metrics that are asked for first.
fn sweep_table(input: &ReportInput, points: &[Point<'_>]) -> Markup {
    let comparisons: Vec<PointComparison> = points.iter().map(|point| point.comparison.clone()).collect();
    let metrics = leading(input.primary, &comparisons);
    let rows: usize = points.iter().map(|point| point.policies.len()).sum();
    let in_full = rows <= SWEEP_ROWS_MAX;
    html! {
        div.scroll.tall tabindex="0" {
            table.lead.sweep {
                thead { tr {
                    th scope="col" { "point" }
                    th.text scope="col" { "policy" }
                    @for metric in &metrics { th.primary[*metric == input.primary] scope="col" { (heading(*metric)) } }
                } }
                @for point in points {
                    @let shown: Vec<_> = point.comparison.policies.iter().zip(&point.policies).filter(|(row, _)| in_full || is_leader(row, point.comparison)).collect();
                    tbody {
                        @for (position, (row, policy)) in shown.iter().enumerate() {
                            tr.off[row.bound || row.is_saturated()] {
                                @if position == 0 {
                                    th.point scope="rowgroup" rowspan=(shown.len()) {
                                        @for (axis, value) in &point.comparison.point { span.value title=(axis) { span.note { (short_axis(axis)) " = " } (value) } }
                                        span.said { (short(&point.comparison.verdict)) }
                                    }
                                }
                                td.text { (policy_name(&row.policy, row.bound, row.is_saturated())) @if row.policy == point.comparison.baseline { span.against { "baseline" } } }
                                @for metric in &metrics {
                                    td.primary[*metric == input.primary] { @if let Some(cell) = row.cell(*metric) { (lead_cell(cell, row, policy)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
        @if !in_full { p.note { "At each point, those that are among the best on " (input.primary.title()) " and the baseline; all " (rows) " rows are in " a href="summary.json" { "summary.json" } "." }
        }
        @if let Some(point) = points.first() { p.note { (basis(point.comparison, input.baseline.is_none())) } }
    }
}

/// Is the policy among the best at its point, or what the others are held against?
fn is_leader(row: &PolicyRow, comparison: &PointComparison) -> bool {
    row.policy == comparison.baseline || comparison.verdict.leaders.contains(&row.policy)
}

/// The last key of a path, unless it says nothing by itself.
fn short_axis(axis: &str) -> &str {
    match axis.rsplit_once('.') {
        Some((_, last)) if last != "name" => last,
        _ => axis,
    }
}

fn short(verdict: &crate::compare::Verdict) -> String {
    use crate::compare::VerdictKind;
    let is_tie = |difference: &Difference| difference.standing == Standing::Tie;
    let tie = verdict.leaders.len() == 2 && verdict.difference.as_ref().is_some_and(is_tie);
    match (verdict.kind, &verdict.winner) {
        (VerdictKind::CannotTell, _) if tie => "a tie".to_owned(),
        (VerdictKind::Better, Some(winner)) => format!("{winner} is best"),
        (VerdictKind::CannotTell, _) => "cannot tell".to_owned(),
        (VerdictKind::Saturated, _) => "all saturated".to_owned(),
        _ => "nothing to compare".to_owned(),
    }
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
