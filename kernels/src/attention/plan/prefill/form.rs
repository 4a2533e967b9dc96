//! Which of its forms the prefill kernel takes: a pure rule over lengths, which a model of its cost can follow.

use super::super::super::layout::AttentionShape;
use super::super::super::variant::Variant;
use crate::lora::plan::Chip;

/// Keys of a tile of keys.
pub(super) const KEYS: u32 = 64;

/// Query heads that share a tile, at most.
const PACKED_MAX: u32 = 16;

/// What a key takes a tile of 64 places, and of 128: tall tiles read keys half as often, short ones waste fewer places
/// and end more evenly. Rules of thumb from measured batches, as the next two.
const KEY_COST: [f64; 2] = [1.135, 2.0];

/// What it takes to begin and end a tile or a piece of one, in keys.
const START_KEYS: f64 = 160.0;

/// What it takes to join the pieces of a tile, in keys of a tile of 64 places.
const JOIN_KEYS: f64 = 200.0;

/// Tiles of keys of a piece, at least: shorter ones are joined for longer than they save.
const QUOTA_MIN: u32 = 4;

/// How a batch of runs of new tokens is cut.
///
/// The `packed` query heads that share a KV head share a tile: a tile of 64 or 128 places is that many (token, head)
/// pairs, token by token. A CUDA block has a tile and one group of heads, and walks all keys up to the tile's last token; or,
/// with `split`, one of the pieces into which these keys are cut evenly, so that all pieces find room at once.
///
/// [`PrefillForm::of`] takes the form with the shortest makespan:
/// `key cost · (longest block's keys + 160)`, or of the mean over all slots if that is more, without a split; with it
/// `key cost · (64 · quota + 160) + 200`, where the quota is the fewest tiles of 64 keys a piece for which all pieces find
/// room, and at least four. Nothing is split that does not have to be: of equals the first of (64, whole), (128, whole), (64, split), (128, split).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PrefillForm {
    /// Fragments of 16 places a warp: 1 for tiles of 64 places, 2 for 128.
    pub fragments: u32,
    /// Whether the keys of a tile may be cut.
    pub split: bool,
}

impl PrefillForm {
    /// All of them.
    pub const ALL: [PrefillForm; 4] = [
        PrefillForm { fragments: 1, split: false },
        PrefillForm { fragments: 2, split: false },
        PrefillForm { fragments: 1, split: true },
        PrefillForm { fragments: 2, split: true },
    ];

    /// The form for these (new tokens, tokens before them) pairs.
    pub fn of(shape: &AttentionShape, chunks: impl Iterator<Item = (u32, u32)> + Clone, chip: Chip) -> Self {
        let mut best = (Self::ALL[0], f64::INFINITY);
        for form in Self::ALL {
            if let Some(makespan) = form.makespan(shape, chunks.clone(), chip)
                && makespan < best.1
            {
                best = (form, makespan);
            }
        }
        best.0
    }

    /// What the rule takes this form to cost, in keys of a tile of 64 places; `None` where it cannot be.
    pub fn makespan(
        self,
        shape: &AttentionShape,
        chunks: impl Iterator<Item = (u32, u32)> + Clone,
        chip: Chip,
    ) -> Option<f64> {
        let cost = KEY_COST[self.fragments as usize - 1];
        if self.split {
            let quota = self.quota(shape, chunks, chip)?;
            return Some(cost * (f64::from(quota) * f64::from(KEYS) + START_KEYS) + JOIN_KEYS);
        }
        let (mut total, mut longest) = (0.0, 0.0_f64);
        for (tokens, prefix) in chunks {
            let (rows, keys) = (self.tile_tokens(shape), f64::from(prefix) + f64::from(tokens) + START_KEYS);
            let whole = f64::from(tokens / rows);
            let part = if tokens % rows > 0 { keys } else { 0.0 };
            total += whole * (f64::from(prefix) + START_KEYS) + f64::from(rows) * whole * (whole + 1.0) / 2.0 + part;
            longest = longest.max(if tokens > 0 { keys } else { 0.0 });
        }
        let slots = 2.0 * f64::from(chip.multiprocessors);
        Some(cost * f64::max(total * f64::from(self.groups(shape)) / slots, longest))
    }

