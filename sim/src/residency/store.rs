//! One memory for adapters: who is in it, who may leave, and how room is made.

use crate::fetch;
use crate::find;
use crate::policy::{Evictor, Idle};
use crate::settings::AdapterMemory;
use crate::time::Time;
use crate::workload::AdapterId;

/// Where in a memory an adapter is: found once, and asked for from then on without a search. Good as long as it stays there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId(u32);

impl SlotId {
    /// That of no adapter.
    pub(crate) const NONE: SlotId = SlotId(u32::MAX);

    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Who keeps an adapter in a memory. Side by side for all of them: most of what is asked of an adapter is here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// Sequences in the batch that use it. In the host: copies that read it.
    pub(super) users: u32,
    /// Sequences in the queue that it was loaded for.
    pub(super) awaited: u32,
    /// Tells this copy from earlier ones, whatever they were of; 0: the slot is free.
    pub(super) number: u32,
    /// Has the event of its arrival been handled? Until then it cannot be evicted.
    pub(super) arrived: bool,
}

impl Held {
    /// Is it there, and does nobody use it or count on it?
    fn is_idle(&self) -> bool {
        self.arrived && self.users == 0 && self.awaited == 0
    }
}

/// What else is known of an adapter in a memory, or on its way there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    adapter: AdapterId,
    pub(super) bytes: u64,
    /// When its copy is there; in the past: it is.
    pub(super) ready: Time,
    loaded: Time,
    pub(super) last_used: Time,
    pub(super) uses: u64,
}

impl Entry {
    /// As an evictor sees it.
    fn idle(&self) -> Idle {
        let Entry { adapter, bytes, loaded, last_used, uses, .. } = *self;
        Idle { adapter, bytes, loaded, last_used, uses }
    }
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
    slot_of: Vec<SlotId>,
    /// By slot.
    held: Vec<Held>,
    entries: Vec<Entry>,
    /// Slots that nobody has.
    free: Vec<SlotId>,
    /// Adapters that are there and that nobody uses or counts on, in order, and their slots.
    idle: Vec<(AdapterId, SlotId)>,
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
            held: Vec::new(),
            entries: Vec::new(),
            free: Vec::new(),
            idle: Vec::new(),
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
        self.held.reserve(self.usual(rows));
        self.entries.reserve(self.usual(rows));
        self.free.reserve(rows);
        self.idle.reserve(rows);
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

    /// Asks for the list of the idle, which changes when somebody comes or goes.
    pub(super) fn fetch_idle(&self) {
        fetch::list(&self.idle);
    }

    /// Asks for what is known of an adapter that is there.
    pub(super) fn fetch_copy(&self, adapter: AdapterId) {
        if let Some(slot) = self.find(adapter) {
            fetch::element(&self.held, slot.index());
            fetch::element(&self.entries, slot.index());
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
        self.held.clear();
        self.entries.clear();
        self.free.clear();
        self.idle.clear();
        self.bytes = 0;
        std::mem::take(&mut self.adapters)
    }

    fn position(&self, adapter: AdapterId) -> Result<usize, usize> {
        find::in_order(&self.adapters, adapter)
    }

    /// Where is the adapter?
    pub(super) fn find(&self, adapter: AdapterId) -> Option<SlotId> {
        self.position(adapter).ok().map(|position| self.slot_of[position])
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (AdapterId, &Held, &Entry)> {
        let slots = self.slot_of.iter().map(|slot| (&self.held[slot.index()], &self.entries[slot.index()]));
        self.adapters.iter().zip(slots).map(|(&adapter, (held, entry))| (adapter, held, entry))
    }

    pub(super) fn holds(&self, adapter: AdapterId) -> bool {
        self.position(adapter).is_ok()
    }

    /// Who keeps it?
    pub(super) fn held(&self, adapter: AdapterId) -> Option<&Held> {
        self.find(adapter).map(|slot| &self.held[slot.index()])
    }

    /// Is it still this copy that the slot has?
    pub(super) fn is_copy(&self, slot: SlotId, number: u32) -> bool {
        self.held.get(slot.index()).is_some_and(|held| held.number == number)
    }

    /// What is known of the adapter in this slot?
    pub(super) fn at(&self, slot: SlotId) -> (&Held, &Entry) {
        (&self.held[slot.index()], &self.entries[slot.index()])
    }

    /// Changes who keeps the adapter in this slot and what is known of it, and gives what `change` gives.
    pub(super) fn update<T>(&mut self, slot: SlotId, change: impl FnOnce(&mut Held, &mut Entry) -> T) -> T {
        let (held, entry) = (&mut self.held[slot.index()], &mut self.entries[slot.index()]);
        let before = held.is_idle();
        let given = change(held, entry);
        let after = held.is_idle();
        if after != before {
            self.list_idle(slot, after);
        }
        given
    }

    /// Puts it on the list of the idle, or takes it off.
    fn list_idle(&mut self, slot: SlotId, idle: bool) {
        let adapter = self.entries[slot.index()].adapter;
        let place = self.idle.binary_search_by_key(&adapter, |&(adapter, _)| adapter);
        if idle {
            self.idle.insert(place.expect_err("who is used is not listed"), (adapter, slot));
        } else {
            self.idle.remove(place.expect("who is idle is listed"));
        }
    }

    /// Is the list of the idle right?
    pub(super) fn check(&self) {
        let idle = self.all().filter(|(_, held, _)| held.is_idle()).map(|(adapter, ..)| adapter);
        assert!(idle.eq(self.idle.iter().map(|&(adapter, _)| adapter)), "adapters that nobody uses");
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

    /// Puts down what nobody uses or counts on.
    pub(super) fn idle(&self, all: &mut Vec<Idle>) {
        all.clear();
        all.extend(self.idle.iter().map(|&(_, slot)| self.entries[slot.index()].idle()));
    }

    /// Puts down what somebody counts on and nobody uses.
    fn awaited(&self, all: &mut Vec<Idle>) {
        all.clear();
        let awaited = self.all().filter(|(_, held, _)| held.arrived && held.users == 0 && held.awaited > 0);
        all.extend(awaited.map(|(.., entry)| entry.idle()));
    }

    /// Takes in an adapter; gives where it is.
    pub(super) fn insert(&mut self, adapter: AdapterId, bytes: u64, now: Time, ready: Time) -> SlotId {
        self.bytes += bytes;
        self.inserted += 1;
        let held = Held { users: 0, awaited: 0, number: self.inserted, arrived: false };
        let entry = Entry { adapter, bytes, ready, loaded: now, last_used: now, uses: 0 };
        let position = self.position(adapter).expect_err("an adapter is not loaded twice");
        let slot = match self.free.pop() {
            Some(slot) => {
                (self.held[slot.index()], self.entries[slot.index()]) = (held, entry);
                slot
            }
            None => {
                self.held.push(held);
                self.entries.push(entry);
                SlotId(self.held.len() as u32 - 1)
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
        slot
    }

    pub(super) fn remove(&mut self, adapter: AdapterId) -> (Held, Entry) {
        let position = self.position(adapter).expect("an evicted adapter was there");
        self.adapters.remove(position);
        let slot = self.slot_of.remove(position);
        self.free.push(slot);
        let (held, entry) = (self.held[slot.index()], self.entries[slot.index()]);
        if held.is_idle() {
            self.list_idle(slot, false);
        }
        self.held[slot.index()].number = 0;
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
        self.idle(idle);
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
                self.awaited(idle);
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
