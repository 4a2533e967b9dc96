//! Random policies: whatever they propose, the books must balance.
//!
//! Each answers by a hash of what it sees, so that two runs in which a policy sees different things part visibly, and so
//! that, asked twice about the same state, it answers the same. None looks at absolute times: a run with all times
//! doubled is the same run, twice as long.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::draft::Draft;
use crate::fact::Power;
use crate::fleet::Fleet;
use crate::policy::{
    Asked, Batcher, Evictor, Idle, LoadMode, LoadPath, Migrator, Move, Policies, Preemptor, Requeue, Route, Router,
    Running, Scale, Scaler,
};
use crate::random::Stream;
use crate::time::{Span, Time};
use crate::workload::{ReplicaId, RequestId};

/// Which random policies? Chances are out of 256.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RandomPolicies {
    /// Of all hashes.
    pub seed: u64,
    /// Chance that the router holds a request while others are served.
    pub hold: u8,
    /// Chance that the router turns a request away.
    pub reject: u8,
    /// How held requests are ordered: by arrival, by prompt, or by hash.
    pub queue_order: u8,
    /// Decodes are drafted before prefills and admissions.
    pub decode_first: bool,
    /// A step with prefills leaves decodes out.
    pub prefill_alone: bool,
    /// Prompts are cut into chunks of at most so many tokens; 0: undivided.
    pub chunk: u32,
    /// Sequences admitted to one step at most.
    pub admit_max: u32,
    /// The first refusal ends admission.
    pub stop_at_refusal: bool,
    /// Chance that a sequence is passed over while there is other work.
    pub pass_over: u8,
    /// The batcher changes its mind after so many steps; 0: never.
    pub mood_steps: u32,
    /// The batch is padded to `max_num_seqs` rows, and its rows to the longest.
    pub pads: bool,
    /// Rows are counted to segments that are not theirs.
    pub miscounts: bool,
    /// Chance that a batch has overhead, and how long it is.
    pub overhead: (u8, Span),
    /// Chance that an evictor refuses.
    pub evictor_refuses: u8,
    /// Adapters stay on the GPU when nobody uses them.
    pub keeps_idle: bool,
    /// Do steps wait for copies?
    pub load_mode: LoadMode,
    /// Requests whose adapters are fetched ahead of need.
    pub ahead: usize,
    /// Free blocks that the preemptor wants before each step with more than one sequence.
    pub reserve: u32,
    /// Preempted sequences go back to the router.
    pub requeue_to_cluster: bool,
    /// Prompts that were computed in part are cut there.
    pub cuts_prompts: bool,
    /// How often sequences are moved.
    pub migrator_period: Option<Span>,
    /// How often replicas are acquired and let go of.
    pub scaler_period: Option<Span>,
}

impl RandomPolicies {
    /// Draws everything; periods and overheads are whole multiples of `unit`.
    pub fn draw(random: &mut Stream, unit: Span) -> RandomPolicies {
        let mut below = |n: u32| random.next_u32() % n;
        let mut policies = RandomPolicies::plain(u64::from(below(u32::MAX)));
        let mut often = |n: u32| below(n) == 0;
        let (holds, rejects, refuses) = (often(2), often(4), often(10));
        policies.decode_first = often(2);
        policies.prefill_alone = often(3);
        policies.stop_at_refusal = often(2);
        policies.pads = often(6);
        policies.miscounts = often(6);
        policies.requeue_to_cluster = often(3);
        let (passes, moody, slow, chunks, few) = (often(3), often(3), often(4), often(2), often(3));
        let (migrates, scales, overlapped, reserves) = (often(3), often(3), often(2), often(4));
        policies.hold = if holds { 40 + below(150) as u8 } else { 0 };
        policies.reject = if rejects { below(40) as u8 } else { 0 };
        policies.queue_order = below(3) as u8;
        policies.chunk = if chunks { 1 + below(9) } else { 0 };
        policies.admit_max = if few { 1 + below(2) } else { u32::MAX };
        policies.pass_over = if passes { below(128) as u8 } else { 0 };
        policies.mood_steps = if moody { 1 + below(6) } else { 0 };
        policies.overhead = if slow { (below(128) as u8, unit * u64::from(1 + below(5))) } else { (0, Span::ZERO) };
        policies.evictor_refuses = if refuses { 30 } else { 0 };
        policies.load_mode = if overlapped { LoadMode::Overlapped } else { LoadMode::Blocking };
        policies.ahead = below(4) as usize;
        policies.reserve = if reserves { 1 + below(2) } else { 0 };
        policies.migrator_period = migrates.then(|| unit * u64::from(5 + below(60)));
        policies.scaler_period = scales.then(|| unit * u64::from(5 + below(60)));
        policies.keeps_idle = below(4) > 0;
        policies.cuts_prompts = below(4) > 0;
        policies
    }

