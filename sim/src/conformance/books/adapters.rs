//! Which adapters are on a replica's GPU, and what its links carry, from facts alone.

use std::collections::{BTreeMap, BTreeSet};

use super::ensure;
use crate::fact::Tier;
use crate::settings::{AdapterMemory, ReplicaSettings};
use crate::time::Time;
use crate::workload::AdapterId;

#[derive(Clone, Copy, Debug)]
struct Place {
    bytes: u64,
    ready: Time,
    arrived: bool,
    users: u32,
}

#[derive(Debug, Default)]
pub(super) struct Adapters {
    gpu: BTreeMap<AdapterId, Place>,
    /// What came from disk: it may have passed through a host memory that had no room for it.
    host: BTreeMap<AdapterId, Place>,
    gpu_link: Vec<(Time, Time)>,
    disk_link: Vec<(Time, Time)>,
}

impl Adapters {
    pub(super) fn started(
        &mut self,
        now: Time,
        adapter: AdapterId,
        from: Tier,
        bytes: u64,
        (start, done): (Time, Time),
        settings: &ReplicaSettings,
    ) -> Result<(), String> {
        ensure(start >= now && done >= start, || "a copy starts in the past".into())?;
        let all_in_host = settings.host_adapters == AdapterMemory::Unbounded;
        let (link, lane) = match from {
            Tier::Disk => (settings.disk_link, &mut self.disk_link),
            _ => (settings.gpu_link, &mut self.gpu_link),
        };
        ensure(from == Tier::Host || from == Tier::Disk && !all_in_host, || {
            format!("a copy from the {from:?}: nothing is copied from there")
        })?;
        ensure(done.since(start) == link.duration(bytes), || "a copy takes another time than its link says".into())?;
        lane.retain(|&(_, end)| end > now);
        let overlaps = lane.iter().any(|&(begin, end)| start < end && begin < done);
        ensure(!overlaps, || "two copies on a link overlap".into())?;
        lane.push((start, done));
        let place = Place { bytes, ready: done, arrived: false, users: 0 };
        if from == Tier::Disk {
            let before = self.host.insert(adapter, place);
            return ensure(before.is_none_or(|before| before.arrived), || "a copy from disk is begun twice".into());
        }
        let in_host = all_in_host || self.host.get(&adapter).is_some_and(|place| place.ready <= start);
        ensure(in_host, || "a copy starts before it is in the host".into())?;
        let before = self.gpu.insert(adapter, place);
        ensure(before.is_none(), || "an adapter is copied that is there".into())?;
        ensure(self.fit(None, settings), || {
            format!("{} adapters do not fit {:?}", self.gpu.len(), settings.gpu_adapters)
        })
    }

    /// Does it all fit on the GPU, with an adapter more of so many bytes?
    fn fit(&self, more: Option<u64>, settings: &ReplicaSettings) -> bool {
        let all = self.gpu.values().map(|place| place.bytes).chain(more);
        match settings.gpu_adapters {
            AdapterMemory::Slots(slots) => all.count() as u32 <= slots,
            AdapterMemory::Bytes(limit) => all.sum::<u64>() <= limit,
            AdapterMemory::Unbounded => true,
        }
    }

    /// Is it there, or is there room for it?
    pub(super) fn has_room(&self, adapter: AdapterId, bytes: u64, settings: &ReplicaSettings) -> bool {
        self.gpu.contains_key(&adapter) || self.fit(Some(bytes), settings)
    }

    /// Does the batch use it?
    pub(super) fn is_used(&self, adapter: AdapterId) -> bool {
        self.gpu.get(&adapter).is_some_and(|place| place.users > 0)
    }

    /// How many does the batch use, with those that it may have used until now?
    pub(super) fn in_batch(&self, gone: &[AdapterId]) -> u32 {
        let used = self.gpu.keys().copied().filter(|adapter| self.is_used(*adapter));
        // What nobody uses any more may have been evicted since.
        used.chain(gone.iter().copied()).collect::<BTreeSet<_>>().len() as u32
    }

    pub(super) fn done(&mut self, now: Time, adapter: AdapterId, from: Tier) -> Result<(), String> {
        let memory = if from == Tier::Disk { &mut self.host } else { &mut self.gpu };
        let place = memory.get_mut(&adapter).ok_or("a copy is done that was not started")?;
        ensure(from != Tier::Gpu && !place.arrived && place.ready == now, || {
            "a copy is done when it was not due".into()
        })?;
        place.arrived = true;
        Ok(())
    }

    pub(super) fn evicted(&mut self, adapter: AdapterId, tier: Tier) -> Result<(), String> {
        let memory = if tier == Tier::Gpu { &mut self.gpu } else { &mut self.host };
        let place = memory.remove(&adapter).filter(|_| tier != Tier::Disk);
        let place = place.ok_or("an adapter is evicted that is not there")?;
        ensure(place.arrived, || "an adapter is evicted that is on its way".into())?;
        ensure(place.users == 0, || "an adapter is evicted that is in use".into())
    }

    pub(super) fn clear(&mut self) -> Result<(), String> {
        let quiet = self.gpu.values().all(|place| place.arrived);
        self.gpu.clear();
        ensure(quiet, || "a replica goes off while adapters are copied".into())
    }

    /// The run is over.
    pub(super) fn close(&self, now: Time) -> Result<(), String> {
        let due = |place: &Place| place.ready < now && !place.arrived;
        ensure(!self.gpu.values().chain(self.host.values()).any(due), || "a copy was due and is not done".into())
    }

    pub(super) fn ready(&self, adapter: AdapterId) -> bool {
        self.gpu.get(&adapter).is_some_and(|place| place.arrived)
    }

    /// When is it there, if it is on its way?
    pub(super) fn coming(&self, adapter: AdapterId) -> Option<Time> {
        self.gpu.get(&adapter).filter(|place| !place.arrived).map(|place| place.ready)
    }

    /// From when on a step may compute with it.
    pub(super) fn there(&self, adapter: AdapterId) -> Result<Time, String> {
        let place = self.gpu.get(&adapter);
        place
            .map(|place| place.ready)
            .ok_or_else(|| format!("a step computes with adapter {}, which is gone", adapter.0))
    }

    pub(super) fn used(&mut self, adapter: AdapterId) -> Result<(), String> {
        self.gpu.get_mut(&adapter).ok_or("a request is scheduled whose adapter is not there")?.users += 1;
        Ok(())
    }

    /// Nobody evicts what is in use.
    pub(super) fn unused(&mut self, adapter: AdapterId) {
        self.gpu.get_mut(&adapter).expect("what is in use is there").users -= 1;
    }
}
