//! The scenario file: what a user may write, with the defaults of what is left out.
//!
//! A file holds one base and, under `[policy]`, named overlays on it; `[sweep]` varies values of the base. Both are applied
//! to the tree ([`crate::node`]) before any of this is read.

mod choice;
mod engine;
mod expect;
mod ordered;
mod overlay;
mod pool;
mod report;
mod seeds;
mod slo;
mod sweep;

use aril_reports::Metric;
use aril_sim::model::Precision;
use aril_sim::model::lora::LoraTarget;
use aril_sim::time::Span;
use aril_traces::Traffic;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use choice::Choice;
pub use engine::{AdapterRoom, Engine, EngineSettings, KvCache, LinkChoice, LinkFigures};
pub use expect::{Exemption, Expect, Tolerance};
pub use ordered::Ordered;
pub use overlay::{BATCHER_KEYS, ENGINE_KEYS, Overlay, POLICY_KEYS};
pub use pool::Pool;
pub use report::Report;
pub use seeds::Seeds;
pub use slo::Slo;
pub use sweep::{Axis, Spacing, Steps};

/// A question: this traffic, on these GPUs, under these policies.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What reports and the run directory call it.
    pub name: String,
    /// What it is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The first seed, and the one under which a trace is replayed as recorded: every other seed draws blocks of it.
    #[serde(default = "first_seed")]
    pub seed: u64,
    /// How many seeds, counted up from `seed`, or a list of them. Every policy sees the same requests under the same seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Seeds>,
    /// When a run is cut, at most 200 days: what is not finished then ends as unfinished. Without it, runs last until everybody is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub horizon: Option<Span>,
    /// Draw every step around its price, as the measurements of its profile scattered. Only with measured profiles.
    #[serde(default, skip_serializing_if = "is_false")]
    pub jitter: bool,
    /// Which replica takes a request? The base of all policies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<Choice>,
    /// What does the next step compute?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batcher: Option<Choice>,
    /// Which idle adapter makes room?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evictor: Option<Choice>,
    /// How do adapters come to the GPU?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_path: Option<Choice>,
    /// Who gives way when KV blocks run out?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemptor: Option<Choice>,
    /// Who moves where? Nobody, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrator: Option<Choice>,
    /// How many GPUs are held? Those that are on from the start, unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scaler: Option<Choice>,
    /// The base model.
    pub model: ModelChoice,
    /// What arrives.
    pub traffic: Traffic,
    /// How each replica's engine is set.
    pub engine: Engine,
    /// The replicas, by pool. A pool is called after its GPU unless it says otherwise. Without any: one replica on the best GPU that the
    /// model was measured on.
    #[serde(default = "no_pools")]
    pub pool: Ordered<Pool>,
    /// What routers see.
    #[serde(default)]
    pub signals: Signals,
    /// What a good request is, by class. Without classes every finished request is good.
    #[serde(default, skip_serializing_if = "Ordered::is_empty")]
    pub slo: Ordered<Slo>,
    /// What is compared: named overlays on this file.
    #[serde(default, skip_serializing_if = "Ordered::is_empty")]
    pub policy: Ordered<Overlay>,
    /// Values to vary: a dotted path and its values. All combinations are run.
    #[serde(default, skip_serializing_if = "Ordered::is_empty")]
    pub sweep: Ordered<Axis>,
    /// How policies are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compare: Option<Compare>,
    /// Published figures to set beside ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expect>,
    /// What is written and what is cut.
    #[serde(default)]
    pub report: Report,
}

fn no_pools() -> Ordered<Pool> {
    Ordered(Vec::new())
}

fn is_false(value: &bool) -> bool {
    !value
}

fn first_seed() -> u64 {
    1
}

/// Which base model, in which format, and what adapters add to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelChoice {
    /// A model by its name: `aril list models`.
    pub name: String,
    /// The matrices that adapters add to.
    #[serde(default = "layer_targets")]
    pub lora_targets: Vec<LoraTarget>,
    /// Format of the weights, where it is not the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Precision>,
    /// Format of the KV cache, where it is not the model's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache_dtype: Option<Precision>,
}

fn layer_targets() -> Vec<LoraTarget> {
    LoraTarget::LAYER.to_vec()
}

/// What routers see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Signals {
    /// How often replicas publish what they know of themselves; 0: routers see the truth.
    #[serde(default)]
    pub interval: Span,
}

impl Default for Signals {
    fn default() -> Signals {
        Signals { interval: Span::ZERO }
    }
}

/// How policies are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// The policy with which the others are compared. `best`, the default: the best one at each point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<String>,
    /// What decides: goodput, unless set.
    #[serde(default)]
    pub primary: Metric,
}

impl Scenario {
    /// Takes over the policies that another scenario resolved.
    pub(crate) fn adopt(&mut self, resolved: &Scenario) {
        self.router = resolved.router.clone();
        self.batcher = resolved.batcher.clone();
        self.evictor = resolved.evictor.clone();
        self.load_path = resolved.load_path.clone();
        self.preemptor = resolved.preemptor.clone();
        self.migrator = resolved.migrator.clone();
        self.scaler = resolved.scaler.clone();
    }

    /// The policies, by the keys of [`POLICY_KEYS`].
    pub(crate) fn choices(&self) -> [(&'static str, Option<&Choice>); 7] {
        let choices = [
            &self.router,
            &self.batcher,
            &self.evictor,
            &self.load_path,
            &self.preemptor,
            &self.migrator,
            &self.scaler,
        ];
        std::array::from_fn(|k| (POLICY_KEYS[k], choices[k].as_ref()))
    }

    /// Names the policy of one kind, by its key of [`POLICY_KEYS`].
    pub(crate) fn set_choice(&mut self, key: &str, choice: Option<Choice>) {
        if let Some((_, kind)) = POLICY_KEYS.into_iter().zip(self.choices_mut()).find(|(name, _)| *name == key) {
            *kind = choice;
        }
    }

    /// Names no policy any more: each overlay names its own.
    pub(crate) fn clear_choices(&mut self) {
        self.choices_mut().into_iter().for_each(|choice| *choice = None);
    }

    /// In the order of [`POLICY_KEYS`].
    fn choices_mut(&mut self) -> [&mut Option<Choice>; POLICY_KEYS.len()] {
        [
            &mut self.router,
            &mut self.batcher,
            &mut self.evictor,
            &mut self.load_path,
            &mut self.preemptor,
            &mut self.migrator,
            &mut self.scaler,
        ]
    }
}
