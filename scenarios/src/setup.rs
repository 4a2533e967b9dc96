//! One policy at one point, everything resolved: what the simulator needs, checked for what cannot be.

mod memory;
mod profile;

use std::path::Path;
use std::sync::{Arc, OnceLock};

use aril_calibrate::jitter::Jittered;
use aril_sim::batch::{Executor, Modelled};
use aril_sim::cost::CompiledCost;
use aril_sim::model::Model;
use aril_sim::policy::{Batcher, Evictor, Ground, LoadPath, Migrator, Policies, Preemptor, Router, Scaler};
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::settings::{ClusterSettings, ReplicaSettings};
use aril_sim::time::Span;
use aril_sim::workload::Catalog;
use sha2::{Digest, Sha256};

use crate::error::ArilError;
use crate::manifest::hex;
use crate::node::{Node, Value};
use crate::registry::{Chosen, Registry};
use crate::scenario::{ENGINE_KEYS, Engine, Ordered, Overlay, Pool, Scenario};
use crate::source::Source;
use crate::wrong::{Wrong, suggest};

/// One policy at one point.
pub struct Setup {
    /// The scenario with every default written out: one policy, nothing swept.
    pub scenario: Scenario,
    /// The base model.
    pub model: Model,
    /// The profile of each pool, in the order of the scenario.
    pub profiles: Vec<Arc<Profile>>,
    /// Which kernel adds adapters.
    pub kernel: LoraKernel,
    /// Position of the pool of each replica.
    pub replica_pool: Vec<usize>,
    /// The model's context, tokens.
    pub max_model_len: u32,
    /// The compiled price list of each profile, as it was before its first question.
    costs: Vec<CompiledCost>,
    hashes: OnceLock<Vec<String>>,
    replicas: Vec<ReplicaSettings>,
    choices: Choices,
}

struct Choices {
    router: Chosen<dyn Router>,
    batcher: Chosen<dyn Batcher>,
    evictor: Chosen<dyn Evictor>,
    load_path: Chosen<dyn LoadPath>,
    preemptor: Chosen<dyn Preemptor>,
    migrator: Option<Chosen<dyn Migrator>>,
    scaler: Option<Chosen<dyn Scaler>>,
}

/// Signals that come more often than this say nothing new and would cost the run its time.
const INTERVAL_MIN: Span = Span::from_ms(1);

/// What a scenario writes for no migrator and no scaler, where its base has one.
pub(crate) const NONE: &str = "none";

impl Setup {
    /// Reads a tree without overlays and sweeps.
    ///
    /// # Errors
    /// Whatever is wrong or impossible, with its place in the tree.
    pub fn new(tree: &Node, registry: &Registry, directory: &Path) -> Result<Setup, ArilError> {
        let mut scenario: Scenario = tree.read().map_err(|wrong| tree.place(wrong))?;
        let place = |wrong: Wrong| tree.place(of_what_is_written(tree, wrong));
        let model = model(&scenario).map_err(place)?;
        let engine = scenario.engine.resolved();
        if scenario.pool.is_empty() {
            scenario.pool.0.extend(profile::measured_pool(&model));
        }
        if scenario.pool.is_empty() {
            let problem = format!("there is no pool, and no measured profile of {} ships", model.name);
            return Err(place(Wrong::at("pool", problem).help("write [pool.h100] with replicas = 1")).into());
        }
        let mut profiles = Vec::new();
        for (name, pool) in &mut scenario.pool.0 {
            let profile = profile::of(name, pool, &model, directory).map_err(place)?;
            pool.gpu = Some(profile.gpu.name.clone());
            pool.starts_on = Some(pool.starts_on.unwrap_or(pool.replicas));
            profiles.push(Arc::new(profile));
        }
        if scenario.jitter
            && let Some(profile) = profiles.iter().find(|profile| profile.spread.iter().all(|s| s.of != "step"))
        {
            return Err(place(no_scatter(&profile.name)).into());
        }
        let (kernel, costs) = profile::kernel(&engine, &profiles).map_err(place)?;
        let max_model_len = engine.settings().max_model_len.unwrap_or_else(|| memory::context(&model));
        scenario.engine = engine.with_kernel(kernel).with_context(max_model_len);
        let interval = scenario.signals.interval;
        if !interval.is_zero() && interval < INTERVAL_MIN {
            let problem = format!("{interval}: steps take milliseconds, and nothing changes between them");
            let help = "write 1ms or more, or \"0s\" for routers that see the truth";
            return Err(place(Wrong::at("signals.interval", problem).help(help)).into());
        }
        if let Some(horizon) = scenario.horizon.filter(|horizon| *horizon > Span::RUN_MAX) {
            let help = format!("write {} or less", Span::RUN_MAX);
            return Err(place(Wrong::at("horizon", format!("no run can last {horizon}")).help(help)).into());
        }
        let choices = Choices::read(tree, registry, &scenario.engine, &profiles[0]).map_err(place)?;
        choices.write_to(&mut scenario);
        let (replicas, replica_pool) = memory::replicas(&scenario, &model, &profiles).map_err(place)?;
        if choices.scaler.is_none() && replicas.iter().all(|replica| !replica.starts_on) {
            let problem = "no replica is on at the start, and there is no scaler that could acquire one";
            return Err(place(Wrong::at("pool", problem).help("raise `starts_on`, or choose a scaler")).into());
        }
        let hashes = OnceLock::new();
        Ok(Setup { scenario, model, profiles, kernel, replica_pool, max_model_len, costs, hashes, replicas, choices })
    }

