//! Fingerprints of a few whole numbers: equal for equal ones, different for others but for one in 2⁶⁴.

/// A fingerprint under construction. Numbers go in by pairs, whose products do not wait for each other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Print {
    sum: u64,
    key: u64,
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Print {
    pub(crate) fn new() -> Print {
        Print { sum: 0, key: STEP }
    }

    /// Two numbers at the next place.
    pub(crate) fn pair(&mut self, a: u64, b: u64) {
        let other = self.key.wrapping_add(0xff51_afd7_ed55_8ccd);
        self.sum = self.sum.wrapping_add(fold(a ^ self.key, b ^ other)).rotate_left(23);
        self.key = self.key.wrapping_add(STEP);
    }

    /// That of two numbers alone.
    pub(crate) fn of_pair(a: u32, b: u32) -> u64 {
        let mixed = fold(u64::from(a) | u64::from(b) << 32, 0xc4ce_b9fe_1a85_ec53);
        fold(mixed ^ STEP, 0xff51_afd7_ed55_8ccd)
    }

    /// Four numbers of half the width.
    pub(crate) fn four(&mut self, [a, b, c, d]: [u32; 4]) {
        let two = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        self.pair(two(a, b), two(c, d));
    }

    pub(crate) fn finish(self) -> u64 {
        fold(self.sum ^ 0xc4ce_b9fe_1a85_ec53, self.key)
    }
}

/// Both halves of the product.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_that_differ_a_little_have_different_prints_that_spread_evenly() {
        let mut prints = BTreeSet::new();
        let mut places = vec![0_u32; 4096];
        for a in 0..64 {
            for b in 0..64 {
                for c in 0..64 {
                    let mut print = Print::new();
                    print.pair(a, b);
                    print.four([c, 1, 0, 0]);
                    let print = print.finish();
                    prints.insert(print);
                    places[(print >> 8) as usize % 4096] += 1;
                }
            }
        }
        assert_eq!(prints.len(), 64 * 64 * 64);
        // 64 a place, by chance a third more or less at most for nearly all.
        let far = places.iter().filter(|count| !(40..=88).contains(*count)).count();
        assert!(far < 41, "{far} of 4,096 places have many or few");
    }
}
