//! Routers that read indexes choose whom a look at every replica would choose, and draw the same random numbers.
//!
//! Each case is also a run in which many steps at once must be the same steps. One that fails is shrunk and kept, as in `differential`.

use std::ops::Range;

use aril_sim::conformance::shrink;
use aril_sim::fleet::Fleet;
use aril_sim::policy::router::LeastLoaded;
use aril_sim::policy::{Asked, Route, Router};
use aril_sim::random::{self, Stream};

use super::case::Case;
use super::differential::{check, soak_seeds};
use super::rules::Rule;
use super::twins::{Compared, Counts, with_twins};

fn compare(seeds: Range<u64>, case: fn(u64) -> Case) -> Compared {
    let counts = Counts::default();
    check(seeds.map(case), |case| case.fails_counted(&counts));
    std::mem::take(&mut *counts.lock().unwrap())
}

#[test]
#[ignore = "a soak for idle hours: set ARIL_SOAK_SEEDS=from..to"]
fn soak_of_choices() {
    println!("{:?}", compare(soak_seeds(), Case::of_choices));
}

#[test]
#[ignore = "a soak for idle hours: set ARIL_SOAK_SEEDS=from..to"]
fn soak_of_ties() {
    println!("{:?}", compare(soak_seeds(), Case::of_ties));
}

#[test]
fn indexes_choose_as_a_look_at_every_replica_does() {
    let compared = compare(0..800, Case::of_choices);
    assert!(compared.choices > 40_000 && compared.reduced > 30_000 && compared.drawn > 5_000, "{compared:?}");
    assert!(compared.of_rule.iter().all(|&choices| choices > 3_000), "{compared:?}");
}

#[test]
fn who_ties_is_drawn_as_from_a_list_of_all_who_tie() {
    let compared = compare(0..300, Case::of_ties);
    assert!(compared.choices > 3_000 && compared.drawn > 2_000, "{compared:?}");
}

#[test]
fn a_rule_in_a_file_is_the_same_rule() {
    let mut random = random::stream(1, "rules");
    for rule in std::iter::repeat_with(|| Rule::draw(&mut random)).take(1_000) {
        let text = toml::to_string(&rule).expect("a rule is a table");
        assert_eq!(toml::from_str::<Rule>(&text), Ok(rule), "{text}");
    }
}

/// As if an index had those who are busy in the wrong order: the last of the least loaded comes first.
struct LastOfTheLeast;

impl Router for LastOfTheLeast {
    fn route(&mut self, _: &Asked<'_>, fleet: &Fleet<'_>, _: &mut Stream) -> Route {
        let mut all = fleet.by_working_set();
        let Some((least, first)) = all.next() else { return Route::Hold };
        let last = all.take_while(|&(working_set, _)| working_set == least && least > 0).last();
        Route::To(last.map_or(first, |(_, last)| last))
    }
}

fn fails_by_order(case: &Case) -> Option<String> {
    let rule = case.rule.as_ref()?;
    case.fails_under(&with_twins(&case.policies, rule, |_| Box::new(LastOfTheLeast), &Counts::default()))
}

#[test]
fn another_choice_is_found_made_small_and_kept() {
    let rule = || Some(Rule::LeastLoaded(LeastLoaded::default()));
    let cases = (1..).map(|seed| Case { rule: rule(), ..Case::of_choices(seed) });
    let mut large = cases.filter(|case| case.scenario.settings.replicas.len() >= 30);
    let (found, told) = large.find_map(|case| fails_by_order(&case).map(|told| (case, told))).expect("one is told");
    let (small, told) = shrink(found, told, Case::smaller, fails_by_order);
    let size = (small.scenario.settings.replicas.len(), small.scenario.offered.len());
    assert_eq!(size, (2, 3), "both are busy, and somebody comes");
    assert!(told.contains("by a look at every replica"), "{told}");
    let back = Case::of_toml(&small.to_toml());
    assert_eq!(back, small);
    assert_eq!(fails_by_order(&back), Some(told));
}
