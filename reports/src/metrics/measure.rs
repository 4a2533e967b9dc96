//! From what a recorder kept to the numbers of a run.

use aril_sim::workload::Catalog;

use super::groups::{Grouped, hits_of, tenant_name};
use super::{
    AdapterMetrics, ClassMetrics, Cost, Counts, Distributions, Fairness, GpuMetrics, Group, Heat, Latency, Little,
    RunMetrics, RunResult, Saturation, Series, Tail, Throughput, Window, blocks::blocks,
};
use crate::ReportError;
use crate::distribution::Distribution;
use crate::histogram::LogLinear;
use crate::recorder::{Ending, GROUP_BITS, Kept, KeptAll, Recorder};
use crate::settings::{SloClass, Traffic};
use crate::statistics::jain;

const PS: f64 = 1e12;
const PS_PER_HOUR: f64 = 3.6e15;

/// Measures a run that ended at `ended_at` picoseconds.
pub(crate) fn measure(recorder: Recorder, ended_at: u64) -> Result<RunResult, ReportError> {
    let Recorder { catalog, settings, kept, gaps, occupancy, counts, series, books, .. } = recorder;
    let (gaps, gaps_of_tenants, gaps_of_adapters) = gaps.finish();
    let (start, end, rule) = window(&kept, &settings)?;
    let is_measured = |request: &Kept| match settings.traffic {
        Traffic::Open => (start..=end).contains(&request.arrival),
        Traffic::Closed => true,
    };
    let measured = || kept.iter().filter(|request| is_measured(request));
    let window_s = (end - start) as f64 / PS;

    let mut ttft: Vec<u64> = measured().filter_map(Kept::ttft).collect();
    ttft.sort_unstable();
    let tail = Tail::of(measured(), &ttft);
    let keep = settings.samples_kept;
    // Percentiles of a run are always exact where its samples exist; what is retained for pooling may be coarser.
    let latency = |what: fn(&Kept) -> Option<u64>| {
        let mut values: Vec<u64> = measured().filter_map(what).collect();
        (Latency::of_values(&mut values), Distribution::of(values, keep))
    };
    let (ttft, ttft_all) = (Latency::of_values(&mut ttft), Distribution::of(ttft, keep));
    let (tpot, tpot_all) = latency(Kept::tpot);
    let (e2e, e2e_all) = latency(Kept::e2e);
    let (queueing, queueing_all) = latency(Kept::wait);
    let itl = Latency::of_histogram(&gaps);

    let prices = prices(&settings);
    let measured_counts = count(measured());
    let offered_per_s = measured_counts.offered as f64 / window_s;
    let throughput = throughput(&kept, (start, end));
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

    let tenants = Grouped::by(&kept, catalog.tenants.len(), is_measured, |request| request.tenant);
    let adapters = Grouped::by(&kept, catalog.adapters.len(), is_measured, |request| request.adapter);
    let tenant_group = |id: u32, members: super::groups::Members<'_>| {
        let mut group = members.measure(tenant_name(&catalog, id), window_s);
        group.itl = gaps_of_tenants.get(id as usize).map(Latency::of_histogram).unwrap_or_default();
        group
    };
    let by_tenant =
        tenants.iter(&kept).take(settings.groups_kept).map(|(id, members)| tenant_group(id, members)).collect();
    let by_adapter = adapters
        .iter(&kept)
        .take(settings.groups_kept)
        .map(|(id, members)| {
            let adapter = &catalog.adapters[id as usize];
            let mut group = members.measure(&adapter.name, window_s);
            group.rank = Some(adapter.rank);
            group.itl = gaps_of_adapters.get(id as usize).map(Latency::of_histogram).unwrap_or_default();
            group.loads = counts.loads_by_adapter.get(id as usize).copied();
            group
        })
        .collect();
    let fairness = Fairness {
        jain_service: jain(tenants.iter(&kept).map(|(id, members)| {
            let weight = catalog.tenants.get(id as usize).map_or(1.0, |tenant| tenant.weight);
            members.tokens() as f64 / if weight > 0.0 { weight } else { 1.0 }
        })),
        jain_attainment: jain(tenants.iter(&kept).map(|(_, members)| members.attainment())),
        worst: worst(&tenants, &kept, tenant_group),
        tenants: tenants.len(),
    };

    let (hits, lookups) = hits_of(measured());
    let load_wait: u128 = measured().map(|request| u128::from(request.waits[3])).sum();
    let metrics = RunMetrics {
        window: Window { start_s: start as f64 / PS, end_s: end as f64 / PS, rule, run_s: ended_at as f64 / PS },
        all: count(kept.iter()),
        measured: measured_counts,
        offered_per_s,
        throughput,
        goodput_per_s: measured_counts.good as f64 / window_s,
        attainment: Some(measured_counts.good as f64 / measured_counts.offered as f64),
        classes: settings
            .slo
            .iter()
            .enumerate()
            .map(|(index, class)| class_metrics(index, class, &kept, &catalog, &gaps_of_tenants, is_measured))
            .collect(),
        ttft,
        tpot,
        itl,
        e2e,
        queueing,
        tail,
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
        blocks: blocks(&kept, &occupancy, (start, end), prices.as_deref(), settings.traffic, is_measured),
        by_tenant,
        by_adapter,
        by_popularity: adapters.by_popularity(&kept),
    };
    let itl = Distribution::Bucketed(gaps);
    let distributions = Distributions { ttft: ttft_all, tpot: tpot_all, itl, e2e: e2e_all, queueing: queueing_all };
    let heat = Heat::of(occupancy.rows, settings.max_num_seqs);
    let tables = ["requests.parquet", "steps.parquet", "events.parquet"].iter().filter(|_| settings.tables);
    let timeline = ["timeline.json.gz"].iter().filter(|_| settings.timeline_events > 0);
    let files = tables.chain(timeline).map(|file| (*file).to_owned()).collect();
    Ok(RunResult { metrics, distributions, series, heat, slo: settings.slo, files, timeline_shows: None })
}

