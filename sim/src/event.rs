//! What happens next: events in a total order that does not depend on who inserted them first.

mod calendar;

use crate::time::Time;
use calendar::Calendar;

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
    /// Time passes for somebody. `detail`: a [`Tick`]; `number`: which acquisition of the replica it is that is ready.
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

/// An event in one number, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed(u128);

/// How many bits an event's numbers take, from the last to the first: at most 64 below the time.
const KIND: u32 = 3;
const REPLICA: u32 = 20;
const NUMBER: u32 = 32;
const DETAIL: u32 = 9;
/// The replica of what belongs to none.
const NOBODY: u64 = (1 << REPLICA) - 1;
/// A client's patience is no replica's: its request and the place of its sequence take all bits but those of the kind.
const SEQUENCE: u32 = 64 - KIND - NUMBER;

impl Packed {
    fn new(event: Event) -> Packed {
        let (replica, number, detail) = (u64::from(event.replica), u64::from(event.number), u64::from(event.detail));
        let what = match event.kind {
            Kind::Cancel => {
                assert!(detail >> SEQUENCE == 0, "more than {} sequences in flight", 1_u64 << SEQUENCE);
                number << SEQUENCE | detail
            }
            _ => {
                // Clocks belong to no replica and come after those of replicas.
                let replica = if event.replica == u32::MAX { NOBODY } else { replica };
                assert!(replica <= NOBODY, "more than {NOBODY} replicas");
                assert!(detail >> DETAIL == 0, "an event's detail is a small number");
                replica << (NUMBER + DETAIL) | number << DETAIL | detail
            }
        };
        Packed(u128::from(event.time.as_ps()) << 64 | u128::from((event.kind as u64) << (64 - KIND) | what))
    }

    fn event(self) -> Event {
        let what = self.0 as u64;
        let bits = |low: u32, count: u32| (what >> low) as u32 & (u64::MAX >> (64 - count)) as u32;
        let kind = KINDS[(what >> (64 - KIND)) as usize];
        let (replica, number, detail) = match kind {
            Kind::Cancel => (u32::MAX, bits(SEQUENCE, NUMBER), bits(0, SEQUENCE)),
            _ => (bits(NUMBER + DETAIL, REPLICA), bits(DETAIL, NUMBER), bits(0, DETAIL)),
        };
        let replica = if u64::from(replica) == NOBODY { u32::MAX } else { replica };
        Event { time: self.time(), kind, replica, number, detail }
    }

    fn time(self) -> Time {
        Time::from_ps((self.0 >> 64) as u64)
    }

    fn kind(self) -> Kind {
        KINDS[(self.0 as u64 >> (64 - KIND)) as usize]
    }
}

const KINDS: [Kind; 6] = [Kind::StepDone, Kind::LoadDone, Kind::Cancel, Kind::Arrival, Kind::Tick, Kind::StepStart];

#[derive(Debug, Default)]
pub(crate) struct EventQueue {
    calendar: Calendar,
    /// Replicas that compose a step at this instant, the last first: they come after all else that happens in it.
    starts: Vec<u32>,
    now: Time,
    /// Was it such a replica that was peeked at?
    starts_next: bool,
    /// Events that are not ticks of a clock that ticks for ever.
    pending: usize,
}

impl EventQueue {
    fn is_clock(event: &Event) -> bool {
        event.kind == Kind::Tick && event.detail != Tick::Ready as u32
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.pending += usize::from(!EventQueue::is_clock(&event));
        self.calendar.push(Packed::new(event).0);
    }

    /// The replica composes its next step at this instant, `now`.
    pub(crate) fn push_start(&mut self, now: Time, replica: u32) {
        debug_assert!(
            self.starts.is_empty() || self.now == now,
            "a step begins at the instant at which it was asked for"
        );
        self.now = now;
        self.pending += 1;
        let position = self.starts.partition_point(|&other| other > replica);
        self.starts.insert(position, replica);
    }

    /// When does the next event happen, and of which kind is it? One that is later than `until` may be passed over in silence.
    pub(crate) fn peek(&mut self, until: Time) -> Option<(Time, Kind)> {
        let until = if self.starts.is_empty() { until } else { self.now };
        let listed = self.calendar.peek(until.as_ps()).map(Packed);
        self.starts_next = !self.starts.is_empty() && listed.is_none_or(|packed| packed.time() > self.now);
        if self.starts_next {
            return Some((self.now, Kind::StepStart));
        }
        listed.map(|packed| (packed.time(), packed.kind()))
    }

    /// The event that was peeked at.
    pub(crate) fn pop(&mut self) -> Option<Event> {
        if self.starts_next {
            self.starts_next = false;
            let replica = self.starts.pop().expect("a replica starts");
            self.pending -= 1;
            return Some(Event { time: self.now, kind: Kind::StepStart, replica, number: 0, detail: 0 });
        }
        let event = Packed(self.calendar.pop()?).event();
        self.pending -= usize::from(!EventQueue::is_clock(&event));
        Some(event)
    }

    /// The end of a step or of a copy that comes after so many other events of the calendar, as far as is known now. Nothing depends on it
    /// but how long memory is waited for.
    pub(crate) fn coming(&self, after: usize) -> Option<Event> {
        let packed = Packed(self.calendar.after(after)?);
        matches!(packed.kind(), Kind::StepDone | Kind::LoadDone).then(|| packed.event())
    }

    /// Has the last event that was taken moved those of [`EventQueue::coming`] on by one? If not, they were asked about before.
    pub(crate) fn moved(&self) -> bool {
        self.calendar.moved()
    }

    /// Is there nothing left but clocks?
    pub(crate) fn only_clocks(&self) -> bool {
        self.pending == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(ps: u64, kind: Kind, replica: u32, number: u32, detail: u32) -> Event {
        Event { time: Time::from_ps(ps), kind, replica, number, detail }
    }

    #[test]
    fn events_come_by_time_kind_replica_and_number_and_come_back_as_they_were() {
        let ordered = [
            event(1, Kind::StepDone, 2, u32::MAX, 0),
            event(1, Kind::StepDone, 3, 0, 0),
            event(1, Kind::LoadDone, 0, 7, 0),
            event(1, Kind::LoadDone, 0, 7, 1),
            event(1, Kind::Cancel, u32::MAX, 4, 9),
            event(1, Kind::Cancel, u32::MAX, u32::MAX, (1 << SEQUENCE) - 1),
            event(1, Kind::Tick, 999_999, u32::MAX, Tick::Ready as u32),
            event(1, Kind::Tick, u32::MAX, 0, Tick::Signals as u32),
            event(1, Kind::Tick, u32::MAX, 0, Tick::Migrator as u32),
            event(1, Kind::StepStart, 0, 0, 0),
            event(1, Kind::StepStart, 5, 0, 0),
            event(u64::MAX, Kind::StepDone, 0, 0, 0),
        ];
        let mut queue = EventQueue::default();
        for event in ordered.iter().rev() {
            match event.kind {
                Kind::StepStart => queue.push_start(event.time, event.replica),
                _ => queue.push(*event),
            }
        }
        for event in ordered {
            assert_eq!(queue.peek(Time::MAX), Some((event.time, event.kind)));
            assert_eq!(queue.pop(), Some(event));
        }
        assert_eq!((queue.peek(Time::MAX), queue.pop(), queue.only_clocks()), (None, None, true));
    }
}
