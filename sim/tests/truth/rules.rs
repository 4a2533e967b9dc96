//! Built-in routers that read an index: which one, and how it is set. What they should choose is in `look`.

mod look;

use aril_sim::policy::Router;
use aril_sim::policy::router::{
    AffinityHard, AffinitySoft, Assignment, Dedicated, LeastLoaded, Load, Picker, PunicaArtifact, PunicaPaper, Scorers,
};
use aril_sim::random::Stream;
use look::Look;
use rand::Rng;

/// A router that no run has used yet.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    LeastLoaded(LeastLoaded),
    Dedicated(Dedicated),
    AffinityHard(AffinityHard),
    AffinitySoft(AffinitySoft),
    PunicaPaper(PunicaPaper),
    PunicaArtifact(PunicaArtifact),
    Scorers(Scorers),
}

impl Rule {
    /// How many kinds there are.
    pub(super) const KINDS: usize = 7;

    pub(super) fn kind(&self) -> usize {
        match self {
            Rule::LeastLoaded(_) => 0,
            Rule::Dedicated(_) => 1,
            Rule::AffinityHard(_) => 2,
            Rule::AffinitySoft(_) => 3,
            Rule::PunicaPaper(_) => 4,
            Rule::PunicaArtifact(_) => 5,
            Rule::Scorers(_) => 6,
        }
    }

    pub(super) fn draw(random: &mut Stream) -> Rule {
        let mut below = |n: u32| random.next_u32() % n;
        let by = [Load::Requests, Load::Waiting, Load::Kv][below(3) as usize];
        match below(8) {
            0 => Rule::LeastLoaded(LeastLoaded { by }),
            1 => {
                let mut rule = Dedicated::default();
                (rule.groups, rule.by) = (below(5), by);
                rule.assignment = [Assignment::FewestRequests, Assignment::Modulo][below(2) as usize];
                Rule::Dedicated(rule)
            }
            2 => {
                let mut rule = AffinityHard::default();
                (rule.replicas_per_adapter, rule.by) = (1 + below(4), by);
                Rule::AffinityHard(rule)
            }
            3 => {
                let (imbalance_max, skip_full) = (below(6), below(2) == 0);
                let affinity_probability = [1.0, 0.5][below(2) as usize];
                Rule::AffinitySoft(AffinitySoft { imbalance_max, skip_full, affinity_probability })
            }
            4 => {
                let mut rule = PunicaPaper::default();
                rule.working_set_max = below(4);
                Rule::PunicaPaper(rule)
            }
            5 => {
                let mut rule = PunicaArtifact::default();
                (rule.working_set_max, rule.spare_blocks_per_sequence) = (below(4), below(3));
                Rule::PunicaArtifact(rule)
            }
            _ => {
                let mut weight = || [0.0, 0.0, 1.0, 0.1 + f64::from(below(30)) / 7.0][below(4) as usize];
                let (queue, load, kv_utilization) = (weight(), weight(), weight());
                let (lora_affinity, residency) = (weight(), weight());
                let lora_affinity = if queue + load + kv_utilization + residency > 0.0 { lora_affinity } else { 1.0 };
                let picker = [Picker::MaxScore, Picker::MaxScore, Picker::WeightedRandom, Picker::Random];
                let picker = picker[below(4) as usize];
                Rule::Scorers(Scorers { queue, kv_utilization, lora_affinity, residency, load, picker })
            }
        }
    }

    /// The built-in router.
    pub(super) fn router(&self) -> Box<dyn Router> {
        match self.clone() {
            Rule::LeastLoaded(rule) => Box::new(rule),
            Rule::Dedicated(rule) => Box::new(rule),
            Rule::AffinityHard(rule) => Box::new(rule),
            Rule::AffinitySoft(rule) => Box::new(rule),
            Rule::PunicaPaper(rule) => Box::new(rule),
            Rule::PunicaArtifact(rule) => Box::new(rule),
            Rule::Scorers(rule) => Box::new(rule),
        }
    }

    /// The same without an index.
    pub(super) fn look(&self) -> Box<dyn Router> {
        Box::new(Look::of(self.clone()))
    }
}
