//! Fresh random inputs of a check, and what float64 makes of them.

use aril_kernels::Error;
use aril_kernels::lora::layout::AdapterLayout;
use aril_kernels::lora::plan::Segment;
use aril_kernels::reference::lora::{Weights, expand, shrink};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::points::Point;

/// Fresh random inputs of a check of one projection, as bits.
pub(crate) struct Inputs {
    /// A[inputs][rank] and B[rank][outputs] of each segment; empty for rows without an adapter.
    pub(crate) weights: Vec<(Vec<u16>, Vec<u16>)>,
    pub(crate) x: Vec<u16>,
    pub(crate) y: Vec<u16>,
}

impl Inputs {
    /// Weights of which every two ranks nearly cancel, and y as small as what is left: an intermediate v that loses bits on its
    /// way changes y by far more than the rounding of y. Two ranks are not the same, so that one in the place of the other is
    /// found, too.
    pub(crate) fn draw(point: &Point, seed: u64) -> Inputs {
        let mut inputs = Inputs::draw_apart(point, seed);
        let mut random = SmallRng::seed_from_u64(!seed);
        let element = point.element;
        let mut nearly = |bits: u16| {
            let near = 1.0 + (random.random::<f32>() * 2.0 - 1.0) / 32.0;
            element.encode(element.decode(bits) * near)
        };
        for (&(_, rank), (a, b)) in point.segments.iter().zip(&mut inputs.weights).filter(|((_, rank), _)| *rank > 0) {
            for line in a.chunks_exact_mut(rank as usize) {
                line.chunks_exact_mut(2).for_each(|pair| pair[1] = nearly(pair[0]) ^ 0x8000);
                if let [.., last] = line
                    && rank % 2 == 1
                {
                    *last = element.encode(element.decode(*last) / 32.0);
                }
            }
            for pair in b.chunks_exact_mut(2 * point.outputs as usize) {
                let (first, second) = pair.split_at_mut(point.outputs as usize);
                second.iter_mut().zip(first).for_each(|(second, &mut first)| *second = nearly(first));
            }
        }
        inputs.y.iter_mut().for_each(|y| *y = element.encode(element.decode(*y) / 64.0));
        inputs
    }

