//! What a GPU promises on paper: memory, bandwidth, arithmetic, links.

pub mod memory;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::Precision;

/// A device as its data sheet describes it. Rates are peaks; no kernel reaches them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// What users call it, such as `a100-80gb`.
    pub name: String,
    /// Memory that a CUDA program sees, bytes. It differs by up to half a percent from driver to driver.
    pub memory_bytes: u64,
    /// Memory bandwidth, 10⁹ bytes a second.
    pub gigabytes_per_second: f64,
    /// Dense 16-bit tensor arithmetic, 10¹² operations a second (a multiply-add is two).
    pub teraflops_16bit: f64,
    /// Dense 8-bit float tensor arithmetic, 10¹² operations a second; none where the device has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teraflops_fp8: Option<f64>,
    /// Host link, one direction, 10⁹ bytes a second.
    pub host_gigabytes_per_second: f64,
    /// NVLink, one direction, all lanes together, 10⁹ bytes a second; none where the device has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nvlink_gigabytes_per_second: Option<f64>,
    /// Where the figures come from.
    pub source: String,
}

impl Gpu {
    /// The device of this name.
    pub fn named(name: &str) -> Option<Gpu> {
        GPUS.iter().find(|row| row.name == name).map(Row::gpu)
    }

    /// The names that [`Gpu::named`] knows.
    pub fn names() -> impl Iterator<Item = &'static str> {
        GPUS.iter().map(|row| row.name)
    }

    /// Peak dense arithmetic on weights of this precision, 10¹² operations a second.
    ///
    /// Without 8-bit arithmetic, 8-bit weights are widened and computed with at the 16-bit rate.
    pub fn teraflops(&self, weights: Precision) -> f64 {
        match weights {
            Precision::Fp8 => self.teraflops_fp8.unwrap_or(self.teraflops_16bit),
            Precision::Fp16 | Precision::Bf16 => self.teraflops_16bit,
        }
    }

    /// What is impossible about these figures?
    pub fn check(&self) -> Result<(), String> {
        let rates = [
            ("gigabytes_per_second", Some(self.gigabytes_per_second)),
            ("teraflops_16bit", Some(self.teraflops_16bit)),
            ("teraflops_fp8", self.teraflops_fp8),
            ("host_gigabytes_per_second", Some(self.host_gigabytes_per_second)),
            ("nvlink_gigabytes_per_second", self.nvlink_gigabytes_per_second),
        ];
        for (key, rate) in rates {
            if let Some(rate) = rate
                && !(rate.is_finite() && rate > 0.0)
            {
                return Err(format!("gpu.{key} is {rate}: a rate is above zero"));
            }
        }
        if self.memory_bytes == 0 {
            return Err("gpu.memory_bytes is 0".to_owned());
        }
        Ok(())
    }
}

/// A row of the table of known devices.
struct Row {
    name: &'static str,
    /// As CUDA reports it, in GiB with two decimals.
    memory_gib: f64,
    gb_per_s: f64,
    tflops: f64,
    tflops_fp8: Option<f64>,
    host_gb_per_s: f64,
    nvlink_gb_per_s: Option<f64>,
    sheet: &'static str,
}

impl Row {
    fn gpu(&self) -> Gpu {
        Gpu {
            name: self.name.to_owned(),
            memory_bytes: (self.memory_gib * f64::from(1 << 30)).round() as u64,
            gigabytes_per_second: self.gb_per_s,
            teraflops_16bit: self.tflops,
            teraflops_fp8: self.tflops_fp8,
            host_gigabytes_per_second: self.host_gb_per_s,
            nvlink_gigabytes_per_second: self.nvlink_gb_per_s,
            source: format!("{}; memory as CUDA reports it", self.sheet),
        }
    }
}

/// PCIe x16, one direction: 16 and 32 GT/s a lane, 128b/130b coding.
const PCIE_4: f64 = 31.5;
const PCIE_5: f64 = 63.0;

/// Dense rates without sparsity. NVLink is half of the data sheet's figure, which counts both directions.
const GPUS: &[Row] = &[
    Row {
        name: "a100-40gb",
        memory_gib: 39.39,
        gb_per_s: 1555.0,
        tflops: 312.0,
        tflops_fp8: None,
        host_gb_per_s: PCIE_4,
        nvlink_gb_per_s: Some(300.0),
        sheet: "NVIDIA A100 data sheet (SXM4 40 GB)",
    },
    Row {
        name: "a100-80gb",
        memory_gib: 79.15,
        gb_per_s: 2039.0,
        tflops: 312.0,
        tflops_fp8: None,
        host_gb_per_s: PCIE_4,
        nvlink_gb_per_s: Some(300.0),
        sheet: "NVIDIA A100 data sheet (SXM4 80 GB)",
    },
    Row {
        name: "h100",
        memory_gib: 79.11,
        gb_per_s: 3350.0,
        tflops: 989.4,
        tflops_fp8: Some(1978.9),
        host_gb_per_s: PCIE_5,
        nvlink_gb_per_s: Some(450.0),
        sheet: "NVIDIA H100 data sheet (SXM5 80 GB)",
    },
    Row {
        name: "h200",
        memory_gib: 139.81,
        gb_per_s: 4800.0,
        tflops: 989.4,
        tflops_fp8: Some(1978.9),
        host_gb_per_s: PCIE_5,
        nvlink_gb_per_s: Some(450.0),
        sheet: "NVIDIA H200 data sheet (SXM 141 GB)",
    },
    Row {
        name: "l40s",
        memory_gib: 44.40,
        gb_per_s: 864.0,
        tflops: 362.05,
        tflops_fp8: Some(733.0),
        host_gb_per_s: PCIE_4,
        nvlink_gb_per_s: None,
        sheet: "NVIDIA L40S data sheet",
    },
    Row {
        name: "l4",
        memory_gib: 22.03,
        gb_per_s: 300.0,
        tflops: 121.0,
        tflops_fp8: Some(242.5),
        host_gb_per_s: PCIE_4,
        nvlink_gb_per_s: None,
        sheet: "NVIDIA L4 data sheet",
    },
    Row {
        name: "a10g",
        memory_gib: 22.04,
        gb_per_s: 600.0,
        tflops: 70.0,
        tflops_fp8: None,
        host_gb_per_s: PCIE_4,
        nvlink_gb_per_s: None,
        sheet: "NVIDIA A10G data sheet",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_named_device_is_possible() {
        for name in Gpu::names() {
            let gpu = Gpu::named(name).unwrap();
            assert_eq!(gpu.check(), Ok(()), "{name}");
            assert_eq!(gpu.name, name);
        }
    }

    #[test]
    fn eight_bit_arithmetic_is_twice_as_fast_where_there_is_any() {
        for name in Gpu::names() {
            let gpu = Gpu::named(name).unwrap();
            let ratio = gpu.teraflops(Precision::Fp8) / gpu.teraflops(Precision::Bf16);
            let expected = if gpu.teraflops_fp8.is_some() { 2.0 } else { 1.0 };
            assert!((ratio - expected).abs() < 0.03, "{name}: {ratio}");
        }
    }
}
