//! One memory for adapters: who is in it, who may leave, and how room is made.

use crate::fetch;
use crate::find::{self, FEW};
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

/// Who keeps an adapter in a memory.
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
    /// The adapters, and where each is: to find one is to read few lines of memory. In order where they are more than [`FEW`]: of few the
    /// last takes the place of who leaves, and nobody else moves.
    adapters: Vec<AdapterId>,
    slot_of: Vec<SlotId>,
    slots: Vec<Slot>,
    /// Slots that nobody has.
    free: Vec<SlotId>,
    /// Adapters that are there and that nobody uses or counts on, in order, and where each is: an evictor chooses from them.
    idle: Vec<(AdapterId, SlotId)>,
}

/// Who makes room. One for all memories: between two calls only its own memory is kept.
#[derive(Debug, Default)]
pub(crate) struct Room {
    idle: Vec<Idle>,
    victims: Vec<Idle>,
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
            idle: Vec::new(),
        }
    }

    /// Takes memory to find the adapters of a batch of so many rows. Gives where that is.
    pub(super) fn reserve(&mut self, rows: usize) -> [fetch::Room; 2] {
        let adapters = self.usual(rows);
        self.adapters.reserve(adapters);
        self.slot_of.reserve(adapters);
        self.idle.reserve(rows);
        [fetch::Room::of(&self.adapters), fetch::Room::of(&self.slot_of)]
    }

    /// Takes memory for what is known of them.
    pub(super) fn reserve_slots(&mut self, rows: usize) {
        self.slots.reserve(self.usual(rows));
        self.free.reserve(rows);
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
        fetch::growing(&self.idle);
    }

    /// Asks for what is known of the adapter in this slot.
    pub(super) fn fetch_slot(&self, slot: SlotId) {
        fetch::element(&self.slots, slot.index());
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
        self.idle.clear();
        self.bytes = 0;
        std::mem::take(&mut self.adapters)
    }

    fn position(&self, adapter: AdapterId) -> Option<usize> {
        find::only(&self.adapters, adapter)
    }

    /// Where is the adapter?
    pub(super) fn find(&self, adapter: AdapterId) -> Option<SlotId> {
        self.position(adapter).map(|position| self.slot_of[position])
    }

    /// Puts an adapter on the list.
    fn list(&mut self, adapter: AdapterId, slot: SlotId) {
        if self.adapters.len() == FEW {
            let mut listed: Vec<_> = self.adapters.drain(..).zip(self.slot_of.drain(..)).collect();
            listed.sort_unstable_by_key(|&(adapter, _)| adapter);
            (self.adapters, self.slot_of) = listed.into_iter().unzip();
        }
        if self.adapters.len() < FEW {
            assert!(!self.holds(adapter), "an adapter is not loaded twice");
            self.adapters.push(adapter);
            self.slot_of.push(slot);
            return;
        }
        let position = self.adapters.binary_search(&adapter).expect_err("an adapter is not loaded twice");
        self.adapters.insert(position, adapter);
        self.slot_of.insert(position, slot);
    }

    /// Takes an adapter off it. Gives where it was.
    fn unlist(&mut self, adapter: AdapterId) -> Option<SlotId> {
        let position = self.position(adapter)?;
        if self.adapters.len() <= FEW {
            self.adapters.swap_remove(position);
            return Some(self.slot_of.swap_remove(position));
        }
        self.adapters.remove(position);
        Some(self.slot_of.remove(position))
    }

    /// Who is there, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (AdapterId, &Held, &Entry)> {
        let slots = self.slot_of.iter().map(|slot| &self.slots[slot.index()]);
        self.adapters.iter().zip(slots).map(|(&adapter, Slot { held, entry })| (adapter, held, entry))
    }

    pub(super) fn holds(&self, adapter: AdapterId) -> bool {
        self.position(adapter).is_some()
    }

    /// Who keeps it?
    pub(super) fn held(&self, adapter: AdapterId) -> Option<&Held> {
        self.find(adapter).map(|slot| self.at(slot).0)
    }

    /// Is it still this copy that the slot has?
    pub(super) fn is_copy(&self, slot: SlotId, number: u32) -> bool {
        self.slots.get(slot.index()).is_some_and(|slot| slot.held.number == number)
    }

    /// What is known of the adapter in this slot?
    pub(super) fn at(&self, slot: SlotId) -> (&Held, &Entry) {
        let Slot { held, entry } = &self.slots[slot.index()];
        (held, entry)
    }

    /// Changes who keeps the adapter in this slot and what is known of it, and gives what `change` gives.
    pub(super) fn update<T>(&mut self, slot: SlotId, change: impl FnOnce(&mut Held, &mut Entry) -> T) -> T {
        let Slot { held, entry } = &mut self.slots[slot.index()];
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
        let adapter = self.at(slot).1.adapter;
        let place = self.idle.binary_search_by_key(&adapter, |&(adapter, _)| adapter);
        if idle {
            self.idle.insert(place.expect_err("who is used is not listed"), (adapter, slot));
        } else {
            self.idle.remove(place.expect("who is idle is listed"));
        }
    }

    /// Are the lists right?
    pub(super) fn check(&self) {
        let idle = self.all().filter(|(_, held, _)| held.is_idle()).count();
        let is_idle = |&(adapter, slot): &(AdapterId, SlotId)| {
            let (held, entry) = self.at(slot);
            held.is_idle() && entry.adapter == adapter
        };
        let listed = self.idle.is_sorted_by(|a, b| a.0 < b.0) && self.idle.iter().all(is_idle);
        assert!(listed && idle == self.idle.len(), "adapters that nobody uses");
        let once = if self.adapters.len() > FEW {
            self.adapters.is_sorted_by(|a, b| a < b)
        } else {
            (1..).zip(&self.adapters).all(|(next, adapter)| !self.adapters[next..].contains(adapter))
        };
        assert!(once, "an adapter is loaded once");
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

    /// Takes in an adapter; gives where it is.
    pub(super) fn insert(&mut self, adapter: AdapterId, bytes: u64, now: Time, ready: Time) -> SlotId {
        self.bytes += bytes;
        self.inserted += 1;
        let newcomer = Slot {
            held: Held { users: 0, awaited: 0, number: self.inserted, arrived: false },
            entry: Entry { adapter, bytes, ready, loaded: now, last_used: now, uses: 0 },
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot.index()] = newcomer;
                slot
            }
            None => {
                self.slots.push(newcomer);
                SlotId(self.slots.len() as u32 - 1)
            }
        };
        self.list(adapter, slot);
        if let AdapterMemory::Slots(slots) = self.memory {
            assert!(self.adapters.len() as u32 <= slots, "more adapters than slots");
        }
        if let AdapterMemory::Bytes(limit) = self.memory {
            assert!(self.bytes <= limit, "more adapter bytes than memory");
        }
        slot
    }

    /// Takes out an adapter that is on the list of the idle no longer. Gives where it was.
    fn remove(&mut self, victim: &Idle) -> SlotId {
        let slot = self.unlist(victim.adapter).expect("an evicted adapter was there");
        self.free.push(slot);
        self.bytes = self.bytes.checked_sub(victim.bytes).expect("adapter bytes balance");
        self.slots[slot.index()].held.number = 0;
        slot
    }

    /// Takes out the first of the idle, if there is any.
    pub(super) fn offload(&mut self) -> Option<Idle> {
        let (_, slot) = (!self.idle.is_empty()).then(|| self.idle.remove(0))?;
        let first = self.at(slot).1.idle();
        self.remove(&first);
        Some(first)
    }

    /// Evicts idle adapters until `bytes` more fit: true if they do now, and nobody is evicted if they cannot. With
    /// `spare_awaited`, adapters that somebody in the queue counts on stay. `evicted` is told who goes, and how many count on it.
    pub(super) fn make_room(
        &mut self,
        now: Time,
        bytes: u64,
        spare_awaited: bool,
        evictor: &mut dyn Evictor,
        room: &mut Room,
        mut evicted: impl FnMut(&Idle, u32),
    ) -> bool {
        if !self.could_hold(bytes) {
            return false;
        }
        if self.has_room(bytes) {
            return true;
        }
        room.victims.clear();
        room.idle.clear();
        room.idle.extend(self.idle.iter().map(|&(_, slot)| self.at(slot).1.idle()));
        let idle_do = self.choose_victims(now, bytes, evictor, room);
        let made =
            idle_do || !spare_awaited && room.idle.is_empty() && self.choose_among_awaited(now, bytes, evictor, room);
        if !made {
            // All or nothing: an adapter is not thrown out for a newcomer that then does not fit.
            return false;
        }
        if !idle_do {
            self.idle.clear();
        }
        for victim in &room.victims {
            let slot = self.remove(victim);
            // Nobody counts on who is idle: that is known without a look at memory that is far away.
            let awaited = if idle_do {
                self.list_idle(slot, false);
                0
            } else {
                self.at(slot).0.awaited
            };
            evicted(victim, awaited);
        }
        true
    }

    /// Moves idle adapters to the victims until `bytes` more would fit. Does the evictor find enough of them?
    fn choose_victims(&self, now: Time, bytes: u64, evictor: &mut dyn Evictor, room: &mut Room) -> bool {
        let Room { idle, victims } = room;
        let mut freed: u64 = victims.iter().map(|victim| victim.bytes).sum();
        loop {
            let enough = match self.memory {
                AdapterMemory::Slots(slots) => self.adapters.len() - victims.len() < slots as usize,
                AdapterMemory::Bytes(limit) => self.bytes - freed + bytes <= limit,
                AdapterMemory::Unbounded => true,
            };
            if enough || idle.is_empty() {
                return enough;
            }
            let Some(position) = evictor.victim(now, idle) else { return false };
            assert!(position < idle.len(), "an evictor chose position {position} of {}", idle.len());
            let victim = idle.remove(position);
            freed += victim.bytes;
            victims.push(victim);
        }
    }

    /// Nothing else is left: demand goes before those that wait for what was fetched for them. As if nobody counted on anything.
    fn choose_among_awaited(&self, now: Time, bytes: u64, evictor: &mut dyn Evictor, room: &mut Room) -> bool {
        let awaited = self.all().filter(|(_, held, _)| held.arrived && held.users == 0 && held.awaited > 0);
        room.idle.extend(awaited.map(|(.., entry)| entry.idle()));
        room.idle.sort_unstable_by_key(|idle| idle.adapter);
        self.choose_victims(now, bytes, evictor, room)
    }
}
