//! Replicas are acquired and let go of, as the scaler plans it.

use super::Engine;
use crate::event::{Event, Kind, Tick};
use crate::fact::{Fact, Power};
use crate::policy::Scale;
use crate::workload::ReplicaId;

impl Engine<'_, '_> {
    pub(super) fn ask_scaler(&mut self) {
        let Some(mut scaler) = self.scaler.take() else { return };
        let actions = scaler.plan(&self.fleet(), self.queue.len());
        self.scaler = Some(scaler);
        let available = self.board.available();
        for action in actions {
            match action {
                Scale::Acquire(replica) => self.acquire(replica.index()),
                Scale::Release(replica) => self.release(replica.index()),
            }
        }
        // A replica that was draining takes requests again at once.
        if self.board.available() > available {
            self.drain_queue();
        }
    }

    fn acquire(&mut self, r: usize) {
        match self.replicas[r].power {
            Power::Off => {
                self.set_power(r, Power::Starting);
                let number = self.next_generation(r);
                let event = Event {
                    time: self.now.saturating_add(self.replicas[r].settings.startup),
                    kind: Kind::Tick,
                    replica: r as u32,
                    number,
                    detail: Tick::Ready as u32,
                };
                self.events.push(event);
            }
            Power::Draining => self.set_power(r, Power::On),
            Power::Starting | Power::On => {}
        }
    }

    fn release(&mut self, r: usize) {
        match self.replicas[r].power {
            Power::On => {
                self.set_power(r, Power::Draining);
                self.power_off_if_drained(r);
            }
            Power::Starting => self.set_power(r, Power::Off),
            Power::Off | Power::Draining => {}
        }
    }

    pub(super) fn power_off_if_drained(&mut self, r: usize) {
        let replica = &self.replicas[r];
        let quiet = replica.is_empty() && replica.in_flight.is_none() && replica.residency.copies_in_flight() == 0;
        if replica.power == Power::Draining && quiet {
            self.replicas[r].residency.clear();
            self.set_power(r, Power::Off);
        }
    }

    pub(super) fn set_power(&mut self, r: usize, power: Power) {
        self.replicas[r].power = power;
        self.board.power(&self.replicas[r]);
        self.publish(r);
        self.observer.observe(self.now, &Fact::Power { replica: ReplicaId(r as u32), power });
    }
}
