//! A law made ready to draw from.

use aril_sim::random::Stream;
use aril_sim::time::Span;
use rand_distr::{Distribution, Exp1, Gamma};

use crate::arrivals::modulated::{Chain, ChainState, Rate};
use crate::arrivals::{ArrivalLaw, Phase};
use crate::error::TraceError;

const PS: f64 = 1e12;

/// A checked law.
#[derive(Clone, Debug)]
pub(crate) enum Process {
    Closed,
    Constant { gap_ps: f64 },
    Gamma { gaps: Gamma<f64>, mean_s: f64 },
    Chain(Chain),
    Varying(Rate),
}

impl Process {
    /// Checks a law; `window` is where a law needs to know its own length.
    pub(crate) fn new(law: &ArrivalLaw, window: Option<Span>) -> Result<Process, TraceError> {
        let window = |key: &str| {
            window.filter(|window| !window.is_zero()).map(Span::as_secs_f64).ok_or_else(|| {
                TraceError::setting(key, "the law goes over a window", "set `window = { duration = \"1h\" }`")
            })
        };
        Ok(match law {
            ArrivalLaw::Trace => {
                return Err(TraceError::setting(
                    "arrivals",
                    "there is no trace",
                    "name one under `trace`, or choose another law",
                ));
            }
            ArrivalLaw::Closed => Process::Closed,
            ArrivalLaw::Constant { rate } => {
                Process::Constant { gap_ps: PS / positive("arrivals.constant.rate", *rate)? }
            }
            ArrivalLaw::Poisson { rate } => Process::Varying(Rate::Constant(positive("arrivals.poisson.rate", *rate)?)),
            ArrivalLaw::Gamma { rate, cv } => {
                let mean_s = 1.0 / positive("arrivals.gamma.rate", *rate)?;
                let shape = positive("arrivals.gamma.cv", *cv)?.powi(-2);
                let gaps = Gamma::new(shape, mean_s / shape).map_err(|error| {
                    TraceError::setting("arrivals.gamma", error.to_string(), "choose a cv between 0.001 and 1000")
                })?;
                Process::Gamma { gaps, mean_s }
            }
            ArrivalLaw::OnOff { rate_on, rate_off, on, off } => {
                positive("arrivals.on-off.rate_on", *rate_on)?;
                Process::Chain(Chain::on_off(*rate_on, *rate_off, *on, *off)?)
            }
            ArrivalLaw::Mmpp { states, transitions } => Process::Chain(Chain::new(states, transitions.as_deref())?),
            ArrivalLaw::Diurnal { peak, trough, period, peak_at } => {
                let (low, high) =
                    (not_negative("arrivals.diurnal.trough", *trough)?, positive("arrivals.diurnal.peak", *peak)?);
                if low > high {
                    return Err(TraceError::setting(
                        "arrivals.diurnal",
                        "the trough is above the peak",
                        "exchange them",
                    ));
                }
                let period_s = positive("arrivals.diurnal.period", period.as_secs_f64())?;
                Process::Varying(Rate::Cosine { low, high, period_s, peak_at_s: peak_at.as_secs_f64() })
            }
            ArrivalLaw::Ramp { from, to } => {
                let points = vec![(0.0, *from), (window("arrivals.ramp")?, *to)];
                Process::Varying(Rate::piecewise("arrivals.ramp", points)?)
            }
            ArrivalLaw::Piecewise { points } => {
                let points = points.iter().map(|(at, rate)| (at.as_secs_f64(), *rate)).collect();
                Process::Varying(Rate::piecewise("arrivals.piecewise.points", points)?)
            }
            ArrivalLaw::Vary { rps, starts } => {
                let high = positive("arrivals.vary.rps", *rps)?;
                let period_s = window("arrivals.vary")?;
                let peak_at_s = if *starts == Phase::Trough { period_s / 2.0 } else { 0.0 };
                Process::Varying(Rate::Cosine { low: high * 0.2 / 2.2, high, period_s, peak_at_s })
            }
        })
    }

    /// Requests expected in the first `span` of it; none if all come at once.
    pub(crate) fn expected(&self, span: Span) -> Option<f64> {
        let span_s = span.as_secs_f64();
        match self {
            Process::Closed => None,
            Process::Constant { gap_ps } => Some(span_s * PS / gap_ps),
            Process::Gamma { mean_s, .. } => Some(span_s / mean_s),
            Process::Chain(chain) => Some(span_s * chain.mean_rate()),
            Process::Varying(rate) => Some(rate.integral(span_s)),
        }
    }
}

/// The arrivals of a process, ps from the start: before `end_ps` and at most `limit`.
pub(crate) struct Times {
    process: Process,
    stream: Stream,
    now_ps: u64,
    end_ps: u64,
    left: u64,
    state: Option<ChainState>,
    count: u64,
}

impl Times {
    pub(crate) fn new(process: &Process, stream: Stream, end_ps: u64, limit: u64) -> Times {
        Times { process: process.clone(), stream, now_ps: 0, end_ps, left: limit, state: None, count: 0 }
    }

    /// The next instant, or none if it is beyond the clock.
    fn draw(&mut self) -> Option<u64> {
        let gap = |now_ps: u64, seconds: f64| now_ps.checked_add(Span::from_secs_f64(seconds).as_ps());
        match &self.process {
            Process::Closed => Some(0),
            Process::Constant { gap_ps } => {
                let at = gap_ps * self.count as f64;
                (at < u64::MAX as f64).then_some(at.round() as u64)
            }
            Process::Gamma { gaps, .. } => gap(self.now_ps, gaps.sample(&mut self.stream)),
            Process::Chain(chain) => {
                let stream = &mut self.stream;
                let state = self.state.get_or_insert_with(|| chain.start(stream));
                chain
                    .next(state, self.now_ps as f64 / PS, self.end_ps as f64 / PS, stream)
                    .map(|s| (s * PS).round() as u64)
            }
            Process::Varying(rate) => {
                let top = rate.top();
                loop {
                    let wait: f64 = Exp1.sample(&mut self.stream);
                    let at = gap(self.now_ps, wait / top).filter(|at| *at < self.end_ps)?;
                    self.now_ps = at;
                    if rate.accepts(at as f64 / PS, &mut self.stream) {
                        return Some(at);
                    }
                }
            }
        }
    }
}

impl Iterator for Times {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        if self.left == 0 {
            return None;
        }
        let at = self.draw().filter(|at| *at < self.end_ps);
        self.left = if at.is_some() { self.left - 1 } else { 0 };
        self.now_ps = at?.max(self.now_ps);
        self.count += 1;
        Some(self.now_ps)
    }
}

/// A number above zero.
pub(crate) fn positive(key: &str, value: f64) -> Result<f64, TraceError> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(TraceError::setting(key, format!("{value} is not above zero"), "write a finite number above zero"))
}

/// A number from zero on.
pub(crate) fn not_negative(key: &str, value: f64) -> Result<f64, TraceError> {
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(TraceError::setting(key, format!("{value} is negative or no number"), "write a finite number from zero on"))
}
