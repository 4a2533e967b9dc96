//! How an adapter's weights lie in memory: tiles of 512 bytes in the order in which warps read them.
//!
//! An adapter is one allocation: for each projection all of A, then all of B. Everything in it is proportional to
//! the number of *rank granules* (8 ranks), so the place of a projection is known without knowing the rank.

use crate::Error;

/// Inputs or outputs that one tile covers.
pub const TILE_WIDTH: u32 = 32;
/// Ranks that one tile covers: the granule in which rank is stored and paid for.
pub const TILE_RANKS: u32 = 8;
/// 16-bit elements in a tile.
pub const TILE_ELEMENTS: usize = (TILE_WIDTH * TILE_RANKS) as usize;
/// Bytes in a tile.
pub const TILE_BYTES: usize = TILE_ELEMENTS * 2;
/// The largest rank that the kernels serve.
pub const RANK_MAX: u32 = 256;
/// The largest width of x or y: A and B of the largest rank are then 2 GiB each.
pub const WIDTH_MAX: u32 = 1 << 22;

/// The shape of one LoRA pair, x\[inputs\] → y\[outputs\].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProjectionShape {
    /// Width of x: any multiple of 8 up to [`WIDTH_MAX`].
    pub inputs: u32,
    /// Width of y: any multiple of 8 up to [`WIDTH_MAX`].
    pub outputs: u32,
}

impl ProjectionShape {
    pub(crate) fn check(self) -> Result<(), Error> {
        for (name, width) in [("inputs", self.inputs), ("outputs", self.outputs)] {
            if width == 0 || width % 8 != 0 || width > WIDTH_MAX {
                return Err(Error::shape(
                    format!("projection {}→{}", self.inputs, self.outputs),
                    format!("{name} must be a positive multiple of 8 up to {WIDTH_MAX}, not {width}"),
                ));
            }
        }
        Ok(())
    }
}

/// Rank granules that a rank occupies.
pub fn granules(rank: u32) -> u32 {
    rank.div_ceil(TILE_RANKS)
}

/// Pairs of granules, in which weights travel.
pub(crate) fn pairs(rank: u32) -> u32 {
    granules(rank).div_ceil(2)
}

pub(crate) fn check_rank(rank: u32) -> Result<(), Error> {
    if rank == 0 || rank > RANK_MAX {
        return Err(Error::shape("adapter rank", format!("{rank} is not in 1..={RANK_MAX}")));
    }
    Ok(())
}

pub(crate) fn check_scale(scale: f32) -> Result<(), Error> {
    if !scale.is_finite() {
        return Err(Error::shape("adapter scale", format!("{scale} is not a finite number")));
    }
    Ok(())
}

/// Where A and B of one projection begin, in tiles per rank granule from the start of the adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The projection's shape.
    pub shape: ProjectionShape,
    /// Tiles per granule before A.
    pub a_tiles: u64,
    /// Tiles per granule before B.
    pub b_tiles: u64,
}

/// The places of all projections of an adapter, for every adapter of one base model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterLayout {
    places: Vec<Place>,
    tiles: u64,
}

impl AdapterLayout {
    /// The layout of an adapter with these projections, in this order.
    ///
    /// # Errors
    /// [`Error::Shape`] if a width is not a positive multiple of 8 up to [`WIDTH_MAX`].
    pub fn new(projections: &[ProjectionShape]) -> Result<Self, Error> {
        let mut tiles = 0;
        let mut places = Vec::with_capacity(projections.len());
        for &shape in projections {
            shape.check()?;
            let a_tiles = tiles;
            let b_tiles = a_tiles + u64::from(shape.inputs.div_ceil(TILE_WIDTH));
            tiles = b_tiles + u64::from(shape.outputs.div_ceil(TILE_WIDTH));
            places.push(Place { shape, a_tiles, b_tiles });
        }
        Ok(AdapterLayout { places, tiles })
    }

    /// Where each projection lies, in the order given to [`AdapterLayout::new`].
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// 16-bit elements of an adapter of this rank.
    pub fn elements(&self, rank: u32) -> usize {
        self.tiles as usize * granules(rank) as usize * TILE_ELEMENTS
    }

