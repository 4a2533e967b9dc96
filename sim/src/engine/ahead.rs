//! What the next events are about to read is asked for while others are handled: on thousands of replicas the memory of each is far
//! away when its turn comes. First the replica itself, some events later what it points to, and last who is done.

use super::Engine;
use crate::fetch;

/// How many events before its own a replica is asked for, then its lists, then those who leave or have their first token.
const REPLICA: usize = 5;
const LISTS: usize = 3;
const LEAVING: usize = 1;

impl Engine<'_, '_> {
    pub(super) fn look_ahead(&self) {
        if let Some(r) = self.events.coming(REPLICA) {
            fetch::element(&self.replicas, r);
            fetch::element(&self.minds, r);
            self.board.fetch(r);
        }
        if let Some(r) = self.events.coming(LISTS) {
            self.replicas[r].fetch_lists();
            fetch::dynamic(&*self.minds[r].batcher);
        }
        if let Some(r) = self.events.coming(LEAVING) {
            self.replicas[r].fetch_leaving();
        }
        if let Some(r) = self.events.coming(0) {
            self.replicas[r].name_leaving(|key| self.sequences.fetch(key));
        }
    }
}
