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
        if let Some(r) = self.coming(REPLICA) {
            fetch::element(&self.replicas, r);
            fetch::element(&self.minds, r);
            self.board.fetch(r);
        }
        if let Some(r) = self.coming(LISTS) {
            self.replicas[r].fetch_lists();
            fetch::dynamic(&*self.minds[r].batcher);
        }
        if let Some(r) = self.coming(LEAVING) {
            self.replicas[r].fetch_leaving();
        }
        if let Some(r) = self.coming(0) {
            self.replicas[r].name_leaving(|key| self.sequences.fetch(key));
        }
    }

    /// Whose turn comes after so many other events? Nobody's, if it is that of a step that was cut short.
    fn coming(&self, after: usize) -> Option<usize> {
        let event = self.events.coming(after)?;
        (!self.is_dead(&event)).then_some(event.replica as usize)
    }
}
