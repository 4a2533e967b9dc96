//! A random scenario under random policies: drawn, run both ways, made smaller, and kept as a file. With a rule, its built-in router takes
//! the place of the random one, and must choose as a look at every replica does.

use std::path::PathBuf;

use aril_sim::conformance::{RandomPolicies, Scenario, Terrain, differs, watched};
use aril_sim::policy::Policies;
use aril_sim::policy::router::{Picker, Scorers};
use aril_sim::random::{self, Stream};
use aril_sim::settings::ReplicaSettings;
use aril_sim::time::Span;
use aril_sim::workload::RequestId;
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::rules::Rule;
use super::twins::{Counts, with_twins};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Case {
    /// In place of the random router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Rule>,
    pub(super) policies: RandomPolicies,
    pub(super) scenario: Scenario,
}

impl Case {
    pub(super) fn draw(seed: u64) -> Case {
        let scenario = Scenario::draw(seed, Terrain::Any);
        let policies = RandomPolicies::draw(&mut random::stream(seed, "random policies"), scenario.unit);
        Case { rule: None, policies, scenario }
    }

    /// A larger fleet under a rule.
    pub(super) fn of_choices(seed: u64) -> Case {
        let mut random = random::stream(seed, "decisions");
        let mut scenario = fleet_of(seed, &mut random);
        let is_stale = seed.is_multiple_of(3);
        scenario.settings.signals_interval =
            if is_stale { scenario.unit * u64::from(1 + random.next_u32() % 60) } else { Span::ZERO };
        let policies = RandomPolicies::draw(&mut random, scenario.unit);
        Case { rule: Some(Rule::draw(&mut random)), policies, scenario }
    }

    /// Replicas that are alike under scorers, so that many have the highest score: a hundred that are mostly idle, or four
    /// whose batches have one adapter each.
    pub(super) fn of_ties(seed: u64) -> Case {
        let mut case = Case::of_choices(seed);
        let replicas = &mut case.scenario.settings.replicas;
        let starts_on: Vec<bool> = replicas.iter().map(|replica| replica.starts_on).collect();
        let (count, max_loras) = if seed.is_multiple_of(2) { (100, replicas[0].max_loras) } else { (4, 1) };
        let one = |&starts_on: &bool| ReplicaSettings { starts_on, max_loras, ..replicas[0].clone() };
        *replicas = starts_on.iter().cycle().take(count).map(one).collect();
        let mut random = random::stream(seed, "ties");
        let highest = |rule: &Rule| matches!(rule, Rule::Scorers(Scorers { picker: Picker::MaxScore, .. }));
        case.rule = std::iter::repeat_with(|| Rule::draw(&mut random)).find(highest);
        case
    }

    /// What is wrong with the engine, or with what the router chooses, in this case? None: nothing.
    pub(super) fn fails(&self) -> Option<String> {
        self.fails_counted(&Counts::default())
    }

    /// The same, and counts the choices.
    pub(super) fn fails_counted(&self, counts: &Counts) -> Option<String> {
        match &self.rule {
            Some(rule) => self.fails_under(&with_twins(&self.policies, rule, Rule::router, counts)),
            None => self.fails_under(&self.policies.make()),
        }
    }

    /// What is wrong with the scenario's run under these policies?
    pub(super) fn fails_under(&self, policies: &Policies) -> Option<String> {
        let at_once = match watched(&self.scenario, policies, true) {
            Ok(run) => run,
            Err(problem) => return Some(format!("at once: {problem}")),
        };
        match watched(&self.scenario, policies, false) {
            Ok(run) => differs(at_once, run),
            Err(problem) => Some(format!("step by step: {problem}")),
        }
    }

    pub(super) fn smaller(&self) -> Vec<Case> {
        let scenarios = self.scenario.smaller().into_iter().map(|scenario| Case { scenario, ..self.clone() });
        let policies = self.policies.smaller().into_iter().map(|policies| Case { policies, ..self.clone() });
        let rules = self.rule.iter().flat_map(|rule| {
            let without = std::iter::once(None);
            without.chain(rule.smaller().into_iter().map(Some)).map(|rule| Case { rule, ..self.clone() })
        });
        policies.chain(rules).chain(scenarios).collect()
    }

    /// The case as a file.
    pub(super) fn to_toml(&self) -> String {
        toml::to_string(self).expect("a case has only numbers, texts and lists")
    }

    /// The case of a file.
    pub(super) fn of_toml(text: &str) -> Case {
        toml::from_str(text).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Where files of cases that once failed lie; all of them are run again.
    pub(super) fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/truth/regressions")
    }

    /// Keeps the case among those, and says where.
    pub(super) fn keep(&self, problem: &str) -> PathBuf {
        let kind = if self.rule.is_some() { "choice" } else { "seed" };
        let path = Case::folder().join(format!("{kind}-{}.toml", self.scenario.seed));
        let told: String = problem.lines().map(|line| format!("# {line}\n")).collect();
        std::fs::write(&path, told + &self.to_toml()).expect("the folder of regressions can be written");
        path
    }
}

/// A scenario with up to 120 replicas, set each as another scenario has them, and its requests several times.
fn fleet_of(seed: u64, random: &mut Stream) -> Scenario {
    let mut scenario = Scenario::draw(seed, Terrain::Any);
    // Few fleets are large: one look at everybody a choice takes its time.
    let most = if random.next_u32().is_multiple_of(8) { 120 } else { 40 };
    let replicas = 1 + random.next_u32() % most;
    let alike = random.next_u32().is_multiple_of(2);
    let own = |id: u32| -> ReplicaSettings {
        let other = Scenario::draw(seed * 1_000 + u64::from(if alike { id % 2 } else { id }), Terrain::Any);
        other.settings.replicas[0].clone()
    };
    let is_on = |id: u32, random: &mut Stream| id == 0 || !random.next_u32().is_multiple_of(4);
    scenario.settings.replicas =
        (0..replicas).map(|id| ReplicaSettings { starts_on: is_on(id, random), ..own(id) }).collect();
    let times = 1 + random.next_u32() % 6;
    let each = scenario.offered.iter().flat_map(|offered| (0..times).map(|_| offered.clone()));
    scenario.offered = each.collect();
    for (id, offered) in (0..).map(RequestId).zip(&mut scenario.offered) {
        offered.request.id = id;
    }
    scenario
}
