//! How far is it? A bar on standard error, if that is a terminal.

use std::time::Duration;

use aril_sim::fact::{Fact, Observer};
use aril_sim::time::Time;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::plan::Plan;

/// Requests are counted in packets: a bar that is told of each would cost more than the simulation.
const PACKET: u64 = 4096;

/// How far all runs are.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(plan: &Plan, shown: bool) -> Progress {
        let target = if shown { ProgressDrawTarget::stderr_with_hz(8) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(plan.runs() as u64 * RUN), target);
        let template = "{spinner} {bar:32} {percent:>3} %  {msg}  {elapsed}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(format!("{} runs", plan.runs()));
        bar.enable_steady_tick(Duration::from_millis(125));
        Progress { bar }
    }

    /// Watches one run of about so many requests.
    pub(super) fn watch(&self, requests: u64) -> Watch<'_> {
        Watch { bar: &self.bar, requests: requests.max(1), ended: 0, told: 0 }
    }

    pub(super) fn writing(&self) {
        self.bar.set_message("writing the report");
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// What one run is worth on the bar.
const RUN: u64 = 10_000;

/// Counts the ends of requests.
pub(super) struct Watch<'a> {
    bar: &'a ProgressBar,
    requests: u64,
    ended: u64,
    told: u64,
}

impl Watch<'_> {
    fn tell(&mut self, worth: u64) {
        let worth = worth.min(RUN);
        self.bar.inc(worth.saturating_sub(self.told));
        self.told = self.told.max(worth);
    }

    /// The run is over.
    pub(super) fn finish(mut self) {
        self.tell(RUN);
    }
}

impl Observer for Watch<'_> {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        if let Fact::Ended(_) = fact {
            self.ended += 1;
            if self.ended.is_multiple_of(PACKET) {
                let worth = u128::from(self.ended) * u128::from(RUN) / u128::from(self.requests);
                self.tell(u64::try_from(worth).unwrap_or(RUN));
            }
        }
    }
}
