//! Which adapters are where: two memories (GPU, host) and two links (host to GPU, disk to host) of one replica.

use std::collections::BTreeMap;

use crate::fact::{Fact, LoadCause, Observer, Tier};
use crate::fetch;
use crate::policy::{Evictor, Idle};
use crate::settings::{AdapterMemory, Link};
use crate::time::{Span, Time};
use crate::workload::{Adapter, AdapterId, Catalog, ReplicaId};

mod lane;
mod store;

use lane::Lane;
use store::{Held, Store};
pub(crate) use store::{Room, SlotId};

/// What a copy ends in, and when: an event for the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Copy {
    pub(crate) adapter: AdapterId,
    pub(crate) from: Tier,
    pub(crate) done: Time,
}

/// Is the adapter usable?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Ready,
    Coming(Time),
    Absent,
}

/// What is asked of an adapter with every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight {
    pub(crate) rank: u32,
    pub(crate) bytes: u64,
}

/// The weights of all adapters, tens of thousands, in little memory: few of them differ in more than whose they are.
#[derive(Debug)]
pub(crate) struct Weights {
    kinds: Vec<Weight>,
    /// By adapter; empty where all are alike.
    kind_of: Vec<u32>,
}

impl Weights {
    pub(crate) fn new(catalog: &Catalog) -> Weights {
        let mut known = BTreeMap::new();
        let mut kinds = Vec::new();
        let mut kind = |adapter: &Adapter| {
            *known.entry((adapter.rank, adapter.bytes)).or_insert_with(|| {
                kinds.push(Weight { rank: adapter.rank, bytes: adapter.bytes });
                kinds.len() as u32 - 1
            })
        };
        let kind_of: Vec<u32> = catalog.adapters.iter().map(&mut kind).collect();
        let kind_of = if kinds.len() > 1 { kind_of } else { Vec::new() };
        Weights { kinds, kind_of }
    }

    pub(crate) fn of(&self, adapter: AdapterId) -> Weight {
        self.kinds[self.kind_of.get(adapter.index()).map_or(0, |kind| *kind as usize)]
    }
}

/// The copy of its adapter that a sequence of the queue counts on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Awaited {
    slot: SlotId,
    number: u32,
}

/// Copies that a link takes memory for at first: more seldom wait for each other.
const COPIES: usize = 4;

/// A load that can begin, and who it is for.
pub(crate) struct Wish {
    pub(crate) adapter: AdapterId,
    pub(crate) bytes: u64,
    pub(crate) cause: LoadCause,
}

/// Who says who makes room, who is told, and what comes of it.
pub(crate) struct Loading<'a> {
    pub(crate) evictor: &'a mut dyn Evictor,
    pub(crate) host_evictor: &'a mut dyn Evictor,
    pub(crate) observer: &'a mut dyn Observer,
    pub(crate) copies: &'a mut Vec<Copy>,
    pub(crate) room: &'a mut Room,
}

/// Host memory that ends somewhere, and what fills it.
#[derive(Debug)]
struct Host {
    store: Store,
    disk_lane: Lane,
}

#[derive(Debug)]
pub(crate) struct Residency {
    replica: ReplicaId,
    gpu: Store,
    gpu_lane: Lane,
    /// None: every adapter is in host memory.
    host: Option<Box<Host>>,
    /// Distinct adapters that sequences in the batch use.
    active: u32,
    /// Copies to the GPU that have not arrived.
    in_flight: u32,
    /// Sequences of the queue whose copy was evicted while they counted on it: seldom any.
    lost: u32,
    /// What entered and left GPU memory since the router's board was last told.
    pub(crate) changes: Vec<(AdapterId, bool)>,
}

impl Residency {
    pub(crate) fn new(
        replica: ReplicaId,
        gpu: AdapterMemory,
        host: AdapterMemory,
        gpu_link: Link,
        disk_link: Link,
    ) -> Residency {
        Residency {
            replica,
            gpu: Store::new(gpu),
            gpu_lane: Lane::new(gpu_link),
            host: (host != AdapterMemory::Unbounded)
                .then(|| Box::new(Host { store: Store::new(host), disk_lane: Lane::new(disk_link) })),
            active: 0,
            in_flight: 0,
            lost: 0,
            changes: Vec::new(),
        }
    }

    /// Takes memory to find the adapters on the GPU, of a batch of so many rows. Gives where that is.
    pub(crate) fn reserve(&mut self, rows: usize) -> [fetch::Room; 2] {
        self.gpu.reserve(rows)
    }