/// How the promise to class `index` was kept.
fn class_metrics(
    index: usize,
    class: &SloClass,
    kept: &KeptAll,
    catalog: &Catalog,
    gaps_of_tenants: &[LogLinear<GROUP_BITS>],
    is_measured: impl Fn(&Kept) -> bool,
) -> ClassMetrics {
    let is_of_class =
        |tenant: usize| catalog.tenants.get(tenant).is_some_and(|tenant| tenant.slo_class as usize == index);
    let members = || kept.iter().filter(|request| is_measured(request) && is_of_class(request.tenant as usize));
    let latency =
        |what: fn(&Kept) -> Option<u64>| Latency::of_values(&mut members().filter_map(what).collect::<Vec<_>>());
    let counts = count(members());
    let mut itl = LogLinear::default();
    gaps_of_tenants.iter().enumerate().filter(|(tenant, _)| is_of_class(*tenant)).for_each(|(_, gaps)| itl.merge(gaps));
    ClassMetrics {
        name: class.name.clone(),
        offered: counts.offered,
        good: counts.good,
        attainment: (counts.offered > 0).then(|| counts.good as f64 / counts.offered as f64),
        target: class.attainment,
        ttft: latency(Kept::ttft),
        tpot: latency(Kept::tpot),
        itl: Latency::of_histogram(&itl),
        e2e: latency(Kept::e2e),
    }
}

