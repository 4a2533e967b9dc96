//! Policies that cannot be, or cannot do their work there.

use super::{changed, refused};
use crate::integration::bench::{Bench, SMALL};

#[test]
fn a_tunable_that_cannot_be_is_told_at_its_table() {
    changed(
        r#"router = "least-loaded""#,
        r#"router = { power-of-two = { choices = 0 } }"#,
        r#"error: `router.power-of-two`: `choices` is 0: draw at least 1; 2 is the usual number
  --> s.toml:26:38
   |
26 | spread = { router = { power-of-two = { choices = 0 } } }
   |                                      ^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_tunable_that_is_no_choice_lists_the_choices() {
    changed(
        r#"router = "least-loaded""#,
        r#"router = { least-loaded = { by = "queue-len" } }"#,
        r#"error: `router.least-loaded.by`: `queue-len` is not a choice here
  --> s.toml:26:45
   |
26 | spread = { router = { least-loaded = { by = "queue-len" } } }
   |                                             ^^^^^^^^^^^
  = help: choices: `requests`, `waiting`, `kv`"#,
    );
}

#[test]
fn two_policies_where_one_is_wanted_are_refused() {
    changed(
        r#"router = "least-loaded""#,
        r#"router = { least-loaded = {}, random = {} }"#,
        r#"error: `router`: `random` beside `least-loaded`: a choice is one policy, its tunables in a table of its own
  --> s.toml:26:21
   |
26 | spread = { router = { least-loaded = {}, random = {} } }
   |                     ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn faults_are_refused_on_a_batcher_that_has_none() {
    changed(
        r#"router = "least-loaded""#,
        r#"batcher = "chunked", faults = ["single-segment-decode"]"#,
        r#"error: unknown key `faults` in `batcher.chunked`
  --> s.toml:26:33
   |
26 | spread = { batcher = "chunked", faults = ["single-segment-decode"] }
   |                                 ^^^^^^
  = help: known keys: `long_prefill_token_threshold`, `when_adapters_full`, `watermark`, `admits_after_preemption`"#,
    );
}

#[test]
fn a_policy_is_a_table() {
    changed(
        r#"spread = { router = "least-loaded" }"#,
        r#"spread = "least-loaded""#,
        r#"error: `policy.spread`: expected a table, such as { preset = "punica-paper" }
  --> s.toml:26:10
   |
26 | spread = "least-loaded"
   |          ^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_pool_that_nobody_can_switch_on_is_refused() {
    changed(
        r#"replicas = 2"#,
        r#"replicas = 2
starts_on = 0"#,
        r#"error: `pool`: no replica is on at the start, and there is no scaler that could acquire one
  --> s.toml:17:2
   |
17 | [pool.a100-80gb]
   |  ^^^^
  = help: raise `starts_on`, or choose a scaler"#,
    );
}

#[test]
fn pinned_adapters_that_the_traffic_does_not_have_are_refused() {
    changed(
        r#"router = "least-loaded""#,
        r#"evictor.pinned = { ids = [0, 8] }"#,
        r#"error: `evictor.pinned`: `ids` pins adapter 8 by its number, and the traffic has 8: 0 is `adapter-0`, 7 is `adapter-7`
  --> s.toml:26:29
   |
26 | spread = { evictor.pinned = { ids = [0, 8] } }
   |                             ^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_dedicated_group_that_nobody_can_switch_on_is_refused() {
    let text = SMALL.replacen("replicas = 2", "replicas = 4\nstarts_on = 3", 1).replacen(
        r#"router = "least-loaded""#,
        r#"preset = "dedicated""#,
        1,
    );
    refused(
        &Bench::with(&text),
        r#"error: `router.dedicated`: group 4 of 4 has no replica that is on, and no scaler could switch one on: its requests, and all behind them, would wait for ever; switch all replicas on, or choose fewer `groups`
  --> s.toml:27:21
   |
27 | spread = { preset = "dedicated" }
   |                     ^^^^^^^^^^^"#,
    );
    let bench = Bench::with(&text.replacen(r#"preset = "dedicated""#, "router.dedicated = { groups = 3 }", 1));
    bench.ok(&["check", "s.toml"]);
}

#[test]
fn a_clock_that_ticks_more_often_than_steps_begin_is_refused() {
    changed(
        r#"[slo.all]"#,
        r#"[signals]
interval = "1us"

[slo.all]"#,
        r#"error: `signals.interval`: 1us: steps take milliseconds, and nothing changes between them
  --> s.toml:22:12
   |
22 | interval = "1us"
   |            ^^^^^
  = help: write 1ms or more, or "0s" for routers that see the truth"#,
    );
    changed(
        r#"router = "least-loaded""#,
        r#"migrator.punica-consolidate = { period = "1us" }"#,
        r#"error: `migrator.punica-consolidate`: `period` is 1us: steps take milliseconds; write 1ms or more, such as "10s"
  --> s.toml:26:42
   |
26 | spread = { migrator.punica-consolidate = { period = "1us" } }
   |                                          ^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn signals_that_would_leave_no_time_for_the_run_are_refused() {
    let text = SMALL
        .replacen("requests = 60", "requests = 4000", 1)
        .replacen("rate = 4.0", "rate = 0.001", 1)
        .replacen("[slo.all]", "[signals]\ninterval = \"1ms\"\n\n[slo.all]", 1);
    let done = Bench::with(&text).aril(&["check", "s.toml"]);
    assert_eq!(done.code, 2, "{}", done.err);
    assert!(done.err.starts_with("error: `signals.interval`: 1ms over "), "{}", done.err);
    assert!(done.err.contains("2 replicas would publish 8000000000 times"), "{}", done.err);
    assert!(done.err.contains("= help: write 9ms or more"), "{}", done.err);
}

#[test]
fn scorers_by_name_alone_weigh_what_their_example_weighs_and_named_ones_stand_alone() {
    let weights = |router: &str| {
        let bench = Bench::changed("router = \"least-loaded\"", router);
        let printed = bench.ok(&["check", "s.toml", "--format", "json"]);
        let json: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        let scorers = &json["policy"]["spread"]["router"]["scorers"];
        ["queue", "kv-utilization", "lora-affinity", "residency", "load"]
            .map(|name| scorers[name].as_f64().unwrap_or(-1.0))
    };
    assert_eq!(weights("router = \"scorers\""), [1.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(weights("router.scorers.picker = \"weighted-random\""), [1.0, 1.0, 1.0, 0.0, 0.0]);
    assert_eq!(weights("router.scorers.residency = 2.0"), [0.0, 0.0, 0.0, 2.0, 0.0]);
    let listed = Bench::new().ok(&["list", "policies", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let all = listed.as_array().cloned().or_else(|| listed["policies"].as_array().cloned()).expect("a list");
    let scorers = all.iter().find(|about| about["name"] == "scorers").expect("it is listed");
    assert_eq!(scorers["tunables"]["lora-affinity"], 1.0);
}
