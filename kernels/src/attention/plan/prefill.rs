//! Runs of new tokens: tiles and their pieces, the longest first.

use super::super::layout::AttentionShape;
use super::super::operands::Extent;
use super::super::variant::Variant;
use crate::Error;
use crate::lora::plan::Chip;

mod form;

use form::KEYS;
pub use form::PrefillForm;

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

/// New tokens of one sequence that a CUDA block computes for a group of heads, and the keys that it walks; the same
/// fields as `Piece` in `prefill_attention.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Piece {
    /// First row in q and in the result.
    pub row: u32,
    /// Rows; zero for a piece with nothing to do.
    pub tokens: u32,
    /// Position of the first row in its sequence.
    pub position: u32,
    /// Index of the sequence's first KV block in the block table.
    pub table: u32,
    /// First and one past the last tile of 64 keys.
    pub keys: (u32, u32),
    /// Which piece of its tile it is, and how many there are; they stand one after the other.
    pub part: (u32, u32),
}

/// Words of a piece in device memory.
pub(crate) const PIECE_WORDS: usize = 8;

/// Choices of a prefill plan, for measuring what they are worth. `None` leaves a choice to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefillTuning {
    /// The form; its parts are those that the plan would have.
    pub form: Option<PrefillForm>,
    /// Tiles of 64 keys a piece at most, where keys are cut.
    pub quota: Option<u32>,
}

/// The work of one prefill launch.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillPlan {
    pub(crate) shape: AttentionShape,
    pub(crate) form: PrefillForm,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) extent: Extent,
    flops: f64,
}

impl PrefillPlan {
    /// Plans one launch. `table`: KV blocks of all sequences, as the launch will be given them.
    ///
    /// # Errors
    /// [`Error::Shape`] for a shape that the kernels do not serve, a chip that cannot be, or a sequence whose KV blocks are
    /// not in the table; for a form in `tuning` that there is not, or that would cut keys where not even all tiles find room.
    pub fn new(
        shape: AttentionShape,
        sequences: &[PrefillSequence],
        table: &[u32],
        chip: Chip,
        tuning: PrefillTuning,
    ) -> Result<Self, Error> {
        shape.check()?;
        chip.check()?;
        let mut extent = Extent::default();
        for (index, sequence) in sequences.iter().enumerate() {
            let context = u64::from(sequence.prefix) + u64::from(sequence.tokens);
            if sequence.tokens > 0 {
                extent.include(index, sequence.row, sequence.tokens, context, sequence.table, table)?;
            }
        }
        let chunks = || sequences.iter().map(|sequence| (sequence.tokens, sequence.prefix));
        let form = tuning.form.unwrap_or_else(|| PrefillForm::of(&shape, chunks(), chip));
        if !(1..=2).contains(&form.fragments) {
            return Err(Error::shape("prefill tuning", format!("{} fragments a warp; 1 or 2", form.fragments)));
        }
        let rows = form.tile_tokens(&shape);
        let mut tiles: Vec<Piece> = sequences.iter().flat_map(|sequence| tiles(*sequence, rows)).collect();
        tiles.sort_by_key(|tile| std::cmp::Reverse(tile.position + tile.tokens));
        let pieces = if form.split {
            let least = form.quota(&shape, chunks(), chip);
            let Some(quota) = least.map(|least| tuning.quota.map_or(least, |wanted| wanted.max(least))) else {
                let why = "there are more tiles than blocks find room at once: their keys cannot be cut";
                return Err(Error::shape("prefill tuning", why));
            };
            tiles.into_iter().flat_map(|tile| cut(tile, quota)).collect()
        } else {
            tiles
        };
        let flops = sequences.iter().map(|sequence| flops(&shape, *sequence)).sum();
        Ok(PrefillPlan { shape, form, pieces, extent, flops })
    }

    /// The heads and the number format.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// Tiles, or what they are cut into; a launch has one CUDA block for each of them and each group of heads.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// How the work is cut.
    pub fn form(&self) -> PrefillForm {
        self.form
    }

    /// The compiled form that runs it.
    pub fn variant(&self) -> Variant {
        self.form.variant(&self.shape)
    }

    /// Multiplications and additions of the two products, keys after a row's own not counted.
    pub fn flops(&self) -> f64 {
        self.flops
    }

    /// The bytes that the kernel reads of pieces; `count` of them, the rest with nothing to do.
    pub fn piece_bytes(&self, count: usize) -> Vec<u8> {
        let pieces = self.pieces.iter().copied().chain(std::iter::repeat(Piece::default())).take(count);
        let words = |Piece { row, tokens, position, table, keys, part }: Piece| {
            [row, tokens, position, table, keys.0, keys.1, part.0, part.1]
        };
        pieces.flat_map(words).flat_map(u32::to_le_bytes).collect()
    }
}

fn tiles(sequence: PrefillSequence, rows: u32) -> impl Iterator<Item = Piece> {
    (0..sequence.tokens).step_by(rows as usize).map(move |first| {
        let tokens = rows.min(sequence.tokens - first);
        let position = sequence.prefix + first;
        let keys = (0, (position + tokens).div_ceil(KEYS));
        Piece { row: sequence.row + first, tokens, position, table: sequence.table, keys, part: (0, 1) }
    })
}

