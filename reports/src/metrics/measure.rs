//! From what a recorder kept to the numbers of a run.

use aril_sim::workload::Catalog;

use super::blocks::Blocks;
use super::groups::{Grouped, Popularity, Shown, tenant_name};
use super::tail::TailSums;
use super::worst::Worst;
use super::{
    AdapterMetrics, ClassMetrics, Cost, Counts, Distributions, Fairness, GpuMetrics, Heat, Latency, Little, RunMetrics,
    RunResult, Saturation, Series, Throughput, Window,
};
use crate::ReportError;
use crate::distribution::Gathering;
use crate::recorder::kept::{LOAD, Parts};
use crate::recorder::{Ending, Kept, KeptAll, Recorder};
use crate::settings::{RecorderSettings, SloClass, Traffic};
use crate::statistics::jain;

const PS: f64 = 1e12;
const PS_PER_HOUR: f64 = 3.6e15;
/// Of a run that is too large for all its times, so many are kept of each part: blocks, groups, classes.
const PART_KEPT: usize = 1 << 12;

/// Measures a run that ended at `ended_at` picoseconds.
///
/// Requests are looked at three times: what all of them add up to says which groups are shown, and what is measured of those says which
/// are the worst.
pub(crate) fn measure(recorder: Recorder, ended_at: u64) -> Result<RunResult, ReportError> {
    let Recorder { catalog, settings, kept, gaps, occupancy, mut counts, series, books, .. } = recorder;
    let (start, end, rule) = window(&kept, &settings)?;
    let is_measured = |request: &Kept| match settings.traffic {
        Traffic::Open => (start..=end).contains(&request.arrival),
        Traffic::Closed => true,
    };
    let window_s = (end - start) as f64 / PS;
    // Where every time of the run is kept, so are those of its parts.
    let keep = if kept.len() <= settings.samples_kept as u64 { usize::MAX } else { PART_KEPT };

    let mut sums = Sums::new(&catalog, (start, end), settings.samples_kept);
    let mut blocks = Blocks::new((start, end), settings.traffic, keep);
    let mut before = 0_u32;
    kept.each(|request, parts| {
        before += u32::from(request.arrival < start);
        sums.count(request, parts, is_measured(request));
        blocks.count(request, is_measured(request));
    })?;
    let Sums {
        all,
        measured: measured_counts,
        times,
        mut tenants,
        mut adapters,
        finished,
        hits,
        lookups,
        load_wait,
        ..
    } = sums;
    if measured_counts.offered == 0 {
        return Err(nothing_left(&kept, &settings));
    }
    tenants.rank();
    adapters.rank();
    let [ttft_all, tpot_all, e2e_all, queueing_all] =
        [times.ttft, times.tpot, times.e2e, times.wait].map(Gathering::finish);
    let [ttft, tpot, e2e, queueing] = [&ttft_all, &tpot_all, &e2e_all, &queueing_all].map(Latency::of);

    let prices = prices(&settings);
    let offered_per_s = measured_counts.offered as f64 / window_s;
    let throughput = finished.per_second(window_s);
    let held = |from, to| -> Vec<f64> {
        (0..settings.replica_gpus.len())
            .map(|replica| occupancy.held_gpu_ps(replica, from, to) as f64 / PS_PER_HOUR)
            .collect()
    };
    let held_window = held(start, end);
    let hours_held: f64 = held(0, ended_at).iter().sum();
    let series = Series::of(series);
    let saturation = (settings.traffic == Traffic::Open).then(|| {
        let middle = start as f64 / PS + window_s / 2.0;
        let bin = |seconds: f64| ((seconds / series.bin_s) as usize).min(series.waiting.len());
        let backlog = &series.waiting[bin(middle)..bin(end as f64 / PS)];
        Saturation::judge(&measured_counts, backlog, series.bin_s, offered_per_s)
    });

    let most = |groups: &Grouped| groups.ranked().iter().copied().take(settings.groups_kept).collect::<Vec<_>>();
    let (most_tenants, most_adapters) = (most(&tenants), most(&adapters));
    let class_of = |tenant: u32| catalog.tenants.get(tenant as usize).map(|tenant| tenant.slo_class as usize);
    // One class that everybody measured is in is the run itself.
    let only_class = (settings.slo.len() == 1
        && tenants.each().map(|sums| sums.offered).sum::<u64>() == measured_counts.offered)
        .then_some((measured_counts, [ttft, tpot, e2e]));
    let classes = if only_class.is_some() { 0 } else { settings.slo.len() };
    let mut of_class: Vec<(Counts, Times)> = (0..classes).map(|_| (Counts::default(), Times::new(keep))).collect();
    let mut tail = TailSums::new(&ttft_all);
    let mut worst = Worst::new(&tenants);
    let mut shown_adapters = Shown::new(&adapters, most_adapters.iter().copied(), keep);
    let mut popularity = Popularity::new(&adapters, keep);
    kept.each(|request, parts| {
        if !is_measured(request) {
            return;
        }
        tail.count(request, parts);
        worst.count(request.tenant, request);
        shown_adapters.count(request.adapter, request);
        popularity.count(request.adapter, request);
        if let Some((counts, times)) = class_of(request.tenant).and_then(|class| of_class.get_mut(class)) {
            add(counts, request);
            times.count(request);
        }
    })?;
    let worst = worst.choose();
    let mut shown_tenants = Shown::new(&tenants, most_tenants.iter().chain(&worst).copied(), keep);
    kept.each(|request, _| {
        if is_measured(request) {
            shown_tenants.count(request.tenant, request);
        }
    })?;

    // Requests are numbered in the order of their arrival.
    let measured = measured_counts.offered;
    let measured_ids = (measured < kept.len()).then(|| before..before + measured as u32);
    let asked_tenants = most_tenants.iter().chain(&worst).copied();
    let (gaps, asked) = gaps.finish(measured_ids, asked_tenants, most_adapters.iter().copied(), classes, class_of)?;
    let itl = Latency::of(&gaps);
    let mut tenant_group = |id: &u32| {
        let mut group = shown_tenants.measure(*id, tenant_name(&catalog, *id), window_s);
        group.itl = asked.tenants.get(id).map(Latency::of_histogram).unwrap_or_default();
        group
    };
    let by_tenant = most_tenants.iter().map(&mut tenant_group).collect();
    let loads = counts.loads_by_adapter();
    let by_adapter = most_adapters
        .iter()
        .map(|id| {
            let adapter = &catalog.adapters[*id as usize];
            let mut group = shown_adapters.measure(*id, &adapter.name, window_s);
            group.rank = Some(adapter.rank);
            group.itl = asked.adapters.get(id).map(Latency::of_histogram).unwrap_or_default();
            group.loads = loads.get(*id as usize).copied();
            group
        })
        .collect();
    let fairness = Fairness {
        jain_service: jain(tenants.ranked().iter().zip(tenants.each()).map(|(id, sums)| {
            let weight = catalog.tenants.get(*id as usize).map_or(1.0, |tenant| tenant.weight);
            sums.tokens as f64 / if weight > 0.0 { weight } else { 1.0 }
        })),
        jain_attainment: jain(tenants.each().map(|sums| sums.attainment())),
        worst: worst.iter().map(&mut tenant_group).collect(),
        tenants: tenants.ranked().len(),
    };
    let measured_classes: Vec<(Counts, [Latency; 3], Latency)> = match only_class {
        Some((counts, times)) => vec![(counts, times, itl)],
        None => of_class
            .into_iter()
            .zip(&asked.classes)
            .map(|((counts, times), gaps)| (counts, times.latencies(), Latency::of_histogram(gaps)))
            .collect(),
    };

    let metrics = RunMetrics {
        window: Window { start_s: start as f64 / PS, end_s: end as f64 / PS, rule, run_s: ended_at as f64 / PS },
        all,
        measured: measured_counts,
        offered_per_s,
        throughput,
        goodput_per_s: measured_counts.good as f64 / window_s,
        attainment: Some(measured_counts.good as f64 / measured_counts.offered as f64),
        classes: settings
            .slo
            .iter()
            .zip(&measured_classes)
            .map(|(class, (counts, times, itl))| class_metrics(class, counts, *times, *itl))
            .collect(),
        ttft,
        tpot,
        itl,
        e2e,
        queueing,
        tail: tail.mean(),
        fairness,
        adapters: AdapterMetrics {
            loads: counts.loads_from_host,
            loads_from_disk: counts.loads_from_disk,
            prefetches: counts.prefetches,
            gigabytes: counts.bytes_loaded as f64 / 1e9,
            evictions: counts.evictions,
            hits,
            lookups,
            hit_rate: (lookups > 0).then(|| hits as f64 / lookups as f64),
            stall_gpu_s: occupancy.stall_gpu_ps as f64 / PS,
            load_wait_s: load_wait as f64 / PS,
        },
        preemptions: counts.preemptions,
        migrations: counts.migrations,
        cost: cost(&held_window, prices.as_deref(), throughput.output_tokens_per_s * window_s, window_s),
        gpu: gpu(&occupancy, &settings, hours_held, held_window.iter().sum()),
        saturation,
        little: Little {
            request_seconds: books.area as f64 / PS,
            in_system_mean: books.area as f64 / ended_at.max(1) as f64,
        },
        blocks: blocks.measure(&occupancy, prices.as_deref()),
        by_tenant,
        by_adapter,
        by_popularity: popularity.measure(),
    };
    let distributions =
        Distributions { ttft: ttft_all, tpot: tpot_all, itl: gaps, e2e: e2e_all, queueing: queueing_all };
    let heat = Heat::of(occupancy, settings.max_num_seqs);
    let tables = ["requests.parquet", "steps.parquet", "events.parquet"].iter().filter(|_| settings.tables);
    let timeline = ["timeline.json.gz"].iter().filter(|_| settings.timeline_events > 0);
    let files = tables.chain(timeline).map(|file| (*file).to_owned()).collect();
    Ok(RunResult { metrics, distributions, series, heat, slo: settings.slo, files, timeline_shows: None })
}

