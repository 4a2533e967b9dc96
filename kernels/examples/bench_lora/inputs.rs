//! Fresh random inputs of a check, and what float64 makes of them.

use aril_kernels::Error;
use aril_kernels::lora::layout::AdapterLayout;
use aril_kernels::lora::plan::Segment;
use aril_kernels::reference::lora::{Weights, expand, shrink};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::points::Point;

/// Fresh random inputs of a check, as bits.
pub(crate) struct Inputs {
    /// A[inputs][rank] and B[rank][outputs] of each segment.
    pub(crate) weights: Vec<(Vec<u16>, Vec<u16>)>,
    pub(crate) x: Vec<u16>,
    pub(crate) y: Vec<u16>,
}

impl Inputs {
    pub(crate) fn draw(point: &Point, seed: u64) -> Inputs {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut draw = |count: u32, scale: f32| -> Vec<u16> {
            (0..count).map(|_| point.element.encode((random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
        };
        // x·A has a standard deviation of about one third, (x·A)·B of about one.
        let a_scale = 1.0 / (point.inputs as f32).sqrt();
        let weights = point
            .segments
            .iter()
            .map(|&(_, rank)| {
                let b_scale = 4.0 / (rank as f32).sqrt();
                (draw(point.inputs * rank, a_scale), draw(rank * point.outputs, b_scale))
            })
            .collect();
        let (rows, inputs, outputs) = (point.rows(), point.inputs, point.outputs);
        Inputs { weights, x: draw(rows * inputs, 1.0), y: draw(rows * outputs, 1.0) }
    }

    /// The adapters as they are loaded, one behind the other, and the segments that use them, each at its offset in bytes.
    pub(crate) fn packed(&self, point: &Point, layout: &AdapterLayout) -> Result<(Vec<u16>, Vec<Segment>), Error> {
        let (mut packed, mut segments, mut row) = (Vec::new(), Vec::new(), 0);
        for (&(rows, rank), (a, b)) in point.segments.iter().zip(&self.weights) {
            let offset = packed.len();
            packed.resize(offset + layout.elements(rank), 0);
            layout.pack(0, rank, a, b, &mut packed[offset..])?;
            segments.push(Segment { rows: row..row + rows, weights: offset as u64 * 2, rank, scale: 0.75 });
            row += rows;
        }
        Ok((packed, segments))
    }

    /// y after the pair, in float64, on all cores.
    pub(crate) fn expected(&self, point: &Point, scale: f32) -> Vec<f64> {
        let (inputs, outputs) = (point.inputs as usize, point.outputs as usize);
        let decode = |bits: &[u16]| -> Vec<f32> { bits.iter().map(|&bits| point.element.decode(bits)).collect() };
        // Work is split by rows, so that one long segment keeps all cores busy too.
        let mut tasks = Vec::new();
        let mut row = 0;
        for (index, &(rows, _)) in point.segments.iter().enumerate() {
            for first in (0..rows as usize).step_by(64) {
                tasks.push((index, row + first, (rows as usize - first).min(64)));
            }
            row += rows as usize;
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
        let mut parts: Vec<(usize, Vec<f64>)> = Vec::new();
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..std::thread::available_parallelism().map_or(4, usize::from))
                .map(|_| {
                    scope.spawn(|| {
                        let mut done = Vec::new();
                        while let Some(&(index, first, rows)) =
                            tasks.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
                        {
                            let (a, b) = &self.weights[index];
                            let (a, b) = (decode(a), decode(b));
                            let weights = Weights { a: &a, b: &b, rank: point.segments[index].1 as usize };
                            let x = decode(&self.x[first * inputs..(first + rows) * inputs]);
                            let y = decode(&self.y[first * outputs..(first + rows) * outputs]);
                            let v = shrink(&x, inputs, weights);
                            done.push((first, expand(&y, outputs, &v, scale, weights)));
                        }
                        done
                    })
                })
                .collect();
            for worker in workers {
                parts.extend(worker.join().expect("a reference thread"));
            }
        });
        parts.sort_unstable_by_key(|&(first, _)| first);
        parts.into_iter().flat_map(|(_, part)| part).collect()
    }
}