    /// Takes memory for what is known of them.
    pub(crate) fn reserve_slots(&mut self, rows: usize) {
        self.gpu.reserve_slots(rows);
        self.gpu_lane.expect(rows.min(COPIES));
    }

    /// Asks for what tells where the adapters on the GPU are.
    pub(crate) fn fetch(&self) {
        self.gpu.fetch();
    }

    /// Asks for the list of adapters that nobody uses.
    pub(crate) fn fetch_idle(&self) {
        self.gpu.fetch_idle();
    }

    /// Asks for what is known of an adapter that is there.
    pub(crate) fn fetch_copy(&self, adapter: AdapterId) {
        self.gpu.find(adapter).into_iter().for_each(|slot| self.gpu.fetch_slot(slot));
    }

    /// Asks for what is known of the adapter in this slot.
    pub(crate) fn fetch_slot(&self, slot: SlotId) {
        self.gpu.fetch_slot(slot);
    }

    /// Asks for what is known of the copy that a sequence of the queue counts on.
    pub(crate) fn fetch_awaited(&self, copy: Awaited) {
        self.gpu.fetch_slot(copy.slot);
    }

    pub(crate) fn could_hold(&self, bytes: u64) -> bool {
        self.gpu.could_hold(bytes)
    }

    pub(crate) fn presence(&self, adapter: AdapterId) -> Presence {
        match self.gpu.find(adapter).map(|slot| self.coming(slot)) {
            None => Presence::Absent,
            Some(None) => Presence::Ready,
            Some(Some(ready)) => Presence::Coming(ready),
        }
    }

    /// Where is it, there or on its way?
    pub(crate) fn find(&self, adapter: AdapterId) -> Option<SlotId> {
        self.gpu.find(adapter)
    }

    /// When is the adapter there, if it is not yet?
    pub(crate) fn coming(&self, slot: SlotId) -> Option<Time> {
        let (held, entry) = self.gpu.at(slot);
        (!held.arrived).then_some(entry.ready)
    }

    pub(crate) fn active(&self) -> u32 {
        self.active
    }

    pub(crate) fn is_active(&self, adapter: AdapterId) -> bool {
        self.gpu.held(adapter).is_some_and(|held| held.users > 0)
    }

    pub(crate) fn holds(&self, adapter: AdapterId) -> bool {
        self.gpu.holds(adapter)
    }

    pub(crate) fn users(&self, adapter: AdapterId) -> u32 {
        self.gpu.held(adapter).map_or(0, |held| held.users)
    }

