//! `[traffic]` as users write it.

use crate::given::{build, refusal, requests, traffic};

#[test]
fn the_closed_loop_of_the_punica_scenario_is_read_as_users_write_it() {
    let text = r#"
        [closed-loop]
        requests = 1024
        input_tokens = { lognormal = { s = 0.8, loc = -1, scale = 18, min = 1, max = 2046 } }
        total_tokens = { uniform = [0, 2048] }
        popularity = "distinct"
        ranks = { 16 = 1.0 }
    "#;
    let workload = build(text);
    let requests: Vec<_> = workload.arrivals().collect();
    assert_eq!((requests.len(), workload.catalog.adapters.len(), workload.len_hint()), (1024, 1024, 1024));
    assert!(workload.catalog.adapters.iter().all(|adapter| adapter.rank == 16 && adapter.bytes == 16_000_000));
    assert!(requests.iter().all(|offered| offered.request.arrival.as_ps() == 0));
}

#[test]
fn a_popularity_beside_the_closed_loop_goes_before_the_one_in_it() {
    let closed = "closed-loop = { requests = 64, input_tokens = 8, output_tokens = 8, popularity = \"distinct\" }";
    for (popularity, adapters) in
        [("\"distinct\"", 64), ("\"uniform-sqrt\"", 8), ("\"geometric-1.5\"", 9), ("\"identical\"", 1)]
    {
        let workload = build(&format!("{closed}\npopularity = {popularity}"));
        assert_eq!(workload.catalog.adapters.len(), adapters, "{popularity}");
    }
}

#[test]
fn a_shipped_trace_is_found_by_name_and_cut_to_its_window() {
    let workload =
        build("trace = \"azure-llm-2023-conv\"\nwindow = { start = \"10m\", duration = \"20m\", warmup = \"5m\" }");
    let arrivals: Vec<f64> = workload.arrivals().map(|offered| offered.request.arrival.as_secs_f64()).collect();
    assert!(arrivals.iter().all(|at| (0.0..1200.0).contains(at)));
    assert!(arrivals.len() > 4000 && arrivals.is_sorted());
    assert!(workload.description().licence.as_ref().unwrap().contains("CC-BY-4.0"));
    let again: Vec<f64> = workload.arrivals().map(|offered| offered.request.arrival.as_secs_f64()).collect();
    assert_eq!(arrivals, again);
}

#[test]
fn a_window_may_begin_at_a_date_of_the_trace() {
    let by_date =
        requests("trace = \"azure-llm-2023-conv\"\nwindow = { start = 2023-11-16T18:25:46.68059Z, duration = \"5m\" }");
    let by_time = requests("trace = \"azure-llm-2023-conv\"\nwindow = { start = \"10m\", duration = \"5m\" }");
    assert_eq!(by_date, by_time);
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let error = toml::from_str::<aril_traces::Traffic>("trace = \"x\"\n\npopularity = { zipf = { exponent = 1.0 } }")
        .unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
    assert!(error.to_string().contains("exponent"), "{error}");
}

#[test]
fn traffic_survives_being_written_and_read_again() {
    let text = r#"
        trace = "azure-llm-2023-conv"
        window = { start = 2023-11-16T18:20:00Z, duration = "20m", warmup = "1m" }
        rate_scale = 1.5
        popularity.zipf = { s = 0.9 }
        ranks = { 8 = 0.4, 16 = 0.4, 64 = 0.2 }
        output_predictor.noisy = { relative_error = 0.3 }
        client = { timeout = "60s" }
    "#;
    let once = traffic(text);
    let written = toml::to_string(&once).unwrap();
    assert_eq!(traffic(&written), once, "{written}");
}

#[test]
fn an_unknown_trace_names_the_nearest_shipped_one() {
    let message = refusal("trace = \"azure-llm-2023-conf\"").to_string();
    assert!(message.contains("did you mean `azure-llm-2023-conv`?"), "{message}");
}

/// The `[traffic]` tables of the three scenarios that users wished for, with a trace that is there in place of the operator's own.
#[test]
fn the_wished_for_scenarios_are_read() {
    let researcher = r#"
        trace  = "azure-llm-2023-conv"
        window = { duration = "40m", warmup = "5m" }
        ranks  = { 8 = 0.4, 16 = 0.4, 64 = 0.2 }
        popularity.working-set = { tenants = 128, adapters = 512, zipf_s = 0.9, sticky = 0.68, session_gap = "30m", drift_per_day = 0.7 }
        output_predictor.noisy = { relative_error = 0.3 }
    "#;
    let workload = build(researcher);
    assert_eq!((workload.catalog.tenants.len(), workload.catalog.adapters.len()), (128, 512));
    assert!(
        workload
            .arrivals()
            .all(|offered| offered.request.adapter.is_some() && offered.request.predicted_output_tokens.is_some())
    );
    for swept in ["\"working-set\"", "{ zipf = { s = 0.9 } }", "\"distinct\""] {
        build(&format!("trace = \"azure-llm-2023-conv\"\npopularity = {swept}"));
    }
    let operator = traffic(
        r#"
        trace    = "prod/gateway.parquet"
        columns  = { arrival = "ts", tenant = "org", adapter = "lora_name", input_tokens = "prompt_tokens", output_tokens = "completion_tokens", prefix = "block_hashes" }
        adapters = "prod/adapters.csv"
        window   = { start = 2026-11-16T08:00:00Z, duration = "4h", warmup = "10m" }
        rate_scale = 1.5
        client   = { timeout = "60s" }
    "#,
    );
    let base = std::path::Path::new("/scenarios");
    assert_eq!(operator.inputs(base), [base.join("prod/gateway.parquet"), base.join("prod/adapters.csv")]);
    assert_eq!(
        (operator.warmup().to_string(), operator.client_timeout().unwrap().to_string()),
        ("400s".into(), "1m".into())
    );
}

#[test]
fn a_choice_s_default_is_its_name_alone_and_a_wrong_name_lists_the_right_ones() {
    let read = |text: &str| toml::from_str::<aril_traces::Traffic>(text);
    assert_eq!(read("popularity = \"working-set\"").unwrap(), read("popularity.working-set = {}").unwrap());
    for (text, says) in [
        ("popularity = \"popular\"", "`distinct`"),
        ("popularity = 7", "string"),
        ("popularity = { zipf = {}, distinct = {} }", "line 1"),
        ("arrivals = { poisson = { rte = 1.0 } }", "rate"),
        ("arrivals = \"poisson\"", "rate"),
        ("window = { duration = 40 }", "duration"),
        ("window = { start = \"tomorrow\" }", "2026-11-16T08:00:00Z"),
        ("ranks = { sixteen = 1.0 }", "not a rank"),
        ("input_tokens = -5", "line 1"),
        ("input_tokens = 5000000000", "line 1"),
    ] {
        let message = read(text).unwrap_err().to_string();
        assert!(message.contains(says) && message.contains("line 1"), "{text}: {message}");
    }
}

#[test]
fn the_schema_describes_what_is_read() {
    let schema = schemars::schema_for!(aril_traces::Traffic);
    let text = serde_json::to_string(&schema).unwrap();
    for word in ["working-set", "closed-loop", "geometric", "relative_error", "additionalProperties"] {
        assert!(text.contains(word), "{word}");
    }
}
