//! What the adapter slots hold, and which load may fill one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::LlamaSettings;
use crate::Error;
use crate::lora::layout;

/// The adapter slots of one model, each with memory for the largest rank.
#[derive(Debug)]
pub(crate) struct Slots<M> {
    slots: Vec<Slot<M>>,
    rank_max: u32,
}

#[derive(Debug)]
struct Slot<M> {
    memory: M,
    /// Rank and scale of the adapter that is there.
    adapter: Option<(u32, f32)>,
    /// The load that may fill it: the last that began, if nothing has emptied or filled the slot since.
    load: Option<Load>,
}

/// One load into one slot; no two of a process are equal, so that none is taken for another model's or for one of slots that are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Load {
    slot: u32,
    number: u64,
}

impl<M> Slots<M> {
    /// No slots.
    pub(crate) fn none() -> Self {
        Slots { slots: Vec::new(), rank_max: 0 }
    }

    /// Frees all slots; loads into them can no longer be finished.
    pub(crate) fn free(&mut self, settings: &mut LlamaSettings) {
        *self = Slots::none();
        settings.adapter_slots = 0;
    }

    /// Frees all slots and makes so many, all empty. The settings always say what there is: where memory runs out, none.
    pub(crate) fn cut(
        &mut self,
        settings: &mut LlamaSettings,
        count: u32,
        rank_max: u32,
        mut allocate: impl FnMut() -> Result<M, Error>,
    ) -> Result<(), Error> {
        // Old and new ones need not find room at once.
        self.free(settings);
        let empty = |memory| Slot { memory, adapter: None, load: None };
        let slots = (0..count).map(|_| allocate().map(empty)).collect::<Result<_, Error>>()?;
        *self = Slots { slots, rank_max };
        (settings.adapter_slots, settings.rank_max) = (count, rank_max);
        Ok(())
    }

    /// Refuses a slot that there is not, and a rank that it has no room for.
    pub(crate) fn check(&self, slot: u32, rank: u32) -> Result<(), Error> {
        layout::check_rank(rank)?;
        self.slot(slot)?;
        if rank > self.rank_max {
            return Err(refused(slot, format!("holds ranks up to {}, not {rank}", self.rank_max)));
        }
        Ok(())
    }

    /// A slot's memory.
    pub(crate) fn memory(&self, slot: u32) -> Result<&M, Error> {
        Ok(&self.slot(slot)?.memory)
    }

    /// A slot's memory, to be written: nothing is there from now on.
    pub(crate) fn emptied(&mut self, slot: u32) -> Result<&mut M, Error> {
        let slot = self.slot_mut(slot)?;
        (slot.adapter, slot.load) = (None, None);
        Ok(&mut slot.memory)
    }

    /// Says what was written to an emptied slot.
    pub(crate) fn fill(&mut self, slot: u32, rank: u32, scale: f32) -> Result<(), Error> {
        self.slot_mut(slot)?.adapter = Some((rank, scale));
        Ok(())
    }

    /// Begins a load into a slot, which is empty until that is finished. A load that began before can no longer be.
    pub(crate) fn begin(&mut self, slot: u32) -> Result<Load, Error> {
        static LOADS: AtomicU64 = AtomicU64::new(0);
        self.emptied(slot)?;
        let load = Load { slot, number: LOADS.fetch_add(1, Ordering::Relaxed) };
        self.slot_mut(slot)?.load = Some(load);
        Ok(load)
    }

    /// Finishes a load, unless the slot has been given to something else since it began.
    pub(crate) fn finish(&mut self, load: Load, rank: u32, scale: f32) -> Result<(), Error> {
        let slot = self.slot_mut(load.slot)?;
        if slot.load != Some(load) {
            let why = "was loaded, emptied or cut anew since this load began, or is another model's; begin it again";
            return Err(refused(load.slot, why));
        }
        (slot.adapter, slot.load) = (Some((rank, scale)), None);
        Ok(())
    }

    /// Rank and scale of the adapter in a slot, and the slot's memory.
    pub(crate) fn adapter(&self, slot: u32) -> Result<(u32, f32, &M), Error> {
        let Slot { memory, adapter, .. } = self.slot(slot)?;
        let (rank, scale) = adapter.ok_or_else(|| refused(slot, "is empty; load an adapter first"))?;
        Ok((rank, scale, memory))
    }

    fn slot(&self, slot: u32) -> Result<&Slot<M>, Error> {
        self.slots.get(slot as usize).ok_or_else(|| missing(slot, self.slots.len()))
    }

    fn slot_mut(&mut self, slot: u32) -> Result<&mut Slot<M>, Error> {
        let count = self.slots.len();
        self.slots.get_mut(slot as usize).ok_or_else(|| missing(slot, count))
    }
}

fn missing(slot: u32, count: usize) -> Error {
    refused(slot, format!("there are {count}"))
}

