//! Everything that can be wrong with a scenario, typed in, and the message it gets.

use super::bench::{Bench, SMALL};

/// `aril check` refuses the scenario with exactly this message.
#[track_caller]
fn refused(bench: &Bench, message: &str) {
    let done = bench.aril(&["check", "s.toml"]);
    assert_eq!(done.err.trim_end(), message);
    assert_eq!((done.code, done.out.as_str()), (2, ""));
}

/// The same of the small scenario with one thing changed.
#[track_caller]
fn changed(from: &str, to: &str, message: &str) {
    refused(&Bench::changed(from, to), message);
}

#[test]
fn an_unknown_key_gets_the_nearest_one_and_its_line() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seq = 8"#,
        r#"error: unknown key `max_num_seq` in `engine.aril`
  --> s.toml:15:1
   |
15 | max_num_seq = 8
   | ^^^^^^^^^^^
  = help: did you mean `max_num_seqs`? known keys: `max_num_seqs`, `max_num_batched_tokens`, `max_model_len`, `block_size`, `gpu_memory_utilization`, `kv_cache`, `max_loras`, `max_lora_rank`, `max_cpu_loras`, `gpu_adapters`, `host_adapters`, `host_link`, `disk_link`, `lora_kernel`"#,
    );
}

#[test]
fn an_unknown_table_gets_the_nearest_one() {
    changed(
        r#"[slo.all]"#,
        r#"[slos.all]"#,
        r#"error: unknown key `slos`
  --> s.toml:21:2
   |
21 | [slos.all]
   |  ^^^^
  = help: did you mean `slo`? known keys: `name`, `description`, `seed`, `seeds`, `horizon`, `router`, `batcher`, `evictor`, `load_path`, `preemptor`, `migrator`, `scaler`, `model`, `traffic`, `engine`, `pool`, `signals`, `slo`, `policy`, `sweep`, `compare`, `expect`, `report`"#,
    );
}

#[test]
fn an_unknown_model_lists_the_known_ones() {
    changed(
        r#"llama-2-7b"#,
        r#"llama2-7b"#,
        r#"error: `model.name`: there is no model `llama2-7b`
 --> s.toml:4:8
  |
4 | name = "llama2-7b"
  |        ^^^^^^^^^^^
  = help: did you mean `llama-2-7b`? known models: `llama-2-7b`, `llama-2-13b`, `llama-2-70b`, `llama-3.1-8b`, `llama-3.1-70b`, `llama-3.2-1b`, `llama-3.2-3b`, `mistral-7b`, `qwen2.5-7b`, `qwen2.5-14b`, `qwen2.5-32b`, `qwen2.5-72b`"#,
    );
}

#[test]
fn a_number_without_a_unit_is_no_duration() {
    changed(
        r#"ttft = "1s""#,
        r#"ttft = 1"#,
        r#"error: `slo.all.ttft`: expected a duration with a unit, such as "250ms", found the number 1
  --> s.toml:22:8
   |
22 | ttft = 1
   |        ^"#,
    );
}

#[test]
fn a_unit_that_does_not_exist_lists_those_that_do() {
    changed(
        r#"ttft = "1s""#,
        r#"ttft = "1 sec""#,
        r#"error: `slo.all.ttft`: `1 sec` is not a duration: write a number and a unit, such as "250ms", "1.5s" or "1h30m" (units: d, h, m, s, ms, us, ns, ps)
  --> s.toml:22:8
   |
22 | ttft = "1 sec"
   |        ^^^^^^^"#,
    );
}

#[test]
fn an_unknown_router_lists_the_registered_ones() {
    changed(
        r#"router = "least-loaded""#,
        r#"router = "least-load""#,
        r#"error: `router`: there is no router `least-load`
  --> s.toml:26:21
   |
26 | spread = { router = "least-load" }
   |                     ^^^^^^^^^^^^
  = help: did you mean `least-loaded`? registered: `round-robin`, `random`, `least-loaded`, `power-of-two`, `affinity-hard`, `affinity-soft`, `scorers`, `dedicated`, `punica-paper`, `punica-artifact`"#,
    );
}

