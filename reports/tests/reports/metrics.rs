//! Every metric against brute force over the same facts.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use aril_reports::metrics::{Latency, Parts};
use aril_reports::{RecorderSettings, RunMetrics, RunResult, Traffic};
use aril_sim::fact::End;
use aril_sim::time::{Span, Time};
use aril_sim::workload::AdapterId;

use crate::facts::{Kept, Told, record, settings};
use crate::queue::{Route, Setup};

static SAMPLE: LazyLock<(Setup, Told, RunResult)> = LazyLock::new(|| {
    // Of eight adapters each, replicas hold six.
    let (slots, timeout, rate_per_s) = (6, Some(Span::from_secs(2)), 40.0);
    // Long prompts take several steps, and some give way.
    let (chunk, kv_blocks) = (512, 450);
    let setup = Setup { wave: true, slots, chunk, kv_blocks, timeout, rate_per_s, ..Setup::new(Route::ByAdapter, 7) };
    let (told, result) = record(&setup, settings(&setup));
    (setup, told, result.unwrap())
});

/// A run with good requests and bad ones, ended in all kinds of ways.
pub(crate) fn sample() -> (&'static Setup, &'static Told, &'static RunResult) {
    (&SAMPLE.0, &SAMPLE.1, &SAMPLE.2)
}

/// The measured lives, by the rule of the settings: after 20 s, and 10 s before the last arrival.
fn measured(told: &Told) -> Vec<&Kept> {
    let last = told.lives.iter().map(|life| life.offered.request.arrival).max().unwrap().as_ps();
    let window = 20_000_000_000_000..=last - 10_000_000_000_000;
    told.lives.iter().filter(|life| window.contains(&life.offered.request.arrival.as_ps())).collect()
}

fn window_s(run: &RunMetrics) -> f64 {
    run.window.end_s - run.window.start_s
}

pub(crate) fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1e-12)
}

/// The nearest-rank percentile by definition: the least value with at least q of all at or below it.
fn percentile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let enough = (1..=sorted.len()).find(|at_or_below| *at_or_below as f64 >= q * sorted.len() as f64 - 1e-9).unwrap();
    sorted[enough - 1]
}

fn matches(latency: &Latency, values: &[f64]) {
    assert_eq!(latency.count, values.len() as u64);
    assert!(close(latency.mean.unwrap(), values.iter().sum::<f64>() / values.len() as f64));
    for (q, found) in [(0.5, latency.p50), (0.9, latency.p90), (0.99, latency.p99), (1.0, latency.max)] {
        // Times per token are rounded to the picosecond.
        assert!((found.unwrap() - percentile(values, q)).abs() < 1.1e-12, "{q}: {found:?} {}", percentile(values, q));
    }
}

pub(crate) fn seconds(ps: u64) -> f64 {
    ps as f64 / 1e12
}

fn is_good(life: &Kept) -> bool {
    let (ttft, tpot) = if life.offered.request.tenant.0.is_multiple_of(4) { (0.060, 0.017) } else { (0.200, 0.025) };
    life.end == End::Finished && seconds(life.ttft().unwrap()) <= ttft && life.tpot().is_none_or(|ps| ps / 1e12 <= tpot)
}

#[test]
fn latencies_are_those_of_the_measured_requests() {
    let (_, told, result) = sample();
    let lives = measured(told);
    let run = &result.metrics;
    matches(&run.ttft, &lives.iter().filter_map(|life| life.ttft()).map(seconds).collect::<Vec<_>>());
    matches(&run.e2e, &lives.iter().filter_map(|life| life.e2e()).map(seconds).collect::<Vec<_>>());
    matches(&run.tpot, &lives.iter().filter_map(|life| life.tpot()).map(|ps| ps / 1e12).collect::<Vec<_>>());
    matches(&run.queueing, &lives.iter().filter_map(|life| life.wait()).map(seconds).collect::<Vec<_>>());
}

