//! One run: one policy at one point with one seed.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use aril_reports::change::{FactDigest, Recorded};
use aril_reports::{Recorder, RecorderSettings, RunInfo, SloClass, Traffic};
use aril_sim::engine::{self, Ended};
use aril_sim::fact::Observer;
use aril_sim::time::{Span, Time};
use aril_sim::workload::Catalog;
use aril_traces::{Context, TraceError, Workload};

use super::progress::Progress;
use super::{ExecutorChoice, Finished, Which, now, real};
use crate::catalog::{check_adapters, check_cut, check_pace, check_room, classify};
use crate::error::ArilError;
use crate::manifest::{self, Clock, Input};
use crate::plan::Plan;
use crate::setup::Setup;
use crate::wrong::Wrong;

/// What is offered at a point with a seed, the same to every policy.
pub(crate) struct Offer {
    pub(crate) workload: Workload,
    slo: Vec<SloClass>,
}

impl Offer {
    /// Reads and prepares the traffic.
    pub(crate) fn new(plan: &Plan, point: usize, seed: usize) -> Result<Offer, ArilError> {
        let setup = &plan.variant(point, 0).setup;
        let seed = plan.seeds[seed];
        let context = Context {
            base: &plan.directory,
            seed,
            as_recorded: seed == plan.scenario.seed,
            adapter_bytes: &|rank| setup.adapter_bytes(rank),
            max_model_len: setup.max_model_len,
        };
        let traffic = &setup.scenario.traffic;
        let mut workload = traffic.build(&context).map_err(|error| named(traffic, &plan.directory, error))?;
        let slo = classify(&setup.scenario, &plan.directory, Arc::make_mut(&mut workload.catalog))?;
        let catalog = &workload.catalog;
        for policy in 0..plan.policies.len() {
            let setup = &plan.variant(point, policy).setup;
            let cluster = setup.cluster(seed);
            check_adapters(setup, &cluster, catalog)?;
            setup.check_policies(&cluster, catalog)?;
            check_room(setup, &cluster, &workload)?;
            check_pace(&cluster, &workload)?;
            check_cut(setup, &workload)?;
        }
        Ok(Offer { workload, slo })
    }
}

impl Offer {
    /// The adapters, tenants and classes, as policies see them.
    pub(super) fn catalog(&self) -> &Catalog {
        &self.workload.catalog
    }
}

/// What is wrong with a file is told with the setting that names it.
fn named(traffic: &aril_traces::Traffic, directory: &Path, error: TraceError) -> ArilError {
    let Some(file) = error.file() else { return error.into() };
    let is = |path: &Path| file.starts_with(directory.join(path)) || file == path;
    let key = if traffic.adapters.as_deref().is_some_and(is) {
        "traffic.adapters"
    } else if traffic.trace.as_deref().is_some_and(|trace| is(Path::new(trace))) {
        "traffic.trace"
    } else if traffic.lengths.as_ref().is_some_and(|lengths| is(Path::new(&lengths.trace))) {
        "traffic.lengths.trace"
    } else {
        return error.into();
    };
    Wrong::at(key, error.to_string()).into()
}

/// What a recorder has to know of a setup.
fn recorder_settings(setup: &Setup, offer: &Offer) -> RecorderSettings {
    let scenario = &setup.scenario;
    let cluster = setup.cluster(0);
    let pools: Vec<String> = scenario.pool.names().map(str::to_owned).collect();
    let prices = scenario.pool.iter().filter_map(|(name, pool)| Some((name.to_owned(), pool.usd_per_gpu_hour?)));
    let closed = offer.workload.span().is_zero();
    RecorderSettings {
        replica_gpus: cluster.replicas.iter().map(|replica| replica.gpus).collect(),
        replica_pool: setup.replica_pool.iter().map(|&pool| pools[pool].clone()).collect(),
        replicas_on: cluster.replicas.iter().map(|replica| replica.starts_on).collect(),
        replica_kv_blocks: cluster.replicas.iter().map(|replica| replica.kv_blocks).collect(),
        slo: offer.slo.clone(),
        traffic: if closed { Traffic::Closed } else { Traffic::Open },
        warmup: warmup(setup),
        drain: scenario.report.drain,
        max_num_seqs: cluster.replicas.iter().map(|replica| replica.max_num_seqs).max().unwrap_or(1),
        usd_per_gpu_hour: prices.collect(),
        tables: scenario.report.tables,
        timeline_events: scenario.report.timeline_events,
        groups_kept: scenario.report.groups as usize,
        ..RecorderSettings::default()
    }
}

