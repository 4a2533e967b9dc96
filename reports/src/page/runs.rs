//! The runs, and where to find all of each.

use maud::{Markup, html};

use super::policy_name;
use crate::format;
use crate::input::{ReportInput, RunInfo};
use crate::terminal::point_name;

/// More runs than this are left to the summary.
const RUNS_MAX: usize = 2000;

/// The anchor of a run in the page. A folder has no spaces and no quotes.
pub(super) fn anchor(info: &RunInfo) -> String {
    format!("run-{}", info.folder())
}

pub(super) fn runs(input: &ReportInput) -> Markup {
    let swept = input.runs.iter().any(|(info, _)| !info.point.is_empty());
    html! {
        section {
            h2 id="runs" { "Runs" }
            p.note { "Every number above follows from these runs; a manifest repeats its run byte for byte. Timelines open in Perfetto. All numbers: " a href="summary.json" { "summary.json" } "." }
            div.scroll {
                table {
                    thead { tr {
                        th scope="col" { "policy" }
                        @if swept { th scope="col" { "point" } }
                        @for heading in ["seed", "offered", "finished", "good", "window", "saturated", "files"] { th scope="col" { (heading) } }
                    } }
                    tbody {
                        @for (info, run) in input.runs.iter().take(RUNS_MAX) {
                            @let folder = info.folder();
                            @let metrics = &run.metrics;
                            @let saturated = metrics.saturation.as_ref().is_some_and(|saturation| saturation.saturated);
                            tr id=(anchor(info)) {
                                th scope="row" { (policy_name(&info.policy, info.bound, false)) }
                                @if swept { td { (point_name(&info.point)) } }
                                td { (info.seed) }
                                td { (format::count(metrics.all.offered)) }
                                td { (format::count(metrics.all.finished)) }
                                td { (format::count(metrics.all.good)) }
                                td title=(metrics.window.rule) { (format::seconds(metrics.window.start_s)) " to " (format::seconds(metrics.window.end_s)) }
                                td { @if saturated { (metrics.saturation.as_ref().map_or("", |saturation| saturation.reason.as_str())) } @else { "no" } }
                                td {
                                    a href={ (folder) "/manifest.toml" } { "manifest" }
                                    @for file in &run.files { " · " a href={ (folder) "/" (file) } { (file.split('.').next().unwrap_or(file)) } }
                                    @if let Some(shows) = &run.timeline_shows { " " span.note { "(" (shows) ")" } }
                                }
                            }
                        }
                    }
                }
            }
            @if input.runs.len() > RUNS_MAX { p.note { (input.runs.len() - RUNS_MAX) " further runs are in summary.json." } }
        }
    }
}