    /// The cluster in a run with this seed.
    pub fn cluster(&self, seed: u64) -> ClusterSettings {
        ClusterSettings {
            replicas: self.replicas.clone(),
            signals_interval: self.scenario.signals.interval,
            client_timeout: self.scenario.traffic.client_timeout(),
            horizon: Some(self.scenario.horizon.unwrap_or(Span::RUN_MAX)),
            stretches: true,
            seed,
        }
    }

    /// Fresh policies.
    pub fn policies(&self) -> Policies {
        let choices = &self.choices;
        Policies {
            router: choices.router.make(),
            batcher: choices.batcher.make(),
            evictor: choices.evictor.make(),
            load_path: choices.load_path.make(),
            preemptor: choices.preemptor.make(),
            migrator: choices.migrator.as_ref().map(Chosen::make),
            scaler: choices.scaler.as_ref().map(Chosen::make),
        }
    }

    /// Can every policy do its work on this cluster, for these tenants and adapters?
    ///
    /// # Errors
    /// The first that cannot, told where it was named.
    pub(crate) fn check_policies(&self, cluster: &ClusterSettings, catalog: &Catalog) -> Result<(), Wrong> {
        let choices = &self.choices;
        let ground = Ground { cluster, catalog, scaled: choices.scaler.is_some() };
        choices.router.suits(&ground)?;
        choices.batcher.suits(&ground)?;
        choices.evictor.suits(&ground)?;
        choices.load_path.suits(&ground)?;
        choices.preemptor.suits(&ground)?;
        choices.migrator.iter().try_for_each(|migrator| migrator.suits(&ground))?;
        choices.scaler.iter().try_for_each(|scaler| scaler.suits(&ground))
    }

    /// One executor a pool, its jitter drawn for this seed where the scenario asks for it.
    ///
    /// # Errors
    /// Without jitter never; with it, where a profile tells none.
    pub fn executors(&self, seed: u64) -> Result<Vec<Box<dyn Executor>>, ArilError> {
        let executor = |(which, (profile, cost)): (usize, (&Arc<Profile>, &CompiledCost))| {
            let modelled = Modelled(cost.clone());
            if !self.scenario.jitter {
                return Ok(Box::new(modelled) as Box<dyn Executor>);
            }
            let jittered = Jittered::new(modelled, profile, seed, which).ok_or_else(|| no_scatter(&profile.name))?;
            Ok(Box::new(jittered) as Box<dyn Executor>)
        };
        self.profiles.iter().zip(&self.costs).enumerate().map(executor).collect()
    }

