//! How far to trust the numbers of a run directory.

use std::collections::BTreeMap;

use aril_reports::format::seconds;
use aril_reports::{CoverageNote, ProfileNote, Provenance, Trust};
use aril_sim::profile::ProvenanceKind;

use super::Finished;
use super::job::warmup;
use crate::manifest::build;
use crate::plan::Plan;

/// What no run models, whatever the scenario.
const NEVER_MODELLED: [&str; 6] = [
    "prefix caching: prompts that share a beginning are computed in full",
    "speculative decoding, beam search and structured output",
    "the network, tokenisation and the HTTP front end",
    "clients that try again",
    "failures of GPUs and servers",
    "disaggregated prefill and pipeline parallelism",
];

/// Unless a scenario asks for jitter, or steps were really run.
const NO_JITTER: &str = "sampled jitter: steps of one shape take one time";

pub(super) fn of(plan: &Plan, finished: &[Finished]) -> Trust {
    Trust {
        profiles: profiles(plan, finished),
        coverage: coverage(finished),
        seeds: plan.seeds.clone(),
        warmup: rule(plan, finished),
        not_modelled: not_modelled(plan, finished),
        build: format!("aril {} ({})", build().version, build().commit),
    }
}

fn profiles(plan: &Plan, finished: &[Finished]) -> Vec<ProfileNote> {
    let mut notes: Vec<ProfileNote> = Vec::new();
    for real in finished.iter().filter_map(|run| run.real.as_ref()) {
        if notes.is_empty() {
            let source = format!("{real}; copies were waited for as the profile prices them");
            notes.push(ProfileNote { name: "real steps".to_owned(), kind: Provenance::Measured, source });
        }
    }
    for profile in plan.variants.iter().flat_map(|variant| &variant.setup.profiles) {
        if notes.iter().all(|note| note.name != profile.name) {
            let kind = match profile.provenance.kind {
                ProvenanceKind::Measured => Provenance::Measured,
                ProvenanceKind::Published => Provenance::Published,
                ProvenanceKind::Derived => Provenance::Derived,
            };
            let doubt = aril_calibrate::check::other_kernels(profile);
            let doubt = doubt.map_or_else(String::new, |doubt| format!("; {doubt}"));
            let source = format!("{}{doubt}", profile.provenance.source);
            notes.push(ProfileNote { name: profile.name.clone(), kind, source });
        }
    }
    notes
}

fn coverage(finished: &[Finished]) -> CoverageNote {
    let mut outside: BTreeMap<&str, u64> = BTreeMap::new();
    let mut lookups = 0;
    for coverage in finished.iter().flat_map(|run| &run.coverage) {
        lookups += coverage.lookups;
        for (what, count) in &coverage.outside {
            *outside.entry(what).or_default() += count;
        }
    }
    CoverageNote { lookups, outside: outside.into_iter().map(|(what, count)| (what.to_owned(), count)).collect() }
}

/// A closed loop has no warm-up, whatever the traffic says of one.
fn rule(plan: &Plan, finished: &[Finished]) -> String {
    let counts_all = |run: &Finished| run.result.metrics.measured.offered == run.result.metrics.all.offered;
    let all_count = finished.iter().all(counts_all);
    let setup = &plan.variants[0].setup;
    let (warmup, drain) = (warmup(setup), setup.scenario.report.drain);
    let (first, last) = (seconds(warmup.as_secs_f64()), seconds(drain.as_secs_f64()));
    match (all_count || warmup.is_zero(), all_count || drain.is_zero()) {
        (true, true) => "all requests count".to_owned(),
        (false, true) => format!("requests of the first {first} do not count"),
        (true, false) => format!("requests of the last {last} do not count"),
        (false, false) => format!("requests of the first {first} and the last {last} do not count"),
    }
}

/// What is never modelled, and what was drawn or repaired in the traffic.
fn not_modelled(plan: &Plan, finished: &[Finished]) -> Vec<String> {
    let mut notes: Vec<String> = NEVER_MODELLED.iter().map(|note| (*note).to_owned()).collect();
    if !plan.scenario.jitter && finished.iter().all(|run| run.real.is_none()) {
        notes.push(NO_JITTER.to_owned());
    }
    for note in finished.iter().flat_map(|run| &run.notes) {
        let note = format!("traffic: {note}");
        if !notes.contains(&note) {
            notes.push(note);
        }
    }
    notes
}
