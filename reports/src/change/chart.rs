//! A watched metric over the recorded commits: a panel for each policy, the interval as a band, changes of level marked.

use super::change_point::{ChangePoint, change_points};
use super::estimate::Scale as ChangeScale;
use super::history::{Entry, History, Level};
use super::speed::{Quantity, SpeedRules};
use super::watched::{Thresholds, WATCHED, key, scale_of};
use crate::ReportError;
use crate::figure::colour;
use crate::figure::plot::{Mark, Plot};
use crate::figure::scale::Scale;
use crate::format;
use crate::metric::{Metric, Unit};

/// Width of a panel, and its height, in units of half a pixel.
const PANEL: (u32, u32) = (1480, 380);
/// So many commits have room for their names at the axis.
const NAMES: usize = 10;
/// So many policies are drawn.
const PANELS_MAX: usize = 12;

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawn {
    /// A metric of each policy: what is simulated.
    Behaviour(Metric),
    /// What it took to simulate it.
    Speed(Quantity),
}

/// What policy a chart of the simulator's speed is of.
const PROGRAM: &str = "the simulator";

/// A metric of a scenario over its recorded commits.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What.
    pub drawn: Drawn,
    /// The drawing, to be placed in a page.
    pub svg: String,
    /// The drawing, to be a file of its own.
    pub file: String,
    /// Where the level changed: policy, position among the commits, and levels.
    pub changes: Vec<(String, ChangePoint)>,
    /// Commits drawn.
    pub commits: usize,
}

/// One panel: a policy's values over the commits.
struct Panel {
    policy: String,
    levels: Vec<(usize, Level)>,
    changes: Vec<ChangePoint>,
}

/// A chart for each watched metric of which the history has a value, in the order of [`WATCHED`], then of the simulator's speed.
///
/// # Errors
/// [`ReportError::Figure`] with what the plotter said.
pub fn charts(
    scenario: &str,
    history: &History,
    thresholds: &Thresholds,
    speed: &SpeedRules,
) -> Result<Vec<Chart>, ReportError> {
    let matters = Matters { thresholds, speed };
    let behaviour = WATCHED.into_iter().map(Drawn::Behaviour);
    let mut charts = Vec::new();
    for drawn in behaviour.chain(Quantity::ALL.into_iter().map(Drawn::Speed)) {
        let policies = match drawn {
            Drawn::Behaviour(_) => history.policies(),
            Drawn::Speed(_) => vec![PROGRAM],
        };
        let panels: Vec<Panel> = policies
            .into_iter()
            .filter_map(|policy| Panel::new(policy, drawn, &history.entries, matters))
            .take(PANELS_MAX)
            .collect();
        if panels.is_empty() {
            continue;
        }
        let pictures: Vec<String> = panels
            .iter()
            .enumerate()
            .map(|(index, panel)| panel.draw(scenario, drawn, index, &history.entries, matters))
            .collect::<Result<_, _>>()?;
        let changes = panels
            .iter()
            .flat_map(|panel| panel.changes.iter().map(|change| (panel.policy.clone(), *change)))
            .collect();
        charts.push(Chart {
            drawn,
            svg: stacked(&pictures, &name(scenario, drawn), false),
            file: stacked(&pictures, &name(scenario, drawn), true),
            changes,
            commits: panels.iter().map(|panel| panel.levels.len()).max().unwrap_or(0),
        });
    }
    Ok(charts)
}

fn name(scenario: &str, drawn: Drawn) -> String {
    format!("{scenario}: {} over the recorded commits", drawn.title())
}

/// How large a change has to be to matter.
#[derive(Clone, Copy)]
struct Matters<'a> {
    thresholds: &'a Thresholds,
    speed: &'a SpeedRules,
}

impl Matters<'_> {
    /// The least change that matters, in units of what is drawn, around this level.
    fn least(self, drawn: Drawn, level: f64) -> f64 {
        match drawn {
            Drawn::Behaviour(metric) if scale_of(metric) == ChangeScale::Ratio && level > 0.0 => {
                self.thresholds.least(metric, ChangeScale::Ratio, level) * level
            }
            Drawn::Behaviour(metric) => self.thresholds.least(metric, ChangeScale::Difference, level),
            Drawn::Speed(quantity) => self.speed.least(quantity) * level,
        }
    }
}

