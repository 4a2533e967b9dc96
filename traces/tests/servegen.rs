//! ServeGen's clients: rates, burstiness, missing lengths.

use std::collections::BTreeMap;

use aril_sim::workload::Offered;
use aril_traces::Workload;

use crate::given::{beside, build, refusal, try_build};

#[test]
fn every_client_keeps_its_published_share_of_the_requests() {
    // m-small, 08:00 to 12:00; the busiest client has chunk number 36 and is read off its own rate file below.
    let workload = build("trace = \"servegen-m-small-4h\"\nservegen = { rate = 20.0, without_lengths = \"borrow\" }");
    let mut by_tenant = BTreeMap::new();
    let mut total = 0.0;
    for offered in workload.arrivals() {
        *by_tenant.entry(workload.catalog.tenants[offered.request.tenant.index()].name.clone()).or_insert(0.0) += 1.0;
        total += 1.0;
    }
    let expected = 20.0 * 4.0 * 3600.0;
    assert!((total / expected - 1.0_f64).abs() < 0.01, "{total} of {expected}");
    assert_eq!(workload.len_hint(), 288_000);
    let rates = published_rates();
    let sum: f64 = rates.values().sum();
    for (client, rate) in &rates {
        let (expected, drawn) = (rate / sum * total, by_tenant.get(client).copied().unwrap_or(0.0));
        // Each window's number is the rate's, rounded by chance: half a request for each of 24 windows at most.
        assert!((drawn - expected).abs() <= 24.0, "{client}: {drawn} of {expected:.1}");
    }
}

/// Requests in the four hours by client, straight from the archive.
fn published_rates() -> BTreeMap<String, f64> {
    let shipped = aril_traces::shipped().iter().find(|shipped| shipped.name == "servegen-m-small-4h").unwrap();
    let bytes = zstd::stream::decode_all(shipped.bytes).unwrap();
    let mut rates = BTreeMap::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().file_name().unwrap().to_string_lossy().into_owned();
        let Some(number) = name.strip_prefix("chunk-").and_then(|name| name.strip_suffix("-trace.csv")) else {
            continue;
        };
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        let rate = text.lines().map(|line| line.split(',').nth(1).unwrap().parse::<f64>().unwrap()).sum();
        rates.insert(format!("client-{number}"), rate);
    }
    rates
}

#[test]
fn clients_without_lengths_are_left_out_aloud_or_borrow_or_stop_the_scenario() {
    let with = |choice: &str| {
        format!("trace = \"servegen-m-small-4h\"\nservegen = {{ rate = 1.0, without_lengths = \"{choice}\" }}")
    };
    let (dropped, borrowed) = (build(&with("drop")), build(&with("borrow")));
    assert!(dropped.catalog.tenants.len() < borrowed.catalog.tenants.len());
    assert!(dropped.description().notes.iter().any(|note| note.contains("left out")), "{:?}", dropped.description());
    assert!(borrowed.description().assigned.iter().any(|note| note.contains("borrow")), "{:?}", borrowed.description());
    assert!(borrowed.arrivals().all(|offered| offered.request.prompt_tokens > 0));
    let message = refusal(&with("refuse")).to_string();
    assert!(message.contains("servegen.without_lengths") && message.contains("% of the requests"), "{message}");
}

#[test]
fn one_client_more_does_not_disturb_the_others() {
    let of = |clients: u32| {
        let text = format!(
            "trace = \"servegen-m-small-4h\"\nservegen = {{ clients = {clients} }}\nwindow = {{ duration = \"10m\" }}"
        );
        let workload = build(&text);
        let named = |offered: aril_sim::workload::Offered| {
            let name = workload.catalog.tenants[offered.request.tenant.index()].name.clone();
            (name, offered.request.arrival, offered.request.prompt_tokens, offered.outcome.output_tokens)
        };
        workload.arrivals().map(named).collect::<Vec<_>>()
    };
    let (three, four) = (of(3), of(4));
    let newcomer =
        four.iter().map(|request| &request.0).find(|name| three.iter().all(|request| request.0 != **name)).unwrap();
    assert_eq!(four.iter().filter(|request| request.0 != *newcomer).cloned().collect::<Vec<_>>(), three);
}

