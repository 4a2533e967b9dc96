//! Traffic that cannot be, and traces that are broken.

use super::{changed, refused};
use crate::integration::bench::Bench;

#[test]
fn traffic_without_lengths_is_refused() {
    changed(
        r#"input_tokens = 32
"#,
        r#""#,
        r#"error: `traffic.input_tokens`: nothing says how long prompts are
 --> s.toml:6:2
  |
6 | [traffic]
  |  ^^^^^^^
  = help: set `input_tokens`, or `lengths = { trace = … }`"#,
    );
}

#[test]
fn a_number_that_is_none_is_refused() {
    changed(
        r#"rate = 4.0"#,
        r#"rate = nan"#,
        r#"error: `traffic.arrivals.poisson.rate`: nan is not a finite number
 --> s.toml:7:33
  |
7 | arrivals = { poisson = { rate = nan } }
  |                                 ^^^"#,
    );
}

#[test]
fn a_negative_rate_is_refused() {
    changed(
        r#"rate = 4.0"#,
        r#"rate = -4.0"#,
        r#"error: `traffic.arrivals.poisson.rate`: -4 is not above zero
 --> s.toml:7:33
  |
7 | arrivals = { poisson = { rate = -4.0 } }
  |                                 ^^^^
  = help: write a finite number above zero"#,
    );
}

#[test]
fn a_window_longer_than_its_trace_is_refused() {
    changed(
        r#"arrivals = { poisson = { rate = 4.0 } }
requests = 60"#,
        r#"trace = "azure-llm-2023-conv"
window = { duration = "9h" }"#,
        r#"error: `traffic.window.duration`: the window ends 29746s after the last request; the trace lasts 2653s
 --> s.toml:8:23
  |
8 | window = { duration = "9h" }
  |                       ^^^^
  = help: make it shorter, or begin it earlier"#,
    );
}

#[test]
fn broken_traces_are_told_with_their_line() {
    for (trace, message) in [
        ("", "no requests"),
        ("arrival_s,input_tokens,output_tokens\n", "no requests"),
        ("arrival_s,input_tokens,output_tokens\n0,10,5\n1,-3,6\n", "t.csv:3"),
        ("arrival_s,input_tokens,output_tokens\n5,10,5\n1,3,6\n", "t.csv:3"),
        ("arrival_s,input_tokens,output_tokens\n0,10,5\n1,3", "t.csv:3"),
        ("arrival_s,input_tokens,output_tokens\n0,10,99999999999999999999\n", "t.csv:2"),
    ] {
        let bench = Bench::changed(
            "arrivals = { poisson = { rate = 4.0 } }\nrequests = 60\ninput_tokens = 32\noutput_tokens = { uniform = [1, 64] }",
            "trace = \"t.csv\"",
        );
        bench.write("t.csv", trace);
        let done = bench.aril(&["run", "s.toml"]);
        assert_eq!(done.code, 2, "{trace:?}: {}", done.err);
        assert!(done.err.contains(message), "{trace:?}: {}", done.err);
        let place = " --> s.toml:7:9\n  |\n7 | trace = \"t.csv\"\n  |         ^^^^^^^";
        assert!(done.err.contains(place), "and with the line that names the trace: {}", done.err);
        assert!(bench.files("runs").is_empty(), "nothing is left behind");
    }
}

#[test]
fn a_length_of_nothing_is_refused() {
    changed(
        r#"output_tokens = { uniform = [1, 64] }"#,
        r#"output_tokens = 0"#,
        r#"error: `traffic.output_tokens`: lengths from 0 on: every prompt and every output has at least 1 token
  --> s.toml:10:17
   |
10 | output_tokens = 0
   |                 ^
  = help: begin at 1"#,
    );
}

#[test]
fn lengths_beyond_the_context_are_refused_rather_than_cut() {
    changed(
        r#"output_tokens = { uniform = [1, 64] }"#,
        r#"output_tokens = { uniform = [1, 1000000000] }"#,
        r#"error: `traffic.output_tokens`: lengths of up to 999999999 tokens, and the context of the model leaves room for 4095
  --> s.toml:10:1
   |
10 | output_tokens = { uniform = [1, 1000000000] }
   | ^^^^^^^^^^^^^
  = help: shorten them, or serve a model with a longer context (`max_model_len`)"#,
    );
    changed(
        r#"input_tokens = 32"#,
        r#"input_tokens = { lognormal = { s = 0.5, scale = 1e9 } }"#,
        r#"error: `traffic.input_tokens`: typical lengths of 1000000000 tokens, and the context of the model leaves room for 4095
 --> s.toml:9:1
  |
9 | input_tokens = { lognormal = { s = 0.5, scale = 1e9 } }
  | ^^^^^^^^^^^^
  = help: shorten them, or serve a model with a longer context (`max_model_len`)"#,
    );
}

#[test]
fn a_cache_that_nobody_ever_fits_into_is_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
kv_cache = { blocks = 1 }"#,
        r#"error: `engine.aril.kv_cache`: no request of the traffic ever fits: the shortest takes 32 tokens of KV, and a replica has blocks for 16
  --> s.toml:16:1
   |