#[test]
fn an_unknown_preset_lists_the_registered_ones() {
    changed(
        r#"preset = "punica-paper""#,
        r#"preset = "punica""#,
        r#"error: `policy.punica.preset`: there is no preset `punica`
  --> s.toml:27:21
   |
27 | punica = { preset = "punica" }
   |                     ^^^^^^^^
  = help: did you mean `punica-paper`? registered: `punica-paper`, `punica-artifact`, `punica-consolidate`, `vllm`, `vllm-v0`, `sglang`, `dedicated`"#,
    );
}

#[test]
fn an_unknown_key_of_a_policy_lists_what_it_may_set() {
    changed(
        r#"preset = "punica-paper""#,
        r#"preset = "punica-paper", bather = "chunked""#,
        r#"error: unknown key `bather` in `policy.punica`
  --> s.toml:27:37
   |
27 | punica = { preset = "punica-paper", bather = "chunked" }
   |                                     ^^^^^^
  = help: did you mean `batcher`? a policy may set: `preset`, `profile`, `router`, `batcher`, `evictor`, `load_path`, `preemptor`, `migrator`, `scaler`, `gc_every`, `faults`, `max_num_seqs`, `max_num_batched_tokens`, `max_model_len`, `block_size`, `gpu_memory_utilization`, `kv_cache`, `max_loras`, `max_lora_rank`, `max_cpu_loras`, `gpu_adapters`, `host_adapters`, `host_link`, `disk_link`, `lora_kernel`"#,
    );
}

#[test]
fn an_unknown_tunable_lists_those_of_its_policy() {
    changed(
        r#"router = "least-loaded""#,
        r#"router = { least-loaded = { buy = "kv" } }"#,
        r#"error: unknown key `buy` in `router.least-loaded`
  --> s.toml:26:40
   |
26 | spread = { router = { least-loaded = { buy = "kv" } } }
   |                                        ^^^
  = help: did you mean `by`? known keys: `by`"#,
    );
}

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
fn fewer_slots_than_adapters_in_a_step_are_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
max_loras = 4
gpu_adapters = { slots = 2 }"#,
        r#"error: `engine.aril.gpu_adapters`: 2 slots are too few for 4 adapters in a step (`max_loras`)
  --> s.toml:17:1
   |
17 | gpu_adapters = { slots = 2 }
   | ^^^^^^^^^^^^
  = help: raise the slots, or lower `max_loras`"#,
    );
}

#[test]
fn a_rank_above_the_largest_of_a_slot_is_refused() {
    changed(
        r#"ranks = { 16 = 1.0 }"#,
        r#"ranks = { 128 = 1.0 }"#,
        r#"error: `engine.aril.max_lora_rank`: adapter `adapter-0` has rank 128, and slots hold ranks up to 64
  --> s.toml:14:9
   |
14 | [engine.aril]
   |         ^^^^
  = help: set `engine.aril.max_lora_rank = 128`, or offer smaller ranks"#,
    );
}

#[test]
fn an_adapter_larger_than_its_pool_is_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
gpu_adapters = { bytes = "10MB" }"#,
        r#"error: `engine.aril.gpu_adapters`: adapter `adapter-0` of rank 16 takes 79953920 bytes, and the adapter memory has 10000000
  --> s.toml:16:1
   |
16 | gpu_adapters = { bytes = "10MB" }
   | ^^^^^^^^^^^^
  = help: give it more bytes"#,
    );
}

#[test]
fn an_adapter_larger_than_the_host_is_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
host_adapters = { bytes = "10MB" }"#,
        r#"error: `engine.aril.host_adapters`: adapter `adapter-0` of rank 16 takes 79953920 bytes, and the host has 10000000
  --> s.toml:16:1
   |