    /// Tiles of 64 keys a piece, at most: the fewest for which all pieces find room, and not too few. `None` where not even
    /// all tiles do.
    pub fn quota(
        self,
        shape: &AttentionShape,
        chunks: impl Iterator<Item = (u32, u32)> + Clone,
        chip: Chip,
    ) -> Option<u32> {
        let (rows, groups) = (self.tile_tokens(shape), u64::from(self.groups(shape)));
        let slots = u64::from(self.slots(shape, chip));
        let longest = chunks
            .clone()
            .filter(|&(tokens, _)| tokens > 0)
            .map(|(tokens, prefix)| prefix.saturating_add(tokens))
            .max()?;
        let blocks = |quota: u32| {
            let mut pieces = 0;
            for (tokens, prefix) in chunks.clone() {
                for first in (0..tokens).step_by(rows as usize) {
                    let keys = prefix.saturating_add(first.saturating_add(rows).min(tokens));
                    pieces += u64::from(keys.div_ceil(KEYS).div_ceil(quota));
                    if pieces * groups > slots {
                        return u64::MAX;
                    }
                }
            }
            pieces * groups
        };
        let (mut low, mut high) = (QUOTA_MIN - 1, longest.div_ceil(KEYS).max(QUOTA_MIN));
        if blocks(high) > slots {
            return None;
        }
        while high - low > 1 {
            let middle = u32::midpoint(low, high);
            *(if blocks(middle) > slots { &mut low } else { &mut high }) = middle;
        }
        Some(high)
    }

    /// Query heads that share a tile: the most that divide those of a KV head evenly, up to 16.
    pub fn packed(shape: &AttentionShape) -> u32 {
        let queries = shape.queries();
        (1..=queries.min(PACKED_MAX)).rev().find(|packed| queries.is_multiple_of(*packed)).unwrap_or(1)
    }

    /// CUDA blocks of a piece: one a group of heads that share a tile.
    pub fn groups(self, shape: &AttentionShape) -> u32 {
        shape.heads / Self::packed(shape)
    }

    /// New tokens of a tile.
    pub fn tile_tokens(self, shape: &AttentionShape) -> u32 {
        64 * self.fragments / Self::packed(shape)
    }

    /// Blocks that find room at once: two a multiprocessor, or one where its shared memory is small.
    pub fn slots(self, shape: &AttentionShape, chip: Chip) -> u32 {
        // A block occupies 1 KiB beyond what it asks for, and a multiprocessor has that much more than a block may have.
        let occupied = self.variant(shape).shared_bytes(shape.queries()) + 1024;
        let fit = chip.shared_bytes_block_max.saturating_add(1024) / occupied;
        chip.multiprocessors.saturating_mul(fit.min(2))
    }

