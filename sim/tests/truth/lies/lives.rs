//! Lies about the end of a request, and about what it was.

use aril_sim::fact::{End, Fact, RejectReason};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{ReplicaId, RequestId, TenantId};

use super::Lie;
use super::run::{At, Run};

const PS: Span = Span::from_ps(1);

/// Is a request of this tenant in the system just before this fact?
fn lives(run: &Run, place: usize, tenant: TenantId) -> bool {
    let mut offered = run.case.scenario.offered.iter().filter(|offered| offered.request.tenant == tenant);
    offered.any(|offered| run.whereabouts(place, offered.request.id).is_some())
}

/// The next end after this one of a request of another tenant that came at another time.
fn next_of_another(run: &Run, place: usize) -> Option<usize> {
    let Fact::Ended(first) = run.at(place).1 else { return None };
    let (tenant, arrival) = (first.offered.request.tenant, first.offered.request.arrival);
    let ends = run.facts.iter().enumerate().skip(place).filter_map(|(at, (_, fact))| match fact {
        Fact::Ended(life) => Some((at, &life.offered.request)),
        _ => None,
    });
    let came = |at: usize| run.whereabouts(place, id_of(run, at)).is_some();
    let mut others = ends.filter(|(_, request)| request.tenant != tenant && request.arrival != arrival);
    others.find(|(at, _)| came(*at)).map(|(at, _)| at)
}

fn id_of(run: &Run, end: usize) -> RequestId {
    let Fact::Ended(life) = run.at(end).1 else { panic!("it is an end") };
    life.offered.request.id
}

fn of_tenant(run: &Run, place: usize, tenant: TenantId) -> Option<Run> {
    run.life(place, |_, offered| {
        offered.request.tenant = tenant;
        Some(())
    })
}

fn tenant_of(run: &Run, end: usize) -> Option<TenantId> {
    let Fact::Ended(life) = run.at(end).1 else { return None };
    Some(life.offered.request.tenant)
}

