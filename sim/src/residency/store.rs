//! One memory for adapters: who is in it, who may leave, and how room is made.

use crate::fetch;
use crate::find;
use crate::policy::{Evictor, Idle};
use crate::settings::AdapterMemory;
use crate::time::Time;
use crate::workload::AdapterId;

/// Who keeps an adapter in a memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Sequences in the batch that use it. In the host: copies that read it.
    pub(super) users: u32,
    /// Sequences in the queue that it was loaded for.
    pub(super) awaited: u32,
    /// Tells this copy from earlier ones of the same adapter.
    pub(super) number: u32,
    /// Has the event of its arrival been handled? Until then it cannot be evicted.
    pub(super) arrived: bool,
}

impl Held {
    /// Is it there, and does nobody use it?
    fn is_unused(&self) -> bool {
        self.arrived && self.users == 0
    }
}

/// What else is known of an adapter in a memory, or on its way there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) bytes: u64,
    /// When its copy is there; in the past: it is.
    pub(super) ready: Time,
    loaded: Time,
    pub(super) last_used: Time,
    pub(super) uses: u64,
}

/// All of it: one line of memory.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot {
    held: Held,
    entry: Entry,
}

/// One memory.
#[derive(Debug)]
pub(super) struct Store {
    memory: AdapterMemory,
    bytes: u64,
    /// Copies ever begun.
    inserted: u32,
    /// The adapters in order, and where each is: to find one, or to see who is idle, is to read few lines of memory.
    adapters: Vec<AdapterId>,
    slot_of: Vec<u32>,
    slots: Vec<Slot>,
    /// Slots that nobody has.
    free: Vec<u32>,
    /// Adapters that are there and that nobody uses, in order, and their slots.
    unused: Vec<(AdapterId, u32)>,
}

