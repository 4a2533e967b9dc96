//! Lies about where adapters are and what links carry.

use aril_sim::fact::{Fact, Tier};
use aril_sim::settings::AdapterMemory;
use aril_sim::time::{Span, Time};

use super::Lie;
use super::run::Run;

const PS: Span = Span::from_ps(1);

/// The copy that starts here, if one does.
struct Load {
    from: Tier,
    bytes: u64,
    start: Time,
    done: Time,
}

/// Another copy in place of the one that starts here, if one does and `change` can.
fn load(run: &Run, place: usize, change: impl FnOnce(&mut Load) -> Option<()>) -> Option<Run> {
    let &Fact::LoadStarted { replica, adapter, from, bytes, cause, start, done } = run.at(place).1 else { return None };
    let mut load = Load { from, bytes, start, done };
    change(&mut load)?;
    let Load { from, bytes, start, done } = load;
    Some(run.with(place, Fact::LoadStarted { replica, adapter, from, bytes, cause, start, done }))
}

// What is still to come when the run is over is missed by nobody.
pub(super) const LIES: &[Lie] = &[
    Lie {
        what: "a copy has a byte more",
        named: "and other bytes are told",
        tell: |run, place| {
            load(run, place, |load| {
                load.bytes += 1;
                Some(())
            })
        },
    },
    Lie {
        what: "a copy ends with a byte more",
        named: "and other bytes are told",
        tell: |run, place| {
            let &Fact::LoadDone { replica, adapter, from, bytes } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::LoadDone { replica, adapter, from, bytes: bytes + 1 }))
        },
    },
    Lie {
        what: "an adapter leaves with a byte more",
        named: "and other bytes are told",
        tell: |run, place| {
            let &Fact::Evicted { replica, adapter, tier, bytes } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::Evicted { replica, adapter, tier, bytes: bytes + 1 }))
        },
    },
    Lie {
        what: "a copy started before it is told",
        named: "a copy starts in the past",
        tell: |run, place| {
            load(run, place, |load| {
                let now = run.at(place).0;
                let earlier = Time::from_ps(load.start.as_ps().checked_sub(1)?);
                (load.start, load.done) = (earlier, earlier + load.done.since(load.start));
                (earlier < now).then_some(())
            })
        },
    },
    Lie {
        what: "a copy from the GPU",
        named: "nothing is copied from there",
        tell: |run, place| {
            load(run, place, |load| {
                load.from = Tier::Gpu;
                Some(())
            })
        },
    },
    Lie {
        what: "a copy from a disk, of what is in the host anyhow",
        named: "nothing is copied from there",
        tell: |run, place| {
            let &Fact::LoadStarted { replica, .. } = run.at(place).1 else { return None };
            let settings = &run.case.scenario.settings.replicas[replica.index()];
            load(run, place, |load| {
                load.from = Tier::Disk;
                (settings.host_adapters == AdapterMemory::Unbounded).then_some(())
            })
        },
    },
    Lie {
        what: "a copy takes longer",
        named: "a copy takes another time than its link says",
        tell: |run, place| {
            load(run, place, |load| {
                load.done += PS;
                Some(())
            })
        },
    },
    Lie {
        what: "a copy starts twice",
        named: "two copies on a link overlap",
        tell: |run, place| matches!(run.at(place).1, Fact::LoadStarted { .. }).then(|| run.twice(place)),
    },
    Lie {
        what: "a copy to the GPU that takes no time starts twice",
        named: "an adapter is copied that is there",
        tell: |run, place| {
            let &Fact::LoadStarted { from, start, done, .. } = run.at(place).1 else { return None };
            (from == Tier::Host && start == done).then(|| run.twice(place))
        },
    },
    Lie {
        what: "a copy from disk that takes no time starts twice",
        named: "a copy from disk is begun twice",
        tell: |run, place| {
            let &Fact::LoadStarted { from, start, done, .. } = run.at(place).1 else { return None };
            (from == Tier::Disk && start == done).then(|| run.twice(place))
        },
    },
    Lie {
        what: "a copy from disk never began",
        named: "a copy starts before it is in the host",
        tell: |run, place| {
            let &Fact::LoadStarted { from: Tier::Disk, done, .. } = run.at(place).1 else { return None };
            (done < run.end()).then(|| run.without(place))
        },
    },
    Lie {
        what: "a copy to the GPU never began",
        named: "a request is scheduled whose adapter is not there",
        tell: |run, place| {
            let &Fact::LoadStarted { from: Tier::Host, done, .. } = run.at(place).1 else { return None };
            (done < run.end()).then(|| run.without(place))
        },
    },
    Lie {
        what: "a copy ends that never began",
        named: "a copy is done that was not started",
        tell: |run, place| {
            let &Fact::LoadStarted { from: Tier::Host, done, .. } = run.at(place).1 else { return None };
            (done < run.end()).then(|| run.without(place))
        },
    },
    Lie {
        what: "a copy ends twice",
        named: "a copy is done when it was not due",
        tell: |run, place| matches!(run.at(place).1, Fact::LoadDone { .. }).then(|| run.twice(place)),
    },
    Lie {
        what: "a copy ends on the way to nowhere",
        named: "a copy is done when it was not due",
        tell: |run, place| {
            let &Fact::LoadDone { replica, adapter, from: Tier::Host, bytes } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::LoadDone { replica, adapter, from: Tier::Gpu, bytes }))
        },
    },
    Lie {
        what: "an adapter leaves twice",
        named: "an adapter is evicted that is not there",
        tell: |run, place| matches!(run.at(place).1, Fact::Evicted { .. }).then(|| run.twice(place)),
    },
    Lie {
        what: "an adapter leaves the disk",
        named: "an adapter is evicted that is not there",
        tell: |run, place| {
            let &Fact::Evicted { replica, adapter, bytes, .. } = run.at(place).1 else { return None };
            Some(run.with(place, Fact::Evicted { replica, adapter, tier: Tier::Disk, bytes }))
        },
    },
    Lie {
        what: "an adapter does not leave, and another takes its place",
        named: "an adapter is copied that is there",
        tell: |run, place| {
            let &Fact::Evicted { replica, adapter, tier: Tier::Gpu, .. } = run.at(place).1 else { return None };
            let again = |(_, fact): &(Time, Fact<'static>)| {
                matches!(fact, Fact::LoadStarted { replica: at, adapter: copied, from: Tier::Host, .. }
                    if (*at, *copied) == (replica, adapter))
            };
            let off =
                |(_, fact): &(Time, Fact<'static>)| matches!(fact, Fact::Power { replica: at, .. } if *at == replica);
            let next = run.facts[place..].iter().find(|fact| again(fact) || off(fact))?;
            again(next).then(|| run.without(place))
        },
    },
    Lie {
        what: "the end of a copy is not told",
        named: "a copy was due and is not done",
        tell: |run, place| {
            let (now, Fact::LoadDone { .. }) = run.at(place) else { return None };
            (now < run.end()).then(|| run.without(place))
        },
    },
    Lie {
        what: "an adapter leaves that is still to come",
        named: "an adapter is evicted that is on its way",
        tell: |run, place| {
            let &Fact::LoadStarted { replica, adapter, from, bytes, .. } = run.at(place).1 else { return None };
            let tier = if from == Tier::Host { Tier::Gpu } else { Tier::Host };
            Some(run.then(place, Fact::Evicted { replica, adapter, tier, bytes }))
        },
    },
    Lie {
        what: "an adapter leaves that a batch uses",
        named: "an adapter is evicted that is in use",
        tell: |run, place| {
            let &Fact::Scheduled { request, replica } = run.at(place).1 else { return None };
            let adapter = run.case.scenario.offered[request.index()].request.adapter?;
            let bytes = run.case.scenario.catalog.adapters[adapter.index()].bytes;
            Some(run.then(place, Fact::Evicted { replica, adapter, tier: Tier::Gpu, bytes }))
        },
    },
    Lie {
        what: "a replica goes off, and a copy to it was never done",
        named: "a replica goes off while adapters are copied",
        tell: |run, place| {
            let (now, &Fact::LoadDone { from: Tier::Host, .. }) = run.at(place) else { return None };
            (now < run.end()).then(|| run.without(place))
        },
    },
];
