//! KV blocks by request.

use std::collections::BTreeMap;

use aril_sim::workload::RequestId;

/// Who owns which block of the GPU's cache.
#[derive(Debug)]
pub(super) struct Blocks {
    free: Vec<u32>,
    owned: BTreeMap<RequestId, Vec<u32>>,
    tokens: u32,
}

impl Blocks {
    pub(super) fn new(count: u32, tokens: u32) -> Blocks {
        Blocks { free: (0..count).rev().collect(), owned: BTreeMap::new(), tokens: tokens.max(1) }
    }

    /// Hands out blocks until so many tokens have room.
    pub(super) fn grow(&mut self, request: RequestId, tokens: u32) -> Result<(), String> {
        let owned = self.owned.entry(request).or_default();
        while (owned.len() as u32) < tokens.div_ceil(self.tokens) {
            let block = self.free.pop().ok_or_else(|| {
                "the engine keeps more KV blocks than the GPU has: lower the KV cache of the scenario's engine"
                    .to_owned()
            })?;
            owned.push(block);
        }
        Ok(())
    }

    pub(super) fn of(&self, request: RequestId) -> &[u32] {
        self.owned.get(&request).map_or(&[], Vec::as_slice)
    }

    pub(super) fn free(&mut self, request: RequestId) {
        self.free.extend(self.owned.remove(&request).unwrap_or_default());
    }

    #[cfg(test)]
    pub(super) fn count_free(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_one_owner_and_come_back() {
        let mut blocks = Blocks::new(4, 16);
        blocks.grow(RequestId(1), 17).unwrap();
        blocks.grow(RequestId(2), 16).unwrap();
        blocks.grow(RequestId(1), 32).unwrap();
        assert_eq!((blocks.of(RequestId(1)).len(), blocks.of(RequestId(2)).len()), (2, 1));
        assert!(!blocks.of(RequestId(1)).contains(&blocks.of(RequestId(2))[0]));
        assert!(blocks.grow(RequestId(3), 33).is_err());
        blocks.free(RequestId(3));
        blocks.free(RequestId(1));
        blocks.free(RequestId(1));
        assert_eq!(blocks.count_free(), 3);
    }
}
