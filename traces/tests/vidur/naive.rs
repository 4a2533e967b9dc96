//! Vidur's rules once more, naively: floating point, one step after the other, nothing shared with the engine.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::LazyLock;

use aril_sim::profile::vidur::Steps;
use aril_sim::workload::Offered;

use super::{BLOCK, BLOCKS, Rule, Scheduler, WATERMARK, profile};

/// What became of a request, seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Served {
    pub(super) replica: usize,
    pub(super) first_token: f64,
    pub(super) end: f64,
}

/// Who gets a request that arrives?
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Choice {
    /// One after the other, as they are numbered.
    InTurn,
    /// The first of those with the fewest requests that have not ended.
    FewestOutstanding,
    /// The last of them.
    LastOfFewestOutstanding,
    /// The first of those with the fewest requests in the queue.
    FewestWaiting,
}

/// What became of each request, and how many restarts there were.
pub(super) fn serve(
    costs: &Costs,
    replicas: usize,
    rule: Rule,
    choice: Choice,
    requests: &[Offered],
) -> (Vec<Served>, u32) {
    let mut replicas: Vec<Replica> = (0..replicas).map(|_| Replica::new(costs, rule)).collect();
    let mut places = Vec::new();
    for (id, offered) in requests.iter().enumerate() {
        let arrival = offered.request.arrival.as_ps() as f64 / 1e12;
        if choice != Choice::InTurn {
            replicas.iter_mut().for_each(|replica| replica.until(arrival));
        }
        let outstanding = |place: &usize| replicas[*place].outstanding(arrival);
        let waiting = |place: &usize| replicas[*place].queue.len();
        let all = 0..replicas.len();
        let chosen = match choice {
            Choice::InTurn => Some(id % replicas.len()),
            // Of equals the first.
            Choice::FewestOutstanding => all.min_by_key(outstanding),
            Choice::LastOfFewestOutstanding => all.rev().min_by_key(outstanding),
            Choice::FewestWaiting => all.min_by_key(waiting),
        };
        let place = chosen.expect("there is a replica");
        replicas[place].ask(arrival, offered.request.prompt_tokens, offered.outcome.output_tokens);
        places.push((place, replicas[place].asked.len() - 1));
    }
    replicas.iter_mut().for_each(|replica| replica.until(f64::INFINITY));
    let served = |&(replica, id): &(usize, usize)| {
        let (first_token, end) = replicas[replica].times[id];
        Served { replica, first_token, end }
    };
    (places.iter().map(served).collect(), replicas.iter().map(|replica| replica.restarts).sum())
}

/// Vidur's cost tables: milliseconds a layer by the arguments that its files have, the last one last.
pub(super) struct Costs {
    operations: Vec<Table>,
    save: Table,
    decode: Table,
    prefill: Table,
}

type Table = BTreeMap<(u32, u32), f64>;

/// The whole tables, as the profile that was made of them has them.
pub(super) static WHOLE: LazyLock<Costs> = LazyLock::new(|| {
    let tables = profile().vidur.unwrap();
    let spread = |first: u32, steps: &Steps, by: usize, written: fn(u32) -> u32| -> Table {
        let value = |x: u32| steps.ms[steps.until.iter().position(|until| *until >= x).unwrap()];
        (0..=steps.last()).step_by(by).map(|x| ((first, written(x)), value(x))).collect()
    };
    let by_tokens = |steps: &Steps| spread(0, steps, 1, |tokens| tokens);
    let decode = (1..).zip(&tables.decode);
    let prefill = (0..).step_by(64).zip(&tables.prefill);
    Costs {
        operations: tables.operations.iter().map(|operation| by_tokens(&operation.cost)).collect(),
        save: by_tokens(&tables.kv_cache_save),
        decode: decode.flat_map(|(rows, steps)| spread(rows, steps, 64, |context| context)).collect(),
        prefill: prefill.flat_map(|(context, steps)| spread(context, steps, 1, |chunk| chunk * chunk)).collect(),
    }
});

