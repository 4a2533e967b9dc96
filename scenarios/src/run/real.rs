//! Steps on a real GPU under the simulator's scheduler.

use std::cell::RefCell;
use std::rc::Rc;

use aril_calibrate::CalibrateError;
use aril_calibrate::executor::gpu::LlamaStepper;
use aril_calibrate::executor::{Log, RealExecutor, Stepper};
use aril_calibrate::validate::{Lives, Validation, validate as set_beside};
use aril_sim::cost::CompiledCost;
use aril_sim::engine::{self, Ended};
use aril_sim::fact::Observer;
use aril_sim::model::Precision;
use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::lora::LoraKernel;
use aril_sim::settings::ClusterSettings;

use super::job::{Offer, within_clock};
use crate::error::ArilError;
use crate::plan::Plan;
use crate::setup::Setup;
use crate::wrong::Wrong;

/// A GPU that is ready for a setup, and the cluster as it fits on it.
pub(super) struct Ready {
    stepper: LlamaStepper,
    cluster: ClusterSettings,
    ranks: Vec<u32>,
}

impl Ready {
    /// Opens the GPU, loads nothing yet, and cuts the cluster's memory to what is really there.
    ///
    /// # Errors
    /// Where there is no GPU or model for it; for more than one replica, for kernels and weights that the GPU's whole step has not, and for a
    /// profile of another GPU.
    pub(super) fn new(setup: &Setup, seed: u64, offer: &Offer) -> Result<Ready, ArilError> {
        let mut cluster = setup.cluster(seed);
        let refuse = |key: &str, problem: String, help: &str| ArilError::from(Wrong::at(key, problem).help(help));
        if cluster.replicas.len() != 1 {
            let problem = format!("{} replicas cannot run on one real GPU", cluster.replicas.len());
            return Err(refuse("pool", problem, "set replicas = 1"));
        }
        let replica = &mut cluster.replicas[0];
        if replica.block_size != 16 {
            let problem = format!("blocks of {} tokens: the GPU's KV cache has blocks of 16", replica.block_size);
            return Err(refuse("engine", problem, "set block_size = 16"));
        }
        can_be_real(setup.kernel, setup.model.weights)?;
        let slots = replica.lora_slots.max(replica.max_loras);
        let ranks: Vec<u32> = offer.catalog().adapters.iter().map(|adapter| adapter.rank).collect();
        let widest = ranks.iter().copied().max().unwrap_or(1).max(replica.max_lora_rank.min(128));
        let stepper = LlamaStepper::open(&setup.model.name, replica.gpus, (slots, widest), &ranks)?;
        is_its_own(&setup.profiles[replica.executor].gpu.name, &stepper.identity().gpu_name)?;
        replica.kv_blocks = replica.kv_blocks.min(stepper.room().kv_blocks);
        Ok(Ready { stepper, cluster, ranks })
    }

    /// Name of the GPU as its driver gives it.
    pub(super) fn gpu(&self) -> &str {
        &self.stepper.identity().gpu
    }

    /// Runs the scheduler over real steps, watched by `observer`.
    pub(super) fn run(
        mut self,
        setup: &Setup,
        policy: &str,
        offer: &Offer,
        observer: &mut dyn Observer,
    ) -> Result<(Ended, Log), ArilError> {
        let replica = &self.cluster.replicas[0];
        self.stepper.warm_up(replica.max_num_seqs, replica.max_num_batched_tokens)?;
        let profile = &setup.profiles[replica.executor];
        let cost = CompiledCost::compile(profile, setup.kernel).map_err(|bad| Wrong::new(bad.to_string()))?;
        let (executor, hearing, log) = RealExecutor::new(self.stepper, Box::new(cost), self.ranks);
        let seed = self.cluster.seed;
        let ended = engine::run(
            &self.cluster,
            offer.catalog(),
            &setup.policies(),
            &mut [Box::new(executor)],
            &mut *offer.workload.arrivals(),
            &mut (hearing, observer),
        )
        .map_err(|stalled| ArilError::Stalled { policy: policy.to_owned(), seed, stalled })?;
        let log = take(&log);
        match log.failure {
            Some(problem) => Err(CalibrateError::Machine(problem).into()),
            None => Ok((within_clock(setup, seed, policy, ended)?, log)),
        }
    }
}

/// The whole step of a GPU has our kernel, or no adapters, and weights of 16 bits.
fn can_be_real(kernel: LoraKernel, weights: Precision) -> Result<(), Wrong> {
    if !matches!(kernel, LoraKernel::None | LoraKernel::Segmented) {
        let problem = format!("the kernel {kernel} is priced, but no step of a GPU has it");
        return Err(Wrong::at("engine", problem).help("set lora_kernel = \"segmented\""));
    }
    match weights {
        Precision::Fp16 | Precision::Bf16 => Ok(()),
        Precision::Fp8 => Err(Wrong::at("model", "steps of a GPU have weights of 16 bits".to_owned())),
    }
}

/// A real run stands beside prices of the same GPU, or it says nothing of them.
fn is_its_own(profile: &str, machine: &str) -> Result<(), Wrong> {
    if profile == machine {
        return Ok(());
    }
    let problem = format!("this machine's GPU is `{machine}`, the pool's costs are of `{profile}`");
    Err(Wrong::at("pool", problem).help("run on that GPU, or calibrate this one and give its profile"))
}

fn take(log: &Rc<RefCell<Log>>) -> Log {
    std::mem::take(&mut *log.borrow_mut())
}

/// The first point, policy and seed of a plan, on a real GPU and simulated, beside each other. Nothing is written.
///
/// # Errors
/// As [`crate::run::run`]; where there is no GPU.
pub fn validate(plan: &Plan) -> Result<(Validation, Log), ArilError> {
    let setup = &plan.variant(0, 0).setup;
    let (policy, seed) = (&plan.policies[0], plan.seeds[0]);
    let offer = Offer::new(plan, 0, 0)?;
    let ready = Ready::new(setup, seed, &offer)?;
    let cluster = ready.cluster.clone();
    let (real, simulated) = (Lives::default(), Lives::default());
    let (_, log) = ready.run(setup, policy, &offer, &mut real.clone())?;
    engine::run(
        &cluster,
        offer.catalog(),
        &setup.policies(),
        &mut setup.executors(seed)?,
        &mut *offer.workload.arrivals(),
        &mut simulated.clone(),
    )
    .map_err(|stalled| ArilError::Stalled { policy: policy.clone(), seed, stalled })?;
    let profile = &setup.profiles[0];
    let load_us = |rank: u32| {
        let bytes = profile.model.adapter_bytes_per_gpu(rank, &LoraTarget::LAYER, profile.tensor_parallel);
        profile.load.link(true).duration(bytes).as_secs_f64() * 1e6
    };
    Ok((set_beside(&real, &simulated, &log, load_us), log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_step_of_a_gpu_has_is_refused_before_one_is_opened() {
        for kernel in LoraKernel::ALL {
            let fits = matches!(kernel, LoraKernel::None | LoraKernel::Segmented);
            assert_eq!(can_be_real(kernel, Precision::Fp16).is_ok(), fits, "{kernel}");
        }
        assert!(can_be_real(LoraKernel::Segmented, Precision::Bf16).is_ok());
        assert!(can_be_real(LoraKernel::Segmented, Precision::Fp8).is_err());
    }

    #[test]
    fn prices_of_another_gpu_are_refused() {
        assert!(is_its_own("h200", "h200").is_ok());
        let refused = is_its_own("h100", "h200").unwrap_err().to_string();
        assert!(refused.contains("h100") && refused.contains("h200"), "{refused}");
    }
}