/// How the promise to a class was kept.
fn class_metrics(class: &SloClass, counts: &Counts, [ttft, tpot, e2e]: [Latency; 3], itl: Latency) -> ClassMetrics {
    ClassMetrics {
        name: class.name.clone(),
        offered: counts.offered,
        good: counts.good,
        attainment: (counts.offered > 0).then(|| counts.good as f64 / counts.offered as f64),
        target: class.attainment,
        ttft,
        tpot,
        itl,
        e2e,
    }
}

/// From when to when requests count, and by which rule. Picoseconds.
fn window(kept: &KeptAll, settings: &RecorderSettings) -> Result<(u64, u64, String), ReportError> {
    let Some((last_arrival, last_end)) = kept.lasts() else {
        return Err(ReportError::Empty("no request was offered".to_owned()));
    };
    match settings.traffic {
        Traffic::Closed if last_end == 0 => {
            Err(ReportError::Empty("every request ended at the instant it was offered".to_owned()))
        }
        Traffic::Closed => Ok((0, last_end, "closed loop: everything counts, until the last request ended".to_owned())),
        Traffic::Open => {
            let start = settings.warmup.as_ps();
            let end = last_arrival.saturating_sub(settings.drain.as_ps());
            // Requests that all arrive at once span no time: then the run does.
            let end = if last_arrival == 0 { last_end } else { end };
            if end <= start {
                return Err(nothing_left(kept, settings));
            }
            let rule =
                format!("arrivals from {} (warm-up) to the last one less {} (drain)", settings.warmup, settings.drain);
            Ok((start, end, rule))
        }
    }
}

