//! Routers that read indexes choose whom a look at every replica would choose, and draw the same random numbers.

use std::ops::Range;

use aril_sim::conformance::{RandomPolicies, Scenario, Terrain};
use aril_sim::random::{self, Stream};
use aril_sim::settings::ReplicaSettings;
use aril_sim::time::Span;
use aril_sim::workload::RequestId;
use rand::Rng;

use super::differential::soak_seeds;
use super::rules::Rule;
use super::twins::{Compared, Counts, with_twins};

/// A scenario with as many replicas as that, set each as another scenario has them, and its requests several times.
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

fn compare(seeds: Range<u64>) -> Compared {
    let counts = Counts::default();
    for seed in seeds {
        let mut random = random::stream(seed, "decisions");
        let mut scenario = fleet_of(seed, &mut random);
        scenario.settings.signals_interval =
            if seed % 3 == 0 { scenario.unit * u64::from(1 + random.next_u32() % 60) } else { Span::ZERO };
        let policies = RandomPolicies::draw(&mut random, scenario.unit);
        let policies = with_twins(&policies, &Rule::draw(&mut random), Rule::router, &counts);
        let _ = scenario.run(&policies, seed % 2 == 0, &mut ());
    }
    std::mem::take(&mut *counts.lock().unwrap())
}

#[test]
#[ignore = "a soak for idle hours: set ARIL_SOAK_SEEDS=from..to"]
fn soak_of_choices() {
    println!("{:?}", compare(soak_seeds()));
}

#[test]
fn indexes_choose_as_a_look_at_every_replica_does() {
    let compared = compare(0..1_500);
    assert!(compared.choices > 20_000 && compared.reduced > 5_000 && compared.drawn > 1_000, "{compared:?}");
    assert!(compared.of_rule.iter().all(|&choices| choices > 2_000), "{compared:?}");
}
