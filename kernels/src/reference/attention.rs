//! softmax(scale · q · Kᵀ) · V in float64.

/// One query against the first tokens of its sequence. `keys` and `values`: \[tokens\]\[width\], width that of `query`; the
/// tokens that the query may see, at least one.
pub fn attend(query: &[f32], keys: &[f32], values: &[f32], scale: f32) -> Vec<f64> {
    let width = query.len();
    let scores: Vec<f64> = keys
        .chunks_exact(width)
        .map(|key| {
            let product: f64 = query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
            product * f64::from(scale)
        })
        .collect();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut out = vec![0.0; width];
    let mut total = 0.0;
    for (score, value) in scores.iter().zip(values.chunks_exact(width)) {
        let weight = (score - largest).exp();
        total += weight;
        for (sum, &v) in out.iter_mut().zip(value) {
            *sum += weight * f64::from(v);
        }
    }
    out.iter_mut().for_each(|sum| *sum /= total);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_average_the_values_and_a_large_one_takes_its_own() {
        let values = [1.0, 10.0, 3.0, 30.0];
        assert_eq!(attend(&[0.0, 0.0], &[5.0, 1.0, -7.0, 2.0], &values, 1.0), [2.0, 20.0]);
        let sharp = attend(&[1.0, 0.0], &[0.0, 0.0, 1000.0, 0.0], &values, 1.0);
        assert_eq!(sharp, [3.0, 30.0]);
        // Two to one in favour of the first: scores ln 2 and 0.
        let ratio = attend(&[1.0, 0.0], &[2_f32.ln(), 0.0, 0.0, 0.0], &values, 1.0);
        assert!((ratio[0] - 5.0 / 3.0).abs() < 1e-7, "{ratio:?}");
    }
}