16 | kv_cache = { blocks = 1 }
   | ^^^^^^^^
  = help: give the KV cache more blocks, or offer shorter requests"#,
    );
}

#[test]
fn a_second_law_beside_the_first_is_refused_and_not_overlooked() {
    for (key, choice, keys) in [
        ("popularity", "{ zipf = { s = 0.9 }, nonsense = 7 }", "zipf, nonsense"),
        ("popularity", "{ zipf = { s = 0.9 }, geometric = { ratio = 2.0 } }", "zipf, geometric"),
        ("arrivals", "{ poisson = { rate = 5 }, gamma = { rate = 1, cv = 2 } }", "poisson, gamma"),
        ("input_tokens", "{ fixed = 5, uniform = [1, 9] }", "fixed, uniform"),
        ("output_predictor", "{ noisy = { relative_error = 1.0 }, exact = {} }", "noisy, exact"),
        ("max_tokens", "{ fixed = 5, model = {} }", "fixed, model"),
    ] {
        let bench = Bench::with(&format!(
            "name = \"s\"\nmodel.name = \"llama-2-7b\"\nengine.aril = {{}}\npool.h100.replicas = 1\n[traffic]\n{key} = {choice}\n"
        ));
        let bars = "^".repeat(choice.len());
        let gap = " ".repeat(key.len() + 3);
        super::refused(
            &bench,
            &format!(
                "error: `traffic.{key}`: 2 keys where one choice is wanted: {keys}\n --> s.toml:6:{}\n  |\n6 | {key} = {choice}\n  | {gap}{bars}",
                key.len() + 4
            ),
        );
    }
}

#[test]
fn rates_and_waits_that_cannot_be_meant_are_refused() {
    for (set, message) in [
        ("traffic.rate_scale=1e300", "`traffic.rate_scale`: 1e300 times the rate"),
        ("traffic.arrivals.poisson.rate=1e18", "`traffic.arrivals.poisson.rate`: 1e18 requests a second"),
        ("traffic.client.timeout=0s", "`traffic.client.timeout`: clients that wait for nothing get nothing"),
        ("report.drain=1h", "`report.drain`: requests arrive until "),
        ("report.warmup=1h", "`report.warmup`: requests arrive until "),
        ("traffic.window.warmup=1h", "`traffic.window.warmup`: requests arrive until "),
    ] {
        let done = Bench::with(crate::integration::bench::SMALL).aril(&["check", "s.toml", "--set", set]);
        assert_eq!(done.code, 2, "{set}: {}", done.err);
        assert!(done.err.starts_with(&format!("error: {message}")), "{set}: {}", done.err);
        assert!(done.err.contains("^\n  = help: "), "{set}: {}", done.err);
    }
}

#[test]
fn traffic_that_lasts_longer_than_a_run_can_is_refused_where_it_says_so() {
    changed(
        r#"requests = 60"#,
        r#"window = { duration = "201d" }"#,
        r#"error: `traffic.window.duration`: 201d is longer than the 200d that a run can last
 --> s.toml:8:23
  |
8 | window = { duration = "201d" }
  |                       ^^^^^^
  = help: make it shorter"#,
    );
    changed(
        r#"rate = 4.0 } }
requests = 60"#,
        r#"rate = 0.000001 } }
requests = 60"#,
        r#"error: `traffic.requests`: 60 requests at this rate arrive over more than the 200d that a run can last
 --> s.toml:8:12
  |
8 | requests = 60
  |            ^^
  = help: offer fewer, or raise the rate"#,
    );
    changed(
        r#"requests = 60"#,
        r#"requests = 600
rate_scale = 0.000001"#,
        r#"error: `traffic.rate_scale`: 0.000001 stretches the traffic over more than the 200d that a run can last
 --> s.toml:9:14
  |
9 | rate_scale = 0.000001
  |              ^^^^^^^^
  = help: choose a larger one, or a shorter window"#,
    );
    let bench = Bench::changed("arrivals = { poisson = { rate = 4.0 } }\nrequests = 60", "trace = \"t.csv\"");
    bench.write("t.csv", "arrival,input_tokens,output_tokens\n0,9,9\n17280001,9,9\n");
    refused(
        &bench,
        r#"error: `traffic.trace`: its requests arrive over more than the 200d that a run can last
 --> s.toml:7:9
  |
7 | trace = "t.csv"
  |         ^^^^^^^
  = help: cut it with a window, such as `window = { duration = "1h" }`"#,
    );
}

#[test]
fn a_duration_or_a_horizon_beyond_the_clock_is_refused() {
    changed(
        r#"requests = 60"#,
        r#"window = { duration = "30000d" }"#,
        r#"error: `traffic.window.duration`: `30000d` is longer than 213 days, where the clock of a run ends
 --> s.toml:8:23
  |
8 | window = { duration = "30000d" }
  |                       ^^^^^^^^"#,
    );
    changed(
        r#"name = "small""#,
        r#"name = "small"
horizon = "213d""#,
        r#"error: `horizon`: no run can last 213d
 --> s.toml:2:11
  |
2 | horizon = "213d"
  |           ^^^^^^
  = help: write 200d or less"#,
    );
}
