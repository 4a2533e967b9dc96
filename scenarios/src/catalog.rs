//! Who asks, against what the cluster can hold: SLO classes, ranks, sizes.

use std::collections::BTreeMap;
use std::path::Path;

use aril_reports::SloClass;
use aril_sim::settings::{AdapterMemory, ClusterSettings, ReplicaSettings};
use aril_sim::time::Span;
use aril_sim::workload::{Catalog, Offered};
use aril_traces::Workload;

use crate::document::read_named;
use crate::error::ArilError;
use crate::scenario::Scenario;
use crate::setup::Setup;
use crate::wrong::Wrong;

/// Gives every tenant its class, and tells what the classes were promised.
///
/// # Errors
/// A list of tenants that cannot be read or names nobody of the traffic; two classes for all others.
pub(crate) fn classify(
    scenario: &Scenario,
    directory: &Path,
    catalog: &mut Catalog,
) -> Result<Vec<SloClass>, ArilError> {
    let mut classes: Vec<SloClass> = Vec::new();
    let mut rest = None;
    let mut by_name: BTreeMap<String, u32> = BTreeMap::new();
    for (position, (name, slo)) in (0..).zip(scenario.slo.iter()) {
        let at = |key: &str, problem: String| Wrong {
            path: ["slo", name, key].map(str::to_owned).to_vec(),
            ..Wrong::new(problem)
        };
        if slo.attainment.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err(at("attainment", "a share of the requests: between 0 and 1".to_owned()).into());
        }
        classes.push(SloClass { name: name.to_owned(), ttft: slo.ttft, tpot: slo.tpot, attainment: slo.attainment });
        match (&slo.tenants, rest) {
            (None, None) => rest = Some(position),
            (None, Some(first)) => {
                let first = &classes[first as usize].name;
                let problem = format!("both `{first}` and `{name}` are for all other tenants");
                return Err(at("tenants", problem).help("give one of them `tenants = \"FILE\"`").into());
            }
            (Some(file), _) => {
                let listed = read_named(directory, file, &format!("slo.{name}.tenants"))?;
                for tenant in listed.lines().map(str::trim).filter(|line| !line.is_empty()) {
                    by_name.insert(tenant.to_owned(), position);
                }
            }
        }
    }
    if classes.is_empty() {
        return Ok(classes);
    }
    let known = catalog.tenants.iter().filter(|tenant| by_name.contains_key(&tenant.name)).count();
    if !by_name.is_empty() && known == 0 {
        let problem = format!("none of the {} listed tenants is in the traffic", by_name.len());
        return Err(Wrong::at("slo", problem).help("write tenants as the trace calls them, one a line").into());
    }
    let others = rest.unwrap_or_else(|| {
        classes.push(SloClass { name: "others".to_owned(), ..SloClass::default() });
        classes.len() as u32 - 1
    });
    for tenant in &mut catalog.tenants {
        tenant.slo_class = by_name.get(&tenant.name).copied().unwrap_or(others);
    }
    Ok(classes)
}

/// Can the cluster hold every adapter of the traffic?
///
/// # Errors
/// The first that no replica can hold, and why.
pub(crate) fn check_adapters(setup: &Setup, cluster: &ClusterSettings, catalog: &Catalog) -> Result<(), Wrong> {
    let engine = setup.scenario.engine.kind();
    let room = |memory: AdapterMemory| match memory {
        AdapterMemory::Bytes(bytes) => bytes,
        AdapterMemory::Slots(0) => 0,
        AdapterMemory::Slots(_) | AdapterMemory::Unbounded => u64::MAX,
    };
    let largest = |memory: fn(&ReplicaSettings) -> AdapterMemory| {
        cluster.replicas.iter().map(|replica| room(memory(replica))).max().unwrap_or(0)
    };
    let memories = [
        ("gpu_adapters", "the adapter memory", largest(|replica| replica.gpu_adapters)),
        ("host_adapters", "the host", largest(|replica| replica.host_adapters)),
    ];
    let largest = cluster.replicas.iter().map(|replica| replica.max_lora_rank).max().unwrap_or(0);
    for adapter in &catalog.adapters {
        let rank = adapter.rank;
        if rank > largest {
            let problem = format!("adapter `{}` has rank {rank}, and slots hold ranks up to {largest}", adapter.name);
            let help = format!("set `engine.{engine}.max_lora_rank = {rank}`, or offer smaller ranks");
            return Err(Wrong::at(&format!("engine.{engine}.max_lora_rank"), problem).help(help));
        }
        // Before the memory, whose slots are as many.
        if cluster.replicas.iter().all(|replica| replica.max_loras == 0) {
            let problem =
                format!("`{}` and others want an adapter, and steps take none (`max_loras` is 0)", adapter.name);
            let help = "raise it, or offer requests without adapters: `popularity = \"base\"`";
            return Err(Wrong::at(&format!("engine.{engine}.max_loras"), problem).help(help));
        }
        for (key, place, largest) in memories {
            if adapter.bytes > largest {
                let problem = format!(
                    "adapter `{}` of rank {rank} takes {} bytes, and {place} has {largest}",
                    adapter.name, adapter.bytes
                );
                return Err(Wrong::at(&format!("engine.{engine}.{key}"), problem).help("give it more bytes"));
            }
        }
    }
    Ok(())
}

