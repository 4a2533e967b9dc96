//! Draws the requests of ServeGen's clients, each from streams of its own, and merges them by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use aril_sim::random::{Stream, stream};
use aril_sim::time::Span;
use rand::RngExt;
use rand_distr::{Distribution, Gamma, Weibull};

use crate::servegen::{Gaps, Model};

/// The next request of all clients: (ps from the start of the window, client, prompt, output).
pub(crate) struct Draws<'a> {
    model: &'a Model,
    clients: Vec<Arrivals<'a>>,
    lengths: Vec<Stream>,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
}

impl<'a> Draws<'a> {
    pub(crate) fn new(model: &'a Model, seed: u64) -> Draws<'a> {
        let named = |client: usize, what: &str| stream(seed, &format!("traffic.{}.{what}", model.clients[client].name));
        let mut clients: Vec<Arrivals<'a>> =
            (0..model.clients.len()).map(|client| Arrivals::new(model, client, named(client, "arrivals"))).collect();
        let heap = clients
            .iter_mut()
            .enumerate()
            .filter_map(|(client, arrivals)| arrivals.next().map(|at| Reverse((at, client as u32))))
            .collect();
        let lengths = (0..model.clients.len()).map(|client| named(client, "lengths")).collect();
        Draws { model, clients, lengths, heap }
    }

    fn lengths(&mut self, client: usize, at_ps: u64) -> (u32, u32) {
        let random = &mut self.lengths[client];
        let lender = match self.model.clients[client].lengths.is_empty() {
            false => client,
            true => {
                let draw: f64 = random.random();
                let position = self.model.lenders.partition_point(|(sum, _)| *sum <= draw);
                self.model.lenders.get(position).or(self.model.lenders.last()).map_or(client, |(_, lender)| *lender)
            }
        };
        let at_s = self.model.start_s + Span::from_ps(at_ps).as_secs_f64();
        let Some(bucket) = self.model.clients[lender].bucket(at_s) else { return (1, 1) };
        let input = bucket.input.iter().fold(0_u32, |sum, part| sum.saturating_add(part.at(random.random())));
        (input.max(1), bucket.output.at(random.random()).max(1))
    }
}

impl Iterator for Draws<'_> {
    type Item = (u64, u32, (u32, u32));

    fn next(&mut self) -> Option<Self::Item> {
        let Reverse((at, client)) = self.heap.pop()?;
        if let Some(next) = self.clients[client as usize].next() {
            self.heap.push(Reverse((next, client)));
        }
        Some((at, client, self.lengths(client as usize, at)))
    }
}

/// The arrivals of one client.
///
/// A window has as many as its rate says, the fraction by chance. Their gaps are drawn from the window's law and stretched
/// so that they fill it, as ServeGen's own generator does: a renewal process begun in every window would have far more
/// requests than the rate says where gaps vary a lot.
struct Arrivals<'a> {
    model: &'a Model,
    client: usize,
    window: usize,
    stream: Stream,
    /// Draws the gaps of the window a second time: the first time found their sum.
    gaps: Option<Stretched>,
    /// The latest arrival so far, ps.
    latest: u64,
}

struct Stretched {
    law: GapLaw,
    stream: Stream,
    left: u64,
    at_s: f64,
    /// Seconds for a unit of the law; none if all gaps were zero.
    scale: f64,
}

enum GapLaw {
    Gamma(Gamma<f64>),
    Weibull(Weibull<f64>),
    /// A shape that cannot be drawn from: equal gaps.
    Equal,
}

impl GapLaw {
    fn new(gaps: Gaps) -> GapLaw {
        match gaps {
            Gaps::Gamma { shape } => Gamma::new(shape, 1.0).map_or(GapLaw::Equal, GapLaw::Gamma),
            Gaps::Weibull { shape } => Weibull::new(1.0, shape).map_or(GapLaw::Equal, GapLaw::Weibull),
        }
    }

    fn sample(&self, stream: &mut Stream) -> f64 {
        match self {
            GapLaw::Gamma(law) => law.sample(stream),
            GapLaw::Weibull(law) => law.sample(stream),
            GapLaw::Equal => 1.0,
        }
    }
}

impl<'a> Arrivals<'a> {
    fn new(model: &'a Model, client: usize, stream: Stream) -> Arrivals<'a> {
        Arrivals { model, client, window: 0, stream, gaps: None, latest: 0 }
    }

    /// Begins the next window; false after the last.
    fn begin(&mut self) -> bool {
        let Some(window) = self.model.clients[self.client].windows.get(self.window) else { return false };
        self.window += 1;
        let expected = window.rate * window.length_s * self.model.factor;
        let by_chance = self.stream.random::<f64>() < expected.fract();
        let requests = expected as u64 + u64::from(by_chance);
        let law = GapLaw::new(window.gaps);
        let first = self.stream.clone();
        // One gap more than requests: the last one leads to the end of the window.
        let sum: f64 = (0..=requests).map(|_| law.sample(&mut self.stream)).sum();
        let usable = sum.is_finite() && sum > 0.0;
        let (law, scale) = if usable {
            (law, window.length_s / sum)
        } else {
            (GapLaw::Equal, window.length_s / (requests + 1) as f64)
        };
        self.gaps = Some(Stretched { law, stream: first, left: requests, at_s: window.start_s, scale });
        true
    }
}

impl Iterator for Arrivals<'_> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        loop {
            let (start_s, end_s) = (self.model.start_s, self.model.end_s);
            while let Some(gaps) = self.gaps.as_mut().filter(|gaps| gaps.left > 0) {
                gaps.left -= 1;
                gaps.at_s += gaps.law.sample(&mut gaps.stream) * gaps.scale;
                if gaps.at_s >= start_s && gaps.at_s < end_s {
                    // Gaps that add up to a window may, in floating point, add up to a picosecond more.
                    self.latest = self.latest.max(Span::from_secs_f64(gaps.at_s - start_s).as_ps());
                    return Some(self.latest);
                }
            }
            if !self.begin() {
                return None;
            }
        }
    }
}
