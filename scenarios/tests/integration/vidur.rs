//! What a user of Vidur brings along: prediction tables and requests.

use std::path::{Path, PathBuf};

use polars::prelude::{ParquetReader, SerReader};

use super::bench::Bench;

/// Small tables under the names of Vidur's cache.
fn tables(bench: &Bench, folder: &str) {
    let operations = ["input_layernorm", "attn_pre_proj", "attn_rope", "attn_post_proj", "post_attention_layernorm"];
    let more = ["mlp_up_proj", "mlp_act", "mlp_down_proj", "add", "attn_kv_cache_save"];
    let write = |name: &str, header: &str, rows: Vec<String>| {
        bench.write(&format!("{folder}/{name}_0a1b2c3d_predictions.csv"), format!("{header}\n{}\n", rows.join("\n")));
    };
    for name in operations.into_iter().chain(more) {
        write(name, "num_tokens,prediction", (1..=64).map(|tokens| format!("{tokens},0.01")).collect());
    }
    let contexts = || (0..=2048).step_by(64);
    let decode = (1..=8).flat_map(|rows| contexts().map(move |context| format!("{rows},{context},0.02")));
    write("attn_decode", "batch_size,kv_cache_size,prediction", decode.collect());
    let prefill = contexts().flat_map(|context| (1..=64).map(move |chunk| format!("{context},{},0.03", chunk * chunk)));
    write("attn_prefill", "kv_cache_size,prefill_chunk_size_squared,prediction", prefill.collect());
}

const SCENARIO: &str = r#"name = "brought"

[model]
name = "llama-2-7b"

[traffic]
trace  = "requests.csv"

[engine.vllm]
max_num_seqs           = 8
max_num_batched_tokens = 64
max_lora_rank          = 0
kv_cache               = { blocks = 1000 }
lora_kernel            = "none"

[pool.a100-80gb]
replicas = 1
profile  = "vidur-a100-80gb-llama-2-7b.toml"

[policy]
chunked = { router = "round-robin", batcher = "chunked" }
"#;

#[test]
fn tables_and_requests_of_vidur_become_a_run_that_says_where_its_costs_come_from() {
    let bench = Bench::with(SCENARIO);
    tables(&bench, "llama2_7b_a100");
    let told = bench.ok(&["profile", "import-vidur", "llama2_7b_a100"]);
    assert!(told.contains("vidur-a100-80gb-llama-2-7b (published)") && told.contains("8 decode rows"), "{told}");
    bench.write("vidur.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,10,3\n0.5,100,1\n");
    bench.ok(&["trace", "convert", "--from", "vidur", "vidur.csv", "requests.csv"]);
    let out = bench.ok(&["run", "s.toml", "--quiet"]);
    assert!(out.contains("costs: vidur-a100-80gb-llama-2-7b (published)"), "{out}");
    // 32 layers, each of nine operations and KV (0.10 ms), prefill attention (0.03) and decode attention (0.02): two prompts in
    // chunks of 64 tokens, the rest of the second beside a decode row, then that row alone.
    let step = |layer_us: u64| 32 * layer_us * 1_000_000;
    let start = 500_000_000_000;
    let times = times(&bench.path("runs/brought/runs/chunked/seed-1/requests.parquet"));
    let first = start + step(130);
    assert_eq!(times, [(first, first + step(150) + step(120)), (first + step(150), first + step(150))]);
}

