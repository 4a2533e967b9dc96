//! What may well be wished for and is not built is refused by name.

use super::changed;

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
fn a_scorer_of_prefixes_is_refused_because_it_is_not_built() {
    changed(
        r#"router = "least-loaded""#,
        r#"router.scorers = { prefix = 2, queue = 1 }"#,
        r#"error: `policy.spread.router.scorers.prefix`: this is not built
  --> s.toml:26:31
   |
26 | spread = { router.scorers = { prefix = 2, queue = 1 } }
   |                               ^^^^^^
  = help: a scorer of shared prefixes is not built, since prefix caching is not modelled: leave it out"#,
    );
}

#[test]
fn a_preset_that_the_field_knows_is_refused_because_it_is_not_built() {
    changed(
        r#"preset = "punica-paper""#,
        r#"preset = "Chameleon""#,
        r#"error: `policy.punica.preset`: the preset `chameleon` is known and not built
  --> s.toml:27:21
   |
27 | punica = { preset = "Chameleon" }
   |                     ^^^^^^^^^^^
  = help: Chameleon caches adapters in whatever memory KV leaves free and queues by predicted size; neither is built. Its rule of eviction is: { evictor = "size-aware" }"#,
    );
}
