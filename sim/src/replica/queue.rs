//! Who waits at a replica, and for which adapters.

use std::collections::VecDeque;

use super::SequenceKey;
use crate::draft::Refusal;
use crate::fetch;
use crate::residency::Awaited;
use crate::time::Time;
use crate::workload::{AdapterId, RequestId};

/// A sequence in a replica's queue.
#[derive(Clone, Debug)]
pub(crate) struct Waiting {
    pub(crate) sequence: SequenceKey,
    pub(crate) request: RequestId,
    pub(crate) adapter: Option<AdapterId>,
    pub(crate) arrival: Time,
    /// Tokens to prefill: prompt and recomputed output.
    pub(crate) tokens: u32,
    pub(crate) emitted: u32,
    pub(crate) max_tokens: u32,
    pub(crate) output: u32,
    pub(crate) last_token: Option<Time>,
    /// When it joined this queue.
    pub(crate) since: Time,
    /// The copy of its adapter that it counts on, and that is kept for it.
    pub(crate) awaits: Option<Awaited>,
    /// Why it was refused last, as its sequence was told.
    pub(crate) refused: Option<Refusal>,
    /// Admitted by the draft under construction.
    pub(crate) taken: bool,
}

/// Sequences in a queue by adapter, in order of adapter.
#[derive(Debug, Default)]
pub(crate) struct Wanted(Vec<(AdapterId, u32)>);

impl Wanted {
    fn position(&self, adapter: AdapterId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&adapter, |&(adapter, _)| adapter)
    }

    pub(super) fn add(&mut self, adapter: AdapterId) {
        match self.position(adapter) {
            Ok(position) => self.0[position].1 += 1,
            Err(position) => self.0.insert(position, (adapter, 1)),
        }
    }

    pub(super) fn remove(&mut self, adapter: AdapterId) {
        let position = self.position(adapter).expect("the queue's adapters are counted");
        self.0[position].1 -= 1;
        if self.0[position].1 == 0 {
            self.0.remove(position);
        }
    }

    /// How many want it?
    pub(crate) fn count(&self, adapter: AdapterId) -> u32 {
        self.position(adapter).map_or(0, |position| self.0[position].1)
    }

    /// How many adapters are wanted?
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Asks for the memory of the list.
    pub(super) fn fetch(&self) {
        fetch::list(&self.0);
    }

    /// Those that are wanted.
    pub(crate) fn adapters(&self) -> impl Iterator<Item = AdapterId> + '_ {
        self.0.iter().map(|&(adapter, _)| adapter)
    }
}

/// The memory of queues that are empty, for those that are not. Of a large fleet few queues have anybody in them at a time, and each has
/// had many: what was used last is near, and that of every replica for itself is much, and far away.
#[derive(Debug, Default)]
pub(crate) struct SpareQueues(Vec<(VecDeque<Waiting>, Wanted)>);

impl SpareQueues {
    /// A queue that is empty gives its memory back.
    pub(super) fn take(&mut self, queue: &mut VecDeque<Waiting>, wanted: &mut Wanted) {
        // The next to have it begins at its beginning again.
        queue.clear();
        self.0.push((std::mem::take(queue), std::mem::take(wanted)));
    }

    /// A queue that has no memory is about to have somebody in it.
    pub(super) fn give(&mut self, queue: &mut VecDeque<Waiting>, wanted: &mut Wanted) {
        if let Some(spare) = self.0.pop() {
            (*queue, *wanted) = spare;
        }
    }
}
