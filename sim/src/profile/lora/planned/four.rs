//! Four numbers side by side, one of each launch of a layer: a processor computes them at once.
//!
//! Compilers do not see that in code that is written number by number; so where there is AVX2 it is said. Both ways come to the same to the last
//! digit.

#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
mod avx2;
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
mod plain;

use std::ops::{Add, AddAssign, Div, Mul, Sub};

#[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
pub(super) use avx2::{Four, Places, Which};
#[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
pub(super) use plain::{Four, Places, Which};

impl Default for Four {
    #[inline(always)]
    fn default() -> Four {
        Four::all(0.0)
    }
}

impl Add for Four {
    type Output = Four;

    #[inline(always)]
    fn add(self, other: Four) -> Four {
        self.plus(other)
    }
}

impl AddAssign for Four {
    #[inline(always)]
    fn add_assign(&mut self, other: Four) {
        *self = self.plus(other);
    }
}

impl Sub for Four {
    type Output = Four;

    #[inline(always)]
    fn sub(self, other: Four) -> Four {
        self.minus(other)
    }
}

impl Mul for Four {
    type Output = Four;

    #[inline(always)]
    fn mul(self, other: Four) -> Four {
        self.times(other)
    }
}

impl Mul<f64> for Four {
    type Output = Four;

    #[inline(always)]
    fn mul(self, number: f64) -> Four {
        self.times(Four::all(number))
    }
}

impl Div for Four {
    type Output = Four;

    #[inline(always)]
    fn div(self, other: Four) -> Four {
        self.over(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_numbers_are_computed_as_each_by_itself() {
        let a = [1.5, -2.25, 1e-9, 7.0];
        let b = [0.3, -2.25, 1e9, 0.1];
        let (x, y) = (Four::of(a), Four::of(b));
        let each = |of: &dyn Fn(f64, f64) -> f64| [0, 1, 2, 3].map(|index| of(a[index], b[index]));
        assert_eq!((x + y).get(), each(&|a, b| a + b));
        assert_eq!((x - y).get(), each(&|a, b| a - b));
        assert_eq!((x * y).get(), each(&|a, b| a * b));
        assert_eq!((x / y).get(), each(&|a, b| a / b));
        assert_eq!(x.max(y).get(), each(&f64::max));
        assert_eq!(x.min(y).get(), each(&f64::min));
        assert_eq!((x * x).sqrt().get(), each(&|a, _| (a * a).sqrt()));
        assert_eq!(x.floor().get(), each(&|a, _| a.floor()));
        assert_eq!(x.ceil().get(), each(&|a, _| a.ceil()));
        let at_most = x.at_most(y);
        assert_eq!(x.there(at_most, y).get(), each(&f64::min));
        assert_eq!(x.there(at_most.not(), y).get(), each(&f64::max));
        assert_eq!(x.there(x.above(y).and(at_most), y).get(), b);
        assert!(at_most.any() && !at_most.and(x.above(y)).any());
        assert_eq!(Four::bits([0, 1, 0x0a5f, 0xffff], 4, 6).get(), [0.0, 0.0, 37.0, 63.0]);
        assert_eq!(Four::large([0, 1, 1 << 20, 70_000]).get(), [0.0, 1.0, 1_048_576.0, 70_000.0]);
        assert_eq!(x.at(Places::of([2, 0, 3, 2])).get(), [a[2], a[0], a[3], a[2]]);
        assert_eq!(x.there(Which::bit([0, 0x1800, 0xffff, 0xf7ff], 11), y).get(), [b[0], a[1], a[2], b[3]]);
        let which = Which::of([true, false, true, false]);
        assert_eq!(x.there(which, y).get(), [a[0], b[1], a[2], b[3]]);
    }
}
