//! Names that nobody knows: the nearest one that somebody does.

use super::changed;
use crate::integration::bench::Bench;

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
  = help: did you mean `slo`? known keys: `name`, `description`, `seed`, `seeds`, `horizon`, `jitter`, `router`, `batcher`, `evictor`, `load_path`, `preemptor`, `migrator`, `scaler`, `model`, `traffic`, `engine`, `pool`, `signals`, `slo`, `policy`, `sweep`, `compare`, `expect`, `report`"#,
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
  = help: did you mean `punica-paper`? registered: `punica-paper`, `punica-artifact`, `punica-consolidate`, `vllm`, `vllm-v0`, `sglang`, `s-lora`, `dedicated`"#,
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
fn an_unknown_profile_lists_the_known_ones() {
    changed(
        r#"punica-a100-80gb""#,
        r#"punica-a100-80g""#,
        r#"error: `pool.a100-80gb.profile`: there is no profile `punica-a100-80g`
  --> s.toml:19:11
   |
19 | profile = "punica-a100-80g"
   |           ^^^^^^^^^^^^^^^^^
  = help: did you mean `punica-a100-80gb`? known profiles: `measured-h200`, `measured-h100`, `punica-a100-80gb`, `punica-a100-80gb-vllm`, `punica-a100-80gb-fastertransformer`, `punica-a100-80gb-deepspeed`, `punica-a100-80gb-hf`, `punica-a100-40gb`, `derived-a100-40gb`, `derived-a100-80gb`, `derived-h100`, `derived-h200`, `derived-l40s`, `derived-l4`, `derived-a10g`"#,
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
fn a_name_with_a_control_character_is_refused() {
    for (from, to) in [
        ("name = \"small\"", "name = \"sm\\u0000all\""),
        ("spread = {", "\"spr\\u0007ead\" = {"),
        ("[slo.all]", "[slo.\"a\\tll\"]"),
    ] {
        let done = Bench::changed(from, to).aril(&["check", "s.toml"]);
        assert_eq!(done.code, 2, "{to}: {}", done.err);
        assert!(done.err.contains("has a control character in it"), "{to}: {}", done.err);
    }
}
