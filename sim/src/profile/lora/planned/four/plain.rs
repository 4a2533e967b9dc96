//! Four numbers one after the other.

use std::array::from_fn;

use super::super::SITES;

/// One number of each launch.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Four([f64; SITES]);

/// Which launches?
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Which([bool; SITES]);

/// A number of each launch out of a table of four.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Places([u8; SITES]);

impl Places {
    /// Each of 0 to 3.
    #[inline(always)]
    pub(in super::super) fn of(places: [u8; SITES]) -> Places {
        Places(places)
    }
}

impl Four {
    #[inline(always)]
    fn with(self, other: Four, of: impl Fn(f64, f64) -> f64) -> Four {
        Four(from_fn(|index| of(self.0[index], other.0[index])))
    }

    #[inline(always)]
    pub(in super::super) fn of(numbers: [f64; SITES]) -> Four {
        Four(numbers)
    }

    #[inline(always)]
    pub(in super::super) fn get(self) -> [f64; SITES] {
        self.0
    }

    /// The same for all.
    #[inline(always)]
    pub(in super::super) fn all(number: f64) -> Four {
        Four([number; SITES])
    }

    /// Whole numbers of so many bits, from some bit on.
    #[inline(always)]
    pub(in super::super) fn bits(of: [u16; SITES], first: u32, count: u32) -> Four {
        Four(of.map(|bits| f64::from(bits >> first & ((1 << count) - 1))))
    }

    /// Whole numbers of 31 bits.
    #[inline(always)]
    pub(in super::super) fn large(numbers: [u32; SITES]) -> Four {
        Four(numbers.map(f64::from))
    }

    /// Of these, a table, what is at each launch's place.
    #[inline(always)]
    pub(in super::super) fn at(self, Places(places): Places) -> Four {
        Four(places.map(|place| self.0[usize::from(place)]))
    }

    #[inline(always)]
    pub(super) fn plus(self, other: Four) -> Four {
        self.with(other, |a, b| a + b)
    }

    #[inline(always)]
    pub(super) fn minus(self, other: Four) -> Four {
        self.with(other, |a, b| a - b)
    }

    #[inline(always)]
    pub(super) fn times(self, other: Four) -> Four {
        self.with(other, |a, b| a * b)
    }

    #[inline(always)]
    pub(super) fn over(self, other: Four) -> Four {
        self.with(other, |a, b| a / b)
    }

    #[inline(always)]
    pub(in super::super) fn max(self, other: Four) -> Four {
        self.with(other, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    pub(in super::super) fn min(self, other: Four) -> Four {
        self.with(other, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    pub(in super::super) fn sqrt(self) -> Four {
        Four(self.0.map(f64::sqrt))
    }

    #[inline(always)]
    pub(in super::super) fn floor(self) -> Four {
        Four(self.0.map(f64::floor))
    }

    #[inline(always)]
    pub(in super::super) fn ceil(self) -> Four {
        Four(self.0.map(f64::ceil))
    }

    /// Where are these at most as large as others?
    #[inline(always)]
    pub(in super::super) fn at_most(self, other: Four) -> Which {
        Which(from_fn(|index| self.0[index] <= other.0[index]))
    }

    /// Where are these larger than others?
    #[inline(always)]
    pub(in super::super) fn above(self, other: Four) -> Which {
        Which(from_fn(|index| self.0[index] > other.0[index]))
    }

    /// These there, others elsewhere.
    #[inline(always)]
    pub(in super::super) fn there(self, which: Which, elsewhere: Four) -> Four {
        Four(from_fn(|index| if which.0[index] { self.0[index] } else { elsewhere.0[index] }))
    }
}

impl Which {
    #[inline(always)]
    pub(in super::super) fn of(which: [bool; SITES]) -> Which {
        Which(which)
    }

    /// Where is the bit?
    #[inline(always)]
    pub(in super::super) fn bit(of: [u16; SITES], bit: u32) -> Which {
        Which(of.map(|bits| bits >> bit & 1 > 0))
    }

    /// Of these, a table, what is at each launch's place.
    #[inline(always)]
    pub(in super::super) fn at(self, Places(places): Places) -> Which {
        Which(places.map(|place| self.0[usize::from(place)]))
    }

    #[inline(always)]
    pub(in super::super) fn and(self, other: Which) -> Which {
        Which(from_fn(|index| self.0[index] & other.0[index]))
    }

    #[inline(always)]
    pub(in super::super) fn or(self, other: Which) -> Which {
        Which(from_fn(|index| self.0[index] | other.0[index]))
    }

    #[inline(always)]
    pub(in super::super) fn not(self) -> Which {
        Which(self.0.map(|is| !is))
    }

    #[inline(always)]
    pub(in super::super) fn any(self) -> bool {
        self.0.contains(&true)
    }
}
