//! The verdict of each comparison, corrected for how many there are, and the one over all.

use super::{Finding, Row, Rules, RunCount, Subject, Verdict};
use crate::change::estimate::{Estimate, Pairing};
use crate::change::holm::holm;
use crate::change::matched::Matched;
use crate::change::recording::Recorded;
use crate::change::watched::{is_of_queue, scale_of};
use crate::metric::{Better, Metric};

/// Worse if anything is; then better if anything is; the same only if all of it is.
pub(super) fn overall(findings: &[Finding], rows: &[Row]) -> Verdict {
    let verdicts = || findings.iter().map(|finding| finding.verdict).chain(rows.iter().map(|row| row.verdict));
    match (
        verdicts().any(|v| v == Verdict::Worse),
        verdicts().any(|v| v == Verdict::Better),
        verdicts().any(|v| v == Verdict::CannotTell),
    ) {
        (true, _, _) => Verdict::Worse,
        (false, true, _) => Verdict::Better,
        (false, false, true) => Verdict::CannotTell,
        (false, false, false) if rows.is_empty() => Verdict::CannotTell,
        (false, false, false) => Verdict::Same,
    }
}

/// What is said so far.
pub(super) struct Judging<'a> {
    rules: &'a Rules,
    pub(super) findings: Vec<Finding>,
    pub(super) notes: Vec<String>,
    pub(super) rows: Vec<Row>,
    pub(super) runs: RunCount,
}

impl Judging<'_> {
    pub(super) fn by(rules: &Rules) -> Judging<'_> {
        Judging { rules, findings: Vec::new(), notes: Vec::new(), rows: Vec::new(), runs: RunCount::default() }
    }

    fn finding(&mut self, verdict: Verdict, text: String) {
        self.findings.push(Finding { verdict, text });
    }

    /// Judges one policy at one point.
    pub(super) fn policy(&mut self, matched: &Matched<'_>) {
        let name = matched.label();
        self.notes.extend(matched.notes.iter().cloned());
        if matched.base.is_empty() || matched.new.is_empty() {
            let side = if matched.base.is_empty() { "new" } else { "base" };
            self.finding(
                Verdict::CannotTell,
                format!("`{name}` is only on the {side} side: it was compared with nothing"),
            );
            return;
        }
        self.runs.common += matched.common;
        self.runs.identical += matched.identical;
        let finished = |runs: &[&Recorded]| runs.iter().map(|run| run.finished).sum::<u64>();
        match (finished(&matched.base), finished(&matched.new)) {
            (0, 0) => self.finding(Verdict::CannotTell, format!("`{name}` finished no request on either side")),
            (_, 0) => self.finding(Verdict::Worse, format!("`{name}` finishes no request any more")),
            (0, _) => self.finding(Verdict::Better, format!("`{name}` finished no request before, and does now")),
            _ => {}
        }
        let saturated =
            [&matched.base, &matched.new].map(|runs| 2 * runs.iter().filter(|run| run.saturated).count() > runs.len());
        match saturated {
            [false, true] => self.finding(
                Verdict::Worse,
                format!("`{name}` does not keep up with the load any more: most of its runs are saturated"),
            ),
            [true, false] => self.finding(
                Verdict::Better,
                format!("`{name}` keeps up with the load now: most of its runs were saturated"),
            ),
            _ => {}
        }
        let saturated = saturated.contains(&true);
        for class in matched.classes() {
            for metric in matched.metrics(class) {
                let row = self.row(matched, class, metric, saturated);
                self.rows.push(row);
            }
        }
    }

    /// A row without its correction, and with a verdict only where none has to wait for it.
    fn row(&self, matched: &Matched<'_>, class: Option<&str>, metric: Metric, saturated: bool) -> Row {
        let confidence = 1.0 - self.rules.alpha;
        let value = |run: &&Recorded| run.value(class, metric);
        let estimate = match matched.pairing {
            Pairing::Paired => {
                let pairs: Vec<(f64, f64)> = matched
                    .base
                    .iter()
                    .zip(&matched.new)
                    .filter_map(|(base, new)| Some((value(base)?, value(new)?)))
                    .collect();
                Estimate::paired(scale_of(metric), &pairs, confidence)
            }
            Pairing::Unpaired => {
                let [base, new]: [Vec<f64>; 2] =
                    [&matched.base, &matched.new].map(|runs| runs.iter().filter_map(value).collect());
                Estimate::unpaired(scale_of(metric), &base, &new, confidence)
            }
        };
        let missing = |runs: &[&Recorded]| runs.iter().filter(|run| value(run).is_none()).count();
        let (missing_base, missing_new) = (missing(&matched.base), missing(&matched.new));
        let identical = estimate.is_some_and(|estimate| estimate.identical);
        let reason = if missing_base != missing_new {
            Some(format!(
                "{missing_base} of {} runs of the base and {missing_new} of {} new ones have no value",
                matched.base.len(),
                matched.new.len()
            ))
        } else if estimate.is_none() {
            Some("no run has a value on both sides".to_owned())
        } else if saturated && is_of_queue(metric) && !identical {
            Some("the runs are saturated: this measures how long they lasted".to_owned())
        } else {
            None
        };
        let subject = Subject {
            policy: matched.policy.to_owned(),
            point: matched.point.to_vec(),
            class: class.map(str::to_owned),
            metric,
        };
        let least = estimate.map(|estimate| self.rules.thresholds.least(metric, estimate.scale, estimate.base));
        let material = estimate
            .zip(least)
            .is_some_and(|(estimate, least)| estimate.change != 0.0 && estimate.change.abs() >= least);
        Row {
            subject,
            estimate,
            p_corrected: None,
            least,
            significant: false,
            material,
            verdict: Verdict::CannotTell,
            reason,
            more_seeds: None,
        }
    }
}

/// Corrects for the number of comparisons and settles the verdicts.
pub(super) fn correct(rows: &mut [Row], rules: &Rules) {
    let tested: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].estimate.is_some_and(|e| e.p.is_some())).collect();
    let corrected = holm(&tested.iter().filter_map(|i| rows[*i].estimate?.p).collect::<Vec<_>>());
    for (index, p) in tested.iter().zip(corrected) {
        rows[*index].p_corrected = Some(p);
    }
    let family = tested.len().max(1);
    for row in rows {
        let Some(estimate) = row.estimate else { continue };
        let least = row.least.unwrap_or(0.0);
        row.significant = row.p_corrected.is_some_and(|p| p <= rules.alpha);
        let within = estimate.interval.is_some_and(|(low, high)| low >= -least && high <= least);
        row.verdict = match &row.reason {
            Some(_) => Verdict::CannotTell,
            None if estimate.identical => Verdict::Same,
            None if row.significant && row.material => {
                if (estimate.change > 0.0) == (row.subject.metric.better() == Better::Higher) {
                    Verdict::Better
                } else {
                    Verdict::Worse
                }
            }
            None if within && !row.material => Verdict::Same,
            None => Verdict::CannotTell,
        };
        if row.verdict == Verdict::CannotTell && row.reason.is_none() {
            row.more_seeds = estimate.more_seeds_for(least, rules.alpha / family as f64);
        }
    }
}
