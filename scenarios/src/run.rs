//! Runs everything a plan asks for, on all cores, into one run directory.

mod expectation;
mod job;
mod progress;
mod real;
mod trust;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use aril_reports::change::Recorded;
use aril_reports::{Existing, Expectation, ReportInput, RunDir, RunInfo, RunResult, Summary};
use aril_sim::batch::Coverage;
use rayon::prelude::*;

use crate::error::ArilError;
use crate::interrupt;
use crate::manifest::{self, Clock, Input};
use crate::plan::{BEST, Plan};
pub(crate) use job::warmup;
use progress::Progress;
pub use real::validate;

/// How a plan is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The run directory.
    pub out: PathBuf,
    /// What to do with one that is already there.
    pub existing: Existing,
    /// How many threads; all cores, unless set. Never more than runs, nor than four a core.
    pub threads: Option<usize>,
    /// Who runs the steps.
    pub executor: ExecutorChoice,
    /// Draw a progress bar, if standard error is a terminal?
    pub progress: bool,
}

/// Who runs the steps?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExecutorChoice {
    /// The cost model.
    #[default]
    Modelled,
    /// A real GPU: one run after the other.
    Gpu,
}

/// What came out.
pub struct Outcome {
    /// The run directory.
    pub directory: PathBuf,
    /// Every number.
    pub summary: Summary,
}

/// One finished run.
struct Finished {
    info: RunInfo,
    result: RunResult,
    coverage: Vec<Coverage>,
    notes: Vec<String>,
    /// What was really run, if it was.
    real: Option<String>,
}

/// Which run: point, position of the policy, position of the seed.
#[derive(Clone, Copy)]
struct Which {
    point: usize,
    policy: usize,
    seed: usize,
}

/// Runs a plan.
///
/// # Errors
/// The first run, in the order of the plan, that failed of those begun; anything that cannot be written. Nothing is left behind.
pub fn run(plan: &Plan, inputs: &[Input], options: &Options) -> Result<Outcome, ArilError> {
    let began = Instant::now();
    let started = now();
    let directory = RunDir::create(&options.out, options.existing)?;
    let guard = interrupt::guard(directory.path(), directory.made());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(if options.executor == ExecutorChoice::Gpu { 1 } else { threads(options.threads, plan.runs()) })
        .build()
        .map_err(|error| ArilError::io("start threads for", &options.out)(std::io::Error::other(error)))?;
    let threads = pool.current_num_threads();
    let progress = Progress::new(plan, options.progress);
    let runs = directory.path();
    let finished = pool.install(|| everything(plan, runs, inputs, options.executor, &progress))?;
    progress.writing();
    let input = report_input(plan, finished)?;
    let written = aril_reports::write(&input, directory.path())?;
    let clock = Clock { started, wall_seconds: began.elapsed().as_secs_f64(), loop_seconds: None, threads };
    manifest::write_whole(&directory.path().join("manifest.toml"), plan, inputs, &clock)?;
    drop(guard);
    let summary = Summary::of(&input);
    let target = directory.commit()?;
    progress.finish();
    drop(written);
    Ok(Outcome { directory: target, summary })
}

/// How many threads are of use: more than runs have nothing to do, and many more than cores only take memory. 0: all cores.
pub(crate) fn threads(asked: Option<usize>, runs: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    asked.map_or(0, |asked| asked.min(runs).min(4 * cores).max(1))
}