#[test]
fn a_client_may_have_an_adapter_of_its_own() {
    let workload = build(
        "trace = \"servegen-m-small-4h\"\nservegen.rate = 1.0\npopularity = \"tenant\"\nranks = { 8 = 0.5, 64 = 0.5 }",
    );
    assert_eq!(workload.catalog.tenants.len(), workload.catalog.adapters.len());
    for offered in workload.arrivals().take(500) {
        let adapter = offered.request.adapter.unwrap();
        assert_eq!(workload.catalog.adapters[adapter.index()].owner, Some(offered.request.tenant));
    }
}

#[test]
fn drawn_traffic_can_be_written_and_read_as_rows() {
    let workload = build("trace = \"servegen-m-small-4h\"\nservegen.rate = 1.0\nrequests = 300");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("drawn.parquet");
    aril_traces::write(&path, &workload.table()).unwrap();
    let text = format!("trace = {:?}", path.to_str().unwrap());
    let rows = |workload: &Workload| -> Vec<_> {
        let tenant = |offered: &Offered| workload.catalog.tenants[offered.request.tenant.index()].name.clone();
        let row =
            |o: Offered| (tenant(&o), o.request.arrival, o.request.prompt_tokens, o.request.max_tokens, o.outcome);
        workload.arrivals().map(row).collect()
    };
    assert_eq!(rows(&workload).len(), 300);
    assert_eq!(rows(&workload), rows(&build(&text)));
}

#[test]
fn the_whole_days_of_every_data_set_are_read() {
    for (file, clients) in [
        ("servegen_m-small_day0.tar.zst", 43),
        ("servegen_m-mid_day0.tar.zst", 109),
        ("servegen_m-large_day0.tar.zst", 162),
        ("servegen_deepseek-r1_day0.tar.zst", 73),
        ("servegen_mm-image_day0.tar.zst", 35),
    ] {
        let Some(path) = beside(&format!("traces/{file}")) else { return };
        let folder = path.parent().unwrap();
        let text = format!(
            "trace = \"{file}\"\nservegen = {{ rate = 0.01, without_lengths = \"borrow\" }}\ntoo_long = \"clip\""
        );
        let workload = try_build(&text, folder, 1, 0).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(workload.catalog.tenants.len(), clients, "{file}");
        let n = workload.arrivals().count() as f64;
        assert!((n / 864.0 - 1.0).abs() < 0.2, "{file}: {n}");
    }
}

#[test]
fn rates_without_lengths_need_lengths_from_elsewhere() {
    let Some(path) = beside("traces/servegen_m-small_rates_days0-6.tar.zst") else { return };
    let text =
        "trace = \"servegen_m-small_rates_days0-6.tar.zst\"\nservegen = { rate = 0.01, without_lengths = \"borrow\" }";
    let error = try_build(text, path.parent().unwrap(), 1, 0).unwrap_err();
    assert!(error.to_string().contains("no published lengths"), "{error}");
}

#[test]
fn a_folder_of_client_files_is_read_as_an_archive_is_and_each_file_is_an_input() {
    let shipped = aril_traces::shipped().iter().find(|shipped| shipped.name == "servegen-m-small-4h").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bytes = zstd::stream::decode_all(shipped.bytes).unwrap();
    tar::Archive::new(bytes.as_slice()).unpack(folder.path()).unwrap();
    let name = "data/language/m-small";
    let text = |trace: &str| format!("trace = {trace:?}\nservegen.rate = 1.0\nrequests = 200");
    let from_folder = try_build(&text(name), folder.path(), 1, 0).unwrap();
    let from_archive = try_build(&text(shipped.name), folder.path(), 1, 0).unwrap();
    assert_eq!(from_folder.arrivals().collect::<Vec<_>>(), from_archive.arrivals().collect::<Vec<_>>());
    assert_eq!(crate::given::traffic(&text(name)).inputs(folder.path()).len(), 43 + 38);
    assert_eq!(crate::given::traffic(&text(shipped.name)).shipped_inputs(), [shipped]);
}

