//! Draws the requests of a plan.

use aril_sim::random::{Stream, stream};
use aril_sim::time::{Span, Time};
use aril_sim::workload::{AdapterId, Catalog, Offered, Outcome, Request, RequestId, TenantId};
use rand::RngExt;

use crate::arrivals::Times;
use crate::popularity::Chooser;
use crate::servegen::Draws;
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
    Clients(std::iter::Take<Draws<'a>>),
}

/// When a request comes, and what is known of it by then.
struct Moment {
    /// In trace time.
    at_ps: u64,
    /// Its row of the table.
    row: Option<usize>,
    /// Its client, with prompt and output.
    client: Option<(u32, (u32, u32))>,
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
            Source::Clients { model, limit } => {
                Moments::Clients(Draws::new(model, plan.seed).take(usize::try_from(*limit).unwrap_or(usize::MAX)))
            }
        };
        let streams = Streams {
            rows: named("traffic.lengths"),
            input: named("traffic.input_tokens"),
            output: named("traffic.output_tokens"),
            popularity: named("traffic.popularity"),
            base: named("traffic.base_share"),
            predictor: named("traffic.output_predictor"),
        };
        Requests {
            catalog,
            plan,
            moments,
            chooser: plan
                .who
                .law
                .as_ref()
                .map(|law| Chooser::new(law, catalog, &mut named("traffic.popularity.order"))),
            streams,
            next: 0,
        }
    }

    fn moment(&mut self) -> Option<Moment> {
        match &mut self.moments {
            Moments::Rows(rows) => {
                rows.next().map(|(at, row)| Moment { at_ps: *at, row: Some(*row as usize), client: None })
            }
            Moments::Law { times, rows } => {
                let row = match rows {
                    None => None,
                    Some(rows) => Some(*rows.next()? as usize),
                };
                times.next().map(|at_ps| Moment { at_ps, row, client: None })
            }
            Moments::Clients(draws) => draws.next().map(|(at_ps, client, lengths)| Moment {
                at_ps,
                row: None,
                client: Some((client, lengths)),
            }),
        }
    }

    /// Prompt and output, tokens, and whether the prompt is the row's own.
    fn lengths(&mut self, moment: &Moment) -> (u32, u32, bool) {
        let plan = self.plan;
        let of = |table: &Table, row: usize| (table.input_tokens[row], table.output_tokens[row]);
        let (mut input, mut output) = match (&plan.lengths.from, moment.row.zip(plan.table.as_deref()), moment.client) {
            (Some(table), _, _) => of(table, self.streams.rows.random_range(0..table.len())),
            (None, Some((row, table)), _) => of(table, row),
            (None, None, Some((_, lengths))) => lengths,
            (None, None, None) => (1, 1),
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

    fn who(&mut self, moment: &Moment) -> (TenantId, Option<AdapterId>) {
        let who = &self.plan.who;
        let named = self.plan.table.as_ref().zip(moment.row);
        let position = named.and_then(|(table, row)| table.tenants.as_ref()?.get(row));
        let position = position.or(moment.client.map(|(client, _)| client));
        let tenant = position.and_then(|position| who.tenants.get(position as usize)).copied();
        let drawn = self.chooser.as_mut().map(|chooser| chooser.next(moment.at_ps, &mut self.streams.popularity));
        let tenant = drawn.and_then(|(tenant, _)| tenant).map(TenantId).or(tenant);
        let adapter = match drawn {
            Some((_, adapter)) => Some(AdapterId(adapter)),
            None if who.by_tenant => tenant.map(|tenant| AdapterId(tenant.0)),
            None if who.adapters.is_empty() => None,
            None => named.and_then(|(table, row)| table.adapters.as_ref()?.get(row)).map(|a| who.adapters[a as usize]),
        };
        // Asked for only where nothing else says it: the catalogue is large, and far away.
        let owner = || adapter.and_then(|adapter| self.catalog.adapters[adapter.index()].owner);
        let to_base = self.plan.base_share > 0.0 && self.streams.base.random::<f64>() < self.plan.base_share;
        (tenant.or_else(owner).unwrap_or(who.nobody), adapter.filter(|_| !to_base))
    }
}

impl Iterator for Requests<'_> {
    type Item = Offered;

    fn next(&mut self) -> Option<Offered> {
        let moment = self.moment()?;
        let (plan, row) = (self.plan, moment.row);
        let (prompt_tokens, output, own) = self.lengths(&moment);
        let (tenant, adapter) = self.who(&moment);
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
                arrival: Time::ZERO + scaled(Span::from_ps(moment.at_ps), plan.scale),
                prompt_tokens,
                max_tokens: cap,
                predicted_output_tokens: predicted,
                prefix,
            },
            outcome: Outcome { output_tokens },
        })
    }
}
