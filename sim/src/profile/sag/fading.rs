//! What is left of a charge: e to the power of a number below zero, by a table and a short series. It takes some nanoseconds, nothing of it waits
//! for a branch, and unlike a library's it is the same on every machine.

use std::f64::consts::LN_2;

/// Parts of a halving that the table tells apart.
const PARTS: usize = 64;

/// One of them, in times of the charge.
const PART: f64 = LN_2 / PARTS as f64;

/// After so many times less than 10⁻¹⁷ is left.
const LONGEST: f64 = 40.0;

/// What is left after each part of a halving.
const LEFT: [f64; PARTS] = {
    let mut left = [1.0; PARTS];
    let mut part = 1;
    while part < PARTS {
        let (x, mut sum, mut term) = (-(part as f64) * PART, 1.0, 24);
        while term > 0 {
            sum = 1.0 + sum * x / term as f64;
            term -= 1;
        }
        left[part] = sum;
        part += 1;
    }
    left
};

/// Whoever adds it to a number below 2³¹ has the nearest whole number in the last bits.
const WHOLE: f64 = (1_u64 << 52) as f64;

/// What is left of a charge after so many of its times, which are zero or more: to the last digits of it, or 10⁻¹⁷.
#[inline(always)]
pub(super) fn left(times: f64) -> f64 {
    let times = times.min(LONGEST);
    let nearest = times * (1.0 / PART) + WHOLE;
    let parts = nearest.to_bits() as u32 as usize;
    let halved = f64::from_bits((1023 - (parts / PARTS) as u64) << 52);
    // At most half of a part, before or after.
    let x = (nearest - WHOLE) * PART - times;
    let square = x * x;
    let rest = (1.0 + x) + square * ((0.5 + x * (1.0 / 6.0)) + square * (1.0 / 24.0 + x * (1.0 / 120.0)));
    halved * LEFT[parts % PARTS] * rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_power_of_e() {
        for times in (0..400_000).map(|step| f64::from(step) * 1e-4).chain([1e-12, 1e-7, 39.999]) {
            let (left, power) = (left(times), (-times).exp());
            assert!((left - power).abs() <= 1e-14 * power, "{times}: {left} {power}");
        }
        assert_eq!(left(0.0), 1.0);
        for times in [41.0, 1e3, 1e9, 1e300, f64::INFINITY] {
            assert!((0.0..1e-17).contains(&left(times)), "{times}");
        }
    }
}
