//! JUnit XML: a suite for each scenario, a case for each of its policies.

use maud::{Markup, PreEscaped, html};

use super::compared::{Compared, Verdict};
use super::matched::label;
use super::regression::{Outcome, Regression, ScenarioOutcome};

/// The verdicts as CI systems read them. Behaviour that changed without being worse fails as well, as `changed`.
pub fn junit(regression: &Regression) -> String {
    let suites: Vec<Suite> =
        regression.scenarios.iter().map(suite).chain(regression.speed.as_ref().map(speed)).collect();
    let sum = |of: fn(&Suite) -> usize| suites.iter().map(of).sum::<usize>();
    let body = html! {
        testsuites name="aril regress" tests=(sum(Suite::tests)) failures=(sum(Suite::failures)) errors=(sum(Suite::errors)) {
            @for suite in &suites { (suite.markup()) }
        }
    };
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}\n", body.into_string());
    // XML has no way to write other control characters, not even escaped.
    xml.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

struct Suite {
    name: String,
    wall_s: f64,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    outcome: Outcome,
    message: String,
    details: String,
}

impl Suite {
    fn tests(&self) -> usize {
        self.cases.len()
    }

    fn failures(&self) -> usize {
        self.cases.iter().filter(|case| matches!(case.outcome, Outcome::Changed | Outcome::Worse)).count()
    }

    fn errors(&self) -> usize {
        self.cases.iter().filter(|case| case.outcome == Outcome::CannotRun).count()
    }

    fn markup(&self) -> Markup {
        html! {
            testsuite name=(self.name) tests=(self.tests()) failures=(self.failures()) errors=(self.errors()) time=(format!("{:.3}", self.wall_s)) {
                @for case in &self.cases {
                    testcase classname=(self.name) name=(case.name) {
                        @match case.outcome {
                            Outcome::Unchanged => { (PreEscaped("")) }
                            Outcome::CannotRun => { error type=(case.outcome.name()) message=(case.message) { (case.details) } }
                            Outcome::Changed | Outcome::Worse => { failure type=(case.outcome.name()) message=(case.message) { (case.details) } }
                        }
                    }
                }
            }
        }
    }
}

fn suite(scenario: &ScenarioOutcome) -> Suite {
    let cases = match (&scenario.compared, &scenario.problem) {
        (Some(compared), None) => policies(compared, scenario),
        _ => vec![Case {
            name: "runs".to_owned(),
            outcome: scenario.outcome,
            message: scenario.sentence(),
            details: scenario.sentence(),
        }],
    };
    Suite { name: scenario.name().to_owned(), wall_s: scenario.wall_s, cases }
}

fn policies(compared: &Compared, scenario: &ScenarioOutcome) -> Vec<Case> {
    let mut names: Vec<String> = Vec::new();
    for row in &compared.rows {
        let name = label(&row.subject.point, &row.subject.policy);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut cases: Vec<Case> = names
        .into_iter()
        .map(|name| {
            let rows =
                || compared.moved().into_iter().filter(|row| label(&row.subject.point, &row.subject.policy) == name);
            let is_worse = rows().any(|row| row.verdict == Verdict::Worse);
            let moved = rows().count();
            let outcome = match (is_worse, moved) {
                (true, _) => Outcome::Worse,
                (false, 0) => Outcome::Unchanged,
                (false, _) => Outcome::Changed,
            };
            let lines: Vec<String> = rows()
                .map(|row| {
                    format!(
                        "{} of {}: {} ({}): {}",
                        row.subject.metric.title(),
                        row.of_whom(),
                        row.change(),
                        row.interval(),
                        row.said()
                    )
                })
                .collect();
            let message = if moved == 0 { String::new() } else { format!("{moved} metrics moved; {}", lines[0]) };
            Case { name, outcome, message, details: lines.join("\n") }
        })
        .collect();
    // What no single metric says still fails.
    let worst = cases.iter().map(|case| case.outcome).max();
    if worst < Some(scenario.outcome) {
        let text = scenario.sentence();
        cases.push(Case {
            name: "behaviour".to_owned(),
            outcome: scenario.outcome,
            message: text.clone(),
            details: text,
        });
    }
    cases
}

fn speed(speed: &super::speed::Speed) -> Suite {
    let mut cases: Vec<Case> = speed
        .rows
        .iter()
        .map(|row| Case {
            name: format!("{} of {}", row.quantity.name(), row.scenario),
            outcome: if row.verdict == Verdict::Worse { Outcome::Worse } else { Outcome::Unchanged },
            message: row.change(),
            details: row.change(),
        })
        .collect();
    if cases.is_empty() {
        let text = speed.notes.join("\n");
        cases.push(Case {
            name: "speed".to_owned(),
            outcome: Outcome::CannotRun,
            message: speed.sentence(),
            details: text,
        });
    }
    Suite { name: "speed of the simulator".to_owned(), wall_s: 0.0, cases }
}
