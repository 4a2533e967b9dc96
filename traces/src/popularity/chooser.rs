//! A popularity law made ready to draw from.

use std::sync::Arc;

use aril_sim::random::Stream;
use aril_sim::workload::Catalog;
use rand::RngExt;

use crate::arrivals::{not_negative, positive};
use crate::error::TraceError;
use crate::popularity::counts::{geometric_counts, uniform_sqrt_counts};
use crate::popularity::working_set::Sessions;
use crate::popularity::{ADAPTERS, Popularity, WorkingSet};

/// More adapters than this would need gigabytes for their names alone.
const ADAPTERS_MAX: u64 = 5_000_000;

/// A checked law over adapters that are numbered from the most popular one.
#[derive(Clone, Debug)]
pub(crate) enum Law {
    /// The i-th request asks for the i-th adapter.
    InOrder(u32),
    Uniform(u32),
    /// So many requests each, without replacement.
    Counts(Arc<[u64]>),
    Cumulative(Cumulative),
    Power {
        alpha: f64,
        adapters: u32,
    },
    /// Tenants in sessions.
    WorkingSet(WorkingSet),
}

impl Law {
    /// Checks a law. `requests` and `known` are how many requests come and how many adapters a file lists, if that is known.
    ///
    /// None: the law assigns no adapters of its own.
    pub(crate) fn new(
        popularity: &Popularity,
        requests: Option<u64>,
        known: Option<u32>,
    ) -> Result<Option<Law>, TraceError> {
        let counted = || {
            requests.ok_or_else(|| {
                TraceError::setting("popularity", "the law shares out a known number of requests", "set `requests`")
            })
        };
        let number = |key: &str, adapters: Option<u32>| {
            let adapters = adapters.or(known).unwrap_or(ADAPTERS);
            if adapters == 0 || u64::from(adapters) > ADAPTERS_MAX {
                let problem = format!("{adapters} adapters");
                return Err(TraceError::setting(key, problem, format!("choose a number from 1 to {ADAPTERS_MAX}")));
            }
            Ok(adapters)
        };
        Ok(Some(match popularity {
            Popularity::Trace | Popularity::Base | Popularity::Tenant => return Ok(None),
            Popularity::Distinct => {
                let n = counted()?;
                if n > ADAPTERS_MAX {
                    let problem = format!("an adapter for each of {n} requests would not fit memory");
                    return Err(TraceError::setting("popularity", problem, "choose a law with a number of adapters"));
                }
                Law::InOrder(n as u32)
            }
            Popularity::Identical => Law::Uniform(1),
            Popularity::UniformSqrt => Law::Counts(uniform_sqrt_counts(counted()?).into()),
            Popularity::Geometric { ratio } => {
                if !(ratio.is_finite() && *ratio > 1.0) {
                    let problem = format!("{ratio} is not above 1");
                    return Err(TraceError::setting("popularity.geometric.ratio", problem, "Punica's is 1.5"));
                }
                let counts = geometric_counts(counted()?, *ratio);
                number("popularity.geometric", Some(u32::try_from(counts.len()).unwrap_or(u32::MAX)))?;
                Law::Counts(counts.into())
            }
            Popularity::Uniform { adapters } => Law::Uniform(number("popularity.uniform.adapters", *adapters)?),
            Popularity::Zipf { s, adapters } => {
                let n = number("popularity.zipf.adapters", *adapters)?;
                Law::Cumulative(Cumulative::new(zipf(not_negative("popularity.zipf.s", *s)?, n)))
            }
            Popularity::Power { alpha, adapters } => Law::Power {
                alpha: positive("popularity.power.alpha", *alpha)?,
                adapters: number("popularity.power.adapters", *adapters)?,
            },
            Popularity::WorkingSet(law) => {
                law.check()?;
                Law::WorkingSet(WorkingSet { adapters: known.unwrap_or(law.adapters), ..*law })
            }
        }))
    }

    /// How many adapters it draws from.
    pub(crate) fn adapters(&self) -> u32 {
        match self {
            Law::InOrder(n) | Law::Uniform(n) | Law::Power { adapters: n, .. } => *n,
            Law::Counts(counts) => counts.len() as u32,
            Law::Cumulative(sums) => sums.len() as u32,
            Law::WorkingSet(law) => law.adapters,
        }
    }
}

/// Cumulative probabilities of ranks 1..=n under Zipf's law.
pub(crate) fn zipf(s: f64, n: u32) -> Arc<[f64]> {
    let mut sum = 0.0;
    let mut sums: Vec<f64> = (1..=n)
        .map(|rank| {
            sum += f64::from(rank).powf(-s);
            sum
        })
        .collect();
    sums.iter_mut().for_each(|partial| *partial /= sum);
    sums.into()
}

/// The position that a uniform draw hits.
pub(crate) fn position(cumulative: &[f64], draw: f64) -> u32 {
    cumulative.partition_point(|sum| *sum <= draw).min(cumulative.len().saturating_sub(1)) as u32
}

/// Cumulative probabilities, and where among them equal parts of the unit interval begin: a draw looks at one part, about one
/// position long, and not at a dozen places of a long list.
#[derive(Clone, Debug)]
pub(crate) struct Cumulative {
    sums: Arc<[f64]>,
    /// The position that the begin of each part hits, and that of 1. A power of two of parts, so that a draw is exactly in its own.
    begins: Arc<[u32]>,
}

