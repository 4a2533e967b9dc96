//! Which adapters are on a replica's GPU, and what its links carry, from facts alone.

use std::collections::BTreeMap;

use super::ensure;
use crate::fact::Tier;
use crate::settings::{AdapterMemory, ReplicaSettings};
use crate::time::Time;
use crate::workload::AdapterId;

#[derive(Clone, Copy, Debug)]
struct OnGpu {
    bytes: u64,
    ready: Time,
    arrived: bool,
    users: u32,
}

#[derive(Debug, Default)]
pub(super) struct Adapters {
    gpu: BTreeMap<AdapterId, OnGpu>,
    /// Copies from disk that are on their way: when they are there.
    from_disk: Vec<(AdapterId, Time)>,
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
        let (link, lane) = match from {
            Tier::Disk => (settings.disk_link, &mut self.disk_link),
            _ => (settings.gpu_link, &mut self.gpu_link),
        };
        ensure(done.since(start) == link.duration(bytes), || "a copy takes another time than its link says".into())?;
        lane.retain(|&(_, end)| end > now);
        let overlaps = lane.iter().any(|&(begin, end)| start < end && begin < done);
        ensure(!overlaps, || "two copies on a link overlap".into())?;
        lane.push((start, done));
        if from == Tier::Disk {
            self.from_disk.push((adapter, done));
            return Ok(());
        }
        let in_host = self.from_disk.iter().filter(|(other, _)| *other == adapter).map(|&(_, there)| there).max();
        ensure(in_host.is_none_or(|there| there <= start), || "a copy starts before it is in the host".into())?;
        let before = self.gpu.insert(adapter, OnGpu { bytes, ready: done, arrived: false, users: 0 });
        ensure(before.is_none(), || "an adapter is copied that is there".into())?;
        let fits = match settings.gpu_adapters {
            AdapterMemory::Slots(slots) => self.gpu.len() as u32 <= slots,
            AdapterMemory::Bytes(limit) => self.gpu.values().map(|entry| entry.bytes).sum::<u64>() <= limit,
            AdapterMemory::Unbounded => true,
        };
        ensure(fits, || format!("{} adapters do not fit {:?}", self.gpu.len(), settings.gpu_adapters))
    }

    pub(super) fn done(&mut self, now: Time, adapter: AdapterId, from: Tier) -> Result<(), String> {
        if from == Tier::Disk {
            let place = self.from_disk.iter().position(|&copy| copy == (adapter, now));
            self.from_disk.swap_remove(place.ok_or("a copy from disk is done that was not due")?);
            return Ok(());
        }
        let entry = self.gpu.get_mut(&adapter).ok_or("a copy is done that was not started")?;
        ensure(!entry.arrived && entry.ready == now, || "a copy is done when it was not due".into())?;
        entry.arrived = true;
        Ok(())
    }

    pub(super) fn evicted(&mut self, adapter: AdapterId, tier: Tier, bytes: u64) -> Result<(), String> {
        if tier != Tier::Gpu {
            return Ok(());
        }
        let entry = self.gpu.remove(&adapter).ok_or("an adapter is evicted that is not there")?;
        ensure(entry.arrived, || "an adapter is evicted that is on its way".into())?;
        ensure(entry.users == 0, || "an adapter is evicted that is in use".into())?;
        ensure(entry.bytes == bytes, || "an adapter leaves with other bytes".into())
    }

    pub(super) fn clear(&mut self) -> Result<(), String> {
        let quiet = self.gpu.values().all(|entry| entry.arrived && entry.users == 0);
        self.gpu.clear();
        ensure(quiet, || "a replica goes off while adapters are copied or used".into())
    }

    pub(super) fn ready(&self, adapter: AdapterId) -> bool {
        self.gpu.get(&adapter).is_some_and(|entry| entry.arrived)
    }

    /// A step computes with it from `time` on.
    pub(super) fn ready_by(&self, adapter: AdapterId, time: Time) -> Result<(), String> {
        let ready = self.gpu.get(&adapter).is_some_and(|entry| entry.ready <= time);
        ensure(ready, || format!("a step computes with adapter {} before it is there", adapter.0))
    }

    pub(super) fn used(&mut self, adapter: AdapterId) -> Result<(), String> {
        self.gpu.get_mut(&adapter).ok_or("a request is scheduled whose adapter is not there")?.users += 1;
        Ok(())
    }

    pub(super) fn unused(&mut self, adapter: AdapterId) -> Result<(), String> {
        let entry = self.gpu.get_mut(&adapter).ok_or("an adapter that was in use is gone")?;
        entry.users = entry.users.checked_sub(1).ok_or("an adapter is let go of more often than it was used")?;
        Ok(())
    }
}