16 | host_adapters = { bytes = "10MB" }
   | ^^^^^^^^^^^^^
  = help: give it more bytes"#,
    );
}

#[test]
fn bytes_have_a_unit() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
gpu_adapters = { bytes = 10 }"#,
        r#"error: `engine.aril.gpu_adapters.bytes`: expected bytes with a unit, such as "4GiB", found the number 10
  --> s.toml:16:26
   |
16 | gpu_adapters = { bytes = 10 }
   |                          ^^"#,
    );
}

#[test]
fn an_unknown_profile_lists_the_known_ones() {
    changed(
        r#"punica-a100-80gb""#,
        r#"punica-a100-80g""#,
        r#"error: `pool.a100-80gb.profile`: there is no profile `punica-a100-80g`
  --> s.toml:19:11
   |
19 | profile = "punica-a100-80g"
   |           ^^^^^^^^^^^^^^^^^
  = help: did you mean `punica-a100-80gb`? known profiles: `punica-a100-80gb`, `punica-a100-80gb-vllm`, `punica-a100-80gb-fastertransformer`, `punica-a100-80gb-deepspeed`, `punica-a100-80gb-hf`, `punica-a100-40gb`, `derived-a100-40gb`, `derived-a100-80gb`, `derived-h100`, `derived-h200`, `derived-l40s`, `derived-l4`, `derived-a10g`"#,
    );
}

#[test]
fn a_profile_of_another_gpu_is_refused() {
    changed(
        r#"[pool.a100-80gb]"#,
        r#"[pool.h100]"#,
        r#"error: `pool.h100.profile`: this profile is for a100-80gb, and the pool's GPU is h100
  --> s.toml:19:11
   |
19 | profile = "punica-a100-80gb"
   |           ^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_profile_of_another_model_is_refused() {
    changed(
        r#"name = "llama-2-7b""#,
        r#"name = "mistral-7b""#,
        r#"error: `pool.a100-80gb.profile`: profile `punica-a100-80gb` is not there for mistral-7b (Bf16 weights, Bf16 KV) on 1 GPU(s); it is there for: llama-2-7b on 1, llama-2-13b on 1
  --> s.toml:19:11
   |
19 | profile = "punica-a100-80gb"
   |           ^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_pool_called_after_no_gpu_lists_the_known_ones() {
    changed(
        r#"[pool.a100-80gb]
replicas = 2
profile = "punica-a100-80gb""#,
        r#"[pool.a100]
replicas = 2"#,
        r#"error: `pool.a100`: there is no GPU `a100`
  --> s.toml:17:7
   |
17 | [pool.a100]
   |       ^^^^
  = help: call the pool after its GPU, or set `gpu`; did you mean `a10g`? known GPUs: `a100-40gb`, `a100-80gb`, `h100`, `h200`, `l40s`, `l4`, `a10g`"#,
    );
}

#[test]
fn a_kernel_without_figures_lists_those_that_have_some() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
lora_kernel = "segmented""#,
        r#"error: `engine.aril.lora_kernel`: profile `punica-a100-80gb-llama-2-7b` has no figures for the kernel `segmented`
  --> s.toml:16:15
   |
16 | lora_kernel = "segmented"
   |               ^^^^^^^^^^^
  = help: it has: `none`, `merged`, `loop`, `gather-bmm`, `bgmv`, `padded`, `sgmv`"#,
    );
}

#[test]
fn prefix_caching_is_refused_because_it_is_not_built() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
enable_prefix_caching = true"#,
        r#"error: `engine.aril.enable_prefix_caching`: this is not built
  --> s.toml:16:1
   |
16 | enable_prefix_caching = true
   | ^^^^^^^^^^^^^^^^^^^^^
  = help: prefix caching is not modelled: leave it out, and expect TTFT to be pessimistic where prompts share prefixes"#,
    );
}