/// No request arrives between the warm-up and the drain.
fn nothing_left(kept: &KeptAll, settings: &RecorderSettings) -> ReportError {
    let (last_arrival, _) = kept.lasts().unwrap_or_default();
    ReportError::Empty(format!(
        "requests arrive until {}, of which the warm-up ({}) and the drain ({}) leave nothing: shorten them, or offer more",
        crate::format::seconds(last_arrival as f64 / PS),
        settings.warmup,
        settings.drain
    ))
}

/// What one look at every request tells.
struct Sums {
    window: (u64, u64),
    all: Counts,
    measured: Counts,
    times: Times,
    finished: Finished,
    tenants: Grouped,
    adapters: Grouped,
    /// Measured requests that found their adapter ready, and those that looked for one.
    hits: u64,
    lookups: u64,
    /// What measured requests waited for their adapters, picoseconds.
    load_wait: u128,
}

/// Times of measured requests that have them.
struct Times {
    ttft: Gathering,
    tpot: Gathering,
    e2e: Gathering,
    wait: Gathering,
}

/// Requests that finished inside the window, whenever they arrived.
#[derive(Clone, Copy, Default)]
struct Finished {
    requests: u64,
    output: u64,
    prompt: u64,
}

impl Sums {
    fn new(catalog: &Catalog, window: (u64, u64), keep: usize) -> Sums {
        Sums {
            window,
            all: Counts::default(),
            measured: Counts::default(),
            times: Times::new(keep),
            finished: Finished::default(),
            tenants: Grouped::new(catalog.tenants.len()),
            adapters: Grouped::new(catalog.adapters.len()),
            hits: 0,
            lookups: 0,
            load_wait: 0,
        }
    }

