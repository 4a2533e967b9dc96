//! A finished workload: a catalogue, and requests that can be drawn again and again, always the same.

mod gathered;
mod requests;

use std::sync::Arc;

use aril_sim::time::Span;
use aril_sim::workload::{AdapterId, Catalog, Offered, TenantId};
use serde::Serialize;

use crate::arrivals::Process;
use crate::lengths::Length;
use crate::popularity::Law;
use crate::predictor::Predictor;
use crate::servegen::Model;
use crate::table::{Names, Table};
use crate::traffic::MaxTokens;

/// Everybody who asks, everything they ask for, and when.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Tenants and adapters that the requests refer to.
    pub catalog: Arc<Catalog>,
    pub(crate) description: Description,
    pub(crate) plan: Plan,
}

/// What a report says of a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Description {
    /// The trace's name or path, or the law's.
    pub name: String,
    /// Where the trace is from, if it is a shipped one.
    pub source: Option<String>,
    /// The licence of a shipped trace, with its credit.
    pub licence: Option<String>,
    /// What was not measured but drawn or assumed, a sentence each.
    pub assigned: Vec<String>,
    /// What was left out, sorted, cut or repaired, a sentence each.
    pub notes: Vec<String>,
}

/// How the requests are made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Time runs so many times as fast.
    pub(crate) scale: f64,
    pub(crate) max_model_len: u32,
    pub(crate) source: Source,
    pub(crate) table: Option<Arc<Table>>,
    pub(crate) lengths: Lengths,
    pub(crate) who: Who,
    pub(crate) base_share: f64,
    pub(crate) cap: MaxTokens,
    pub(crate) predictor: Option<Predictor>,
    /// In trace time.
    pub(crate) span: Span,
    pub(crate) requests: u64,
}

/// When requests come, and with which row of the table.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// (ps from the start, row), by time.
    Rows(Arc<[(u64, u32)]>),
    /// Drawn; the i-th request has the i-th of these rows, if there are any.
    Law { process: Process, end_ps: u64, limit: u64, rows: Option<Arc<[u32]>> },
    /// Drawn client by client, at most `limit`; the client's position is its tenant's.
    Clients { model: Model, limit: u64 },
}

/// Where lengths come from; what is none comes from the row.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lengths {
    pub(crate) from: Option<Arc<Table>>,
    pub(crate) input: Option<Length>,
    pub(crate) output: Option<Length>,
    pub(crate) total: Option<Length>,
}

/// Whose requests they are.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    /// Of each tenant position of the table, or of each client: its id.
    pub(crate) tenants: Vec<TenantId>,
    /// Of each adapter position of the table: its id; empty if adapters are not the table's.
    pub(crate) adapters: Vec<AdapterId>,
    /// Who asks where nobody is named and the adapter has no owner.
    pub(crate) nobody: TenantId,
    /// Draws the adapter, if a law does.
    pub(crate) law: Option<Law>,
    /// One adapter a tenant, with the same number.
    pub(crate) by_tenant: bool,
}

impl Workload {
    /// The requests in order of arrival, drawn shortly before they are asked for: memory does not grow with their number.
    pub fn arrivals(&self) -> Box<dyn Iterator<Item = Offered> + '_> {
        Box::new(gathered::Gathered::new(requests::Requests::new(&self.catalog, &self.plan)))
    }

    /// How many requests come: exact for a replay and for a number that is set, else what the law expects.
    pub fn len_hint(&self) -> u64 {
        self.plan.requests
    }

    /// How long requests are offered, in run time: the window, or to the last arrival of a trace; zero if all come at once.
    pub fn span(&self) -> Span {
        scaled(self.plan.span, self.plan.scale)
    }

    /// All its requests as a table, to be written or inspected.
    pub fn table(&self) -> Table {
        let mut table = Table { notes: self.description.notes.clone(), ..Table::default() };
        let (mut arrivals, mut caps, mut prefixes) = (Vec::new(), Vec::new(), Vec::new());
        let tenants = self.catalog.tenants.iter().map(|tenant| tenant.name.clone()).collect();
        let adapters = self.catalog.adapters.iter().map(|adapter| adapter.name.clone()).collect();
        let mut tenants = Names { names: tenants, rows: Vec::new() };
        let mut adapters = Names { names: adapters, rows: Vec::new() };
        for Offered { request, outcome } in self.arrivals() {
            arrivals.push(request.arrival.as_ps());
            caps.push(request.max_tokens);
            prefixes.push(request.prefix);
            tenants.rows.push(request.tenant.0);
            adapters.rows.push(request.adapter.map_or(Names::NONE, |adapter| adapter.0));
            table.input_tokens.push(request.prompt_tokens);
            table.output_tokens.push(outcome.output_tokens);
        }
        table.arrivals_ps = Some(arrivals);
        table.max_tokens = Some(caps);
        table.prefixes = prefixes.iter().any(Option::is_some).then_some(prefixes);
        table.tenants = Some(tenants);
        table.ranks = self.catalog.adapters.iter().map(|adapter| adapter.rank).collect();
        table.adapters = (!adapters.names.is_empty()).then_some(adapters);
        table
    }

    /// What a report says of it.
    pub fn description(&self) -> &Description {
        &self.description
    }
}

/// A span in trace time, in run time.
pub(crate) fn scaled(span: Span, scale: f64) -> Span {
    if scale == 1.0 { span } else { Span::from_ps((span.as_ps() as f64 / scale).round() as u64) }
}
