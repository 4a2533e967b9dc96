//! Engines, pools and models that do not go together.

use super::{changed, refused};
use crate::integration::bench::{Bench, SMALL};

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
fn steps_without_adapters_are_told_where_they_were_asked_for() {
    changed(
        "max_num_seqs = 8",
        "max_num_seqs = 8\nmax_loras = 0",
        r#"error: `engine.aril.max_loras`: `adapter-0` and others want an adapter, and steps take none (`max_loras` is 0)
  --> s.toml:16:13
   |
16 | max_loras = 0
   |             ^
  = help: raise it, or offer requests without adapters: `popularity = "base"`"#,
    );
}

#[test]
fn slots_that_the_host_has_no_adapters_for_are_told_at_what_says_how_many_the_host_has() {
    let text = SMALL.replacen("[engine.aril]\nmax_num_seqs = 8", "[engine.vllm]\nmax_loras = 16", 1).replacen(
        "punica-paper",
        "punica-artifact",
        1,
    );
    refused(
        &Bench::with(&text),
        r#"error: `engine.vllm.max_loras`: 16 adapters in the host are too few for 38 slots on the GPU
  --> s.toml:15:13
   |
15 | max_loras = 16
   |             ^^
  = help: set `max_cpu_loras` to 38 or more, or `gpu_adapters` to fewer slots"#,
    );
}

#[test]
fn a_link_that_takes_days_to_begin_is_refused() {
    changed(
        r#"max_num_seqs = 8"#,
        r#"max_num_seqs = 8
host_link = { figures = { latency = "2d", gigabytes_per_second = 20.0 } }"#,
        r#"error: `engine.aril.host_link`: no link takes 2d to begin: at most 1h
  --> s.toml:16:1
   |
16 | host_link = { figures = { latency = "2d", gigabytes_per_second = 20.0 } }
   | ^^^^^^^^^"#,
    );
}