#[test]
fn a_plan_is_refused_because_it_is_not_built() {
    changed(
        r#"[slo.all]"#,
        r#"[plan]
minimize = "usd_per_hour"

[slo.all]"#,
        r#"error: `plan`: this is not built
  --> s.toml:21:2
   |
21 | [plan]
   |  ^^^^
  = help: capacity planning is not built; sweep `pool.NAME.replicas` with [sweep] and read off where the SLOs hold"#,
    );
}

#[test]
fn an_oracle_is_refused_because_it_is_not_built() {
    changed(
        r#"router = "least-loaded""#,
        r#"router = "least-loaded", oracle = ["output_length"]"#,
        r#"error: `policy.spread.oracle`: this is not built
  --> s.toml:26:37
   |
26 | spread = { router = "least-loaded", oracle = ["output_length"] }
   |                                     ^^^^^^
  = help: oracle policies are not built; compare with `popularity = "identical"` or unbounded memory as a bound"#,
    );
}

#[test]
fn retries_are_refused_because_they_are_not_built() {
    changed(
        r#"requests = 60"#,
        r#"requests = 60
client = { timeout = "60s", retries = 2 }"#,
        r#"error: `traffic.client.retries`: clients that try again are not modelled
 --> s.toml:9:39
  |
9 | client = { timeout = "60s", retries = 2 }
  |                                       ^
  = help: leave out `retries` and `backoff`; a timeout is modelled"#,
    );
}

#[test]
fn what_is_not_toml_is_told_with_its_place() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = = 8"#,
        r#"error: this is not TOML: extra `=`, expected nothing
  --> s.toml:15:16
   |
15 | max_num_seqs = = 8
   |                ^"#,
    );
}

#[test]
fn a_key_that_is_there_twice_is_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
max_num_seqs = 9"#,
        r#"error: this is not TOML: duplicate key
  --> s.toml:16:1
   |
16 | max_num_seqs = 9
   | ^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_negative_number_of_replicas_is_refused() {
    changed(
        r#"replicas = 2"#,
        r#"replicas = -2"#,
        r#"error: `pool.a100-80gb.replicas`: expected a whole number from 0 to 4294967295, found the number -2
  --> s.toml:18:12
   |
18 | replicas = -2
   |            ^^"#,
    );
}

#[test]
fn no_replicas_are_refused() {
    changed(
        r#"replicas = 2"#,
        r#"replicas = 0"#,
        r#"error: `pool.a100-80gb.replicas`: 0 replicas: between 1 and 1000000
  --> s.toml:18:12
   |
18 | replicas = 0
   |            ^"#,
    );
}