#[test]
fn token_gaps_are_counted_one_by_one_however_long_the_stretches() {
    let (setup, told, result) = sample();
    assert!(
        told.tokens.values().map(Vec::len).sum::<usize>() as u64 > 2 * told.stretches,
        "the sample has stretches of several steps"
    );
    let mut gaps: Vec<u64> = Vec::new();
    let mut of_tenant = vec![Vec::new(); setup.tenants as usize];
    for life in measured(told) {
        let id = life.offered.request.id.0;
        for pair in told.tokens.get(&id).map_or(&[] as &[Time], Vec::as_slice).windows(2) {
            gaps.push(pair[1].since(pair[0]).as_ps());
            of_tenant[life.offered.request.tenant.index()].push(pair[1].since(pair[0]).as_ps());
        }
    }
    let check = |latency: &Latency, gaps: &mut Vec<u64>, width: f64| {
        gaps.sort_unstable();
        assert_eq!(latency.count, gaps.len() as u64);
        assert!(close(latency.mean.unwrap(), gaps.iter().map(|gap| seconds(*gap)).sum::<f64>() / gaps.len() as f64));
        for (q, found) in [(0.5, latency.p50), (0.9, latency.p90), (0.99, latency.p99)] {
            let exact = seconds(gaps[(q * gaps.len() as f64).ceil() as usize - 1]);
            assert!((found.unwrap() / exact - 1.0).abs() <= width, "{q}: {found:?} {exact}");
        }
        let longest = seconds(*gaps.last().unwrap());
        assert!((latency.max.unwrap() / longest - 1.0).abs() <= width, "{:?} {longest}", latency.max);
    };
    check(&result.metrics.itl, &mut gaps, 0.001);
    for group in result.metrics.by_tenant.iter().chain(&result.metrics.fairness.worst) {
        let index = setup.catalog().tenants.iter().position(|tenant| tenant.name == group.name).unwrap();
        check(&group.itl, &mut of_tenant[index], 0.001);
    }
}

#[test]
fn token_gaps_are_counted_one_by_one_where_all_is_measured_or_from_one_arrival_to_another() {
    // Many join while others decode.
    let setup = Setup { requests: 400, rate_per_s: 60.0, replicas: 2, ..Setup::new(Route::RoundRobin, 3) };
    let arrivals: Vec<Time> = setup.offered().iter().map(|offered| offered.request.arrival).collect();
    let last = *arrivals.last().unwrap();
    for (first, end) in [(0, 399), (100, 300)] {
        let warmup = if first == 0 { Span::ZERO } else { arrivals[first].since(Time::ZERO) };
        let settings = RecorderSettings { warmup, drain: last.since(arrivals[end]), ..settings(&setup) };
        let (told, result) = record(&setup, settings);
        let run = result.unwrap().metrics;
        let mut gaps: Vec<Vec<u64>> = vec![Vec::new(); setup.tenants as usize];
        for life in told.lives.iter().filter(|life| (first..=end).contains(&life.offered.request.id.index())) {
            let tokens = told.tokens.get(&life.offered.request.id.0).map_or(&[] as &[Time], Vec::as_slice);
            let of = &mut gaps[life.offered.request.tenant.index()];
            of.extend(tokens.windows(2).map(|pair| pair[1].since(pair[0]).as_ps()));
        }
        let all: Vec<f64> = gaps.iter().flatten().map(|gap| seconds(*gap)).collect();
        assert_eq!((run.measured.offered, run.itl.count), ((end + 1 - first) as u64, all.len() as u64));
        assert!(close(run.itl.mean.unwrap(), all.iter().sum::<f64>() / all.len() as f64));
        for group in &run.by_tenant {
            let index = setup.catalog().tenants.iter().position(|tenant| tenant.name == group.name).unwrap();
            assert_eq!(group.itl.count, gaps[index].len() as u64, "{}", group.name);
        }
    }
}

#[test]
fn the_worst_are_told_their_gaps_though_others_ask_more() {
    let (setup, told, _) = sample();
    let run = record(setup, RecorderSettings { groups_kept: 1, ..settings(setup) }).1.unwrap().metrics;
    assert_eq!((run.by_tenant.len(), run.fairness.worst.len()), (1, 5));
    for group in &run.fairness.worst {
        let is_own = |life: &&&Kept| setup.catalog().tenants[life.offered.request.tenant.index()].name == group.name;
        let lives = measured(told);
        let tokens =
            lives.iter().filter(is_own).map(|life| told.tokens.get(&life.offered.request.id.0).map_or(0, Vec::len));
        assert_eq!(
            group.itl.count,
            tokens.map(|tokens| tokens.saturating_sub(1) as u64).sum::<u64>(),
            "{}",
            group.name
        );
    }
}

