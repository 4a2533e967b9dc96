//! The life of a step: composed, priced, cut short, done.

use super::Engine;
use crate::batch::{Batch, BatchShape};
use crate::draft::{Distortion, Draft, GaveWay, Refusal};
use crate::event::{Event, Kind};
use crate::fact::{End, Fact, LoadCause, Stretch, Tier};
use crate::policy::{LoadMode, Requeue};
use crate::replica::InFlight;
use crate::residency::{Loading, Presence, Wish};
use crate::sequence::{Place, Wait};
use crate::time::Span;
use crate::workload::{AdapterId, ReplicaId};

impl Engine<'_, '_> {
    /// Asks the batcher for the next step of an idle replica, and starts it.
    pub(super) fn compose(&mut self, r: usize) {
        let mind = &mut self.minds[r];
        let replica = &mut self.replicas[r];
        let changed = std::mem::take(&mut replica.changed);
        let prompted = std::mem::take(&mut replica.prompted);
        self.effects.clear();
        let mut draft = Draft {
            now: self.now,
            weights: &self.weights,
            evictor: &mut *mind.evictor,
            host_evictor: &mut *mind.host_evictor,
            preemptor: &mut *mind.preemptor,
            load_mode: mind.load_path.mode(),
            observer: &mut *self.observer,
            effects: &mut self.effects,
            tokens: 0,
            stall: Span::ZERO,
            overhead: Span::ZERO,
            hold_steps: u32::MAX,
            distortion: Distortion::default(),
            tells: changed || prompted,
            replica,
        };
        mind.batcher.compose(&mut draft);
        let (stall, overhead, hold_steps, distortion) =
            (draft.stall, draft.overhead, draft.hold_steps, draft.distortion);
        let mut left = self.effects.admitted.len();
        for position in (0..self.replicas[r].waiting.len()).rev() {
            if left == 0 {
                break;
            }
            if self.replicas[r].waiting[position].taken {
                self.replicas[r].take_waiting(position, &mut self.effects.queues);
                left -= 1;
            }
        }
        let preempted = self.settle_effects(r, stall);
        // What the draft itself changed may let the batcher do more at the very next step.
        let unsettled = self.replicas[r].changed;
        let hold_steps = if unsettled { 1 } else { hold_steps };
        self.launch(r, stall, overhead, hold_steps, distortion);
        let moved = unsettled || !self.effects.admitted.is_empty() || !self.effects.copies.is_empty();
        if changed || moved {
            self.publish(r);
        }
        for key in preempted {
            self.place(key);
        }
    }

    /// Tells the sequences what the draft did to them. Gives those that the router must place again.
    fn settle_effects(&mut self, r: usize, stall: Span) -> Vec<u32> {
        let id = ReplicaId(r as u32);
        for copy in &self.effects.copies {
            self.events.push(load_event(r, copy.adapter, copy.from, copy.done));
        }
        for &(key, refusal) in &self.effects.refused {
            let sequence = self.sequences.get_mut(key);
            let adapter = sequence.offered.request.adapter;
            let ready = match adapter.map(|adapter| self.replicas[r].residency.presence(adapter)) {
                Some(Presence::Coming(ready)) => ready,
                _ => self.now,
            };
            sequence.refused(self.now, refusal, ready);
        }
        let mut homeless = Vec::new();
        for &GaveWay { sequence: key, emitted, last_token, cut, requeue } in &self.effects.preempted {
            let sequence = self.sequences.get_mut(key);
            sequence.leave(emitted, last_token);
            sequence.preempt(cut);
            sequence.waits_for(self.now, Wait::Preemption);
            sequence.put(Place::Waiting(id));
            if requeue == Requeue::Cluster {
                sequence.put(Place::Nowhere);
                homeless.push(key);
            }
        }
        if !self.effects.preempted.is_empty() {
            self.offload_idle(r);
        }
        for &key in &self.effects.admitted {
            let sequence = self.sequences.get_mut(key);
            sequence.put(Place::Running(id));
            sequence.schedule(self.now, stall);
            self.observer.observe(self.now, &Fact::Scheduled { request: sequence.id(), replica: id });
        }
        homeless
    }

