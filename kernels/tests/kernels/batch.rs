//! Random batches, and what the float64 reference makes of them.

use aril_kernels::Element;
use aril_kernels::lora::layout::{AdapterLayout, ProjectionShape};
use aril_kernels::lora::plan::{Segment, Site};
use aril_kernels::reference::lora::{self, Weights};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Consecutive rows of one rank; a new adapter each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) rows: u32,
    /// Zero: rows without an adapter.
    pub(crate) rank: u32,
}

pub(crate) struct Adapter {
    pub(crate) rank: u32,
    /// A and B of each projection, as bits.
    pub(crate) weights: Vec<(Vec<u16>, Vec<u16>)>,
    pub(crate) packed: Vec<u16>,
}

/// Inputs of one launch, all rounded to the element's format.
pub(crate) struct Batch {
    pub(crate) site: Site,
    pub(crate) adapters: Vec<Adapter>,
    /// (first row, rows, adapter, scale)
    pub(crate) segments: Vec<(u32, u32, usize, f32)>,
    pub(crate) rows: u32,
    pub(crate) x: Vec<u16>,
    pub(crate) y: Vec<Vec<u16>>,
}

impl Batch {
    pub(crate) fn new(element: Element, inputs: u32, outputs: &[u32], parts: &[Part], seed: u64) -> Batch {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = |count: usize, scale: f32| -> Vec<u16> {
            (0..count).map(|_| element.encode((random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
        };
        let shapes: Vec<_> = outputs.iter().map(|&outputs| ProjectionShape { inputs, outputs }).collect();
        let layout = AdapterLayout::new(&shapes).expect("multiples of 8");
        let (mut adapters, mut segments, mut rows) = (Vec::new(), Vec::new(), 0);
        for part in parts {
            if part.rank > 0 {
                let scale = 0.5 + segments.len() as f32 * 0.25;
                segments.push((rows, part.rows, adapters.len(), scale));
                let mut adapter =
                    Adapter { rank: part.rank, weights: Vec::new(), packed: vec![0; layout.elements(part.rank)] };
                for (index, &outputs) in outputs.iter().enumerate() {
                    let a = draw((inputs * part.rank) as usize, 1.0 / (inputs as f32).sqrt());
                    let b = draw((part.rank * outputs) as usize, 1.0);
                    layout.pack(index, part.rank, &a, &b, &mut adapter.packed).expect("the shapes fit");
                    adapter.weights.push((a, b));
                }
                adapters.push(adapter);
            }
            rows += part.rows;
        }
        let x = draw((rows * inputs) as usize, 1.0);
        let y = outputs.iter().map(|&outputs| draw((rows * outputs) as usize, 1.0)).collect();
        let site = Site::new(element, layout.places()).expect("one to four projections");
        Batch { site, adapters, segments, rows, x, y }
    }

    /// The same with weights of which every two ranks nearly cancel, and y as small as what is left: an intermediate that
    /// loses bits on its way changes y by far more than the rounding of y. Two ranks are not the same, so that one in
    /// the place of the other is found, too.
    pub(crate) fn cancelling(element: Element, inputs: u32, outputs: &[u32], parts: &[Part], seed: u64) -> Batch {
        let mut batch = Batch::new(element, inputs, outputs, parts, seed);
        let mut random = ChaCha8Rng::seed_from_u64(seed + 1);
        let mut nearly = |bits: u16| {
            let near = 1.0 + (random.random::<f32>() * 2.0 - 1.0) / 32.0;
            element.encode(element.decode(bits) * near)
        };
        batch.change_weights(|rank, a, b| {
            let (rank, outputs) = (rank as usize, b.len() / rank as usize);
            for line in a.chunks_exact_mut(rank) {
                for pair in line.chunks_exact_mut(2) {
                    pair[1] = nearly(pair[0]) ^ 0x8000;
                }
                if rank % 2 == 1 {
                    line[rank - 1] = element.encode(element.decode(line[rank - 1]) / 32.0);
                }
            }
            for pair in b.chunks_exact_mut(2 * outputs) {
                let (first, second) = pair.split_at_mut(outputs);
                second.iter_mut().zip(first).for_each(|(second, &mut first)| *second = nearly(first));
            }
        });
        let small = |bits: &mut u16| *bits = element.encode(element.decode(*bits) / 64.0);
        batch.y.iter_mut().flatten().for_each(small);
        batch
    }

    /// Changes A and B of every adapter and projection, given its rank, and packs them again.
    pub(crate) fn change_weights(&mut self, mut change: impl FnMut(u32, &mut [u16], &mut [u16])) {
        let shapes: Vec<_> = self.site.places().iter().map(|place| place.shape).collect();
        let layout = AdapterLayout::new(&shapes).expect("those of the site");
        for adapter in &mut self.adapters {
            for (index, (a, b)) in adapter.weights.iter_mut().enumerate() {
                change(adapter.rank, a, b);
                layout.pack(index, adapter.rank, a, b, &mut adapter.packed).expect("the shapes fit");
            }
        }
    }

    /// Segments for a plan, given each adapter's address.
    pub(crate) fn segments(&self, address: impl Fn(usize) -> u64) -> Vec<Segment> {
        self.segments
            .iter()
            .map(|&(row, rows, adapter, scale)| Segment {
                rows: row..row + rows,
                weights: address(adapter),
                rank: self.adapters[adapter].rank,
                scale,
            })
            .collect()
    }

    pub(crate) fn decode(&self, bits: &[u16]) -> Vec<f32> {
        bits.iter().map(|&bits| self.site.element().decode(bits)).collect()
    }

    /// v of one projection, rows of `stride`; rows and ranks that no segment has are `fill`.
    pub(crate) fn expected_v(&self, projection: usize, stride: usize, fill: f64) -> Vec<f64> {
        let inputs = self.site.inputs() as usize;
        let mut v = vec![fill; self.rows as usize * stride];
        for &(row, rows, adapter, _) in &self.segments {
            let adapter = &self.adapters[adapter];
            let (a, b) = &adapter.weights[projection];
            let (a, b) = (self.decode(a), self.decode(b));
            let rank = adapter.rank as usize;
            let x = self.decode(&self.x[row as usize * inputs..(row + rows) as usize * inputs]);
            let part = lora::shrink(&x, inputs, Weights { a: &a, b: &b, rank });
            for (line, values) in part.chunks_exact(rank).enumerate() {
                v[(row as usize + line) * stride..][..rank].copy_from_slice(values);
            }
        }
        v
    }

    /// y of one projection after the pair.
    pub(crate) fn expected_y(&self, projection: usize) -> Vec<f64> {
        let inputs = self.site.inputs() as usize;
        let outputs = self.site.places()[projection].shape.outputs as usize;
        let mut y: Vec<f64> = self.decode(&self.y[projection]).into_iter().map(f64::from).collect();
        for &(row, rows, adapter, scale) in &self.segments {
            let adapter = &self.adapters[adapter];
            let (a, b) = &adapter.weights[projection];
            let (a, b) = (self.decode(a), self.decode(b));
            let weights = Weights { a: &a, b: &b, rank: adapter.rank as usize };
            let (row, rows) = (row as usize, rows as usize);
            let x = self.decode(&self.x[row * inputs..(row + rows) * inputs]);
            let before = self.decode(&self.y[projection][row * outputs..(row + rows) * outputs]);
            let v = lora::shrink(&x, inputs, weights);
            let after = lora::expand(&before, outputs, &v, scale, weights);
            y[row * outputs..(row + rows) * outputs].copy_from_slice(&after);
        }
        y
    }
}
