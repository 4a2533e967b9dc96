//! One page of a regression: what moved first, what stayed last.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::chart::{Chart, Drawn, moved, short};
use super::compared::{Compared, Row, Verdict};
use super::regression::{Outcome, Regression, ScenarioOutcome};
use super::speed::{Quantity, Speed};
use crate::format;
use crate::metric::Metric;
use crate::page::style::style;

/// Charts that every scenario shows; the others are files beside the page unless something moved.
const SHOWN: [Metric; 4] = [Metric::Goodput, Metric::TtftP99, Metric::TpotP99, Metric::GpuHours];
/// Rows of a table before it is folded.
const ROWS: usize = 40;

const MORE_STYLE: &str = "
.outcome{display:inline-block;min-width:6.5em;padding:0 .5em;border-radius:4px;font-size:.78rem;font-weight:600;line-height:1.6;text-align:center;border:1.5px solid var(--line);color:var(--soft)}
.outcome.worse{background:var(--worse);border-color:var(--worse);color:var(--paper)}
.outcome.cannot-run{background:var(--ink);border-color:var(--ink);color:var(--paper)}
.outcome.changed{border-color:var(--published);color:var(--published)}
.outcome.better{border-color:var(--better);color:var(--better)}
th.text{text-align:left;padding-left:14px}td.text{padding-left:14px}
td.text.soft{color:var(--soft)}
section.scenario{border-top:1px solid var(--line);margin-top:2em}
section.scenario>h2{margin-top:1em}
table.moved td.text{min-width:14em}
";

/// The page; `charts` are by scenario, in its order, and drawn into it where something moved.
pub fn page(regression: &Regression, charts: &[Vec<Chart>]) -> String {
    let mut order: Vec<(&ScenarioOutcome, &[Chart])> =
        regression.scenarios.iter().zip(charts.iter().map(Vec::as_slice).chain(std::iter::repeat(&[][..]))).collect();
    order.sort_by_key(|(scenario, _)| std::cmp::Reverse(scenario.outcome));
    let (moved, stayed): (Vec<_>, Vec<_>) =
        order.iter().partition(|(scenario, _)| scenario.outcome != Outcome::Unchanged);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "aril regress: " (regression.outcome.name()) }
                style { (PreEscaped(style())) (PreEscaped(MORE_STYLE.replace('\n', ""))) }
            }
            body {
                main {
                    h1 { "aril regress · " (regression.folder) }
                    p.verdict { (regression.sentence()) }
                    (trust(regression))
                    (overview(&order))
                    @if let Some(speed) = &regression.speed { (speed_section(speed)) }
                    @for (scenario, charts) in moved { (section(scenario, charts)) }
                    @if !stayed.is_empty() {
                        h2 id="unchanged" { "Unchanged" }
                        p.note { "The same seeds gave the same, to the last digit. Their recorded commits:" }
                        @for (scenario, charts) in stayed {
                            details.point {
                                summary { h3 id=(anchor(scenario)) { (scenario.name()) } p { (scenario.sentence()) } }
                                (figures(scenario, charts))
                            }
                        }
                    }
                    (definitions(regression))
                }
                footer { (regression.build) " · " (regression.commit) }
            }
        }
    }
    .into_string()
}

fn trust(regression: &Regression) -> Markup {
    let rules = &regression.rules;
    html! {
        div.trust {
            div { b { "commit" } (short(&regression.commit)) }
            div { b { "build" } (regression.build) }
            div { b { "false alarms" } "at most " (format::percent(rules.alpha)) " a scenario, family-wise" }
            div {
                b { "what matters" }
                "1 %, 0.5 pp of shares"
                @for (metric, threshold) in &rules.thresholds.of { "; " (metric.title()) " " (threshold) }
            }
        }
    }
}

fn overview(order: &[(&ScenarioOutcome, &[Chart])]) -> Markup {
    html! {
        div.scroll {
            table.lead {
                thead { tr {
                    @for heading in ["scenario", "", "identical runs", "worse", "better", "cannot tell", "changes of level recorded"] {
                        th scope="col" { (heading) }
                    }
                    th.text scope="col" { "what moved most" }
                } }
                tbody { @for (scenario, charts) in order { (overview_row(scenario, charts)) } }
            }
        }
    }
}