fn refused(slot: u32, why: impl Into<String>) -> Error {
    Error::shape(format!("adapter slot {slot}"), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    fn slots(count: u32) -> Slots<u32> {
        let mut slots = Slots::none();
        let mut next = 0..;
        slots.cut(&mut settings(), count, 16, || Ok(next.next().expect("endless"))).expect("there is memory");
        slots
    }

    fn settings() -> LlamaSettings {
        LlamaSettings::for_sequences(Element::Bf16, 1, 16)
    }

    #[track_caller]
    fn is_refused<T: std::fmt::Debug>(result: Result<T, Error>, slot: u32, because: &str) {
        match result {
            Err(Error::Shape { what, why }) => {
                assert!(what == format!("adapter slot {slot}") && why.contains(because), "{what}: {why}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_slot_that_there_is_not_and_a_rank_without_room_are_refused() {
        let slots = slots(2);
        slots.check(1, 16).expect("the last slot, the largest rank");
        is_refused(slots.check(2, 16), 2, "there are 2");
        is_refused(slots.check(u32::MAX, 1), u32::MAX, "there are 2");
        is_refused(slots.check(1, 17), 1, "holds ranks up to 16, not 17");
        for rank in [0, 257] {
            assert!(matches!(slots.check(0, rank), Err(Error::Shape { .. })), "rank {rank}");
        }
    }

    #[test]
    fn an_empty_slot_has_no_adapter_and_a_filled_one_its_own() {
        let mut slots = slots(2);
        is_refused(slots.adapter(0), 0, "is empty");
        is_refused(slots.adapter(2), 2, "there are 2");
        slots.fill(1, 8, 0.5).expect("a slot");
        assert_eq!(slots.adapter(1).expect("filled"), (8, 0.5, &1));
        is_refused(slots.adapter(0), 0, "is empty");
        slots.emptied(1).expect("a slot");
        is_refused(slots.adapter(1), 1, "is empty");
    }

    #[test]
    fn a_slot_is_empty_while_it_is_loaded() {
        let mut slots = slots(1);
        slots.fill(0, 8, 1.0).expect("a slot");
        let load = slots.begin(0).expect("a slot");
        is_refused(slots.adapter(0), 0, "is empty");
        slots.finish(load, 4, 2.0).expect("nothing came between");
        assert_eq!(slots.adapter(0).expect("loaded"), (4, 2.0, &0));
    }

    #[test]
    fn of_two_loads_of_a_slot_only_the_last_to_begin_can_be_finished() {
        for first_is_first in [true, false] {
            let mut slots = slots(1);
            let (first, last) = (slots.begin(0).expect("a slot"), slots.begin(0).expect("a slot"));
            if first_is_first {
                is_refused(slots.finish(first, 8, 1.0), 0, "since this load began");
                is_refused(slots.adapter(0), 0, "is empty");
            }
            slots.finish(last, 16, 2.0).expect("the last to begin");
            is_refused(slots.finish(first, 8, 1.0), 0, "since this load began");
            assert_eq!(slots.adapter(0).expect("loaded"), (16, 2.0, &0));
        }
    }

    #[test]
    fn a_load_into_a_slot_that_was_emptied_or_cut_or_is_another_model_s_cannot_be_finished() {
        let mut slots = slots(2);
        let (load, late) = (slots.begin(0).expect("a slot"), slots.begin(1).expect("a slot"));
        slots.emptied(0).expect("a slot");
        is_refused(slots.finish(load, 8, 1.0), 0, "since this load began");
        let mut other = self::slots(2);
        other.begin(1).expect("a slot");
        is_refused(other.finish(late, 8, 1.0), 1, "another model's");
        let mut settings = settings();
        slots.cut(&mut settings, 2, 16, || Ok(9)).expect("there is memory");
        is_refused(slots.finish(late, 8, 1.0), 1, "since this load began");
        slots.cut(&mut settings, 1, 16, || Ok(9)).expect("there is memory");
        is_refused(slots.finish(late, 8, 1.0), 1, "there are 1");
        is_refused(slots.adapter(0), 0, "is empty");
    }

    #[test]
    fn where_memory_runs_out_there_are_no_slots_and_the_settings_say_so() {
        let mut settings = LlamaSettings { adapter_slots: 2, rank_max: 16, ..settings() };
        let mut slots = slots(2);
        let mut room = 2;
        let mut allocate = || {
            room -= 1;
            if room >= 0 { Ok(7) } else { Err(Error::shape("memory", "is full")) }
        };
        assert!(slots.cut(&mut settings, 3, 32, &mut allocate).is_err());
        assert_eq!(settings.adapter_slots, 0);
        is_refused(slots.check(0, 1), 0, "there are 0");
        slots.cut(&mut settings, 3, 32, || Ok(7)).expect("there is memory");
        assert_eq!((settings.adapter_slots, settings.rank_max), (3, 32));
        slots.check(2, 32).expect("the last slot, the largest rank");
    }

    #[test]
    fn old_slots_are_free_before_new_ones_are_made() {
        let memory = std::rc::Rc::new(());
        let mut slots = Slots::none();
        let mut settings = settings();
        for _ in 0..2 {
            let mut held = 0;
            let allocate = || {
                held += 1;
                assert_eq!(std::rc::Rc::strong_count(&memory), held);
                Ok(memory.clone())
            };
            slots.cut(&mut settings, 3, 8, allocate).expect("there is memory");
        }
    }
}