    /// Nothing special: the first available replica by hash, first come first served, whole prompts, blocking loads.
    pub fn plain(seed: u64) -> RandomPolicies {
        RandomPolicies {
            seed,
            hold: 0,
            reject: 0,
            queue_order: 0,
            decode_first: false,
            prefill_alone: false,
            chunk: 0,
            admit_max: u32::MAX,
            stop_at_refusal: true,
            pass_over: 0,
            mood_steps: 0,
            pads: false,
            miscounts: false,
            overhead: (0, Span::ZERO),
            evictor_refuses: 0,
            keeps_idle: true,
            load_mode: LoadMode::Blocking,
            ahead: 0,
            reserve: 0,
            requeue_to_cluster: false,
            cuts_prompts: false,
            migrator_period: None,
            scaler_period: None,
        }
    }

    /// The same policies with every period and overhead `times` as long.
    pub fn times(&self, times: u64) -> RandomPolicies {
        RandomPolicies {
            overhead: (self.overhead.0, self.overhead.1 * times),
            migrator_period: self.migrator_period.map(|period| period * times),
            scaler_period: self.scaler_period.map(|period| period * times),
            ..self.clone()
        }
    }

    /// Makers of these policies.
    pub fn make(&self) -> Policies {
        macro_rules! maker {
            ($kind:ident) => {{
                let this = self.clone();
                Box::new(move || Box::new($kind(this.clone())))
            }};
        }
        let scaler = self.clone();
        let migrator = self.clone();
        Policies {
            router: maker!(RandomRouter),
            batcher: maker!(RandomBatcher),
            evictor: maker!(RandomEvictor),
            load_path: maker!(RandomLoadPath),
            preemptor: maker!(RandomPreemptor),
            migrator: self.migrator_period.map(|_| -> crate::policy::Make<dyn Migrator> {
                Box::new(move || Box::new(RandomMigrator(migrator.clone())))
            }),
            scaler: self.scaler_period.map(|_| -> crate::policy::Make<dyn Scaler> {
                Box::new(move || Box::new(RandomScaler { policies: scaler.clone(), asked: 0 }))
            }),
        }
    }
}

