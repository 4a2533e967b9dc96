//! The end of a run: cut at its horizon, or stuck.

use super::{Engine, Stalled};
use crate::fact::End;
use crate::sequence::{Place, Sequence};
use crate::time::Time;

impl Engine<'_, '_> {
    /// The horizon: steps that are over by then count, the step in flight does not.
    #[cold]
    pub(super) fn cut_at(&mut self, horizon: Time) {
        self.now = horizon;
        for r in 0..self.replicas.len() {
            self.split(r);
            self.replicas[r].in_flight = None;
            let rows = self.replicas[r].rows.len();
            for position in (0..rows).rev() {
                let row = self.replicas[r].remove_row(horizon, position);
                if let Some(key) = row.sequence {
                    let sequence = self.sequences.get_mut(key);
                    sequence.leave(row.running.emitted, row.last_token);
                }
            }
            while !self.replicas[r].waiting.is_empty() {
                self.replicas[r].take_waiting(0, &mut self.effects.queues);
            }
        }
        for key in self.sequences.keys() {
            self.end(key, End::Unfinished);
        }
    }

    pub(super) fn stalled(&self) -> Stalled {
        let what = |sequence: &Sequence| match sequence.place() {
            Place::Held(_) => "waits in the cluster's queue: the router holds it".to_owned(),
            Place::Waiting(replica) => format!(
                "({} tokens, {}) waits in the queue of replica {}, which has {} of {} KV blocks free, {} sequences in its \
                 batch and {} adapters on its GPU: the batcher does not admit it",
                sequence.tokens(),
                match sequence.offered.request.adapter {
                    Some(adapter) => format!("adapter {}", self.catalog.adapters[adapter.index()].name),
                    None => "base model".to_owned(),
                },
                replica.0,
                self.replicas[replica.index()].kv_free,
                self.replicas[replica.index()].settings.kv_blocks,
                self.replicas[replica.index()].rows.len(),
                self.replicas[replica.index()].residency.resident(),
            ),
            Place::Running(replica) => format!("is in the batch of replica {}, whose batcher leaves it out", replica.0),
            Place::Nowhere => "is nowhere".to_owned(),
        };
        let keys = self.sequences.keys();
        let waiting = keys.iter().take(3).map(|&key| self.sequences.get(key)).map(|s| (s.id(), what(s))).collect();
        Stalled { at: self.now, waiting, count: keys.len() }
    }
}
