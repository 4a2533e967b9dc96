//! Changes in words, the same on every page.

use super::compared::{Compared, Row, Verdict};
use super::estimate::{Estimate, Scale};
use super::matched::label;
use crate::format;
use crate::metric::Metric;

impl Row {
    /// Which policy, where, and of whom.
    pub fn of_whom(&self) -> String {
        let name = label(&self.subject.point, &self.subject.policy);
        match &self.subject.class {
            Some(class) => format!("{name}, class {class}"),
            None => name,
        }
    }

    /// By how much: `+2.1 %`.
    pub fn change(&self) -> String {
        self.estimate
            .map_or_else(|| "–".to_owned(), |estimate| change(self.subject.metric, estimate.scale, estimate.change))
    }

    /// Between what and what: `+1.9 % to +2.3 %`.
    pub fn interval(&self) -> String {
        match self.estimate {
            Some(Estimate { scale, interval: Some((low, high)), .. }) => {
                let [low, high] = [low, high].map(|end| change(self.subject.metric, scale, end));
                if low == high { format!("{low} in each pair") } else { format!("{low} to {high}") }
            }
            Some(_) => "one seed: no interval".to_owned(),
            None => "–".to_owned(),
        }
    }

    /// What it was and what it is.
    pub fn values(&self) -> (String, String) {
        let write = |value| format::value(self.subject.metric, value);
        self.estimate
            .map_or_else(|| ("–".to_owned(), "–".to_owned()), |estimate| (write(estimate.base), write(estimate.new)))
    }

    /// The least change that matters.
    pub fn threshold(&self) -> String {
        match (self.estimate, self.least) {
            (Some(Estimate { scale: Scale::Ratio, .. }), Some(least)) => format::percent(least),
            (Some(_), Some(least)) => {
                change(self.subject.metric, Scale::Difference, least).trim_start_matches('+').to_owned()
            }
            _ => "–".to_owned(),
        }
    }

    /// The verdict with what it lacks.
    pub fn said(&self) -> String {
        match (self.verdict, &self.reason, self.more_seeds) {
            (Verdict::CannotTell, Some(reason), _) => format!("cannot tell: {reason}"),
            (Verdict::CannotTell, None, Some(0)) => "cannot tell: close to what matters".to_owned(),
            (Verdict::CannotTell, None, Some(more)) => {
                format!("cannot tell: {} more seeds would show a change that matters", format::count(more))
            }
            (Verdict::CannotTell, None, None) if self.estimate.is_some_and(|estimate| estimate.interval.is_none()) => {
                "cannot tell: one seed shows no spread; a few more would".to_owned()
            }
            (Verdict::Same, _, _) if self.is_identical() => "identical".to_owned(),
            (Verdict::Same, _, _) => "the same: less than what matters".to_owned(),
            (verdict, _, _) => verdict.name().to_owned(),
        }
    }
}

fn change(metric: Metric, scale: Scale, x: f64) -> String {
    match scale {
        Scale::Ratio if x != 0.0 && x.abs() < 5e-5 => format!("{}{:.1e}", if x > 0.0 { "+" } else { "−" }, x.abs()),
        Scale::Ratio => format::signed_percent(x),
        Scale::Difference => format::signed(metric, x),
    }
}

impl Compared {
    /// One sentence: what moved, and what cannot be told.
    pub fn sentence(&self) -> String {
        if self.is_identical() {
            return format!("The same to the last digit, in all {} runs.", self.runs.common);
        }
        let [worse, better, unknown] =
            [Verdict::Worse, Verdict::Better, Verdict::CannotTell].map(|verdict| self.rows_of(verdict));
        let mut parts = Vec::new();
        parts.extend(self.findings.iter().map(|finding| finding.text.clone()));
        for (rows, name) in [(&worse, "worse"), (&better, "better")] {
            if let Some(first) = rows.first() {
                let more = if rows.len() > 1 { format!(", and {} more", rows.len() - 1) } else { String::new() };
                // The verdict over all leads the sentence: it need not be said twice.
                let lead = if self.verdict.name() == name { String::new() } else { format!("{name}: ") };
                parts.push(format!(
                    "{lead}{} of {} {} ({}){more}",
                    first.subject.metric.title(),
                    first.of_whom(),
                    first.change(),
                    first.interval()
                ));
            }
        }
        if !unknown.is_empty() {
            let seeds = unknown.iter().filter_map(|row| row.more_seeds).max();
            let more = seeds
                .filter(|seeds| *seeds > 0)
                .map_or_else(String::new, |seeds| format!(" ({} more seeds would tell)", format::count(seeds)));
            parts.push(format!("{} of {} comparisons cannot be told{more}", unknown.len(), self.rows.len()));
        }
        let same = self.rows_of(Verdict::Same).len();
        if same > 0 && (parts.is_empty() || same < self.rows.len()) {
            parts.push(format!("{same} of {} are the same", self.rows.len()));
        }
        if parts.is_empty() {
            parts.push("there was nothing to compare".to_owned());
        }
        format!("{}: {}.", format::capital(self.verdict.name()), parts.join("; "))
    }
}
