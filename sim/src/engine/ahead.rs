//! What the next events are about to read is asked for while others are handled: on thousands of replicas the memory of each is far
//! away when its turn comes. First the replica itself, some events later what it points to, and last who is done.

use super::Engine;
use crate::event::{Event, Kind};
use crate::fact::Soon;
use crate::fetch;
use crate::workload::{AdapterId, ReplicaId};

/// How many events before its own a replica is asked for, then its lists, then those who leave or have their first token, and then their
/// sequences and adapters: one event is not long enough for memory that is far away.
const REPLICA: usize = 16;
const LISTS: usize = 12;
const LEAVING: usize = 8;
const SEQUENCES: usize = 4;

impl Engine<'_, '_> {
    pub(super) fn look_ahead(&self) {
        if let Some(event) = self.coming(REPLICA) {
            let r = event.replica as usize;
            fetch::element(&self.replicas, r);
            if event.kind == Kind::StepDone {
                fetch::element(&self.minds, r);
                self.board.fetch(r);
                self.observer.expect(ReplicaId(event.replica), &Soon::Replica);
            }
        }
        if let Some(event) = self.coming(LISTS) {
            let replica = &self.replicas[event.replica as usize];
            if event.kind == Kind::StepDone {
                replica.fetch_lists();
                fetch::dynamic(&*self.minds[event.replica as usize].batcher);
                self.observer.expect(ReplicaId(event.replica), &Soon::Lists);
            } else {
                // That a copy is there is noted, and no more, until the step in flight is over.
                replica.residency.fetch();
            }
        }
        if let Some(event) = self.coming(LEAVING) {
            let replica = &self.replicas[event.replica as usize];
            if event.kind == Kind::StepDone {
                replica.fetch_leaving();
                let (who, same) = replica.rows.going_on();
                self.observer.expect(replica.id, &Soon::Rows { who, same });
            } else {
                replica.residency.fetch_copy(AdapterId(event.number));
            }
        }
        if let Some(event) = self.coming(SEQUENCES)
            && event.kind == Kind::StepDone
        {
            self.replicas[event.replica as usize].name_leaving(|key| self.sequences.fetch(key));
        }
    }

    /// What comes after so many other events? Nothing, if it is the end of a step that was cut short.
    #[inline]
    fn coming(&self, after: usize) -> Option<Event> {
        self.events.coming(after).filter(|event| !self.is_dead(event))
    }
}
