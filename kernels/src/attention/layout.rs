//! How keys and values lie in memory, and which shapes of attention there are.
//!
//! One layer's cache is `[KV block][KV head][K, V][16 tokens][head dim]`, 16-bit elements. The keys of one KV head and
//! one block are `32 · head_dim` consecutive bytes, its values the same number right behind: a warp fetches both with
//! 16 bytes a lane, all coalesced. The last block of a sequence may be partly filled; what lies behind its last token
//! is never used.

use crate::{Element, Error};

/// Tokens in a KV block.
pub const BLOCK_TOKENS: u32 = 16;

/// Heads and number format of one model's attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AttentionShape {
    /// Number format of q, K, V and the result.
    pub element: Element,
    /// Query heads.
    pub heads: u32,
    /// Heads of K and V, a divisor of `heads`; consecutive query heads share one.
    pub kv_heads: u32,
    /// Width of a head, 64 or 128.
    pub head_dim: u32,
}

impl AttentionShape {
    /// Whether the kernels serve it.
    ///
    /// # Errors
    /// [`Error::Shape`] says what they do not serve.
    pub fn check(&self) -> Result<(), Error> {
        if self.head_dim != 64 && self.head_dim != 128 {
            return Err(Error::shape(
                "head dim",
                format!("is {}; the attention kernels have 64 and 128", self.head_dim),
            ));
        }
        if self.heads == 0 || self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let why = format!("{} query heads cannot share {} KV heads evenly", self.heads, self.kv_heads);
            return Err(Error::shape("heads", why));
        }
        if self.heads > 1024 {
            return Err(Error::shape("heads", format!("{}; at most 1024", self.heads)));
        }
        Ok(())
    }

    /// Query heads that share a KV head.
    pub fn queries(&self) -> u32 {
        self.heads / self.kv_heads
    }

    /// Elements of a row of q or of the result.
    pub fn row_elements(&self) -> u32 {
        self.heads * self.head_dim
    }

    /// What scores are usually multiplied by: 1 / √head dim.
    pub fn softmax_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Where its keys and values lie.
    pub fn kv_layout(&self) -> KvLayout {
        KvLayout { kv_heads: self.kv_heads, head_dim: self.head_dim }
    }
}

/// Places of keys and values in one layer's cache, counted in elements from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvLayout {
    /// Heads of K and V.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
}

impl KvLayout {
    /// Elements of one KV block of one layer.
    pub fn block_elements(&self) -> usize {
        2 * BLOCK_TOKENS as usize * self.kv_heads as usize * self.head_dim as usize
    }

    /// Bytes of one KV block of one layer.
    pub fn block_bytes(&self) -> usize {
        self.block_elements() * size_of::<u16>()
    }

    /// The first element of a token's key. `token`: within the block, below [`BLOCK_TOKENS`].
    pub fn key(&self, block: u32, kv_head: u32, token: u32) -> usize {
        self.place(block, kv_head, 0, token)
    }

    /// The first element of a token's value.
    pub fn value(&self, block: u32, kv_head: u32, token: u32) -> usize {
        self.place(block, kv_head, 1, token)
    }

    fn place(&self, block: u32, kv_head: u32, which: usize, token: u32) -> usize {
        let head = block as usize * self.kv_heads as usize + kv_head as usize;
        ((head * 2 + which) * BLOCK_TOKENS as usize + token as usize) * self.head_dim as usize
    }
}

/// KV blocks that hold this many tokens.
pub fn blocks_of(tokens: u32) -> u32 {
    tokens.div_ceil(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_tile_the_cache_without_overlap() {
        let layout = KvLayout { kv_heads: 3, head_dim: 64 };
        let mut seen = vec![0; 4 * layout.block_elements()];
        for block in 0..4 {
            for kv_head in 0..3 {
                for token in 0..BLOCK_TOKENS {
                    for first in [layout.key(block, kv_head, token), layout.value(block, kv_head, token)] {
                        seen[first..first + 64].iter_mut().for_each(|count| *count += 1);
                    }
                }
            }
        }
        assert!(seen.iter().all(|&count| count == 1));
    }

    #[test]
    fn shapes_that_the_kernels_do_not_have_are_refused() {
        let shape = AttentionShape { element: Element::Bf16, heads: 32, kv_heads: 8, head_dim: 128 };
        assert!(shape.check().is_ok() && shape.queries() == 4);
        for bad in [
            AttentionShape { head_dim: 96, ..shape },
            AttentionShape { kv_heads: 5, ..shape },
            AttentionShape { kv_heads: 0, ..shape },
            AttentionShape { heads: 0, ..shape },
            AttentionShape { heads: 2048, ..shape },
        ] {
            assert!(matches!(bad.check(), Err(Error::Shape { .. })), "{bad:?}");
        }
    }
}
