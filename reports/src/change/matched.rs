//! Which run belongs to which?

use super::estimate::Pairing;
use super::recording::{Recorded, Recording};
use crate::metric::Metric;

/// The runs of one policy at one point, on both sides.
pub(crate) struct Matched<'a> {
    pub(crate) policy: &'a str,
    pub(crate) point: &'a [(String, String)],
    /// In pairs where `pairing` says so: the same position, the same seed and requests.
    pub(crate) base: Vec<&'a Recorded>,
    pub(crate) new: Vec<&'a Recorded>,
    pub(crate) pairing: Pairing,
    /// Runs of the same seed and requests on both sides, and those in which the same happened.
    pub(crate) common: usize,
    pub(crate) identical: usize,
    pub(crate) notes: Vec<String>,
}

/// A policy and where in the sweep it ran.
type Place<'a> = (&'a [(String, String)], &'a str);

/// The policies of both sides, in the order of the base, then those that only the new side has.
pub(crate) fn matched<'a>(base: &'a Recording, new: &'a Recording) -> Vec<Matched<'a>> {
    let place = |run: &'a Recorded| -> Place<'a> { (&run.run.point, &run.run.policy) };
    let mut places: Vec<Place<'a>> = Vec::new();
    for run in base.runs.iter().chain(&new.runs) {
        if !places.contains(&place(run)) {
            places.push(place(run));
        }
    }
    let of = |recording: &'a Recording, at: Place<'a>| {
        recording.runs.iter().filter(|run| place(run) == at).collect::<Vec<_>>()
    };
    places.into_iter().map(|at| Matched::new(at, of(base, at), of(new, at))).collect()
}

impl<'a> Matched<'a> {
    fn new((point, policy): Place<'a>, base: Vec<&'a Recorded>, new: Vec<&'a Recorded>) -> Matched<'a> {
        let mut pairs: Vec<(&Recorded, &Recorded)> = Vec::new();
        let (mut seeds_common, mut requests_differ) = (0, 0);
        for run in &base {
            let Some(other) = new.iter().find(|other| other.run.seed == run.run.seed) else { continue };
            seeds_common += 1;
            if run.saw_the_same(other) {
                pairs.push((run, other));
            } else {
                requests_differ += 1;
            }
        }
        let common = pairs.len();
        let identical = pairs.iter().filter(|(base, new)| base.is_the_same(new)).count();
        let fewest = base.len().min(new.len());
        let name = label(point, policy);
        let mut notes = Vec::new();
        if requests_differ > 0 {
            notes.push(format!("`{name}`: {requests_differ} of {seeds_common} common seeds gave different requests, so these runs are no pairs"));
        }
        // Half of the smaller side in pairs is worth more than all of both as strangers.
        let pairing = if common > 0 && 2 * common >= fewest { Pairing::Paired } else { Pairing::Unpaired };
        if pairing == Pairing::Unpaired && fewest > 0 {
            notes.push(format!(
                "`{name}`: {common} of {fewest} seeds are common to both sides: they are compared as independent samples (Welch), which needs more seeds than pairs do"
            ));
            return Matched { policy, point, base, new, pairing, common, identical, notes };
        }
        let left_out = base.len() + new.len() - 2 * common;
        if left_out > 0 && fewest > 0 {
            notes.push(format!(
                "`{name}`: seeds do not match: {common} are paired, {left_out} runs without a partner are left out"
            ));
        }
        let (base, new) = if fewest == 0 { (base, new) } else { pairs.into_iter().unzip() };
        Matched { policy, point, base, new, pairing, common, identical, notes }
    }

    /// A name for people.
    pub(crate) fn label(&self) -> String {
        label(self.point, self.policy)
    }

    /// All requests, then the classes of both sides.
    pub(crate) fn classes(&self) -> Vec<Option<&'a str>> {
        let mut classes = vec![None];
        for (name, _) in self.base.iter().chain(&self.new).flat_map(|run| &run.groups) {
            if !classes.contains(&name.as_deref()) {
                classes.push(name.as_deref());
            }
        }
        classes
    }

    /// The metrics of which either side has a value, in the order of [`Metric::ALL`].
    pub(crate) fn metrics(&self, class: Option<&str>) -> Vec<Metric> {
        let runs = || self.base.iter().chain(&self.new);
        Metric::ALL.into_iter().filter(|metric| runs().any(|run| run.value(class, *metric).is_some())).collect()
    }
}

/// A policy and where in the sweep it ran, for people.
pub(crate) fn label(point: &[(String, String)], policy: &str) -> String {
    let point: Vec<String> = point.iter().map(|(axis, value)| format!("{axis} = {value}")).collect();
    if point.is_empty() { policy.to_owned() } else { format!("{policy} at {}", point.join(", ")) }
}
