//! Our figures beside published ones.

use maud::{Markup, html};

use crate::expectation::{Expectation, ExpectedCell, Judgement};
use crate::format;

pub(super) fn expectations(tables: &[Expectation]) -> Markup {
    html! {
        section {
            h2 id="published" { "Beside published figures" }
            @for table in tables { (one(table)) }
        }
    }
}

fn one(table: &Expectation) -> Markup {
    let (holds, judged) = table.score();
    let count = |judgement| table.rows.iter().filter(|row| row.judgement() == judgement).count();
    let (fitted, exempt, missing) = (count(Judgement::Fitted), count(Judgement::Exempt), count(Judgement::Missing));
    html! {
        h3 { (table.title) }
        p {
            @if judged > 0 { b { (holds) " of " (judged) } " judged cells are within their tolerance." } @else { "No cell was judged." }
            @if fitted > 0 { " " (fitted) " fitted (grey), which validates nothing." }
            @if exempt > 0 { " " (exempt) " exempt, for the reason given." }
            @if missing > 0 { " " (missing) " without a run." }
        }
        p.note { span.kind.published { "published" } " " (table.source) }
        div.scroll {
            table {
                thead { tr {
                    @for axis in &table.axes { th scope="col" { (axis) } }
                    @for heading in ["published", "ours", "difference", "tolerance", ""] { th scope="col" { (heading) } }
                } }
                tbody { @for row in &table.rows { (cell(row, &table.unit)) } }
            }
        }
    }
}

fn cell(row: &ExpectedCell, unit: &str) -> Markup {
    let judgement = row.judgement();
    let class = match judgement {
        Judgement::Fitted => "fitted",
        Judgement::Exempt | Judgement::Missing => "exempt",
        Judgement::Holds | Judgement::Misses => "",
    };
    let ours = row.ours.map(|ours| format!("{} {unit}", format::number(ours)));
    let spread = row.interval.filter(|interval| interval.high > interval.low);
    html! {
        tr class=(class) {
            @for (index, label) in row.labels.iter().enumerate() { @if index == 0 { th scope="row" { (label) } } @else { td { (label) } } }
            td { (format::number(row.published)) " " (unit) }
            td {
                @match (&ours, &row.run) {
                    (Some(ours), Some(run)) => a href={ (run) "/manifest.toml" } { (ours) },
                    (Some(ours), None) => (ours),
                    (None, _) => "–",
                }
                @if let Some(interval) = spread { span.against { (format::number(interval.low)) " to " (format::number(interval.high)) } }
            }
            td { @if let Some(deviation) = row.deviation() { (format::signed_percent(deviation)) } }
            td { @if matches!(judgement, Judgement::Holds | Judgement::Misses) { "± " (format::percent(row.tolerance)) } }
            @match judgement {
                Judgement::Holds => td.text.better { "within" },
                Judgement::Misses => td.text.worse { "outside" },
                Judgement::Fitted => td.text { "fitted" },
                Judgement::Missing => td.text { "no run" },
                Judgement::Exempt => td.text { (row.exempt.as_deref().unwrap_or_default()) },
            }
        }
    }
}
