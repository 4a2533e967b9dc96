//! Two routers are asked the same, and what the first says is done. Where the second says otherwise, the run ends.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};

use aril_sim::conformance::RandomPolicies;
use aril_sim::fleet::Fleet;
use aril_sim::policy::{Asked, Policies, Route, Router};
use aril_sim::random::Stream;

use super::rules::Rule;
use super::signals::with_router;

/// What was compared.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) choices: u64,
    /// By each kind of rule, between two replicas at least.
    pub(super) of_rule: [u64; Rule::KINDS],
    /// With a replica off.
    pub(super) reduced: u64,
    /// That drew a random number.
    pub(super) drawn: u64,
}

/// A count that routers share.
pub(super) type Counts = Arc<Mutex<Compared>>;

/// The policies with another router: one that should choose as a look at every replica by the rule does.
pub(super) fn with_twins(
    policies: &RandomPolicies,
    rule: &Rule,
    router: fn(&Rule) -> Box<dyn Router>,
    counts: &Counts,
) -> Policies {
    let (rule, counts) = (rule.clone(), Arc::clone(counts));
    with_router(policies, move |_| {
        Box::new(Twins { kind: rule.kind(), router: router(&rule), look: rule.look(), counts: Arc::clone(&counts) })
    })
}

struct Twins {
    kind: usize,
    router: Box<dyn Router>,
    look: Box<dyn Router>,
    counts: Counts,
}

/// Ends the run as a panic does, but prints nothing: a case that is made smaller fails a thousand times.
fn end(difference: String) -> ! {
    resume_unwind(Box::new(difference))
}

impl Router for Twins {
    fn route(&mut self, asked: &Asked<'_>, fleet: &Fleet<'_>, random: &mut Stream) -> Route {
        let (before, mut same) = (random.clone(), random.clone());
        let expected = self.look.route(asked, fleet, &mut same);
        let route = self.router.route(asked, fleet, random);
        if route != expected {
            end(format!(
                "{route:?}, but {expected:?} by a look at every replica: {:?}, at {}",
                asked.request,
                fleet.now()
            ));
        }
        if *random != same {
            end(format!("another number of random draws: {:?}, at {}", asked.request, fleet.now()));
        }
        let mut counts = self.counts.lock().unwrap();
        counts.choices += 1;
        counts.of_rule[self.kind] += u64::from(fleet.available().len() > 1);
        counts.reduced += u64::from(fleet.available().len() < fleet.len());
        counts.drawn += u64::from(before != *random);
        route
    }

    fn queue_key(&self, asked: &Asked<'_>) -> u64 {
        self.router.queue_key(asked)
    }
}
