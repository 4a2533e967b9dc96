//! Every group of adapters has replicas of its own.
//!
//! Ours: the opponent that Punica's evaluation left out: what an operator does without multi-LoRA serving, one deployment
//! a model. Replica `r` belongs to group `r mod groups`, and each adapter to one group for ever. Requests without adapter
//! are a group member of their own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Load, least_in, least_of};
use crate::fleet::{Fleet, Group};
use crate::policy::{Asked, Ground, Route, Router, Tunable};
use crate::random::Stream;
use crate::workload::ReplicaId;

/// The least loaded replica of the adapter's group. A group whose replicas are all off holds its requests, and all behind.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dedicated {
    /// How many groups; 0, or more than there are replicas: one for each replica.
    pub groups: u32,
    /// To which group does an adapter belong?
    pub assignment: Assignment,
    /// What is load within the group?
    pub by: Load,
    /// Group by adapter, that of requests without adapter first; none before the first request.
    #[serde(skip)]
    #[schemars(skip)]
    group_of: Vec<Option<u32>>,
    /// Requests so far, by group.
    #[serde(skip)]
    #[schemars(skip)]
    offered: Vec<u64>,
}

/// To which group does an adapter belong?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Assignment {
    /// At its first request, to the group with the fewest requests so far.
    #[default]
    FewestRequests,
    /// By its position in the catalogue, modulo the number of groups.
    Modulo,
}

impl Tunable for Dedicated {
    const SOURCE: &'static str = "ours: one deployment per model, as without multi-LoRA serving";
    const SUMMARY: &'static str = "each group of adapters has replicas of its own";

    fn suits(&self, ground: &Ground<'_>) -> Result<(), String> {
        let replicas = &ground.cluster.replicas;
        let groups = self.groups_of(replicas.len() as u32);
        let is_off = |group: u32| replicas.iter().skip(group as usize).step_by(groups as usize).all(|r| !r.starts_on);
        match (0..groups).find(|&group| is_off(group)).filter(|_| !ground.scaled) {
            Some(group) => Err(format!(
                "group {} of {groups} has no replica that is on, and no scaler could switch one on: its requests, and all behind \
                 them, would wait for ever; switch all replicas on, or choose fewer `groups`",
                group + 1
            )),
            None => Ok(()),
        }
    }
}

impl Dedicated {
    /// How many groups do so many replicas serve?
    fn groups_of(&self, replicas: u32) -> u32 {
        if self.groups == 0 { replicas } else { self.groups.min(replicas) }
    }
}

/// Beyond so many replicas a group the index of bounds finds the least loaded sooner than a look at each.
const MEMBERS_LISTED_MAX: u32 = 8;

impl Router for Dedicated {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let replicas = fleet.len() as u32;
        let groups = self.groups_of(replicas);
        self.offered.resize(groups as usize, 0);
        let position = asked.request.adapter.map_or(0, |adapter| adapter.index() + 1);
        if self.group_of.len() <= position {
            self.group_of.resize(position + 1, None);
        }
        let group = *self.group_of[position].get_or_insert_with(|| match self.assignment {
            Assignment::Modulo => (position as u32 + groups - 1) % groups,
            Assignment::FewestRequests => {
                (0..groups).min_by_key(|&group| self.offered[group as usize]).expect("a fleet has replicas")
            }
        });
        let chosen = if replicas.div_ceil(groups) > MEMBERS_LISTED_MAX {
            least_in(fleet, self.by, Group { number: group, of: groups })
        } else {
            let members = (group..replicas).step_by(groups as usize).map(ReplicaId);
            least_of(fleet, self.by, members.filter(|&replica| fleet.is_available(replica)))
        };
        let Some(replica) = chosen else { return Route::Hold };
        // Held requests are asked about again: they count once, when they go.
        self.offered[group as usize] += 1;
        Route::To(replica)
    }
}
