//! The page of what one GPU does: charts of measured, modelled and published figures, none of which look alike, and their tables.
//!
//! | kind | how it is drawn |
//! |---|---|
//! | measured | dots |
//! | modelled | solid lines |
//! | published by others | rings |
//! | another simulator's model | dashed lines |
//! | a data sheet's peak | a thin black line |

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::ReportError;
use crate::figure::colour;
use crate::figure::plot::{Mark, Plot, WIDE};
use crate::figure::scale::Scale;
use crate::format;
use crate::page::{key, plain_table, style};

/// How a series is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesKind {
    /// Measured on the GPU of the page.
    Measured,
    /// What its profile says.
    Modelled,
    /// Measured by others.
    Published,
    /// What another simulator says.
    OtherModel,
    /// A data sheet's peak.
    Peak,
}

impl SeriesKind {
    fn word(self) -> &'static str {
        match self {
            SeriesKind::Measured => "measured",
            SeriesKind::Modelled => "modelled",
            SeriesKind::Published => "published",
            SeriesKind::OtherModel => "another simulator",
            SeriesKind::Peak => "data sheet",
        }
    }

    /// The class that shows in a legend what it looks like.
    fn class(self) -> &'static str {
        match self {
            SeriesKind::Measured => "dot",
            SeriesKind::Modelled => "line",
            SeriesKind::Published => "ring",
            SeriesKind::OtherModel => "dash",
            SeriesKind::Peak => "peak",
        }
    }
}

/// Points that belong together. Series of one name share a colour.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationSeries {
    /// What it is.
    pub name: String,
    /// How it is known.
    pub kind: SeriesKind,
    /// Its points, by x.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationChart {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// Name and unit of x.
    pub x: String,
    /// Name and unit of y.
    pub y: String,
    /// Logarithmic axes?
    pub log: (bool, bool),
    /// What is drawn.
    pub series: Vec<CalibrationSeries>,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationTable {
    /// What it shows.
    pub title: String,
    /// How to read it.
    pub note: String,
    /// Headings.
    pub headings: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

/// Everything that the page shows.
#[derive(Clone, Debug, PartialEq)]
pub struct CalibrationContent {
    /// The GPU and the model.
    pub title: String,
    /// What comes out, in a sentence.
    pub verdict: String,
    /// What was measured with what.
    pub facts: Vec<(String, String)>,
    /// The charts, in order.
    pub charts: Vec<CalibrationChart>,
    /// The tables, in order.
    pub tables: Vec<CalibrationTable>,
}

const LEGEND: &str = "
.key i.dot{border-radius:50%;width:.65em;height:.65em}
.key i.line{height:3px;width:1.4em;border-radius:0;vertical-align:4px}
.key i.ring{border-radius:50%;background:none!important;border-width:2px;border-style:solid;width:.7em;height:.7em}
.key i.dash{height:0;width:1.4em;background:none!important;border-width:3px 0 0;border-style:dashed;border-radius:0;vertical-align:4px}
.key i.peak{height:2px;width:1.4em;background:var(--rule)!important;border-radius:0;vertical-align:4px}
";

/// The page, alone: nothing is loaded from elsewhere, and no script runs. `build` is what made it.
///
/// # Errors
/// [`ReportError::Figure`] when a chart cannot be drawn.
pub fn page(content: &CalibrationContent, build: &str) -> Result<String, ReportError> {
    let figures: Result<Vec<Markup>, ReportError> = content.charts.iter().map(figure).collect();
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (content.title) " · aril calibration" }
                style { (PreEscaped(style::style())) (PreEscaped(LEGEND)) }
            }
            body {
                main {
                    h1 { (content.title) }
                    p.verdict { (content.verdict) }
                    dl.trust { @for (name, value) in &content.facts { div { dt { (name) } dd { (value) } } } }
                    p.note { "Dots were measured. Solid lines are the profile. Rings were published by others; dashed lines are other simulators' models." }
                    @if let Some(first) = content.tables.first() { (table(first)) }
                    section { h2 id="charts" { "Measured and modelled" } @for figure in figures? { (figure) } }
                    @for other in content.tables.iter().skip(1) { (table(other)) }
                }
                footer { "aril · " (build) }
            }
        }
    };
    Ok(page.into_string())
}

fn table(table: &CalibrationTable) -> Markup {
    html! { section { h2 { (table.title) } p.note { (table.note) } (plain_table(&table.headings, &table.rows)) } }
}

