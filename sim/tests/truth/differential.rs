//! Many decode steps advanced at once tell the same facts as a naive run, step by step, under random policies.
//!
//! `ARIL_SOAK_SEEDS=1000000..1200000 cargo test --release -p aril-sim soak -- --ignored` looks further than CI does.

use std::fmt;

use aril_sim::conformance::{RandomPolicies, Scenario, Terrain, differs, shrink, watched};
use aril_sim::random;

/// Seeds of every failure that was ever found here: they stay fixed.
const ONCE_FAILED: &[u64] = &[2, 6, 16, 33, 183, 8782, 19759, 26333];

#[derive(Clone, Debug)]
struct Case {
    scenario: Scenario,
    policies: RandomPolicies,
}

impl Case {
    fn draw(seed: u64) -> Case {
        let scenario = Scenario::draw(seed, Terrain::Any);
        let policies = RandomPolicies::draw(&mut random::stream(seed, "random policies"), scenario.unit);
        Case { scenario, policies }
    }

    /// What is wrong with the engine in this case? None: nothing.
    fn fails(&self) -> Option<String> {
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

    fn smaller(&self) -> Vec<Case> {
        let scenarios = self.scenario.smaller().into_iter().map(|scenario| Case { scenario, ..self.clone() });
        let policies = self.policies.smaller().into_iter().map(|policies| Case { policies, ..self.clone() });
        policies.chain(scenarios).collect()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{:?}", self.scenario, self.policies)
    }
}

fn check(seeds: impl IntoIterator<Item = u64>) {
    for seed in seeds {
        let case = Case::draw(seed);
        if let Some(problem) = case.fails() {
            let (case, problem) = shrink(case, problem, Case::smaller, Case::fails);
            panic!("seed {seed}, shrunk:\n{problem}\n{case}");
        }
    }
}

#[test]
fn many_steps_at_once_are_the_same_steps_and_the_books_balance() {
    check(1..=4_000);
}

#[test]
fn what_once_failed_stays_fixed() {
    check(ONCE_FAILED.iter().copied());
}

#[test]
#[ignore = "a soak for idle hours: set ARIL_SOAK_SEEDS=from..to"]
fn soak() {
    let range = std::env::var("ARIL_SOAK_SEEDS").expect("ARIL_SOAK_SEEDS=from..to says which seeds");
    let (from, to) = range.split_once("..").expect("ARIL_SOAK_SEEDS=from..to");
    check(from.parse::<u64>().expect("a number")..to.parse().expect("a number"));
}
