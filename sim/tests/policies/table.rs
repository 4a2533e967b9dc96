//! Policies as tables of a scenario: defaults, unknown keys, impossible values.

use aril_sim::policy::{Tunable, batcher, evictor, load_path, migrator, preemptor, router, scaler};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

/// An empty table is the default, what is written reads back, an unknown key is refused, and the policy describes itself.
fn check<P: Tunable + Default + Clone + Serialize + DeserializeOwned + JsonSchema>(name: &str) {
    let written = toml::to_string(&P::default()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let read: P = toml::from_str(&written).unwrap_or_else(|error| panic!("{name}: {error}\n{written}"));
    assert_eq!(toml::to_string(&read).unwrap(), written, "{name}");
    P::default().validate().unwrap_or_else(|problem| panic!("{name}: {problem}"));
    assert!(toml::from_str::<P>("no_such_tunable = 1").is_err(), "{name} takes any key");
    assert!(!P::SOURCE.is_empty() && !P::SUMMARY.is_empty() && !P::SUMMARY.ends_with('.'), "{name}");
    let schema = serde_json::to_value(schemars::schema_for!(P)).unwrap();
    let keys = schema["properties"].as_object().map_or(0, |properties| properties.len());
    let tunables: toml::Table = toml::from_str(&written).unwrap();
    assert!(keys >= tunables.len(), "{name}: the schema knows {keys} of {}", tunables.len());
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        assert!(property["description"].is_string() || property["$ref"].is_string(), "{name}.{key} says nothing");
    }
}

#[test]
fn every_policy_is_a_documented_table_with_defaults() {
    check::<router::RoundRobin>("round-robin");
    check::<router::Random>("random");
    check::<router::LeastLoaded>("least-loaded");
    check::<router::PowerOfTwo>("power-of-two");
    check::<router::AffinityHard>("affinity-hard");
    check::<router::AffinitySoft>("affinity-soft");
    check::<router::Scorers>("scorers");
    check::<router::Dedicated>("dedicated");
    check::<router::PunicaPaper>("punica-paper");
    check::<router::PunicaArtifact>("punica-artifact");
    check::<batcher::Punica>("punica");
    check::<batcher::PrefillFirst>("prefill-first");
    check::<batcher::Chunked>("chunked");
    check::<batcher::StaticConsecutive>("static-consecutive");
    check::<batcher::FcfsSameAdapter>("fcfs-same-adapter");
    check::<batcher::RegroupByAdapter>("regroup-by-adapter");
    check::<batcher::SLora>("s-lora");
    check::<evictor::AtOnce>("at-once");
    check::<evictor::Lru>("lru");
    check::<evictor::Fifo>("fifo");
    check::<evictor::Lfu>("lfu");
    check::<evictor::SizeAware>("size-aware");
    check::<evictor::Pinned>("pinned");
    check::<load_path::Blocking>("blocking");
    check::<load_path::JoinWhenReady>("join-when-ready");
    check::<load_path::NextInQueue>("next-in-queue");
    check::<load_path::OnArrival>("on-arrival");
    check::<preemptor::Newest>("newest");
    check::<preemptor::Oldest>("oldest");
    check::<migrator::PunicaConsolidate>("punica-consolidate");
    check::<scaler::PunicaHints>("punica-hints");
}

fn refused<P: Tunable + DeserializeOwned>(table: &str, key: &str) {
    let policy: P = toml::from_str(table).unwrap_or_else(|error| panic!("{table}: {error}"));
    let problem = policy.validate().expect_err(table);
    assert!(problem.contains(key), "{problem}");
}

#[test]
fn impossible_tunables_are_refused_by_name() {
    refused::<router::PowerOfTwo>("choices = 0", "choices");
    refused::<router::AffinityHard>("replicas_per_adapter = 0", "replicas_per_adapter");
    refused::<router::AffinitySoft>("affinity_probability = 1.5", "affinity_probability");
    refused::<router::AffinitySoft>("affinity_probability = nan", "affinity_probability");
    refused::<router::Scorers>("queue = 0", "lora-affinity");
    refused::<router::Scorers>("queue = -1", "queue");
    refused::<router::Scorers>("lora-affinity = inf", "lora-affinity");
    refused::<batcher::PrefillFirst>("watermark = -0.1", "watermark");
    refused::<batcher::StaticConsecutive>("gc_cost = \"1ms\"", "gc_every");
    refused::<batcher::StaticConsecutive>("gc_every = 1\ngc_cost = \"61m\"", "longer than 1h");
    refused::<batcher::Punica>("faults = [\"single-segment-decode\", \"single-segment-decode\"]", "faults");
    refused::<evictor::SizeAware>("size = -1", "size");
    refused::<evictor::Pinned>("ids = [1]\nrest = { size-aware = { recency = -1 } }", "recency");
    refused::<load_path::NextInQueue>("depth = 0", "depth");
    refused::<migrator::PunicaConsolidate>("period = \"0s\"", "period");
    refused::<migrator::PunicaConsolidate>("period = \"1us\"", "period");
    refused::<migrator::PunicaConsolidate>("light_batch = 0", "light_batch");
    refused::<scaler::PunicaHints>("min_on = 0", "min_on");
}

#[test]
fn scorers_that_are_not_named_have_no_weight() {
    let named: router::Scorers = toml::from_str("lora-affinity = 2\nqueue = 1").unwrap();
    assert_eq!((named.lora_affinity, named.queue, named.kv_utilization), (2.0, 1.0, 0.0));
    assert_eq!(router::Scorers::default().kv_utilization, 1.0);
    let unknown = toml::from_str::<router::Scorers>("prefix = 2").expect_err("there is no such scorer");
    assert!(unknown.to_string().contains("lora-affinity"), "the scorers that there are: {unknown}");
}

#[test]
fn choices_are_written_as_words() {
    let soft: preemptor::Newest = toml::from_str("requeue = \"replica\"\nby = \"admission\"").unwrap();
    assert_eq!(soft.requeue, aril_sim::policy::Requeue::Replica);
    assert!(toml::from_str::<batcher::Punica>("faults = [\"single-segment\"]").is_err());
}