/// One chart with its legend and its numbers.
fn figure(chart: &CalibrationChart) -> Result<Markup, ReportError> {
    let svg = svg(chart)?;
    let names = names(chart);
    let of = |series: &CalibrationSeries| names.iter().position(|name| *name == series.name).unwrap_or(0);
    let legend: Vec<(String, String)> = chart
        .series
        .iter()
        .filter(|series| !series.points.is_empty())
        .map(|series| {
            let class = format!("{} {}", colour::series_class(of(series)), series.kind.class());
            (class, format!("{} ({})", series.name, series.kind.word()))
        })
        .collect();
    // Lines are dense: the numbers are those of what was measured or published.
    let rows: Vec<Vec<String>> = chart
        .series
        .iter()
        .filter(|series| matches!(series.kind, SeriesKind::Measured | SeriesKind::Published))
        .flat_map(|series| {
            series.points.iter().map(|(x, y)| {
                vec![series.name.clone(), series.kind.word().to_owned(), format!("{x:.3}"), format!("{y:.4}")]
            })
        })
        .collect();
    let headings = ["series", "kind", &chart.x, &chart.y].map(str::to_owned);
    Ok(html! {
        figure {
            figcaption { b { (chart.title) } @if !chart.note.is_empty() { span.note { " " (chart.note) } } }
            (key(&legend))
            div.plot { (PreEscaped(svg)) }
            @if !rows.is_empty() { details.data { summary { "as a table" } (plain_table(&headings, &rows)) } }
        }
    })
}

/// The different names, in order: each has a colour.
fn names(chart: &CalibrationChart) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for series in &chart.series {
        if !names.contains(&series.name.as_str()) {
            names.push(&series.name);
        }
    }
    names
}

/// The drawing of a chart, to be placed in a page.
///
/// # Errors
/// [`ReportError::Figure`] with what the plotter said.
pub fn svg(chart: &CalibrationChart) -> Result<String, ReportError> {
    let names = names(chart);
    let all = || chart.series.iter().flat_map(|series| &series.points).copied();
    let (mut marks, mut over) = (Vec::new(), Vec::new());
    for series in &chart.series {
        let colour = colour::series(names.iter().position(|name| *name == series.name).unwrap_or(0));
        let points = series.points.clone();
        match series.kind {
            SeriesKind::Modelled if points.len() > 1 => marks.push(Mark::Line { colour, width: 4, points }),
            SeriesKind::Peak => marks.push(Mark::Line { colour: colour::RULE, width: 2, points }),
            SeriesKind::OtherModel if points.len() > 1 => marks.push(Mark::Dashes { colour, points }),
            SeriesKind::Published => over.push(Mark::Rings { colour, points }),
            _ => over.push(Mark::Dots { colour, points }),
        }
    }
    // What was measured lies on top of what is modelled.
    marks.extend(over);
    let scale = |log: bool, of: &dyn Fn((f64, f64)) -> f64, extend: bool| {
        let (low, high) = all().map(of).fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        match log {
            true => Scale::log(low * 0.9, high * 1.1, format::axis),
            false => Scale::linear(if low < 0.0 { low } else { 0.0 }, high, 6, extend, format::axis),
        }
    };
    Plot {
        name: chart.title.clone(),
        size: WIDE,
        x: scale(chart.log.0, &|(x, _)| x, false),
        y: scale(chart.log.1, &|(_, y)| y, true),
        x_label: chart.x.clone(),
        y_label: chart.y.clone(),
        left: 120,
        grid: (false, true),
        marks,
    }
    .draw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> CalibrationChart {
        let series = |name: &str, kind, points: &[(f64, f64)]| CalibrationSeries {
            name: name.to_owned(),
            kind,
            points: points.to_vec(),
        };
        CalibrationChart {
            title: "Steps & more".to_owned(),
            note: String::new(),
            x: "rows".to_owned(),
            y: "ms".to_owned(),
            log: (true, true),
            series: vec![
                series("context 1", SeriesKind::Measured, &[(1.0, 2.0), (8.0, 3.0)]),
                series("context 1", SeriesKind::Modelled, &[(1.0, 2.1), (8.0, 2.9)]),
                series("others", SeriesKind::Published, &[(2.0, 9.0)]),
                series("line", SeriesKind::OtherModel, &[(1.0, 1.0), (8.0, 8.0)]),
            ],
        }
    }

    #[test]
    fn what_was_measured_is_dots_and_what_is_modelled_is_lines() {
        let svg = svg(&chart()).unwrap();
        let count = |what: &str| svg.matches(what).count();
        assert!(count("<circle") >= 3, "two dots and a ring");
        assert!(count("<polyline") >= 2, "a line and dashes");
        let (dot, ring) = (svg.find("fill=\"#246BCE\"").unwrap(), svg.find("fill=\"none\"").unwrap());
        assert_ne!(dot, ring);
    }

    #[test]
    fn the_page_stands_alone_and_says_what_is_what() {
        let content = CalibrationContent {
            title: "What one H200 does".to_owned(),
            verdict: "1 % off.".to_owned(),
            facts: vec![("GPU".to_owned(), "NVIDIA <H200>".to_owned())],
            charts: vec![chart()],
            tables: vec![CalibrationTable {
                title: "Quoted".to_owned(),
                note: String::new(),
                headings: vec!["a".to_owned(), "b".to_owned()],
                rows: vec![vec!["1".to_owned(), "2".to_owned()]],
            }],
        };
        let page = page(&content, "aril 0").unwrap();
        assert!(page.contains("NVIDIA &lt;H200&gt;") && page.contains("context 1 (measured)"));
        assert!(page.contains("context 1 (modelled)") && page.contains("others (published)"));
        assert!(!page.contains("<script") && !page.contains("src=\"http"));
    }
}
