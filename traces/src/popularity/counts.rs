//! Punica's popularity laws: exact numbers of requests an adapter (benchmark generator of its artifact).

/// How many of `n` requests each of ⌈√n⌉ adapters gets: all alike, the remainder one each to the first.
pub fn uniform_sqrt_counts(n: u64) -> Vec<u64> {
    let root = n.isqrt();
    let adapters = if root * root < n { root + 1 } else { root };
    (0..adapters).map(|i| n / adapters + u64::from(i < n % adapters)).collect()
}

/// How many of `n` requests each adapter gets, most popular first: whole parts of 1, r, r², … while they fit, and the remainder.
///
/// A ratio of 1 or less never grows: then every adapter gets one request.
pub fn geometric_counts(n: u64, ratio: f64) -> Vec<u64> {
    let mut counts = Vec::new();
    let (mut part, mut left) = (1.0_f64, n);
    while left > part as u64 && part >= 1.0 {
        counts.push(part as u64);
        left -= part as u64;
        part *= ratio;
    }
    if left > 0 {
        counts.push(left);
    }
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts
}
