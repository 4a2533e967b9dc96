//! What the examples that time the loop alone have in common: Punica's policies and replicas, and who watches.

use std::fmt::Write;

use aril_sim::fact::{Fact, Observer};
use aril_sim::policy::Policies;
use aril_sim::policy::batcher::Punica;
use aril_sim::policy::evictor::Lru;
use aril_sim::policy::load_path::OnArrival;
use aril_sim::policy::migrator::PunicaConsolidate;
use aril_sim::policy::preemptor::Newest;
use aril_sim::policy::router::PunicaPaper;
use aril_sim::policy::scaler::PunicaHints;
use aril_sim::profile::Profile;
use aril_sim::settings::{AdapterMemory, ReplicaSettings};
use aril_sim::time::Time;

/// Sequences and adapters of a batch.
pub(crate) const BATCH: u32 = 32;

/// A replica as Punica runs it, with so many KV blocks.
pub(crate) fn replica(profile: &Profile, kv_blocks: u32) -> ReplicaSettings {
    ReplicaSettings {
        max_num_seqs: BATCH,
        max_num_batched_tokens: 8192,
        max_loras: BATCH,
        max_lora_rank: 16,
        lora_slots: BATCH,
        kv_blocks,
        gpu_adapters: AdapterMemory::Slots(BATCH),
        gpu_link: profile.load.link(true),
        ..ReplicaSettings::boundless()
    }
}

/// Punica's, consolidating.
pub(crate) fn policies() -> Policies {
    Policies {
        router: Box::new(|| Box::new(PunicaPaper::default())),
        batcher: Box::new(|| Box::new(Punica::default())),
        evictor: Box::new(|| Box::new(Lru::default())),
        load_path: Box::new(|| Box::new(OnArrival::default())),
        preemptor: Box::new(|| Box::new(Newest::default())),
        migrator: Some(Box::new(|| Box::new(PunicaConsolidate::default()))),
        scaler: Some(Box::new(|| Box::new(PunicaHints::default()))),
    }
}

/// Counts, and nothing else.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) facts: u64,
    pub(crate) stretches: u64,
    pub(crate) steps: u64,
    pub(crate) rows: u64,
    pub(crate) loads: u64,
    live: i64,
    pub(crate) live_max: i64,
}

impl Observer for Counts {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        self.facts += 1;
        match fact {
            Fact::Stretch(stretch) => {
                self.stretches += 1;
                self.steps += u64::from(stretch.steps);
                self.rows += stretch.rows.len() as u64;
            }
            Fact::LoadStarted { .. } => self.loads += 1,
            Fact::Offered(_) => {
                self.live += 1;
                self.live_max = self.live_max.max(self.live);
            }
            Fact::Ended(_) => self.live -= 1,
            _ => {}
        }
    }
}

/// Every fact, as it prints, in one number (FNV-1a).
pub(crate) struct Digest(pub(crate) u64);

impl Default for Digest {
    fn default() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0 = text.bytes().fold(self.0, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        Ok(())
    }
}

impl Observer for Digest {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        write!(self, "{now:?}{fact:?}").expect("a digest takes everything");
    }
}

/// What this process has taken so far, where the system tells it.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    /// Processor time, in hundredths of a second.
    pub(crate) cpu_seconds: Option<f64>,
    /// The most memory that it had.
    pub(crate) peak_mib: Option<f64>,
}

/// What this process has taken so far.
pub(crate) fn spent() -> Spent {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cpu_seconds = || {
        let stat = read("/proc/self/stat")?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |position: usize| fields.get(position)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / 100.0)
    };
    let peak_mib = || {
        let status = read("/proc/self/status")?;
        let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
        Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
    };
    Spent { cpu_seconds: cpu_seconds(), peak_mib: peak_mib() }
}
