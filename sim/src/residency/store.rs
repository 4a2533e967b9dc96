//! One memory for adapters: who is in it, who may leave, and how room is made.

use crate::policy::{Evictor, Idle};
use crate::settings::AdapterMemory;
use crate::time::Time;
use crate::workload::AdapterId;

/// An adapter in a memory, or on its way there.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) bytes: u64,
    /// When its copy is there; in the past: it is.
    pub(super) ready: Time,
    /// Has the event of its arrival been handled? Until then it cannot be evicted.
    pub(super) arrived: bool,
    /// Sequences in the batch that use it. In the host: copies that read it.
    pub(super) users: u32,
    /// Sequences in the queue that it was loaded for.
    pub(super) awaited: u32,
    /// Tells this copy from earlier ones of the same adapter.
    pub(super) number: u32,
    loaded: Time,
    pub(super) last_used: Time,
    pub(super) uses: u64,
}

/// One memory.
#[derive(Debug)]
pub(super) struct Store {
    memory: AdapterMemory,
    bytes: u64,
    /// Copies ever begun.
    inserted: u32,
    /// The adapters in order, and apart from them what is known of each: to find one is to read few lines of memory.
    adapters: Vec<AdapterId>,
    entries: Vec<Entry>,
    /// Who can make room, and who is chosen to: between two calls only their memory is kept.
    idle: Vec<Idle>,
    victims: Vec<AdapterId>,
}

impl Store {
    pub(super) fn new(memory: AdapterMemory) -> Store {
        Store {
            memory,
            bytes: 0,
            inserted: 0,
            adapters: Vec::new(),
            entries: Vec::new(),
            idle: Vec::new(),
            victims: Vec::new(),
        }
    }

    /// Adapters there or on their way.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of those.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_unbounded(&self) -> bool {
        self.memory == AdapterMemory::Unbounded
    }

    /// Forgets everything; gives what was there.
    pub(super) fn clear(&mut self) -> Vec<AdapterId> {
        self.entries.clear();
        self.bytes = 0;
        std::mem::take(&mut self.adapters)
    }

    fn position(&self, adapter: AdapterId) -> Result<usize, usize> {
        self.adapters.binary_search(&adapter)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (AdapterId, &Entry)> {
        self.adapters.iter().copied().zip(&self.entries)
    }

    pub(super) fn get(&self, adapter: AdapterId) -> Option<&Entry> {
        self.position(adapter).ok().map(|position| &self.entries[position])
    }

    pub(super) fn get_mut(&mut self, adapter: AdapterId) -> Option<&mut Entry> {
        self.position(adapter).ok().map(|position| &mut self.entries[position])
    }

    fn has_room(&self, bytes: u64) -> bool {
        match self.memory {
            AdapterMemory::Slots(slots) => (self.entries.len() as u32) < slots,
            AdapterMemory::Bytes(limit) => self.bytes + bytes <= limit,
            AdapterMemory::Unbounded => true,
        }
    }

    pub(super) fn could_hold(&self, bytes: u64) -> bool {
        match self.memory {
            AdapterMemory::Slots(slots) => slots > 0,
            AdapterMemory::Bytes(limit) => bytes <= limit,
            AdapterMemory::Unbounded => true,
        }
    }

    /// Puts down what nobody uses; `spare_awaited`: nor counts on.
    pub(super) fn idle(&self, spare_awaited: bool, all: &mut Vec<Idle>) {
        let idle = |entry: &Entry| entry.arrived && entry.users == 0 && !(spare_awaited && entry.awaited > 0);
        all.clear();
        all.extend(self.all().filter(|(_, entry)| idle(entry)).map(|(adapter, entry)| Idle {
            adapter,
            bytes: entry.bytes,
            loaded: entry.loaded,
            last_used: entry.last_used,
            uses: entry.uses,
        }));
    }

    pub(super) fn insert(&mut self, adapter: AdapterId, bytes: u64, now: Time, ready: Time) {
        self.bytes += bytes;
        self.inserted = self.inserted.wrapping_add(1);
        let number = self.inserted;
        let (loaded, last_used) = (now, now);
        let entry = Entry { bytes, ready, arrived: false, users: 0, awaited: 0, number, loaded, last_used, uses: 0 };
        let position = self.position(adapter).expect_err("an adapter is not loaded twice");
        self.adapters.insert(position, adapter);
        self.entries.insert(position, entry);
        if let AdapterMemory::Slots(slots) = self.memory {
            assert!(self.entries.len() as u32 <= slots, "more adapters than slots");
        }
        if let AdapterMemory::Bytes(limit) = self.memory {
            assert!(self.bytes <= limit, "more adapter bytes than memory");
        }
    }

    pub(super) fn remove(&mut self, adapter: AdapterId) -> Entry {
        let position = self.position(adapter).expect("an evicted adapter was there");
        self.adapters.remove(position);
        let entry = self.entries.remove(position);
        self.bytes = self.bytes.checked_sub(entry.bytes).expect("adapter bytes balance");
        entry
    }

    /// Evicts idle adapters until `bytes` more fit: true if they do now, and nobody is evicted if they cannot. With
    /// `spare_awaited`, adapters that somebody in the queue counts on stay.
    pub(super) fn make_room(
        &mut self,
        now: Time,
        bytes: u64,
        spare_awaited: bool,
        evictor: &mut dyn Evictor,
        mut evicted: impl FnMut(AdapterId, &Entry),
    ) -> bool {
        if !self.could_hold(bytes) {
            return false;
        }
        if self.has_room(bytes) {
            return true;
        }
        let (mut idle, mut victims) = (std::mem::take(&mut self.idle), std::mem::take(&mut self.victims));
        victims.clear();
        self.idle(true, &mut idle);
        let made = self.choose_victims(now, bytes, spare_awaited, evictor, &mut idle, &mut victims);
        // All or nothing: an adapter is not thrown out for a newcomer that then does not fit.
        for &victim in victims.iter().filter(|_| made) {
            let entry = self.remove(victim);
            evicted(victim, &entry);
        }
        (self.idle, self.victims) = (idle, victims);
        made
    }

    /// Does the evictor find enough room among the idle?
    fn choose_victims(
        &self,
        now: Time,
        bytes: u64,
        spare_awaited: bool,
        evictor: &mut dyn Evictor,
        idle: &mut Vec<Idle>,
        victims: &mut Vec<AdapterId>,
    ) -> bool {
        let mut all = spare_awaited;
        let mut freed = 0;
        let enough = |victims: usize, freed: u64| match self.memory {
            AdapterMemory::Slots(slots) => (self.entries.len() - victims) < slots as usize,
            AdapterMemory::Bytes(limit) => self.bytes - freed + bytes <= limit,
            AdapterMemory::Unbounded => true,
        };
        while !enough(victims.len(), freed) {
            if idle.is_empty() && !all {
                // Nothing else is left: demand goes before those that wait for what was fetched for them.
                self.idle(false, idle);
                idle.retain(|idle| !victims.contains(&idle.adapter));
                all = true;
            }
            if idle.is_empty() {
                return false;
            }
            let Some(position) = evictor.victim(now, idle) else { return false };
            assert!(position < idle.len(), "an evictor chose position {position} of {}", idle.len());
            let victim = idle.remove(position);
            freed += victim.bytes;
            victims.push(victim.adapter);
        }
        true
    }
}
