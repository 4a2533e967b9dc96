//! A `[traffic]` table becomes a workload.

mod catalog;
mod source;

use std::path::Path;
use std::sync::Arc;

use aril_sim::time::Span;

use crate::arrivals::{ArrivalLaw, Process, Times, not_negative, positive};
use crate::error::TraceError;
use crate::popularity::{Law, Popularity};
use crate::servegen::Draws;
use crate::traffic::{MaxTokens, Traffic};
use crate::workload::{Description, Lengths, Plan, Source, Workload};

/// How much faster or slower a trace may be replayed: beyond it, it is a slip.
const SCALE_MIN: f64 = 1e-6;
const SCALE_MAX: f64 = 1e6;
/// The highest rate of a law, requests a second: no service has seen as much.
const RATE_MAX: f64 = 1e7;

/// What traffic needs to know of its surroundings.
pub struct Context<'a> {
    /// Paths in the scenario are relative to this folder.
    pub base: &'a Path,
    /// Where random streams come from.
    pub seed: u64,
    /// Does this seed replay a trace as it was recorded? One seed of a scenario does; others resample blocks of it.
    pub as_recorded: bool,
    /// Bytes of an adapter of this rank on the scenario's model.
    pub adapter_bytes: &'a dyn Fn(u32) -> u64,
    /// The model's context, prompt and output together, tokens.
    pub max_model_len: u32,
}

impl Traffic {
    /// Reads, checks and prepares everything; draws nothing yet.
    ///
    /// # Errors
    /// Whatever is wrong with a file or a setting, with its place: see [`TraceError`].
    pub fn build(&self, context: &Context<'_>) -> Result<Workload, TraceError> {
        let traffic = self.unfolded()?;
        traffic.check(context)?;
        let mut description = Description::default();
        let scale = traffic.rate_scale.unwrap_or(1.0);
        let offer = source::offer(&traffic, context, &mut description)?;
        let table = offer.table.map(Arc::new);
        let has_lengths = table.is_some() || matches!(offer.source, Source::Clients { .. });
        let lengths = traffic.lengths_plan(context, has_lengths, &mut description)?;
        let popularity = traffic.popularity.clone().unwrap_or(Popularity::Trace);
        let listed =
            traffic.adapters.as_ref().map(|path| catalog::Listed::read(&context.base.join(path))).transpose()?;
        let needs_count =
            matches!(popularity, Popularity::Distinct | Popularity::UniformSqrt | Popularity::Geometric { .. });
        let requests = match &offer.source {
            Source::Law { process, end_ps, limit, .. } if needs_count && *end_ps < u64::MAX => {
                let stream = aril_sim::random::stream(context.seed, "traffic.arrivals");
                Times::new(process, stream, *end_ps, *limit).count() as u64
            }
            Source::Clients { model, limit } if needs_count => {
                Draws::new(model, context.seed).take(usize::try_from(*limit).unwrap_or(usize::MAX)).count() as u64
            }
            _ => offer.requests,
        };
        let known = listed.as_ref().map(|listed| listed.len() as u32);
        let law = Law::new(&popularity, Some(requests), known)?;
        let (catalog, who) =
            catalog::build(&traffic, context, table.as_deref(), &offer.clients, listed, law, &mut description)?;
        if crate::workload::scaled(offer.span, scale) > Span::RUN_MAX {
            return Err(traffic.over_too_long(&offer.source, requests));
        }
        let plan = Plan {
            seed: context.seed,
            scale,
            max_model_len: context.max_model_len,
            source: offer.source,
            table,
            lengths,
            who,
            base_share: traffic.base_share,
            cap: traffic.max_tokens,
            predictor: traffic.output_predictor,
            span: offer.span,
            requests,
        };
        Ok(Workload { catalog: catalog.into(), description, plan })
    }