/// All runs, in the order of the plan.
fn everything(
    plan: &Plan,
    runs: &std::path::Path,
    inputs: &[Input],
    executor: ExecutorChoice,
    progress: &Progress,
) -> Result<Vec<Finished>, ArilError> {
    let groups: Vec<(usize, usize)> =
        (0..plan.points.len()).flat_map(|point| (0..plan.seeds.len()).map(move |seed| (point, seed))).collect();
    let failed = AtomicBool::new(false);
    let first_error: Mutex<Option<(usize, ArilError)>> = Mutex::new(None);
    let fail = |order: usize, error: ArilError| {
        failed.store(true, Ordering::Relaxed);
        let mut first = first_error.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if first.as_ref().is_none_or(|(before, _)| order < *before) {
            *first = Some((order, error));
        }
    };
    // One workload a point and seed: every policy sees the same requests.
    let results: Vec<Option<Finished>> = groups
        .par_iter()
        .flat_map(|&(point, seed)| {
            let order = (point * plan.seeds.len() + seed) * plan.policies.len();
            let skip = || (0..plan.policies.len()).map(|_| None).collect::<Vec<_>>();
            if failed.load(Ordering::Relaxed) {
                return skip();
            }
            let traffic = match job::Offer::new(plan, point, seed) {
                Ok(traffic) => traffic,
                Err(error) => {
                    fail(order, error);
                    return skip();
                }
            };
            (0..plan.policies.len())
                .into_par_iter()
                .map(|policy| {
                    if failed.load(Ordering::Relaxed) {
                        return None;
                    }
                    let which = Which { point, policy, seed };
                    match job::run(plan, which, &traffic, (runs, inputs), executor, progress) {
                        Ok(finished) => Some(finished),
                        Err(error) => {
                            fail(order + policy, error);
                            None
                        }
                    }
                })
                .collect()
        })
        .collect();
    match first_error.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        Some((_, error)) => Err(error),
        None => Ok(by_policy(plan, results.into_iter().flatten().collect())),
    }
}

/// From point, seed, policy to point, policy, seed: the order of the scenario.
fn by_policy(plan: &Plan, finished: Vec<Finished>) -> Vec<Finished> {
    let (seeds, policies) = (plan.seeds.len(), plan.policies.len());
    let mut slots: Vec<Option<Finished>> = finished.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(slots.len());
    for point in 0..plan.points.len() {
        for policy in 0..policies {
            for seed in 0..seeds {
                ordered.extend(slots[(point * seeds + seed) * policies + policy].take());
            }
        }
    }
    ordered
}

fn report_input(plan: &Plan, finished: Vec<Finished>) -> Result<ReportInput, ArilError> {
    let trust = trust::of(plan, &finished);
    let expectations: Vec<Expectation> = match &plan.scenario.expect {
        Some(expect) => expectation::tables(plan, expect, &finished)?,
        None => Vec::new(),
    };
    let compare = plan.scenario.compare.as_ref();
    let baseline = compare
        .and_then(|compare| compare.baseline.clone())
        .filter(|name| name != BEST && plan.policies.contains(name));
    Ok(ReportInput {
        name: plan.scenario.name.clone(),
        description: plan.scenario.description.clone(),
        trust,
        runs: finished.into_iter().map(|run| (run.info, run.result)).collect(),
        baseline,
        primary: compare.map(|compare| compare.primary).unwrap_or_default(),
        expectations,
    })
}

/// The date and time, to the second.
pub(crate) fn now() -> String {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let date = i64::try_from(seconds).ok().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    date.map_or_else(String::new, |date| date.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}

/// Reads everything that a plan's runs would read, for every point with the first seed, and runs nothing.
///
/// # Errors
/// Whatever the first run at that point would stumble on before it starts.
pub fn check(plan: &Plan) -> Result<(), ArilError> {
    for point in 0..plan.points.len() {
        job::Offer::new(plan, point, 0)?;
    }
    if let Some(expect) = &plan.scenario.expect {
        expectation::Published::read(plan, expect)?;
    }
    Ok(())
}

/// The traffic of a point with a seed, both by position.
///
/// # Errors
/// Whatever is wrong with it.
pub fn offer(plan: &Plan, point: usize, seed: usize) -> Result<aril_traces::Workload, ArilError> {
    Ok(job::Offer::new(plan, point, seed)?.workload)
}

/// What every policy gives at a point with a seed, both by position; nothing is written.
///
/// # Errors
/// Whatever is wrong with the traffic; the first policy that comes to a standstill.
pub(crate) fn recorded(plan: &Plan, point: usize, seed: usize) -> Result<Vec<Recorded>, ArilError> {
    let offer = job::Offer::new(plan, point, seed)?;
    (0..plan.policies.len())
        .into_par_iter()
        .map(|policy| job::record(plan, Which { point, policy, seed }, &offer))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_never_more_than_runs_or_four_a_core() {
        assert_eq!(threads(None, 1), 0);
        assert_eq!(threads(Some(1000), 3), 3.min(threads(Some(1000), usize::MAX)));
        assert!(threads(Some(999_999_999), usize::MAX) <= 4096 * 4);
        assert_eq!(threads(Some(2), 100), 2);
    }
}
