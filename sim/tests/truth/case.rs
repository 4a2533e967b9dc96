//! A random scenario under random policies: drawn, run both ways, made smaller, and kept as a file.

use std::path::PathBuf;

use aril_sim::conformance::{RandomPolicies, Scenario, Terrain, differs, watched};
use aril_sim::random;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) policies: RandomPolicies,
    pub(super) scenario: Scenario,
}

impl Case {
    pub(super) fn draw(seed: u64) -> Case {
        let scenario = Scenario::draw(seed, Terrain::Any);
        let policies = RandomPolicies::draw(&mut random::stream(seed, "random policies"), scenario.unit);
        Case { scenario, policies }
    }

    /// What is wrong with the engine in this case? None: nothing.
    pub(super) fn fails(&self) -> Option<String> {
        let policies = self.policies.make();
        let at_once = match watched(&self.scenario, &policies, true) {
            Ok(run) => run,
            Err(problem) => return Some(format!("at once: {problem}")),
        };
        match watched(&self.scenario, &policies, false) {
            Ok(run) => differs(at_once, run),
            Err(problem) => Some(format!("step by step: {problem}")),
        }
    }

    pub(super) fn smaller(&self) -> Vec<Case> {
        let scenarios = self.scenario.smaller().into_iter().map(|scenario| Case { scenario, ..self.clone() });
        let policies = self.policies.smaller().into_iter().map(|policies| Case { policies, ..self.clone() });
        policies.chain(scenarios).collect()
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
        let path = Case::folder().join(format!("seed-{}.toml", self.scenario.seed));
        let told: String = problem.lines().map(|line| format!("# {line}\n")).collect();
        std::fs::write(&path, told + &self.to_toml()).expect("the folder of regressions can be written");
        path
    }
}
