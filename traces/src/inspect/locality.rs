//! How often is an adapter among those used last? Temporal locality decides the hit rate of every cache.

use std::collections::HashMap;

/// The numbers of slots at which hit rates are reported.
pub const LRU_SLOTS: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

/// Hit rate of an LRU cache with so many slots over this order of uses: (slots, hits over uses).
///
/// A use hits if fewer than `slots` other ids were used since its last one (Mattson's stack distance), which a Fenwick
/// tree over last uses counts in logarithmic time.
pub fn lru_hit_rates(uses: &[u32], slots: &[u32]) -> Vec<(u32, f64)> {
    let mut tree = vec![0_i32; uses.len() + 1];
    let add = |tree: &mut Vec<i32>, position: usize, by: i32| {
        let mut at = position + 1;
        while at < tree.len() {
            tree[at] += by;
            at += at & at.wrapping_neg();
        }
    };
    let before = |tree: &[i32], position: usize| {
        let (mut at, mut sum) = (position, 0);
        while at > 0 {
            sum += tree[at];
            at -= at & at.wrapping_neg();
        }
        sum
    };
    let mut last: HashMap<u32, usize> = HashMap::new();
    let mut hits = vec![0_u64; slots.len()];
    for (now, id) in uses.iter().enumerate() {
        if let Some(then) = last.insert(*id, now) {
            let others = last.len() as i32 - before(&tree, then + 1);
            for (slots, hits) in slots.iter().zip(&mut hits) {
                *hits += u64::from(others < *slots as i32);
            }
            add(&mut tree, then, -1);
        }
        add(&mut tree, now, 1);
    }
    slots.iter().zip(hits).map(|(slots, hits)| (*slots, hits as f64 / uses.len().max(1) as f64)).collect()
}
