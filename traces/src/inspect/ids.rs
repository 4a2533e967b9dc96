//! How unevenly ids are used.

use std::collections::HashMap;

use serde::Serialize;

/// Figures of a column of ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ids {
    /// Uses.
    pub uses: u64,
    /// Distinct ids that are used.
    pub distinct: u64,
    /// Exponent of Zipf's law over the ranks of the used ids, by maximum likelihood; none for fewer than two ids.
    pub zipf_s: Option<f64>,
    /// Share of the most used one.
    pub top_1: f64,
    /// Share of the ten most used.
    pub top_10: f64,
    /// Share of the fifty most used.
    pub top_50: f64,
}

impl Ids {
    pub(crate) fn of(ids: &[u32]) -> Ids {
        let mut by_id: HashMap<u32, u64> = HashMap::new();
        for id in ids {
            *by_id.entry(*id).or_default() += 1;
        }
        let mut counts: Vec<u64> = by_id.into_values().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let uses = ids.len() as u64;
        let top = |n: usize| counts.iter().take(n).sum::<u64>() as f64 / uses.max(1) as f64;
        Ids {
            uses,
            distinct: counts.len() as u64,
            zipf_s: zipf_exponent(&counts),
            top_1: top(1),
            top_10: top(10),
            top_50: top(50),
        }
    }
}

/// The s under which counts by rank are likeliest: where the law's mean logarithm of the rank is the observed one.
fn zipf_exponent(counts: &[u64]) -> Option<f64> {
    const LARGEST: f64 = 20.0;
    if counts.len() < 2 {
        return None;
    }
    let uses: f64 = counts.iter().map(|count| *count as f64).sum();
    let logs: Vec<f64> = (1..=counts.len()).map(|rank| (rank as f64).ln()).collect();
    let observed = counts.iter().zip(&logs).map(|(count, log)| *count as f64 * log).sum::<f64>() / uses;
    let expected = |s: f64| {
        let (mut total, mut weighted) = (0.0, 0.0);
        for log in &logs {
            let weight = (-s * log).exp();
            total += weight;
            weighted += weight * log;
        }
        weighted / total
    };
    let (mut low, mut high) = (0.0, LARGEST);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        // A steeper law has a smaller mean rank.
        if expected(middle) > observed { low = middle } else { high = middle }
    }
    Some((low + high) / 2.0)
}
