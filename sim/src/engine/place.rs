//! Requests come and go: from their arrival to a replica, and out of the cluster.

use super::Engine;
use crate::event::{Event, Kind};
use crate::fact::{End, Fact, Life, Power, RejectReason};
use crate::policy::Route;
use crate::replica::{RANK_MAX, SequenceKey, Waiting};
use crate::sequence::{Place, Sequence, Wait};
use crate::workload::{Offered, ReplicaId};

impl Engine<'_, '_> {
    pub(super) fn arrive(&mut self, offered: Offered) {
        assert!(offered.request.arrival >= self.now, "arrivals are in order of time");
        assert_eq!(u64::from(offered.request.id.0), self.offered, "requests are numbered in order of arrival");
        assert!(offered.outcome.output_tokens > 0 && offered.request.prompt_tokens > 0, "a request has tokens");
        self.now = offered.request.arrival;
        self.offered += 1;
        self.observer.observe(self.now, &Fact::Offered(&offered));
        let id = offered.request.id;
        let key = self.sequences.insert(Sequence::new(offered));
        if let Some(timeout) = self.settings.client_timeout {
            let time = self.now.saturating_add(timeout);
            self.events.push(Event { time, kind: Kind::Cancel, replica: u32::MAX, number: id.0, detail: key });
        }
        self.place(key);
    }

    /// Finds a replica for a sequence that has none.
    pub(super) fn place(&mut self, key: SequenceKey) {
        if self.queue.is_empty() {
            match self.ask_router(key) {
                Route::To(replica) => return self.enqueue(key, replica),
                Route::Reject => return self.end(key, End::Rejected(RejectReason::Router)),
                Route::Hold => {}
            }
        }
        let sequence = self.sequences.get_mut(key);
        let queue_key = self.router.queue_key(&sequence.asked());
        let id = sequence.id();
        sequence.put(Place::Held(queue_key));
        self.queue.insert((queue_key, id), key);
        self.observer.observe(self.now, &Fact::Held(id));
        let is_head = self.queue.first_key_value().is_some_and(|(_, &head)| head == key);
        if is_head && self.queue.len() > 1 {
            self.drain_queue();
        }
        self.ask_scaler();
    }

    /// Capacity was freed: who of the cluster's queue goes where? The first that must wait blocks those behind it.
    pub(super) fn drain_queue(&mut self) {
        while let Some((&entry, &key)) = self.queue.first_key_value() {
            let route = self.ask_router(key);
            if route == Route::Hold {
                return;
            }
            self.queue.remove(&entry);
            self.sequences.get_mut(key).put(Place::Nowhere);
            match route {
                Route::To(replica) => self.enqueue(key, replica),
                _ => self.end(key, End::Rejected(RejectReason::Router)),
            }
        }
    }

    /// Can this replica ever serve the sequence?
    pub(super) fn misfit(&self, key: SequenceKey, r: usize) -> Option<RejectReason> {
        let offered = &self.sequences.get(key).offered;
        let replica = &self.replicas[r];
        // Nobody attends to the last token: its KV is never computed.
        let tokens = u64::from(offered.request.prompt_tokens) + u64::from(offered.outcome.output_tokens) - 1;
        let blocks = tokens.div_ceil(u64::from(replica.settings.block_size));
        let preemptor = &self.minds[r].preemptor;
        let spare = preemptor.reserve(1).max(u32::from(preemptor.each_finds_a_free_block()));
        if blocks + u64::from(spare) > u64::from(replica.settings.kv_blocks) {
            return Some(RejectReason::TooLong);
        }
        let adapter = self.weights.of(offered.request.adapter?);
        let fits = adapter.rank <= replica.settings.max_lora_rank.min(RANK_MAX)
            && replica.settings.max_loras > 0
            && replica.residency.could_hold(adapter.bytes);
        (!fits).then_some(RejectReason::AdapterTooLarge)
    }

