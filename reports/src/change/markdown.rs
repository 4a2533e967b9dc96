//! A summary that fits a pull-request comment.

use std::fmt::Write;

use super::compared::{Compared, Row};
use super::regression::{Outcome, Regression, ScenarioOutcome};
use crate::format;

/// The longest comment that is written, bytes: GitHub takes 65,536 characters.
const BYTES_MAX: usize = 60_000;
/// Rows of a scenario.
const ROWS: usize = 12;

/// What moved, as Markdown. What does not fit is counted.
pub fn markdown(regression: &Regression) -> String {
    let mut text = format!("### aril regress: {}\n\n{}\n", regression.outcome.name(), escaped(&regression.sentence()));
    let _ = write!(
        text,
        "\n<sub>{} at {} · {} · family-wise {} a scenario</sub>\n",
        escaped(&regression.folder),
        escaped(&regression.commit),
        escaped(&regression.build),
        format::percent(regression.rules.alpha)
    );
    let mut left_out = 0;
    let mut others: Vec<&ScenarioOutcome> =
        regression.scenarios.iter().filter(|scenario| scenario.outcome != Outcome::Unchanged).collect();
    others.sort_by_key(|scenario| std::cmp::Reverse(scenario.outcome));
    for scenario in others {
        let part = of_scenario(scenario);
        if text.len() + part.len() > BYTES_MAX {
            left_out += 1;
        } else {
            text += &part;
        }
    }
    if left_out > 0 {
        let _ =
            write!(text, "\n{left_out} further scenarios that are not as their baselines say are in `report.html`.\n");
    }
    if let Some(speed) = &regression.speed {
        text += "\n#### Speed of the simulator\n\n| scenario | what | base | new | change | verdict |\n|---|---|--:|--:|--:|---|\n";
        for row in &speed.rows {
            let value = |of: fn(&super::estimate::Estimate) -> f64| {
                row.estimate.as_ref().map_or_else(|| "–".to_owned(), |estimate| row.value(of(estimate)))
            };
            let cells = [
                row.scenario.clone(),
                row.quantity.name().to_owned(),
                value(|e| e.base),
                value(|e| e.new),
                row.change(),
                row.verdict.name().to_owned(),
            ];
            text += &line(&cells);
        }
        for note in &speed.notes {
            let _ = write!(text, "\n{}\n", escaped(note));
        }
    }
    let unchanged: Vec<String> =
        regression.scenarios.iter().filter(|s| s.outcome == Outcome::Unchanged).map(|s| escaped(s.name())).collect();
    if !unchanged.is_empty() && text.len() + unchanged.iter().map(String::len).sum::<usize>() < BYTES_MAX {
        let _ = write!(
            text,
            "\n<details><summary>{} unchanged</summary>\n\n{}\n\n</details>\n",
            unchanged.len(),
            unchanged.join(", ")
        );
    }
    text
}

/// The same of two recordings.
pub fn markdown_of(compared: &Compared) -> String {
    let mut text = format!("{}\n", escaped(&compared.sentence()));
    text += &rows(compared);
    text
}

fn of_scenario(scenario: &ScenarioOutcome) -> String {
    let mut text = format!(
        "\n#### {}: {}\n\n{}\n",
        escaped(scenario.name()),
        scenario.outcome.name(),
        escaped(&scenario.sentence())
    );
    if let Some(compared) = &scenario.compared {
        text += &rows(compared);
    }
    text
}

fn rows(compared: &Compared) -> String {
    let moved = compared.moved();
    if moved.is_empty() {
        return String::new();
    }
    let mut text =
        "\n| policy | metric | base | new | change | interval | verdict |\n|---|---|--:|--:|--:|--:|---|\n".to_owned();
    for row in moved.iter().take(ROWS) {
        let cells = |row: &Row| {
            let (base, new) = row.values();
            [row.of_whom(), row.subject.metric.title().to_owned(), base, new, row.change(), row.interval(), row.said()]
        };
        text += &line(&cells(row));
    }
    if moved.len() > ROWS {
        let _ = write!(text, "\n… and {} further metrics that moved less.\n", moved.len() - ROWS);
    }
    text
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.iter().map(|cell| escaped(cell)).collect::<Vec<_>>().join(" | "))
}

/// A text that Markdown shows as it is, on one line.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' | '\r' => out.push(' '),
            '|' | '\\' | '*' | '_' | '[' | ']' | '#' | '@' | '~' => {
                // A mention or a link to an issue is nobody's intention here.
                let _ = write!(out, "&#{};", c as u32);
            }
            c => out.push(c),
        }
    }
    out
}