impl Drawn {
    /// As headings say it.
    pub fn title(self) -> &'static str {
        match self {
            Drawn::Behaviour(metric) => metric.title(),
            Drawn::Speed(quantity) => quantity.name(),
        }
    }

    /// As files are called.
    pub fn key(self) -> String {
        match self {
            Drawn::Behaviour(metric) => key(metric),
            Drawn::Speed(quantity) => quantity.name().replace(' ', "-"),
        }
    }

    fn level(self, entry: &Entry, policy: &str) -> Option<Level> {
        match self {
            Drawn::Behaviour(metric) => entry.level(policy, &key(metric)),
            Drawn::Speed(quantity) => entry.speed_level(quantity),
        }
    }

    fn writer(self) -> fn(f64) -> String {
        match self {
            Drawn::Speed(Quantity::WallTime) => format::axis_seconds,
            Drawn::Speed(Quantity::Instructions) => format::axis,
            Drawn::Behaviour(metric) => match metric.unit() {
                Unit::Seconds => format::axis_seconds,
                Unit::Share => percent_at_axis,
                _ => format::axis,
            },
        }
    }
}

impl Panel {
    fn new(policy: &str, drawn: Drawn, entries: &[Entry], matters: Matters<'_>) -> Option<Panel> {
        let levels: Vec<(usize, Level)> = entries
            .iter()
            .enumerate()
            .filter_map(|(index, entry)| Some((index, drawn.level(entry, policy)?)))
            .collect();
        let means: Vec<f64> = levels.iter().map(|(_, level)| level.mean).collect();
        let middle = median(&means)?;
        // Positions among the values become positions among the commits.
        let changes = change_points(&means, matters.least(drawn, middle) * (1.0 - 1e-6))
            .into_iter()
            .map(|change| ChangePoint { at: levels[change.at].0, ..change })
            .collect();
        Some(Panel { policy: policy.to_owned(), levels, changes })
    }

    fn draw(
        &self,
        scenario: &str,
        drawn: Drawn,
        index: usize,
        entries: &[Entry],
        matters: Matters<'_>,
    ) -> Result<String, ReportError> {
        let colour = colour::series(index);
        let y = self.y_scale(drawn, matters);
        let (low, high) = crate::figure::plot::ends(&y);
        let at = |(x, level): &(usize, Level)| (*x as f64, level.mean);
        let end = |which: fn((f64, f64)) -> f64| {
            let point = |(x, level): &(usize, Level)| Some((*x as f64, which(level.interval?)));
            self.levels.iter().filter_map(point).collect::<Vec<_>>()
        };
        let mut marks = vec![Mark::Band { colour, low: end(|(low, _)| low), high: end(|(_, high)| high) }];
        for change in &self.changes {
            let x = change.at as f64 - 0.5;
            marks.push(Mark::Line { colour: colour::RULE, width: 3, points: vec![(x, low), (x, high)] });
        }
        marks.push(Mark::Line { colour, width: 4, points: self.levels.iter().map(at).collect() });
        marks.push(Mark::Dots { colour, points: self.levels.iter().map(at).collect() });
        for (number, change) in self.changes.iter().enumerate() {
            let right = change.at * 3 < entries.len() * 2;
            // Neighbouring marks take turns in height, so that their texts do not meet.
            let height = if number % 2 == 0 { 0.95 } else { 0.82 };
            let text = format!("{} {}", moved(drawn, change), short(&entries[change.at].commit));
            marks.push(Mark::Text { text, at: (change.at as f64 - 0.5, low + (high - low) * height), right });
        }
        Plot {
            name: format!("{}, {}", name(scenario, drawn), self.policy),
            size: PANEL,
            x: Scale::names(commit_names(entries)),
            y,
            x_label: String::new(),
            y_label: format!("{} · {}", drawn.title(), self.policy),
            left: 150,
            grid: (false, true),
            marks,
        }
        .draw()
    }

    /// Around the means, with as much of the bands as leaves changes visible.
    fn y_scale(&self, drawn: Drawn, matters: Matters<'_>) -> Scale {
        let range = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)))
        };
        let (low, high) = range(&mut self.levels.iter().map(|(_, level)| level.mean));
        let (band_low, band_high) =
            range(&mut self.levels.iter().filter_map(|(_, level)| level.interval).flat_map(|(low, high)| [low, high]));
        let least = matters.least(drawn, low.midpoint(high));
        let room = (high - low).max(4.0 * least).max(high.abs() * 1e-3).max(1e-12);
        let mut bottom = low - (low - band_low).clamp(0.15 * room, room);
        let top = high + (band_high - high).clamp(0.25 * room, room);
        if low >= 0.0 {
            bottom = bottom.max(0.0);
        }
        Scale::linear(bottom, top, 4, false, drawn.writer())
    }
}

fn percent_at_axis(share: f64) -> String {
    format!("{} %", format::axis((share * 1e8).round() / 1e6))
}

/// By how much the level changed.
pub(crate) fn moved(drawn: Drawn, change: &ChangePoint) -> String {
    match drawn {
        Drawn::Behaviour(metric) if scale_of(metric) == ChangeScale::Difference || change.before <= 0.0 => {
            format::signed(metric, change.after - change.before)
        }
        _ => format::signed_percent(change.after / change.before - 1.0),
    }
}

