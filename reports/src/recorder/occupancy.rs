//! What the GPUs did: held, busy, how full, and when.

use aril_sim::fact::{Power, Stretch};
use aril_sim::workload::ReplicaId;

use super::series;
use crate::settings::RecorderSettings;
use crate::time_bins::TimeBins;

/// What the GPUs did over a run. Times are picoseconds, times GPUs where the name says so.
pub(crate) struct Occupancy {
    gpus: Vec<u32>,
    held_since: Vec<Option<u64>>,
    /// Intervals in which each replica was held, closed ones first.
    pub(crate) held: Vec<Vec<(u64, u64)>>,
    /// GPU time in steps, without stalls.
    pub(crate) busy_gpu_ps: u128,
    /// GPU time that blocking loads held up.
    pub(crate) stall_gpu_ps: u128,
    /// GPU time in steps, by rows in the step.
    pub(crate) busy_by_rows: Vec<u128>,
    /// Rows computed for padding, times their steps.
    pub(crate) padding_row_steps: u128,
    pub(crate) steps: u64,
    pub(crate) stretches: u64,
    /// Rows in the batch over time, a series a replica.
    pub(crate) rows: TimeBins,
    /// KV blocks in use at stretch ends, times the time of the stretch, and that time; then the peak. By replica.
    pub(crate) kv: Vec<(u128, u128, u32)>,
}

impl Occupancy {
    pub(crate) fn new(settings: &RecorderSettings) -> Occupancy {
        let replicas = settings.replica_gpus.len();
        Occupancy {
            gpus: settings.replica_gpus.clone(),
            held_since: settings.replicas_on.iter().map(|on| on.then_some(0)).collect(),
            held: vec![Vec::new(); replicas],
            busy_gpu_ps: 0,
            stall_gpu_ps: 0,
            busy_by_rows: Vec::new(),
            padding_row_steps: 0,
            steps: 0,
            stretches: 0,
            rows: TimeBins::new(replicas),
            kv: vec![(0, 0, 0); replicas],
        }
    }

    pub(crate) fn stretch(&mut self, stretch: &Stretch<'_>, over_time: &mut TimeBins) {
        let replica = stretch.replica.index();
        let Some(&gpus) = self.gpus.get(replica) else { return };
        let (start, stall, end) = (stretch.start.as_ps(), stretch.stall.as_ps(), stretch.end().as_ps());
        let busy = u128::from(end - start - stall) * u128::from(gpus);
        let rows = stretch.rows.len();
        self.busy_gpu_ps += busy;
        self.stall_gpu_ps += u128::from(stall) * u128::from(gpus);
        if rows >= self.busy_by_rows.len() {
            self.busy_by_rows.resize(rows + 1, 0);
        }
        self.busy_by_rows[rows] += busy;
        self.padding_row_steps += u128::from(stretch.padding_rows) * u128::from(stretch.steps);
        self.steps += u64::from(stretch.steps);
        self.stretches += 1;
        self.rows.integrate(replica, start, end, rows as u64);
        over_time.integrate(series::BUSY_GPUS, start + stall, end, gpus.into());
        let (blocks, time, peak) = &mut self.kv[replica];
        *blocks += u128::from(stretch.kv_blocks_used) * u128::from(end - start);
        *time += u128::from(end - start);
        *peak = (*peak).max(stretch.kv_blocks_used);
    }

    pub(crate) fn power(&mut self, now: u64, replica: ReplicaId, power: Power, over_time: &mut TimeBins) {
        let Some(since) = self.held_since.get_mut(replica.index()) else { return };
        match (*since, power) {
            (Some(from), Power::Off) => {
                *since = None;
                self.release(replica.index(), from, now, over_time);
            }
            (None, Power::Starting | Power::On | Power::Draining) => *since = Some(now),
            _ => {}
        }
    }

    /// Ends what is still held at the end of the run.
    pub(crate) fn close(&mut self, ended_at: u64, over_time: &mut TimeBins) {
        for replica in 0..self.held_since.len() {
            if let Some(from) = self.held_since[replica].take() {
                self.release(replica, from, ended_at, over_time);
            }
        }
    }

    /// GPU time held by a replica between two instants.
    pub(crate) fn held_gpu_ps(&self, replica: usize, from: u64, to: u64) -> u128 {
        let overlap = |&(start, end): &(u64, u64)| u128::from(end.min(to).saturating_sub(start.max(from)));
        self.held[replica].iter().map(overlap).sum::<u128>() * u128::from(self.gpus[replica])
    }

    fn release(&mut self, replica: usize, from: u64, to: u64, over_time: &mut TimeBins) {
        self.held[replica].push((from, to));
        over_time.integrate(series::HELD_GPUS, from, to, self.gpus[replica].into());
    }
}