impl Costs {
    /// Tables as Vidur wrote them.
    pub(super) fn of_tables(folder: &Path) -> Costs {
        let read = |name: &str| -> Table {
            let text = std::fs::read_to_string(folder.join(format!("{name}.csv"))).unwrap();
            let rows = text.lines().skip(1).map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect());
            let entry = |row: Vec<f64>| match row[..] {
                [tokens, ms] => ((0, tokens as u32), ms),
                [first, second, ms] => ((first as u32, second as u32), ms),
                _ => panic!("{name}: {row:?}"),
            };
            rows.map(entry).collect()
        };
        let layer = "input_layernorm attn_pre_proj attn_rope attn_post_proj post_attention_layernorm mlp_up_proj mlp_act mlp_down_proj add";
        Costs {
            operations: layer.split(' ').map(read).collect(),
            save: read("attn_kv_cache_save"),
            decode: read("attn_decode"),
            prefill: read("attn_prefill"),
        }
    }

    /// One step of (tokens processed before, tokens computed) each, seconds.
    fn step(&self, decodes: &[u32], prefills: &[(u32, u32)]) -> f64 {
        let up = |tokens: u32, step: u32| tokens.div_ceil(step) * step;
        let tokens = decodes.len() as u32 + prefills.iter().map(|prefill| prefill.1).sum::<u32>();
        let mut ms: f64 = self.operations.iter().map(|table| table[&(0, up(tokens, 8))]).sum();
        ms += self.save[&(0, tokens)];
        if !decodes.is_empty() {
            let mean = decodes.iter().sum::<u32>() / decodes.len() as u32;
            ms += self.decode[&(decodes.len() as u32, up(mean, 64))];
        }
        if !prefills.is_empty() {
            let context: u32 = prefills.iter().map(|prefill| up(prefill.0, 64)).sum();
            let squares: f64 = prefills.iter().map(|prefill| f64::from(prefill.1).powi(2)).sum();
            ms += self.prefill[&(context, (squares.sqrt().round() as u32).pow(2))];
        }
        32.0 * ms / 1e3
    }
}

/// What is asked for, of those that were restarted what is left of it.
#[derive(Clone, Copy, Debug)]
struct Asked {
    prompt: u32,
    output: u32,
}

#[derive(Clone, Copy, Debug)]
struct Live {
    id: usize,
    prompt: u32,
    output: u32,
    processed: u32,
    blocks: u32,
}

/// One replica, and its requests by the order in which it got them.
struct Replica<'a> {
    costs: &'a Costs,
    rule: Rule,
    asked: Vec<Asked>,
    /// First token and end.
    times: Vec<(f64, f64)>,
    /// When its next step begins, if there is anything to do.
    now: f64,
    free: u32,
    queue: VecDeque<usize>,
    running: Vec<Live>,
    /// How many ended with its last step.
    ended: usize,
    restarts: u32,
}