    /// Adapters in GPU memory or on their way there, and whether the batch uses them.
    pub(crate) fn on_gpu(&self) -> impl Iterator<Item = (AdapterId, bool)> + '_ {
        self.gpu.all().map(|(adapter, held, _)| (adapter, held.users > 0))
    }

    pub(crate) fn copies_in_flight(&self) -> u32 {
        self.in_flight
    }

    /// The GPU is given back: what was on it is gone.
    pub(crate) fn clear(&mut self) {
        assert!(self.in_flight == 0 && self.active == 0, "a GPU that is in use is not given back");
        self.lost += self.gpu.all().map(|(_, held, _)| held.awaited).sum::<u32>();
        self.changes.extend(self.gpu.clear().into_iter().map(|adapter| (adapter, false)));
    }

    /// Takes off the GPU what nobody uses or awaits.
    pub(crate) fn offload_idle(&mut self, now: Time, observer: &mut dyn Observer) {
        while let Some(Idle { adapter, bytes, .. }) = self.gpu.offload() {
            let tier = Tier::Gpu;
            observer.observe(now, &Fact::Evicted { replica: self.replica, adapter, tier, bytes });
            self.changes.push((adapter, false));
        }
    }

    pub(crate) fn resident(&self) -> u32 {
        self.gpu.len() as u32
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.gpu.bytes()
    }

    /// Is it in host memory, or is there no end of it?
    pub(crate) fn in_host(&self, adapter: AdapterId) -> bool {
        self.host.as_ref().is_none_or(|host| host.store.holds(adapter))
    }

    /// Starts the copies that bring an absent adapter to the GPU, if there is room or room can be made.
    /// Gives where it will be, or none if everything else is in use.
    pub(crate) fn load(&mut self, now: Time, wish: Wish, loading: &mut Loading<'_>) -> Option<SlotId> {
        let Wish { adapter, bytes, cause } = wish;
        let spare_awaited = cause == LoadCause::Prefetch;
        let (evictor, room, observer) = (&mut *loading.evictor, &mut *loading.room, &mut *loading.observer);
        let made = self.gpu.make_room(now, bytes, spare_awaited, evictor, room, |victim, awaited| {
            let Idle { adapter, bytes, .. } = *victim;
            self.lost += awaited;
            observer.observe(now, &Fact::Evicted { replica: self.replica, adapter, tier: Tier::Gpu, bytes });
            self.changes.push((adapter, false));
        });
        if !made {
            return None;
        }
        let in_host = self.bring_to_host(now, &wish, loading);
        let (start, done) = self.gpu_lane.reserve(now, in_host, bytes);
        let slot = self.gpu.insert(adapter, bytes, now, done);
        self.changes.push((adapter, true));
        self.in_flight += 1;
        loading.copies.push(Copy { adapter, from: Tier::Host, done });
        let fact = Fact::LoadStarted { replica: self.replica, adapter, from: Tier::Host, bytes, cause, start, done };
        loading.observer.observe(now, &fact);
        Some(slot)
    }

    /// When is the adapter in host memory? Starts the copy from disk if it is not on its way, and counts the copy to the GPU
    /// that will read it. A host memory that has no room lets the copy pass through.
    fn bring_to_host(&mut self, now: Time, wish: &Wish, loading: &mut Loading<'_>) -> Time {
        let Wish { adapter, bytes, cause } = *wish;
        let Some(host) = &mut self.host else { return now };
        let known = host.store.find(adapter);
        let (slot, there) = match known {
            Some(slot) => (known, host.store.at(slot).1.ready.max(now)),
            None => {
                let (evictor, room, observer) =
                    (&mut *loading.host_evictor, &mut *loading.room, &mut *loading.observer);
                let replica = self.replica;
                let made = host.store.make_room(now, bytes, false, evictor, room, |victim, _| {
                    let Idle { adapter, bytes, .. } = *victim;
                    observer.observe(now, &Fact::Evicted { replica, adapter, tier: Tier::Host, bytes });
                });
                let (start, done) = host.disk_lane.reserve(now, now, bytes);
                let slot = made.then(|| host.store.insert(adapter, bytes, now, done));
                loading.copies.push(Copy { adapter, from: Tier::Disk, done });
                let fact = Fact::LoadStarted { replica, adapter, from: Tier::Disk, bytes, cause, start, done };
                loading.observer.observe(now, &fact);
                (slot, done)
            }
        };
        if let Some(slot) = slot {
            host.store.update(slot, |held, entry| {
                held.users += 1;
                entry.uses += 1;
                entry.last_used = now;
            });
        }
        there
    }

    /// A copy is there.
    pub(crate) fn arrived(
        &mut self,
        now: Time,
        adapter: AdapterId,
        from: Tier,
        observer: &mut dyn Observer,
        bytes: u64,
    ) {
        match from {
            Tier::Disk => self.in_host_memory(adapter, |held| held.arrived = true),
            Tier::Host | Tier::Gpu => {
                let slot = self.gpu.find(adapter).expect("a copy arrives where room was made");
                self.gpu.update(slot, |held, entry| {
                    assert_eq!(entry.ready, now, "a copy arrives when it was due");
                    held.arrived = true;
                });
                self.in_flight = self.in_flight.checked_sub(1).expect("copies in flight balance");
                self.in_host_memory(adapter, |held| {
                    held.users = held.users.checked_sub(1).expect("host readers balance");
                });
            }
        }
        observer.observe(now, &Fact::LoadDone { replica: self.replica, adapter, from, bytes });
    }

    /// Changes who keeps it in host memory, if that ends somewhere and it is there.
    fn in_host_memory(&mut self, adapter: AdapterId, change: impl FnOnce(&mut Held)) {
        if let Some(host) = &mut self.host
            && let Some(slot) = host.store.find(adapter)
        {
            host.store.update(slot, |held, _| change(held));
        }
    }

    /// A sequence of the queue counts on the adapter in this slot, after it counted in vain on an earlier copy, if any. Gives the copy that
    /// it counts on.
    pub(crate) fn await_(&mut self, slot: SlotId, earlier: Option<Awaited>) -> Awaited {
        self.lost -= u32::from(earlier.is_some());
        self.gpu.update(slot, |held, _| {
            held.awaited += 1;
            Awaited { slot, number: held.number }
        })
    }

    /// Where is the copy that the sequence counts on, if it is there or on its way? Demand may have evicted it.
    pub(crate) fn awaited(&self, copy: Option<Awaited>) -> Option<SlotId> {
        copy.filter(|copy| self.lost == 0 || self.gpu.is_copy(copy.slot, copy.number)).map(|copy| copy.slot)
    }

    /// A sequence of the queue no longer counts on this copy.
    pub(crate) fn unawait(&mut self, copy: Awaited) {
        match self.awaited(Some(copy)) {
            Some(slot) => self.gpu.update(slot, |held, _| {
                held.awaited = held.awaited.checked_sub(1).expect("those who await a copy balance");
            }),
            None => self.lost = self.lost.checked_sub(1).expect("copies lost balance"),
        }
    }

    /// A sequence in the batch begins to use the adapter in this slot.
    pub(crate) fn acquire(&mut self, now: Time, slot: SlotId) {
        let first = self.gpu.update(slot, |held, entry| {
            held.users += 1;
            entry.uses += 1;
            entry.last_used = now;
            held.users == 1
        });
        self.active += u32::from(first);
    }

    /// A sequence in the batch no longer uses it.
    pub(crate) fn release(&mut self, now: Time, slot: SlotId) {
        let last = self.gpu.update(slot, |held, entry| {
            held.users = held.users.checked_sub(1).expect("adapter users balance");
            entry.last_used = now;
            held.users == 0
        });
        self.active -= u32::from(last);
    }

    /// Do the books balance with `users` sequences using adapters, and so many of the queue that count, or counted, on a copy?
    pub(crate) fn check(&self, users: u32, awaiting: u32) {
        self.gpu.check();
        if let Some(host) = &self.host {
            host.store.check();
        }
        let (mut held_by, mut active, mut bytes, mut awaited) = (0, 0, 0, self.lost);
        for (_, held, entry) in self.gpu.all() {
            held_by += held.users;
            active += u32::from(held.users > 0);
            bytes += entry.bytes;
            awaited += held.awaited;
        }
        assert_eq!(held_by, users, "adapter users");
        assert_eq!(active, self.active, "active adapters");
        assert_eq!(bytes, self.gpu.bytes(), "adapter bytes");
        assert_eq!(awaited, awaiting, "those who await a copy");
    }
}

