//! Many looks, one promise: Holm's correction.

/// What each of these p-values is worth when all of them were looked at (Holm 1979, step down).
///
/// Rejecting where the result is at most α keeps the chance of any false alarm among all of them at or below α, however they
/// depend on each other. In the order given; never below the value itself, never above 1.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let count = p_values.len();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|a, b| p_values[*a].total_cmp(&p_values[*b]).then(a.cmp(b)));
    let mut adjusted = vec![1.0; count];
    let mut largest: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max((p_values[index] * (count - rank) as f64).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_are_those_of_the_textbook() {
        // 0.01·4, max(·, 0.02·3), max(·, 0.03·2), max(·, 0.5·1)
        let adjusted = holm(&[0.03, 0.01, 0.5, 0.02]);
        for (ours, expected) in adjusted.iter().zip([0.06, 0.04, 0.5, 0.06]) {
            assert!((ours - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert!(holm(&[]).is_empty());
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
    }
}
