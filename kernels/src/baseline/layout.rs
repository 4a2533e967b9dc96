//! How other systems keep an adapter: A and B row-major with the input and the rank contiguous, as checkpoints do.
//!
//! A\[stride\]\[inputs\] and B\[outputs\]\[stride\] of each projection, one after the other. `stride` is the rank rounded up to a
//! multiple of 8, so that rows of B begin at 16-byte addresses, or the largest rank where adapters are padded to it.

use crate::Error;
use crate::lora::layout::{ProjectionShape, check_rank};

/// Ranks in which a row of B is stored.
pub const GRANULE: u32 = 8;

/// Where A and B of one projection begin, in multiples of the adapter's stride, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowMajorPlace {
    /// The projection's shape.
    pub shape: ProjectionShape,
    /// A begins at this many times the stride.
    pub a_units: u64,
    /// B begins at this many times the stride: after A.
    pub b_units: u64,
}

/// The places of all projections of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowMajorLayout {
    places: Vec<RowMajorPlace>,
    units: u64,
}

/// The stride of an adapter that is not padded further; of a rank too large for one, `u32::MAX`, which
/// [`RowMajorLayout::pack`] refuses.
pub fn stride(rank: u32) -> u32 {
    rank.checked_next_multiple_of(GRANULE).unwrap_or(u32::MAX)
}

impl RowMajorLayout {
    /// The layout of an adapter with these projections, in this order.
    ///
    /// # Errors
    /// [`Error::Shape`] if a width is not a positive multiple of 8.
    pub fn new(projections: &[ProjectionShape]) -> Result<Self, Error> {
        let mut units = 0;
        let mut places = Vec::with_capacity(projections.len());
        for &shape in projections {
            shape.check()?;
            let (a_units, b_units) = (units, units + u64::from(shape.inputs));
            units = b_units + u64::from(shape.outputs);
            places.push(RowMajorPlace { shape, a_units, b_units });
        }
        Ok(RowMajorLayout { places, units })
    }

    /// Where each projection lies, in the order given to [`RowMajorLayout::new`].
    pub fn places(&self) -> &[RowMajorPlace] {
        &self.places
    }

    /// 16-bit elements of an adapter of this stride.
    pub fn elements(&self, stride: u32) -> usize {
        self.units as usize * stride as usize
    }

    /// Packs one projection into an adapter's memory, [`RowMajorLayout::elements`] long.
    ///
    /// `a` is A\[inputs\]\[rank\] and `b` is B\[rank\]\[outputs\], row-major, 16-bit elements of any format. What lies between
    /// the rank and the stride becomes zero.
    ///
    /// # Errors
    /// [`Error::Shape`] if a length does not fit, the rank is not in 1..=256, or the stride is not a multiple of 8 that
    /// covers it.
    pub fn pack(
        &self,
        projection: usize,
        rank: u32,
        stride: u32,
        a: &[u16],
        b: &[u16],
        into: &mut [u16],
    ) -> Result<(), Error> {
        check_rank(rank)?;
        let what = || format!("packing rank {rank} at a stride of {stride}");
        if stride < rank || !stride.is_multiple_of(GRANULE) {
            return Err(Error::shape(what(), format!("the stride must be a multiple of {GRANULE} and cover the rank")));
        }
        let place = *self
            .places
            .get(projection)
            .ok_or_else(|| Error::shape("adapter", format!("has no projection {projection}")))?;
        let (inputs, outputs) = (place.shape.inputs as usize, place.shape.outputs as usize);
        let (rank, stride) = (rank as usize, stride as usize);
        let expected = [
            ("A", a.len(), inputs * rank),
            ("B", b.len(), rank * outputs),
            ("the adapter's memory", into.len(), self.elements(stride as u32)),
        ];
        for (name, length, needed) in expected {
            if length != needed {
                return Err(Error::shape(what(), format!("{name} has {length} elements, not {needed}")));
            }
        }
        let (a_begin, b_begin) = (place.a_units as usize * stride, place.b_units as usize * stride);
        for (row, line) in into[a_begin..][..inputs * stride].chunks_exact_mut(inputs).enumerate() {
            for (input, slot) in line.iter_mut().enumerate() {
                *slot = if row < rank { a[input * rank + row] } else { 0 };
            }
        }
        for (column, line) in into[b_begin..][..outputs * stride].chunks_exact_mut(stride).enumerate() {
            for (row, slot) in line.iter_mut().enumerate() {
                *slot = if row < rank { b[row * outputs + column] } else { 0 };
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_lies_where_a_checkpoint_has_it_and_the_rest_is_zero() {
        let shape = |inputs, outputs| ProjectionShape { inputs, outputs };
        let layout = RowMajorLayout::new(&[shape(8, 16), shape(16, 8)]).expect("multiples of 8");
        let (rank, stride) = (3, 8);
        let mut memory = vec![u16::MAX; layout.elements(stride)];
        for (index, place) in layout.places().iter().enumerate() {
            let (inputs, outputs) = (place.shape.inputs as u16, place.shape.outputs as u16);
            let a: Vec<u16> = (0..inputs * 3).map(|n| 1000 + n).collect();
            let b: Vec<u16> = (0..3 * outputs).map(|n| 2000 + n).collect();
            layout.pack(index, rank, stride, &a, &b, &mut memory).expect("the shapes fit");
            let at = |units: u64, offset: u16| memory[units as usize * 8 + usize::from(offset)];
            // A[input 5][rank 2] and B[rank 1][column 7].
            assert_eq!(at(place.a_units, 2 * inputs + 5), 1000 + 5 * 3 + 2);
            assert_eq!(at(place.b_units, 7 * 8 + 1), 2000 + outputs + 7);
        }
        assert_eq!(memory.iter().filter(|&&value| value != 0).count(), 3 * (8 + 16 + 16 + 8));
    }

    #[test]
    fn strides_and_lengths_that_do_not_fit_are_refused() {
        let layout = RowMajorLayout::new(&[ProjectionShape { inputs: 8, outputs: 8 }]).expect("multiples of 8");
        for (rank, stride, a) in [(9, 8, 72), (4, 12, 32), (4, 8, 31), (0, 8, 0), (257, 264, 8 * 257)] {
            let mut memory = vec![0; layout.elements(stride)];
            let packed = layout.pack(0, rank, stride, &vec![0; a], &vec![0; 8 * rank as usize], &mut memory);
            assert!(matches!(packed, Err(Error::Shape { .. })), "rank {rank}, stride {stride}");
        }
        for (b, into) in [(31, 128), (32, 127), (32, 129)] {
            let packed = layout.pack(0, 4, 8, &[0; 32], &vec![0; b], &mut vec![0; into]);
            assert!(matches!(packed, Err(Error::Shape { .. })), "{b} into {into}");
        }
        assert_eq!(
            [0, 1, 8, 9, 256, u32::MAX - 7, u32::MAX - 6, u32::MAX].map(stride),
            [0, 8, 8, 16, 256, u32::MAX - 7, u32::MAX, u32::MAX]
        );
    }
}