    /// The same traffic with its short form written out.
    fn unfolded(&self) -> Result<Traffic, TraceError> {
        let mut traffic = self.clone();
        let Some(short) = traffic.closed_loop.take() else { return Ok(traffic) };
        let twice = [
            ("requests", traffic.requests.is_some() && short.requests.is_some()),
            ("input_tokens", traffic.input_tokens.is_some() && short.input_tokens.is_some()),
            ("output_tokens", traffic.output_tokens.is_some() && short.output_tokens.is_some()),
            ("total_tokens", traffic.total_tokens.is_some() && short.total_tokens.is_some()),
            ("ranks", !traffic.ranks.is_empty() && !short.ranks.is_empty()),
        ];
        if let Some((key, _)) = twice.iter().find(|(_, both)| *both) {
            let problem = format!("`{key}` stands both here and in [traffic.closed-loop]");
            return Err(TraceError::setting(*key, problem, "leave one of them out"));
        }
        if traffic.arrivals.as_ref().is_some_and(|law| *law != ArrivalLaw::Closed) {
            let problem = "a closed loop has no arrival law";
            return Err(TraceError::setting("closed-loop", problem, "leave out `arrivals` or the closed loop"));
        }
        traffic.arrivals = Some(ArrivalLaw::Closed);
        traffic.requests = traffic.requests.or(short.requests);
        traffic.input_tokens = traffic.input_tokens.or(short.input_tokens);
        traffic.output_tokens = traffic.output_tokens.or(short.output_tokens);
        traffic.total_tokens = traffic.total_tokens.or(short.total_tokens);
        traffic.popularity = traffic.popularity.or(short.popularity);
        if traffic.ranks.is_empty() {
            traffic.ranks = short.ranks;
        }
        Ok(traffic)
    }

    fn check(&self, context: &Context<'_>) -> Result<(), TraceError> {
        let wrong = |key: &str, problem: String, advice: &str| Err(TraceError::setting(key, problem, advice));
        if context.max_model_len < 2 {
            let problem = format!("the model's context is {} tokens", context.max_model_len);
            return wrong("max_model_len", problem, "a prompt and an output need one token each: set `max_model_len`");
        }
        let scale = self.rate_scale.unwrap_or(1.0);
        if !(SCALE_MIN..=SCALE_MAX).contains(&positive("rate_scale", scale)?) {
            let problem = format!("{scale:e} times the rate");
            return wrong("rate_scale", problem, "write a number between 0.000001 and 1000000");
        }
        for (key, rate) in self.arrivals.iter().flat_map(ArrivalLaw::rates) {
            if rate * scale > RATE_MAX {
                let problem =
                    format!("{rate:e} requests a second{}", if scale == 1.0 { "" } else { ", times `rate_scale`" });
                return wrong(
                    &format!("arrivals.{key}"),
                    problem,
                    "no more than 10000000 come in a second: write a smaller rate",
                );
            }
        }
        if !(0.0..=1.0).contains(&self.base_share) {
            return wrong("base_share", format!("{} is no share", self.base_share), "write a number from 0 to 1");
        }
        if self.tenants == Some(0) {
            return wrong("tenants", "0 tenants".into(), "write a number from 1 on");
        }
        if self.requests == Some(0) {
            return wrong("requests", "0 requests".into(), "write a number from 1 on");
        }
        if self.max_tokens == MaxTokens::Fixed(0) {
            return wrong("max_tokens", "0 tokens".into(), "write a number from 1 on");
        }
        if self.client.retries > 0 || self.client.backoff.is_some() {
            let problem = "clients that try again are not modelled".to_owned();
            return wrong("client.retries", problem, "leave out `retries` and `backoff`; a timeout is modelled");
        }
        if self.client.timeout.is_some_and(Span::is_zero) {
            let problem = "clients that wait for nothing get nothing".to_owned();
            return wrong(
                "client.timeout",
                problem,
                "write a duration such as \"60s\", or leave it out for clients that wait",
            );
        }
        if self.window.duration.is_some_and(Span::is_zero) {
            return wrong("window.duration", "no time at all".into(), "write a duration such as \"40m\"");
        }
        if self.window.duration.is_some_and(|duration| self.window.warmup >= duration) {
            let problem = format!("the warm-up of {} leaves nothing of the window", self.window.warmup);
            return wrong("window.warmup", problem, "make it shorter than `duration`");
        }
        if self.resample.block.is_zero() {
            return wrong("resample.block", "no time at all".into(), "write a duration such as \"60s\"");
        }
        if self.output_tokens.is_some() && self.total_tokens.is_some() {
            return wrong("total_tokens", "`output_tokens` says the same".into(), "leave one of them out");
        }
        if self.lengths.is_some()
            && (self.input_tokens.is_some() || self.output_tokens.is_some() || self.total_tokens.is_some())
        {
            let problem = "`lengths` draws prompts and outputs together".to_owned();
            return wrong(
                "lengths",
                problem,
                "leave it out, or leave out `input_tokens`, `output_tokens`, `total_tokens`",
            );
        }
        // A total is what prompt and output share: it may be shorter than any of them, and then is not what counts.
        let room = context.max_model_len - 1;
        for (key, law, least, most) in [
            ("input_tokens", &self.input_tokens, 1, room),
            ("output_tokens", &self.output_tokens, 1, room),
            ("total_tokens", &self.total_tokens, 0, context.max_model_len),
        ] {
            law.as_ref().map(|law| law.check(key, least, most)).transpose()?;
        }
        let mut weights = 0.0;
        for (rank, weight) in &self.ranks {
            weights += not_negative(&format!("ranks.{}", rank.0), *weight)?;
        }
        if !self.ranks.is_empty() && weights == 0.0 {
            return wrong("ranks", "all weights are zero".into(), "let one be above zero");
        }
        self.output_predictor.map(|predictor| predictor.check()).transpose()?;
        Ok(())
    }

