//! Four numbers in a register.

use std::arch::x86_64::*;

use super::super::SITES;

/// One number of each launch.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Four(__m256d);

/// Which launches? All bits of a number, or none.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Which(__m256d);

/// Instructions of AVX2 alone, on registers alone.
macro_rules! avx2 {
    ($instructions:expr) => {
        // SAFETY: this file is compiled only for processors that have AVX2.
        unsafe { $instructions }
    };
}

/// A number of each launch out of a table of four.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Places(__m256i);

#[inline(always)]
fn bytes(numbers: [u8; SITES]) -> __m128i {
    avx2!(_mm_cvtsi32_si128(i32::from_le_bytes(numbers)))
}

/// Each in 32 bits.
#[inline(always)]
fn halves([a, b, c, d]: [u16; SITES]) -> __m128i {
    let all = u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48;
    avx2!(_mm_cvtepu16_epi32(_mm_cvtsi64_si128(all as i64)))
}

impl Four {
    #[inline(always)]
    pub(in super::super) fn of([a, b, c, d]: [f64; SITES]) -> Four {
        Four(avx2!(_mm256_setr_pd(a, b, c, d)))
    }

    #[inline(always)]
    pub(in super::super) fn get(self) -> [f64; SITES] {
        let high = |two: __m128d| avx2!(_mm_cvtsd_f64(_mm_unpackhi_pd(two, two)));
        let low = |two: __m128d| avx2!(_mm_cvtsd_f64(two));
        let [first, second] = avx2!([_mm256_castpd256_pd128(self.0), _mm256_extractf128_pd::<1>(self.0)]);
        [low(first), high(first), low(second), high(second)]
    }

    /// The same for all.
    #[inline(always)]
    pub(in super::super) fn all(number: f64) -> Four {
        Four(avx2!(_mm256_set1_pd(number)))
    }

    /// Whole numbers of so many bits, from some bit on.
    #[inline(always)]
    pub(in super::super) fn bits(of: [u16; SITES], first: u32, count: u32) -> Four {
        let mask = (1 << count) - 1;
        Four(avx2!(_mm256_cvtepi32_pd(_mm_and_si128(
            _mm_srl_epi32(halves(of), _mm_cvtsi32_si128(first as i32)),
            _mm_set1_epi32(mask)
        ))))
    }

    /// Whole numbers of 31 bits.
    #[inline(always)]
    pub(in super::super) fn large([a, b, c, d]: [u32; SITES]) -> Four {
        Four(avx2!(_mm256_cvtepi32_pd(_mm_setr_epi32(a as i32, b as i32, c as i32, d as i32))))
    }

    /// Of these, a table, what is at each launch's place.
    #[inline(always)]
    pub(in super::super) fn at(self, Places(places): Places) -> Four {
        Four(avx2!(_mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(self.0), places))))
    }

    #[inline(always)]
    pub(super) fn plus(self, other: Four) -> Four {
        Four(avx2!(_mm256_add_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(super) fn minus(self, other: Four) -> Four {
        Four(avx2!(_mm256_sub_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(super) fn times(self, other: Four) -> Four {
        Four(avx2!(_mm256_mul_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(super) fn over(self, other: Four) -> Four {
        Four(avx2!(_mm256_div_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(in super::super) fn max(self, other: Four) -> Four {
        Four(avx2!(_mm256_max_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(in super::super) fn min(self, other: Four) -> Four {
        Four(avx2!(_mm256_min_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(in super::super) fn sqrt(self) -> Four {
        Four(avx2!(_mm256_sqrt_pd(self.0)))
    }

    #[inline(always)]
    pub(in super::super) fn floor(self) -> Four {
        Four(avx2!(_mm256_floor_pd(self.0)))
    }

    #[inline(always)]
    pub(in super::super) fn ceil(self) -> Four {
        Four(avx2!(_mm256_ceil_pd(self.0)))
    }

    /// Where are these at most as large as others?
    #[inline(always)]
    pub(in super::super) fn at_most(self, other: Four) -> Which {
        Which(avx2!(_mm256_cmp_pd::<_CMP_LE_OQ>(self.0, other.0)))
    }

    /// Where are these larger than others?
    #[inline(always)]
    pub(in super::super) fn above(self, other: Four) -> Which {
        Which(avx2!(_mm256_cmp_pd::<_CMP_GT_OQ>(self.0, other.0)))
    }

    /// These there, others elsewhere.
    #[inline(always)]
    pub(in super::super) fn there(self, which: Which, elsewhere: Four) -> Four {
        Four(avx2!(_mm256_blendv_pd(elsewhere.0, self.0, which.0)))
    }
}

impl Places {
    /// Each of 0 to 3.
    #[inline(always)]
    pub(in super::super) fn of(places: [u8; SITES]) -> Places {
        // Both halves of a number: twice its place, and one more.
        avx2!({
            let twice = _mm256_slli_epi64::<1>(_mm256_cvtepu8_epi64(bytes(places)));
            let halves = _mm256_or_si256(twice, _mm256_slli_epi64::<32>(twice));
            Places(_mm256_or_si256(halves, _mm256_set1_epi64x(1 << 32)))
        })
    }
}

impl Which {
    #[inline(always)]
    pub(in super::super) fn of(which: [bool; SITES]) -> Which {
        let bytes = bytes(which.map(|is| if is { u8::MAX } else { 0 }));
        Which(avx2!(_mm256_castsi256_pd(_mm256_cvtepi8_epi64(bytes))))
    }

    /// Where is the bit?
    #[inline(always)]
    pub(in super::super) fn bit(of: [u16; SITES], bit: u32) -> Which {
        avx2!({
            let sign = _mm_sll_epi32(halves(of), _mm_cvtsi32_si128(31 - bit as i32));
            Which(_mm256_castsi256_pd(_mm256_cvtepi32_epi64(_mm_srai_epi32::<31>(sign))))
        })
    }

    /// Of these, a table, what is at each launch's place.
    #[inline(always)]
    pub(in super::super) fn at(self, places: Places) -> Which {
        Which(Four(self.0).at(places).0)
    }

    #[inline(always)]
    pub(in super::super) fn and(self, other: Which) -> Which {
        Which(avx2!(_mm256_and_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(in super::super) fn or(self, other: Which) -> Which {
        Which(avx2!(_mm256_or_pd(self.0, other.0)))
    }

    #[inline(always)]
    pub(in super::super) fn not(self) -> Which {
        Which(avx2!(_mm256_xor_pd(self.0, _mm256_castsi256_pd(_mm256_set1_epi64x(-1)))))
    }

    #[inline(always)]
    pub(in super::super) fn any(self) -> bool {
        avx2!(_mm256_movemask_pd(self.0)) != 0
    }
}
