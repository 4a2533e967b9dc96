//! When do requests arrive? Laws in trace time, drawn one by one.

mod modulated;
mod process;

use aril_sim::time::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::choice::{choice, or_its_name};

pub(crate) use process::{Process, Times, not_negative, positive};

/// When requests arrive. Rates are requests a second, before `rate_scale`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(remote = "Self", rename_all = "kebab-case", deny_unknown_fields)]
#[schemars(transform = or_its_name)]
pub enum ArrivalLaw {
    /// When the trace says.
    Trace,
    /// All at once, at the start: a closed loop with a queue that is full from the beginning.
    Closed,
    /// At equal gaps.
    Constant {
        /// Requests a second.
        rate: f64,
    },
    /// Independently of each other.
    Poisson {
        /// Requests a second.
        rate: f64,
    },
    /// With independent gaps of a Gamma law (S-LoRA, ServeGen).
    Gamma {
        /// Requests a second.
        rate: f64,
        /// Standard deviation of the gaps over their mean; 1 is Poisson.
        cv: f64,
    },
    /// Poisson, in bursts: on and off periods have exponential lengths.
    OnOff {
        /// Requests a second while on.
        rate_on: f64,
        /// Requests a second while off.
        #[serde(default)]
        rate_off: f64,
        /// Mean length of an on period.
        on: Span,
        /// Mean length of an off period.
        off: Span,
    },
    /// Poisson, with a rate that a Markov chain switches.
    Mmpp {
        /// The states of the chain.
        states: Vec<MmppState>,
        /// Probability of going from state (row) to state (column) when a state ends; without it, each other one alike.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        transitions: Option<Vec<Vec<f64>>>,
    },
    /// Poisson, with a rate that swings as a cosine between trough and peak.
    Diurnal {
        /// Requests a second at the busiest hour.
        peak: f64,
        /// Requests a second at the quietest hour.
        trough: f64,
        /// From peak to peak.
        #[serde(default = "day")]
        period: Span,
        /// The first peak, from the start.
        #[serde(default = "half_day")]
        peak_at: Span,
    },
    /// Poisson, with a rate that goes in a straight line from one value to another over the window.
    Ramp {
        /// Requests a second at the start.
        from: f64,
        /// Requests a second at the end.
        to: f64,
    },
    /// Poisson, with a rate that goes in straight lines from point to point and stays at the last.
    Piecewise {
        /// Time from the start and requests a second, in order of time.
        points: Vec<(Span, f64)>,
    },
    /// Poisson, with the rate `rps · (1.2 − cos(2πt/D)) / 2.2` over a window D: Punica's cluster hour (MLSys 2024, §7.3).
    Vary {
        /// Requests a second at the peak.
        rps: f64,
        /// The paper rises from the trough; the load generator of its artifact falls from the peak.
        #[serde(default)]
        starts: Phase,
    },
}

choice!(ArrivalLaw);

impl ArrivalLaw {
    /// Every rate that it names, requests a second, and where under `arrivals` it stands.
    pub(crate) fn rates(&self) -> Vec<(&'static str, f64)> {
        match self {
            ArrivalLaw::Trace | ArrivalLaw::Closed => Vec::new(),
            ArrivalLaw::Constant { rate } => vec![("constant.rate", *rate)],
            ArrivalLaw::Poisson { rate } => vec![("poisson.rate", *rate)],
            ArrivalLaw::Gamma { rate, .. } => vec![("gamma.rate", *rate)],
            ArrivalLaw::OnOff { rate_on, rate_off, .. } => {
                vec![("on-off.rate_on", *rate_on), ("on-off.rate_off", *rate_off)]
            }
            ArrivalLaw::Mmpp { states, .. } => states.iter().map(|state| ("mmpp.states", state.rate)).collect(),
            ArrivalLaw::Diurnal { peak, trough, .. } => vec![("diurnal.peak", *peak), ("diurnal.trough", *trough)],
            ArrivalLaw::Ramp { from, to } => vec![("ramp.from", *from), ("ramp.to", *to)],
            ArrivalLaw::Piecewise { points } => points.iter().map(|(_, rate)| ("piecewise.points", *rate)).collect(),
            ArrivalLaw::Vary { rps, .. } => vec![("vary.rps", *rps)],
        }
    }
}

/// One state of a Markov-modulated process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MmppState {
    /// Requests a second.
    pub rate: f64,
    /// Mean time in the state; the times are exponential.
    pub mean: Span,
}

/// Where a swinging rate begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// At its lowest.
    #[default]
    Trough,
    /// At its highest.
    Peak,
}

fn day() -> Span {
    Span::from_secs(86_400)
}

fn half_day() -> Span {
    Span::from_secs(43_200)
}