fn overview_row(scenario: &ScenarioOutcome, charts: &[Chart]) -> Markup {
    let count = |verdict: Verdict| {
        let count = scenario.compared.as_ref().map_or(0, |compared| compared.rows_of(verdict).len());
        if count == 0 { "–".to_owned() } else { count.to_string() }
    };
    let marked: usize = charts.iter().map(|chart| chart.changes.len()).sum();
    let most = scenario.compared.as_ref().and_then(|compared| {
        compared
            .moved()
            .first()
            .map(|row| format!("{} of {} {}", row.subject.metric.title(), row.of_whom(), row.change()))
    });
    html! {
        tr {
            th scope="row" { a href={ "#" (anchor(scenario)) } { (scenario.name()) } }
            td { (outcome(scenario.outcome)) }
            td { @if let Some(compared) = &scenario.compared { (compared.runs.identical) " of " (compared.runs.common) } @else { "–" } }
            td { (count(Verdict::Worse)) }
            td { (count(Verdict::Better)) }
            td { (count(Verdict::CannotTell)) }
            td { @if marked == 0 { "–" } @else { (marked) } }
            td.text { (most.or_else(|| scenario.problem.clone()).unwrap_or_default()) }
        }
    }
}

fn outcome(outcome: Outcome) -> Markup {
    html! { span class={ "outcome " (outcome.name().replace(' ', "-")) } { (outcome.name()) } }
}

fn anchor(scenario: &ScenarioOutcome) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    format!("s-{}", scenario.name().chars().map(kept).collect::<String>())
}

fn section(scenario: &ScenarioOutcome, charts: &[Chart]) -> Markup {
    html! {
        section.scenario {
            h2 id=(anchor(scenario)) { (scenario.name()) " " (outcome(scenario.outcome)) }
            p { (scenario.sentence()) }
            @if let Some(compared) = &scenario.compared {
                (about(compared))
                (rows(compared))
            }
            (figures(scenario, charts))
        }
    }
}

/// What differs to begin with, and what no metric says.
fn about(compared: &Compared) -> Markup {
    html! {
        @for unlike in &compared.unlike { p.warning { (unlike) } }
        @for finding in &compared.findings { p.warning { (finding.verdict.name()) ": " (finding.text) } }
        @for note in &compared.notes { p.note { (note) } }
        p.note { (compared.runs.identical) " of " (compared.runs.common) " runs are the same to the last digit." }
    }
}

fn rows(compared: &Compared) -> Markup {
    let moved = compared.moved();
    let (first, rest) = moved.split_at(moved.len().min(ROWS));
    let identical = compared.rows.iter().filter(|row| row.is_identical()).count();
    html! {
        @if !first.is_empty() { (table(first)) }
        @if !rest.is_empty() { details.data { summary { (rest.len()) " further metrics that moved less" } (table(rest)) } }
        @if identical > 0 { p.note { (identical) " of " (compared.rows.len()) " comparisons are identical." } }
    }
}

fn table(rows: &[&Row]) -> Markup {
    html! {
        div.scroll {
            table.moved {
                thead { tr {
                    @for heading in ["policy", "metric", "base", "new", "change", "interval", "matters from", "p, corrected"] {
                        th scope="col" { (heading) }
                    }
                    th.text scope="col" { "verdict" }
                } }
                tbody {
                    @for row in rows {
                        @let (base, new) = row.values();
                        tr {
                            th scope="row" { (row.of_whom()) }
                            td { (row.subject.metric.title()) }
                            td { (base) }
                            td { (new) }
                            td class=(class(row.verdict)) { b { (row.change()) } }
                            td { (row.interval()) }
                            td { (row.threshold()) }
                            td { (row.p_corrected.map_or_else(|| "–".to_owned(), p_value)) }
                            td.text.soft[row.verdict == Verdict::CannotTell] class=(class(row.verdict)) { (row.said()) }
                        }
                    }
                }
            }
        }
    }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Worse => "worse",
        Verdict::Better => "better",
        Verdict::CannotTell | Verdict::Same => "",
    }
}

fn p_value(p: f64) -> String {
    if p < 1e-4 { "< 0.0001".to_owned() } else { format::number(p) }
}

