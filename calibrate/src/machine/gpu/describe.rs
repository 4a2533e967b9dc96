//! What a GPU is and how fast it ticks, as its driver tells it.

use std::process::Command;

use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{LlamaSettings, bucket};
use aril_kernels::source::Sources;
use aril_sim::model::Model;

use super::failed;
use super::settings::limits;
use crate::error::CalibrateError;
use crate::machine::{Clocks, Identity, Throttle};

/// Device memory that is free.
pub(super) fn free_bytes(gpu: &Gpu) -> Result<u64, CalibrateError> {
    gpu.free_bytes().map(|bytes| bytes as u64).map_err(failed)
}

/// The identity of a GPU with a model.
pub(super) fn identity(
    gpu: &Gpu,
    model: Model,
    tensor_parallel: u32,
    settings: &LlamaSettings,
) -> Result<Identity, CalibrateError> {
    let mut row_buckets: Vec<u32> = (1..=settings.rows_max).map(bucket).collect();
    row_buckets.dedup();
    Ok(Identity {
        gpu: gpu.name().to_owned(),
        gpu_name: name(gpu.name(), gpu.total_bytes().map_err(failed)? as u64),
        driver: asked("driver_version").first().cloned().unwrap_or_else(|| "unknown".to_owned()),
        cuda: gpu.driver_version(),
        kernel_source_hash: Sources::built_in().hash().map_err(failed)?,
        multiprocessors: gpu.chip().multiprocessors,
        model,
        tensor_parallel,
        row_buckets,
        limits: limits(settings),
    })
}

/// What scenarios call a GPU that its driver calls `name`; the driver's name where scenarios know none.
fn name(name: &str, bytes: u64) -> String {
    let large = bytes > 60 << 30;
    let known = [
        ("H200", "h200"),
        ("H100", "h100"),
        ("A100", if large { "a100-80gb" } else { "a100-40gb" }),
        ("L40S", "l40s"),
        ("L4", "l4"),
        ("A10G", "a10g"),
    ];
    let words: Vec<&str> = name.split([' ', '-']).collect();
    let found = known.iter().find(|(word, _)| words.contains(word));
    found.map_or_else(|| name.to_owned(), |(_, known)| (*known).to_owned())
}

/// What `nvidia-smi` says of the first GPU; nothing where it is not there.
fn asked(fields: &str) -> Vec<String> {
    let query = format!("--query-gpu={fields}");
    let output = Command::new("nvidia-smi").args([query.as_str(), "--format=csv,noheader,nounits", "-i", "0"]).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    let line = String::from_utf8_lossy(&text).lines().next().unwrap_or_default().to_owned();
    line.split(',').map(|field| field.trim().to_owned()).filter(|field| !field.is_empty()).collect()
}

/// Clocks and what holds them back.
pub(super) fn clocks() -> Clocks {
    let mut fields = asked("clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_event_reasons.active");
    if fields.len() < 5 {
        // Drivers before 535 have another name for it.
        fields = asked("clocks.sm,clocks.mem,temperature.gpu,power.draw,clocks_throttle_reasons.active");
    }
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    let whole = |index: usize| number(index).map(|value| value as u32);
    let bits =
        fields.get(4).and_then(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).ok()).unwrap_or(0);
    Clocks {
        sm_mhz: whole(0),
        memory_mhz: whole(1),
        temperature_c: whole(2),
        power_w: number(3),
        throttled: reasons(bits),
    }
}

/// The reasons of NVML's bit mask, but for idleness and settings.
fn reasons(bits: u64) -> Vec<Throttle> {
    let known = [(0x4, Throttle::PowerCap), (0x20 | 0x40, Throttle::Thermal), (0x8 | 0x80, Throttle::Hardware)];
    known.into_iter().filter(|(mask, _)| bits & mask != 0).map(|(_, reason)| reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_names_become_those_of_scenarios() {
        for (driver, gib, ours) in [
            ("NVIDIA H200", 139, "h200"),
            ("NVIDIA H100 80GB HBM3", 79, "h100"),
            ("NVIDIA A100-SXM4-80GB", 79, "a100-80gb"),
            ("NVIDIA A100-SXM4-40GB", 39, "a100-40gb"),
            ("NVIDIA L40S", 44, "l40s"),
            ("NVIDIA L4", 22, "l4"),
            ("NVIDIA B300", 270, "NVIDIA B300"),
        ] {
            assert_eq!(name(driver, gib << 30), ours);
        }
    }

    #[test]
    fn reasons_are_read_from_the_mask() {
        assert_eq!(reasons(0x0), []);
        assert_eq!(reasons(0x1), [], "idle");
        assert_eq!(reasons(0x4), [Throttle::PowerCap]);
        assert_eq!(reasons(0x44), [Throttle::PowerCap, Throttle::Thermal]);
        assert_eq!(reasons(0x88), [Throttle::Hardware]);
    }
}
