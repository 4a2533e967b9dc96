//! What a plan resolved, written into its scenario: every default, but nothing that follows from a swept value.
//!
//! A default that depends on what is swept (slots on `max_loras`, a GPU on its profile) is another one at each point. Written
//! beside the sweep it would hold at all of them, so it stays as it stands in the file: mostly, left out.

use crate::node::Entry;
use crate::plan::{Plan, SOLE_POLICY};
use crate::scenario::{BATCHER_KEYS, Choice, ENGINE_KEYS, Engine, EngineSettings, Ordered, Overlay, Pool, Scenario};
use crate::setup::{NONE, Setup};

/// Writes into the scenario of a plan what its variants resolved; `engines` is the base's at each point, `overlays` what the file
/// says of each policy.
pub(super) fn write_out(plan: &mut Plan, engines: &[Engine], overlays: &[Option<&Entry>]) {
    let file = plan.scenario.clone();
    let engine = base_engine(plan, &file.engine, engines);
    let pool = pools(plan, &file.pool);
    let choices: Vec<_> = file.choices().iter().map(|(key, _)| (*key, is_swept(plan, key))).collect();
    let swept = |key: &str| choices.iter().any(|(kind, swept)| *kind == key && *swept);
    if plan.policies == [SOLE_POLICY] && file.policy.is_empty() {
        plan.scenario.adopt(&plan.variants[0].setup.scenario);
    } else {
        plan.scenario.clear_choices();
        let written: Vec<_> = (0..plan.policies.len())
            .map(|policy| {
                (plan.policies[policy].clone(), overlay(plan, policy, (&engine, &pool), overlays[policy], &swept))
            })
            .collect();
        plan.scenario.policy.0 = written;
    }
    for (key, _) in choices.iter().filter(|(_, swept)| *swept) {
        plan.scenario.set_choice(key, choice(&file, key).cloned());
    }
    plan.scenario.engine = engine;
    plan.scenario.pool = pool;
}

fn choice<'a>(scenario: &'a Scenario, key: &str) -> Option<&'a Choice> {
    scenario.choices().into_iter().find(|(kind, _)| *kind == key).and_then(|(_, choice)| choice)
}

/// Is what a function sees the same at every point under a policy?
fn constant<T: PartialEq>(plan: &Plan, policy: usize, what: impl Fn(&Setup) -> T) -> bool {
    let first = what(&plan.variant(0, policy).setup);
    (1..plan.points.len()).all(|point| what(&plan.variant(point, policy).setup) == first)
}

/// Does the sweep reach this kind of policy, under any of them?
fn is_swept(plan: &Plan, key: &str) -> bool {
    (0..plan.policies.len()).any(|policy| !constant(plan, policy, |setup| choice(&setup.scenario, key).cloned()))
}

fn table(engine: &Engine) -> toml::Table {
    toml::Table::try_from(engine.settings()).unwrap_or_default()
}

/// The engine that all policies share, its defaults written out as far as they are the same at every point.
fn base_engine(plan: &Plan, file: &Engine, engines: &[Engine]) -> Engine {
    let first = plan.variants[0].setup.base_engine(file);
    let (mut resolved, file_table) = (table(&first), table(file));
    let points: Vec<toml::Table> = engines.iter().map(|engine| table(&engine.resolved())).collect();
    let context = plan.variants[0].setup.max_model_len;
    for key in ENGINE_KEYS {
        let same = match key {
            "max_model_len" => plan.variants.iter().all(|variant| variant.setup.max_model_len == context),
            // It is written as the `host_adapters` that it means.
            "max_cpu_loras" => points.iter().all(|point| point.get("host_adapters") == points[0].get("host_adapters")),
            key => points.iter().all(|point| point.get(key) == points[0].get(key)),
        };
        if same {
            continue;
        }
        resolved.remove(key);
        if let Some(value) = file_table.get(key) {
            resolved.insert(key.to_owned(), value.clone());
        }
    }
    let Ok(settings) = toml::Value::Table(resolved).try_into::<EngineSettings>() else { return first };
    match first {
        Engine::Vllm(_) => Engine::Vllm(settings),
        Engine::Aril(_) => Engine::Aril(settings),
    }
}

/// The pools, with the GPU, the profile and the number of replicas at the start where these are the same at every point.
fn pools(plan: &Plan, file: &Ordered<Pool>) -> Ordered<Pool> {
    let mut pools = plan.variants[0].setup.scenario.pool.clone();
    for (which, ((_, pool), (_, written))) in pools.0.iter_mut().zip(&file.0).enumerate() {
        let of = |setup: &Setup| setup.scenario.pool.0.get(which).map(|(_, pool)| pool.clone());
        let gpu = pool.gpu.clone();
        let starts_on = pool.starts_on;
        if !plan.variants.iter().all(|variant| of(&variant.setup).is_some_and(|pool| pool.gpu == gpu)) {
            pool.gpu.clone_from(&written.gpu);
        }
        if !plan.variants.iter().all(|variant| of(&variant.setup).is_some_and(|pool| pool.starts_on == starts_on)) {
            pool.starts_on = written.starts_on;
        }
        if !(0..plan.policies.len()).all(|policy| constant(plan, policy, |setup| of(setup).map(|pool| pool.profile))) {
            pool.profile.clone_from(&written.profile);
        }
    }
    pools
}

/// A policy as an overlay on that base.
fn overlay(
    plan: &Plan,
    policy: usize,
    (engine, pool): (&Engine, &Ordered<Pool>),
    file: Option<&Entry>,
    swept: &dyn Fn(&str) -> bool,
) -> Overlay {
    let keeps = |key: &str| match key {
        "profile" => constant(plan, policy, |setup| {
            setup.scenario.pool.iter().map(|(_, pool)| pool.profile.clone()).collect::<Vec<_>>()
        }),
        key if ENGINE_KEYS.contains(&key) => {
            constant(plan, policy, |setup| table(&setup.scenario.engine).get(key).cloned())
        }
        key => constant(plan, policy, |setup| choice(&setup.scenario, key).cloned()),
    };
    let setup = &plan.variant(0, policy).setup;
    let mut overlay = setup.overlay(engine, pool, &keeps);
    for (key, choice) in setup.scenario.choices() {
        // The base names one again, because it is swept there.
        if choice.is_none() && swept(key) && keeps(key) {
            overlay.keys.push((key.to_owned(), toml::Value::String(NONE.to_owned())));
        }
    }
    if !keeps("batcher") {
        let entries = file.map(|entry| entry.node.entries()).unwrap_or_default();
        for entry in entries.iter().filter(|entry| BATCHER_KEYS.contains(&entry.key.as_str())) {
            overlay.keys.extend(toml::Value::try_from(&entry.node).map(|value| (entry.key.clone(), value)));
        }
    }
    overlay
}