/// The charts of what moved and of what is always shown, and links to the others.
fn figures(scenario: &ScenarioOutcome, charts: &[Chart]) -> Markup {
    let has_moved = |metric: Metric| {
        let rows = scenario.compared.iter().flat_map(|compared| compared.moved());
        rows.into_iter()
            .any(|row| row.subject.metric == metric && matches!(row.verdict, Verdict::Worse | Verdict::Better))
    };
    let is_moved = |chart: &Chart| matches!(chart.drawn, Drawn::Behaviour(metric) if has_moved(metric));
    let is_shown = |chart: &Chart| match chart.drawn {
        Drawn::Behaviour(metric) => SHOWN.contains(&metric),
        Drawn::Speed(quantity) => quantity == Quantity::Instructions,
    };
    let (mut moved, stayed): (Vec<&Chart>, Vec<&Chart>) =
        charts.iter().partition(|chart| !chart.changes.is_empty() || is_moved(chart));
    moved.sort_by_key(|chart| (!is_moved(chart), chart.changes.is_empty()));
    let (shown, linked): (Vec<&Chart>, Vec<&Chart>) = stayed.into_iter().partition(|chart| is_shown(chart));
    html! {
        @if !moved.is_empty() {
            div.grid { @for chart in moved { (figure(scenario, chart)) } }
        }
        @if !shown.is_empty() {
            details.data {
                summary { "Without a change of level: " @for (index, chart) in shown.iter().enumerate() { @if index > 0 { ", " } (chart.drawn.title()) } }
                div.grid { @for chart in &shown { (figure(scenario, chart)) } }
            }
        }
        @if !linked.is_empty() {
            p.note { "As files: " @for (index, chart) in linked.iter().enumerate() { @if index > 0 { ", " } a href=(file(scenario, chart)) { (chart.drawn.title()) } } "." }
        }
    }
}

fn figure(scenario: &ScenarioOutcome, chart: &Chart) -> Markup {
    let entries = &scenario.history.entries;
    html! {
        figure.small {
            figcaption {
                b { (chart.drawn.title()) } " "
                span.note {
                    "over " (chart.commits) " recorded commits, this one last"
                    @for (policy, change) in &chart.changes {
                        "; " (policy) " " (moved(chart.drawn, change)) " at " (entries.get(change.at).map(|entry| short(&entry.commit)).unwrap_or_default())
                    }
                    ". " a href=(file(scenario, chart)) { "file" }
                }
            }
            div.plot { (PreEscaped(&chart.svg)) }
        }
    }
}

/// Where the chart lies, relative to the page.
pub(crate) fn file(scenario: &ScenarioOutcome, chart: &Chart) -> String {
    let kept = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' };
    format!("plots/{}.{}.svg", scenario.name().chars().map(kept).collect::<String>(), chart.drawn.key())
}

fn speed_section(speed: &Speed) -> Markup {
    html! {
        h2 id="speed" { "Speed of the simulator" }
        p.note {
            "Against " (speed.base) ", in pairs of runs one after the other. Instructions matter from " (format::percent(speed.rules.instructions))
            ", wall time from " (format::percent(speed.rules.wall_time)) "; behaviour is judged apart."
        }
        div.scroll {
            table {
                thead { tr { @for heading in ["scenario", "what", "pairs", "base", "new", "change", "verdict"] { th scope="col" { (heading) } } } }
                tbody {
                    @for row in &speed.rows {
                        tr {
                            th scope="row" { (row.scenario) }
                            td { (row.quantity.name()) }
                            td { (row.estimate.map_or(0, |estimate| estimate.seeds_base)) }
                            td { (row.estimate.map_or_else(|| "–".to_owned(), |estimate| row.value(estimate.base))) }
                            td { (row.estimate.map_or_else(|| "–".to_owned(), |estimate| row.value(estimate.new))) }
                            td class=(class(row.verdict)) { (row.change()) }
                            td.text { (row.verdict.name()) }
                        }
                    }
                }
            }
        }
        @for note in &speed.notes { p.note { (note) } }
    }
}

fn definitions(regression: &Regression) -> Markup {
    html! {
        details.definitions {
            summary { h2 { "How to read this" } }
            dl {
                dt { "Unchanged" } dd { "With the same seeds, the same happened: equal digests of all requests, routes, loads, evictions, preemptions and lives, and equal metrics. Any other outcome is a change of behaviour." }
                dt { "Worse, better" } dd {
                    "Told from no difference after Holm's correction for all comparisons of the scenario (family-wise " (format::percent(regression.rules.alpha))
                    "), and at least as large as what matters. Runs of one seed see the same requests and are pairs: the interval (" (format::percent(1.0 - regression.rules.alpha))
                    ") is that of their differences; rates and times are compared as ratios, over logarithms."
                }
                dt { "The same" } dd { "The whole interval is smaller than what matters." }
                dt { "Cannot tell" } dd { "Neither. The number of further seeds is what would show a change that just matters, in four cases of five." }
                dt { "Change of level" } dd { "The segmentation of the recorded means with the least squared error, each change at a price that a series of noise alone rarely pays. The band is the 95 % interval of the mean over seeds; where it is wider than what changed, it leaves the frame." }
            }
        }
    }
}