#[test]
fn what_cannot_be_imported_says_why_and_what_to_do() {
    let bench = Bench::new();
    tables(&bench, "mine");
    bench.write("raw/mlp.csv", "x\n1\n");
    bench.write("empty/readme.txt", "no tables\n");
    for (arguments, told) in [
        (vec!["mine"], "which model are these tables of?"),
        (vec!["mine", "--model", "llama-2-7b"], "which gpu are these tables of?"),
        (vec!["mine", "--model", "llama-2-7", "--gpu", "a100-80gb"], "did you mean `llama-2-7b`?"),
        (vec!["raw"], "not the predictions it makes of them"),
        (vec!["nowhere"], "this is no folder"),
        (vec!["empty"], "tables are missing: input_layernorm.csv, attn_pre_proj.csv,"),
    ] {
        let done = bench.aril(&[vec!["profile", "import-vidur"], arguments.clone()].concat());
        assert_eq!((done.code, done.err.contains(told)), (2, true), "{arguments:?}: {}", done.err);
    }
    let named = ["profile", "import-vidur", "mine", "--model", "llama-2-7b", "--gpu", "h100", "--out", "p.toml"];
    bench.ok(&named);
    let again = bench.aril(&named);
    assert_eq!((again.code, again.err.contains("replace it with --force")), (2, true), "{}", again.err);
}

#[test]
fn a_profile_is_doubted_within_its_ranges_alone() {
    let profile = folder().join("vidur-a100-80gb-llama-2-7b.toml");
    let checked = Bench::new().aril(&["profile", "check", profile.to_str().expect("a path")]);
    // Vidur's forests dip there, and its tables end at contexts of 4,096 tokens: what is beyond was never priced.
    let dip = "4 rows of 128 tokens takes 9808.5 us, less than 3 rows of 128 tokens with 9840.7 us\n";
    assert_eq!(
        (checked.code, checked.out.lines().count(), checked.out.ends_with(dip)),
        (1, 2, true),
        "{}",
        checked.out
    );
    let bench = Bench::new();
    tables(&bench, "llama2_7b_a100");
    bench.ok(&["profile", "import-vidur", "llama2_7b_a100"]);
    let small = bench.aril(&["profile", "check", "vidur-a100-80gb-llama-2-7b.toml"]);
    assert!(small.out.contains("tokens takes") && !small.out.contains("128 tokens after"), "{}", small.out);
}

/// First token and end of each request, in picoseconds.
fn times(path: &Path) -> Vec<(u64, u64)> {
    let frame = ParquetReader::new(std::fs::File::open(path).expect("the table is there")).finish().expect("a table");
    let column = |name: &str| -> Vec<u64> {
        frame.column(name).expect("the column").u64().expect("whole numbers").into_no_null_iter().collect()
    };
    let requests: Vec<u32> = frame.column("request").unwrap().u32().unwrap().into_no_null_iter().collect();
    let pairs = column("first_token_ps").into_iter().zip(column("end_ps"));
    let mut times = vec![(0, 0); requests.len()];
    requests.into_iter().zip(pairs).for_each(|(request, pair)| times[request as usize] = pair);
    times
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vidur")
}

#[test]
fn the_scenarios_of_vidurs_runs_end_when_vidur_says() {
    let bench = Bench::new();
    for (scenario, results) in [("chunked", "sarathi_r1_n1000_q4"), ("prefill-first", "vllm_r1_n1000_q4")] {
        let file = folder().join(format!("{scenario}.toml"));
        bench.ok(&["run", file.to_str().expect("a path"), "--out", scenario, "--quiet"]);
        let found = times(&bench.path(&format!("{scenario}/runs/{scenario}/seed-1/requests.parquet")));
        let text = std::fs::File::open(folder().join(format!("{results}_outputs.csv.gz"))).expect("the results");
        let frame = polars::prelude::CsvReader::new(text).finish().expect("a table");
        let column = |name: &str| -> Vec<f64> {
            frame.column(name).expect("the column").f64().expect("numbers").into_no_null_iter().collect()
        };
        let expected = column("first_token_at_s").into_iter().zip(column("completed_at_s"));
        assert_eq!(found.len(), frame.height());
        for (request, ((first, end), theirs)) in found.into_iter().zip(expected).enumerate() {
            let error = (first as f64 / 1e12 - theirs.0).abs().max((end as f64 / 1e12 - theirs.1).abs());
            assert!(error < 1e-6, "{scenario}, request {request}: {error} s");
        }
    }
}
