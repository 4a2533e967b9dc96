//! Fits the working set to the locality of GenTD26's LoRA uses and shows how near it comes, on the seeds of the fit and on others.
//!
//! `cargo run --release -p aril-traces --example fit_working_set [rounds]`
//!
//! The result is the default of `popularity.working-set`.

use aril_sim::time::Span;
use aril_traces::{Context, Fit, GENTD26, Locality, Popularity, TraceError, Traffic, WorkingSet, fit, inspect};

/// As many uses as the measured stream has, at its rate in active hours (22.9 an hour), in 0.38 of all hours.
const STREAM: &str = r#"
    requests = 4858
    arrivals.on-off = { rate_on = 0.0065, on = "3h", off = "5h" }
    input_tokens = 1
    output_tokens = 1
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rounds = std::env::args().nth(1).map_or(Ok(600), |text| text.parse())?;
    let traffic: Traffic = toml::from_str(STREAM)?;
    let measured = Locality::from(GENTD26);
    // What the trace shows directly: Zipf's exponent, repeats, and uses of adapters that several tenants share. There are 874
    // adapters, of which the stream shows 389; it shows 239 tenants, so they are taken to be as many more, 537.
    // The search begins with what the trace suggests of the rest (uses of a session, pauses) and with even chances.
    let start = WorkingSet {
        tenants: 537,
        adapters: 874,
        zipf_s: 0.85,
        sticky: 0.682,
        shared: 0.24,
        session_requests: 7.6,
        pause: Span::from_secs(111),
        pause_sigma: 1.93,
        drift_per_day: 0.5,
        returning: 0.5,
        fresh: 0.5,
        ..WorkingSet::default()
    };
    let found = fit(&traffic, &start, &measured, &[1, 2, 3, 4, 5, 6, 7, 8], rounds)?;
    println!("{}", toml::to_string(&found.law)?);
    show("measured", &measured);
    show("fitted, seeds 1-8", &found.locality);
    show("fitted, seeds 11-30", &held_out(&traffic, &found)?.locality);
    let zipf = figures(&traffic, &found)?;
    println!("Zipf's exponent of the adapters: measured 0.85, fitted {zipf:.2}");
    println!("largest difference on the seeds of the fit: {:.3}", found.locality.hit_rate_error(&measured));
    println!(
        "largest difference on other seeds: {:.3}",
        held_out(&traffic, &found)?.locality.hit_rate_error(&measured)
    );
    Ok(())
}

/// Zipf's exponent of one stream with these parameters.
fn figures(traffic: &Traffic, found: &Fit) -> Result<f64, TraceError> {
    let traffic = Traffic { popularity: Some(Popularity::WorkingSet(found.law)), ..traffic.clone() };
    let context = Context {
        base: std::path::Path::new("."),
        seed: 11,
        as_recorded: true,
        adapter_bytes: &|_| 0,
        max_model_len: u32::MAX,
    };
    Ok(inspect(&traffic.build(&context)?).adapters.zipf_s.unwrap_or(f64::NAN))
}

/// The same parameters on seeds that the search never saw.
fn held_out(traffic: &Traffic, found: &Fit) -> Result<Fit, TraceError> {
    let seeds: Vec<u64> = (11..=30).collect();
    fit(traffic, &found.law, &Locality::from(GENTD26), &seeds, 0)
}

fn show(what: &str, locality: &Locality) {
    let rates: Vec<String> = locality.lru_hit_rate.iter().map(|(slots, rate)| format!("{slots}: {rate:.3}")).collect();
    let Locality { adapters, sessions, repeats, .. } = locality;
    println!("{what}: LRU {}; {adapters} adapters, {sessions} sessions, repeats {repeats:.3}", rates.join(", "));
}
