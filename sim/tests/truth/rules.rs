//! Built-in routers that read an index: which one, how it is set, and how it is made simpler. What they should choose is in `look`.

mod look;

use aril_sim::policy::Router;
use aril_sim::policy::router::{
    AffinityHard, AffinitySoft, Assignment, Dedicated, LeastLoaded, Load, Picker, PunicaArtifact, PunicaPaper, Scorers,
};
use aril_sim::random::Stream;
use rand::Rng;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use toml::Table;

use look::Look;

/// A router that no run has used yet.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Rule {
    LeastLoaded(LeastLoaded),
    Dedicated(Dedicated),
    AffinityHard(AffinityHard),
    AffinitySoft(AffinitySoft),
    PunicaPaper(PunicaPaper),
    PunicaArtifact(PunicaArtifact),
    Scorers(Scorers),
}

/// Routers cannot be compared; what they print is all that they are, with every digit.
impl PartialEq for Rule {
    fn eq(&self, other: &Rule) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
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
                // One is so small that a sum with others is the same without it.
                let mut weight = || [0.0, 0.0, 1.0, 0.1 + f64::from(below(30)) / 7.0, 1e-20][below(5) as usize];
                let (queue, load, kv_utilization) = (weight(), weight(), weight());
                let (lora_affinity, residency) = (weight(), weight());
                let lora_affinity = if queue + load + kv_utilization + residency > 0.0 { lora_affinity } else { 1.0 };
                let picker = [Picker::MaxScore, Picker::MaxScore, Picker::WeightedRandom, Picker::Random];
                let picker = picker[below(4) as usize];
                Rule::Scorers(Scorers { queue, kv_utilization, lora_affinity, residency, load, picker })
            }
        }
    }

    /// Rules that are each a little simpler.
    pub(super) fn smaller(&self) -> Vec<Rule> {
        let mut all = match self {
            Rule::LeastLoaded(rule) => plainer(rule, Rule::LeastLoaded),
            Rule::Dedicated(rule) => plainer(rule, Rule::Dedicated),
            Rule::AffinityHard(rule) => plainer(rule, Rule::AffinityHard),
            Rule::AffinitySoft(rule) => plainer(rule, Rule::AffinitySoft),
            Rule::PunicaPaper(rule) => plainer(rule, Rule::PunicaPaper),
            Rule::PunicaArtifact(rule) => plainer(rule, Rule::PunicaArtifact),
            Rule::Scorers(rule) => lighter(rule),
        };
        all.retain(|smaller| smaller != self);
        all
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

/// With one tunable as it is by default.
fn plainer<T: Default + Serialize + DeserializeOwned>(rule: &T, of: fn(T) -> Rule) -> Vec<Rule> {
    let table = |rule: &T| Table::try_from(rule).expect("a router is a table");
    let (own, plain) = (table(rule), table(&T::default()));
    let others = plain.into_iter().filter(|(tunable, value)| own[tunable] != *value);
    let with = |(tunable, value)| {
        let mut plainer = own.clone();
        plainer.insert(tunable, value);
        of(plainer.try_into().expect("a router with a default is a router"))
    };
    others.map(with).collect()
}

/// With a scorer less while one is left, with a weight of 1, or with the highest score.
fn lighter(rule: &Scorers) -> Vec<Rule> {
    let weights: [fn(&mut Scorers) -> &mut f64; 5] = [
        |rule| &mut rule.queue,
        |rule| &mut rule.kv_utilization,
        |rule| &mut rule.lora_affinity,
        |rule| &mut rule.residency,
        |rule| &mut rule.load,
    ];
    let scorers = || weights.into_iter().filter(|weight| *weight(&mut rule.clone()) > 0.0);
    let least = if scorers().count() > 1 { 0.0 } else { 1.0 };
    let mut all = vec![Scorers { picker: Picker::MaxScore, ..rule.clone() }];
    for (weight, value) in scorers().flat_map(|weight| [(weight, least), (weight, 1.0)]) {
        let mut lighter = rule.clone();
        *weight(&mut lighter) = value;
        all.push(lighter);
    }
    all.into_iter().map(Rule::Scorers).collect()
}
