//! A router of our own: adapters stick to a replica, and a replica that has too much to do drains before it takes more.
//!
//! The rule is made for this example. A stateless affinity rule moves an adapter back and forth while its replica is near the
//! limit: one request here, the next one there, and both replicas load the adapter. Here a replica that reaches
//! `drain_above` gets nothing new until its working set is down to `resume_below`: its adapters find new homes at once, and stay
//! there.

use aril_sim::fleet::Fleet;
use aril_sim::policy::{Asked, Route, Router, Tunable};
use aril_sim::random::Stream;
use aril_sim::workload::ReplicaId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Each adapter has a home; a replica with too much to do drains first.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StickyDrain {
    /// A replica with so large a working set begins to drain, sequences.
    pub drain_above: u32,
    /// It takes requests again when its working set is down to this, sequences.
    pub resume_below: u32,
    /// The home of each adapter, by adapter.
    #[serde(skip)]
    #[schemars(skip)]
    homes: Vec<Option<ReplicaId>>,
    /// Does the replica drain? By replica.
    #[serde(skip)]
    #[schemars(skip)]
    draining: Vec<bool>,
}

impl Default for StickyDrain {
    fn default() -> StickyDrain {
        StickyDrain::new(48, 24)
    }
}

impl Tunable for StickyDrain {
    const SOURCE: &'static str = "an example of aril's own";
    const SUMMARY: &'static str = "each adapter has a home; a replica with too much to do drains first";

    fn validate(&self) -> Result<(), String> {
        if self.resume_below >= self.drain_above {
            return Err(format!(
                "`resume_below` is {} and `drain_above` is {}: a replica must drain before it resumes",
                self.resume_below, self.drain_above
            ));
        }
        Ok(())
    }
}

impl StickyDrain {
    /// Drains from a working set of `drain_above` down to one of `resume_below`, sequences.
    pub fn new(drain_above: u32, resume_below: u32) -> StickyDrain {
        StickyDrain { drain_above, resume_below, homes: Vec::new(), draining: Vec::new() }
    }

    /// Does the replica take nothing new? Hysteresis: what began to drain drains down to `resume_below`.
    fn drains(&mut self, replica: ReplicaId, fleet: &Fleet<'_>) -> bool {
        self.draining.resize(fleet.len(), false);
        let working_set = fleet.working_set(replica);
        let drains = &mut self.draining[replica.index()];
        *drains = if *drains { working_set > self.resume_below } else { working_set >= self.drain_above };
        *drains
    }

    /// The least loaded replica that does not drain, or the least loaded of all.
    fn newcomer(&mut self, fleet: &Fleet<'_>) -> Option<ReplicaId> {
        let ordered = fleet.by_working_set().map(|(_, replica)| replica);
        let free = ordered.take(fleet.len()).find(|&replica| !self.drains(replica, fleet));
        free.or_else(|| fleet.by_working_set().next().map(|(_, replica)| replica))
    }
}

impl Router for StickyDrain {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let Some(adapter) = asked.request.adapter else {
            return self.newcomer(fleet).map_or(Route::Hold, Route::To);
        };
        if self.homes.len() <= adapter.index() {
            self.homes.resize(adapter.index() + 1, None);
        }
        if let Some(home) = self.homes[adapter.index()]
            && fleet.is_available(home)
            && !self.drains(home, fleet)
        {
            return Route::To(home);
        }
        let Some(home) = self.newcomer(fleet) else { return Route::Hold };
        self.homes[adapter.index()] = Some(home);
        Route::To(home)
    }
}
