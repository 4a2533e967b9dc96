//! How do tenants use adapters one after the other?

use std::collections::{BTreeSet, HashMap};

use aril_sim::time::{Span, Time};
use serde::Serialize;

/// A tenant that uses no adapter for longer than this begins a new session.
pub const SESSION_GAP: Span = Span::from_secs(1_800);

/// Figures of the sessions of tenants; requests to the base model are not counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SessionFigures {
    /// Sessions: uses of a tenant with no pause of more than 30 minutes.
    pub sessions: u64,
    /// Mean number of uses in one.
    pub uses: f64,
    /// Mean number of distinct adapters in one.
    pub adapters: f64,
    /// Share of a tenant's uses, from its second on, that want the adapter of the use before.
    pub repeats: f64,
}

/// Uses of adapters in order: when, by whom, which.
pub(crate) fn sessions(uses: &[(Time, u32, u32)]) -> Option<SessionFigures> {
    let mut last: HashMap<u32, (Time, u32)> = HashMap::new();
    let mut seen: HashMap<u32, BTreeSet<u32>> = HashMap::new();
    let (mut count, mut distinct, mut repeats) = (0_u64, 0_u64, 0_u64);
    for (at, tenant, adapter) in uses {
        let before = last.insert(*tenant, (*at, *adapter));
        repeats += u64::from(before.is_some_and(|(_, before)| before == *adapter));
        let session = seen.entry(*tenant).or_default();
        if before.is_none_or(|(before, _)| at.since(before) > SESSION_GAP) {
            count += 1;
            session.clear();
        }
        distinct += u64::from(session.insert(*adapter));
    }
    let again = uses.len().checked_sub(last.len()).filter(|again| *again > 0)?;
    Some(SessionFigures {
        sessions: count,
        uses: uses.len() as f64 / count as f64,
        adapters: distinct as f64 / count as f64,
        repeats: repeats as f64 / again as f64,
    })
}