impl<'a> Replica<'a> {
    fn new(costs: &'a Costs, rule: Rule) -> Replica<'a> {
        Replica {
            costs,
            rule,
            asked: Vec::new(),
            times: Vec::new(),
            now: 0.0,
            free: BLOCKS,
            queue: VecDeque::new(),
            running: Vec::new(),
            ended: 0,
            restarts: 0,
        }
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.queue.is_empty()
    }

    fn ask(&mut self, arrival: f64, prompt: u32, output: u32) {
        self.until(arrival);
        if self.is_idle() {
            self.now = arrival.max(self.now);
        }
        self.queue.push_back(self.asked.len());
        self.asked.push(Asked { prompt, output });
        self.times.push((f64::NAN, f64::NAN));
    }

    /// Takes all steps that begin before then.
    fn until(&mut self, time: f64) {
        while !self.is_idle() && self.now < time {
            self.step();
        }
    }

    /// How many have not ended at the time that it was brought to? Its last step may be under way then.
    fn outstanding(&self, time: f64) -> usize {
        let ends_later = if self.now > time { self.ended } else { 0 };
        self.queue.len() + self.running.len() + ends_later
    }

    fn step(&mut self) {
        // Those of the step and their tokens, and those who have to wait.
        let (step, mut waits) = match self.rule.scheduler {
            Scheduler::Sarathi => self.chunked(),
            Scheduler::Vllm => self.prefill_first(),
        };
        let (decodes, prefills): (Vec<_>, Vec<_>) = step.iter().partition(|(live, _)| live.processed >= live.prompt);
        let decodes: Vec<u32> = decodes.into_iter().map(|(live, _)| live.processed).collect();
        let prefills: Vec<(u32, u32)> = prefills.into_iter().map(|(live, chunk)| (live.processed, chunk)).collect();
        self.now += self.costs.step(&decodes, &prefills);
        self.ended = 0;
        for (mut live, tokens) in step {
            let prefill = live.processed < live.prompt;
            live.processed += tokens;
            if prefill && live.processed == live.prompt {
                live.processed += 1;
                let first = &mut self.times[live.id].0;
                *first = if first.is_nan() { self.now } else { *first };
            }
            if live.processed == live.prompt + live.output {
                self.times[live.id].1 = self.now;
                self.ended += 1;
                self.free += live.blocks;
            } else {
                self.running.push(live);
            }
        }
        self.running.append(&mut waits);
        self.running.sort_by_key(|live| live.id);
    }

    fn chunked(&mut self) -> (Vec<(Live, u32)>, Vec<Live>) {
        let (mut step, prompts) = self.turns();
        let mut waits = Vec::new();
        let mut left = self.rule.tokens - step.len() as u32;
        for live in prompts {
            let chunk = left.min(live.prompt - live.processed);
            if chunk > 0 {
                step.push((live, chunk))
            } else {
                waits.push(live)
            }
            left -= chunk;
        }
        while left > 0
            && let Some(live) = self.admitted(step.len() + waits.len())
        {
            self.take(&live);
            let chunk = left.min(live.prompt);
            step.push((live, chunk));
            left -= chunk;
        }
        (step, waits)
    }

    fn prefill_first(&mut self) -> (Vec<(Live, u32)>, Vec<Live>) {
        let (mut step, mut longest) = (Vec::new(), 0);
        while let Some(live) = self.admitted(self.running.len() + step.len())
            && (step.len() as u32 + 1) * live.prompt.max(longest) <= self.rule.tokens
        {
            self.take(&live);
            longest = longest.max(live.prompt);
            step.push((live, live.prompt));
        }
        if step.is_empty() {
            step = self.turns().0;
        }
        (step, Vec::new())
    }

    /// The first of the queue, if there is room for it beside so many.
    fn admitted(&self, running: usize) -> Option<Live> {
        let &id = self.queue.front()?;
        let Asked { prompt, output } = self.asked[id];
        let blocks = prompt.div_ceil(BLOCK);
        let spare = (f64::from(BLOCKS) * WATERMARK) as u32;
        let live = Live { id, prompt, output, processed: 0, blocks };
        ((running as u32) < self.rule.sequences && self.free >= blocks + spare).then_some(live)
    }

    fn take(&mut self, live: &Live) {
        self.queue.pop_front();
        self.free -= live.blocks;
    }

    /// All that it has is a prompt again.
    fn restart(&mut self, gone: Live) {
        let left = Asked { prompt: gone.processed, output: gone.prompt + gone.output - gone.processed };
        self.asked[gone.id] = left;
        self.free += gone.blocks;
        self.queue.push_front(gone.id);
        self.restarts += 1;
    }

    /// Those that decode in turn, the last of the rest giving way: who had a turn, and who still has prompt left.
    fn turns(&mut self) -> (Vec<(Live, u32)>, Vec<Live>) {
        let (mut turned, mut prompts) = (Vec::new(), Vec::new());
        let mut others: VecDeque<Live> = self.running.drain(..).collect();
        while let Some(mut live) = others.pop_front() {
            if live.processed < live.prompt {
                prompts.push(live);
                continue;
            }
            // Whether or not it needs one, a block must be free.
            while self.free == 0
                && let Some(last) = others.pop_back()
            {
                self.restart(last);
            }
            if self.free == 0 {
                self.restart(live);
                continue;
            }
            // The token that is processed has its place in the cache.
            let more = live.processed.div_ceil(BLOCK).saturating_sub(live.blocks);
            self.free -= more;
            live.blocks += more;
            turned.push((live, 1));
        }
        (turned, prompts)
    }
}
