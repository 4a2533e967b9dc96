//! The paper's text generation table beside what the fit makes of it, in Markdown.

use std::fmt::Write;

use aril_sim::cost::CompiledCost;
use aril_sim::model::Model;

use super::textgen::{self, Batching, TextgenRequest};
use super::{Facts, Popularity, System, fit, fit_error, profile};
use crate::error::CalibrateError;

impl System {
    /// The family of its profiles on the paper's GPU.
    pub fn family(self, gpu: &str) -> String {
        match self {
            System::Punica => format!("punica-{gpu}"),
            other => format!("punica-{gpu}-{}", other.as_str()),
        }
    }
}

/// Every cell of the table, ours beside the published one, and Punica's without the fault of its benchmark.
///
/// # Errors
/// When figures are missing or cannot be met.
pub fn table(facts: &Facts, requests: &[TextgenRequest]) -> Result<String, CalibrateError> {
    let total = textgen::total_tokens(requests) as f64;
    let mut text = String::from(
        "| model | system | step us | further sequence us | Distinct | Uniform | Skewed | Identical |\n|---|---|---|---|---|---|---|---|\n",
    );
    for name in facts.textgen.keys().rev() {
        let model = Model::named(name).ok_or_else(|| CalibrateError::Unknown {
            name: name.clone(),
            nearest: None,
            known: Model::names().map(str::to_owned).collect(),
        })?;
        for system in System::ALL {
            let profile = profile(facts, requests, &system.family(&facts.gpu), &model)?;
            let published = facts.tokens_per_second(system, &model)?;
            let host = &profile.host;
            let mut row = format!("| {name} | {} | {:.0} | {:.0} |", system.as_str(), host.us, host.us_per_sequence);
            for popularity in Popularity::ALL {
                let ours = total / fit::run(&profile, requests, system, popularity)?.span.as_secs_f64();
                let cell = published[popularity as usize];
                let verdict = match popularity {
                    Popularity::Identical => "fitted".to_owned(),
                    _ => format!("{:+.1} %", (ours / cell - 1.0) * 100.0),
                };
                write!(row, " {ours:.1} / {cell:.0} ({verdict}) |").expect("text grows");
            }
            text.push_str(&row);
            text.push('\n');
            if system == System::Punica {
                let mut row = format!("| {name} | punica without the one-segment fault | | |");
                for popularity in Popularity::ALL {
                    let mut cost = CompiledCost::compile(&profile, system.kernel())
                        .map_err(|problem| fit_error(system, &model, &problem.to_string()))?;
                    let run = textgen::run(requests, popularity, Batching::Any { one_segment: false }, &mut cost);
                    write!(row, " {:.1} |", total / run.span.as_secs_f64()).expect("text grows");
                }
                text.push_str(&row);
                text.push('\n');
            }
        }
    }
    Ok(text)
}