pub(super) const LIES: &[Lie] = &[
    Lie {
        what: "a request does not end",
        named: "never ended",
        tell: |run, place| matches!(run.at(place).1, Fact::Ended(_)).then(|| run.without(place)),
    },
    Lie {
        what: "a request ends twice",
        named: "a request ends twice",
        tell: |run, place| matches!(run.at(place).1, Fact::Ended(_)).then(|| run.twice(place)),
    },
    Lie {
        what: "a request ends that came earlier",
        named: "Little's law: ",
        tell: |run, place| {
            run.life(place, |_, offered| {
                let earlier = offered.request.arrival.as_ps().checked_sub(1)?;
                offered.request.arrival = Time::from_ps(earlier);
                Some(())
            })
        },
    },
    Lie {
        what: "a request ends that comes later",
        named: "a request ends before it arrives",
        tell: |run, place| {
            run.life(place, |_, offered| {
                offered.request.arrival = run.at(place).0 + PS;
                Some(())
            })
        },
    },
    Lie {
        what: "of two requests each ends as that of the other's tenant",
        named: "Little's law for tenant",
        tell: |run, place| {
            let other = next_of_another(run, place)?;
            let (first, second) = (tenant_of(run, place)?, tenant_of(run, other)?);
            of_tenant(&of_tenant(run, place, second)?, other, first)
        },
    },
    Lie {
        what: "a request ends as that of a tenant who has none",
        named: "more requests of a tenant end than came",
        tell: |run, place| {
            let own = tenant_of(run, place)?;
            let all = (0..run.case.scenario.catalog.tenants.len() as u32).map(TenantId);
            let other = all.filter(|tenant| *tenant != own).find(|tenant| !lives(run, place, *tenant))?;
            of_tenant(run, place, other)
        },
    },
    Lie {
        what: "a run is cut, and a client gave up",
        named: "a client gives up, and not when its time is over",
        tell: |run, place| {
            run.life(place, |life, offered| {
                let due = run.case.scenario.settings.client_timeout.map(|span| offered.request.arrival + span);
                let is_lie = life.end == End::Unfinished && due != Some(run.at(place).0);
                life.end = End::TimedOut;
                is_lie.then_some(())
            })
        },
    },
    Lie {
        what: "a client gives up, and the run was cut",
        named: "a run is cut, and not at its horizon",
        tell: |run, place| {
            run.life(place, |life, _| {
                let is_lie = life.end == End::TimedOut
                    && run.case.scenario.settings.horizon.is_none_or(|span| run.at(place).0.as_ps() != span.as_ps());
                life.end = End::Unfinished;
                is_lie.then_some(())
            })
        },
    },
    Lie {
        what: "a request that is in a batch was turned away",
        named: "the router has what runs",
        tell: |run, place| {
            run.life(place, |life, offered| {
                life.end = End::Rejected(RejectReason::Router);
                matches!(run.whereabouts(place, offered.request.id), Some(At::Batch(_))).then_some(())
            })
        },
    },
    Lie {
        what: "a token too many",
        named: "it emitted ",
        tell: |run, place| {
            run.life(place, |life, _| {
                life.emitted += 1;
                Some(())
            })
        },
    },
    Lie {
        what: "it has finished with a token less than it asked for",
        named: "finished is not what it is",
        tell: |run, place| {
            run.offered(place, |offered| {
                offered.outcome.output_tokens += 1;
                let end = run.facts[place..].iter().find_map(|(_, fact)| match fact {
                    Fact::Ended(life) if life.offered.request.id == offered.request.id => Some(life.end),
                    _ => None,
                });
                (end == Some(End::Finished)).then_some(())
            })
        },
    },
    Lie {
        what: "it emits a token more than it asked for",
        named: " emits more than its output",
        tell: |run, place| {
            run.offered(place, |offered| {
                offered.outcome.output_tokens -= 1;
                let has_all = |(_, fact): &(_, Fact<'_>)| match fact {
                    Fact::Ended(life) => life.offered.request.id == offered.request.id && life.end == End::Finished,
                    _ => false,
                };
                run.facts[place..].iter().any(has_all).then_some(())
            })
        },
    },
    Lie {
        what: "it finishes after its last token",
        named: "it ends after its last token",
        tell: |run, place| {
            let (now, Fact::Ended(life)) = run.at(place) else { return None };
            let later = place + run.facts[place..].iter().position(|(time, _)| *time > now)?;
            let mut lied = run.without(place);
            lied.facts.insert(later - 1, (run.facts[later].0, Fact::Ended(life.clone())));
            (life.end == End::Finished).then_some(lied)
        },
    },
    Lie {
        what: "it was scheduled later",
        named: "it was scheduled at",
        tell: |run, place| {
            run.life(place, |life, _| {
                life.scheduled = Some(life.scheduled? + PS);
                Some(())
            })
        },
    },
    Lie {
        what: "it ends without a first token",
        named: "its first token was at",
        tell: |run, place| run.life(place, |life, _| life.first_token.take().map(|_| ())),
    },
    Lie {
        what: "it was at another replica",
        named: "it was last at ",
        tell: |run, place| {
            run.life(place, |life, _| {
                life.replica = Some(ReplicaId(life.replica?.0 + 1));
                Some(())
            })
        },
    },
    Lie {
        what: "it was preempted once more",
        named: "it was preempted ",
        tell: |run, place| {
            run.life(place, |life, _| {
                life.preemptions += 1;
                Some(())
            })
        },
    },
    Lie {
        what: "a preemption is not told",
        named: "it was preempted ",
        tell: |run, place| matches!(run.at(place).1, Fact::Preempted { .. }).then(|| run.without(place)),
    },
    Lie {
        what: "it was moved once more",
        named: "it was moved ",
        tell: |run, place| {
            run.life(place, |life, _| {
                life.migrations += 1;
                Some(())
            })
        },
    },
    Lie {
        what: "its adapter was there, or was not",
        named: "its adapter was there: ",
        tell: |run, place| {
            run.life(place, |life, _| {
                life.adapter_hit = Some(!life.adapter_hit?);
                Some(())
            })
        },
    },
    Lie {
        what: "it ends with another prompt than it came with",
        named: "it was offered as",
        tell: |run, place| {
            run.life(place, |_, offered| {
                offered.request.prompt_tokens += 1;
                Some(())
            })
        },
    },
];
