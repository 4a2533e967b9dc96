//! A real run and its simulation beside each other: step by step, copy by copy, request by request.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

use aril_sim::fact::{End, Fact, Observer};
use aril_sim::time::Time;
use aril_sim::workload::RequestId;
use serde::Serialize;
use statrs::statistics::{Data, Distribution, OrderStatistics};

use crate::executor::{Log, Made};

/// What a request got.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Got {
    /// From arrival to its first token, seconds.
    pub ttft_s: f64,
    /// From arrival to its last token, seconds.
    pub e2e_s: f64,
    /// Output tokens.
    pub tokens: u32,
}

/// Every finished request of a run, and when the run ended: an observer whose findings are read when the run is over.
#[derive(Clone, Debug, Default)]
pub struct Lives(Rc<RefCell<BTreeMap<RequestId, Got>>>, Rc<RefCell<f64>>);

impl Observer for Lives {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        let seconds = |time: Time| time.since(Time::ZERO).as_secs_f64();
        *self.1.borrow_mut() = seconds(now);
        if let Fact::Ended(life) = fact
            && life.end == End::Finished
            && let Some(first) = life.first_token
        {
            let arrival = seconds(life.offered.request.arrival);
            let got = Got { ttft_s: seconds(first) - arrival, e2e_s: seconds(now) - arrival, tokens: life.emitted };
            self.0.borrow_mut().insert(life.offered.request.id, got);
        }
    }
}

impl Lives {
    /// What each finished request got.
    pub fn got(&self) -> BTreeMap<RequestId, Got> {
        self.0.borrow().clone()
    }

    /// When the run ended, seconds.
    pub fn end_s(&self) -> f64 {
        *self.1.borrow()
    }
}

/// One figure of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// What.
    pub what: String,
    /// Its unit.
    pub unit: &'static str,
    /// Of the real run.
    pub real: f64,
    /// Of the simulation.
    pub simulated: f64,
    /// How far they may be apart, percent; none if nothing was promised.
    pub within_percent: Option<f64>,
}

impl Pair {
    /// Simulated over real, less one, percent.
    pub fn percent(&self) -> f64 {
        if self.real == 0.0 { 0.0 } else { (self.simulated / self.real - 1.0) * 100.0 }
    }
}

/// How far modelled figures are from real ones, one by one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OneByOne {
    /// Of what.
    pub of: String,
    /// How many.
    pub count: usize,
    /// Median of |modelled / real − 1|, percent.
    pub median_percent: f64,
    /// Its 95th percentile, percent.
    pub p95_percent: f64,
    /// Mean of modelled / real − 1, percent.
    pub mean_signed_percent: f64,
}

/// A real run beside its simulation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Validation {
    /// Figures of the whole run.
    pub pairs: Vec<Pair>,
    /// Steps, copies and requests, one by one.
    pub one_by_one: Vec<OneByOne>,
    /// Steps that were really computed.
    pub steps: usize,
    /// Seconds that the GPU spent on them.
    pub busy_s: f64,
    /// Adapters that were really copied.
    pub loads: usize,
    /// Copies that a step had to make itself, because nobody had announced them.
    pub unannounced: usize,
    /// What steps made to keep that warming up had not met.
    #[serde(flatten)]
    pub made: Made,
}

/// Sets both runs beside each other. `load_us` says what the profile thinks of a copy of an adapter of a rank.
pub fn validate(real: &Lives, simulated: &Lives, log: &Log, load_us: impl Fn(u32) -> f64) -> Validation {
    let (ours, theirs) = (real.got(), simulated.got());
    let of = |run: &BTreeMap<RequestId, Got>, value: &dyn Fn(&Got) -> Option<f64>| -> Vec<f64> {
        run.values().filter_map(value).collect()
    };
    let pair = |what: &str, unit, within, value: &dyn Fn(&BTreeMap<RequestId, Got>, f64) -> f64| Pair {
        what: what.to_owned(),
        unit,
        real: value(&ours, real.end_s()),
        simulated: value(&theirs, simulated.end_s()),
        within_percent: within,
    };
    let tpot = |got: &Got| (got.tokens > 1).then(|| (got.e2e_s - got.ttft_s) / f64::from(got.tokens - 1) * 1e3);
    let ttft = |got: &Got| Some(got.ttft_s * 1e3);
    let tokens = |run: &BTreeMap<RequestId, Got>| run.values().map(|got| f64::from(got.tokens)).sum::<f64>();
    let pairs = vec![
        pair("requests finished", "", None, &|run, _| run.len() as f64),
        pair("output tokens a second", "1/s", Some(2.0), &|run, end| tokens(run) / end.max(1e-9)),
        pair("mean TPOT", "ms", Some(3.0), &|run, _| mean(&of(run, &tpot))),
        pair("p99 TPOT", "ms", None, &|run, _| percentile(&of(run, &tpot), 99)),
        pair("mean TTFT", "ms", None, &|run, _| mean(&of(run, &ttft))),
        pair("p99 TTFT", "ms", Some(5.0), &|run, _| percentile(&of(run, &ttft), 99)),
    ];
    let steps = |name: &str, keep: &dyn Fn(&crate::executor::RealStep) -> bool| {
        let pairs = log.steps.iter().filter(|step| keep(step)).map(|step| (step.modelled_us, step.us));
        one_by_one(name, pairs)
    };
    let both = || ours.iter().filter_map(|(id, got)| Some((theirs.get(id)?, got)));
    let mut each = vec![
        steps("steps", &|_| true),
        steps("steps, decode", &|step| step.prompts.is_empty()),
        steps("steps, with a prompt", &|step| !step.prompts.is_empty()),
        steps("steps, with adapters", &|step| !step.segments.is_empty()),
        one_by_one("copies", log.loads.iter().map(|load| (load_us(load.rank), load.us))),
        one_by_one("TTFT by request", both().map(|(a, b)| (a.ttft_s, b.ttft_s))),
        one_by_one("E2E by request", both().map(|(a, b)| (a.e2e_s, b.e2e_s))),
    ];
    each.retain(|one| one.count > 0);
    Validation {
        pairs,
        one_by_one: each,
        steps: log.steps.len(),
        busy_s: log.steps.iter().map(|step| step.us).sum::<f64>() * 1e-6,
        loads: log.loads.len(),
        unannounced: log.loads.iter().filter(|load| !load.announced).count(),
        made: log.made(),
    }
}

