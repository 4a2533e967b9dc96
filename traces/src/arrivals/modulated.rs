//! Poisson arrivals with a rate that changes: along a curve (drawn by thinning, which is exact) or by a Markov chain.

use aril_sim::random::Stream;
use aril_sim::time::Span;
use rand::RngExt;
use rand_distr::{Distribution, Exp1};

use crate::arrivals::MmppState;
use crate::arrivals::process::{not_negative, positive};
use crate::error::TraceError;

/// A rate over time, requests a second.
#[derive(Clone, Debug)]
pub(crate) enum Rate {
    Constant(f64),
    Cosine {
        low: f64,
        high: f64,
        period_s: f64,
        peak_at_s: f64,
    },
    /// (seconds, rate) in order; straight lines between, flat after the last.
    Lines(Vec<(f64, f64)>),
}

impl Rate {
    pub(crate) fn piecewise(key: &str, points: Vec<(f64, f64)>) -> Result<Rate, TraceError> {
        let wrong = |problem: &str, advice: &str| Err(TraceError::setting(key, problem, advice));
        if points.first().is_none_or(|(at, _)| *at != 0.0) {
            return wrong("the first point is not at 0", "begin with [\"0s\", rate]");
        }
        if points.windows(2).any(|pair| pair[0].0 > pair[1].0) {
            return wrong("the points are not in order of time", "sort them");
        }
        for (_, rate) in &points {
            not_negative(key, *rate)?;
        }
        if points.iter().all(|(_, rate)| *rate == 0.0) {
            return wrong("all rates are zero", "let one be above zero");
        }
        Ok(Rate::Lines(points))
    }

    /// The highest rate it reaches.
    pub(crate) fn top(&self) -> f64 {
        match self {
            Rate::Constant(rate) => *rate,
            Rate::Cosine { high, .. } => *high,
            Rate::Lines(points) => points.iter().map(|(_, rate)| *rate).fold(0.0, f64::max),
        }
    }

    fn at(&self, t: f64) -> f64 {
        match self {
            Rate::Constant(rate) => *rate,
            Rate::Cosine { low, high, period_s, peak_at_s } => {
                let turn = (t - peak_at_s) / period_s;
                low + (high - low) * 0.5 * (1.0 + (std::f64::consts::TAU * turn).cos())
            }
            Rate::Lines(points) => {
                let next = points.partition_point(|(at, _)| *at <= t);
                let Some((end, to)) = points.get(next) else { return points[points.len() - 1].1 };
                let (start, from) = points[next - 1];
                from + (to - from) * (t - start) / (end - start)
            }
        }
    }

    /// Thinning: is a candidate at the top rate kept at time `t`? A constant rate draws nothing.
    pub(crate) fn accepts(&self, t: f64, stream: &mut Stream) -> bool {
        matches!(self, Rate::Constant(_)) || stream.random::<f64>() * self.top() < self.at(t)
    }

    /// Requests expected from 0 to `t`.
    pub(crate) fn integral(&self, t: f64) -> f64 {
        match self {
            Rate::Constant(rate) => rate * t,
            Rate::Cosine { low, high, period_s, peak_at_s } => {
                let tau = std::f64::consts::TAU;
                let sine = |t: f64| (tau * (t - peak_at_s) / period_s).sin() * period_s / tau;
                (low + high) / 2.0 * t + (high - low) / 2.0 * (sine(t) - sine(0.0))
            }
            Rate::Lines(points) => {
                let mut ends: Vec<f64> = points.iter().map(|(at, _)| *at).filter(|at| *at < t).collect();
                ends.push(t);
                // Straight between neighbours: the middle is the mean.
                ends.windows(2).map(|pair| self.at((pair[0] + pair[1]) / 2.0) * (pair[1] - pair[0])).sum()
            }
        }
    }
}

/// A continuous-time Markov chain whose states have rates.
#[derive(Clone, Debug)]
pub(crate) struct Chain {
    rates: Vec<f64>,
    means_s: Vec<f64>,
    /// Probabilities of the next state, by state.
    transitions: Vec<Vec<f64>>,
    /// Share of time in each state in the long run.
    shares: Vec<f64>,
}

/// Where the chain is and until when, seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChainState {
    state: usize,
    until_s: f64,
}

impl Chain {
    pub(crate) fn on_off(rate_on: f64, rate_off: f64, on: Span, off: Span) -> Result<Chain, TraceError> {
        let states = [MmppState { rate: rate_on, mean: on }, MmppState { rate: rate_off, mean: off }];
        Chain::checked("arrivals.on-off", &states, None)
    }