#[test]
fn damage_in_an_archive_is_named_with_the_file_inside() {
    for (name, content, says) in [
        ("chunk-0-trace.csv", "0,1.0,1.0,Gamma,1.0,1.0\n600,1.0", "chunk-0-trace.csv:2"),
        ("chunk-0-trace.csv", "0,-1.0,1.0,Gamma,1.0,1.0\n", "column `rate`"),
        ("chunk-0-trace.csv", "0,1.0,1.0,Pareto,1.0,1.0\n", "\"Pareto\""),
        (
            "chunk-0-trace.csv",
            "600,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n",
            "chunk-0-trace.csv:2: the arrival \"0\" is before the one above it, \"600\" in line 1",
        ),
        ("chunk-0-trace.csv", "", "a line a window"),
        ("chunk-0-dataset.json", "{\"0\": {\"input_tokens\": \"{x}\"}}", "input_tokens"),
        ("chunk-0-dataset.json", "{\"0\": ", "chunk-0-dataset.json"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("chunk-0-trace.csv"), "0,1.0,1.0,Gamma,1.0,1.0\n").unwrap();
        std::fs::write(folder.path().join(name), content).unwrap();
        let error = try_build("trace = \".\"\nformat = \"servegen\"", folder.path(), 1, 0).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn gaps_fill_their_window_with_the_published_burstiness() {
    let folder = tempfile::tempdir().unwrap();
    let lengths = "{\"0\": {\"input_tokens\": \"{10: 1.0}\", \"output_tokens\": \"{5: 1.0}\"}}";
    std::fs::write(folder.path().join("chunk-0-dataset.json"), lengths).unwrap();
    // Weibull of shape 0.5 has a coefficient of variation of √5, Gamma of shape 0.25 one of 2; the scales are wrong on purpose.
    for (law, shape, cv) in [("Weibull", 0.5, 5.0_f64.sqrt()), ("Gamma", 0.25, 2.0), ("Gamma", 4.0, 0.5)] {
        let rows: String = (0..20).map(|i| format!("{},5.0,{cv},{law},{shape},123.0\n", i * 600)).collect();
        std::fs::write(folder.path().join("chunk-0-trace.csv"), rows).unwrap();
        let workload = try_build("trace = \".\"\nformat = \"servegen\"", folder.path(), 1, 0).unwrap();
        let figures = aril_traces::inspect(&workload);
        assert_eq!(figures.requests, 60_000);
        assert!(
            (figures.gap_cv.unwrap() / cv - 1.0).abs() < 0.05,
            "{law} {shape}: {:?} in place of {cv}",
            figures.gap_cv
        );
    }
}

#[test]
fn arrivals_never_go_back_however_bursty_a_client_is() {
    let folder = tempfile::tempdir().unwrap();
    let lengths = "{\"0\": {\"input_tokens\": \"{10: 1.0}\", \"output_tokens\": \"{5: 1.0}\"}}";
    std::fs::write(folder.path().join("chunk-0-dataset.json"), lengths).unwrap();
    // Gaps so uneven that most are nothing: the last of a window ends where the next begins, to a rounding error.
    let rows: String = (0..400).map(|i| format!("{},0.1,7.0,Gamma,0.02,1.0\n", i * 600)).collect();
    std::fs::write(folder.path().join("chunk-0-trace.csv"), rows).unwrap();
    let workload = try_build("trace = \".\"\nformat = \"servegen\"", folder.path(), 1, 0).unwrap();
    let arrivals: Vec<_> = workload.arrivals().map(|offered| offered.request.arrival).collect();
    assert_eq!(arrivals.len(), 24_000);
    assert!(arrivals.is_sorted(), "the engine takes requests in order of time");
}
