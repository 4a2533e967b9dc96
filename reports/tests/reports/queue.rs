//! A few replicas with first-come queues, written for the tests of this crate: it tells facts as the engine does, by other means.

use std::collections::VecDeque;

use aril_sim::fact::{End, Fact, Life, LoadCause, Observer, Power, RejectReason, Row, Rows, Stretch, Tier, Waits};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, Catalog, Offered, ReplicaId};

pub(crate) use crate::setup::{Route, Setup};

#[derive(Clone)]
struct Sequence {
    offered: Offered,
    scheduled: Option<Time>,
    first_token: Option<Time>,
    previous_token: Option<Time>,
    emitted: u32,
    /// Tokens to compute before its next one, and tokens whose KV is there.
    target: u32,
    computed: u32,
    /// Tokens of the prompt that are generated, as more output.
    cut: u32,
    preempted: Option<Time>,
    preemptions: u32,
    waits: Waits,
    hit: Option<bool>,
}

impl Sequence {
    fn is_prefill(&self) -> bool {
        self.computed < self.target
    }

    /// Tokens that a step computes.
    fn tokens(&self, chunk: u32) -> u32 {
        if self.is_prefill() { chunk.min(self.target - self.computed) } else { 1 }
    }

    fn emits(&self, chunk: u32) -> bool {
        self.computed + self.tokens(chunk) >= self.target
    }

    fn left(&self) -> u32 {
        self.offered.outcome.output_tokens + self.cut - self.emitted
    }

    fn blocks(&self) -> u32 {
        self.computed.div_ceil(16)
    }
}

#[derive(Default)]
struct Replica {
    queue: VecDeque<Sequence>,
    running: Vec<Sequence>,
    resident: Vec<AdapterId>,
    in_host: Vec<AdapterId>,
    step: Option<Step>,
    on: bool,
}

#[derive(Clone, Copy)]
struct Step {
    start: Time,
    stall: Span,
    first: Span,
    increment: Span,
    steps: u32,
    segments: u32,
    end: Time,
}

/// Runs it and tells everything; returns when it ended.
pub(crate) fn run(setup: &Setup, observer: &mut impl Observer) -> Time {
    let catalog = setup.catalog();
    let mut arrivals: VecDeque<Offered> = setup.offered().into();
    let mut replicas: Vec<Replica> = (0..setup.replicas).map(|_| Replica::default()).collect();
    let (mut now, mut turn) = (Time::ZERO, 0);
    loop {
        let step = replicas.iter().enumerate().filter_map(|(i, r)| r.step.map(|step| (step.end, i))).min();
        let arrival = arrivals.front().map(|offered| offered.request.arrival);
        match (step, arrival) {
            (Some((end, index)), arrival) if arrival.is_none_or(|arrival| end <= arrival) => {
                now = end;
                finish_step(&mut replicas[index], index, now, setup, observer);
                start_step(&mut replicas[index], index, now, setup, &catalog, arrival, observer);
            }
            (_, Some(arrival)) => {
                now = arrival;
                let offered = arrivals.pop_front().expect("it was there");
                observer.observe(now, &Fact::Offered(&offered));
                if offered.request.prompt_tokens > 1_450 {
                    let life = Life {
                        offered: &offered,
                        end: End::Rejected(RejectReason::TooLong),
                        replica: None,
                        scheduled: None,
                        first_token: None,
                        emitted: 0,
                        waits: Waits::default(),
                        adapter_hit: None,
                        preemptions: 0,
                        migrations: 0,
                    };
                    observer.observe(now, &Fact::Ended(life));
                    continue;
                }
                let index = route(setup, &replicas, &offered, &mut turn);
                take(&mut replicas[index], index, offered, now, observer);
                if replicas[index].step.is_none() {
                    let next = arrivals.front().map(|offered| offered.request.arrival);
                    start_step(&mut replicas[index], index, now, setup, &catalog, next, observer);
                }
            }
            (None, None) => return now,
            (Some(_), None) => unreachable!("without arrivals every step comes first"),
        }
    }
}

fn route(setup: &Setup, replicas: &[Replica], offered: &Offered, turn: &mut usize) -> usize {
    let load = |replica: &Replica| replica.queue.len() + replica.running.len();
    let least = || (0..replicas.len()).min_by_key(|i| load(&replicas[*i])).unwrap_or(0);
    match setup.route {
        Route::RoundRobin => {
            *turn += 1;
            *turn % replicas.len()
        }
        Route::LeastLoaded => least(),
        Route::ByAdapter => offered.request.adapter.map_or_else(least, |adapter| adapter.index() % replicas.len()),
        Route::Fullest => {
            let with_place = (0..replicas.len()).filter(|i| load(&replicas[*i]) < setup.batch);
            with_place.max_by_key(|i| (load(&replicas[*i]), std::cmp::Reverse(*i))).unwrap_or_else(least)
        }
    }
}