#[test]
fn goodput_and_attainment_count_all_that_was_offered() {
    let (_, told, result) = sample();
    let lives = measured(told);
    let run = &result.metrics;
    let good = lives.iter().filter(|life| is_good(life)).count() as u64;
    assert!(good > 100 && good + 100 < lives.len() as u64, "the sample has good and bad ones");
    assert_eq!((run.measured.offered, run.measured.good), (lives.len() as u64, good));
    assert!(run.measured.timed_out > 0 && run.measured.rejected > 0, "the sample has all kinds of ends");
    assert_eq!(
        run.measured.offered,
        run.measured.finished + run.measured.timed_out + run.measured.rejected + run.measured.unfinished
    );
    assert_eq!(run.attainment, Some(good as f64 / lives.len() as f64));
    assert!(close(run.goodput_per_s, good as f64 / window_s(run)));
    assert!(close(run.offered_per_s, lives.len() as f64 / window_s(run)));
    assert_eq!(
        run.classes.iter().map(|class| (class.offered, class.good)).fold((0, 0), |s, c| (s.0 + c.0, s.1 + c.1)),
        (lives.len() as u64, good)
    );
}

#[test]
fn throughput_counts_what_finished_inside_the_window() {
    let (_, told, result) = sample();
    let run = &result.metrics;
    let inside = |life: &&Kept| {
        life.end == End::Finished && (run.window.start_s..=run.window.end_s).contains(&life.at.as_secs_f64())
    };
    let finished: Vec<&Kept> = told.lives.iter().filter(inside).collect();
    let output: f64 = finished.iter().map(|life| f64::from(life.emitted)).sum();
    let prompt: f64 = finished.iter().map(|life| f64::from(life.offered.request.prompt_tokens)).sum();
    assert!(close(run.throughput.requests_per_s, finished.len() as f64 / window_s(run)));
    assert!(close(run.throughput.output_tokens_per_s, output / window_s(run)));
    assert!(close(run.throughput.total_tokens_per_s, (output + prompt) / window_s(run)));
}

#[test]
fn gpu_time_is_held_busy_and_paid_as_told() {
    let (setup, told, result) = sample();
    let run = &result.metrics;
    let busy: f64 = told.busy_ps.values().map(|ps| seconds(*ps)).sum::<f64>() * 2.0 / 3600.0;
    assert!(close(run.gpu.hours_busy, busy));
    for (rows, ps) in &told.busy_ps {
        assert!(close(run.gpu.busy_hours_by_rows[*rows], seconds(*ps) * 2.0 / 3600.0));
    }
    let full: f64 = told.busy_ps.iter().filter(|(rows, _)| **rows >= 12).map(|(_, ps)| seconds(*ps)).sum();
    assert!(close(run.gpu.busy_at_least(12).unwrap(), full * 2.0 / 3600.0 / busy));
    let held: f64 = told.on.iter().map(|(at, _)| run.window.run_s - at.as_secs_f64()).sum::<f64>() * 2.0 / 3600.0;
    assert!(close(run.gpu.hours_held, held));
    assert_eq!(told.on.len(), setup.replicas as usize);
    // Every replica is on before the warm-up ends.
    let window_hours = f64::from(setup.replicas) * 2.0 * window_s(run) / 3600.0;
    assert!(close(run.gpu.hours_held_window, window_hours));
    let tokens = run.throughput.output_tokens_per_s * window_s(run);
    assert!(close(run.cost.usd_per_million_tokens.unwrap(), window_hours * 2.5 / tokens * 1e6));
    assert!(close(run.cost.usd_per_hour.unwrap(), f64::from(setup.replicas) * 2.0 * 2.5));
    assert!(close(run.adapters.stall_gpu_s, seconds(told.stall_ps) * 2.0));
    assert_eq!((run.gpu.stretches, run.gpu.padding_row_steps), (told.stretches, told.padding_row_steps));
    assert!(told.padding_row_steps > 2 * told.stretches, "some stretches of several steps have padding");
}

#[test]
fn kv_use_is_a_mean_over_steps_and_what_held_them_up() {
    let (setup, told, result) = sample();
    let gpu = &result.metrics.gpu;
    assert!(told.stall_ps > 0, "loads hold up steps");
    let mean = told.kv_block_ps as f64 / told.stretch_ps as f64;
    assert!(close(gpu.kv_blocks_mean.unwrap(), mean));
    assert!(close(gpu.kv_use_mean.unwrap(), mean / f64::from(setup.kv_blocks)));
    assert_eq!(gpu.kv_blocks_peak, told.kv_peak);
    assert!(close(gpu.kv_use_peak.unwrap(), f64::from(told.kv_peak) / f64::from(setup.kv_blocks)));
}

