//! An observer that writes down the rows of two tables, cell by cell.

use aril_sim::fact::{Fact, LoadCause, Observer, Power, Stretch, Tier};
use aril_sim::time::Time;

/// What a cell holds; an adapter is told by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Number(u64),
    Word(&'static str),
    Adapter(u32),
}

use Cell::{Adapter, Number, Word};

/// Columns that have something. Those that are not named have none.
pub(crate) type Cells = Vec<(&'static str, Cell)>;

/// The rows as told.
#[derive(Default)]
pub(crate) struct ToldRows {
    pub(crate) steps: Vec<Cells>,
    pub(crate) events: Vec<Cells>,
}

impl Observer for ToldRows {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        if let Fact::Stretch(stretch) = fact {
            self.steps.push(step(stretch));
        } else if let Some((event, mut cells)) = event(fact) {
            cells.extend([("time_ps", Number(now.as_ps())), ("event", Word(event))]);
            self.events.push(cells);
        }
    }
}

fn step(stretch: &Stretch<'_>) -> Cells {
    let (prefill, decode): (Vec<_>, Vec<_>) = stretch.rows.iter().partition(|row| row.prefill);
    let numbers = [
        ("replica", stretch.replica.0.into()),
        ("start_ps", stretch.start.as_ps()),
        ("stall_ps", stretch.stall.as_ps()),
        ("first_ps", stretch.first.as_ps()),
        ("increment_ps", stretch.increment.as_ps()),
        ("steps", stretch.steps.into()),
        ("decode_rows", decode.len() as u64),
        ("prefill_tokens", prefill.iter().map(|row| u64::from(row.tokens)).sum()),
        ("prefill_rows", prefill.len() as u64),
        ("segments", stretch.segments.into()),
        ("padding_rows", stretch.padding_rows.into()),
        ("decode_context_sum", stretch.decode_context_sum),
        ("kv_blocks_used", stretch.kv_blocks_used.into()),
        ("waiting", stretch.waiting.into()),
    ];
    numbers.map(|(column, number)| (column, Number(number))).to_vec()
}

/// How it is called, and what else there is to say.
fn event(fact: &Fact<'_>) -> Option<(&'static str, Cells)> {
    let tier_name = |tier: Tier| match tier {
        Tier::Gpu => "gpu",
        Tier::Host => "host",
        Tier::Disk => "disk",
    };
    let number = |number: u32| Number(number.into());
    Some(match *fact {
        Fact::Held(request) => ("held", vec![("request", number(request.0))]),
        Fact::Routed { request, replica, recompute } => (
            "routed",
            vec![("request", number(request.0)), ("replica", number(replica.0)), ("amount", number(recompute))],
        ),
        Fact::LoadStarted { replica, adapter, from, bytes, cause, start, done } => (
            "load",
            vec![
                ("replica", number(replica.0)),
                ("adapter", Adapter(adapter.0)),
                ("tier", Word(tier_name(from))),
                ("bytes", Number(bytes)),
                ("cause", Word(if cause == LoadCause::Prefetch { "prefetch" } else { "demand" })),
                ("link_start_ps", Number(start.as_ps())),
                ("link_done_ps", Number(done.as_ps())),
            ],
        ),
        Fact::Evicted { replica, adapter, tier, bytes } => (
            "evicted",
            vec![
                ("replica", number(replica.0)),
                ("adapter", Adapter(adapter.0)),
                ("tier", Word(tier_name(tier))),
                ("bytes", Number(bytes)),
            ],
        ),
        Fact::Preempted { request, replica, blocks, cut } => (
            "preempted",
            vec![
                ("request", number(request.0)),
                ("replica", number(replica.0)),
                ("amount", number(blocks)),
                ("cut", number(cut)),
            ],
        ),
        Fact::Migrated { request, from, to } => (
            "migrated",
            vec![("request", number(request.0)), ("replica", number(from.0)), ("to_replica", number(to.0))],
        ),
        Fact::Power { replica, power } => {
            let name = match power {
                Power::Off => "power_off",
                Power::Starting => "power_starting",
                Power::On => "power_on",
                Power::Draining => "power_draining",
            };
            (name, vec![("replica", number(replica.0))])
        }
        _ => return None,
    })
}
