//! LoRA plans in device memory and the CUDA graphs captured with them.
//!
//! A set holds the plans of one step's four groups. A later step whose plans fit it replaces them in place, and replays
//! the set's graph of its size. Steps without adapters have a set without plans.

use std::collections::HashMap;

use cudarc::driver::{CudaGraph, sys};

use super::batch::{Batch, bucket};
use super::engine::Llama;
use super::forward::{Forward, Metrics};
use super::groups::Group;
use super::sites::LoraSites;
use super::{LoraOrder, LoraPath};
use crate::Error;
use crate::gemm::few_rows;
use crate::lora::launch::LoadedPlan;
use crate::lora::plan::{Follows, Plan, Segment, Site, Tuning};

/// Sets, and graphs of all of them, kept at once; the set unused for longest goes first.
const SETS_MAX: usize = 64;
const GRAPHS_MAX: usize = 192;
/// Blocks with nothing to do that a launch of a kept plan may have.
const IDLE_BLOCKS_MAX: u32 = 48;

#[derive(Debug, Default)]
pub(crate) struct Graphs {
    sets: Vec<Set>,
}

/// Plans and the graphs captured with them, by size.
#[derive(Default)]
pub(crate) struct Set {
    pub(crate) plans: Vec<LoadedPlan>,
    graphs: HashMap<Metrics, CudaGraph>,
}

impl std::fmt::Debug for Set {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Set").field("plans", &self.plans.len()).field("graphs", &self.graphs.len()).finish()
    }
}

impl Llama {
    /// Plans a batch's adapters and returns a set that holds the plans, taken out of the kept ones.
    pub(super) fn plan_adapters(&mut self, batch: &Batch) -> Result<Set, Error> {
        let segments = self.segments(batch)?;
        if segments.is_empty() || self.settings.lora == LoraPath::Off {
            let bare = self.graphs.sets.iter().position(|set| set.plans.is_empty());
            return Ok(bare.map_or_else(Set::default, |index| self.graphs.sets.remove(index)));
        }
        let rows = bucket(batch.rows);
        let mut plans = Vec::with_capacity(Group::LAYER.len());
        for (group, site) in Group::LAYER.into_iter().zip(&self.lora.sites[0]) {
            plans.push(self.plan_of(group, site, &segments, rows)?);
        }
        let rooms = self.rooms(rows)?;
        // From the one used last: traffic changes slowly.
        for index in (0..self.graphs.sets.len()).rev() {
            let set = &mut self.graphs.sets[index];
            let roomy = set.plans.len() == plans.len()
                && set.plans.iter().zip(&plans).zip(rooms).all(|((loaded, plan), room)| {
                    let jobs = plan.jobs().len() as u32;
                    // A launch keeps the shared memory that it was captured with: with more than is left beside this step's GEMM its blocks
                    // would wait for that to end.
                    (jobs..=jobs + IDLE_BLOCKS_MAX).contains(&loaded.capacity()) && loaded.shared_bytes() <= room
                });
            if roomy
                && set.plans.iter_mut().zip(&plans).all(|(loaded, plan)| loaded.replace(&self.stream, plan).is_ok())
            {
                return Ok(self.graphs.sets.remove(index));
            }
        }
        let mut set = Set::default();
        for plan in &plans {
            let capacity = (plan.jobs().len() as u32).next_multiple_of(16);
            set.plans.push(self.making(|| self.lora.kernels.load(&self.stream, plan, capacity))?);
        }
        Ok(set)
    }

    /// Where adapters' launches stand in a step of so many rows, padded ([`bucket`](super::bucket)); `None` if there are none.
    pub fn order_of(&self, rows: u32) -> Option<LoraOrder> {
        let LoraPath::Segmented(order) = self.settings.lora else { return None };
        let own = self.gemms.are_own(rows);
        Some(match order {
            // A mark must differ from the one before, which is another layer's.
            LoraOrder::Along if !own || self.shape.layers < 2 => LoraOrder::After,
            // Many rows take so long that what is left to hide is less than a delta costs.
            LoraOrder::Before | LoraOrder::Beside if rows > few_rows::ROWS_MAX => LoraOrder::After,
            order => order,
        })
    }

    /// Shared memory that a block of each group's adapters may have in a step of so many rows: beside a GEMM, what that leaves.
    fn rooms(&self, rows: u32) -> Result<[u32; Group::LAYER.len()], Error> {
        let chip = self.lora.chip;
        let mut rooms = [chip.shared_bytes_block_max; Group::LAYER.len()];
        if self.order_of(rows) == Some(LoraOrder::Along) {
            for (room, group) in rooms.iter_mut().zip(Group::LAYER) {
                *room = self.gemms.shared_bytes_left(group, rows, chip)?;
            }
        }
        Ok(rooms)
    }

    /// The plan of one group's adapters in a step of so many rows.
    fn plan_of(&self, group: Group, site: &Site, segments: &[Segment], rows: u32) -> Result<Plan, Error> {
        let LoraSites { chip, tuning, .. } = self.lora;
        let beside = self.order_of(rows) == Some(LoraOrder::Along);
        let tuning = Tuning { follows: if beside { Follows::Beside } else { Follows::Another }, short: true, ..tuning };
        let plan = Plan::new(site, segments, chip, tuning)?;
        if !beside {
            return Ok(plan);
        }
        // A block of adapters must find room beside one of the GEMM: rings are shorter where sums need much.
        let left = self.gemms.shared_bytes_left(group, rows, chip)?;
        if plan.shared_bytes() <= left {
            return Ok(plan);
        }
        Plan::new(site, segments, chip, Tuning { shared_bytes: Some(left), ..tuning })
    }

    /// Puts a set back, as the one used last.
    pub(super) fn keep(&mut self, set: Set) {
        let sets = &mut self.graphs.sets;
        sets.push(set);
        while sets.len() > SETS_MAX
            || (sets.len() > 1 && sets.iter().map(|set| set.graphs.len()).sum::<usize>() > GRAPHS_MAX)
        {
            sets.remove(0);
        }
    }

    /// Launches a step as a graph: the set's own of this size, captured now if it is new.
    pub(super) fn launch_graph(&self, metrics: &Metrics, set: &mut Set) -> Result<(), Error> {
        // What a graph was captured with: sizes, not counts.
        let key = Metrics { rows: 0, decode_rows: 0, samples: metrics.samples.min(1), ..*metrics };
        if !set.graphs.contains_key(&key) {
            let graph = self.making(|| {
                let graph = self.capture(metrics, &set.plans)?;
                graph.upload().map_err(Error::driver("uploading a graph"))?;
                Ok(graph)
            })?;
            set.graphs.insert(key, graph);
        }
        set.graphs[&key].launch().map_err(Error::driver("launching a graph"))
    }

    /// A whole step as a graph.
    pub(super) fn capture(&self, metrics: &Metrics, plans: &[LoadedPlan]) -> Result<CudaGraph, Error> {
        self.capture_of(|| Forward::new(self, metrics, plans).step())
    }

    /// What some launches on the model's stream are as a graph.
    pub(super) fn capture_of(&self, launches: impl FnOnce() -> Result<(), Error>) -> Result<CudaGraph, Error> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(Error::driver("beginning a capture"))?;
        let launched = launches();
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = self.stream.end_capture(flags).map_err(Error::driver("ending a capture"));
        launched?;
        graph?.ok_or_else(|| Error::Driver { doing: "ending a capture".to_owned(), code: "it is empty".to_owned() })
    }
}
