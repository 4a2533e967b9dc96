//! Sweeps, classes, seeds and published tables.

use super::changed;
use crate::integration::bench::{Bench, SMALL};

#[test]
fn a_swept_path_that_does_not_exist_is_told_at_the_sweep() {
    changed(
        r#"[policy]"#,
        r#"[sweep]
"engine.aril.max_num_seq" = [1,2]

[policy]"#,
        r#"error: unknown key `max_num_seq` in `engine.aril`
  --> s.toml:26:1
   |
26 | "engine.aril.max_num_seq" = [1,2]
   | ^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: did you mean `max_num_seqs`? known keys: `max_num_seqs`, `max_num_batched_tokens`, `max_model_len`, `block_size`, `gpu_memory_utilization`, `kv_cache`, `max_loras`, `max_lora_rank`, `max_cpu_loras`, `gpu_adapters`, `host_adapters`, `host_link`, `disk_link`, `lora_kernel`"#,
    );
}

#[test]
fn a_swept_value_of_the_wrong_kind_is_told_at_the_value() {
    changed(
        r#"[policy]"#,
        r#"[sweep]
"engine.aril.max_num_seqs" = [1,"2"]

[policy]"#,
        r#"error: `engine.aril.max_num_seqs`: expected a whole number from 0 to 4294967295, found the text "2"
  --> s.toml:26:33
   |
26 | "engine.aril.max_num_seqs" = [1,"2"]
   |                                 ^^^"#,
    );
}

#[test]
fn a_sweep_without_values_is_refused() {
    changed(
        r#"[policy]"#,
        r#"[sweep]
"engine.aril.max_num_seqs" = []

[policy]"#,
        r#"error: `sweep."engine.aril.max_num_seqs"`: the list is empty: give at least one value
  --> s.toml:26:30
   |
26 | "engine.aril.max_num_seqs" = []
   |                              ^^"#,
    );
}

#[test]
fn equal_ratios_from_zero_are_refused() {
    changed(
        r#"[policy]"#,
        r#"[sweep]
"engine.aril.max_num_seqs" = { from = 0, to = 8, points = 3, spacing = "log" }

[policy]"#,
        r#"error: `sweep."engine.aril.max_num_seqs"`: steps of equal ratio from 0 to 8: both must be above 0
  --> s.toml:26:30
   |
26 | "engine.aril.max_num_seqs" = { from = 0, to = 8, points = 3, spacing = "log" }
   |                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_published_table_that_is_not_there_is_told_at_its_key() {
    changed(
        r#"[policy]"#,
        r#"[expect]
table = "no.csv"
tolerance = "10%"

[policy]"#,
        r#"error: `expect.table`: no.csv: there is no such file
  --> s.toml:26:9
   |
26 | table = "no.csv"
   |         ^^^^^^^^
  = help: paths are relative to the scenario file"#,
    );
}

#[test]
fn a_tolerance_is_written_in_percent() {
    changed(
        r#"[policy]"#,
        r#"[expect]
table = "no.csv"
tolerance = 0.1

[policy]"#,
        r#"error: `expect.tolerance`: expected a text in quotes, found the number 0.1
  --> s.toml:27:13
   |
27 | tolerance = 0.1
   |             ^^^"#,
    );
}

#[test]
fn two_classes_for_everybody_are_refused() {
    changed(
        r#"[policy]"#,
        r#"[slo.gold]
ttft="1s"

[policy]"#,
        r#"error: `slo.gold.tenants`: both `all` and `gold` are for all other tenants
  --> s.toml:25:6
   |
25 | [slo.gold]
   |      ^^^^
  = help: give one of them `tenants = "FILE"`"#,
    );
}

#[test]
fn no_seeds_are_refused() {
    changed(
        r#"name = "small""#,
        r#"name = "small"
seeds = 0"#,
        r#"error: `seeds`: 0 is no number of seeds: between 1 and 10000
 --> s.toml:2:9
  |
2 | seeds = 0
  |         ^"#,
    );
}

#[test]
fn a_value_that_is_swept_twice_is_refused() {
    changed(
        "[policy]",
        "[sweep]\n\"engine.aril.max_num_seqs\" = [4, 4]\n\n[policy]",
        r#"error: `sweep."engine.aril.max_num_seqs"`: the value 4 is there twice: its runs would be the same
  --> s.toml:26:34
   |
26 | "engine.aril.max_num_seqs" = [4, 4]
   |                                  ^"#,
    );
}

#[test]
fn adapters_that_do_not_fit_at_one_point_are_told_at_its_value() {
    let bench = Bench::with(
        &(SMALL.replace("[engine.aril]\nmax_num_seqs = 8", "[engine.vllm]\nmax_loras = 4")
            + "\n[sweep]\n\"engine.vllm.max_loras\" = [4, 999999]\n"),
    );
    let done = bench.aril(&["check", "s.toml"]);
    assert_eq!(done.code, 2);
    assert!(
        done.err.starts_with("error: `engine.vllm.max_loras`: llama-2-7b on 1 × a100-80gb: the model does not fit"),
        "{}",
        done.err
    );
    assert!(
        done.err.contains("| \"engine.vllm.max_loras\" = [4, 999999]\n   |                               ^^^^^^\n"),
        "{}",
        done.err
    );
}