/// A tile in as few pieces as have at most so many tiles of keys, as even as can be.
fn cut(tile: Piece, quota: u32) -> impl Iterator<Item = Piece> {
    let all = tile.keys.1;
    let parts = all.div_ceil(quota);
    let border = move |part: u32| (u64::from(all) * u64::from(part) / u64::from(parts)) as u32;
    (0..parts).map(move |part| Piece { keys: (border(part), border(part + 1)), part: (part, parts), ..tile })
}

fn flops(shape: &AttentionShape, sequence: PrefillSequence) -> f64 {
    let (tokens, prefix) = (f64::from(sequence.tokens), f64::from(sequence.prefix));
    let pairs = tokens * prefix + tokens * (tokens + 1.0) / 2.0;
    4.0 * pairs * f64::from(shape.heads) * f64::from(shape.head_dim)
}

#[cfg(test)]
mod tests {
    use super::super::impossible;
    use super::*;
    use crate::Element;

    const CHIP: Chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };

    fn shape(heads: u32, kv_heads: u32, head_dim: u32) -> AttentionShape {
        AttentionShape { element: Element::Bf16, heads, kv_heads, head_dim }
    }

    #[test]
    fn a_chip_that_cannot_be_is_refused() {
        let sequence = PrefillSequence { row: 0, tokens: 16, prefix: 0, table: 0 };
        for (chip, wrong) in impossible(CHIP).into_iter().filter(|(_, wrong)| *wrong == "chip") {
            let plan = PrefillPlan::new(shape(8, 8, 128), &[sequence], &[0], chip, PrefillTuning::default());
            assert!(matches!(&plan, Err(Error::Shape { what, .. }) if what == wrong), "{chip:?}: {plan:?}");
        }
    }

    #[test]
    fn a_sequence_longer_than_can_be_counted_is_refused() {
        let prefill = PrefillSequence { row: 0, tokens: 16, prefix: u32::MAX - 3, table: 0 };
        let plan = PrefillPlan::new(shape(8, 8, 128), &[prefill], &[0], CHIP, PrefillTuning::default());
        assert!(matches!(plan, Err(Error::Shape { .. })));
    }

    #[test]
    fn every_key_of_every_new_token_has_one_piece_and_the_longest_come_first() {
        let sequences = [(0, 300, 5), (512, 1, 0), (600, 0, 0), (700, 129, 4000)]
            .map(|(row, tokens, prefix)| PrefillSequence { row, tokens, prefix, table: 0 });
        let table: Vec<u32> = (0..300).collect();
        // All tiles of all forms find room.
        let chip = Chip { multiprocessors: 200, ..CHIP };
        for (heads, kv_heads) in [(8, 2), (2, 2), (7, 1), (12, 1), (34, 2)] {
            for fragments in [1, 2] {
                for split in [false, true] {
                    let shape = shape(heads, kv_heads, 128);
                    let form = PrefillForm { fragments, split };
                    let tuning = PrefillTuning { form: Some(form), quota: None };
                    let plan = PrefillPlan::new(shape, &sequences, &table, chip, tuning).expect("a valid batch");
                    // Tiles of 64 keys that each row met.
                    let mut seen = vec![0; 900];
                    let mut next = (0, 0);
                    for piece in plan.pieces() {
                        assert!(piece.tokens * PrefillForm::packed(&shape) <= 64 * fragments && piece.tokens > 0);
                        assert_eq!((piece.part.0, piece.keys.0), next, "pieces of a tile stand in order");
                        assert!(piece.keys.1 > piece.keys.0);
                        next = if piece.part.0 + 1 == piece.part.1 { (0, 0) } else { (piece.part.0 + 1, piece.keys.1) };
                        for row in piece.row..piece.row + piece.tokens {
                            seen[row as usize] += piece.keys.1 - piece.keys.0;
                            let sequence =
                                sequences.iter().find(|s| (s.row..s.row + s.tokens).contains(&row)).expect("its rows");
                            assert_eq!(piece.position + row - piece.row, sequence.prefix + row - sequence.row);
                        }
                    }
                    assert_eq!(next, (0, 0), "the last tile has all its pieces");
                    let tile = form.tile_tokens(&shape);
                    let expected = |row: u32| {
                        let found = sequences.iter().find(|s| (s.row..s.row + s.tokens).contains(&row));
                        found.map_or(0, |s| {
                            let end = ((row - s.row) / tile * tile + tile).min(s.tokens);
                            (s.prefix + end).div_ceil(64)
                        })
                    };
                    assert!((0..).zip(&seen).all(|(row, &count)| count == expected(row)));
                    assert!(plan.pieces().is_sorted_by_key(|piece| std::cmp::Reverse(piece.position + piece.tokens)));
                    if split {
                        let blocks = plan.pieces().len() as u32 * form.groups(&shape);
                        assert!(blocks <= form.slots(&shape, chip), "all blocks find room at once");
                    }
                }
            }
        }
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
