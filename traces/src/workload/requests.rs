//! Draws the requests of a plan.

use aril_sim::random::{Stream, stream};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, Catalog, Offered, Outcome, Request, RequestId, TenantId};
use rand::RngExt;

use crate::arrivals::Times;
use crate::popularity::Chooser;
use crate::table::Table;
use crate::traffic::MaxTokens;
use crate::workload::{Plan, Source, scaled};

/// One stream a consumer: none disturbs another.
struct Streams {
    rows: Stream,
    input: Stream,
    output: Stream,
    popularity: Stream,
    base: Stream,
    predictor: Stream,
}

pub(crate) struct Requests<'a> {
    catalog: &'a Catalog,
    plan: &'a Plan,
    moments: Moments<'a>,
    chooser: Option<Chooser>,
    streams: Streams,
    next: u32,
}

enum Moments<'a> {
    Rows(std::slice::Iter<'a, (u64, u32)>),
    Law { times: Box<Times>, rows: Option<std::slice::Iter<'a, u32>> },
}

impl<'a> Requests<'a> {
    pub(crate) fn new(catalog: &'a Catalog, plan: &'a Plan) -> Requests<'a> {
        let named = |name| stream(plan.seed, name);
        let moments = match &plan.source {
            Source::Rows(rows) => Moments::Rows(rows.iter()),
            Source::Law { process, end_ps, limit, rows } => Moments::Law {
                times: Box::new(Times::new(process, named("traffic.arrivals"), *end_ps, *limit)),
                rows: rows.as_ref().map(|rows| rows.iter()),
            },
        };
        let streams = Streams {
            rows: named("traffic.lengths"),
            input: named("traffic.input_tokens"),
            output: named("traffic.output_tokens"),
            popularity: named("traffic.popularity"),
            base: named("traffic.base_share"),
            predictor: named("traffic.output_predictor"),
        };
        Requests { catalog, plan, moments, chooser: plan.who.law.as_ref().map(Chooser::new), streams, next: 0 }
    }

    /// When the next request comes, ps in trace time, and its row.
    fn moment(&mut self) -> Option<(u64, Option<usize>)> {
        match &mut self.moments {
            Moments::Rows(rows) => rows.next().map(|(at, row)| (*at, Some(*row as usize))),
            Moments::Law { times, rows } => {
                let row = match rows {
                    None => None,
                    Some(rows) => Some(*rows.next()? as usize),
                };
                times.next().map(|at| (at, row))
            }
        }
    }

    /// Prompt and output, tokens, and whether the prompt is the row's own.
    fn lengths(&mut self, row: Option<usize>) -> (u32, u32, bool) {
        let plan = self.plan;
        let of = |table: &Table, row: usize| (table.input_tokens[row], table.output_tokens[row]);
        let (mut input, mut output) = match (&plan.lengths.from, row, &plan.table) {
            (Some(table), _, _) => of(table, self.streams.rows.random_range(0..table.len())),
            (None, Some(row), Some(table)) => of(table, row),
            _ => (1, 1),
        };
        let own = plan.lengths.from.is_none() && plan.lengths.input.is_none();
        if let Some(law) = &plan.lengths.input {
            input = law.sample(&mut self.streams.input);
        }
        input = input.clamp(1, plan.max_model_len - 1);
        if let Some(law) = &plan.lengths.output {
            output = law.sample(&mut self.streams.output);
        } else if let Some(law) = &plan.lengths.total {
            let total = law.sample(&mut self.streams.output);
            output = total.max(input.saturating_add(2)) - input;
        }
        (input, output.max(1), own)
    }

    fn who(&mut self, row: Option<usize>) -> (TenantId, Option<AdapterId>) {
        let who = &self.plan.who;
        let named = self.plan.table.as_ref().zip(row);
        let tenant = named.and_then(|(table, row)| table.tenants.as_ref()?.get(row)).map(|t| who.tenants[t as usize]);
        let adapter = match &mut self.chooser {
            Some(chooser) => Some(AdapterId(chooser.next(&mut self.streams.popularity))),
            None if who.by_tenant => tenant.map(|tenant| AdapterId(tenant.0)),
            None if who.adapters.is_empty() => None,
            None => named.and_then(|(table, row)| table.adapters.as_ref()?.get(row)).map(|a| who.adapters[a as usize]),
        };
        let owner = adapter.and_then(|adapter| self.catalog.adapters[adapter.index()].owner);
        let to_base = self.plan.base_share > 0.0 && self.streams.base.random::<f64>() < self.plan.base_share;
        (tenant.or(owner).unwrap_or(who.nobody), adapter.filter(|_| !to_base))
    }
}

impl Iterator for Requests<'_> {
    type Item = Offered;

    fn next(&mut self) -> Option<Offered> {
        let (at_ps, row) = self.moment()?;
        let plan = self.plan;
        let (prompt_tokens, output, own) = self.lengths(row);
        let (tenant, adapter) = self.who(row);
        let room = plan.max_model_len - prompt_tokens;
        let sent = plan.table.as_ref().zip(row).and_then(|(table, row)| Some(table.max_tokens.as_ref()?[row]));
        let cap = match (plan.cap, sent) {
            (MaxTokens::Fixed(tokens), _) => tokens.min(room),
            (MaxTokens::Output, _) => output.min(room),
            (MaxTokens::Model, Some(tokens)) => tokens.min(room),
            (MaxTokens::Model, None) => room,
        };
        let output_tokens = output.min(cap);
        let predicted = plan.predictor.map(|predictor| predictor.predict(output_tokens, &mut self.streams.predictor));
        let prefix =
            plan.table.as_ref().zip(row).filter(|_| own).and_then(|(t, row)| t.prefixes.as_ref()?[row].clone());
        let id = RequestId(self.next);
        self.next += 1;
        Some(Offered {
            request: Request {
                id,
                tenant,
                adapter,
                arrival: Time::ZERO + scaled(Span::from_ps(at_ps), plan.scale),
                prompt_tokens,
                max_tokens: cap,
                predicted_output_tokens: predicted,
                prefix,
            },
            outcome: Outcome { output_tokens },
        })
    }
}
