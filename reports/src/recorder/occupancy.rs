//! What the GPUs did: held, busy, how full, and when.

use aril_sim::fact::Power;
use aril_sim::workload::ReplicaId;

use super::series;
use super::tables::StepRow;
use crate::settings::RecorderSettings;
use crate::time_bins::TimeBins;

/// What the GPUs did over a run. Times are picoseconds, times GPUs where the name says so.
pub(crate) struct Occupancy {
    pub(crate) replicas: Vec<OfReplica>,
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
    /// Rows in the batch over time, a series for each so many replicas.
    pub(crate) rows: TimeBins,
    pub(crate) replicas_per_series: usize,
}

/// More series of rows over time than this are not shown, and would outgrow the caches: replicas side by side share one.
const SERIES_MAX: usize = 200;

/// What every stretch of a replica looks at and changes: half a line of memory, since the run has been elsewhere meanwhile.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
pub(crate) struct OfReplica {
    /// KV blocks in use at stretch ends, times the time of the stretch, its stall included: blocks are held meanwhile.
    pub(crate) kv_block_ps: u128,
    /// The time of its stretches.
    pub(crate) time: u64,
    /// The largest number of KV blocks in use at the end of a stretch.
    pub(crate) kv_peak: u32,
    gpus: u32,
}

impl Occupancy {
    pub(crate) fn new(settings: &RecorderSettings) -> Occupancy {
        let replicas = settings.replica_gpus.len();
        let replicas_per_series = replicas.div_ceil(SERIES_MAX).max(1);
        let of = |gpus: &u32| OfReplica { gpus: *gpus, ..OfReplica::default() };
        Occupancy {
            replicas: settings.replica_gpus.iter().map(of).collect(),
            held_since: settings.replicas_on.iter().map(|on| on.then_some(0)).collect(),
            held: vec![Vec::new(); replicas],
            busy_gpu_ps: 0,
            stall_gpu_ps: 0,
            busy_by_rows: Vec::new(),
            padding_row_steps: 0,
            steps: 0,
            stretches: 0,
            rows: TimeBins::new(replicas.div_ceil(replicas_per_series)),
            replicas_per_series,
        }
    }

    /// How many GPUs has the replica?
    pub(super) fn gpus_of(&self, replica: u32) -> u32 {
        self.replicas.get(replica as usize).map_or(0, |replica| replica.gpus)
    }

    /// A stretch of a replica of so many GPUs, which ended at `end`.
    pub(super) fn stretch(&mut self, stretch: &StepRow, gpus: u32, end: u64, over_time: &mut TimeBins) {
        let index = stretch.replica as usize;
        let Some(replica) = self.replicas.get_mut(index) else { return };
        let (start, stall) = (stretch.start_ps, stretch.stall_ps);
        let busy = u128::from(end - start - stall) * u128::from(gpus);
        let rows = (stretch.decode_rows + stretch.prefill_rows) as usize;
        self.busy_gpu_ps += busy;
        self.stall_gpu_ps += u128::from(stall) * u128::from(gpus);
        if rows >= self.busy_by_rows.len() {
            self.busy_by_rows.resize(rows + 1, 0);
        }
        self.busy_by_rows[rows] += busy;
        self.padding_row_steps += u128::from(stretch.padding_rows) * u128::from(stretch.steps);
        self.steps += u64::from(stretch.steps);
        self.stretches += 1;
        over_time.integrate(series::BUSY_GPUS, start + stall, end, gpus.into());
        replica.kv_block_ps += u128::from(stretch.kv_blocks_used) * u128::from(end - start);
        replica.time += end - start;
        replica.kv_peak = replica.kv_peak.max(stretch.kv_blocks_used);
        self.rows.integrate(index / self.replicas_per_series, start, end, rows as u64);
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
        self.held[replica].iter().map(overlap).sum::<u128>() * u128::from(self.replicas[replica].gpus)
    }

    fn release(&mut self, replica: usize, from: u64, to: u64, over_time: &mut TimeBins) {
        self.held[replica].push((from, to));
        over_time.integrate(series::HELD_GPUS, from, to, self.replicas[replica].gpus.into());
    }
}