/// How much of the start is cut from averages.
pub(crate) fn warmup(setup: &Setup) -> Span {
    setup.scenario.report.warmup.unwrap_or_else(|| setup.scenario.traffic.warmup())
}

fn info(plan: &Plan, which: Which) -> RunInfo {
    RunInfo {
        policy: plan.policies[which.policy].clone(),
        seed: plan.seeds[which.seed],
        point: plan.points[which.point].values.iter().map(|(path, node)| (path.clone(), node.label())).collect(),
        bound: false,
    }
}

/// The run itself, watched by `observer`.
fn simulate(
    setup: &Setup,
    seed: u64,
    policy: &str,
    offer: &Offer,
    observer: &mut dyn Observer,
) -> Result<Ended, ArilError> {
    engine::run(
        &setup.cluster(seed),
        offer.catalog(),
        &setup.policies(),
        &mut setup.executors(seed)?,
        &mut *offer.workload.arrivals(),
        observer,
    )
    .map_err(|stalled| ArilError::Stalled { policy: policy.to_owned(), seed, stalled })
    .and_then(|ended| within_clock(setup, seed, policy, ended))
}

/// A run that nobody asked to cut, and that was cut because no run lasts longer, has no result.
pub(super) fn within_clock(setup: &Setup, seed: u64, policy: &str, ended: Ended) -> Result<Ended, ArilError> {
    if setup.scenario.horizon.is_none() && ended.at >= Time::ZERO + Span::RUN_MAX {
        return Err(ArilError::TooLong { policy: policy.to_owned(), seed });
    }
    Ok(ended)
}

/// Runs it, writes nothing, and keeps what changes are judged by.
pub(super) fn record(plan: &Plan, which: Which, offer: &Offer) -> Result<Recorded, ArilError> {
    let setup = &plan.variant(which.point, which.policy).setup;
    let (info, seed) = (info(plan, which), plan.seeds[which.seed]);
    let settings = RecorderSettings { tables: false, timeline_events: 0, ..recorder_settings(setup, offer) };
    let recorder = Recorder::create(Path::new(""), Arc::clone(&offer.workload.catalog), settings)?;
    let mut observer = (recorder, FactDigest::default());
    let ended = simulate(setup, seed, &info.policy, offer, &mut observer)?;
    let (recorder, digest) = observer;
    let result = recorder.finish(ended.at)?;
    Ok(Recorded::of(&info, &result.metrics, Some(digest.finish())))
}

/// Runs it and writes its folder.
pub(super) fn run(
    plan: &Plan,
    which: Which,
    offer: &Offer,
    (runs, inputs): (&Path, &[Input]),
    executor: ExecutorChoice,
    progress: &Progress,
) -> Result<Finished, ArilError> {
    let began = std::time::Instant::now();
    let started = now();
    let setup = &plan.variant(which.point, which.policy).setup;
    let seed = plan.seeds[which.seed];
    let info = info(plan, which);
    let folder = runs.join(info.folder());
    fs::create_dir_all(&folder).map_err(ArilError::io("create the folder", &folder))?;
    let recorder = Recorder::create(&folder, Arc::clone(&offer.workload.catalog), recorder_settings(setup, offer))?;
    let watch = progress.watch(offer.workload.len_hint());
    let mut observer = (recorder, watch);
    let loop_began = std::time::Instant::now();
    let (ended, real) = match executor {
        ExecutorChoice::Modelled => (simulate(setup, seed, &info.policy, offer, &mut observer)?, None),
        ExecutorChoice::Gpu => {
            let ready = real::Ready::new(setup, seed, offer)?;
            let gpu = ready.gpu().to_owned();
            let (ended, log) = ready.run(setup, &info.policy, offer, &mut observer)?;
            (
                ended,
                Some(format!(
                    "{} steps and {} copies of adapters on a real {gpu}; {}",
                    log.steps.len(),
                    log.loads.len(),
                    log.made()
                )),
            )
        }
    };
    let loop_seconds = Some(loop_began.elapsed().as_secs_f64());
    let (recorder, watch) = observer;
    let result = recorder.finish(ended.at)?;
    watch.finish();
    let clock = Clock { started, wall_seconds: began.elapsed().as_secs_f64(), loop_seconds, threads: 1 };
    manifest::write_run(&folder.join("manifest.toml"), plan, (which.point, which.policy, seed), inputs, &clock)?;
    let description = offer.workload.description();
    let notes = description.assigned.iter().chain(&description.notes).cloned().collect();
    Ok(Finished { info, result, coverage: ended.coverage, notes, real })
}
