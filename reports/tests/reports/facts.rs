//! An observer that keeps everything, for brute force, and one that tells a lie.

use std::collections::BTreeMap;

use aril_reports::{Recorder, RecorderSettings, ReportError, RunResult, SloClass, Traffic};
use aril_sim::fact::{End, Fact, LoadCause, Observer, Tier, Waits};
use aril_sim::time::{Span, Time};
use aril_sim::workload::Offered;

use crate::queue::{self, Setup};

/// A life, kept.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) offered: Offered,
    pub(crate) end: End,
    pub(crate) at: Time,
    pub(crate) scheduled: Option<Time>,
    pub(crate) first_token: Option<Time>,
    pub(crate) emitted: u32,
    pub(crate) waits: Waits,
    pub(crate) hit: Option<bool>,
    pub(crate) preemptions: u32,
}

impl Kept {
    pub(crate) fn wait(&self) -> Option<u64> {
        self.scheduled.map(|scheduled| scheduled.since(self.offered.request.arrival).as_ps())
    }

    pub(crate) fn ttft(&self) -> Option<u64> {
        self.first_token.map(|first| first.since(self.offered.request.arrival).as_ps())
    }

    pub(crate) fn e2e(&self) -> Option<u64> {
        (self.end == End::Finished).then(|| self.at.since(self.offered.request.arrival).as_ps())
    }

    pub(crate) fn tpot(&self) -> Option<f64> {
        let gaps = f64::from(self.emitted) - 1.0;
        (gaps > 0.0).then(|| Some((self.e2e()? - self.ttft()?) as f64 / gaps)).flatten()
    }
}

/// Everything that was told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) lives: Vec<Kept>,
    /// When each token of each request was there, step by step.
    pub(crate) tokens: BTreeMap<u32, Vec<Time>>,
    /// Copies from host to GPU by adapter.
    pub(crate) loads: BTreeMap<usize, u64>,
    pub(crate) loads_from_disk: u64,
    /// Loads ahead of need, from the host and from the disk.
    pub(crate) prefetches: [u64; 2],
    pub(crate) evictions: u64,
    pub(crate) preemptions: u64,
    /// Tokens of prompts that preemptions cut.
    pub(crate) cut: u64,
    pub(crate) stall_ps: u64,
    /// Time in steps by rows.
    pub(crate) busy_ps: BTreeMap<usize, u64>,
    pub(crate) on: Vec<(Time, u32)>,
    pub(crate) stretches: u64,
    pub(crate) padding_row_steps: u64,
    /// KV blocks in use, times the time of the stretch from its start to its end, and that time.
    pub(crate) kv_block_ps: u128,
    pub(crate) stretch_ps: u128,
    pub(crate) kv_peak: u32,
    /// From when to when so many output tokens came.
    pub(crate) output: Vec<(Time, Time, u64)>,
}

impl Observer for Told {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match fact {
            Fact::Stretch(stretch) => {
                self.stretches += 1;
                self.stall_ps += stretch.stall.as_ps();
                *self.busy_ps.entry(stretch.rows.len()).or_default() +=
                    stretch.end().since(stretch.start).as_ps() - stretch.stall.as_ps();
                self.padding_row_steps += u64::from(stretch.padding_rows * stretch.steps);
                let whole_ps = u128::from(stretch.end().since(stretch.start).as_ps());
                self.kv_block_ps += u128::from(stretch.kv_blocks_used) * whole_ps;
                self.stretch_ps += whole_ps;
                self.kv_peak = self.kv_peak.max(stretch.kv_blocks_used);
                let emitting = stretch.rows.iter().filter(|row| row.emits).collect::<Vec<_>>();
                let tokens = emitting.len() as u64 * u64::from(stretch.steps);
                self.output.push((stretch.start, stretch.end(), tokens));
                for row in emitting {
                    for step in 0..stretch.steps {
                        let end = stretch.step_end(step);
                        self.tokens.entry(row.request.0).or_default().push(end);
                    }
                }
            }
            Fact::LoadStarted { from, adapter, cause, .. } => {
                let is_disk = *from == Tier::Disk;
                self.prefetches[usize::from(is_disk)] += u64::from(*cause == LoadCause::Prefetch);
                match is_disk {
                    true => self.loads_from_disk += 1,
                    false => *self.loads.entry(adapter.index()).or_default() += 1,
                }
            }
            Fact::Preempted { cut, .. } => {
                self.preemptions += 1;
                self.cut += u64::from(*cut);
            }
            Fact::Evicted { .. } => self.evictions += 1,
            Fact::Power { replica, .. } => self.on.push((now, replica.0)),
            Fact::Ended(life) => self.lives.push(Kept {
                offered: life.offered.clone(),
                end: life.end,
                at: now,
                scheduled: life.scheduled,
                first_token: life.first_token,
                emitted: life.emitted,
                waits: life.waits,
                hit: life.adapter_hit,
                preemptions: life.preemptions,
            }),
            _ => {}
        }
    }
}

/// Settings that fit a setup.
pub(crate) fn settings(setup: &Setup) -> RecorderSettings {
    let replicas = setup.replicas as usize;
    let class = |name: &str, ttft, tpot| SloClass {
        name: name.to_owned(),
        ttft: Some(Span::from_ms(ttft)),
        tpot: Some(Span::from_ms(tpot)),
        attainment: Some(0.95),
    };
    RecorderSettings {
        replica_gpus: vec![2; replicas],
        replica_pool: vec!["pool".to_owned(); replicas],
        replicas_on: vec![false; replicas],
        replica_kv_blocks: vec![setup.kv_blocks; replicas],
        slo: vec![class("gold", 60, 17), class("standard", 200, 25)],
        traffic: Traffic::Open,
        warmup: Span::from_secs(20),
        drain: Span::from_secs(10),
        max_num_seqs: setup.batch as u32,
        usd_per_gpu_hour: BTreeMap::from([("pool".to_owned(), 2.5)]),
        tables: false,
        timeline_events: 0,
        ..RecorderSettings::default()
    }
}

/// Runs a setup under a recorder and under an observer that keeps everything.
pub(crate) fn record(setup: &Setup, settings: RecorderSettings) -> (Told, Result<RunResult, ReportError>) {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Told::default();
    let mut recorder = Recorder::create(folder.path(), setup.catalog(), settings).unwrap();
    let ended_at = queue::run(setup, &mut (&mut told, &mut recorder));
    (told, recorder.finish(ended_at))
}
