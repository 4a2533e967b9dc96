//! What a scenario may well wish for and what is not built: refused by name, so that nobody believes it was done.

use crate::node::{Entry, Node};
use crate::wrong::Wrong;

const NO_PREFIX_SCORER: &str =
    "a scorer of shared prefixes is not built, since prefix caching is not modelled: leave it out";

/// A path of keys, `*` for any, and why it is refused.
const NOT_BUILT: [(&[&str], &str); 11] = [
    (
        &["plan"],
        "capacity planning is not built; sweep `pool.NAME.replicas` with [sweep] and read off where the SLOs hold",
    ),
    (&["compare", "tune"], "tuning is not built; sweep the tunables with [sweep]"),
    (
        &["compare", "test"],
        "the choice of a test is not built; the report gives paired differences with 95 % intervals",
    ),
    (
        &["policy", "*", "oracle"],
        "oracle policies are not built; compare with `popularity = \"identical\"` or unbounded memory as a bound",
    ),
    (&["oracle"], "oracle policies are not built"),
    (
        &["engine", "*", "enable_prefix_caching"],
        "prefix caching is not modelled: leave it out, and expect TTFT to be pessimistic where prompts share prefixes",
    ),
    (
        &["engine", "*", "version"],
        "defaults by engine version are not built; those of vLLM V1 0.10 apply, and `aril check` prints them",
    ),
    (
        &["engine", "*", "fully_sharded_loras"],
        "fully sharded adapters are not modelled: adapters are split as vLLM does by default",
    ),
    (&["router", "scorers", "prefix"], NO_PREFIX_SCORER),
    (&["policy", "*", "router", "scorers", "prefix"], NO_PREFIX_SCORER),
    (&["engine", "*", "speculative_config"], "speculative decoding is not modelled"),
];

/// Refuses what is not built.
pub(crate) fn check(root: &Node) -> Result<(), Wrong> {
    NOT_BUILT.iter().try_for_each(|(path, reason)| match find(root, path) {
        Some(found) => {
            let keys: Vec<&str> = found.iter().map(|entry| entry.key.as_str()).collect();
            let last = found.last().expect("a path has keys");
            Err(Wrong::at(&keys.join("."), "this is not built").help(*reason).from_origin(&last.origin))
        }
        None => Ok(()),
    })
}

/// The entries along the first path that matches.
fn find<'a>(node: &'a Node, path: &[&str]) -> Option<Vec<&'a Entry>> {
    let (key, rest) = path.split_first()?;
    node.entries().iter().filter(|entry| *key == "*" || entry.key == *key).find_map(|entry| {
        if rest.is_empty() {
            return Some(vec![entry]);
        }
        let mut found = find(&entry.node, rest)?;
        found.insert(0, entry);
        Some(found)
    })
}

/// Systems of the field whose bundle of policies somebody may well name, and what stands in the way.
const PRESETS_NOT_BUILT: [(&str, &str); 5] = [
    (
        "chameleon",
        "Chameleon caches adapters in whatever memory KV leaves free and queues by predicted size; neither is built. Its rule \
         of eviction is: { evictor = \"size-aware\" }",
    ),
    ("dlora", "merged execution and dLoRA's switching by credits are not built"),
    ("toppings", "adapters computed on the CPU while they load, and rank-aware routing, are not built"),
    ("elora", "the dependency tree of adapters and KV prefixes is not built: prefix caching is not modelled"),
    ("lorax", "turns of active adapters by LoRAX's clock are not built. Nearest: { batcher = \"regroup-by-adapter\" }"),
];

/// Why a preset that the field knows cannot be had; none of a name that nobody knows.
pub(crate) fn preset(name: &str) -> Option<Wrong> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    let (known, reason) = PRESETS_NOT_BUILT.iter().find(|(known, _)| plain(known) == plain(name))?;
    Some(Wrong::new(format!("the preset `{known}` is known and not built")).help(*reason))
}
