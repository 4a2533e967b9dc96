//! One page that stands alone: nothing is loaded from elsewhere, and no script runs.

mod expectations;
mod figures;
mod groups;
mod latency;
mod opening;
mod runs;
pub(crate) mod style;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::compare::{PolicyRuns, by_point};
use crate::figure::{Figure, FigureTable};
use crate::input::{Provenance, ReportInput};
use crate::pooled::Pooled;
use crate::summary::Summary;
use crate::terminal::point_name;
use crate::{ReportError, format};

/// A point of the sweep with all that is shown of it.
pub(crate) struct Point<'a> {
    pub(crate) name: String,
    pub(crate) policies: Vec<PolicyRuns<'a>>,
    pub(crate) pooled: Vec<&'a Pooled>,
    pub(crate) comparison: &'a crate::compare::PointComparison,
}

/// More points than this are shown in tables and lines only: a page has to stay one that opens.
const POINTS_IN_FULL: usize = 12;

/// The page.
pub(crate) fn report(input: &ReportInput, summary: &Summary) -> Result<String, ReportError> {
    let points: Vec<Point<'_>> = by_point(input)
        .into_iter()
        .zip(&summary.comparison.points)
        .map(|((point, policies), comparison)| Point {
            name: point_name(point),
            pooled: summary.policies.iter().filter(|pooled| pooled.point == point).collect(),
            policies,
            comparison,
        })
        .collect();
    let body = html! {
        (opening::opening(input, summary, &points)?)
        @if !input.expectations.is_empty() { (expectations::expectations(&input.expectations)) }
        @if let [point] = points.as_slice() {
            (sections(input, point, true)?)
        } @else {
            section {
                h2 id="points" { "Each point of the sweep" }
                @for point in points.iter().take(POINTS_IN_FULL) {
                    details.point {
                        summary { h3 { (point.name) } p { (point.comparison.verdict.sentence) } }
                        (sections(input, point, false)?)
                    }
                }
                @if points.len() > POINTS_IN_FULL {
                    p.note { (points.len() - POINTS_IN_FULL) " further points are in " a href="summary.json" { "summary.json" } " and in the folders of their runs." }
                }
            }
        }
        (runs::runs(input))
        (definitions())
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (input.name) " · aril report" }
                style { (PreEscaped(style::style())) }
            }
            body { main { (body) } footer { "aril · " (input.trust.build) } }
        }
    };
    Ok(page.into_string())
}

/// Everything below the first screen, of one point.
fn sections(input: &ReportInput, point: &Point<'_>, is_only: bool) -> Result<Markup, ReportError> {
    Ok(html! {
        (latency::latencies(point))
        (figures::latencies(input, point, is_only)?)
        (figures::tail(input, point)?)
        (figures::batches(input, point)?)
        (figures::over_time(input, point)?)
        (groups::adapters(point))
        (figures::popularity(input, point)?)
        (groups::fairness(point))
        (groups::tenants(point))
        (latency::resources(point))
    })
}

/// A figure with its legend, where its costs come from, and its table.
pub(crate) fn figure(figure: &Figure, input: &ReportInput) -> Markup {
    html! {
        figure.small[figure.small] {
            figcaption { b { (figure.title) } " " (costs(input)) @if !figure.note.is_empty() { span.note { " " (figure.note) } } }
            (key(&figure.legend))
            @if !figure.svg.is_empty() { div.plot { (PreEscaped(&figure.svg)) } }
            (figure_table(&figure.table))
        }
    }
}

/// Which kinds of costs a figure rests on, told apart by more than colour.
fn costs(input: &ReportInput) -> Markup {
    let kinds = [Provenance::Measured, Provenance::Published, Provenance::Derived];
    let used = kinds.iter().filter(|kind| input.trust.profiles.iter().any(|profile| profile.kind == **kind));
    html! { @for kind in used { span class={ "kind " (kind.name()) } { (kind.name()) " costs" } " " } }
}