    /// SHA-256 of the figures of each profile, as JSON.
    pub(crate) fn profile_hashes(&self) -> &[String] {
        self.hashes.get_or_init(|| {
            let hash =
                |profile: &Arc<Profile>| hex(&Sha256::digest(serde_json::to_vec(&**profile).unwrap_or_default()));
            self.profiles.iter().map(hash).collect()
        })
    }

    /// Bytes of an adapter of this rank.
    pub fn adapter_bytes(&self, rank: u32) -> u64 {
        self.model.adapter_bytes(rank, &self.scenario.model.lora_targets)
    }

    /// The engine that all policies share: this one's, where the file's says nothing.
    pub(crate) fn base_engine(&self, written: &Engine) -> Engine {
        let kernel = written.settings().lora_kernel;
        let mut engine = written.resolved().with_context(self.max_model_len);
        let settings = engine.settings_mut();
        settings.lora_kernel = kernel;
        engine
    }

    /// This policy as an overlay on a base: its policies with all tunables, and the engine keys in which it differs; of both only
    /// what `keeps` says of a key.
    pub(crate) fn overlay(&self, base: &Engine, base_pool: &Ordered<Pool>, keeps: &dyn Fn(&str) -> bool) -> Overlay {
        let mut keys = Vec::new();
        let pool = |pools: &Ordered<Pool>| pools.0.first().and_then(|(_, pool)| pool.profile.clone());
        if let Some(profile) = pool(&self.scenario.pool)
            && pool(base_pool).as_ref() != Some(&profile)
            && keeps("profile")
        {
            keys.push(("profile".to_owned(), toml::Value::String(profile)));
        }
        let table = |engine: &Engine| toml::Table::try_from(engine.settings()).unwrap_or_default();
        let (ours, theirs) = (table(&self.scenario.engine), table(base));
        for key in ENGINE_KEYS.into_iter().filter(|key| keeps(key)) {
            if let Some(value) = ours.get(key)
                && theirs.get(key) != Some(value)
            {
                keys.push((key.to_owned(), value.clone()));
            }
        }
        for (key, choice) in self.scenario.choices().into_iter().filter(|(key, _)| keeps(key)) {
            let value = match choice {
                Some(choice) => {
                    toml::Value::try_from(choice).unwrap_or_else(|_| toml::Value::String(choice.name.clone()))
                }
                None => continue,
            };
            keys.push((key.to_owned(), value));
        }
        Overlay { keys }
    }
}

impl Choices {
    fn read(tree: &Node, registry: &Registry, engine: &Engine, profile: &Profile) -> Result<Choices, Wrong> {
        let source = Source::new(format!("the defaults of engine {}", engine.kind()), defaults(engine));
        let fallback = Node::parse(&source)?;
        let named = |key: &'static str| {
            tree.get(&[key])
                .or_else(|| fallback.get(&[key]))
                .expect("every engine has a default for what must be there")
        };
        fn within(key: &'static str) -> impl FnOnce(Wrong) -> Wrong {
            move |wrong| wrong.within(key)
        }
        let some = |key: &'static str| {
            tree.get(&[key]).filter(|node| !matches!(&node.value, Value::String(name) if name == NONE))
        };
        let batcher = with_collection_cost(named("batcher"), profile);
        Ok(Choices {
            router: registry.routers.choose(named("router")).map_err(within("router"))?,
            batcher: registry.batchers.choose(&batcher).map_err(within("batcher"))?,
            evictor: registry.evictors.choose(named("evictor")).map_err(within("evictor"))?,
            load_path: registry.load_paths.choose(named("load_path")).map_err(within("load_path"))?,
            preemptor: registry.preemptors.choose(named("preemptor")).map_err(within("preemptor"))?,
            migrator: some("migrator")
                .map(|node| registry.migrators.choose(node))
                .transpose()
                .map_err(within("migrator"))?,
            scaler: some("scaler").map(|node| registry.scalers.choose(node)).transpose().map_err(within("scaler"))?,
        })
    }

    fn write_to(&self, scenario: &mut Scenario) {
        scenario.router = Some(self.router.choice.clone());
        scenario.batcher = Some(self.batcher.choice.clone());
        scenario.evictor = Some(self.evictor.choice.clone());
        scenario.load_path = Some(self.load_path.choice.clone());
        scenario.preemptor = Some(self.preemptor.choice.clone());
        scenario.migrator = self.migrator.as_ref().map(|chosen| chosen.choice.clone());
        scenario.scaler = self.scaler.as_ref().map(|chosen| chosen.choice.clone());
    }
}