    pub(super) fn enqueue(&mut self, key: SequenceKey, to: ReplicaId) {
        let r = to.index();
        assert!(self.replicas[r].power == Power::On, "a policy chose replica {}, which is not on", to.0);
        if let Some(reason) = self.misfit(key, r) {
            return self.end(key, End::Rejected(reason));
        }
        let sequence = self.sequences.get_mut(key);
        let residency = &self.replicas[r].residency;
        let slot = sequence.offered.request.adapter.and_then(|adapter| residency.find(adapter));
        // It has been long since anybody looked there.
        if let Some(slot) = slot {
            residency.fetch_slot(slot);
        }
        let returns = sequence.preemptions() + sequence.migrations() > 0;
        sequence.waits_for(self.now, if returns { Wait::Preemption } else { Wait::Queue });
        let first = sequence.replica().is_none();
        sequence.put(Place::Waiting(to));
        let request = &sequence.offered.request;
        let fact = Fact::Routed { request: request.id, replica: to, recompute: sequence.emitted };
        self.observer.observe(self.now, &fact);
        let replica = &mut self.replicas[r];
        let waiting = Waiting {
            sequence: key,
            request: request.id,
            adapter: request.adapter,
            arrival: request.arrival,
            tokens: sequence.tokens(),
            emitted: sequence.emitted,
            max_tokens: request.max_tokens.saturating_add(sequence.cut()),
            output: sequence.offered.outcome.output_tokens + sequence.cut(),
            last_token: sequence.last_token(),
            since: self.now,
            awaits: None,
            refused: None,
            taken: false,
        };
        if first && request.adapter.is_some() {
            sequence.adapter_hit = Some(slot.is_some_and(|slot| replica.residency.coming(slot).is_none()));
        }
        replica.put_waiting(waiting, false, &mut self.effects.queues);
        let copies = self.prefetch(r);
        self.publish(r);
        // A full batch lets nobody in before somebody leaves, unless a copy beside it changes what its steps cost.
        let replica = &mut self.replicas[r];
        let asleep = replica.in_flight.is_none() && !replica.start_pending;
        if copies || !replica.is_full() || asleep {
            replica.changed = true;
            self.wake(r);
        }
    }

    /// Something changed on this replica: its next step is composed as soon as the step in flight is over.
    pub(super) fn wake(&mut self, r: usize) {
        self.cut(r);
        let replica = &mut self.replicas[r];
        if replica.in_flight.is_none() && !replica.start_pending && !replica.is_empty() {
            replica.start_pending = true;
            self.events.push_start(self.now, r as u32);
        }
    }

    pub(super) fn end(&mut self, key: SequenceKey, end: End) {
        let sequence = self.sequences.get_mut(key);
        sequence.waits_for(self.now, Wait::Router);
        let life = Life {
            offered: &sequence.offered,
            end,
            replica: sequence.replica(),
            scheduled: sequence.scheduled(),
            first_token: sequence.first_token(),
            emitted: sequence.emitted,
            waits: sequence.waits(),
            adapter_hit: sequence.adapter_hit,
            preemptions: sequence.preemptions(),
            migrations: sequence.migrations(),
        };
        self.observer.observe(self.now, &Fact::Ended(life));
        self.sequences.remove(key);
    }

    #[inline(never)]
    pub(super) fn time_out(&mut self, key: SequenceKey) {
        let replica = self.sequences.get(key).replica();
        self.withdraw(key);
        self.end(key, End::TimedOut);
        if let Some(replica) = replica {
            self.offload_idle(replica.index());
            self.power_off_if_drained(replica.index());
        }
        self.drain_queue();
    }

    /// Takes a sequence from where it is. A step in flight goes on with it; its token of that step is discarded.
    pub(super) fn withdraw(&mut self, key: SequenceKey) {
        match self.sequences.get(key).place() {
            Place::Held(queue_key) => {
                let id = self.sequences.get(key).id();
                self.queue.remove(&(queue_key, id));
            }
            Place::Waiting(replica) => {
                let r = replica.index();
                // Whoever stood behind it may be next: the batcher is asked again. What is over is told while it still waits.
                self.split(r);
                let replica = &mut self.replicas[r];
                let position = replica.waiting.iter().position(|waiting| waiting.sequence == key);
                let position = position.expect("a waiting sequence is in its queue");
                replica.take_waiting(position, &mut self.effects.queues);
                replica.changed = true;
                self.publish(r);
                self.wake(r);
            }
            Place::Running(replica) => {
                let r = replica.index();
                self.split(r);
                let replica = &mut self.replicas[r];
                let sequence = self.sequences.get_mut(key);
                let position = replica.rows.position(sequence.id()).expect("a running sequence is in its batch");
                sequence.leave(replica.rows.running(position).emitted, replica.rows.last_token(position));
                if replica.in_flight.is_some() && replica.rows.drafted(position) > 0 {
                    replica.rows.make_ghost(position);
                } else {
                    replica.remove_row(self.now, position);
                }
                self.publish(r);
                self.wake(r);
            }
            Place::Nowhere => {}
        }
        self.sequences.get_mut(key).put(Place::Nowhere);
    }
}
