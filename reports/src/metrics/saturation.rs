//! Did the cluster keep up with what was offered?

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::metrics::Counts;
use crate::statistics;

/// Fewer completions than this share of what was offered: saturated.
const COMPLETED_MIN: f64 = 0.98;
/// A backlog that grows by less than this share of what is offered meanwhile follows the traffic and is no sign of saturation.
const GROWTH_MATERIAL: f64 = 0.005;
/// Points of the regression: enough for a slope, far enough apart to forget each other.
const POINTS: usize = 32;

/// Did the cluster keep up with what was offered?
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Saturation {
    /// The verdict.
    pub saturated: bool,
    /// Why, in words; empty if not saturated.
    pub reason: String,
    /// Finished of all measured requests.
    pub completed: f64,
    /// Requests that wait for their first step: growth per second over the last half of the window.
    pub backlog_growth_per_s: Option<f64>,
    /// What that growth exceeds at 95 %.
    pub backlog_growth_low: Option<f64>,
}

impl Saturation {
    /// Judges a run by its measured requests: `backlog` are the mean numbers of waiting requests in equal bins of `bin_s` seconds over the last half of the window,
    /// `offered_per_s` the rate of arrivals.
    pub(crate) fn judge(counts: &Counts, backlog: &[f64], bin_s: f64, offered_per_s: f64) -> Saturation {
        let of_all = |part: u64| part as f64 / counts.offered as f64;
        let completed = of_all(counts.finished);
        let per_point = backlog.len().div_ceil(POINTS).max(1);
        let points: Vec<f64> =
            backlog.chunks_exact(per_point).map(|bins| bins.iter().sum::<f64>() / bins.len() as f64).collect();
        let step = per_point as f64 * bin_s;
        let slope = statistics::slope(&points);
        let growth = slope.map(|slope| slope.slope / step);
        let low = slope.map(|slope| slope.low / step);
        let grows = low.is_some_and(|low| low > 0.0)
            && growth.is_some_and(|growth| {
                growth > GROWTH_MATERIAL * offered_per_s && growth * step * points.len() as f64 >= 1.0
            });
        let reason = match (completed < COMPLETED_MIN, grows) {
            (true, _) => {
                let lost = [("rejected", counts.rejected), ("given up by their clients", counts.timed_out)];
                let lost = lost.iter().filter(|(_, count)| of_all(*count) >= 0.001);
                let lost: String = lost.map(|(how, n)| format!(", {:.1} % {how}", of_all(*n) * 100.0)).collect();
                format!("{:.1} % of the offered requests were completed{lost}", completed * 100.0)
            }
            (false, true) => {
                format!("the backlog grew by {:.3} requests a second over the last half", growth.unwrap_or(0.0))
            }
            (false, false) => String::new(),
        };
        Saturation {
            saturated: !reason.is_empty(),
            reason,
            completed,
            backlog_growth_per_s: growth,
            backlog_growth_low: low,
        }
    }
}
