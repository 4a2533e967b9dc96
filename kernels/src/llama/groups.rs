//! Projections that share an input: what multiplies each group, planned once for a size.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::CudaStream;

use super::engine::Llama;
use super::forward::{Forward, Metrics};
use super::{GemmPath, LlamaSettings, LlamaShape};
use crate::Error;
use crate::gemm::GemmShape;
use crate::gemm::cublaslt::{CublasLt, CublasLtPlan, Trial};
use crate::gemm::few_rows::{FewRows, FewRowsPlan, Tuning};
use crate::gpu::{Overlap, Ready};
use crate::lora::plan::Chip;
use crate::program::Compiler;

/// Projections that share an input: one GEMM, one launch of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Group {
    Qkv,
    O,
    GateUp,
    Down,
    LmHead,
}

impl Group {
    /// Those of a layer, in order.
    pub(crate) const LAYER: [Group; 4] = [Group::Qkv, Group::O, Group::GateUp, Group::Down];

    /// The adapter's projections of it, as a range of [`Projection::ALL`].
    pub(crate) fn projections(self) -> std::ops::Range<usize> {
        match self {
            Group::Qkv => 0..3,
            Group::O => 3..4,
            Group::GateUp => 4..6,
            Group::Down => 6..7,
            Group::LmHead => 0..0,
        }
    }

    pub(crate) fn widths(self, shape: &LlamaShape) -> (u32, u32) {
        match self {
            Group::Qkv => (shape.hidden, shape.query_width() + 2 * shape.kv_width()),
            Group::O => (shape.query_width(), shape.hidden),
            Group::GateUp => (shape.hidden, 2 * shape.intermediate),
            Group::Down => (shape.intermediate, shape.hidden),
            Group::LmHead => (shape.hidden, shape.vocab),
        }
    }
}

/// The most rows that this crate's kernel multiplies in a step: of more, cuBLASLt is measured to be quicker.
const OWN_ROWS_MAX: u32 = 32;

#[derive(Debug)]
enum GemmPlan {
    Few(FewRowsPlan),
    Library(Box<CublasLtPlan>),
}

/// GEMM plans of a model, by group and rows.
#[derive(Debug)]
pub(crate) struct Gemms {
    library: CublasLt,
    few: FewRows,
    path: GemmPath,
    tuning: Tuning,
    plans: HashMap<(Group, u32), GemmPlan>,
}

impl Gemms {
    pub(crate) fn new(compiler: &Compiler, stream: &Arc<CudaStream>, settings: &LlamaSettings) -> Result<Self, Error> {
        let library = CublasLt::open(compiler.gpu(), stream)?;
        let few = FewRows::new(compiler, stream)?;
        Ok(Gemms { library, few, path: settings.gemm, tuning: Tuning::default(), plans: HashMap::new() })
    }

    /// Whether so many rows are multiplied by this crate's kernel.
    pub(crate) fn are_own(&self, rows: u32) -> bool {
        self.path == GemmPath::Own && rows <= OWN_ROWS_MAX
    }

    /// y = x·Wᵀ of a group; cuBLASLt's kernels tell nobody that x is there.
    ///
    /// # Safety
    /// Live matrices of the group's shape with so many rows; one stream.
    pub(crate) unsafe fn launch(
        &self,
        stream: &Arc<CudaStream>,
        group: Group,
        rows: u32,
        [weights, x, y]: [u64; 3],
        ready: Option<Ready>,
        overlap: Overlap,
    ) -> Result<(), Error> {
        let missing = || Error::shape(format!("{group:?} of {rows} rows"), "has no plan");
        match self.plans.get(&(group, rows)).ok_or_else(missing)? {
            // SAFETY: the plan was made for this group and these rows; the rest is the caller's promise.
            GemmPlan::Few(plan) => unsafe { self.few.launch(stream, plan, weights, x, y, ready, overlap) },
            // SAFETY: as above.
            GemmPlan::Library(plan) => unsafe { self.library.launch(stream, plan, weights, x, y, 0.0) },
        }
    }

    /// Shared memory that is left for a block of adapters beside one of the group's GEMM.
    pub(crate) fn shared_bytes_left(&self, group: Group, rows: u32, chip: Chip) -> Result<u32, Error> {
        match self.plans.get(&(group, rows)) {
            Some(GemmPlan::Few(plan)) => Ok(plan.shared_bytes_left(chip)),
            _ => Err(Error::shape(format!("{group:?} of {rows} rows"), "has no plan of this crate's kernel")),
        }
    }

    pub(crate) fn set_path(&mut self, path: GemmPath) {
        self.path = path;
        self.forget();
    }

    /// Drops all plans: they are made again when a step needs them.
    pub(crate) fn forget(&mut self) {
        self.plans.clear();
    }

    pub(crate) fn set_tuning(&mut self, tuning: Tuning) {
        self.tuning = tuning;
        self.forget();
    }

    /// How many plans there are whose kernel was found by timing.
    pub(crate) fn timed(&self) -> usize {
        self.plans.values().filter(|plan| matches!(plan, GemmPlan::Library(_))).count()
    }

    /// What each plan of these rows runs, for the record.
    pub(crate) fn describe(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .plans
            .iter()
            .map(|((group, rows), plan)| match plan {
                GemmPlan::Few(_) => format!("{group:?} {rows} rows: own kernel"),
                GemmPlan::Library(plan) => format!("{group:?} {rows} rows: cuBLASLt {:?}", plan.chosen()),
            })
            .collect();
        lines.sort();
        lines
    }
}

impl Llama {
    /// Makes the GEMM plans that a step of this size needs and does not have yet; waits for the GPU where it times.
    pub(super) fn prepare(&mut self, metrics: &Metrics) -> Result<(), Error> {
        for group in [Group::Qkv, Group::O, Group::GateUp, Group::Down, Group::LmHead] {
            let rows = if group == Group::LmHead { metrics.samples_padded } else { metrics.padded };
            if rows == 0 || self.gemms.plans.contains_key(&(group, rows)) {
                continue;
            }
            let began = Instant::now();
            let (inputs, outputs) = group.widths(&self.shape);
            let shape = GemmShape::dense(self.settings.element, rows, inputs, outputs);
            let plan = if self.gemms.are_own(rows) {
                GemmPlan::Few(self.gemms.few.plan_with(shape, self.gemms.tuning)?)
            } else {
                let forward = Forward::new(self, metrics, &[]);
                // Many rows are bound by arithmetic, whatever the cache holds.
                let most = match rows {
                    0..=256 => 8,
                    257..=1024 => 2,
                    _ => 1,
                };
                let layers = if group == Group::LmHead { 1 } else { self.shape.layers.min(most) };
                let weights: Vec<u64> = (0..layers).map(|layer| forward.buffers(group, layer)[0]).collect();
                let [_, x, y] = forward.buffers(group, 0);
                let trial = Trial { weights: &weights, x, y };
                // SAFETY: the model's own buffers, of the group's shape and with room for the rows; nothing runs.
                let plan = unsafe { self.gemms.library.plan(&self.stream, shape, Some(trial))? };
                GemmPlan::Library(Box::new(plan))
            };
            self.gemms.plans.insert((group, rows), plan);
            self.made.set(self.made.get() + began.elapsed());
        }
        Ok(())
    }
}