/// From when to when requests count, and by which rule. Picoseconds.
fn window(kept: &KeptAll, settings: &crate::settings::RecorderSettings) -> Result<(u64, u64, String), ReportError> {
    let Some(last_arrival) = kept.iter().map(|request| request.arrival).max() else {
        return Err(ReportError::Empty("no request was offered".to_owned()));
    };
    let last_end = kept.iter().map(|request| request.end).max().unwrap_or(last_arrival);
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
            if end <= start || !kept.iter().any(|request| (start..=end).contains(&request.arrival)) {
                return Err(ReportError::Empty(format!(
                    "requests arrive until {}, of which the warm-up ({}) and the drain ({}) leave nothing: shorten them, or offer more",
                    crate::format::seconds(last_arrival as f64 / PS),
                    settings.warmup,
                    settings.drain
                )));
            }
            let rule =
                format!("arrivals from {} (warm-up) to the last one less {} (drain)", settings.warmup, settings.drain);
            Ok((start, end, rule))
        }
    }
}

fn count<'a>(requests: impl Iterator<Item = &'a Kept>) -> Counts {
    requests.fold(Counts::default(), |mut counts, request| {
        counts.offered += 1;
        counts.good += u64::from(request.good);
        match request.ending {
            Ending::Finished => counts.finished += 1,
            Ending::TimedOut => counts.timed_out += 1,
            Ending::Rejected => counts.rejected += 1,
            Ending::Unfinished => counts.unfinished += 1,
        }
        counts
    })
}

fn throughput(kept: &KeptAll, (start, end): (u64, u64)) -> Throughput {
    let seconds = (end - start) as f64 / PS;
    let finished = || kept.iter().filter(|request| request.is_finished() && (start..=end).contains(&request.end));
    let output: u64 = finished().map(|request| u64::from(request.emitted)).sum();
    let prompt: u64 = finished().map(|request| u64::from(request.prompt)).sum();
    Throughput {
        requests_per_s: finished().count() as f64 / seconds,
        output_tokens_per_s: output as f64 / seconds,
        total_tokens_per_s: (output + prompt) as f64 / seconds,
    }
}

/// What a GPU of each replica costs an hour; none unless every pool has a price.
fn prices(settings: &crate::settings::RecorderSettings) -> Option<Vec<f64>> {
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
    settings: &crate::settings::RecorderSettings,
    hours_held: f64,
    hours_held_window: f64,
) -> GpuMetrics {
    let hours_busy = occupancy.busy_gpu_ps as f64 / PS_PER_HOUR;
    let busy_hours_by_rows: Vec<f64> = occupancy.busy_by_rows.iter().map(|ps| *ps as f64 / PS_PER_HOUR).collect();
    let row_hours: f64 = busy_hours_by_rows.iter().enumerate().map(|(rows, hours)| rows as f64 * hours).sum();
    let (blocks, time): (u128, u128) = occupancy.kv.iter().fold((0, 0), |sum, kv| (sum.0 + kv.0, sum.1 + kv.1));
    let sizes = &settings.replica_kv_blocks;
    let capacity: f64 = occupancy.kv.iter().zip(sizes).map(|(kv, size)| kv.1 as f64 * f64::from(*size)).sum();
    let peaks = occupancy
        .kv
        .iter()
        .zip(sizes)
        .filter(|(_, size)| **size > 0)
        .map(|(kv, size)| f64::from(kv.2) / f64::from(*size));
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
        kv_blocks_peak: occupancy.kv.iter().map(|kv| kv.2).max().unwrap_or(0),
        kv_use_mean: (capacity > 0.0).then(|| blocks as f64 / capacity),
        kv_use_peak: peaks.reduce(f64::max),
    }
}

/// The five tenants with the lowest attainment, then the highest TTFT p99, then the most requests.
fn worst(tenants: &Grouped, kept: &KeptAll, measure: impl Fn(u32, super::groups::Members<'_>) -> Group) -> Vec<Group> {
    let mut ranked: Vec<_> = tenants
        .iter(kept)
        .map(|(id, members)| {
            (members.attainment(), members.latency(Kept::ttft).p99.unwrap_or(f64::INFINITY), id, members)
        })
        .collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    ranked.truncate(5);
    ranked.into_iter().map(|(_, _, id, members)| measure(id, members)).collect()
}