    pub(crate) fn new(states: &[MmppState], transitions: Option<&[Vec<f64>]>) -> Result<Chain, TraceError> {
        Chain::checked("arrivals.mmpp", states, transitions)
    }

    fn checked(key: &str, states: &[MmppState], transitions: Option<&[Vec<f64>]>) -> Result<Chain, TraceError> {
        let n = states.len();
        if n < 2 {
            return Err(TraceError::setting(key, "fewer than two states", "name at least two, or use `poisson`"));
        }
        for state in states {
            not_negative(key, state.rate)?;
            positive(&format!("{key}, mean time in a state, s"), state.mean.as_secs_f64())?;
        }
        let transitions = match transitions {
            None => (0..n).map(|i| (0..n).map(|j| if i == j { 0.0 } else { 1.0 / (n - 1) as f64 }).collect()).collect(),
            Some(rows) => stochastic(&format!("{key}.transitions"), rows, n)?,
        };
        let means_s: Vec<f64> = states.iter().map(|state| state.mean.as_secs_f64()).collect();
        let shares = long_run(&transitions, &means_s);
        let chain = Chain { rates: states.iter().map(|state| state.rate).collect(), means_s, transitions, shares };
        positive(&format!("{key}, mean rate"), chain.mean_rate())?;
        Ok(chain)
    }

    pub(crate) fn mean_rate(&self) -> f64 {
        self.rates.iter().zip(&self.shares).map(|(rate, share)| rate * share).sum()
    }

    /// A state as found by somebody who looks at a random time.
    pub(crate) fn start(&self, stream: &mut Stream) -> ChainState {
        let state = pick(&self.shares, stream);
        ChainState { state, until_s: self.holding(state, stream) }
    }

    /// The next arrival after `now_s`; none after `end_s`. Both clocks are memoryless, so a change of state redraws the gap.
    pub(crate) fn next(&self, at: &mut ChainState, mut now_s: f64, end_s: f64, stream: &mut Stream) -> Option<f64> {
        while now_s < end_s {
            let wait: f64 = Exp1.sample(stream);
            let arrival = now_s + wait / self.rates[at.state];
            if arrival <= at.until_s {
                return Some(arrival);
            }
            now_s = at.until_s;
            at.state = pick(&self.transitions[at.state], stream);
            at.until_s = now_s + self.holding(at.state, stream);
        }
        None
    }

    fn holding(&self, state: usize, stream: &mut Stream) -> f64 {
        let unit: f64 = Exp1.sample(stream);
        unit * self.means_s[state]
    }
}

fn stochastic(key: &str, rows: &[Vec<f64>], n: usize) -> Result<Vec<Vec<f64>>, TraceError> {
    if rows.len() != n || rows.iter().any(|row| row.len() != n) {
        return Err(TraceError::setting(key, format!("not {n} rows of {n} probabilities"), "write one row a state"));
    }
    for row in rows {
        let sum: f64 = row.iter().sum();
        if row.iter().any(|p| !(0.0..=1.0).contains(p)) || (sum - 1.0).abs() > 1e-6 {
            return Err(TraceError::setting(key, format!("a row sums to {sum}"), "let each row sum to 1"));
        }
    }
    Ok(rows.to_vec())
}

/// Shares of time: the embedded chain's stationary law, weighted by the means. Averaging two steps also settles periodic chains.
fn long_run(transitions: &[Vec<f64>], means_s: &[f64]) -> Vec<f64> {
    let n = means_s.len();
    let mut visits = vec![1.0 / n as f64; n];
    for _ in 0..10_000 {
        let step = |j: usize| (0..n).map(|i| visits[i] * transitions[i][j]).sum::<f64>();
        visits = (0..n).map(|j| (visits[j] + step(j)) / 2.0).collect();
    }
    let total: f64 = visits.iter().zip(means_s).map(|(visit, mean)| visit * mean).sum();
    visits.iter().zip(means_s).map(|(visit, mean)| visit * mean / total).collect()
}

/// A position with these probabilities.
fn pick(probabilities: &[f64], stream: &mut Stream) -> usize {
    let mut left: f64 = stream.random();
    for (position, p) in probabilities.iter().enumerate() {
        if left < *p {
            return position;
        }
        left -= p;
    }
    probabilities.iter().rposition(|p| *p > 0.0).unwrap_or(0)
}