    /// Prices the drafted rows and puts them in flight; nothing drafted: the replica is idle until something changes.
    fn launch(&mut self, r: usize, stall: Span, overhead: Span, hold_steps: u32, distortion: Distortion) {
        let replica = &mut self.replicas[r];
        let shape = &mut self.shape;
        let settings = &replica.settings;
        let executor = &mut self.executors[settings.executor];
        if !shape.write(replica, &self.weights, &distortion, executor.reads_slices()) {
            return;
        }
        replica.prompted = !shape.prefills.is_empty();
        let segments = shape.segments(replica);
        let batch = Batch {
            replica: replica.id,
            slices: &shape.slices,
            shape: BatchShape {
                decode_context_sum: shape.context_sum,
                decode_context_max: shape.context_max,
                decode_contexts: &shape.contexts,
                prefills: &shape.prefills,
                segments,
                segment_sums: shape.segment_sums,
                census: Some(shape.census(replica)),
                lora_slots: settings.lora_slots,
                lora_rank_max: settings.max_lora_rank,
                copies_in_flight: replica.residency.copies_in_flight() > 0,
                sag: replica.sag,
                rested: (self.now + stall).since(replica.computed_until),
            },
        };
        let mut price = executor.run(&batch);
        assert!(price.steps > 0 && !price.first.is_zero(), "a step takes time");
        let steps = if !shape.everybody || !self.settings.stretches {
            1
        } else {
            let limit = price.steps.min(hold_steps).min(shape.finish);
            let preemptor = &self.minds[r].preemptor;
            let spare = u32::from(preemptor.each_finds_a_free_block());
            replica.steps_until_shortage(limit, preemptor.reserve(replica.rows.len() as u32), spare)
        };
        price.first += overhead;
        let flight = InFlight {
            start: self.now,
            stall,
            price,
            steps,
            finishes: shape.everybody && steps == shape.finish,
            padding_rows: distortion.padding.map_or(0, |(rows, _)| rows),
            segments: segments.len() as u32,
            decode_rows: shape.contexts.len() as u32,
            decode_context_sum: shape.context_sum,
        };
        let time = flight.end(steps);
        replica.in_flight = Some(flight);
        let number = self.next_generation(r);
        self.events.push(Event { time, kind: Kind::StepDone, replica: r as u32, number, detail: 0 });
    }

    /// Ends the stretch in flight at the first boundary from now on.
    pub(super) fn cut(&mut self, r: usize) {
        let Some(flight) = &self.replicas[r].in_flight else { return };
        // Its last step runs, or is over: its end is an event that has its place in the order.
        if flight.steps == 1 || self.now > flight.end(flight.steps - 1) {
            return;
        }
        let mut boundary = flight.next_boundary(self.now);
        if flight.end(boundary) == self.now {
            if r as u32 >= self.composed() {
                // Step by step, this boundary would have been handled before anything else of this instant.
                return self.finish_stretch(r, boundary);
            }
            boundary += 1;
        }
        if boundary < flight.steps {
            self.shorten(r, boundary);
        }
    }

    fn shorten(&mut self, r: usize, steps: u32) {
        let number = self.next_generation(r);
        let flight = self.replicas[r].in_flight.as_mut().expect("a stretch in flight");
        flight.steps = steps;
        flight.finishes = false;
        let time = flight.end(steps);
        self.events.push(Event { time, kind: Kind::StepDone, replica: r as u32, number, detail: 0 });
    }

    /// Splits the stretch in flight: the steps that are over are told, the step that runs now goes on alone.
    pub(super) fn split(&mut self, r: usize) {
        let Some(flight) = &self.replicas[r].in_flight else { return };
        let done = flight.steps_done(self.now);
        if done > 0 && flight.end(done) == self.now && r as u32 >= self.composed() {
            return self.finish_stretch(r, done);
        }
        if done > 0 {
            let rest = flight.clone();
            self.tell_stretch(r, done);
            let replica = &mut self.replicas[r];
            let rows = u64::from(rest.decode_rows);
            let mut price = rest.price;
            price.first += price.increment * u64::from(done);
            replica.in_flight = Some(InFlight {
                start: rest.end(done),
                stall: Span::ZERO,
                price,
                steps: rest.steps - done,
                decode_context_sum: rest.decode_context_sum + rows * u64::from(done),
                ..rest
            });
            replica.take_step_blocks();
        }
        if self.replicas[r].in_flight.as_ref().is_some_and(|flight| flight.steps > 1) {
            self.shorten(r, 1);
        }
    }

    pub(super) fn step_done(&mut self, r: usize) {
        let steps = self.replicas[r].in_flight.as_ref().expect("a step in flight").steps;
        self.finish_stretch(r, steps);
    }

    /// The first `steps` steps of the stretch in flight are over, and no other is under way.
    fn finish_stretch(&mut self, r: usize, steps: u32) {
        self.tell_stretch(r, steps);
        self.next_generation(r);
        let replica = &mut self.replicas[r];
        replica.in_flight = None;
        replica.rows.end_step();
        let mut freed = false;
        let mut from = 0;
        while let Some(position) = self.replicas[r].rows.next_over(from) {
            (freed, from) = (true, position);
            let row = self.replicas[r].remove_row(self.now, position);
            if let Some(key) = row.sequence {
                self.sequences.get_mut(key).emitted = row.running.emitted;
                self.end(key, End::Finished);
            }
        }
        if freed {
            self.offload_idle(r);
            self.prefetch(r);
            self.publish(r);
            self.drain_queue();
            self.power_off_if_drained(r);
        }
        self.wake(r);
    }

