//! What is kept of each request until the run is measured.

use aril_sim::fact::{End, Life, Waits};
use aril_sim::time::Time;

use crate::settings::RecorderSettings;

/// No such time, or no adapter.
pub(crate) const NONE: u32 = u32::MAX;
const NEVER: u64 = u64::MAX;

/// A request that is over: 56 bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) arrival: u64,
    pub(crate) end: u64,
    ttft: u64,
    wait: u64,
    pub(crate) tenant: u32,
    /// [`NONE`]: the base model.
    pub(crate) adapter: u32,
    pub(crate) prompt: u32,
    pub(crate) emitted: u32,
    pub(crate) ending: Ending,
    /// Did it find its adapter? None: it had none, or never reached a replica.
    pub(crate) hit: Option<bool>,
    /// Finished, and within the limits of its class.
    pub(crate) good: bool,
}

/// How a request ended, without reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Finished,
    TimedOut,
    Rejected,
    Unfinished,
}

impl Kept {
    /// `class_of`: the class of each tenant of the catalog.
    pub(crate) fn of(now: Time, life: &Life<'_>, settings: &RecorderSettings, class_of: &[u32]) -> Kept {
        let request = &life.offered.request;
        let arrival = request.arrival.as_ps();
        let since = |time: Option<Time>| time.map_or(NEVER, |time| time.as_ps().saturating_sub(arrival));
        let mut kept = Kept {
            arrival,
            end: now.as_ps().max(arrival),
            ttft: since(life.first_token),
            wait: since(life.scheduled),
            tenant: request.tenant.0,
            adapter: request.adapter.map_or(NONE, |adapter| adapter.0),
            prompt: request.prompt_tokens,
            emitted: life.emitted,
            ending: match life.end {
                End::Finished => Ending::Finished,
                End::TimedOut => Ending::TimedOut,
                End::Rejected(_) => Ending::Rejected,
                End::Unfinished => Ending::Unfinished,
            },
            hit: life.adapter_hit,
            good: false,
        };
        let tenant = request.tenant.index();
        let class = match settings.slo.as_slice() {
            [] => None,
            // Everybody is in it, whom the catalog knows: no need to look.
            [only] => (tenant < class_of.len()).then_some(only),
            classes => class_of.get(tenant).and_then(|class| classes.get(*class as usize)),
        };
        kept.good = kept.is_finished()
            && kept.ttft().is_some_and(|ttft| class.is_none_or(|class| class.is_met(ttft, kept.tpot())));
        kept
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.ending == Ending::Finished
    }

    /// From arrival to first token.
    pub(crate) fn ttft(&self) -> Option<u64> {
        (self.ttft != NEVER).then_some(self.ttft)
    }

    /// From arrival to the first step that contained it.
    pub(crate) fn wait(&self) -> Option<u64> {
        (self.wait != NEVER).then_some(self.wait)
    }

    /// From arrival to the last token, if it came so far.
    pub(crate) fn e2e(&self) -> Option<u64> {
        self.is_finished().then_some(self.end - self.arrival)
    }

    /// Mean time of each token after the first, to the nearest picosecond; none of a single token.
    pub(crate) fn tpot(&self) -> Option<u64> {
        let gaps = u64::from(self.emitted.saturating_sub(1));
        match (self.e2e(), self.ttft()) {
            (Some(e2e), Some(ttft)) if gaps > 0 => Some((e2e.saturating_sub(ttft) + gaps / 2) / gaps),
            _ => None,
        }
    }
}

/// Router, queue, slot, load, prefill, preemption: where the time to first token went, picoseconds.
pub(crate) type Parts = [u64; 6];

const CHUNK: usize = 1 << 14;

/// All requests that are over, in chunks: growing never copies what is there.
#[derive(Default)]
pub(crate) struct KeptAll {
    chunks: Vec<Vec<Kept>>,
    /// What is seldom looked at, apart.
    waits: Vec<Vec<Parts>>,
    /// The latest arrival and the latest end.
    lasts: Option<(u64, u64)>,
}

impl KeptAll {
    pub(crate) fn push(&mut self, kept: Kept, waits: &Waits) {
        let (arrival, end) = self.lasts.unwrap_or_default();
        self.lasts = Some((arrival.max(kept.arrival), end.max(kept.end)));
        push(&mut self.chunks, kept);
        let waits = [waits.router, waits.queue, waits.slot, waits.load, waits.prefill, waits.preemption];
        push(&mut self.waits, waits.map(|wait| wait.as_ps()));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Kept> + Clone {
        self.chunks.iter().flatten()
    }

    /// With the parts of their times to first token.
    pub(crate) fn iter_parts(&self) -> impl Iterator<Item = (&Kept, &Parts)> + Clone {
        self.iter().zip(self.waits.iter().flatten())
    }

    /// The latest arrival and the latest end; none of no requests.
    pub(crate) fn lasts(&self) -> Option<(u64, u64)> {
        self.lasts
    }
}

fn push<T>(chunks: &mut Vec<Vec<T>>, value: T) {
    match chunks.last_mut() {
        Some(chunk) if chunk.len() < CHUNK => chunk.push(value),
        _ => {
            let mut chunk = Vec::with_capacity(CHUNK);
            chunk.push(value);
            chunks.push(chunk);
        }
    }
}
