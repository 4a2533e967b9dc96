//! Lies about where requests are and which replicas are on.

use aril_sim::fact::{End, Fact, Power};
use aril_sim::time::Span;
use aril_sim::workload::ReplicaId;

use super::Lie;
use super::run::{At, NOBODY};

const PS: Span = Span::from_ps(1);

pub(super) const LIES: &[Lie] = &[
    Lie {
        what: "two facts change places in time",
        named: "time runs backwards",
        tell: |run, place| {
            let next = run.facts.get(place + 1)?.0;
            let mut lied = run.clone();
            lied.facts.swap(place, place + 1);
            (next > run.facts[place].0).then_some(lied)
        },
    },
    Lie {
        what: "a request is not offered",
        named: "is not in the system",
        tell: |run, place| matches!(run.at(place).1, Fact::Offered(_)).then(|| run.without(place)),
    },
    Lie {
        what: "a request is offered twice",
        named: "requests are not offered in order",
        tell: |run, place| matches!(run.at(place).1, Fact::Offered(_)).then(|| run.twice(place)),
    },
    Lie {
        what: "a request arrives later than it is offered",
        named: "a request is not offered when it arrives",
        tell: |run, place| {
            run.offered(place, |offered| {
                offered.request.arrival += PS;
                Some(())
            })
        },
    },
    Lie {
        what: "nobody is preempted, or held, or routed",
        named: "is not in the system",
        tell: |run, place| {
            let request = NOBODY;
            let fact = match *run.at(place).1 {
                Fact::Held(_) => Fact::Held(request),
                Fact::Routed { replica, recompute, .. } => Fact::Routed { request, replica, recompute },
                Fact::Scheduled { replica, .. } => Fact::Scheduled { request, replica },
                Fact::Preempted { replica, blocks, cut, .. } => Fact::Preempted { request, replica, blocks, cut },
                Fact::Migrated { from, to, .. } => Fact::Migrated { request, from, to },
                _ => return None,
            };
            Some(run.with(place, fact))
        },
    },
    Lie {
        what: "the router is not told to have a request",
        named: "nobody was told to have it",
        tell: |run, place| {
            let (now, &Fact::Held(held)) = run.at(place) else { return None };
            let next = run.facts[place + 1..].iter().find(|(_, fact)| match fact {
                Fact::Routed { request, .. } => *request == held,
                Fact::Ended(life) => life.offered.request.id == held && life.end != End::Unfinished,
                _ => false,
            });
            (next?.0 > now && matches!(next?.1, Fact::Routed { .. })).then(|| run.without(place))
        },
    },
    Lie {
        what: "a request is held twice",
        named: "it is held twice",
        tell: |run, place| matches!(run.at(place).1, Fact::Held(_)).then(|| run.twice(place)),
    },
    Lie {
        what: "a request is routed twice",
        named: "the router has what waits at a replica",
        tell: |run, place| matches!(run.at(place).1, Fact::Routed { .. }).then(|| run.twice(place)),
    },
    Lie {
        what: "a request that is in a batch is with the router",
        named: "the router has what runs",
        tell: |run, place| {
            let &Fact::Scheduled { request, .. } = run.at(place).1 else { return None };
            Some(run.then(place, Fact::Held(request)))
        },
    },
    Lie {
        what: "a request is not routed",
        named: "it is scheduled where it does not wait",
        tell: |run, place| {
            // Preempted, it may as well stay where it is.
            let &Fact::Routed { request, replica, .. } = run.at(place).1 else { return None };
            (run.whereabouts(place, request) != Some(At::Queue(replica))).then(|| run.without(place))
        },
    },
    Lie {
        what: "a replica that is not on is given a request",
        named: "takes a request and is not on",
        tell: |run, place| {
            let &Fact::Routed { request, replica, recompute } = run.at(place).1 else { return None };
            let replica = run.other(place, replica, false)?;
            Some(run.with(place, Fact::Routed { request, replica, recompute }))
        },
    },
    Lie {
        what: "another replica is given a request",
        named: "it is scheduled where it does not wait",
        tell: |run, place| {
            let &Fact::Routed { request, replica, recompute } = run.at(place).1 else { return None };
            let replica = run.other(place, replica, true)?;
            Some(run.with(place, Fact::Routed { request, replica, recompute }))
        },
    },
    Lie {
        what: "a token more is computed again",
        named: "tokens are recomputed of",
        tell: |run, place| {
            let &Fact::Routed { request, replica, recompute } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::Routed { request, replica, recompute: recompute + 1 }))
        },
    },
    Lie {
        what: "a request is scheduled twice",
        named: "it is scheduled where it does not wait",
        tell: |run, place| matches!(run.at(place).1, Fact::Scheduled { .. }).then(|| run.twice(place)),
    },
    Lie {
        what: "a request is not scheduled",
        named: "is in a step and does not run there",
        tell: |run, place| {
            let &Fact::Scheduled { request, .. } = run.at(place).1 else { return None };
            // Whether it waits or runs when the run is cut is all the same.
            let has_row = |fact: &Fact<'_>| matches!(fact, Fact::Stretch(stretch) if stretch.rows.iter().any(|row| row.request == request));
            run.facts[place..].iter().any(|(_, fact)| has_row(fact)).then(|| run.without(place))
        },
    },
    Lie {
        what: "another replica preempts",
        named: "a request is preempted that does not run there",
        tell: |run, place| {
            let &Fact::Preempted { request, replica, blocks, cut } = run.at(place).1 else { return None };
            let count = run.case.scenario.settings.replicas.len() as u32;
            let replica = ReplicaId((replica.0 + 1) % count);
            (count > 1).then(|| run.with(place, Fact::Preempted { request, replica, blocks, cut }))
        },
    },
    Lie {
        what: "a request is preempted twice",
        named: "a request is preempted that does not run there",
        tell: |run, place| matches!(run.at(place).1, Fact::Preempted { .. }).then(|| run.twice(place)),
    },
    Lie {
        what: "a block too many is freed",
        named: "a preemption frees",
        tell: |run, place| {
            let &Fact::Preempted { request, replica, blocks, cut } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::Preempted { request, replica, blocks: blocks + 1, cut }))
        },
    },
    Lie {
        what: "a token too many is cut of a prompt",
        named: "tokens are cut of",
        tell: |run, place| {
            let &Fact::Preempted { request, replica, blocks, cut } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::Preempted { request, replica, blocks, cut: cut + 1 }))
        },
    },
    Lie {
        what: "nothing is cut of a prompt that was",
        named: "emits in the middle of its prefill",
        tell: |run, place| {
            let &Fact::Preempted { request, replica, blocks, cut } = run.at(place).1 else { return None };
            let finishes = |fact: &Fact<'_>| matches!(fact, Fact::Ended(life) if life.offered.request.id == request && life.end == End::Finished);
            let told = cut > 0 && run.facts[place..].iter().any(|(_, fact)| finishes(fact));
            told.then(|| run.with(place, Fact::Preempted { request, replica, blocks, cut: 0 }))
        },
    },
    Lie {
        what: "a request moves to a replica that is not on",
        named: "a request moves to a replica that is not on",
        tell: |run, place| {
            let &Fact::Migrated { request, from, to } = run.at(place).1 else { return None };
            let to = run.other(place, to, false)?;
            Some(run.with(place, Fact::Migrated { request, from, to }))
        },
    },
    Lie {
        what: "a request moves from where it is to where it is",
        named: "a request moves from where it is not, or nowhere",
        tell: |run, place| {
            let &Fact::Migrated { request, to, .. } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::Migrated { request, from: to, to }))
        },
    },
    Lie {
        what: "a request moves to another replica than the one that is given it",
        named: "it goes to another replica than it was to move to",
        tell: |run, place| {
            let &Fact::Migrated { request, from, to } = run.at(place).1 else { return None };
            let to = run.other(place, to, true).filter(|other| *other != from)?;
            Some(run.with(place, Fact::Migrated { request, from, to }))
        },
    },
    Lie {
        what: "power is switched twice",
        named: " goes from ",
        tell: |run, place| matches!(run.at(place).1, Fact::Power { .. }).then(|| run.twice(place)),
    },
    Lie {
        what: "a replica is on before its start is over",
        named: " goes from ",
        tell: |run, place| {
            let &Fact::Power { replica, power: Power::Starting } = run.at(place).1 else { return None };
            let startup = run.case.scenario.settings.replicas[replica.index()].startup;
            (!startup.is_zero()).then(|| run.then(place, Fact::Power { replica, power: Power::On }))
        },
    },
    Lie {
        what: "a replica that drains is off at once",
        named: "a replica goes off with work left",
        tell: |run, place| {
            let &Fact::Power { replica, power: Power::Draining } = run.at(place).1 else { return None };
            let off = Fact::Power { replica, power: Power::Off };
            // One that is empty may be.
            let next = run.facts[place + 1..].iter().find(|(_, fact)| {
                matches!(fact, Fact::Power { replica: of, .. } if *of == replica)
                    || matches!(fact, Fact::Stretch(stretch) if stretch.replica == replica)
            });
            matches!(next?.1, Fact::Stretch(_)).then(|| run.then(place, off))
        },
    },
    Lie {
        what: "a request that waits in a queue has finished",
        named: "a request finishes that does not run",
        tell: |run, place| {
            run.life(place, |life, offered| {
                let waits = matches!(run.whereabouts(place, offered.request.id), Some(At::Queue(_) | At::Router));
                life.end = End::Finished;
                waits.then_some(())
            })
        },
    },
];