    /// The same with ranks that have nothing to do with each other.
    pub(crate) fn draw_apart(point: &Point, seed: u64) -> Inputs {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut draw = |count: u32, scale: f32| -> Vec<u16> {
            (0..count).map(|_| point.element.encode((random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
        };
        // x·A has a standard deviation of about one third, (x·A)·B of about one: before ranks cancel.
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

    /// Those of each projection of a point: the same x, other weights, another y.
    pub(crate) fn draw_each(point: &Point, seed: u64) -> Vec<Inputs> {
        let seed_of = |projection: usize| seed.wrapping_add((projection as u64) << 32);
        let mut all: Vec<Inputs> = (0..point.projections().count())
            .map(|projection| Inputs::draw(&point.alone(projection), seed_of(projection)))
            .collect();
        let x = all[0].x.clone();
        all[1..].iter_mut().for_each(|inputs| inputs.x.clone_from(&x));
        all
    }

    /// y after the pair, in float64, on all cores.
    pub(crate) fn expected(&self, point: &Point, scale: f32) -> Vec<f64> {
        let (inputs, outputs) = (point.inputs as usize, point.outputs as usize);
        let decode = |bits: &[u16]| -> Vec<f32> { bits.iter().map(|&bits| point.element.decode(bits)).collect() };
        // Work is split by rows, so that one long segment keeps all cores busy too.
        let (mut tasks, mut parts): (Vec<_>, Vec<(usize, Vec<f64>)>) = (Vec::new(), Vec::new());
        let mut row = 0;
        for (index, &(rows, rank)) in point.segments.iter().enumerate() {
            if rank == 0 {
                let y = &self.y[row * outputs..(row + rows as usize) * outputs];
                parts.push((row, decode(y).into_iter().map(f64::from).collect()));
                row += rows as usize;
                continue;
            }
            for first in (0..rows as usize).step_by(64) {
                tasks.push((index, row + first, (rows as usize - first).min(64)));
            }
            row += rows as usize;
        }
        let next = std::sync::atomic::AtomicUsize::new(0);
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

/// The adapters as they are loaded, one behind the other with all projections each, and the segments that use them, each at
/// its offset in bytes. Rows without an adapter are in no segment.
pub(crate) fn packed(all: &[Inputs], point: &Point, layout: &AdapterLayout) -> Result<(Vec<u16>, Vec<Segment>), Error> {
    let (mut packed, mut segments, mut row) = (Vec::new(), Vec::new(), 0);
    for (index, &(rows, rank)) in point.segments.iter().enumerate() {
        if rank == 0 {
            row += rows;
            continue;
        }
        let offset = packed.len();
        packed.resize(offset + layout.elements(rank), 0);
        for (projection, inputs) in all.iter().enumerate() {
            let (a, b) = &inputs.weights[index];
            layout.pack(projection, rank, a, b, &mut packed[offset..])?;
        }
        segments.push(Segment { rows: row..row + rows, weights: offset as u64 * 2, rank, scale: 0.75 });
        row += rows;
    }
    Ok((packed, segments))
}

/// y of all projections before the pair: those of a row lie side by side.
pub(crate) fn y_of_all(all: &[Inputs], point: &Point) -> Vec<u16> {
    side_by_side(all.iter().map(|inputs| inputs.y.as_slice()).collect(), point)
}

/// The same after the pair, in float64.
pub(crate) fn expected_of_all(all: &[Inputs], point: &Point, scale: f32) -> Vec<f64> {
    let each: Vec<Vec<f64>> =
        all.iter().enumerate().map(|(projection, inputs)| inputs.expected(&point.alone(projection), scale)).collect();
    side_by_side(each.iter().map(Vec::as_slice).collect(), point)
}

/// Matrices of a row of each projection, as one matrix of their columns.
fn side_by_side<T: Copy>(each: Vec<&[T]>, point: &Point) -> Vec<T> {
    let row_of = |row: usize| {
        let columns = each.iter().zip(point.projections());
        columns.flat_map(move |(part, outputs)| &part[row * outputs as usize..][..outputs as usize])
    };
    (0..point.rows() as usize).flat_map(row_of).copied().collect()
}

#[cfg(test)]
mod tests {
    use aril_kernels::Element;
    use aril_kernels::lora::layout::ProjectionShape;

    use super::*;

    fn point() -> Point {
        Point {
            group: "other",
            element: Element::Bf16,
            inputs: 32,
            outputs: 16,
            also: vec![8, 24],
            batch: "2r8 beside a row of r16".to_owned(),
            segments: vec![(2, 8), (1, 16)],
        }
    }

    #[test]
    fn projections_of_a_check_share_x_and_nothing_else() {
        let all = Inputs::draw_each(&point(), 1);
        assert_eq!(all.len(), 3);
        for (inputs, outputs) in all.iter().zip([16, 8, 24]) {
            assert_eq!(inputs.x, all[0].x);
            assert_eq!(inputs.y.len(), 3 * outputs);
            assert_eq!(inputs.weights[1].1.len(), 16 * outputs);
        }
        assert_ne!(all[0].weights[0].0, all[1].weights[0].0);
        assert_ne!(all[1].weights[0].0, all[2].weights[0].0);
    }

    #[test]
    fn y_of_several_projections_is_that_of_each_side_by_side() {
        let point = point();
        let all = Inputs::draw_each(&point, 2);
        let (before, after) = (y_of_all(&all, &point), expected_of_all(&all, &point, 0.75));
        assert_eq!((before.len(), after.len()), (3 * 48, 3 * 48));
        let mut first = 0;
        for (projection, outputs) in [16, 8, 24].into_iter().enumerate() {
            let alone = all[projection].expected(&point.alone(projection), 0.75);
            for row in 0..3 {
                let columns = row * 48 + first..row * 48 + first + outputs;
                assert_eq!(before[columns.clone()], all[projection].y[row * outputs..][..outputs]);
                assert_eq!(after[columns], alone[row * outputs..][..outputs]);
            }
            first += outputs;
        }
    }

    #[test]
    fn rows_without_an_adapter_are_in_no_segment_and_keep_their_y() -> Result<(), Error> {
        let plain = point();
        let point = plain.with_gaps();
        assert_eq!(point.segments, [(1, 0), (2, 8), (2, 0), (1, 16), (3, 0)]);
        let all = Inputs::draw_each(&point, 4);
        let shapes: Vec<_> = point.projections().map(|outputs| ProjectionShape { inputs: 32, outputs }).collect();
        let layout = AdapterLayout::new(&shapes)?;
        let (weights, segments) = packed(&all, &point, &layout)?;
        assert_eq!(weights.len(), layout.elements(8) + layout.elements(16));
        assert_eq!(segments.iter().map(|segment| segment.rows.clone()).collect::<Vec<_>>(), [1..3, 5..6]);
        let (before, after) = (y_of_all(&all, &point), expected_of_all(&all, &point, 0.75));
        for row in 0..9 {
            let columns = row * 48..(row + 1) * 48;
            let same = before[columns.clone()]
                .iter()
                .zip(&after[columns])
                .all(|(&before, &after)| f64::from(point.element.decode(before)) == after);
            assert_eq!(same, ![1, 2, 5].contains(&row), "row {row}");
        }
        Ok(())
    }

    #[test]
    fn an_adapter_holds_all_its_projections() -> Result<(), Error> {
        let point = point();
        let all = Inputs::draw_each(&point, 3);
        let shapes: Vec<_> = point.projections().map(|outputs| ProjectionShape { inputs: 32, outputs }).collect();
        let layout = AdapterLayout::new(&shapes)?;
        let (packed, segments) = packed(&all, &point, &layout)?;
        assert_eq!(packed.len(), layout.elements(8) + layout.elements(16));
        assert_eq!(segments[1].weights as usize, layout.elements(8) * 2);
        let mut second = vec![0; layout.elements(16)];
        for (projection, inputs) in all.iter().enumerate() {
            layout.pack(projection, 16, &inputs.weights[1].0, &inputs.weights[1].1, &mut second)?;
        }
        assert_eq!(packed[layout.elements(8)..], second);
        Ok(())
    }
}