fn no_scatter(profile: &str) -> Wrong {
    Wrong::at("jitter", format!("profile `{profile}` does not say how steps scatter: it was not measured"))
        .help("leave jitter out, or name a measured profile")
}

/// The policies of an engine where a scenario names none.
fn defaults(engine: &Engine) -> &'static str {
    match engine {
        Engine::Vllm(_) => {
            "router = \"least-loaded\"\nbatcher = \"chunked\"\nevictor = \"lru\"\nload_path = \"blocking\"\n\
             preemptor = { newest = { by = \"admission\", requeue = \"replica\" } }\n"
        }
        Engine::Aril(_) => {
            "router = \"least-loaded\"\nbatcher = \"punica\"\nevictor = \"lru\"\nload_path = \"join-when-ready\"\n\
             preemptor = \"newest\"\n"
        }
    }
}

/// A batcher that collects garbage pays what the profile says, unless its table says what.
fn with_collection_cost(batcher: &Node, profile: &Profile) -> Node {
    let mut batcher = batcher.clone();
    let Value::Table(entries) = &mut batcher.value else { return batcher };
    if let [entry] = entries.as_mut_slice()
        && let Some(every) = entry.node.entry("gc_every").cloned()
        && entry.node.entry("gc_cost").is_none()
        && every.node.value != Value::Integer(0)
    {
        let span = aril_sim::time::Span::from_secs_f64(profile.host.us_per_collection * 1e-6);
        let node = Node { value: Value::String(span.to_string()), origin: every.node.origin.clone() };
        entry.node.set(&[("gc_cost".to_owned(), every.origin.clone())], node);
    }
    batcher
}

fn model(scenario: &Scenario) -> Result<Model, Wrong> {
    let choice = &scenario.model;
    let mut model = Model::named(&choice.name).ok_or_else(|| {
        let names: Vec<_> = Model::names().collect();
        Wrong::at("model.name", format!("there is no model `{}`", choice.name)).help(suggest(
            &choice.name,
            names.iter().copied(),
            "known models",
        ))
    })?;
    if let Some(weights) = choice.quantization {
        model = model.with_weights(weights);
    }
    if let Some(kv_cache) = choice.kv_cache_dtype {
        model = model.with_kv_cache(kv_cache);
    }
    if choice.lora_targets.is_empty() {
        return Err(
            Wrong::at("model.lora_targets", "the list is empty").help("leave it out for all seven matrices of a layer")
        );
    }
    for (k, target) in choice.lora_targets.iter().enumerate() {
        if choice.lora_targets[..k].contains(target) {
            return Err(Wrong::at("model.lora_targets", "a matrix is listed twice"));
        }
    }
    Ok(model)
}

/// Which setting of an engine gives another one its default.
const GIVEN_BY: [(&str, &str); 4] = [
    ("gpu_adapters", "max_loras"),
    ("host_adapters", "max_cpu_loras"),
    ("max_cpu_loras", "max_loras"),
    ("max_loras", "max_num_seqs"),
];

/// What is wrong with a setting of the engine that nobody wrote is wrong with the one that it follows from.
pub(crate) fn of_what_is_written(tree: &Node, mut wrong: Wrong) -> Wrong {
    let [engine, kind, key, ..] = wrong.path.as_slice() else { return wrong };
    if engine != "engine" || wrong.origin.is_some() {
        return wrong;
    }
    let mut key = key.as_str();
    while tree.get(&["engine", kind, key]).is_none() {
        match GIVEN_BY.iter().find(|(given, _)| *given == key) {
            // vLLM's slots do not follow from its batch.
            Some((_, by)) if kind != "vllm" || *by != "max_num_seqs" => key = by,
            _ => return wrong,
        }
    }
    wrong.path = vec![engine.clone(), kind.clone(), key.to_owned()];
    wrong
}