    /// Requests arrive for longer than a run can last: by which setting?
    fn over_too_long(&self, source: &Source, requests: u64) -> TraceError {
        let most = format!("{} that a run can last", Span::RUN_MAX);
        if let Some(scale) = self.rate_scale.filter(|scale| *scale != 1.0) {
            let problem = format!("{scale} stretches the traffic over more than the {most}");
            return TraceError::setting("rate_scale", problem, "choose a larger one, or a shorter window");
        }
        if let Some(duration) = self.window.duration {
            let problem = format!("{duration} is longer than the {most}");
            return TraceError::setting("window.duration", problem, "make it shorter");
        }
        match source {
            Source::Law { .. } => {
                let problem = format!("{requests} requests at this rate arrive over more than the {most}");
                TraceError::setting("requests", problem, "offer fewer, or raise the rate")
            }
            Source::Rows(_) | Source::Clients { .. } => {
                let problem = format!("its requests arrive over more than the {most}");
                TraceError::setting("trace", problem, "cut it with a window, such as `window = { duration = \"1h\" }`")
            }
        }
    }

    fn lengths_plan(
        &self,
        context: &Context<'_>,
        has_lengths: bool,
        description: &mut Description,
    ) -> Result<Lengths, TraceError> {
        let mut plan =
            Lengths { input: self.input_tokens, output: self.output_tokens, total: self.total_tokens, from: None };
        if let Some(from) = &self.lengths {
            plan.from = Some(Arc::new(source::lengths_table(self, from, context, description)?));
            description.assigned.push(format!("lengths drawn from the rows of {}", from.trace));
        } else if !has_lengths {
            if self.input_tokens.is_none() {
                let advice = "set `input_tokens`, or `lengths = { trace = … }`";
                return Err(TraceError::setting("input_tokens", "nothing says how long prompts are", advice));
            }
            if self.output_tokens.is_none() && self.total_tokens.is_none() {
                let advice = "set `output_tokens` or `total_tokens`, or `lengths = { trace = … }`";
                return Err(TraceError::setting("output_tokens", "nothing says how long outputs are", advice));
            }
        }
        if has_lengths && plan.input.is_some() {
            description.assigned.push("prompt lengths drawn from a law".into());
        }
        if has_lengths && (plan.output.is_some() || plan.total.is_some()) {
            description.assigned.push("output lengths drawn from a law".into());
        }
        Ok(plan)
    }
}

/// The process of a law and how many requests it gives.
pub(crate) fn synthetic(
    law: &ArrivalLaw,
    traffic: &Traffic,
    rows: Option<u64>,
) -> Result<(Process, u64, u64, u64), TraceError> {
    let process = Process::new(law, traffic.window.duration)?;
    let limit = [traffic.requests, rows].into_iter().flatten().min();
    let end_ps = traffic.window.duration.map_or(u64::MAX, Span::as_ps);
    let expected = traffic.window.duration.and_then(|window| process.expected(window));
    let requests = match (expected, limit) {
        (None, None) => {
            let advice = "set `requests`, or `window = { duration = \"1h\" }`";
            return Err(TraceError::setting("requests", "nothing ends the traffic", advice));
        }
        (Some(expected), None) => expected.round() as u64,
        (Some(expected), Some(limit)) => limit.min(expected.round() as u64),
        (None, Some(limit)) => limit,
    };
    if requests > u64::from(u32::MAX) {
        let problem = format!("{requests} requests are more than ids can count");
        return Err(TraceError::setting("requests", problem, "lower the rate or shorten the window"));
    }
    Ok((process, end_ps, limit.unwrap_or(u64::from(u32::MAX)), requests))
}