fn one_by_one(of: &str, pairs: impl Iterator<Item = (f64, f64)>) -> OneByOne {
    let signed: Vec<f64> =
        pairs.filter(|(_, real)| *real > 0.0).map(|(modelled, real)| (modelled / real - 1.0) * 100.0).collect();
    let sizes: Vec<f64> = signed.iter().map(|percent| percent.abs()).collect();
    OneByOne {
        of: of.to_owned(),
        count: signed.len(),
        median_percent: percentile(&sizes, 50),
        p95_percent: percentile(&sizes, 95),
        mean_signed_percent: mean(&signed),
    }
}

fn mean(values: &[f64]) -> f64 {
    Data::new(values.to_vec()).mean().unwrap_or(0.0)
}

fn percentile(values: &[f64], percent: usize) -> f64 {
    if values.is_empty() { 0.0 } else { Data::new(values.to_vec()).percentile(percent) }
}

impl fmt::Display for Validation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} steps really computed in {:.1} s, {} adapters really copied{}",
            self.steps,
            self.busy_s,
            self.loads,
            if self.unannounced > 0 { format!(" ({} unannounced)", self.unannounced) } else { String::new() }
        )?;
        writeln!(f, "{}", self.made)?;
        writeln!(f, "{:<26} {:>12} {:>12} {:>9}", "", "real", "simulated", "apart")?;
        for pair in &self.pairs {
            let verdict = match pair.within_percent {
                Some(within) if pair.percent().abs() <= within => format!("  within {within} %"),
                Some(within) => format!("  MISSES {within} %"),
                None => String::new(),
            };
            let name = if pair.unit.is_empty() { pair.what.clone() } else { format!("{}, {}", pair.what, pair.unit) };
            writeln!(f, "{name:<26} {:>12.2} {:>12.2} {:>+8.2} %{verdict}", pair.real, pair.simulated, pair.percent())?;
        }
        for one in &self.one_by_one {
            writeln!(
                f,
                "{:<22} {:>6}: median {:.2} %, 95th percentile {:.2} %, mean {:+.2} %",
                one.of, one.count, one.median_percent, one.p95_percent, one.mean_signed_percent
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 200 requests that wait 1, 2, … 200 ms times `waits` and take 10 ms times `gaps` for each further token, of which the first has none.
    fn lives(waits: f64, gaps: f64) -> Lives {
        let lives = Lives::default();
        for n in 1..=200_u32 {
            let (ttft_s, tokens) = (f64::from(n) * 1e-3 * waits, if n == 1 { 1 } else { 11 });
            let got = Got { ttft_s, e2e_s: ttft_s + f64::from(tokens - 1) * 10e-3 * gaps, tokens };
            lives.0.borrow_mut().insert(RequestId(n), got);
        }
        *lives.1.borrow_mut() = 4.0;
        lives
    }

    fn set_beside(waits: f64, gaps: f64) -> Validation {
        validate(&lives(1.0, 1.0), &lives(waits, gaps), &Log::default(), |_| 1.0)
    }

    #[test]
    fn figures_are_of_all_requests_and_verdicts_of_what_was_promised() {
        let found = set_beside(1.04, 0.98);
        let of = |what: &str| found.pairs.iter().find(|pair| pair.what == what).expect("a figure");
        let near = |what: &str, real: f64, percent: f64| {
            let pair = of(what);
            assert!((pair.real - real).abs() < 1e-9 * real, "{pair:?}");
            assert!((pair.percent() - percent).abs() < 1e-9, "{pair:?}");
        };
        near("requests finished", 200.0, 0.0);
        near("output tokens a second", (1.0 + 199.0 * 11.0) / 4.0, 0.0);
        near("mean TPOT", 10.0, -2.0);
        near("mean TTFT", 100.5, 4.0);
        let (p99, percent) = (of("p99 TTFT").real, of("p99 TTFT").percent());
        assert!((197.5..199.5).contains(&p99) && (percent - 4.0).abs() < 1e-9, "{p99} {percent}");
        let ttft = found.one_by_one.iter().find(|one| one.of == "TTFT by request").expect("one by one");
        assert_eq!(ttft.count, 200);
        assert!((ttft.median_percent - 4.0).abs() < 1e-9 && (ttft.mean_signed_percent - 4.0).abs() < 1e-9);
        let verdict = |validation: &Validation, what: &str| {
            let text = validation.to_string();
            let line = text.lines().find(|line| line.starts_with(what)).expect("a line").to_owned();
            line.contains("MISSES")
        };
        assert!(!verdict(&found, "mean TPOT") && !verdict(&found, "p99 TTFT"));
        let far = set_beside(1.06, 1.04);
        assert!(verdict(&far, "mean TPOT") && verdict(&far, "p99 TTFT") && !verdict(&far, "output tokens"));
        let short = set_beside(0.94, 0.96);
        assert!(verdict(&short, "mean TPOT") && verdict(&short, "p99 TTFT"), "too short is as far");
    }
}