#[test]
fn preemptions_are_counted_as_told_and_what_they_cut_is_output() {
    let (_, told, result) = sample();
    assert!(told.cut > 0, "some give way before their prompt is computed");
    assert_eq!(result.metrics.preemptions, told.preemptions);
    assert_eq!(told.lives.iter().map(|life| u64::from(life.preemptions)).sum::<u64>(), told.preemptions);
    let finished = told.lives.iter().filter(|life| life.end == End::Finished);
    let more: u64 = finished.map(|life| u64::from(life.emitted - life.offered.outcome.output_tokens)).sum();
    assert_eq!(more, told.cut);
}

#[test]
fn adapters_are_counted_as_told() {
    let (setup, told, result) = sample();
    let lives = measured(told);
    let adapters = &result.metrics.adapters;
    assert_eq!((adapters.loads, adapters.evictions), (told.loads.values().sum::<u64>(), told.evictions));
    assert_eq!(adapters.loads_from_disk, told.loads_from_disk);
    assert_eq!(adapters.prefetches, told.prefetches.iter().sum::<u64>());
    assert!(told.prefetches.iter().all(|prefetches| *prefetches > 0), "from the host and from the disk");
    assert!(adapters.loads_from_disk > 0 && adapters.loads > adapters.loads_from_disk && adapters.evictions > 0);
    assert_eq!(adapters.lookups, lives.iter().filter(|life| life.hit.is_some()).count() as u64);
    assert_eq!(adapters.hits, lives.iter().filter(|life| life.hit == Some(true)).count() as u64);
    assert!(adapters.hits > 0 && adapters.hits < adapters.lookups);
    let catalog = setup.catalog();
    for group in &result.metrics.by_adapter {
        let index = catalog.adapters.iter().position(|adapter| adapter.name == group.name).unwrap();
        assert_eq!(group.loads.map(u64::from), Some(told.loads.get(&index).copied().unwrap_or(0)), "{}", group.name);
        let own = lives.iter().filter(|life| adapter_of(life) == Some(index));
        assert_eq!(group.hit_rate, hit_rate(own), "{}", group.name);
    }
}

fn adapter_of(life: &Kept) -> Option<usize> {
    life.offered.request.adapter.map(AdapterId::index)
}

/// Hits among those that looked for their adapter; who was turned away did not.
fn hit_rate<'a>(lives: impl Iterator<Item = &'a &'a Kept>) -> Option<f64> {
    let lookups: Vec<bool> = lives.filter_map(|life| life.hit).collect();
    let hits = lookups.iter().filter(|hit| **hit).count();
    (!lookups.is_empty()).then(|| hits as f64 / lookups.len() as f64)
}

#[test]
fn the_tail_is_the_mean_of_those_around_the_p99() {
    let (_, told, result) = sample();
    let mut lives: Vec<&Kept> = measured(told).into_iter().filter(|life| life.ttft().is_some()).collect();
    lives.sort_by_key(|life| life.ttft());
    let rank = |q: f64| (q * lives.len() as f64).ceil() as usize - 1;
    let band = &lives[rank(0.985)..=rank(0.995)];
    let tail = &result.metrics.tail;
    assert_eq!(tail.requests, band.len() as u64);
    let mean = |of: fn(&Kept) -> Span| band.iter().map(|life| of(life).as_secs_f64()).sum::<f64>() / band.len() as f64;
    let Parts { queue, load, prefill, .. } = tail.parts.unwrap();
    assert!(close(queue, mean(|life| life.waits.queue)));
    assert!(close(load, mean(|life| life.waits.load)));
    assert!(close(prefill, mean(|life| life.waits.prefill)));
    assert!(close(
        tail.ttft_s.unwrap(),
        band.iter().map(|life| seconds(life.ttft().unwrap())).sum::<f64>() / band.len() as f64
    ));
}