fn take(replica: &mut Replica, index: usize, offered: Offered, now: Time, observer: &mut impl Observer) {
    let id = ReplicaId(index as u32);
    if !replica.on {
        replica.on = true;
        observer.observe(now, &Fact::Power { replica: id, power: Power::On });
    }
    observer.observe(now, &Fact::Routed { request: offered.request.id, replica: id, recompute: 0 });
    let hit = offered.request.adapter.map(|adapter| replica.resident.contains(&adapter));
    replica.queue.push_back(Sequence {
        target: offered.request.prompt_tokens,
        offered,
        scheduled: None,
        first_token: None,
        previous_token: None,
        emitted: 0,
        computed: 0,
        cut: 0,
        preempted: None,
        preemptions: 0,
        waits: Waits::default(),
        hit,
    });
}

fn end(sequence: &Sequence, end: End, index: usize, now: Time, observer: &mut impl Observer) {
    let life = Life {
        offered: &sequence.offered,
        end,
        replica: Some(ReplicaId(index as u32)),
        scheduled: sequence.scheduled,
        first_token: sequence.first_token,
        emitted: sequence.emitted,
        waits: sequence.waits,
        adapter_hit: sequence.hit,
        preemptions: sequence.preemptions,
        migrations: 0,
    };
    observer.observe(now, &Fact::Ended(life));
}

/// The youngest give way until the others fit, and the router sends them back. What is left of a first prefill is cut.
fn make_room(replica: &mut Replica, id: ReplicaId, now: Time, kv_blocks: u32, observer: &mut impl Observer) {
    while replica.running.len() > 1 && replica.running.iter().map(Sequence::blocks).sum::<u32>() > kv_blocks {
        let Some(mut sequence) = replica.running.pop() else { break };
        let (request, blocks) = (sequence.offered.request.id, sequence.blocks());
        let cut = if sequence.emitted == 0 { sequence.target - sequence.computed } else { 0 };
        observer.observe(now, &Fact::Preempted { request, replica: id, blocks, cut });
        sequence.cut += cut;
        sequence.target = sequence.offered.request.prompt_tokens + sequence.emitted - sequence.cut;
        sequence.computed = 0;
        sequence.preempted = Some(now);
        sequence.preemptions += 1;
        observer.observe(now, &Fact::Routed { request, replica: id, recompute: sequence.emitted });
        replica.queue.push_front(sequence);
    }
}

fn start_step(
    replica: &mut Replica,
    index: usize,
    now: Time,
    setup: &Setup,
    catalog: &Catalog,
    next: Option<Time>,
    observer: &mut impl Observer,
) {
    let id = ReplicaId(index as u32);
    make_room(replica, id, now, setup.kv_blocks, observer);
    let mut stall = Span::ZERO;
    while replica.running.len() < setup.batch {
        let Some(mut sequence) = replica.queue.pop_front() else { break };
        let arrival = sequence.offered.request.arrival;
        if sequence.scheduled.is_none() && setup.timeout.is_some_and(|timeout| now.since(arrival) > timeout) {
            sequence.waits.queue = now.since(arrival);
            end(&sequence, End::TimedOut, index, now, observer);
            continue;
        }
        let used: u32 = replica.running.iter().map(Sequence::blocks).sum();
        if !replica.running.is_empty() && used + sequence.target.div_ceil(16) > setup.kv_blocks {
            replica.queue.push_front(sequence);
            break;
        }
        match sequence.preempted.take() {
            Some(since) if sequence.first_token.is_none() => sequence.waits.preemption += now.since(since),
            Some(_) => {}
            None => (sequence.waits.queue, sequence.scheduled) = (now.since(arrival), Some(now)),
        }
        observer.observe(now, &Fact::Scheduled { request: sequence.offered.request.id, replica: id });
        if let Some(adapter) = sequence.offered.request.adapter {
            let before = stall;
            stall += load(replica, id, adapter, now + stall, now, setup, catalog, observer);
            if sequence.first_token.is_none() {
                sequence.waits.load += stall.saturating_sub(before);
            }
        }
        replica.running.push(sequence);
    }
    if replica.running.is_empty() {
        return;
    }
    let rows = replica.running.len() as u64;
    let prefills = replica.running.iter().filter(|sequence| sequence.is_prefill());
    let prompt = prefills.map(|sequence| u64::from(sequence.tokens(setup.chunk))).sum::<u64>();
    let first = Span::from_ms(12) + Span::from_us(180) * rows + Span::from_us(60) * prompt;
    let increment = Span::from_ns(40) * rows;
    let steps = if prompt > 0 || !replica.queue.is_empty() {
        1
    } else {
        let left = replica.running.iter().map(Sequence::left).min().unwrap_or(1);
        let free = next.map_or(u64::MAX, |next| next.since(now).as_ps() / (first + increment * 200).as_ps());
        u64::from(left).min(free.saturating_add(1)) as u32
    };
    let mut adapters: Vec<_> = replica.running.iter().map(|s| s.offered.request.adapter).collect();
    adapters.sort_unstable();
    adapters.dedup();
    let k = u64::from(steps);
    let end = now + stall + first * k + increment * (k * (k - 1) / 2);
    replica.step = Some(Step { start: now, stall, first, increment, steps, segments: adapters.len() as u32, end });
}

