//! What happens by the clock: signals are published, the scaler and the migrator are asked.

use super::Engine;
use crate::event::{Event, Kind, Tick};
use crate::fact::{Fact, Power};
use crate::policy::Move;
use crate::time::{Span, Time};

impl Engine<'_, '_> {
    pub(super) fn start_clocks(&mut self) {
        let periods = [
            (Tick::Signals, (!self.settings.signals_interval.is_zero()).then_some(self.settings.signals_interval)),
            (Tick::Scaler, self.scaler.as_ref().map(|scaler| scaler.period())),
            (Tick::Migrator, self.migrator.as_ref().map(|(migrator, _)| migrator.period())),
        ];
        for (tick, period) in periods {
            if let Some(period) = period {
                self.set_clock(tick, period);
            }
        }
        for r in 0..self.replicas.len() {
            self.board.publish(&mut self.replicas[r], Time::ZERO);
        }
    }

    fn set_clock(&mut self, tick: Tick, period: Span) {
        assert!(!period.is_zero(), "a clock ticks without time passing");
        let time = self.now.saturating_add(period);
        self.events.push(Event { time, kind: Kind::Tick, replica: u32::MAX, number: 0, detail: tick as u32 });
    }

    #[inline(never)]
    pub(super) fn tick(&mut self, event: Event) {
        match event.detail {
            tick if tick == Tick::Ready as u32 => {
                let r = event.replica as usize;
                if self.replicas[r].power == Power::Starting && self.generations[r] == event.number {
                    self.set_power(r, Power::On);
                    self.drain_queue();
                }
            }
            tick if tick == Tick::Signals as u32 => {
                for replica in &mut self.replicas {
                    self.board.publish(replica, self.now);
                }
                self.drain_queue();
                self.set_clock(Tick::Signals, self.settings.signals_interval);
            }
            tick if tick == Tick::Scaler as u32 => {
                self.ask_scaler();
                let period = self.scaler.as_ref().expect("a scaler ticks").period();
                self.set_clock(Tick::Scaler, period);
            }
            _ => {
                let (mut migrator, mut random) = self.migrator.take().expect("a migrator ticks");
                let moves = migrator.plan(&self.fleet(), &mut random);
                let period = migrator.period();
                self.migrator = Some((migrator, random));
                for each in moves {
                    self.migrate(each);
                }
                self.set_clock(Tick::Migrator, period);
            }
        }
    }

    fn migrate(&mut self, Move { request, from, to }: Move) {
        if from == to || self.replicas[to.index()].power != Power::On {
            return;
        }
        let replica = &self.replicas[from.index()];
        let in_batch = replica.rows.position(request).and_then(|position| replica.rows.sequence(position));
        let in_queue =
            || replica.waiting.iter().find(|waiting| waiting.request == request).map(|waiting| waiting.sequence);
        let Some(key) = in_batch.or_else(in_queue) else { return };
        if self.misfit(key, to.index()).is_some() {
            return;
        }
        self.withdraw(key);
        self.sequences.get_mut(key).migrate();
        self.observer.observe(self.now, &Fact::Migrated { request, from, to });
        self.offload_idle(from.index());
        self.enqueue(key, to);
        self.power_off_if_drained(from.index());
        self.drain_queue();
    }
}