#[test]
fn a_number_beyond_the_integers_of_toml_is_refused() {
    changed(
        r#"replicas = 2"#,
        r#"replicas = 99999999999999999999"#,
        r#"error: the number 99999999999999999999 is too large
  --> s.toml:18:12
   |
18 | replicas = 99999999999999999999
   |            ^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_missing_table_is_named() {
    changed(
        r#"[engine.aril]
max_num_seqs = 8
"#,
        r#""#,
        r#"error: the key `engine` is missing
 --> s.toml"#,
    );
}

#[test]
fn two_engines_are_refused() {
    changed(
        r#"[engine.aril]"#,
        r#"[engine.vllm]
[engine.aril]"#,
        r#"error: `engine`: 2 keys where one choice is wanted
  --> s.toml:14:2
   |
14 | [engine.vllm]
   |  ^^^^^^
  = help: one of `vllm`, `aril`, as a text or as the one key of a table"#,
    );
}

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
fn an_unknown_law_lists_the_known_ones() {
    changed(
        r#"zipf = { s"#,
        r#"zip = { s"#,
        r#"error: `traffic.popularity.zip`: `zip` is not a choice here
  --> s.toml:11:16
   |
11 | popularity = { zip = { s = 0.9, adapters = 8 } }
   |                ^^^
  = help: did you mean `zipf`? choices: `trace`, `base`, `tenant`, `distinct`, `identical`, `uniform-sqrt`, `geometric`, `geometric-1.5`, `uniform`, `zipf`, `power`, `working-set`"#,
    );
}

#[test]
fn a_number_that_is_none_is_refused() {
    changed(
        r#"rate = 4.0"#,
        r#"rate = nan"#,
        r#"error: nan is not a finite number
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
fn an_unknown_baseline_lists_the_policies() {
    changed(
        r#"[policy]"#,
        r#"[compare]
baseline = "punika"

[policy]"#,
        r#"error: `compare.baseline`: there is no policy `punika`
  --> s.toml:26:12
   |
26 | baseline = "punika"
   |            ^^^^^^^^
  = help: did you mean `punica`? policies of this scenario: `spread`, `punica`"#,
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
fn an_unknown_trace_lists_the_shipped_ones() {
    changed(
        r#"requests = 60"#,
        r#"trace = "azure-llm-2023-con""#,
        r#"error: `traffic.trace`: there is no such file and no shipped trace `azure-llm-2023-con`
 --> s.toml:8:9
  |
8 | trace = "azure-llm-2023-con"
  |         ^^^^^^^^^^^^^^^^^^^^
  = help: did you mean `azure-llm-2023-conv`? shipped are: `azure-llm-2023-conv`, `azure-llm-2023-code`, `punica-textgen-1024`, `mooncake-conversation-5min`, `ragpulse-day`, `vidur-arxiv-lengths`, `servegen-m-small-4h`"#,
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
fn fewer_tokens_in_a_step_than_sequences_are_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
max_num_batched_tokens = 4"#,
        r#"error: `engine.aril.max_num_batched_tokens`: 4 tokens a step are too few for 8 sequences that decode one token each
  --> s.toml:16:26
   |
16 | max_num_batched_tokens = 4
   |                          ^
  = help: raise it, or lower `max_num_seqs`"#,
    );
}

#[test]
fn more_kv_blocks_than_fit_are_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
kv_cache = { blocks = 10000000 }"#,
        r#"error: `engine.aril.kv_cache`: 10000000 KV blocks: between 1 and the 7131 that fit beside weights and adapters
  --> s.toml:16:1
   |
16 | kv_cache = { blocks = 10000000 }
   | ^^^^^^^^"#,
    );
}

#[test]
fn a_share_above_one_is_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
gpu_memory_utilization = 90"#,
        r#"error: `engine.aril.gpu_memory_utilization`: 90 is no share of the memory: above 0, at most 1
  --> s.toml:16:26
   |
16 | gpu_memory_utilization = 90
   |                          ^^"#,
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
fn faults_are_refused_on_a_batcher_that_has_none() {
    changed(
        r#"router = "least-loaded""#,
        r#"batcher = "chunked", faults = ["single-segment-decode"]"#,
        r#"error: unknown key `faults` in `batcher.chunked`
  --> s.toml:26:33
   |
26 | spread = { batcher = "chunked", faults = ["single-segment-decode"] }
   |                                 ^^^^^^
  = help: known keys: `long_prefill_token_threshold`, `when_adapters_full`"#,
    );
}

#[test]
fn gpus_that_cannot_share_a_model_evenly_are_refused() {
    changed(
        r#"replicas = 2"#,
        r#"replicas = 2
tensor_parallel = 3"#,
        r#"error: `pool.a100-80gb.tensor_parallel`: llama-2-7b has 32 query heads, which 3 GPUs cannot share evenly
  --> s.toml:19:19
   |
19 | tensor_parallel = 3
   |                   ^"#,
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
fn a_key_with_markup_and_control_characters_is_shown_harmlessly() {
    changed(
        r#"max_num_seqs = 8"#,
        r#""<b>max\u001b[31m" = 8"#,
        r#"error: unknown key `<b>max�[31m` in `engine.aril`
  --> s.toml:15:1
   |
15 | "<b>max\u001b[31m" = 8
   | ^^^^^^^^^^^^^^^^^^
  = help: known keys: `max_num_seqs`, `max_num_batched_tokens`, `max_model_len`, `block_size`, `gpu_memory_utilization`, `kv_cache`, `max_loras`, `max_lora_rank`, `max_cpu_loras`, `gpu_adapters`, `host_adapters`, `host_link`, `disk_link`, `lora_kernel`"#,
    );
}

#[test]
fn a_model_that_does_not_fit_its_gpu_is_told_in_bytes() {
    let bench = Bench::with(
        &SMALL
            .replace("llama-2-7b", "llama-2-13b")
            .replace("[pool.a100-80gb]", "[pool.l4]")
            .replace("profile = \"punica-a100-80gb\"\n", ""),
    );
    refused(
        &bench,
        r#"error: `pool.l4.replicas`: llama-2-13b on 1 × l4: the model does not fit: each GPU offers 23.65 GB (1 of 23.65 GB of them), but the weights need 26.03 GB, a forward pass 0.4 MB, the adapters nothing: 2.38 GB too much; use more GPUs a replica, fewer or smaller adapter slots, or 8-bit weights
  --> s.toml:18:12
   |
18 | replicas = 2
   |            ^"#,
    );
}

#[test]
fn a_file_that_is_not_there_gets_the_nearest_one() {
    let bench = Bench::with(SMALL);
    let done = bench.aril(&["run", "t.toml"]);
    assert_eq!(
        (done.code, done.err.as_str()),
        (2, "error: t.toml: there is no such file\n  = help: did you mean ./s.toml?\n")
    );
}

#[test]
fn a_folder_is_no_scenario() {
    let bench = Bench::new();
    bench.write("folder/a.toml", "");
    let done = bench.aril(&["run", "folder"]);
    let message = "error: folder: this is a folder, not a scenario\n  = help: name one of its files: a.toml\n";
    assert_eq!((done.code, done.err.as_str()), (2, message));
}

#[test]
fn what_is_not_text_is_no_scenario() {
    for (bytes, problem) in [
        (
            &b"name = \"x\"\nseed = \xff\xfe"[..],
            "line 2: this is not text in UTF-8 (byte 18 of the file)\n  = help: save it as UTF-8",
        ),
        (&b"PAR1\0\0\0"[..], "this is not text: it contains zero bytes"),
    ] {
        let bench = Bench::new();
        bench.write("s.toml", bytes);
        refused(&bench, &format!("error: s.toml: {problem}"));
    }
}

#[test]
fn an_empty_file_is_no_scenario() {
    refused(&Bench::with(""), "error: the key `name` is missing\n --> s.toml");
}

#[test]
fn a_byte_order_mark_and_carriage_returns_do_no_harm() {
    let bench = Bench::with(&format!("\u{feff}{}", SMALL.replace('\n', "\r\n")));
    bench.ok(&["check", "s.toml"]);
}

#[test]
fn a_wrong_set_is_told_with_the_argument() {
    let bench = Bench::with(SMALL);
    for (argument, message) in [
        (
            "engine.aril.max_num_seqs",
            "error: `--set engine.aril.max_num_seqs` has no `=`\n  = help: write --set path=value, such as --set engine.vllm.max_loras=16\n",
        ),
        (
            "pool.a100-80gb.replicas=two",
            "error: `pool.a100-80gb.replicas`: expected a whole number from 0 to 4294967295, found the text \"two\"\n --> --set \"pool.a100-80gb.replicas=two\":1:25\n  |\n1 | pool.a100-80gb.replicas=two\n  |                         ^^^\n",
        ),
    ] {
        let done = bench.aril(&["check", "s.toml", "--set", argument]);
        assert_eq!((done.code, done.err.as_str()), (2, message));
    }
    let done = bench.aril(&["check", "s.toml", "--policy", "punika"]);
    let message = "error: --policy punika: the scenario has no such policy\n  = help: did you mean `punica`? its policies: `spread`, `punica`\n";
    assert_eq!((done.code, done.err.as_str()), (2, message));
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
        assert!(bench.files("runs").is_empty(), "nothing is left behind");
    }
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
