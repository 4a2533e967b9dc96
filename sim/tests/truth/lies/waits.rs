//! Lies about what the time before the first token went to.

use aril_sim::fact::{Fact, Waits};
use aril_sim::policy::LoadMode;
use aril_sim::settings::AdapterMemory;
use aril_sim::time::Span;
use aril_sim::workload::Request;

use super::Lie;
use super::run::Run;

const PS: Span = Span::from_ps(1);

/// Another account of the time of the request that ends here, if one does and `change` makes it another.
fn waits(run: &Run, place: usize, change: impl FnOnce(&mut Waits, &Request) -> Option<()>) -> Option<Run> {
    run.life(place, |life, offered| {
        let before = life.waits;
        change(&mut life.waits, &offered.request)?;
        (life.waits != before).then_some(())
    })
}

/// Was its adapter, if it has one, copied before this fact?
fn was_copied(run: &Run, place: usize, request: &Request) -> bool {
    let copied =
        |fact: &Fact<'_>| matches!(fact, Fact::LoadStarted { adapter, .. } if Some(*adapter) == request.adapter);
    run.facts[..place].iter().any(|(_, fact)| copied(fact))
}

/// Has every replica a place for every adapter?
fn has_all_places(run: &Run) -> bool {
    let adapters = run.case.scenario.catalog.adapters.len() as u32;
    let mut replicas = run.case.scenario.settings.replicas.iter();
    replicas.all(|replica| replica.max_loras >= adapters && replica.gpu_adapters == AdapterMemory::Unbounded)
}

pub(super) const LIES: &[Lie] = &[
    Lie {
        what: "it waited longer",
        named: "its waits sum to",
        tell: |run, place| {
            waits(run, place, |waits, _| {
                waits.queue += PS;
                Some(())
            })
        },
    },
    Lie {
        what: "it waited for the router and not in a queue",
        named: " ps for the router",
        tell: |run, place| {
            waits(run, place, |waits, _| {
                waits.router += std::mem::take(&mut waits.queue);
                Some(())
            })
        },
    },
    Lie {
        what: "it waited to return and not in a queue",
        named: " ps to return",
        tell: |run, place| {
            waits(run, place, |waits, _| {
                waits.preemption += std::mem::take(&mut waits.queue);
                Some(())
            })
        },
    },
    Lie {
        what: "it waited in a queue and not to return",
        named: " ps to return",
        tell: |run, place| {
            waits(run, place, |waits, _| {
                waits.queue += std::mem::take(&mut waits.preemption);
                Some(())
            })
        },
    },
    Lie {
        what: "it was in steps and not in a queue",
        named: "it was in steps for ",
        tell: |run, place| {
            waits(run, place, |waits, _| {
                waits.prefill += std::mem::take(&mut waits.queue);
                Some(())
            })
        },
    },
    Lie {
        what: "its step did not wait for copies",
        named: " ps for copies",
        tell: |run, place| {
            let blocks = run.case.policies.load_mode == LoadMode::Blocking;
            let told = waits(run, place, |waits, _| {
                waits.queue += std::mem::take(&mut waits.load);
                Some(())
            });
            told.filter(|_| blocks)
        },
    },
    Lie {
        what: "it waited for a copy and not in a queue, and nothing was copied",
        named: "a copy for it was on its way for ",
        tell: |run, place| {
            waits(run, place, |waits, request| {
                waits.load += std::mem::take(&mut waits.queue);
                (!was_copied(run, place, request)).then_some(())
            })
        },
    },
    Lie {
        what: "it waited for a place and not in a queue, and needs none",
        named: "there was no place for its adapter for ",
        tell: |run, place| {
            waits(run, place, |waits, request| {
                waits.slot += std::mem::take(&mut waits.queue);
                request.adapter.is_none().then_some(())
            })
        },
    },
    Lie {
        what: "it waited for a place and not in a queue, and there was room for all",
        named: "there was no place for its adapter for ",
        tell: |run, place| {
            waits(run, place, |waits, _| {
                waits.slot += std::mem::take(&mut waits.queue);
                has_all_places(run).then_some(())
            })
        },
    },
];
