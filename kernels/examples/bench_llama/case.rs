//! A small model with weights, adapters and a schedule of steps, for checks.

use std::collections::HashMap;

use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{
    AdapterWeights, Build, GemmPath, Half, Llama, LlamaSettings, LlamaShape, LoraOrder, LoraPath, ModelWeights,
    Projection, Sequence, Tensor,
};
use aril_kernels::{Element, Error};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

pub(crate) struct AdapterOf {
    pub(crate) rank: u32,
    pub(crate) scale: f32,
    pub(crate) weights: HashMap<(u32, Projection, Half), Vec<u16>>,
}

/// What a step gave: logits and token of each part.
pub(crate) type StepOutput = (Vec<Vec<f32>>, Vec<u32>);

/// One sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) sequence: usize,
    pub(crate) start: usize,
    pub(crate) count: usize,
}

pub(crate) struct Case {
    pub(crate) shape: LlamaShape,
    pub(crate) element: Element,
    pub(crate) tensors: HashMap<Tensor, Vec<u16>>,
    pub(crate) adapters: Vec<AdapterOf>,
    /// Tokens and adapter of each sequence.
    pub(crate) sequences: Vec<(Vec<u32>, Option<u32>)>,
    pub(crate) steps: Vec<Vec<Part>>,
}

/// Every tensor of a shape with its length and what its rows are summed over.
pub(crate) fn tensors_of(shape: &LlamaShape) -> Vec<(Tensor, usize, Option<u32>)> {
    let (hidden, table) = (shape.hidden as usize, (shape.vocab * shape.hidden) as usize);
    let mut tensors = vec![
        (Tensor::Embedding, table, Some(1)),
        (Tensor::FinalNorm, hidden, None),
        (Tensor::LmHead, table, Some(shape.hidden)),
    ];
    for layer in 0..shape.layers {
        tensors.push((Tensor::AttentionNorm { layer }, hidden, None));
        tensors.push((Tensor::MlpNorm { layer }, hidden, None));
        for projection in Projection::ALL {
            let widths = shape.projection(projection);
            let length = (widths.inputs * widths.outputs) as usize;
            tensors.push((Tensor::Projection { layer, projection }, length, Some(widths.inputs)));
        }
    }
    tensors
}

impl Case {
    /// `few`: short sequences, in steps of so few rows that none of their kernels is a library's.
    pub(crate) fn random(shape: LlamaShape, element: Element, seed: u64, few: bool) -> Case {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut draw = |count: usize, middle: f32, scale: f32| -> Vec<u16> {
            (0..count).map(|_| element.encode(middle + (random.random::<f32>() * 2.0 - 1.0) * scale)).collect()
        };
        let mut tensors = HashMap::new();
        for (tensor, length, inputs) in tensors_of(&shape) {
            let values = match inputs {
                Some(inputs) => draw(length, 0.0, (3.0 / inputs as f32).sqrt()),
                None => draw(length, 1.0, 0.2),
            };
            tensors.insert(tensor, values);
        }
        let mut adapters = Vec::new();
        for (rank, scale) in [(8, 2.0), (16, 1.0), (5, 0.5), (40, 0.25)] {
            let mut weights = HashMap::new();
            for layer in 0..shape.layers {
                for projection in Projection::ALL {
                    let widths = shape.projection(projection);
                    let a = draw((widths.inputs * rank) as usize, 0.0, (3.0 / widths.inputs as f32).sqrt());
                    let b = draw((rank * widths.outputs) as usize, 0.0, 0.5 * (3.0 / rank as f32).sqrt());
                    weights.insert((layer, projection, Half::A), a);
                    weights.insert((layer, projection, Half::B), b);
                }
            }
            adapters.push(AdapterOf { rank, scale, weights });
        }
        let (lengths, owners) = if few {
            (vec![17_usize, 6, 9, 7], vec![Some(0), Some(3), None, Some(2)])
        } else {
            (vec![37, 9, 50, 21, 70, 12], vec![Some(0), Some(1), None, Some(2), Some(3), Some(1)])
        };
        let sequences = lengths
            .iter()
            .zip(owners)
            .map(|(&length, owner)| ((0..length).map(|_| random.random_range(0..shape.vocab)).collect(), owner))
            .collect();
        Case {
            shape,
            element,
            tensors,
            adapters,
            sequences,
            steps: schedule(&lengths, if few { 32 } else { usize::MAX }),
        }
    }