/// A hash of a hash and one more number (the finalizer of SplitMix64).
fn mix(hash: u64, number: u64) -> u64 {
    let mut z = (hash ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn chance(hash: u64, of_256: u8) -> bool {
    hash % 256 < u64::from(of_256)
}

struct RandomRouter(RandomPolicies);

impl RandomRouter {
    /// Everything that a router can see, in one number.
    fn view(&self, asked: &Asked<'_>, fleet: &Fleet<'_>) -> u64 {
        let mut hash = mix(self.0.seed, u64::from(asked.request.id.0));
        hash = mix(hash, u64::from(asked.tokens));
        for id in (0..fleet.len() as u32).map(ReplicaId) {
            let s = fleet.signals(id);
            let counts =
                [s.running, s.waiting, s.kv_blocks_free, s.adapters_active, s.adapters_waiting, s.adapters_resident];
            for number in counts {
                hash = mix(hash, u64::from(number));
            }
            hash = mix(hash, s.kv_blocks_promised);
            hash = mix(hash, fleet.power(id) as u64);
            if let Some(adapter) = asked.request.adapter {
                hash = mix(hash, fleet.adapter(id, adapter) as u64);
                hash = mix(hash, u64::from(fleet.sequences_with(id, adapter)));
            }
        }
        for (working_set, id) in fleet.by_working_set() {
            hash = mix(hash, u64::from(working_set) << 32 | u64::from(id.0));
        }
        if let Some(adapter) = asked.request.adapter {
            for id in fleet.holders(adapter) {
                hash = mix(hash, u64::from(id.0));
            }
        }
        hash
    }
}

impl Router for RandomRouter {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        let draw = random.next_u64();
        let available = fleet.available();
        if available.is_empty() {
            return Route::Hold;
        }
        let busy = available.iter().any(|&id| fleet.working_set(id) > 0);
        let hash = mix(draw, self.view(asked, fleet));
        if busy && chance(hash, self.0.hold) {
            return Route::Hold;
        }
        if chance(hash >> 8, self.0.reject) {
            return Route::Reject;
        }
        Route::To(available[(hash >> 16) as usize % available.len()])
    }

    fn queue_key(&self, asked: &Asked<'_>) -> u64 {
        match self.0.queue_order {
            0 => asked.request.arrival.as_ps(),
            1 => u64::from(asked.tokens),
            _ => mix(self.0.seed, u64::from(asked.request.id.0)),
        }
    }
}

struct RandomBatcher(RandomPolicies);

impl RandomBatcher {
    /// Is it left out of this step, in which there is somebody else?
    fn passes_over(&self, request: RequestId, draft: &Draft<'_>, mood: u64) -> bool {
        draft.tokens() > 0 && chance(mix(mood, u64::from(request.0)), self.0.pass_over)
    }

    fn admit(&self, draft: &mut Draft<'_>, mood: u64) {
        let chunk_max = if self.0.chunk > 0 { self.0.chunk } else { u32::MAX };
        let (mut admitted, mut position) = (0, 0);
        while position < draft.waiting_len() && admitted < self.0.admit_max {
            let Some(queued) = draft.waiting(position) else {
                position += 1;
                continue;
            };
            if !self.passes_over(queued.request, draft, mood) {
                let undivided = self.0.chunk == 0 && queued.tokens <= draft.settings().max_num_batched_tokens;
                let result = if undivided { draft.admit(position) } else { draft.admit_chunk(position, chunk_max) };
                match result {
                    Ok(_) => admitted += 1,
                    Err(_) if self.0.stop_at_refusal => return,
                    Err(_) => {}
                }
            }
            position += 1;
        }
    }
}

impl Batcher for RandomBatcher {
    fn compose(&mut self, draft: &mut Draft<'_>) {
        let mut mood = self.0.seed;
        if self.0.mood_steps > 0 {
            let period = u64::from(self.0.mood_steps);
            mood = mix(mood, draft.steps_done() / period);
            draft.hold_for((period - draft.steps_done() % period) as u32);
        }
        if self.0.decode_first {
            draft.decode_all();
        }
        let chunk_max = if self.0.chunk > 0 { self.0.chunk } else { u32::MAX };
        for position in 0..draft.running_len() {
            let request = draft.running().nth(position).expect("a position of the batch").request;
            if !self.passes_over(request, draft, mood) {
                let _ = draft.prefill(position, chunk_max);
            }
        }
        self.admit(draft, mood);
        let alone = self.0.prefill_alone && draft.tokens() > 0;
        if !self.0.decode_first && !alone {
            draft.decode_all();
        }
        let (overhead_chance, overhead) = self.0.overhead;
        let batch = draft.running().fold(mood, |hash, running| mix(hash, u64::from(running.request.0)));
        if chance(batch, overhead_chance) {
            draft.overhead(overhead);
        }
        let longest = draft.running().filter(Running::decodes).map(|running| running.computed + 1).max();
        if self.0.pads
            && let Some(longest) = longest
        {
            draft.pad(draft.settings().max_num_seqs - draft.running_len() as u32, longest);
            draft.pad_to(longest);
        }
        if self.0.miscounts {
            let adapter = draft.running().next().and_then(|running| running.adapter);
            draft.count_decodes_to(adapter);
            draft.count_prompts_as(1);
        }
    }
}

struct RandomEvictor(RandomPolicies);

impl Evictor for RandomEvictor {
    fn victim(&mut self, _: Time, idle: &[Idle]) -> Option<usize> {
        let hash = idle.iter().fold(self.0.seed, |hash, idle| mix(mix(hash, u64::from(idle.adapter.0)), idle.uses));
        if chance(hash, self.0.evictor_refuses) {
            return None;
        }
        // Among the least recently used two, so that recency must be right as well.
        let mut positions: Vec<usize> = (0..idle.len()).collect();
        positions.sort_by_key(|&position| (idle[position].last_used, idle[position].loaded, idle[position].adapter));
        Some(positions[(hash >> 8) as usize % positions.len().min(2)])
    }

    fn keeps_idle(&self) -> bool {
        self.0.keeps_idle
    }
}

struct RandomLoadPath(RandomPolicies);

impl LoadPath for RandomLoadPath {
    fn mode(&self) -> LoadMode {
        self.0.load_mode
    }

    fn ahead(&self) -> usize {
        self.0.ahead
    }
}

struct RandomPreemptor(RandomPolicies);

impl Preemptor for RandomPreemptor {
    fn victim(&mut self, running: &[Running]) -> usize {
        let see = |hash, running: &Running| {
            let numbers = [running.computed, running.emitted, running.kv_blocks, running.admitted as u32];
            numbers.into_iter().fold(hash, |hash, number| mix(hash, u64::from(number)))
        };
        let hash = running.iter().fold(self.0.seed, see) as usize;
        // Those in the middle of a prompt are few.
        let prompts: Vec<usize> = (0..running.len()).filter(|&position| !running[position].decodes()).collect();
        let cuts = self.0.cuts_prompts && !prompts.is_empty();
        if cuts { prompts[hash % prompts.len()] } else { hash % running.len() }
    }

    fn requeue(&self) -> Requeue {
        if self.0.requeue_to_cluster { Requeue::Cluster } else { Requeue::Replica }
    }

    fn cuts_prompts(&self) -> bool {
        self.0.cuts_prompts
    }

    fn each_finds_a_free_block(&self) -> bool {
        self.0.seed.is_multiple_of(3)
    }

    fn reserve(&self, running: u32) -> u32 {
        if running > 1 { self.0.reserve } else { 0 }
    }
}

struct RandomMigrator(RandomPolicies);

impl Migrator for RandomMigrator {
    fn period(&self) -> Span {
        self.0.migrator_period.expect("it was made because there is one")
    }

    fn plan(&mut self, fleet: &Fleet<'_>, random: &mut Stream) -> Vec<Move> {
        let draw = random.next_u64();
        let mut moves = Vec::new();
        let available = fleet.available();
        if available.is_empty() {
            return moves;
        }
        for from in (0..fleet.len() as u32).map(ReplicaId) {
            let mut hash = mix(draw, u64::from(from.0));
            for placed in fleet.sequences(from) {
                hash = mix(mix(hash, u64::from(placed.request.0)), u64::from(placed.tokens));
                if chance(hash, 24) {
                    let to = available[(hash >> 8) as usize % available.len()];
                    moves.push(Move { request: placed.request, from, to });
                }
            }
        }
        moves
    }
}

struct RandomScaler {
    policies: RandomPolicies,
    asked: u64,
}

impl Scaler for RandomScaler {
    fn period(&self) -> Span {
        self.policies.scaler_period.expect("it was made because there is one")
    }

    fn plan(&mut self, fleet: &Fleet<'_>, held: usize) -> Vec<Scale> {
        self.asked += 1;
        let all = (0..fleet.len() as u32).map(ReplicaId);
        let mut hash = mix(mix(self.policies.seed, self.asked), held as u64);
        for id in all.clone() {
            hash = mix(mix(hash, fleet.power(id) as u64), u64::from(fleet.working_set(id)));
        }
        let available = fleet.available();
        let starts = all.clone().any(|id| fleet.power(id) == Power::Starting);
        if available.is_empty() && !starts {
            return vec![Scale::Acquire(ReplicaId(hash as u32 % fleet.len() as u32))];
        }
        match hash % 4 {
            0 => vec![Scale::Acquire(ReplicaId((hash >> 8) as u32 % fleet.len() as u32))],
            1 if available.len() > 1 => vec![Scale::Release(available[(hash >> 8) as usize % available.len()])],
            _ => Vec::new(),
        }
    }
}