    fn count(&mut self, request: &Kept, parts: &Parts, is_measured: bool) {
        add(&mut self.all, request);
        if request.is_finished() && (self.window.0..=self.window.1).contains(&request.end) {
            self.finished.requests += 1;
            self.finished.output += u64::from(request.emitted);
            self.finished.prompt += u64::from(request.prompt);
        }
        if !is_measured {
            return;
        }
        add(&mut self.measured, request);
        self.times.count(request);
        self.tenants.count(request.tenant, request);
        self.adapters.count(request.adapter, request);
        self.hits += u64::from(request.hit == Some(true));
        self.lookups += u64::from(request.hit.is_some());
        self.load_wait += u128::from(parts[LOAD]);
    }
}

impl Times {
    fn new(keep: usize) -> Times {
        let [ttft, tpot, e2e, wait] = std::array::from_fn(|_| Gathering::new(keep));
        Times { ttft, tpot, e2e, wait }
    }

    fn count(&mut self, request: &Kept) {
        self.ttft.record_if(request.ttft());
        self.tpot.record_if(request.tpot());
        self.e2e.record_if(request.e2e());
        self.wait.record_if(request.wait());
    }

    /// Time to first token, time per output token, end to end.
    fn latencies(self) -> [Latency; 3] {
        [self.ttft, self.tpot, self.e2e].map(|mut times| times.latency())
    }
}

fn add(counts: &mut Counts, request: &Kept) {
    counts.offered += 1;
    counts.good += u64::from(request.good);
    match request.ending {
        Ending::Finished => counts.finished += 1,
        Ending::TimedOut => counts.timed_out += 1,
        Ending::Rejected => counts.rejected += 1,
        Ending::Unfinished => counts.unfinished += 1,
    }
}

impl Finished {
    fn per_second(self, seconds: f64) -> Throughput {
        Throughput {
            requests_per_s: self.requests as f64 / seconds,
            output_tokens_per_s: self.output as f64 / seconds,
            total_tokens_per_s: (self.output + self.prompt) as f64 / seconds,
        }
    }
}

/// What a GPU of each replica costs an hour; none unless every pool has a price.
fn prices(settings: &RecorderSettings) -> Option<Vec<f64>> {
    settings.replica_pool.iter().map(|pool| settings.usd_per_gpu_hour.get(pool).copied()).collect()
}

fn cost(held_hours: &[f64], prices: Option<&[f64]>, tokens: f64, window_s: f64) -> Cost {
    let usd = prices.map(|prices| held_hours.iter().zip(prices).map(|(hours, price)| hours * price).sum::<f64>());
    let per_million = |amount: f64| (tokens > 0.0).then(|| amount / tokens * 1e6);
    Cost {
        gpu_hours_per_million_tokens: per_million(held_hours.iter().sum()),
        usd_per_million_tokens: usd.and_then(per_million),
        usd_per_hour: usd.map(|usd| usd / window_s * 3600.0),
    }
}

fn gpu(
    occupancy: &crate::recorder::Occupancy,
    settings: &RecorderSettings,
    hours_held: f64,
    hours_held_window: f64,
) -> GpuMetrics {
    let hours_busy = occupancy.busy_gpu_ps as f64 / PS_PER_HOUR;
    let busy_hours_by_rows: Vec<f64> = occupancy.busy_by_rows.iter().map(|ps| *ps as f64 / PS_PER_HOUR).collect();
    let row_hours: f64 = busy_hours_by_rows.iter().enumerate().map(|(rows, hours)| rows as f64 * hours).sum();
    let replicas = || occupancy.replicas.iter();
    let (blocks, time) =
        replicas().fold((0u128, 0u128), |sum, of| (sum.0 + of.kv_block_ps, sum.1 + u128::from(of.time)));
    let sizes = &settings.replica_kv_blocks;
    let capacity: f64 = replicas().zip(sizes).map(|(of, size)| of.time as f64 * f64::from(*size)).sum();
    let with_size = replicas().zip(sizes).filter(|(_, size)| **size > 0);
    let peaks = with_size.map(|(of, size)| f64::from(of.kv_peak) / f64::from(*size));
    GpuMetrics {
        hours_held,
        hours_held_window,
        hours_busy,
        busy: (hours_held > 0.0).then(|| hours_busy / hours_held),
        rows_mean: (hours_busy > 0.0).then(|| row_hours / hours_busy),
        rows_max: settings.max_num_seqs,
        busy_hours_by_rows,
        steps: occupancy.steps,
        stretches: occupancy.stretches,
        padding_row_steps: occupancy.padding_row_steps as u64,
        kv_blocks_mean: (time > 0).then(|| blocks as f64 / time as f64),
        kv_blocks_peak: replicas().map(|of| of.kv_peak).max().unwrap_or(0),
        kv_use_mean: (capacity > 0.0).then(|| blocks as f64 / capacity),
        kv_use_peak: peaks.reduce(f64::max),
    }
}