    pub(crate) fn settings(&self, order: LoraOrder, gemm: GemmPath) -> LlamaSettings {
        let longest = self.sequences.iter().map(|(tokens, _)| tokens.len()).max().unwrap_or(1) as u32;
        LlamaSettings {
            rows_max: 256,
            adapter_slots: self.adapters.len() as u32,
            rank_max: self.adapters.iter().map(|adapter| adapter.rank).max().unwrap_or(1),
            lora: LoraPath::Segmented(order),
            gemm,
            ..LlamaSettings::for_sequences(self.element, self.sequences.len() as u32, longest)
        }
    }

    pub(crate) fn open(&self, gpu: &Gpu, settings: LlamaSettings, build: &Build) -> Result<Llama, Error> {
        let mut give = |tensor: Tensor| Ok(self.tensors[&tensor].clone());
        let mut llama = Llama::open(gpu, self.shape, settings, build, ModelWeights::Given(&mut give))?;
        for (slot, adapter) in self.adapters.iter().enumerate() {
            let mut give = |layer, projection, half| Ok(adapter.weights[&(layer, projection, half)].clone());
            // Both ways in, slot by slot.
            if slot % 2 == 0 {
                llama.load_adapter(slot as u32, adapter.rank, adapter.scale, AdapterWeights::Given(&mut give))?;
            } else {
                let pinned = llama.pin_adapter(adapter.rank, adapter.scale, AdapterWeights::Given(&mut give))?;
                let loading = llama.begin_load(slot as u32, &pinned)?;
                llama.finish_load(loading)?;
            }
        }
        Ok(llama)
    }

    /// Runs all steps; logits of every part, and the sampled tokens.
    pub(crate) fn run(&self, llama: &mut Llama) -> Result<Vec<StepOutput>, Error> {
        let blocks_each = llama.settings().context_max.div_ceil(16);
        // Blocks in an order that no sequence has by luck.
        let total = blocks_each * self.sequences.len() as u32;
        let blocks: Vec<Vec<u32>> = (0..self.sequences.len() as u32)
            .map(|sequence| {
                (0..blocks_each).map(|n| (n * self.sequences.len() as u32 + sequence) * 7 % total).collect()
            })
            .collect();
        let distinct: std::collections::BTreeSet<u32> = blocks.iter().flatten().copied().collect();
        assert_eq!(distinct.len() as u32, total, "each block has one owner");
        let mut results = Vec::new();
        for step in &self.steps {
            let parts: Vec<Sequence<'_>> = step
                .iter()
                .map(|part| Sequence {
                    tokens: &self.sequences[part.sequence].0[part.start..part.start + part.count],
                    prefix: part.start as u32,
                    blocks: &blocks[part.sequence],
                    adapter: self.sequences[part.sequence].1,
                    sample: true,
                })
                .collect();
            let tokens = llama.step(&parts)?.tokens;
            let logits = llama.logits(parts.len() as u32)?;
            let rows = logits.chunks_exact(self.shape.vocab as usize).map(<[f32]>::to_vec).collect();
            results.push((rows, tokens));
        }
        Ok(results)
    }
}

/// Chunked prefills beside decodes: every sequence in chunks of its own size until four tokens are left, then one a step;
/// a sequence for which a step has no row left waits.
fn schedule(lengths: &[usize], rows_max: usize) -> Vec<Vec<Part>> {
    let mut done = vec![0; lengths.len()];
    let mut steps = Vec::new();
    while done.iter().zip(lengths).any(|(done, length)| done < length) {
        let mut step = Vec::new();
        let mut room = rows_max;
        for (sequence, &length) in lengths.iter().enumerate() {
            let left = length - done[sequence];
            let chunk = 13 + 5 * sequence;
            let count = if left > 4 { (left - 4).min(chunk) } else { left.min(1) };
            let count = count.min(room);
            if count > 0 {
                room -= count;
                step.push(Part { sequence, start: done[sequence], count });
                done[sequence] += count;
            }
        }
        steps.push(step);
    }
    steps
}
