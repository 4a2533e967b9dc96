//! What happens next: events in a total order that does not depend on who inserted them first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Time;

/// Kinds of events, in the order in which those of the same instant happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// A step or stretch is over. `number`: its generation.
    StepDone,
    /// A copy is there. `number`: the adapter; `detail`: 0 from disk, 1 from the host.
    LoadDone,
    /// A client gives up. `number`: the request; `detail`: its sequence.
    Cancel,
    /// A request arrives. Arrivals are pulled from their source, not queued here.
    Arrival,
    /// Time passes for somebody. `number`: a [`Tick`].
    Tick,
    /// A replica composes its next step.
    StepStart,
}

/// Who waits for time to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tick {
    /// An acquired replica is ready to serve.
    Ready = 0,
    /// Signals are published.
    Signals = 1,
    /// The scaler is asked.
    Scaler = 2,
    /// The migrator is asked.
    Migrator = 3,
}

/// Ordered by time, kind, replica, and then the number of what it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Event {
    pub(crate) time: Time,
    pub(crate) kind: Kind,
    pub(crate) replica: u32,
    pub(crate) number: u32,
    pub(crate) detail: u32,
}

#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    heap: BinaryHeap<Reverse<Event>>,
    /// Events that are not ticks of a clock that ticks for ever.
    pending: usize,
}

impl EventQueue {
    fn is_clock(event: &Event) -> bool {
        event.kind == Kind::Tick && event.number != Tick::Ready as u32
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.pending += usize::from(!EventQueue::is_clock(&event));
        self.heap.push(Reverse(event));
    }

    pub(crate) fn peek(&self) -> Option<&Event> {
        self.heap.peek().map(|Reverse(event)| event)
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let Reverse(event) = self.heap.pop()?;
        self.pending -= usize::from(!EventQueue::is_clock(&event));
        Some(event)
    }

    /// Is there nothing left but clocks?
    pub(crate) fn only_clocks(&self) -> bool {
        self.pending == 0
    }
}
