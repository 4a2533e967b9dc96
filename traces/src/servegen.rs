//! ServeGen (Alibaba): not requests, but for each client its rate and burstiness in windows of ten minutes, and histograms
//! of its lengths every six hours. Requests are drawn from them.

mod draw;
mod files;
mod literal;

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use draw::Draws;
pub(crate) use files::{Data, read};
pub(crate) use literal::Histogram;

use crate::arrivals::positive;
use crate::error::TraceError;
use crate::workload::Description;

/// How requests are drawn from ServeGen's clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Servegen {
    /// Mean requests a second of all clients over the window; without it, as measured. Rates are multiplied, time is not squeezed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Only so many clients, those with most requests in the window; without it, all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clients: Option<u32>,
    /// What becomes of clients whose lengths were not published.
    #[serde(default)]
    pub without_lengths: WithoutLengths,
}

/// What becomes of clients of which the rates are published, but no lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WithoutLengths {
    /// They are left out, and their share of the rate is reported.
    #[default]
    Drop,
    /// Their requests have the lengths of another client, drawn in proportion to the rates.
    Borrow,
    /// The scenario is refused.
    Refuse,
}

/// A client as published.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    /// `client-N`, from the file's `chunk-N`.
    pub(crate) name: String,
    /// Windows with requests, in order.
    pub(crate) windows: Vec<Window>,
    /// Histograms with data, in order of their start.
    pub(crate) lengths: Vec<Bucket>,
}

/// Ten minutes of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Window {
    pub(crate) start_s: f64,
    pub(crate) length_s: f64,
    /// Requests a second.
    pub(crate) rate: f64,
    pub(crate) gaps: Gaps,
}

/// The law of gaps, up to its mean, which the rate sets: the fitted Weibull means of the data are off by up to a quarter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Gaps {
    Gamma { shape: f64 },
    Weibull { shape: f64 },
}

/// Lengths from some moment on.
#[derive(Clone, Debug)]
pub(crate) struct Bucket {
    pub(crate) start_s: f64,
    /// Parts of the prompt, to be added up: text alone, or text and images.
    pub(crate) input: Vec<Histogram>,
    pub(crate) output: Histogram,
}

/// What requests are drawn from: clients cut to a window.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) clients: Arc<[Client]>,
    /// By how much rates are multiplied.
    pub(crate) factor: f64,
    /// Cumulative shares of the rate of clients with lengths, and their positions, for those that borrow.
    pub(crate) lenders: Arc<[(f64, usize)]>,
    pub(crate) start_s: f64,
    pub(crate) end_s: f64,
    /// Requests expected.
    pub(crate) expected: f64,
}

impl Client {
    /// Requests expected from `start_s` to `end_s`.
    fn requests(&self, start_s: f64, end_s: f64) -> f64 {
        self.windows.iter().map(|window| window.rate * window.overlap(start_s, end_s)).sum()
    }

    /// The lengths that hold at `at_s`: the last histogram begun, or the first one where none is.
    fn bucket(&self, at_s: f64) -> Option<&Bucket> {
        let begun = self.lengths.partition_point(|bucket| bucket.start_s <= at_s);
        self.lengths.get(begun.saturating_sub(1))
    }
}

impl Window {
    fn overlap(&self, start_s: f64, end_s: f64) -> f64 {
        ((self.start_s + self.length_s).min(end_s) - self.start_s.max(start_s)).max(0.0)
    }
}

impl Model {
    /// Cuts the clients to a window, counted from the start of the data, and applies the options.
    pub(crate) fn new(
        data: Data,
        options: &Servegen,
        after_s: f64,
        duration_s: Option<f64>,
        about: &mut Description,
    ) -> Result<Model, TraceError> {
        let start_s = data.start_s + after_s;
        let end_s = duration_s.map_or(data.end_s, |duration| start_s + duration);
        let mut counted: Vec<(f64, Client)> =
            data.clients.into_iter().map(|client| (client.requests(start_s, end_s), client)).collect();
        let total: f64 = counted.iter().map(|(requests, _)| requests).sum();
        if total <= 0.0 {
            let advice = "move it, or make it longer";
            return Err(TraceError::setting("window", "no client has requests in it", advice));
        }
        without_lengths(&mut counted, total, options, about)?;
        if let Some(most) = options.clients {
            keep_busiest(&mut counted, most, about)?;
        }
        let kept: f64 = counted.iter().map(|(requests, _)| requests).sum();
        let factor = match options.rate {
            None => 1.0,
            Some(rate) => positive("servegen.rate", rate)? * (end_s - start_s) / kept,
        };
        if options.rate.is_some() {
            about.assigned.push(format!("rates of all clients multiplied by {factor:.6}"));
        }
        about.assigned.push("arrivals and lengths drawn from the published rates and histograms of each client".into());
        Ok(Model {
            lenders: lenders(&counted),
            clients: counted.into_iter().map(|(_, client)| client).collect(),
            factor,
            start_s,
            end_s,
            expected: kept * factor,
        })
    }
}

fn without_lengths(
    counted: &mut Vec<(f64, Client)>,
    total: f64,
    options: &Servegen,
    about: &mut Description,
) -> Result<(), TraceError> {
    let bare = |client: &Client| client.lengths.is_empty();
    let missing = counted.iter().filter(|(_, client)| bare(client)).count();
    if missing == 0 {
        return Ok(());
    }
    let share = counted.iter().filter(|(_, client)| bare(client)).map(|(requests, _)| requests).sum::<f64>() / total;
    let what = format!(
        "{missing} of {} clients, with {:.1} % of the requests, have no published lengths",
        counted.len(),
        share * 100.0
    );
    let advice = "choose \"drop\" or \"borrow\"";
    match options.without_lengths {
        WithoutLengths::Refuse => return Err(TraceError::setting("servegen.without_lengths", what, advice)),
        WithoutLengths::Borrow if missing == counted.len() => {
            let advice = "use the data sets with lengths, or set `input_tokens` and `output_tokens` and `lengths`";
            return Err(TraceError::setting("servegen.without_lengths", what, advice));
        }
        WithoutLengths::Borrow => about.assigned.push(format!("{what}: they borrow those of others")),
        WithoutLengths::Drop => {
            counted.retain(|(_, client)| !bare(client));
            if counted.iter().all(|(requests, _)| *requests <= 0.0) {
                let advice = "choose \"borrow\", or another window";
                return Err(TraceError::setting(
                    "servegen.without_lengths",
                    format!("{what}, and no others are left"),
                    advice,
                ));
            }
            about.notes.push(format!("{what}: left out"));
        }
    }
    Ok(())
}

fn keep_busiest(counted: &mut Vec<(f64, Client)>, most: u32, about: &mut Description) -> Result<(), TraceError> {
    if most == 0 {
        return Err(TraceError::setting("servegen.clients", "0 clients", "write a number from 1 on"));
    }
    let all = counted.len();
    counted.sort_by(|a, b| b.0.total_cmp(&a.0));
    counted.truncate(most as usize);
    if counted.len() < all {
        about.notes.push(format!("the {} busiest of {all} clients", counted.len()));
    }
    Ok(())
}

fn lenders(counted: &[(f64, Client)]) -> Arc<[(f64, usize)]> {
    let mut sum = 0.0;
    let with_lengths = counted.iter().enumerate().filter(|(_, (_, client))| !client.lengths.is_empty());
    let mut sums: Vec<(f64, usize)> = with_lengths
        .map(|(position, (requests, _))| {
            sum += requests;
            (sum, position)
        })
        .collect();
    sums.iter_mut().for_each(|(partial, _)| *partial /= sum);
    sums.into()
}
