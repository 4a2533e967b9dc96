//! Runs of new tokens: tiles, the longest first.

use super::super::layout::AttentionShape;
use super::super::operands::Extent;
use super::super::variant::Variant;
use crate::Error;
use crate::lora::plan::Chip;

/// One sequence with any number of new tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefillSequence {
    /// The first of its consecutive rows in q and in the result.
    pub row: u32,
    /// New tokens; none is allowed.
    pub tokens: u32,
    /// Tokens before them.
    pub prefix: u32,
    /// Index of its first KV block in the block table.
    pub table: u32,
}

/// Up to 64 or 128 new tokens of one sequence; the same fields as `Tile` in `prefill_attention.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tile {
    /// First row in q and in the result.
    pub row: u32,
    /// Rows; zero for a tile with nothing to do.
    pub rows: u32,
    /// Position of the first row in its sequence.
    pub position: u32,
    /// Index of the sequence's first KV block in the block table.
    pub table: u32,
}

/// Choices of a prefill plan, for measuring what they are worth. `None` leaves a choice to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefillTuning {
    /// Fragments of 16 rows a warp: 1 for tiles of 64 rows, 2 for 128.
    pub fragments: Option<u32>,
}

/// The work of one prefill launch.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillPlan {
    pub(crate) shape: AttentionShape,
    pub(crate) fragments: u32,
    pub(crate) tiles: Vec<Tile>,
    pub(crate) extent: Extent,
    flops: f64,
}

impl PrefillPlan {
    /// Plans one launch. `table`: KV blocks of all sequences, as the launch will be given them.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that the kernels do not serve, or a sequence whose KV blocks are not in the table.
    pub fn new(
        shape: AttentionShape,
        sequences: &[PrefillSequence],
        table: &[u32],
        chip: Chip,
        tuning: PrefillTuning,
    ) -> Result<Self, Error> {
        shape.check()?;
        let mut extent = Extent::default();
        for (index, sequence) in sequences.iter().enumerate() {
            let context = u64::from(sequence.prefix) + u64::from(sequence.tokens);
            if sequence.tokens > 0 {
                extent.include(index, sequence.row, sequence.tokens, context, sequence.table, table)?;
            }
        }
        let fragments = match tuning.fragments {
            Some(fragments @ 1..=2) => fragments,
            Some(other) => return Err(Error::shape("prefill tuning", format!("{other} fragments a warp; 1 or 2"))),
            None => choose_fragments(&shape, sequences, chip),
        };
        let mut tiles: Vec<Tile> = sequences.iter().flat_map(|sequence| tiles(*sequence, 64 * fragments)).collect();
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile.position + tile.rows));
        let flops = sequences.iter().map(|sequence| flops(&shape, *sequence)).sum();
        Ok(PrefillPlan { shape, fragments, tiles, extent, flops })
    }

    /// The heads and the number format.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// Tiles; a launch has one CUDA block for each of them and each head.
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// The compiled form that runs it.
    pub fn variant(&self) -> Variant {
        let AttentionShape { element, head_dim, .. } = self.shape;
        Variant::Prefill { element, head_dim, fragments: self.fragments }
    }

    /// Multiplications and additions of the two products, keys after a row's own not counted.
    pub fn flops(&self) -> f64 {
        self.flops
    }

    /// The bytes that the kernel reads of tiles; `count` of them, the rest with nothing to do.
    pub fn tile_bytes(&self, count: usize) -> Vec<u8> {
        let tiles = self.tiles.iter().copied().chain(std::iter::repeat(Tile::default())).take(count);
        tiles.flat_map(|tile| [tile.row, tile.rows, tile.position, tile.table]).flat_map(u32::to_le_bytes).collect()
    }
}

fn tiles(sequence: PrefillSequence, rows: u32) -> impl Iterator<Item = Tile> {
    (0..sequence.tokens).step_by(rows as usize).map(move |first| Tile {
        row: sequence.row + first,
        rows: rows.min(sequence.tokens - first),
        position: sequence.prefix + first,
        table: sequence.table,
    })
}

/// Tall tiles read keys half as often, which makes their rows cheaper; short ones waste fewer rows and end more evenly.
/// The shorter makespan of the two, by rules of thumb from measured batches.
fn choose_fragments(shape: &AttentionShape, sequences: &[PrefillSequence], chip: Chip) -> u32 {
    let makespan = |fragments: u32, cost: f64| {
        // A tile's keys and, in units of keys, what it costs to begin and end one.
        let keys = |tile: Tile| f64::from(tile.position + tile.rows) + 160.0;
        let tiles = sequences.iter().flat_map(|&sequence| tiles(sequence, 64 * fragments));
        let (total, longest) =
            tiles.map(keys).fold((0.0, 0.0), |(total, longest), keys| (total + keys, f64::max(longest, keys)));
        let slots = f64::from(2 * chip.multiprocessors);
        cost * f64::from(fragments) * f64::max(total * f64::from(shape.heads) / slots, longest)
    };
    if makespan(1, 1.135) < makespan(2, 1.0) { 1 } else { 2 }
}

