//! Adapter slots by adapter.

use std::collections::BTreeMap;

use aril_sim::workload::AdapterId;

/// Which adapter lies in which slot of the GPU.
#[derive(Debug)]
pub(super) struct Slots {
    free: Vec<u32>,
    taken: BTreeMap<AdapterId, Taken>,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Taken {
    slot: u32,
    loading: bool,
    used: u64,
}

impl Slots {
    pub(super) fn new(count: u32) -> Slots {
        Slots { free: (0..count).rev().collect(), taken: BTreeMap::new(), clock: 0 }
    }

    pub(super) fn get(&self, adapter: AdapterId) -> Option<u32> {
        self.taken.get(&adapter).map(|taken| taken.slot)
    }

    /// The slot that a copy of this adapter is on its way to.
    pub(super) fn loading(&self, adapter: AdapterId) -> Option<u32> {
        self.taken.get(&adapter).filter(|taken| taken.loading).map(|taken| taken.slot)
    }

    /// A slot for a copy that begins: a free one, or else that of the adapter unused for longest that is neither needed nor on its way.
    pub(super) fn take(&mut self, adapter: AdapterId, needed: &[AdapterId]) -> Option<u32> {
        if self.free.is_empty() {
            let idle = |(id, taken): &(&AdapterId, &Taken)| !taken.loading && !needed.contains(id);
            let oldest = self.taken.iter().filter(idle).min_by_key(|(_, taken)| taken.used).map(|(id, _)| *id)?;
            self.remove(oldest);
        }
        let slot = self.free.pop()?;
        self.clock += 1;
        self.taken.insert(adapter, Taken { slot, loading: true, used: self.clock });
        Some(slot)
    }

    pub(super) fn loaded(&mut self, adapter: AdapterId) {
        if let Some(taken) = self.taken.get_mut(&adapter) {
            taken.loading = false;
        }
    }

    pub(super) fn used(&mut self, adapter: AdapterId) {
        self.clock += 1;
        if let Some(taken) = self.taken.get_mut(&adapter) {
            taken.used = self.clock;
        }
    }

    pub(super) fn remove(&mut self, adapter: AdapterId) {
        if let Some(taken) = self.taken.remove(&adapter) {
            self.free.push(taken.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_adapter_unused_for_longest_makes_room_unless_it_is_needed_or_on_its_way() {
        let mut slots = Slots::new(3);
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(AdapterId);
        for adapter in [a, b, c] {
            slots.take(adapter, &[]).unwrap();
        }
        assert_eq!(slots.take(d, &[]), None, "all are on their way");
        [a, b, c].iter().for_each(|adapter| slots.loaded(*adapter));
        slots.used(a);
        let freed = slots.get(c);
        assert_eq!(slots.take(d, &[b]), freed);
        assert_eq!(slots.get(c), None);
        slots.loaded(d);
        slots.remove(a);
        assert!(slots.take(e, &[b, d]).is_some());
        assert_eq!(slots.loading(e), slots.get(e));
    }
}