/// Is there a request that some replica has KV blocks for? The first that fits settles it: usually the very first.
///
/// # Errors
/// None fits anywhere: every one of them would be rejected.
pub(crate) fn check_room(setup: &Setup, cluster: &ClusterSettings, workload: &Workload) -> Result<(), Wrong> {
    let reserve = u64::from((setup.policies().preemptor)().reserve(1));
    // Nobody attends to the last token: its KV is never computed.
    let tokens =
        |offered: &Offered| u64::from(offered.request.prompt_tokens) + u64::from(offered.outcome.output_tokens) - 1;
    let room = |replica: &ReplicaSettings| {
        u64::from(replica.kv_blocks).saturating_sub(reserve) * u64::from(replica.block_size)
    };
    let largest = cluster.replicas.iter().map(room).max().unwrap_or(0);
    if largest >= u64::from(setup.max_model_len) {
        // The model takes none that is longer.
        return Ok(());
    }
    let mut shortest = u64::MAX;
    for offered in workload.arrivals() {
        shortest = shortest.min(tokens(&offered));
        if shortest <= largest {
            return Ok(());
        }
    }
    if shortest == u64::MAX {
        return Ok(());
    }
    let engine = setup.scenario.engine.kind();
    let kept = if reserve > 0 { format!(", of which the preemptor keeps {reserve} free") } else { String::new() };
    let problem = format!(
        "no request of the traffic ever fits: the shortest takes {shortest} tokens of KV, and a replica has blocks for {largest}{kept}"
    );
    Err(Wrong::at(&format!("engine.{engine}.kv_cache"), problem)
        .help("give the KV cache more blocks, or offer shorter requests"))
}

/// More publications than this take a core longer than anybody waits.
const PUBLICATIONS_MAX: u128 = 1_000_000_000;

/// Does publishing signals leave time for anything else?
///
/// # Errors
/// So many replicas would publish so often that the run would seem to hang.
pub(crate) fn check_pace(cluster: &ClusterSettings, workload: &Workload) -> Result<(), Wrong> {
    let (interval, span) = (cluster.signals_interval, workload.span());
    if interval.is_zero() {
        return Ok(());
    }
    let replicas = cluster.replicas.len() as u128;
    let publications = u128::from(span.as_ps() / interval.as_ps()) * replicas;
    if publications <= PUBLICATIONS_MAX {
        return Ok(());
    }
    let least = u128::from(span.as_ps()) * replicas / PUBLICATIONS_MAX;
    let least = Span::from_ms(u64::try_from(least / 1_000_000_000 + 1).unwrap_or(u64::MAX / 1_000_000_000));
    let problem = format!(
        "{interval} over {span}: {replicas} replicas would publish {publications} times, and the run would hardly end"
    );
    Err(Wrong::at("signals.interval", problem)
        .help(format!("write {least} or more, or \"0s\" for routers that see the truth")))
}

/// Do the warm-up and the drain leave requests to count? Requests that all arrive at once are not cut.
///
/// # Errors
/// Nothing is left: the run would end without a figure.
pub(crate) fn check_cut(setup: &Setup, workload: &Workload) -> Result<(), Wrong> {
    let report = &setup.scenario.report;
    let (warmup, drain, span) = (crate::run::warmup(setup), report.drain, workload.span());
    let cut = warmup.as_ps().saturating_add(drain.as_ps());
    // Far from what traffic spans, about, nobody has to be asked when he arrives.
    if cut == 0 || span.is_zero() || cut < span.as_ps() / 2 {
        return Ok(());
    }
    let last = workload.arrivals().map(|offered| offered.request.arrival.as_ps()).max().unwrap_or(0);
    let (start, end) = (warmup.as_ps(), last.saturating_sub(drain.as_ps()));
    let counts = |offered: Offered| (start..=end).contains(&offered.request.arrival.as_ps());
    if last == 0 || (end > start && workload.arrivals().any(counts)) {
        return Ok(());
    }
    let key = match () {
        () if !drain.is_zero() => "report.drain",
        () if report.warmup.is_some() => "report.warmup",
        () => "traffic.window.warmup",
    };
    let last = Span::from_ps(last).as_secs_f64();
    let problem = format!(
        "requests arrive until {last:.3} s, and the warm-up ({warmup}) and the drain ({drain}) leave none of them"
    );
    Err(Wrong::at(key, problem).help("shorten them, or offer more"))
}
