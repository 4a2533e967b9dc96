//! What every policy must keep to, and what ours claims.

use aril_sim::conformance::{Check, RandomPolicies};
use aril_sim::policy::Tunable;
use sticky_drain::StickyDrain;

#[test]
fn sticky_drain_conforms() {
    for tunables in [StickyDrain::default(), StickyDrain::new(3, 1), StickyDrain::new(1, 0)] {
        let mut policies = RandomPolicies::plain(7).make();
        policies.router = Box::new(move || Box::new(tunables.clone()));
        if let Err(failure) = Check::default().run(&policies) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_replica_that_would_resume_before_it_drains_is_refused() {
    let wrong = StickyDrain::new(4, 4);
    assert!(wrong.validate().is_err());
}

#[test]
fn the_scenario_of_the_example_names_a_registered_router() {
    let registry = aril::Registry::empty().router::<StickyDrain>("sticky-drain");
    let about = registry.abouts();
    assert_eq!(about[0].name, "sticky-drain");
    let tunables = about[0].tunables.as_ref().expect("every tunable has a default");
    assert_eq!(tunables["drain_above"].as_integer(), Some(48));
}