    /// Counts the first `steps` steps of the stretch in flight to its rows, and tells the fact.
    fn tell_stretch(&mut self, r: usize, steps: u32) {
        let replica = &mut self.replicas[r];
        let flight = replica.in_flight.as_ref().expect("a stretch in flight");
        let end = flight.end(steps);
        let blocks = replica.rows.tell(steps, end, &mut self.told);
        (replica.sag, replica.computed_until) = (flight.price.sag, end);
        for &key in &self.told.prefilled {
            let sequence = self.sequences.get_mut(key);
            if sequence.first_token().is_none() {
                sequence.first_token_at(end);
            }
        }
        replica.kv_free = replica.kv_free.checked_sub(blocks).expect("a stretch ends before KV blocks run out");
        replica.steps += u64::from(steps);
        let stretch = Stretch {
            replica: replica.id,
            start: flight.start,
            stall: flight.stall,
            first: flight.price.first,
            increment: if steps > 1 { flight.price.increment } else { Span::ZERO },
            steps,
            rows: self.told.rows(replica.rows.who()),
            same_rows: self.told.same_rows,
            padding_rows: flight.padding_rows,
            segments: flight.segments,
            decode_context_sum: flight.decode_context_sum,
            kv_blocks_used: replica.settings.kv_blocks - replica.kv_free,
            waiting: replica.waiting_before(end),
        };
        self.observer.observe(self.now, &Fact::Stretch(stretch));
    }

    pub(super) fn load_done(&mut self, r: usize, adapter: AdapterId, from: Tier) {
        let bytes = self.weights.of(adapter).bytes;
        let replica = &mut self.replicas[r];
        replica.residency.arrived(self.now, adapter, from, &mut *self.observer, bytes);
        if from == Tier::Host {
            replica.changed = true;
            self.wake(r);
            self.power_off_if_drained(r);
        }
    }

    /// Sequences left the batch: adapters that nobody uses any more go with them, where the evictor keeps none.
    pub(super) fn offload_idle(&mut self, r: usize) {
        if self.minds[r].evictor.keeps_idle() {
            return;
        }
        self.replicas[r].residency.offload_idle(self.now, &mut *self.observer);
        self.publish(r);
    }

    /// Starts the copies that the load path wants ahead of need, first come, first served, while there is room.
    /// Gives whether any was started.
    pub(super) fn prefetch(&mut self, r: usize) -> bool {
        let mind = &mut self.minds[r];
        let replica = &mut self.replicas[r];
        let ahead = mind.load_path.ahead().min(replica.waiting.len());
        let overlapped = mind.load_path.mode() == LoadMode::Overlapped;
        let copies_before = self.effects.copies.len();
        for position in 0..ahead {
            let waiting = &mut replica.waiting[position];
            let Some(adapter) = waiting.adapter else { continue };
            if waiting.taken || replica.residency.awaited(waiting.awaits).is_some() {
                continue;
            }
            let there = replica.residency.find(adapter).or_else(|| {
                let bytes = self.weights.of(adapter).bytes;
                let wish = Wish { adapter, bytes, cause: LoadCause::Prefetch };
                let loading = &mut Loading {
                    evictor: &mut *mind.evictor,
                    host_evictor: &mut *mind.host_evictor,
                    observer: &mut *self.observer,
                    copies: &mut self.effects.copies,
                    room: &mut self.effects.room,
                };
                replica.residency.load(self.now, wish, loading)
            });
            let Some(slot) = there else { break };
            waiting.awaits = Some(replica.residency.await_(slot, waiting.awaits));
            if overlapped && let Some(ready) = replica.residency.coming(slot) {
                waiting.refused = Some(Refusal::AdapterLoading);
                self.sequences.get_mut(waiting.sequence).refused(self.now, Refusal::AdapterLoading, ready);
            }
        }
        let started = self.effects.copies.len() > copies_before;
        for copy in self.effects.copies.drain(copies_before..) {
            self.events.push(load_event(r, copy.adapter, copy.from, copy.done));
        }
        started
    }
}

fn load_event(r: usize, adapter: AdapterId, from: Tier, done: crate::time::Time) -> Event {
    let detail = if from == Tier::Disk { 0 } else { 1 };
    Event { time: done, kind: Kind::LoadDone, replica: r as u32, number: adapter.0, detail }
}
