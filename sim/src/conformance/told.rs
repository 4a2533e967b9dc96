//! Facts in a form that does not depend on how many steps were advanced at once.

use std::fmt::Write as _;

use crate::fact::{Fact, Observer, Stretch};
use crate::time::Time;

/// One fact, or one step of a stretch, as text with its place in the order.
///
/// Facts of the same instant are ordered by kind, replica, and whom they are about: a stretch that was cut is told later
/// within an instant than the step that it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Told {
    /// When; of a step, when it ended.
    pub at: Time,
    kind: u8,
    replica: u32,
    subject: u32,
    /// What.
    pub text: String,
    /// KV blocks used and sequences waiting, which are told for the last step of a stretch only.
    end: Option<(u32, u32)>,
}

impl Told {
    /// Do both tell the same, as far as both tell it?
    pub fn agrees(&self, other: &Told) -> bool {
        let ends = match (self.end, other.end) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        ends && (self.at, self.kind, self.replica, self.subject) == (other.at, other.kind, other.replica, other.subject)
            && self.text == other.text
    }
}

impl Told {
    /// The same without the tenant of the request that it is about.
    pub(super) fn without_tenant(&self) -> Told {
        let mut told = self.clone();
        if let Some(from) = told.text.find("tenant: TenantId(")
            && let Some(length) = told.text[from..].find(')')
        {
            told.text.replace_range(from..=from + length, "tenant");
        }
        told
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ps: {}", self.at.as_ps(), self.text)?;
        match self.end {
            Some((blocks, waiting)) => write!(f, " ({blocks} KV blocks used, {waiting} waiting)"),
            None => Ok(()),
        }
    }
}

/// Writes down every fact, stretches as their steps.
#[derive(Debug, Default)]
pub struct Record {
    told: Vec<Told>,
}

impl Record {
    /// What was told, in order.
    pub fn into_sorted(mut self) -> Vec<Told> {
        self.told.sort();
        self.told
    }

    /// What was told, in the order in which it was told.
    pub fn into_told(self) -> Vec<Told> {
        self.told
    }

    fn steps(&mut self, stretch: &Stretch<'_>) {
        for j in 0..stretch.steps {
            let start = if j == 0 { stretch.start } else { stretch.step_end(j - 1) };
            let stall = if j == 0 { stretch.stall.as_ps() } else { 0 };
            let mut text =
                format!("step of replica {} from {} ps, stalled {stall} ps:", stretch.replica.0, start.as_ps());
            let mut decode_rows = u64::from(stretch.padding_rows);
            for row in stretch.rows.iter() {
                let previous = if j == 0 || !row.emits { row.previous_token } else { Some(start) };
                let previous = previous.map(Time::as_ps);
                let adapter = row.adapter.map(|adapter| adapter.0);
                let (tokens, prefill, emits) = (row.tokens, row.prefill, row.emits);
                decode_rows += u64::from(!prefill);
                let _ = write!(
                    text,
                    " [request {} adapter {adapter:?} tokens {tokens} prefill {prefill} emits {emits} after {previous:?}]",
                    row.request.0
                );
            }
            let contexts = stretch.decode_context_sum + u64::from(j) * decode_rows;
            let _ = write!(text, " padding {} segments {} contexts {contexts}", stretch.padding_rows, stretch.segments);
            self.told.push(Told {
                at: stretch.step_end(j),
                kind: 0,
                replica: stretch.replica.0,
                subject: 0,
                text,
                end: (j + 1 == stretch.steps).then_some((stretch.kv_blocks_used, stretch.waiting)),
            });
        }
    }
}

impl Observer for Record {
    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        let none = u32::MAX;
        let (kind, replica, subject) = match *fact {
            Fact::Stretch(ref stretch) => return self.steps(stretch),
            Fact::LoadDone { replica, adapter, .. } => (1, replica.0, adapter.0),
            Fact::Ended(ref life) => (2, none, life.offered.request.id.0),
            Fact::Offered(offered) => (3, none, offered.request.id.0),
            Fact::Held(request) => (4, none, request.0),
            Fact::Migrated { request, from, .. } => (5, from.0, request.0),
            Fact::Power { replica, .. } => (6, replica.0, none),
            Fact::Routed { request, replica, .. } => (7, replica.0, request.0),
            Fact::Preempted { request, replica, .. } => (8, replica.0, request.0),
            Fact::Evicted { replica, adapter, .. } => (9, replica.0, adapter.0),
            Fact::LoadStarted { replica, adapter, .. } => (10, replica.0, adapter.0),
            Fact::Scheduled { request, replica } => (11, replica.0, request.0),
        };
        self.told.push(Told { at: now, kind, replica, subject, text: format!("{fact:?}"), end: None });
    }
}

/// The first place where two records differ, with what came before it; none if they agree.
pub fn first_difference(left: (&str, &[Told]), right: (&str, &[Told])) -> Option<String> {
    let ((left_name, left), (right_name, right)) = (left, right);
    let both = left.len().min(right.len());
    let place = (0..both).find(|&i| !left[i].agrees(&right[i]));
    let place = place.or_else(|| (left.len() != right.len()).then_some(both))?;
    let mut text = String::new();
    for told in &left[place.saturating_sub(6)..place] {
        let _ = writeln!(text, "  both: {told}");
    }
    for (name, side) in [(left_name, left), (right_name, right)] {
        match side.get(place) {
            Some(told) => {
                let _ = writeln!(text, "  {name}: {told}");
            }
            None => {
                let _ = writeln!(text, "  {name}: nothing more");
            }
        }
    }
    Some(text)
}
