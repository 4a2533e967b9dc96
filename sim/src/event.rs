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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) time: Time,
    pub(crate) kind: Kind,
    pub(crate) replica: u32,
    pub(crate) number: u32,
    pub(crate) detail: u32,
}

/// An event in three numbers, in its order: a heap compares often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed {
    time: u64,
    /// Kind and replica.
    who: u64,
    /// Number and detail.
    what: u64,
}

impl Packed {
    fn new(event: Event) -> Packed {
        Packed {
            time: event.time.as_ps(),
            who: (event.kind as u64) << 32 | u64::from(event.replica),
            what: u64::from(event.number) << 32 | u64::from(event.detail),
        }
    }

    fn event(self) -> Event {
        Event {
            time: Time::from_ps(self.time),
            kind: KINDS[(self.who >> 32) as usize],
            replica: self.who as u32,
            number: (self.what >> 32) as u32,
            detail: self.what as u32,
        }
    }
}

const KINDS: [Kind; 6] = [Kind::StepDone, Kind::LoadDone, Kind::Cancel, Kind::Arrival, Kind::Tick, Kind::StepStart];

#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    heap: BinaryHeap<Reverse<Packed>>,
    /// Events that are not ticks of a clock that ticks for ever.
    pending: usize,
}

impl EventQueue {
    fn is_clock(event: &Event) -> bool {
        event.kind == Kind::Tick && event.number != Tick::Ready as u32
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.pending += usize::from(!EventQueue::is_clock(&event));
        self.heap.push(Reverse(Packed::new(event)));
    }

    pub(crate) fn peek(&self) -> Option<Event> {
        self.heap.peek().map(|Reverse(packed)| packed.event())
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.heap.pop()?.0.event();
        self.pending -= usize::from(!EventQueue::is_clock(&event));
        Some(event)
    }

    /// Is there nothing left but clocks?
    pub(crate) fn only_clocks(&self) -> bool {
        self.pending == 0
    }
}