/// Who can make room, and who is chosen to. One for all memories: between two calls only its own memory is kept.
#[derive(Debug, Default)]
pub(crate) struct Room {
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
            slot_of: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            unused: Vec::new(),
        }
    }

    /// Takes memory to find the adapters of a batch of so many rows. Gives where that is.
    pub(super) fn reserve(&mut self, rows: usize) -> [fetch::Room; 2] {
        let adapters = self.usual(rows);
        self.adapters.reserve(adapters);
        self.slot_of.reserve(adapters);
        [fetch::Room::of(&self.adapters), fetch::Room::of(&self.slot_of)]
    }

    /// Takes memory for what is known of them.
    pub(super) fn reserve_slots(&mut self, rows: usize) {
        self.slots.reserve(self.usual(rows));
        self.free.reserve(rows);
        self.unused.reserve(rows);
    }

    /// Asks for what tells where adapters are.
    pub(super) fn fetch(&self) {
        fetch::list(&self.adapters);
        fetch::list(&self.slot_of);
    }

    /// How many are there, usually? Slots fill up with what is kept idle; where they are many more than a batch needs, that takes long.
    fn usual(&self, rows: usize) -> usize {
        match self.memory {
            AdapterMemory::Slots(slots) => (2 * rows).min(slots as usize),
            AdapterMemory::Bytes(_) | AdapterMemory::Unbounded => rows,
        }
    }

    /// Asks for the list of the unused, which changes when somebody comes or goes.
    pub(super) fn fetch_unused(&self) {
        fetch::list(&self.unused);
    }

    /// Asks for what is known of an adapter that is there.
    pub(super) fn fetch_copy(&self, adapter: AdapterId) {
        if let Some(slot) = self.slot(adapter) {
            fetch::element(&self.slots, slot);
        }
    }

    /// Adapters there or on their way.
    pub(super) fn len(&self) -> usize {
        self.adapters.len()
    }

    /// Bytes of those.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets everything; gives what was there.
    pub(super) fn clear(&mut self) -> Vec<AdapterId> {
        self.slot_of.clear();
        self.slots.clear();
        self.free.clear();
        self.unused.clear();
        self.bytes = 0;
        std::mem::take(&mut self.adapters)
    }

    fn position(&self, adapter: AdapterId) -> Result<usize, usize> {
        find::in_order(&self.adapters, adapter)
    }

    /// Where is the adapter?
    fn slot(&self, adapter: AdapterId) -> Option<usize> {
        self.position(adapter).ok().map(|position| self.slot_of[position] as usize)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (AdapterId, &Held, &Entry)> {
        let slots = self.slot_of.iter().map(|&slot| &self.slots[slot as usize]);
        self.adapters.iter().zip(slots).map(|(&adapter, Slot { held, entry })| (adapter, held, entry))
    }

    pub(super) fn holds(&self, adapter: AdapterId) -> bool {
        self.position(adapter).is_ok()
    }

    /// Who keeps it?
    pub(super) fn held(&self, adapter: AdapterId) -> Option<&Held> {
        self.get(adapter).map(|(held, _)| held)
    }

    pub(super) fn get(&self, adapter: AdapterId) -> Option<(&Held, &Entry)> {
        self.slot(adapter).map(|slot| (&self.slots[slot].held, &self.slots[slot].entry))
    }

    /// Changes who keeps it and what is known of it, if it is there, and gives what `change` gives.
    pub(super) fn update<T>(
        &mut self,
        adapter: AdapterId,
        change: impl FnOnce(&mut Held, &mut Entry) -> T,
    ) -> Option<T> {
        let slot = self.slot(adapter)?;
        let Slot { held, entry } = &mut self.slots[slot];
        let before = held.is_unused();
        let given = change(held, entry);
        let after = held.is_unused();
        if after != before {
            self.list_unused(adapter, slot as u32, after);
        }
        Some(given)
    }

    /// Puts it on the list of the unused, or takes it off.
    fn list_unused(&mut self, adapter: AdapterId, slot: u32, unused: bool) {
        let place = self.unused.binary_search_by_key(&adapter, |&(adapter, _)| adapter);
        if unused {
            self.unused.insert(place.expect_err("who is used is not listed"), (adapter, slot));
        } else {
            self.unused.remove(place.expect("who is not used is listed"));
        }
    }

    /// Is the list of the unused right?
    pub(super) fn check(&self) {
        let unused = self.all().filter(|(_, held, _)| held.is_unused()).map(|(adapter, ..)| adapter);
        assert!(unused.eq(self.unused.iter().map(|&(adapter, _)| adapter)), "adapters that nobody uses");
    }

    fn has_room(&self, bytes: u64) -> bool {
        match self.memory {
            AdapterMemory::Slots(slots) => (self.adapters.len() as u32) < slots,
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
        all.clear();
        for &(adapter, slot) in &self.unused {
            let Slot { held, entry } = &self.slots[slot as usize];
            if !(spare_awaited && held.awaited > 0) {
                let Entry { bytes, loaded, last_used, uses, .. } = *entry;
                all.push(Idle { adapter, bytes, loaded, last_used, uses });
            }
        }
    }

    pub(super) fn insert(&mut self, adapter: AdapterId, bytes: u64, now: Time, ready: Time) {
        self.bytes += bytes;
        self.inserted = self.inserted.wrapping_add(1);
        let number = self.inserted;
        let newcomer = Slot {
            held: Held { users: 0, awaited: 0, number, arrived: false },
            entry: Entry { bytes, ready, loaded: now, last_used: now, uses: 0 },
        };
        let position = self.position(adapter).expect_err("an adapter is not loaded twice");
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = newcomer;
                slot
            }
            None => {
                self.slots.push(newcomer);
                self.slots.len() as u32 - 1
            }
        };
        self.adapters.insert(position, adapter);
        self.slot_of.insert(position, slot);
        if let AdapterMemory::Slots(slots) = self.memory {
            assert!(self.adapters.len() as u32 <= slots, "more adapters than slots");
        }
        if let AdapterMemory::Bytes(limit) = self.memory {
            assert!(self.bytes <= limit, "more adapter bytes than memory");
        }
    }

    pub(super) fn remove(&mut self, adapter: AdapterId) -> (Held, Entry) {
        let position = self.position(adapter).expect("an evicted adapter was there");
        self.adapters.remove(position);
        let slot = self.slot_of.remove(position);
        self.free.push(slot);
        let Slot { held, entry } = self.slots[slot as usize];
        if held.is_unused() {
            self.list_unused(adapter, slot, false);
        }
        self.bytes = self.bytes.checked_sub(entry.bytes).expect("adapter bytes balance");
        (held, entry)
    }

    /// Evicts idle adapters until `bytes` more fit: true if they do now, and nobody is evicted if they cannot. With
    /// `spare_awaited`, adapters that somebody in the queue counts on stay.
    pub(super) fn make_room(
        &mut self,
        now: Time,
        bytes: u64,
        spare_awaited: bool,
        evictor: &mut dyn Evictor,
        room: &mut Room,
        mut evicted: impl FnMut(AdapterId, Held, u64),
    ) -> bool {
        if !self.could_hold(bytes) {
            return false;
        }
        if self.has_room(bytes) {
            return true;
        }
        let Room { idle, victims } = room;
        victims.clear();
        self.idle(true, idle);
        let made = self.choose_victims(now, bytes, spare_awaited, evictor, idle, victims);
        // All or nothing: an adapter is not thrown out for a newcomer that then does not fit.
        for &victim in victims.iter().filter(|_| made) {
            let (held, entry) = self.remove(victim);
            evicted(victim, held, entry.bytes);
        }
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
            AdapterMemory::Slots(slots) => (self.adapters.len() - victims) < slots as usize,
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
