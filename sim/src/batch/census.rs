//! How many rows do the segments of a batch have? A census of sizes, kept up to date as rows come and go.

use super::Segment;
use crate::print::Print;

/// The parts of a batch by their adapters' ranks and their numbers of rows. The decode rows of a segment are a part, and so are its prefill
/// rows: kernels lay the rows of prompts behind those that decode.
///
/// Whoever changes a batch by a row changes its census by two counts, so that a price need not look at every adapter.
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// By sixteens of ranks, from one on.
    classes: Vec<Sizes>,
    granules: u64,
    rows: u64,
    /// The sum of those of all parts.
    print: u64,
}

/// The parts whose ranks fill as many sixteens.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    rows: u64,
    tiles: [u32; TILES.len()],
    /// Which sizes there are, up to [`COUNTED`]: bit `i` of `i + 1` rows.
    present: u64,
    /// Parts of each of these sizes.
    counts: Counts,
    /// Larger parts, in order.
    large: Vec<u32>,
    /// The smallest and the largest of these, 0 of none; and rows of their last tiles of 32: bit `i` of `i + 1` rows.
    large_range: (u32, u32),
    large_ends: u32,
}

/// How many parts there are of each size up to [`COUNTED`].
#[derive(Clone, Debug, PartialEq, Eq)]
struct Counts([u16; COUNTED as usize]);

/// Parts of so many rows are counted, larger ones are listed: there are few of those.
const COUNTED: u32 = u64::BITS;

/// Classes beyond this one are counted to it: 256 ranks.
const CLASSES: usize = 16;

/// Rows of the tiles that are counted, of each kind that kernels have.
pub const TILES: [u32; 4] = [8, 16, 32, 16];

impl Census {
    /// The census of these segments.
    pub fn of(segments: &[Segment]) -> Census {
        let mut census = Census::default();
        for segment in segments {
            census.change(segment.rank, 0, segment.decode_rows);
            census.change(segment.rank, 0, segment.prefill_rows);
        }
        census
    }

    /// A part of an adapter of this rank had so many rows and has so many now; 0: there is none.
    pub fn change(&mut self, rank: u32, before: u32, now: u32) {
        let class = (rank.div_ceil(16) as usize).clamp(1, CLASSES);
        if self.classes.len() < class {
            // Most have adapters of one rank: no memory for more.
            self.classes.reserve_exact(class - self.classes.len());
            self.classes.resize_with(class, Sizes::default);
        }
        let sizes = &mut self.classes[class - 1];
        let granules = u64::from(rank.div_ceil(8));
        if before > 0 {
            sizes.remove(before);
            self.print = self.print.wrapping_sub(Print::of_pair(rank, before));
            self.granules -= granules;
        }
        if now > 0 {
            sizes.add(now);
            self.print = self.print.wrapping_add(Print::of_pair(rank, now));
            self.granules += granules;
        }
        self.rows = self.rows - u64::from(before) + u64::from(now);
    }

    /// Becomes the same as another, without taking memory once it has had as much.
    pub fn copy_from(&mut self, other: &Census) {
        self.classes.resize_with(self.classes.len().max(other.classes.len()), Sizes::default);
        for (index, mine) in self.classes.iter_mut().enumerate() {
            match other.classes.get(index).filter(|theirs| theirs.rows > 0) {
                Some(theirs) => mine.copy_from(theirs),
                None if mine.rows > 0 => mine.clear(),
                None => {}
            }
        }
        (self.granules, self.rows, self.print) = (other.granules, other.rows, other.print);
    }

    /// Asks for what a change or a price reads.
    pub(crate) fn fetch(&self) {
        crate::fetch::list(&self.classes);
    }

    /// Are the parts the same?
    pub fn same(&self, other: &Census) -> bool {
        self.print == other.print
            && self.granules == other.granules
            && self.rows == other.rows
            && self.classes().eq(other.classes())
    }

    /// A number that tells these parts from others, but for one in 2⁶⁴.
    pub fn print(&self) -> u64 {
        self.print
    }

    /// Rows of all parts.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Granules of eight ranks, each part's.
    pub fn granules(&self) -> u64 {
        self.granules
    }

    /// The classes that have parts, with the number of sixteens that their ranks fill.
    pub fn classes(&self) -> impl Iterator<Item = (u32, &Sizes)> {
        (1..).zip(&self.classes).filter(|(_, sizes)| sizes.rows > 0)
    }
}

impl Sizes {
    fn add(&mut self, rows: u32) {
        self.rows += u64::from(rows);
        for (tiles, size) in self.tiles.iter_mut().zip(TILES) {
            *tiles += rows.div_ceil(size);
        }
        if rows <= COUNTED {
            let count = &mut self.counts.0[rows as usize - 1];
            *count = count.checked_add(1).expect("a step has fewer than 65,536 adapters");
            self.present |= 1 << (rows - 1);
        } else {
            let place = self.large.partition_point(|&other| other < rows);
            self.large.insert(place, rows);
            self.note_large();
        }
    }