fn flops(shape: &AttentionShape, sequence: PrefillSequence) -> f64 {
    let (tokens, prefix) = (f64::from(sequence.tokens), f64::from(sequence.prefix));
    let pairs = tokens * prefix + tokens * (tokens + 1.0) / 2.0;
    4.0 * pairs * f64::from(shape.heads) * f64::from(shape.head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    const CHIP: Chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };

    fn shape(heads: u32, kv_heads: u32, head_dim: u32) -> AttentionShape {
        AttentionShape { element: Element::Bf16, heads, kv_heads, head_dim }
    }

    #[test]
    fn a_sequence_longer_than_can_be_counted_is_refused() {
        let prefill = PrefillSequence { row: 0, tokens: 16, prefix: u32::MAX - 3, table: 0 };
        let plan = PrefillPlan::new(shape(8, 8, 128), &[prefill], &[0], CHIP, PrefillTuning::default());
        assert!(matches!(plan, Err(Error::Shape { .. })));
    }

    #[test]
    fn every_new_token_has_one_tile_and_the_longest_come_first() {
        let sequences = [(0, 300, 5), (512, 1, 0), (600, 0, 0), (700, 129, 4000)]
            .map(|(row, tokens, prefix)| PrefillSequence { row, tokens, prefix, table: 0 });
        let table: Vec<u32> = (0..300).collect();
        for fragments in [1, 2] {
            let tuning = PrefillTuning { fragments: Some(fragments) };
            let plan = PrefillPlan::new(shape(8, 2, 128), &sequences, &table, CHIP, tuning).expect("a valid batch");
            let mut seen = vec![0; 900];
            for tile in plan.tiles() {
                assert!(tile.rows <= 64 * fragments && tile.rows > 0);
                for row in tile.row..tile.row + tile.rows {
                    seen[row as usize] += 1;
                    let sequence =
                        sequences.iter().find(|s| (s.row..s.row + s.tokens).contains(&row)).expect("its rows");
                    assert_eq!(tile.position + row - tile.row, sequence.prefix + row - sequence.row);
                }
            }
            let expected = |row: u32| u32::from(sequences.iter().any(|s| (s.row..s.row + s.tokens).contains(&row)));
            assert!((0..).zip(&seen).all(|(row, &count)| count == expected(row)));
            assert!(plan.tiles().is_sorted_by_key(|tile| std::cmp::Reverse(tile.position + tile.rows)));
        }
    }

    #[test]
    fn tiles_are_tall_where_they_fill_the_chip_and_their_rows() {
        let table: Vec<u32> = (0..1000).collect();
        let fragments = |shape, sequences: &[(u32, u32)]| {
            let sequences: Vec<_> = sequences
                .iter()
                .map(|&(prefix, tokens)| PrefillSequence { row: 0, tokens, prefix, table: 0 })
                .collect();
            let plan = PrefillPlan::new(shape, &sequences, &table, CHIP, PrefillTuning::default());
            plan.expect("a valid batch").fragments
        };
        assert_eq!(fragments(shape(32, 32, 128), &[(0, 4096)]), 2);
        assert_eq!(fragments(shape(32, 32, 128), &[(0, 2048)]), 2);
        assert_eq!(fragments(shape(8, 1, 128), &[(0, 4096)]), 1);
        assert_eq!(fragments(shape(32, 8, 128), &[(8192, 512)]), 1);
        assert_eq!(fragments(shape(32, 8, 128), &[(0, 30); 64]), 1);
    }

    #[test]
    fn the_work_of_a_causal_prompt_is_half_of_a_square() {
        let sequence = PrefillSequence { row: 0, tokens: 4096, prefix: 0, table: 0 };
        let table: Vec<u32> = (0..256).collect();
        let plan = PrefillPlan::new(shape(32, 32, 128), &[sequence], &table, CHIP, PrefillTuning::default());
        let square = 4.0 * 4096.0 * 4096.0 * 32.0 * 128.0;
        let share = plan.expect("a valid batch").flops() / square;
        assert!((share - 0.5).abs() < 2e-4, "{share}");
    }
}