/// How long a step that needs the adapter at `now` waits for it.
pub(crate) fn wait(now: Time, ready: Time) -> Span {
    ready.max(now).since(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct First;

    impl Evictor for First {
        fn victim(&mut self, _: Time, _: &[Idle]) -> Option<usize> {
            Some(0)
        }
    }

    fn load(residency: &mut Residency, adapter: u32, bytes: u64, cause: LoadCause) -> Option<SlotId> {
        let wish = Wish { adapter: AdapterId(adapter), bytes, cause };
        let loading = &mut Loading {
            evictor: &mut First,
            host_evictor: &mut First,
            observer: &mut (),
            copies: &mut Vec::new(),
            room: &mut Room::default(),
        };
        let loaded = residency.load(Time::ZERO, wish, loading);
        if loaded.is_some() {
            residency.arrived(Time::ZERO, AdapterId(adapter), Tier::Host, &mut (), bytes);
        }
        loaded
    }

    #[test]
    fn demand_takes_idle_adapters_first_and_awaited_ones_if_that_is_not_enough() {
        let memory = (AdapterMemory::Bytes(30), AdapterMemory::Unbounded);
        let mut residency = Residency::new(ReplicaId(0), memory.0, memory.1, Link::INSTANT, Link::INSTANT);
        let slot = load(&mut residency, 0, 11, LoadCause::Prefetch).unwrap();
        let copy = residency.await_(slot, None);
        load(&mut residency, 1, 11, LoadCause::Prefetch).unwrap();
        assert_eq!(load(&mut residency, 2, 20, LoadCause::Prefetch), None, "a prefetch leaves awaited adapters alone");
        load(&mut residency, 3, 9, LoadCause::Demand).expect("there is room");
        load(&mut residency, 2, 11, LoadCause::Demand).expect("adapter 1 makes room");
        assert!(residency.holds(AdapterId(0)) && !residency.holds(AdapterId(1)));
        load(&mut residency, 4, 30, LoadCause::Demand).expect("everybody makes room");
        assert_eq!(residency.awaited(Some(copy)), None);
        load(&mut residency, 0, 11, LoadCause::Demand).expect("and back");
        assert_eq!(residency.awaited(Some(copy)), None, "another copy of the same adapter");
        residency.unawait(copy);
    }
}
