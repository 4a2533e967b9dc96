//! A Llama in float64, sequence by sequence: embedding, RMSNorm, rotary embedding, causal attention with grouped queries,
//! gated MLP, adapters on all seven projections, logits.

use std::collections::HashMap;

use crate::llama::{Half, LlamaShape, Projection, Tensor};

/// A model's weights, as the GPU's were given.
pub struct Model<'a> {
    /// The shape.
    pub shape: LlamaShape,
    /// Every tensor, decoded.
    pub tensors: &'a HashMap<Tensor, Vec<f32>>,
}

/// One adapter.
pub struct Adapter<'a> {
    /// Rank of every pair.
    pub rank: usize,
    /// What v·B is multiplied by.
    pub scale: f32,
    /// A and B by layer and projection, decoded.
    pub weights: &'a HashMap<(u32, Projection, Half), Vec<f32>>,
}

impl Model<'_> {
    /// Logits after each token of one sequence: \[tokens\]\[vocab\].
    pub fn logits(&self, tokens: &[u32], adapter: Option<&Adapter<'_>>) -> Vec<Vec<f64>> {
        let hidden = self.shape.hidden as usize;
        let embedding = &self.tensors[&Tensor::Embedding];
        let mut rows: Vec<Vec<f64>> =
            tokens.iter().map(|&token| wide(&embedding[token as usize * hidden..][..hidden])).collect();
        for layer in 0..self.shape.layers {
            self.attend(layer, &mut rows, adapter);
            self.transform(layer, &mut rows, adapter);
        }
        let head = &self.tensors[&Tensor::LmHead];
        rows.iter().map(|row| multiply(&self.norm(Tensor::FinalNorm, row), head)).collect()
    }

    /// The first half of a layer.
    fn attend(&self, layer: u32, rows: &mut [Vec<f64>], adapter: Option<&Adapter<'_>>) {
        let LlamaShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (heads, kv_heads, width) = (heads as usize, kv_heads as usize, head_dim as usize);
        let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
        for (position, row) in rows.iter().enumerate() {
            let x = self.norm(Tensor::AttentionNorm { layer }, row);
            q.push(self.turn(self.project(layer, Projection::Q, &x, adapter), position));
            k.push(self.turn(self.project(layer, Projection::K, &x, adapter), position));
            v.push(self.project(layer, Projection::V, &x, adapter));
        }
        for (position, row) in rows.iter_mut().enumerate() {
            let mut out = Vec::with_capacity(heads * width);
            for head in 0..heads {
                let from = head / (heads / kv_heads) * width;
                let query = &q[position][head * width..][..width];
                let scores: Vec<f64> = k[..=position]
                    .iter()
                    .map(|key| dot(query, &key[from..from + width]) / (width as f64).sqrt())
                    .collect();
                let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
                let total: f64 = weights.iter().sum();
                out.extend((0..width).map(|d| {
                    weights.iter().zip(&v).map(|(weight, value)| weight * value[from + d]).sum::<f64>() / total
                }));
            }
            add(row, &self.project(layer, Projection::O, &out, adapter));
        }
    }

    /// The second half of a layer.
    fn transform(&self, layer: u32, rows: &mut [Vec<f64>], adapter: Option<&Adapter<'_>>) {
        for row in rows {
            let x = self.norm(Tensor::MlpNorm { layer }, row);
            let gate = self.project(layer, Projection::Gate, &x, adapter);
            let up = self.project(layer, Projection::Up, &x, adapter);
            let gated: Vec<f64> = gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            add(row, &self.project(layer, Projection::Down, &gated, adapter));
        }
    }

    fn project(&self, layer: u32, projection: Projection, x: &[f64], adapter: Option<&Adapter<'_>>) -> Vec<f64> {
        let mut y = multiply(x, &self.tensors[&Tensor::Projection { layer, projection }]);
        if let Some(adapter) = adapter {
            let a = &adapter.weights[&(layer, projection, Half::A)];
            let b = &adapter.weights[&(layer, projection, Half::B)];
            let mut v = vec![0.0; adapter.rank];
            for (value, ranks) in x.iter().zip(a.chunks_exact(adapter.rank)) {
                for (sum, &weight) in v.iter_mut().zip(ranks) {
                    *sum += value * f64::from(weight);
                }
            }
            for (value, columns) in v.iter().zip(b.chunks_exact(y.len())) {
                for (sum, &weight) in y.iter_mut().zip(columns) {
                    *sum += f64::from(adapter.scale) * value * f64::from(weight);
                }
            }
        }
        y
    }

    fn norm(&self, weight: Tensor, row: &[f64]) -> Vec<f64> {
        let mean = dot(row, row) / row.len() as f64;
        let scale = 1.0 / (mean + f64::from(self.shape.rms_epsilon)).sqrt();
        row.iter().zip(&self.tensors[&weight]).map(|(value, &weight)| value * scale * f64::from(weight)).collect()
    }

    /// Turns every head's pairs (j, j + width / 2) by the position's angles.
    fn turn(&self, mut heads: Vec<f64>, position: usize) -> Vec<f64> {
        let frequencies = self.shape.rope_frequencies();
        let half = frequencies.len();
        for head in heads.chunks_exact_mut(2 * half) {
            for (j, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                let (low, high) = (head[j], head[j + half]);
                head[j] = low * cos - high * sin;
                head[j + half] = high * cos + low * sin;
            }
        }
        heads
    }
}

/// x·Wᵀ for W\[outputs\]\[inputs\].
pub fn multiply(x: &[f64], weights: &[f32]) -> Vec<f64> {
    weights
        .chunks_exact(x.len())
        .map(|row| x.iter().zip(row).map(|(value, &weight)| value * f64::from(weight)).sum())
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(row: &mut [f64], more: &[f64]) {
    row.iter_mut().zip(more).for_each(|(value, more)| *value += more);
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}