/// The name of a commit, short.
pub(crate) fn short(commit: &str) -> String {
    let is_hash = commit.len() >= 12 && commit.trim_end_matches('+').chars().all(|c| c.is_ascii_hexdigit());
    let kept: String = commit.chars().take(if is_hash { 7 } else { 12 }).collect();
    if commit.ends_with('+') && !kept.ends_with('+') { kept + "+" } else { kept }
}

/// Names at the axis, as many as there is room for, the last one always.
fn commit_names(entries: &[Entry]) -> Vec<String> {
    let every = entries.len().div_ceil(NAMES).max(1);
    let last = entries.len().saturating_sub(1);
    let is_named = |index: usize| (last - index).is_multiple_of(every);
    entries
        .iter()
        .enumerate()
        .map(|(index, entry)| if is_named(index) { short(&entry.commit) } else { String::new() })
        .collect()
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// Panels under each other.
fn stacked(panels: &[String], name: &str, alone: bool) -> String {
    let (width, height) = PANEL;
    let total = height * panels.len() as u32;
    let placed: String = panels
        .iter()
        .enumerate()
        .map(|(index, panel)| {
            panel.replacen(
                "<svg ",
                &format!("<svg x=\"0\" y=\"{}\" width=\"{width}\" height=\"{height}\" ", index as u32 * height),
                1,
            )
        })
        .collect();
    let name = maud::html! { (name) }.into_string();
    let head = format!("viewBox=\"0 0 {width} {total}\" role=\"img\" aria-label=\"{name}\"");
    if !alone {
        return format!("<svg {head}>{placed}</svg>");
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" {head} width=\"{}\" height=\"{}\"><title>{name}</title><style>text{{font-family:system-ui,sans-serif}}.paper{{fill:#fff}}{}@media (prefers-color-scheme:dark){{.paper{{fill:#13161a}}}}</style><rect class=\"paper\" width=\"{width}\" height=\"{total}\"/>{placed}</svg>\n",
        width / 2,
        total / 2,
        colour::style()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Thirty commits; the TTFT p99 of one policy rises by `rise` at `at`, with noise of a tenth of a percent.
    fn history(at: usize, rise: f64) -> History {
        let entry = |index: usize| {
            let noise = 1.0 + 0.001 * ((index * 7919 % 13) as f64 / 6.0 - 1.0);
            let mean = 0.5 * noise * if index >= at { 1.0 + rise } else { 1.0 };
            let level = |mean: f64| BTreeMap::from([("ttft-p99".to_owned(), vec![mean, mean * 0.99, mean * 1.01])]);
            Entry {
                schema: 1,
                commit: format!("{index:07x}"),
                at: String::new(),
                series: BTreeMap::from([("changed".to_owned(), level(mean)), ("other".to_owned(), level(0.5))]),
                speed: BTreeMap::new(),
            }
        };
        History { entries: (0..30).map(entry).collect() }
    }

    #[test]
    fn a_planted_change_point_is_found_and_drawn() {
        let charts = charts("planted", &history(19, 0.04), &Thresholds::default(), &SpeedRules::default()).unwrap();
        let [chart] = charts.as_slice() else { panic!("{}", charts.len()) };
        let [(policy, change)] = chart.changes.as_slice() else { panic!("{:?}", chart.changes) };
        assert_eq!((policy.as_str(), change.at), ("changed", 19));
        assert!((change.after / change.before - 1.04).abs() < 0.002);
        for svg in [&chart.svg, &chart.file] {
            assert!(svg.contains("0000013"), "the commit is not named");
            // The band of each panel, and the rule of the one change.
            assert_eq!(svg.matches("<polygon").count(), 2);
            assert_eq!(svg.matches("stroke=\"#1F2329\"").count(), 1);
        }
        assert!(chart.file.starts_with("<svg xmlns="));
    }

    #[test]
    fn noise_and_what_does_not_matter_are_not_marked() {
        for rise in [0.0, 0.005] {
            assert!(
                charts("quiet", &history(19, rise), &Thresholds::default(), &SpeedRules::default()).unwrap()[0]
                    .changes
                    .is_empty(),
                "{rise}"
            );
        }
    }

    #[test]
    fn names_with_markup_stay_text() {
        let mut history = history(19, 0.04);
        let series = history.entries[0].series["other"].clone();
        history.entries.iter_mut().for_each(|entry| {
            entry.series.insert("<script>".to_owned(), series.clone());
        });
        let chart = &charts("<b>", &history, &Thresholds::default(), &SpeedRules::default()).unwrap()[0];
        assert!(!chart.file.contains("<script>") && !chart.file.contains("<b>"));
    }
}
