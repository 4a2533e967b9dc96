//! What arrives: tenants, adapters, requests, and what only fate knows about them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::time::Time;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in the table of its kind.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

id!(
    /// Position of a tenant in [`Catalog::tenants`].
    TenantId
);
id!(
    /// Position of an adapter in [`Catalog::adapters`].
    AdapterId
);
id!(
    /// Number of a request in order of arrival: the first is 0.
    RequestId
);
id!(
    /// Position of a replica in the cluster.
    ReplicaId
);

/// Who asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// As the trace calls it. No policy sees it.
    pub name: String,
    /// Share in fairness measures, relative to the others.
    pub weight: f64,
    /// Position of its class in the scenario's list of SLO classes.
    pub slo_class: u32,
}

/// One LoRA weight set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Adapter {
    /// As the trace calls it. No policy sees it.
    pub name: String,
    /// The rank of its A and B matrices.
    pub rank: u32,
    /// Its size: what is copied on a load and what it takes of a pool counted in bytes.
    pub bytes: u64,
    /// Who owns it; none if several tenants use it.
    pub owner: Option<TenantId>,
}

/// Everybody and everything that requests refer to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Tenants by id.
    pub tenants: Vec<Tenant>,
    /// Adapters by id.
    pub adapters: Vec<Adapter>,
}

/// What arrives: all that a policy may know of it. It never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Number in order of arrival.
    pub id: RequestId,
    /// Who asks.
    pub tenant: TenantId,
    /// The adapter it needs; none for the base model.
    pub adapter: Option<AdapterId>,
    /// When it reaches the router.
    pub arrival: Time,
    /// Length of the prompt, tokens, at least 1.
    pub prompt_tokens: u32,
    /// The client's cap on output tokens, at least 1. Not a prediction.
    pub max_tokens: u32,
    /// What a predictor, if the scenario has one, says of the output length, tokens.
    pub predicted_output_tokens: Option<u32>,
    /// Hashes of the prompt's blocks, first to last, where the trace has them.
    #[serde(skip)]
    pub prefix: Option<Arc<[u64]>>,
}

/// What only fate knows of a request. Never reaches a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The true number of output tokens, at least 1.
    pub output_tokens: u32,
}

/// A request and its fate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offered {
    /// What the cluster sees.
    pub request: Request,
    /// What it does not see.
    pub outcome: Outcome,
}

/// The requests of a run in order of arrival: pulled one by one, so that memory follows what is in flight, not what was offered.
///
/// Arrival times never decrease and ids count up from 0; the engine asserts both.
pub type Arrivals<'a> = dyn Iterator<Item = Offered> + 'a;