    /// The compiled form.
    pub fn variant(self, shape: &AttentionShape) -> Variant {
        let AttentionShape { element, head_dim, .. } = *shape;
        let PrefillForm { fragments, split } = self;
        Variant::Prefill { element, head_dim, fragments, split }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    const CHIP: Chip = Chip { multiprocessors: 132, shared_bytes_block_max: 232_448, cluster_max: 16 };

    fn shape(heads: u32, kv_heads: u32, head_dim: u32) -> AttentionShape {
        AttentionShape { element: Element::Bf16, heads, kv_heads, head_dim }
    }

    fn form(shape: AttentionShape, chunks: &[(u32, u32)]) -> PrefillForm {
        PrefillForm::of(&shape, chunks.iter().copied(), CHIP)
    }

    #[test]
    fn tiles_are_tall_where_they_fill_the_chip_and_their_rows() {
        let whole = |fragments| PrefillForm { fragments, split: false };
        assert_eq!(form(shape(32, 32, 128), &[(4096, 0)]), whole(2));
        assert_eq!(form(shape(32, 32, 128), &[(2048, 0)]), whole(2));
        assert_eq!(form(shape(32, 8, 128), &[(4096, 0)]), whole(2));
        assert_eq!(form(shape(32, 32, 128), &[(30, 0); 64]), whole(1));
        // Four heads share a tile: 120 of 128 places.
        assert_eq!(form(shape(32, 8, 128), &[(30, 0); 64]), whole(2));
        assert_eq!(form(shape(32, 8, 128), &[(16, 0); 64]), whole(1));
        assert!(!form(shape(32, 32, 128), &[(128, 0); 32]).split);
    }

    #[test]
    fn keys_are_cut_where_few_new_tokens_follow_many_old_ones_and_nowhere_else() {
        for shape in [shape(32, 32, 128), shape(32, 8, 128), shape(8, 1, 128)] {
            for tokens in [16, 64, 128] {
                assert!(form(shape, &[(tokens, 8192)]).split, "{shape:?} {tokens}");
                assert!(!form(shape, &[(tokens, 0)]).split, "{shape:?} {tokens}");
            }
        }
        assert!(form(shape(8, 1, 128), &[(512, 32_768)]).split);
        assert!(form(shape(32, 8, 128), &[(32, 2048), (16, 16_384), (64, 0)]).split);
        // Many of them fill the chip as they are.
        assert!(!form(shape(32, 32, 128), &[(64, 8192); 16]).split);
    }

    #[test]
    fn a_quota_is_the_least_for_which_all_pieces_find_room() {
        let shape = shape(32, 8, 128);
        let form = PrefillForm { fragments: 1, split: true };
        assert_eq!((PrefillForm::packed(&shape), form.groups(&shape), form.tile_tokens(&shape)), (4, 8, 16));
        // 33 pieces a group at most, 512 tiles of keys and a part of one: 16 each.
        assert_eq!(form.quota(&shape, [(16, 32_768)].into_iter(), CHIP), Some(16));
        // One of 6 tiles.
        assert_eq!(form.quota(&shape, [(16, 300)].into_iter(), CHIP), Some(4));
        assert_eq!(form.quota(&shape, [(16, 0); 34].into_iter(), CHIP), None);
        assert_eq!(form.quota(&shape, std::iter::empty(), CHIP), None);
    }

    #[test]
    fn whatever_chip_and_lengths_there_are_a_form_is_chosen() {
        let shape = shape(32, 8, 128);
        let most = u32::MAX;
        for multiprocessors in [0, 1, most] {
            for shared_bytes_block_max in [0, 1, most] {
                let chip = Chip { multiprocessors, shared_bytes_block_max, cluster_max: most };
                for chunk in [(1, most), (1, most - 1), (16, most - 20), (0, most)] {
                    let form = PrefillForm::of(&shape, std::iter::once(chunk), chip);
                    let fit = if shared_bytes_block_max == most { 2 } else { 0 };
                    assert_eq!(form.slots(&shape, chip), multiprocessors.saturating_mul(fit));
                }
            }
        }
    }

    #[test]
    fn heads_are_packed_as_far_as_they_divide_evenly() {
        for (heads, kv_heads, packed) in
            [(32, 32, 1), (32, 8, 4), (8, 1, 8), (7, 1, 7), (12, 1, 12), (34, 2, 1), (64, 2, 16), (36, 2, 9)]
        {
            assert_eq!(PrefillForm::packed(&shape(heads, kv_heads, 64)), packed);
        }
    }

    #[test]
    fn fewer_blocks_find_room_where_shared_memory_is_small() {
        let shape = shape(8, 8, 128);
        let small = Chip { multiprocessors: 46, shared_bytes_block_max: 101_376, cluster_max: 1 };
        for fragments in [1, 2] {
            let form = PrefillForm { fragments, split: true };
            assert_eq!(form.slots(&shape, CHIP), 264);
            assert_eq!(form.slots(&shape, small), 46);
        }
    }
}
