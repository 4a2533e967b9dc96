//! The figures below the first screen.

use maud::{Markup, html};

use super::{Point, figure, key};
use crate::ReportError;
use crate::figure::{
    Quantity, batch_sizes, cdf, heat, heat_legend, over_time as draw, popularity as by_popularity, tail_bars,
};
use crate::input::ReportInput;
use crate::metrics::Tail;
use crate::settings::SloClass;

/// Limits of the SLO classes as rules in a figure.
pub(super) fn limits(point: &Point<'_>, of: fn(&SloClass) -> Option<aril_sim::time::Span>) -> Vec<(String, f64)> {
    let Some((_, run)) = point.policies.first().and_then(|policy| policy.runs.first()) else { return Vec::new() };
    let mut limits: Vec<(String, f64)> = Vec::new();
    for class in &run.slo {
        let Some(limit) = of(class).map(|span| span.as_secs_f64()) else { continue };
        match limits.iter_mut().find(|(_, other)| *other == limit) {
            Some((name, _)) => *name = format!("{name}, {}", class.name),
            None => limits.push((format!("limit of {}", class.name), limit)),
        }
    }
    limits
}

/// Distributions; that of first tokens is left out where the first screen shows it.
pub(super) fn latencies(input: &ReportInput, point: &Point<'_>, is_only: bool) -> Result<Markup, ReportError> {
    let first = cdf("Time to first token", &point.policies, |d| &d.ttft, &limits(point, |class| class.ttft), true)?;
    let each = cdf("Time per output token", &point.policies, |d| &d.tpot, &limits(point, |class| class.tpot), true)?;
    let gaps = cdf("Gaps between tokens", &point.policies, |d| &d.itl, &[], true)?;
    let end = cdf("End to end", &point.policies, |d| &d.e2e, &[], true)?;
    let closed = point.policies.iter().flat_map(|policy| &policy.runs).all(|(_, run)| run.metrics.saturation.is_none());
    let shown = if is_only && !closed { vec![&each, &gaps, &end] } else { vec![&first, &each, &gaps, &end] };
    Ok(html! { div.grid { @for drawn in shown { (figure(drawn, input)) } } })
}

pub(super) fn tail(input: &ReportInput, point: &Point<'_>) -> Result<Markup, ReportError> {
    let tails: Vec<(&str, &Tail)> = point.pooled.iter().map(|policy| (policy.policy.as_str(), &policy.tail)).collect();
    Ok(figure(&tail_bars(&tails)?, input))
}

pub(super) fn batches(input: &ReportInput, point: &Point<'_>) -> Result<Markup, ReportError> {
    let mut maps = Vec::new();
    let mut rows_max = 1;
    for policy in &point.policies {
        let Some((info, run)) = policy.runs.first() else { continue };
        let name = if policy.runs.len() > 1 {
            format!("{}, seed {}", policy.policy, info.seed)
        } else {
            policy.policy.to_owned()
        };
        rows_max = run.heat.rows_max;
        maps.push(heat(&name, &run.heat, &run.series, run.metrics.window.run_s)?);
    }
    Ok(html! {
        section {
            h2 { "Batch size by GPU over time" }
            p.note { "Mean sequences in the batch of each replica; blank while it idles." }
            (key(&heat_legend(rows_max)))
            div.grid { @for map in &maps { (figure(map, input)) } (figure(&batch_sizes(&point.policies)?, input)) }
        }
    })
}

pub(super) fn over_time(input: &ReportInput, point: &Point<'_>) -> Result<Markup, ReportError> {
    let quantities = [
        Quantity {
            title: "Requests finished",
            label: "requests per second",
            of: |series| &series.finished_per_s,
            reference: Some(("offered", |series| &series.offered_per_s)),
        },
        Quantity {
            title: "Output tokens",
            label: "tokens per second",
            of: |series| &series.output_tokens_per_s,
            reference: None,
        },
        Quantity { title: "Active GPUs", label: "GPUs in a step", of: |series| &series.busy_gpus, reference: None },
        Quantity { title: "GPUs held", label: "GPUs", of: |series| &series.held_gpus, reference: None },
        Quantity {
            title: "Waiting requests",
            label: "requests before their first step",
            of: |series| &series.waiting,
            reference: None,
        },
    ];
    let drawn = quantities.iter().map(|quantity| draw(quantity, &point.policies)).collect::<Result<Vec<_>, _>>()?;
    Ok(html! {
        section {
            h2 { "Over time" }
            p.note { "The first seed of each policy." }
            div.grid { @for drawn in &drawn { (figure(drawn, input)) } }
        }
    })
}

pub(super) fn popularity(input: &ReportInput, point: &Point<'_>) -> Result<Markup, ReportError> {
    let median =
        by_popularity("TTFT p50 by adapter popularity", |class| class.ttft.p50, &point.policies, &point.pooled)?;
    let slow = by_popularity("TTFT p99 by adapter popularity", |class| class.ttft.p99, &point.policies, &point.pooled)?;
    Ok(html! { div.grid { (figure(&median, input)) (figure(&slow, input)) } })
}