    fn remove(&mut self, rows: u32) {
        self.rows -= u64::from(rows);
        for (tiles, size) in self.tiles.iter_mut().zip(TILES) {
            *tiles -= rows.div_ceil(size);
        }
        if rows <= COUNTED {
            let count = &mut self.counts.0[rows as usize - 1];
            *count -= 1;
            self.present &= !(u64::from(*count == 0) << (rows - 1));
        } else {
            let place = self.large.binary_search(&rows).expect("the part was counted");
            self.large.remove(place);
            self.note_large();
        }
    }

    fn note_large(&mut self) {
        self.large_range = (self.large.first().copied().unwrap_or(0), self.large.last().copied().unwrap_or(0));
        self.large_ends = self.large.iter().fold(0, |ends, rows| ends | 1 << ((rows - 1) % 32));
    }

    fn copy_from(&mut self, other: &Sizes) {
        let Sizes { rows, tiles, present, .. } = *other;
        (self.rows, self.tiles, self.present) = (rows, tiles, present);
        self.counts.0 = other.counts.0;
        self.large.clone_from(&other.large);
        (self.large_range, self.large_ends) = (other.large_range, other.large_ends);
    }

    fn clear(&mut self) {
        (self.rows, self.tiles, self.present) = (0, [0; TILES.len()], 0);
        self.counts = Counts::default();
        self.large.clear();
        (self.large_range, self.large_ends) = ((0, 0), 0);
    }

    /// Rows of all parts.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Tiles that the parts are cut into, for each kind of [`TILES`].
    pub fn tiles(&self) -> [u32; TILES.len()] {
        self.tiles
    }

    /// Rows of the smallest part and of the largest; there is one.
    pub fn range(&self) -> (u32, u32) {
        let (least, most) = self.large_range;
        let counted = self.present.trailing_zeros() + 1;
        (if self.present == 0 { least } else { counted }, most.max(COUNTED - self.present.leading_zeros()))
    }

    /// Has any part fewer rows, at most 64?
    pub fn any_below(&self, rows: u32) -> bool {
        self.present << (COUNTED - rows + 1) > 0
    }

    /// How many rows have the last tiles of 32 rows of the parts? Bit `i` of `i + 1` rows.
    pub fn ends(&self) -> u32 {
        (self.present | self.present >> 32) as u32 | self.large_ends
    }
}

impl Clone for Sizes {
    fn clone(&self) -> Sizes {
        let mut sizes = Sizes::default();
        sizes.copy_from(self);
        sizes
    }
}

impl Default for Counts {
    fn default() -> Counts {
        Counts([0; COUNTED as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a census says, from the parts themselves.
    fn by_hand(parts: &[u32]) -> ([u32; 4], (u32, u32), [u32; 4]) {
        let tiles = TILES.map(|size| parts.iter().map(|rows| rows.div_ceil(size)).sum());
        let fewest = TILES.map(|size| parts.iter().map(|rows| (rows - 1) % size + 1).min().unwrap());
        (tiles, (*parts.iter().min().unwrap(), *parts.iter().max().unwrap()), fewest)
    }

    #[test]
    fn a_census_that_is_kept_is_the_census_of_what_is_there() {
        let mut state = 1_u64;
        let mut draw = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % below
        };
        let mut census = Census::default();
        let mut segments: Vec<Segment> = Vec::new();
        for _ in 0..20_000 {
            let place = draw(12) as usize;
            if place >= segments.len() {
                let rank = [8, 16, 24, 128, 300][draw(5) as usize];
                segments.push(Segment { rank, prefill_rows: 0, decode_rows: 0 });
                continue;
            }
            let most = [3, 10, 40, 70, 9000][draw(5) as usize];
            let segment = &mut segments[place];
            let rows = if draw(2) == 0 { &mut segment.decode_rows } else { &mut segment.prefill_rows };
            let now = draw(most);
            census.change(segment.rank, *rows, now);
            *rows = now;
            let mut other = Census::of(&segments[1..]);
            other.copy_from(&census);
            assert!(census.same(&Census::of(&segments)) && other.same(&census));
            assert_eq!(
                census.rows(),
                segments.iter().map(|one| u64::from(one.decode_rows + one.prefill_rows)).sum::<u64>()
            );
            for (class, sizes) in census.classes() {
                let of_class = segments.iter().filter(|segment| segment.rank.div_ceil(16).min(16) == class);
                let parts = of_class.flat_map(|segment| [segment.decode_rows, segment.prefill_rows]);
                let parts: Vec<u32> = parts.filter(|rows| *rows > 0).collect();
                let ends = || (0..32).filter(|bit| sizes.ends() >> bit & 1 > 0);
                let fewest = TILES.map(|size| ends().map(|bit| bit % size + 1).min().unwrap());
                assert_eq!((sizes.tiles(), sizes.range(), fewest), by_hand(&parts), "{parts:?}");
                for rows in [2, 16, 64] {
                    assert_eq!(sizes.any_below(rows), parts.iter().any(|part| *part < rows), "{parts:?}");
                }
            }
        }
    }
}