#[test]
fn fairness_is_over_all_tenants_and_the_worst_are_the_worst() {
    let (setup, told, result) = sample();
    let lives = measured(told);
    let mut attainment = Vec::new();
    let mut service = Vec::new();
    for tenant in 0..setup.tenants {
        let own: Vec<_> = lives.iter().filter(|life| life.offered.request.tenant.0 == tenant).collect();
        if !own.is_empty() {
            attainment.push(own.iter().filter(|life| is_good(life)).count() as f64 / own.len() as f64);
            service.push(own.iter().map(|life| f64::from(life.emitted)).sum::<f64>());
        }
    }
    let jain = |x: &[f64]| x.iter().sum::<f64>().powi(2) / (x.len() as f64 * x.iter().map(|x| x * x).sum::<f64>());
    let fairness = &result.metrics.fairness;
    assert!(close(fairness.jain_attainment.unwrap(), jain(&attainment)));
    assert!(close(fairness.jain_service.unwrap(), jain(&service)));
    attainment.sort_by(f64::total_cmp);
    assert_eq!(fairness.worst.iter().map(|group| group.attainment).collect::<Vec<_>>(), attainment[..5]);
    assert_eq!(result.metrics.by_tenant.iter().map(|group| group.offered).sum::<u64>(), lives.len() as u64);
}

#[test]
fn classes_of_popularity_hold_every_request_with_an_adapter_once() {
    let (_, told, result) = sample();
    let classes = &result.metrics.by_popularity;
    let lives = measured(told);
    let mut asked = BTreeMap::<usize, u64>::new();
    lives.iter().filter_map(|life| adapter_of(life)).for_each(|adapter| *asked.entry(adapter).or_default() += 1);
    assert_eq!(classes.iter().map(|class| class.requests).sum::<u64>(), asked.values().sum::<u64>());
    let mut ranked: Vec<usize> = asked.keys().copied().collect();
    ranked.sort_by_key(|adapter| std::cmp::Reverse(asked[adapter]));
    for class in classes {
        let adapters = &ranked[class.first as usize - 1..class.last as usize];
        let own = || lives.iter().filter(|life| adapter_of(life).is_some_and(|adapter| adapters.contains(&adapter)));
        assert_eq!((class.requests, class.hit_rate), (own().count() as u64, hit_rate(own())));
        matches(&class.ttft, &own().filter_map(|life| life.ttft()).map(seconds).collect::<Vec<_>>());
    }
    let turned_away = |life: &&&Kept| life.hit.is_none() && adapter_of(life).is_some();
    assert!(lives.iter().filter(turned_away).count() > 10, "some did not look for their adapter");
    assert_eq!(
        classes[..4].iter().map(|class| (class.first, class.last)).collect::<Vec<_>>(),
        [(1, 1), (2, 3), (4, 7), (8, 15)]
    );
    assert!(classes.windows(2).all(|pair| pair[0].last + 1 == pair[1].first));
    assert_eq!(classes[0].requests, result.metrics.by_adapter[0].offered);
}

#[test]
fn a_cluster_that_keeps_up_is_not_saturated_and_one_that_does_not_is() {
    let judge = |rate_per_s: f64, timeout| {
        let setup = Setup { rate_per_s, timeout, ..Setup::new(Route::LeastLoaded, 3) };
        let (_, result) = record(&setup, settings(&setup));
        result.unwrap().metrics.saturation.unwrap()
    };
    let calm = judge(12.0, None);
    assert!(!calm.saturated && calm.completed > 0.98, "{calm:?}");
    let growing = judge(110.0, None);
    assert!(growing.saturated && growing.backlog_growth_low.unwrap() > 0.0, "{growing:?}");
    let shedding = judge(110.0, Some(Span::from_secs(1)));
    assert!(shedding.saturated && shedding.completed < 0.98, "{shedding:?}");
}

#[test]
fn a_closed_loop_counts_everything_and_cannot_be_saturated() {
    let setup = Setup { rate_per_s: 1e9, requests: 500, ..Setup::new(Route::RoundRobin, 1) };
    let (told, result) = record(&setup, RecorderSettings { traffic: Traffic::Closed, ..settings(&setup) });
    let run = result.unwrap().metrics;
    assert_eq!((run.measured.offered, run.saturation.is_none()), (500, true));
    assert!(close(run.window.end_s, told.lives.iter().map(|life| life.at).max().unwrap().as_secs_f64()));
}

#[test]
fn blocks_of_time_hold_every_measured_request_once() {
    let (_, told, result) = sample();
    let blocks = &result.metrics.blocks;
    assert_eq!(blocks.iter().map(|block| block.offered).sum::<u64>(), measured(told).len() as u64);
    let mean: f64 = blocks.iter().map(|block| block.goodput_per_s).sum::<f64>() / blocks.len() as f64;
    assert!((mean / result.metrics.goodput_per_s - 1.0).abs() < 1e-6, "{mean} {}", result.metrics.goodput_per_s);
}