/// A legend.
pub(crate) fn key(legend: &[(String, String)]) -> Markup {
    html! {
        @if !legend.is_empty() {
            ul.key { @for (class, name) in legend { li { i class=(class) {} (name) } } }
        }
    }
}

/// The numbers behind a figure, folded away.
fn figure_table(table: &FigureTable) -> Markup {
    html! {
        @if !table.rows.is_empty() {
            details.data { summary { "as a table" } (plain_table(&table.headings, &table.rows)) }
        }
    }
}

/// A table of texts whose first column is a heading.
pub(crate) fn plain_table(headings: &[String], rows: &[Vec<String>]) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { @for heading in headings { th scope="col" { (heading) } } } }
                tbody {
                    @for row in rows {
                        tr { @for (index, cell) in row.iter().enumerate() { @if index == 0 { th scope="row" { (cell) } } @else { td { (cell) } } } }
                    }
                }
            }
        }
    }
}

/// A duration that may not exist.
pub(crate) fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), format::seconds)
}

/// A share that may not exist.
pub(crate) fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), format::share)
}

/// A policy's name with what must be known of it.
pub(crate) fn policy_name(name: &str, bound: bool, saturated: bool) -> Markup {
    html! {
        (name)
        @if bound { " " span.tag.bound title="Knows what no policy can know: a limit, not a choice." { "bound" } }
        @if saturated { " " span.tag.saturated title="Did not keep up with what was offered: not ranked." { "saturated" } }
    }
}

/// What the words mean.
fn definitions() -> Markup {
    let rows = [
        (
            "Measured requests",
            "those that arrive inside the window: after the warm-up, before the drain. In a closed loop, all of them.",
        ),
        (
            "TTFT",
            "time to first token: from arrival to the end of the step that finishes the prefill. Over all measured requests that got one.",
        ),
        (
            "TPOT",
            "time per output token: (end to end − TTFT) / (output tokens − 1), one value a finished request of two tokens or more.",
        ),
        ("ITL", "inter-token latency: every gap between consecutive tokens of a measured request, pooled."),
        ("E2E", "end to end: from arrival to the last token, of finished requests."),
        (
            "Good",
            "finished within the TTFT and TPOT limits of the tenant's class. Without limits, every finished request is good.",
        ),
        ("Attainment", "good of all measured requests: rejected, timed out and unfinished ones count as not good."),
        ("Goodput", "good measured requests per second of the window."),
        ("Throughput", "requests that finished inside the window, and their tokens, per second."),
        ("Cost", "GPU time held inside the window, over the output tokens of requests that finished inside it."),
        (
            "Percentiles",
            "nearest-rank: values that were observed. Those of token gaps come from a histogram with buckets of 0.05 % (0.2 % by tenant and adapter, and where a warm-up or a drain does not count).",
        ),
        (
            "Intervals",
            "95 %, Student's t, on differences paired by seed: policies see the same requests. With one seed, on 20 blocks of time taken as independent.",
        ),
        (
            "Tie",
            "the 95 % interval of the difference lies within ±1 % of the baseline's value (±0.5 percentage points of a share): if there is a difference, it is too small to matter.",
        ),
        ("?", "cannot tell: the interval holds zero, and more than a tie. More seeds would narrow it."),
        (
            "Saturated",
            "in an open loop: fewer than 98 % of the measured requests finished, or the number of waiting requests grew over the last half of the window (slope above zero at 95 %, and by more than 0.5 % of what was offered meanwhile). Its averages depend on how long the run was, so it is not ranked.",
        ),
        ("Hit", "the adapter was ready on the GPU when the request reached its replica."),
        (
            "Fairness",
            "Jain's index over tenants: 1 if all have the same, 1/n if one has everything. Of service: output tokens received over weight; of attainment: attainment.",
        ),
        ("Bound", "a policy that was told what no policy can know. It shows what is left to gain."),
    ];
    html! {
        section {
            details.definitions {
                summary { h2 id="definitions" { "What the words mean" } }
                dl { @for (word, meaning) in rows { dt { (word) } dd { (meaning) } } }
            }
        }
    }
}