#[allow(clippy::too_many_arguments)]
fn load(
    replica: &mut Replica,
    id: ReplicaId,
    adapter: AdapterId,
    start: Time,
    now: Time,
    setup: &Setup,
    catalog: &Catalog,
    observer: &mut impl Observer,
) -> Span {
    if let Some(place) = replica.resident.iter().position(|other| *other == adapter) {
        let adapter = replica.resident.remove(place);
        replica.resident.push(adapter);
        return Span::ZERO;
    }
    let bytes = catalog.adapters[adapter.index()].bytes;
    if replica.resident.len() >= setup.slots {
        let oldest = replica.resident.remove(0);
        let freed = catalog.adapters[oldest.index()].bytes;
        observer.observe(now, &Fact::Evicted { replica: id, adapter: oldest, tier: Tier::Gpu, bytes: freed });
    }
    replica.resident.push(adapter);
    let took = Span::from_us(bytes / 10_000);
    // Every other adapter is said to be fetched ahead of need, from wherever it is.
    let cause = if adapter.0.is_multiple_of(2) { LoadCause::Prefetch } else { LoadCause::Demand };
    let mut tell = |from, done| {
        let fact = Fact::LoadStarted { replica: id, adapter, from, bytes, cause, start, done };
        observer.observe(now, &fact);
    };
    // From a disk that takes no time, once.
    if !replica.in_host.contains(&adapter) {
        replica.in_host.push(adapter);
        tell(Tier::Disk, start);
    }
    tell(Tier::Host, start + took);
    took
}

fn finish_step(replica: &mut Replica, index: usize, now: Time, setup: &Setup, observer: &mut impl Observer) {
    let Some(step) = replica.step.take() else { return };
    let rows: Vec<Row> = replica
        .running
        .iter()
        .map(|sequence| Row {
            request: sequence.offered.request.id,
            adapter: sequence.offered.request.adapter,
            previous_token: sequence.previous_token,
            tokens: sequence.tokens(setup.chunk),
            prefill: sequence.is_prefill(),
            emits: sequence.emits(setup.chunk),
        })
        .collect();
    let decodes = replica.running.iter().filter(|sequence| !sequence.is_prefill());
    let decode_context_sum = decodes.map(|sequence| u64::from(sequence.computed) + 1).sum();
    for (sequence, row) in replica.running.iter_mut().zip(&rows) {
        sequence.computed += row.tokens * step.steps;
    }
    observer.observe(
        now,
        &Fact::Stretch(Stretch {
            replica: ReplicaId(index as u32),
            start: step.start,
            stall: step.stall,
            first: step.first,
            increment: step.increment,
            steps: step.steps,
            rows: Rows::Listed(&rows),
            same_rows: 0,
            // The batch is a multiple of four.
            padding_rows: (rows.len().next_multiple_of(4) - rows.len()) as u32,
            segments: step.segments,
            decode_context_sum,
            kv_blocks_used: replica.running.iter().map(Sequence::blocks).sum(),
            waiting: replica.queue.len() as u32,
        }),
    );
    for (sequence, row) in replica.running.iter_mut().zip(&rows) {
        if !row.emits {
            continue;
        }
        sequence.emitted += step.steps;
        sequence.previous_token = Some(now);
        if sequence.first_token.is_none() {
            sequence.first_token = Some(now);
            let waits = &mut sequence.waits;
            waits.prefill = now.since(sequence.offered.request.arrival) - waits.total();
        }
    }
    let (done, running): (Vec<_>, Vec<_>) =
        std::mem::take(&mut replica.running).into_iter().partition(|sequence| sequence.left() == 0);
    replica.running = running;
    done.iter().for_each(|sequence| end(sequence, End::Finished, index, now, observer));
}