impl Cumulative {
    pub(crate) fn new(sums: Arc<[f64]>) -> Cumulative {
        let parts = sums.len().next_power_of_two();
        let mut begins = Vec::with_capacity(parts + 1);
        let (mut at, last) = (0, sums.len().saturating_sub(1));
        for part in 0..=parts {
            let draw = part as f64 / parts as f64;
            while sums.get(at).is_some_and(|sum| *sum <= draw) {
                at += 1;
            }
            begins.push(at.min(last) as u32);
        }
        Cumulative { sums, begins: begins.into() }
    }

    /// The position that a draw from 0 to below 1 hits.
    pub(crate) fn position(&self, draw: f64) -> u32 {
        let part = (draw * (self.begins.len() - 1) as f64) as usize;
        let (from, to) = (self.begins[part], self.begins[part + 1]);
        from + self.sums[from as usize..to as usize].partition_point(|sum| *sum <= draw) as u32
    }

    /// How many positions are there?
    pub(crate) fn len(&self) -> usize {
        self.sums.len()
    }
}

/// Draws adapters one by one.
pub(crate) enum Chooser {
    InOrder { next: u32, adapters: u32 },
    Law(Law),
    Counts(Urn),
    Sessions(Box<Sessions>),
}

impl Chooser {
    /// `stream` is used only for what a law shuffles once.
    pub(crate) fn new(law: &Law, catalog: &Catalog, stream: &mut Stream) -> Chooser {
        match law {
            Law::WorkingSet(law) => Chooser::Sessions(Box::new(Sessions::new(law, catalog, stream))),
            Law::InOrder(adapters) => Chooser::InOrder { next: 0, adapters: *adapters },
            Law::Counts(counts) => Chooser::Counts(Urn::new(counts)),
            law => Chooser::Law(law.clone()),
        }
    }

    /// Tenant, if the law says it, and adapter of the next request, which comes at `now_ps` in trace time.
    pub(crate) fn next(&mut self, now_ps: u64, stream: &mut Stream) -> (Option<u32>, u32) {
        if let Chooser::Sessions(sessions) = self {
            let (tenant, adapter) = sessions.next(now_ps, stream);
            return (Some(tenant), adapter);
        }
        (None, self.adapter(stream))
    }

    fn adapter(&mut self, stream: &mut Stream) -> u32 {
        match self {
            Chooser::Sessions(_) => unreachable!("sessions have tenants"),
            Chooser::InOrder { next, adapters } => {
                let adapter = *next % *adapters;
                *next += 1;
                adapter
            }
            Chooser::Counts(urn) => urn.draw(stream),
            Chooser::Law(Law::Cumulative(sums)) => sums.position(stream.random()),
            Chooser::Law(Law::Power { alpha, adapters }) => {
                let draw: f64 = stream.random::<f64>().powf(1.0 / *alpha);
                ((draw * f64::from(*adapters)) as u32).min(*adapters - 1)
            }
            Chooser::Law(law) => stream.random_range(0..law.adapters()),
        }
    }
}

/// Balls of many colours, drawn without putting them back: the same law as a shuffle, in memory of one number a colour.
pub(crate) struct Urn {
    /// Fenwick tree over the numbers of balls.
    tree: Vec<u64>,
    counts: Arc<[u64]>,
    left: u64,
}

impl Urn {
    fn new(counts: &Arc<[u64]>) -> Urn {
        let mut urn = Urn { tree: vec![0; counts.len() + 1], counts: counts.clone(), left: 0 };
        urn.fill();
        urn
    }

    fn fill(&mut self) {
        self.left = self.counts.iter().sum();
        self.tree.fill(0);
        for (i, count) in self.counts.iter().enumerate() {
            let mut at = i + 1;
            while at < self.tree.len() {
                self.tree[at] += count;
                at += at & at.wrapping_neg();
            }
        }
    }

    fn draw(&mut self, stream: &mut Stream) -> u32 {
        if self.left == 0 {
            self.fill();
        }
        let mut ball = stream.random_range(0..self.left);
        self.left -= 1;
        let mut at = 0;
        let mut step = self.tree.len().next_power_of_two() / 2;
        while step > 0 {
            let next = at + step;
            if next < self.tree.len() && self.tree[next] <= ball {
                at = next;
                ball -= self.tree[next];
            }
            step /= 2;
        }
        let mut decrement = at + 1;
        while decrement < self.tree.len() {
            self.tree[decrement] -= 1;
            decrement += decrement & decrement.wrapping_neg();
        }
        at as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_hits_the_same_position_with_and_without_parts() {
        for (s, n) in [(0.0, 1), (0.85, 2), (0.9, 3), (0.0, 64), (1.5, 1000), (6.0, 4097)] {
            let sums = zipf(s, n);
            let parts = Cumulative::new(sums.clone());
            let near = sums.iter().flat_map(|sum| [sum.next_down(), *sum, sum.next_up()]);
            let even = (0..10_000).map(|draw| f64::from(draw) / 10_000.0);
            for draw in near.chain(even).filter(|draw| (0.0..1.0).contains(draw)) {
                assert_eq!(parts.position(draw), position(&sums, draw), "s {s}, n {n}, draw {draw}");
            }
        }
    }
}
