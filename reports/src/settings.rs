//! What a recorder has to know of the run it watches.

use std::collections::BTreeMap;

use aril_sim::time::Span;
use aril_sim::workload::Catalog;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ReportError;

/// What a tenant was promised.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SloClass {
    /// As the scenario calls it.
    pub name: String,
    /// Largest time to first token of a good request; none: any.
    pub ttft: Option<Span>,
    /// Largest time per output token of a good request; none: any. A request of one token always meets it.
    pub tpot: Option<Span>,
    /// Share of the offered requests that shall be good; none: nothing was promised.
    pub attainment: Option<f64>,
}

impl SloClass {
    /// Does a finished request with these times meet the class? Picoseconds.
    pub fn is_met(&self, ttft_ps: u64, tpot_ps: Option<u64>) -> bool {
        self.ttft.is_none_or(|limit| ttft_ps <= limit.as_ps())
            && self.tpot.is_none_or(|limit| tpot_ps.is_none_or(|tpot| tpot <= limit.as_ps()))
    }
}

/// How traffic reaches the cluster, which decides what can be measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Requests arrive when they arrive: rates are measured from the end of the warm-up to the last arrival, less the drain.
    #[default]
    Open,
    /// All that there is to do is there from the start, or follows what was done: everything counts, until the last request ended.
    Closed,
}

/// What a recorder has to know of the run it watches.
#[derive(Clone, Debug)]
pub struct RecorderSettings {
    /// GPUs of each replica, by replica.
    pub replica_gpus: Vec<u32>,
    /// Pool of each replica, by replica.
    pub replica_pool: Vec<String>,
    /// Is the replica held at the start of the run? By replica.
    pub replicas_on: Vec<bool>,
    /// KV blocks of each replica, by replica; empty: KV use is told in blocks only.
    pub replica_kv_blocks: Vec<u32>,
    /// What the classes of the catalog's tenants were promised, by class. Empty: every finished request is good.
    pub slo: Vec<SloClass>,
    /// Open or closed loop.
    pub traffic: Traffic,
    /// Requests that arrive before count for nothing but the load they are.
    pub warmup: Span,
    /// Requests that arrive in this last part of the arrivals count for nothing but the load they are.
    pub drain: Span,
    /// Largest number of sequences in a step, over all replicas: the end of the scale of batch sizes.
    pub max_num_seqs: u32,
    /// What a GPU costs while it is held, by pool. A pool that is not named has no price, and then nothing has.
    pub usd_per_gpu_hour: BTreeMap<String, f64>,
    /// Write `requests.parquet`, `steps.parquet` and `events.parquet`?
    pub tables: bool,
    /// Write `timeline.json.gz` for the first so many events? 0: no.
    pub timeline_events: u32,
    /// Up to so many requests of a run, its percentiles are exact, pooled over seeds as well; beyond, they are within 0.025 %.
    pub samples_kept: usize,
    /// So many tenants, and so many adapters, get a row of their own, those with the most requests first.
    pub groups_kept: usize,
}

impl Default for RecorderSettings {
    fn default() -> Self {
        RecorderSettings {
            replica_gpus: Vec::new(),
            replica_pool: Vec::new(),
            replicas_on: Vec::new(),
            replica_kv_blocks: Vec::new(),
            slo: Vec::new(),
            traffic: Traffic::Open,
            warmup: Span::ZERO,
            drain: Span::ZERO,
            max_num_seqs: 256,
            usd_per_gpu_hour: BTreeMap::new(),
            tables: true,
            timeline_events: 10_000,
            samples_kept: 1_000_000,
            groups_kept: 100,
        }
    }
}

impl RecorderSettings {
    /// Do the tables have a row for each replica, and each tenant a class?
    pub(crate) fn check(&self, catalog: &Catalog) -> Result<(), ReportError> {
        let replicas = self.replica_gpus.len();
        for (what, len) in [
            ("replica_pool", self.replica_pool.len()),
            ("replicas_on", self.replicas_on.len()),
            (
                "replica_kv_blocks",
                if self.replica_kv_blocks.is_empty() { replicas } else { self.replica_kv_blocks.len() },
            ),
        ] {
            if len != replicas {
                return Err(ReportError::Settings(format!("{what} has {len} rows, replica_gpus has {replicas}")));
            }
        }
        if self.slo.is_empty() {
            return Ok(());
        }
        match catalog.tenants.iter().find(|tenant| tenant.slo_class as usize >= self.slo.len()) {
            Some(tenant) => Err(ReportError::Settings(format!(
                "tenant `{}` is of SLO class {}, but there are only {}",
                tenant.name,
                tenant.slo_class,
                self.slo.len()
            ))),
            None => Ok(()),
        }
    }
}
