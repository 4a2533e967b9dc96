//! Many decode steps advanced at once tell the same facts as a naive run, step by step, under random policies.
//!
//! A case that fails is shrunk and kept as a file in `regressions`, whose cases are run again, always.
//! `ARIL_SOAK_SEEDS=1000000..1200000 cargo test --release -p aril-sim soak -- --ignored` looks further than CI does.

use std::collections::BTreeMap;
use std::ops::Range;

use aril_sim::conformance::shrink;
use aril_sim::fact::{End, Fact, LoadCause, Observer, Power, RejectReason, Tier};
use aril_sim::time::Time;

use super::case::Case;

/// Panics at the first that fails, shrunk and kept.
pub(super) fn check(cases: impl IntoIterator<Item = Case>, fails: impl Fn(&Case) -> Option<String>) {
    for case in cases {
        if let Some(problem) = fails(&case) {
            let (case, problem) = shrink(case, problem, Case::smaller, &fails);
            panic!("seed {}: {problem}\nshrunk to {}", case.scenario.seed, case.keep(&problem).display());
        }
    }
}

#[test]
fn many_steps_at_once_are_the_same_steps_and_the_books_balance() {
    check((1..=4_000).map(Case::draw), Case::fails);
}

#[test]
#[ignore = "a soak for idle hours: set ARIL_SOAK_SEEDS=from..to"]
fn soak() {
    check(soak_seeds().map(Case::draw), Case::fails);
}

/// Those that `ARIL_SOAK_SEEDS` says.
pub(super) fn soak_seeds() -> Range<u64> {
    let range = std::env::var("ARIL_SOAK_SEEDS").expect("ARIL_SOAK_SEEDS=from..to says which seeds");
    let (from, to) = range.split_once("..").expect("ARIL_SOAK_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// How often each kind of fact is told.
#[derive(Debug, Default)]
struct Reach {
    counts: BTreeMap<&'static str, u64>,
}

impl Observer for Reach {
    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        let mut count = |what, times: u32| *self.counts.entry(what).or_default() += u64::from(times);
        match fact {
            Fact::Held(_) => count("held", 1),
            Fact::Routed { recompute, .. } => count("routed again", u32::from(*recompute > 0)),
            Fact::Preempted { cut, .. } => {
                count("preempted", 1);
                count("cut in a prompt", u32::from(*cut > 0));
            }
            Fact::Migrated { .. } => count("migrated", 1),
            Fact::Power { power, .. } => count(if *power == Power::Off { "powered off" } else { "power" }, 1),
            Fact::Evicted { tier, .. } => {
                count(if *tier == Tier::Gpu { "evicted" } else { "evicted from the host" }, 1)
            }
            Fact::LoadStarted { from: Tier::Disk, .. } => count("loaded from disk", 1),
            Fact::LoadStarted { cause: LoadCause::Prefetch, .. } => count("fetched ahead", 1),
            Fact::LoadStarted { .. } => count("loaded", 1),
            Fact::Stretch(stretch) => {
                count("steps", stretch.steps);
                count("stretches", u32::from(stretch.steps > 1));
                count("stalled steps", u32::from(!stretch.stall.is_zero()));
                count("padded steps", u32::from(stretch.padding_rows > 0));
                let mixed = stretch.decode_rows() > 0 && stretch.prefill_tokens() > 0;
                count("mixed steps", u32::from(mixed));
                count("chunks", stretch.rows.iter().filter(|row| row.prefill && !row.emits).count() as u32);
                let discarded = stretch.rows.iter().filter(|row| !row.prefill && !row.emits).count();
                count("discarded tokens", discarded as u32);
            }
            Fact::Ended(life) => count(
                match life.end {
                    End::Finished => "finished",
                    End::TimedOut => "timed out",
                    End::Unfinished => "unfinished",
                    End::Rejected(RejectReason::Router) => "turned away",
                    End::Rejected(RejectReason::TooLong) => "too long",
                    End::Rejected(RejectReason::AdapterTooLarge) => "adapter too large",
                },
                1,
            ),
            Fact::Offered(_) | Fact::Scheduled { .. } | Fact::LoadDone { .. } => {}
        }
    }
}

#[test]
fn the_random_cases_reach_everything_that_can_happen() {
    let mut reach = Reach::default();
    let mut stalls = 0;
    for seed in 1..=1_000 {
        let case = Case::draw(seed);
        stalls += u64::from(case.scenario.run(&case.policies.make(), true, &mut reach).is_err());
    }
    assert_eq!(reach.counts.len(), 25, "{reach:?}");
    for (what, &count) in &reach.counts {
        // Blocks must run out while a long prompt is on its way.
        let least = if *what == "cut in a prompt" { 50 } else { 100 };
        assert!(count >= least, "{what}: {count} in a thousand cases");
    }
    assert!(stalls < 50, "{stalls} of a thousand cases stall");
}

/// Does anybody give way in the case?
fn preempts(case: &Case) -> Option<String> {
    let mut reach = Reach::default();
    let _ = case.scenario.run(&case.policies.make(), true, &mut reach);
    reach.counts.get("preempted").filter(|&&count| count > 0).map(|count| format!("{count} preempted"))
}

/// As if it were a fault that anybody gives way: what is found is made small, and a file brings it back.
#[test]
fn a_fault_is_found_made_small_and_kept() {
    let mut cases = (1..).map(Case::draw);
    let (found, told) = cases.find_map(|case| preempts(&case).map(|told| (case, told))).expect("one preempts");
    let large = found.scenario.offered.len();
    let (small, told) = shrink(found, told, Case::smaller, preempts);
    assert!(small.scenario.offered.len() * 4 < large, "{large} requests became {}", small.scenario.offered.len());
    assert!(small.smaller().iter().all(|simpler| preempts(simpler).is_none()), "a simpler one fails, too");
    let back = Case::of_toml(&small.to_toml());
    assert_eq!(back, small);
    assert_eq!(preempts(&back), Some(told));
}
