//! The small operations of a step in float64, row by row.

/// h + y + d, and that sum normalised: x / sqrt(mean(x²) + ε) · w. `round` is what storing the sum does to it.
pub fn norm(sum: &[f64], weight: &[f32], epsilon: f64, round: impl Fn(f64) -> f64) -> (Vec<f64>, Vec<f64>) {
    let stored: Vec<f64> = sum.iter().map(|&value| round(value)).collect();
    let mean = stored.iter().map(|value| value * value).sum::<f64>() / stored.len() as f64;
    let scale = 1.0 / (mean + epsilon).sqrt();
    let normalised = stored.iter().zip(weight).map(|(value, &weight)| value * scale * f64::from(weight)).collect();
    (stored, normalised)
}

/// A head with each pair (j, j + width / 2) turned by the angle whose cosine and sine `turns` holds.
pub fn rotate(head: &[f64], turns: &[(f64, f64)]) -> Vec<f64> {
    let half = turns.len();
    let mut out = head.to_vec();
    for (j, &(cos, sin)) in turns.iter().enumerate() {
        out[j] = head[j] * cos - head[j + half] * sin;
        out[j + half] = head[j + half] * cos + head[j] * sin;
    }
    out
}

/// silu(gate)·up.
pub fn gated(gate: f64, up: f64) -> f64 {
    gate / (1.0 + (-gate).exp()) * up
}

/// The lowest index of the largest value; NaN is never the largest, and 0 is the answer where nothing else is.
pub fn largest(values: &[f32]) -> usize {
    let mut best: Option<(usize, f32)> = None;
    for (index, &value) in values.iter().enumerate() {
        if !value.is_nan() && best.is_none_or(|(_, largest)| value > largest) {
            best = Some((index, value));
        }
    }
    best.map_or(0, |(index, _)| index)
}