    /// Packs one projection into the adapter's memory.
    ///
    /// `a` is A\[inputs\]\[rank\] and `b` is B\[rank\]\[outputs\], row-major, 16-bit elements of any format.
    /// `into` is the adapter's memory, [`AdapterLayout::elements`] long. Ranks and widths that do not fill a tile
    /// are padded with zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] if a length does not fit the shape, or the rank is not in 1..=256.
    pub fn pack(&self, projection: usize, rank: u32, a: &[u16], b: &[u16], into: &mut [u16]) -> Result<(), Error> {
        check_rank(rank)?;
        let place = *self
            .places
            .get(projection)
            .ok_or_else(|| Error::shape("adapter", format!("has no projection {projection}")))?;
        let ProjectionShape { inputs, outputs } = place.shape;
        let expected = [
            ("A", a.len(), inputs as usize * rank as usize),
            ("B", b.len(), rank as usize * outputs as usize),
            ("the adapter's memory", into.len(), self.elements(rank)),
        ];
        for (name, length, needed) in expected {
            if length != needed {
                return Err(Error::shape(
                    format!("packing rank {rank} of {inputs}→{outputs}"),
                    format!("{name} has {length} elements, not {needed}"),
                ));
            }
        }
        let per_granule = granules(rank) as usize * TILE_ELEMENTS;
        let a_out = &mut into[place.a_tiles as usize * per_granule..][..inputs.div_ceil(32) as usize * per_granule];
        fill_tiles(a_out, rank, |tile, lane, element| {
            // `input_lane` of lora.cuh.
            let quarter = (lane ^ (lane / 8)) % 4;
            (tile * 32 + 8 * quarter + element, lane / 4)
        })
        .for_each(|(input, rank_index, slot)| {
            *slot = if input < inputs && rank_index < rank { a[(input * rank + rank_index) as usize] } else { 0 };
        });
        let b_out = &mut into[place.b_tiles as usize * per_granule..][..outputs.div_ceil(32) as usize * per_granule];
        fill_tiles(b_out, rank, |tile, lane, element| {
            let column = tile * 32 + 4 * (lane / 4) + element / 2;
            (column, 2 * (lane % 4) + element % 2)
        })
        .for_each(|(column, rank_index, slot)| {
            *slot = if column < outputs && rank_index < rank { b[(rank_index * outputs + column) as usize] } else { 0 };
        });
        Ok(())
    }
}

/// Every slot of a run of tiles with the (width index, rank) that it holds; `place` maps (tile, lane, element) to
/// (width index, rank within the granule).
fn fill_tiles(
    slots: &mut [u16],
    rank: u32,
    place: impl Fn(u32, u32, u32) -> (u32, u32),
) -> impl Iterator<Item = (u32, u32, &mut u16)> {
    let granules = granules(rank) as usize;
    slots.iter_mut().enumerate().map(move |(index, slot)| {
        let (tile, within) = (index / TILE_ELEMENTS, (index % TILE_ELEMENTS) as u32);
        let (width_index, rank_within) = place((tile / granules) as u32, within / 8, within % 8);
        (width_index, (tile % granules) as u32 * TILE_RANKS + rank_within, slot)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_is_stored_once_and_the_rest_is_zero() {
        let layout = AdapterLayout::new(&[
            ProjectionShape { inputs: 40, outputs: 8 },
            ProjectionShape { inputs: 8, outputs: 72 },
        ])
        .expect("multiples of 8");
        let rank = 11;
        let mut memory = vec![u16::MAX; layout.elements(rank)];
        let mut next = 0_u16;
        let mut fresh = |count: u32| -> Vec<u16> {
            (0..count)
                .map(|_| {
                    next += 1;
                    next
                })
                .collect()
        };
        for (index, place) in layout.places().to_vec().into_iter().enumerate() {
            let (a, b) = (fresh(place.shape.inputs * rank), fresh(rank * place.shape.outputs));
            layout.pack(index, rank, &a, &b, &mut memory).expect("the shapes fit");
        }
        let mut stored: Vec<u16> = memory.iter().copied().filter(|&value| value != 0).collect();
        stored.sort_unstable();
        assert_eq!(stored, (1..=next).collect::<Vec<u16>>());
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused_with_what_would() {
        for bad in [0, 12, WIDTH_MAX + 8, 1 << 31] {
            for (inputs, outputs, name) in [(bad, 8, "inputs"), (8, bad, "outputs")] {
                let error = AdapterLayout::new(&[ProjectionShape { inputs, outputs }]).expect_err("a wrong width");
                assert!(matches!(&error, Error::Shape { why, .. } if why.starts_with(name)), "{error}");
            }
        }
        let widest = ProjectionShape { inputs: WIDTH_MAX, outputs: WIDTH_MAX };
        assert_eq!(AdapterLayout::new(&[widest]).expect("the widest").elements(RANK_MAX) * 2, 2 << 31);
        let layout = AdapterLayout::new(&[ProjectionShape { inputs: 8, outputs: 8 }]).expect("multiples of 8");
        let whole = layout.elements(4);
        for (rank, a, b, into) in [
            (0, 0, 0, 0),
            (257, 8 * 257, 8 * 257, layout.elements(257)),
            (4, 31, 32, whole),
            (4, 32, 33, whole),
            (4, 32, 32, whole - 1),
            (4, 32, 32, whole + 1),
            (4, 32, 32, 0),
        ] {
            let packed = layout.pack(0, rank, &vec![0; a], &vec![0; b], &mut vec![0; into]);
            assert!(matches!(packed, Err(Error::Shape { .. })), "rank {rank}, {a} and {b} into {into}");
        }
        layout.pack(0, 4, &[0; 32], &[0; 32], &mut vec![0; whole]).expect("what would fit");
    }
}
