//! How long a step takes, and each of its operations alone.

use std::sync::Arc;

use cudarc::driver::{CudaGraph, CudaStream};

use super::batch::{Batch, bucket};
use super::engine::Llama;
use super::forward::{Forward, Metrics};
use super::graphs::{Graphs, Set};
use super::{GemmPath, LoraOrder, LoraPath, Operation, Sequence};
use crate::gemm::few_rows;
use crate::gpu::Overlap;
use crate::{Error, lora};

/// Launches of an operation that a step has once.
const ONCE: u32 = 4;

impl Forward<'_> {
    /// One operation on the first so many layers, back to back.
    fn first_layers(&self, operation: Operation, layers: u32) -> Result<(), Error> {
        for layer in 0..layers {
            let overlap = if layer == 0 { Overlap::None } else { Overlap::Programmatic };
            self.run(operation, layer, overlap)?;
        }
        Ok(())
    }
}

impl Llama {
    /// Device microseconds of each of `repeats` replays of this step as one graph, prefill or not, after one replay that
    /// is not counted. Before each, the L2 is swept.
    ///
    /// # Errors
    /// As [`Llama::step`].
    pub fn time_step(&mut self, sequences: &[Sequence<'_>], repeats: usize) -> Result<Vec<f64>, Error> {
        self.measured(sequences, repeats, |forward| forward.step())
    }

    /// Chooses what multiplies the rows of this step, where nobody has yet: by timing, which keeps the GPU busy for up to half a second. Gives
    /// whether there was anything to time.
    ///
    /// # Errors
    /// As [`Llama::step`].
    pub fn choose_products(&mut self, sequences: &[Sequence<'_>]) -> Result<bool, Error> {
        let metrics = Metrics::of(&Batch::new(sequences, &self.shape, &self.settings)?);
        let before = self.gemms.timed();
        self.prepare(&metrics)?;
        Ok(self.gemms.timed() > before)
    }

    /// Device microseconds of one operation of this step on one layer, `repeats` samples. A graph runs it for every
    /// layer ([`Llama::set_timed_layers`]: for some), each with its own weights and KV, back to back as programmatic launches; a sample
    /// is a replay with a cold L2 over the number of layers. An operation that this step has not takes no time. Adapters that run beside their
    /// GEMM take what both take beyond the GEMM alone.
    ///
    /// # Errors
    /// As [`Llama::step`].
    pub fn time_operation(
        &mut self,
        operation: Operation,
        sequences: &[Sequence<'_>],
        repeats: usize,
    ) -> Result<Vec<f64>, Error> {
        let Some(gemm) = operation.beside() else { return self.time_launches(operation, sequences, repeats) };
        let batch = Batch::new(sequences, &self.shape, &self.settings)?;
        if self.order_of(bucket(batch.rows)) != Some(LoraOrder::Along) || batch.segments().is_empty() {
            return self.time_launches(operation, sequences, repeats);
        }
        // In turn: what is taken away is of the same moment.
        let layers = self.layers_to_time();
        let (alone, set) = self.captured(sequences, |forward| forward.first_layers(gemm, layers))?;
        self.keep(set);
        let (both, set) = self.captured(sequences, |forward| forward.first_layers(operation, layers))?;
        self.fill_activations()?;
        let samples = self.stopwatch.replays_in_turn_us([&both, &alone], repeats)?;
        self.clear_deltas()?;
        self.keep(set);
        Ok(samples.into_iter().map(|[both, alone]| (both - alone) / f64::from(layers)).collect())
    }

    /// From now on, operations alone are timed on so many layers, at least two, where the model has more: what takes long on one is as well known
    /// from a few.
    pub fn set_timed_layers(&mut self, layers: u32) {
        self.timed_layers = layers;
    }

    fn layers_to_time(&self) -> u32 {
        self.timed_layers.max(2).min(self.shape.layers)
    }

    /// From now on, rests after every long replay that is timed, for so many times as long.
    pub fn set_rest(&mut self, times: f64) {
        self.stopwatch.set_rest(times);
    }

    fn time_launches(
        &mut self,
        operation: Operation,
        sequences: &[Sequence<'_>],
        repeats: usize,
    ) -> Result<Vec<f64>, Error> {
        let once = operation.count(2) == 1;
        let layers = self.layers_to_time();
        let count = if once { ONCE } else { layers };
        let samples = self.measured(sequences, repeats, |forward| {
            if !once {
                return forward.first_layers(operation, layers);
            }
            for index in 0..ONCE {
                forward.run(operation, 0, if index == 0 { Overlap::None } else { Overlap::Programmatic })?;
            }
            Ok(())
        });
        match samples {
            Ok(samples) => Ok(samples.into_iter().map(|us| us / f64::from(count)).collect()),
            // An empty graph: nothing to launch.
            Err(Error::Driver { code, .. }) if code == "it is empty" => Ok(vec![0.0; repeats]),
            Err(error) => Err(error),
        }
    }

    /// This step as a graph, to be replayed beside other work, such as copies of adapters, by whoever times both. Replays are
    /// right until the model takes another step.
    ///
    /// # Errors
    /// As [`Llama::step`].
    pub fn capture_step(&mut self, sequences: &[Sequence<'_>]) -> Result<CapturedStep, Error> {
        let (graph, set) = self.captured(sequences, |forward| forward.step())?;
        graph.upload().map_err(Error::driver("uploading a graph"))?;
        Ok(CapturedStep { graph, _set: set, stream: self.stream.clone() })
    }

    /// What `launches` launches of this step as a graph, with the plans of adapters that it reads.
    pub(super) fn captured(
        &mut self,
        sequences: &[Sequence<'_>],
        launches: impl FnOnce(&Forward<'_>) -> Result<(), Error>,
    ) -> Result<(CudaGraph, Set), Error> {
        let batch = Batch::new(sequences, &self.shape, &self.settings)?;
        let metrics = Metrics::of(&batch);
        self.prepare(&metrics)?;
        let set = self.plan_adapters(&batch)?;
        let table = self.attention.plan(&self.stream, &batch, sequences)?;
        self.metadata.upload(&self.stream, &batch, sequences, &table, &metrics)?;
        let graph = {
            let forward = Forward::new(self, &metrics, &set.plans);
            self.capture_of(|| launches(&forward))?
        };
        Ok((graph, set))
    }

    fn measured(
        &mut self,
        sequences: &[Sequence<'_>],
        repeats: usize,
        launches: impl FnOnce(&Forward<'_>) -> Result<(), Error>,
    ) -> Result<Vec<f64>, Error> {
        let (graph, set) = self.captured(sequences, launches)?;
        self.fill_activations()?;
        let samples = self.stopwatch.replays_us(&graph, repeats)?;
        self.clear_deltas()?;
        self.keep(set);
        Ok(samples)
    }

    /// Random values in what operations read: a product of zeros, or of what an operation alone left behind, needs less power than
    /// one in a step, and is quicker for it.
    fn fill_activations(&mut self) -> Result<(), Error> {
        let (a, element) = (&mut self.activations, self.settings.element);
        let inputs = [
            &mut a.h,
            &mut a.x,
            &mut a.qkv,
            &mut a.q,
            &mut a.attended,
            &mut a.y,
            &mut a.gate_up,
            &mut a.activated,
            &mut a.sampled,
        ];
        (3..).zip(inputs).try_for_each(|(seed, buffer)| self.stopwatch.fill(&mut buffer.slice, element, seed, 1.0))
    }

    /// Puts deltas back to zero after launches of adapters without the operations that read them.
    fn clear_deltas(&mut self) -> Result<(), Error> {
        let activations = &mut self.activations;
        for delta in [&mut activations.delta_qkv, &mut activations.delta_y, &mut activations.delta_gate_up] {
            self.stream.memset_zeros(&mut delta.slice).map_err(Error::driver("clearing deltas"))?;
        }
        self.stream.synchronize().map_err(Error::driver("clearing deltas"))
    }
}

impl Llama {
    /// Changes where adapters' launches stand, to compare orders on one model. Captured graphs are dropped.
    ///
    /// # Errors
    /// [`Error::Shape`] if the model was opened without adapters.
    pub fn set_lora_order(&mut self, order: LoraOrder) -> Result<(), Error> {
        if self.settings.lora == LoraPath::Off {
            return Err(Error::shape("LoRA order", "the model was opened without adapters"));
        }
        self.settings.lora = LoraPath::Segmented(order);
        self.gemms.forget();
        self.graphs = Graphs::default();
        Ok(())
    }

    /// Makes some of the choices of adapters' plans, to compare them on one model. Captured graphs are dropped.
    pub fn set_lora_tuning(&mut self, tuning: lora::plan::Tuning) {
        self.lora.tuning = tuning;
        self.graphs = Graphs::default();
    }

    /// The same for the plans of this crate's GEMM. A choice that cannot be is an error of the next step that it is for.
    pub fn set_gemm_tuning(&mut self, tuning: few_rows::Tuning) {
        self.gemms.set_tuning(tuning);
        self.graphs = Graphs::default();
    }

    /// Changes what multiplies few rows, to compare both on one model. Captured graphs and plans are dropped.
    pub fn set_gemm_path(&mut self, path: GemmPath) {
        self.settings.gemm = path;
        self.gemms.set_path(path);
        self.graphs = Graphs::default();
    }
}

/// A step of a model as a graph on the model's stream.
pub struct CapturedStep {
    graph: CudaGraph,
    /// The plans that the graph reads.
    _set: Set,
    stream: Arc<CudaStream>,
}

impl std::fmt::Debug for CapturedStep {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CapturedStep").field("plans", &self._set).finish_non_exhaustive()
    }
}

impl CapturedStep {
    /// Where it runs.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Starts a replay.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn launch(&self) -> Result<(), Error> {
        self.graph.launch().map_err(Error::driver("launching a step"))
    }
}
