//! Profiles from data sheets: what any GPU should need for any model, under stated assumptions.

mod lora;

use std::collections::BTreeMap;

use aril_sim::gpu::Gpu;
use aril_sim::gpu::memory::MemoryBudget;
use aril_sim::model::Model;
use aril_sim::profile::attention::{DecodeAttention, DecodeBound, PrefillAttention, PromptBound, PromptCost};
use aril_sim::profile::curve::{Curve, Roofline};
use aril_sim::profile::{
    Assumption, HostCost, LoadCost, Operation, Per, Profile, Provenance, ProvenanceKind, Rows, SCHEMA, Validity,
    WholeStep,
};

use crate::error::CalibrateError;

/// What a data sheet does not say. Every value appears in the profile with its source.
#[derive(Clone, Debug, PartialEq)]
pub struct Assumptions {
    /// Share of the peak bandwidth that streaming weights reaches.
    pub bandwidth_efficiency: f64,
    /// Share of the peak arithmetic that large products reach.
    pub arithmetic_efficiency: f64,
    /// Share of the peak bandwidth that decode attention reaches.
    pub attention_bandwidth_efficiency: f64,
    /// Share of the peak arithmetic that prefill attention reaches.
    pub attention_arithmetic_efficiency: f64,
    /// Rows that a matrix product computes at once.
    pub rows_per_tile: u32,
    /// From the end of one kernel to the work of the next inside a CUDA graph, microseconds.
    pub kernel_us: f64,
    /// The same for kernels launched one by one by an interpreter, microseconds.
    pub eager_kernel_us: f64,
    /// CPU work of a step that the GPU waits for, microseconds.
    pub host_us: f64,
    /// The same for each sequence, microseconds.
    pub host_us_per_sequence: f64,
    /// An all-reduce of nothing, microseconds.
    pub all_reduce_us: f64,
    /// Share of the link's peak that an all-reduce reaches.
    pub link_efficiency: f64,
    /// Share of the host link's peak that a copy from pinned memory reaches.
    pub pinned_efficiency: f64,
    /// Share of the host link's peak that a copy from pageable memory reaches.
    pub pageable_efficiency: f64,
    /// Start of a copy, microseconds.
    pub copy_us: f64,
}

impl Default for Assumptions {
    fn default() -> Assumptions {
        Assumptions {
            bandwidth_efficiency: 0.8,
            arithmetic_efficiency: 0.7,
            attention_bandwidth_efficiency: 0.75,
            attention_arithmetic_efficiency: 0.45,
            rows_per_tile: 16,
            kernel_us: 1.75,
            eager_kernel_us: 10.0,
            host_us: 500.0,
            host_us_per_sequence: 5.0,
            all_reduce_us: 8.0,
            link_efficiency: 0.7,
            pinned_efficiency: 0.85,
            pageable_efficiency: 0.35,
            copy_us: 10.0,
        }
    }
}

impl Assumptions {
    /// Name, value, unit and source of each.
    pub fn table(&self) -> BTreeMap<String, Assumption> {
        let ratio = "1";
        let us = "us";
        [
            ("bandwidth_efficiency", self.bandwidth_efficiency, ratio, "matrix products of few rows reach 0.66 to 0.80 of an A100's peak in Vidur's tables (Agrawal et al., MLSys 2024)"),
            ("arithmetic_efficiency", self.arithmetic_efficiency, ratio, "matrix products of 2,048 rows reach 0.67 to 0.73 of an A100's peak in Vidur's tables"),
            ("attention_bandwidth_efficiency", self.attention_bandwidth_efficiency, ratio, "Punica Fig. 1: 32 rows grown from 128 to 2,048 tokens read their KV at 0.75 of an A100's peak; 0.82 to 0.84 in Vidur's tables"),
            ("attention_arithmetic_efficiency", self.attention_arithmetic_efficiency, ratio, "prefills of 2,048 and 4,096 tokens reach 0.32 and 0.43 of an A100's peak in Vidur's tables; later kernels reach more"),
            ("rows_per_tile", f64::from(self.rows_per_tile), "rows", "the row count of one tensor-core instruction"),
            ("kernel_us", self.kernel_us, us, "assumed: small kernels inside a CUDA graph"),
            ("eager_kernel_us", self.eager_kernel_us, us, "assumed: one operation of an eager framework"),
            ("host_us", self.host_us, us, "assumed: an engine that replays CUDA graphs and schedules ahead"),
            ("host_us_per_sequence", self.host_us_per_sequence, us, "assumed: sampling and bookkeeping of one sequence"),
            ("all_reduce_us", self.all_reduce_us, us, "assumed: a one-shot all-reduce among 8 GPUs over NVSwitch"),
            ("link_efficiency", self.link_efficiency, ratio, "assumed: ring all-reduce of large messages over NVLink"),
            ("pinned_efficiency", self.pinned_efficiency, ratio, "assumed: packet overhead of PCIe"),
            ("pageable_efficiency", self.pageable_efficiency, ratio, "assumed: a staging copy through the host's memory"),
            ("copy_us", self.copy_us, us, "assumed: start of an asynchronous copy"),
        ]
        .into_iter()
        .map(|(name, value, unit, source)| {
            (name.to_owned(), Assumption { value, unit: unit.to_owned(), source: source.to_owned() })
        })
        .collect()
    }
}

/// The name under which [`derive()`] files a profile.
pub fn name(gpu: &str, model: &str, tensor_parallel: u32) -> String {
    match tensor_parallel {
        1 => format!("derived-{gpu}-{model}"),
        degree => format!("derived-{gpu}-{model}-tp{degree}"),
    }
}

/// What does this model cost on this GPU, by its data sheet and the default [`Assumptions`]?
///
/// # Errors
/// When the GPUs cannot share the model, have no link to do so, or cannot hold its weights.
pub fn derive(gpu: &Gpu, model: &Model, tensor_parallel: u32) -> Result<Profile, CalibrateError> {
    derive_with(gpu, model, tensor_parallel, &Assumptions::default())
}

/// The same under other assumptions.
///
/// # Errors
/// As [`derive()`].
pub fn derive_with(
    gpu: &Gpu,
    model: &Model,
    tensor_parallel: u32,
    assumptions: &Assumptions,
) -> Result<Profile, CalibrateError> {
    model.check().and_then(|()| model.check_tensor_parallel(tensor_parallel)).map_err(CalibrateError::Split)?;
    let mut room = MemoryBudget::of(gpu, model, tensor_parallel, 1, 1);
    room.gpu_memory_utilization = 1.0;
    room.kv_room().map_err(CalibrateError::DoesNotFit)?;
    let sheet = Sheet { gpu, model, degree: f64::from(tensor_parallel), a: assumptions };
    let mut operations = sheet.matrices();
    operations.extend(sheet.small_operations());
    operations.extend(sheet.collective()?);
    Ok(Profile {
        schema: SCHEMA,
        name: name(&gpu.name, &model.name, tensor_parallel),
        engine: "roofline".to_owned(),
        tensor_parallel,
        provenance: Provenance {
            kind: ProvenanceKind::Derived,
            source: format!("{}; roofline with the assumptions below", gpu.source),
            gpu: None,
            driver: None,
            cuda: None,
            clocks: None,
            kernel_source_hash: None,
            commit: None,
            date: None,
            note: Some("Not measured. Good for comparing policies, not for promising latencies.".to_owned()),
        },
        model: model.clone(),
        gpu: gpu.clone(),
        host: HostCost {
            us: assumptions.host_us,
            us_per_sequence: assumptions.host_us_per_sequence,
            ..HostCost::default()
        },
        whole_step: WholeStep::default(),
        clock_sag: None,
        operations,
        row_buckets: Vec::new(),
        prefill_attention: sheet.prefill_attention(),
        decode_attention: sheet.decode_attention(),
        vidur: None,
        lora: lora::kernels(&sheet),
        load: LoadCost {
            us: assumptions.copy_us,
            pinned_gigabytes_per_second: gpu.host_gigabytes_per_second * assumptions.pinned_efficiency,
            pageable_gigabytes_per_second: gpu.host_gigabytes_per_second * assumptions.pageable_efficiency,
            copy_slowdown: 1.0,
            pageable_copy_slowdown: None,
            step_slowdown: 1.0,
        },
        validity: Validity::default(),
        held_out: Vec::new(),
        spread: Vec::new(),
        assumptions: assumptions.table(),
    })
}

/// A data sheet, a model and what is assumed of both.
struct Sheet<'a> {
    gpu: &'a Gpu,
    model: &'a Model,
    degree: f64,
    a: &'a Assumptions,
}

impl Sheet<'_> {
    /// Microseconds for so many bytes streamed at the assumed share of the peak.
    fn stream_us(&self, bytes: f64) -> f64 {
        bytes / (self.gpu.gigabytes_per_second * self.a.bandwidth_efficiency * 1e3)
    }

    /// One matrix product of this GPU's share of a matrix.
    fn product(&self, input: f64, output: f64, bytes_per_weight: f64, teraflops: f64) -> Curve {
        Curve::Roofline(Roofline {
            us: self.a.kernel_us,
            bytes: input * output * bytes_per_weight,
            bytes_per_row: 2.0 * (input + output),
            flops_per_row: 2.0 * input * output,
            rows_per_tile: self.a.rows_per_tile,
            gigabytes_per_second: self.gpu.gigabytes_per_second * self.a.bandwidth_efficiency,
            teraflops: teraflops * self.a.arithmetic_efficiency,
        })
    }

    /// The matrices of a layer and the LM head. Query, key and value share a product, and so do gate and up.
    fn matrices(&self) -> Vec<Operation> {
        let m = self.model;
        let (hidden, mlp) = (f64::from(m.hidden), f64::from(m.intermediate) / self.degree);
        let kv_heads = f64::from(m.kv_heads) / self.degree;
        let query = m.query_width() as f64 / self.degree;
        let kv = kv_heads.max(1.0) * f64::from(m.head_dim);
        let (weight, rate) = (m.weights.bytes() as f64, self.gpu.teraflops(m.weights));
        let layer = |name: &str, input: f64, output: f64| Operation {
            name: name.to_owned(),
            per: Per::Layer,
            over: Rows::All,
            cost: self.product(input, output, weight, rate),
        };
        vec![
            layer("qkv", hidden, query + 2.0 * kv),
            layer("o", query, hidden),
            layer("gate-up", hidden, 2.0 * mlp),
            layer("down", mlp, hidden),
            Operation {
                name: "lm-head".to_owned(),
                per: Per::Step,
                over: Rows::Sequences,
                cost: self.product(hidden, f64::from(m.vocab) / self.degree, 2.0, self.gpu.teraflops_16bit),
            },
        ]
    }

    /// What only moves bytes: norms, rotary embedding, activation, the writing of KV; embedding and sampling.
    fn small_operations(&self) -> Vec<Operation> {
        let m = self.model;
        let (hidden, mlp) = (f64::from(m.hidden), f64::from(m.intermediate) / self.degree);
        let heads = (m.query_width() + 2 * m.kv_width()) as f64 / self.degree;
        let moved = |name: &str, per: Per, over: Rows, kernels: f64, bytes_per_row: f64| Operation {
            name: name.to_owned(),
            per,
            over,
            cost: Curve::Affine { us: kernels * self.a.kernel_us, us_per_row: self.stream_us(bytes_per_row) },
        };
        vec![
            // Two norms, each reading the residual and its update and writing both.
            moved("norms", Per::Layer, Rows::All, 2.0, 2.0 * 4.0 * hidden * 2.0),
            moved("rope-and-kv-write", Per::Layer, Rows::All, 1.0, 2.0 * heads * 2.0),
            moved("activation", Per::Layer, Rows::All, 1.0, 3.0 * mlp * 2.0),
            moved("embedding", Per::Step, Rows::All, 1.0, 2.0 * hidden * 2.0),
            // 32-bit logits are written, then read for the maximum and for the draw.
            moved("sampling", Per::Step, Rows::Sequences, 2.0, 3.0 * f64::from(m.vocab) * 4.0),
        ]
    }

    /// Two all-reduces of the residual in each layer: a ring moves 2 (N-1)/N of it over each link.
    fn collective(&self) -> Result<Option<Operation>, CalibrateError> {
        if self.degree <= 1.0 {
            return Ok(None);
        }
        // Without NVLink the host link carries it.
        let rate = self.gpu.nvlink_gigabytes_per_second.unwrap_or(self.gpu.host_gigabytes_per_second);
        let bytes_per_row = 2.0 * (self.degree - 1.0) / self.degree * f64::from(self.model.hidden) * 2.0;
        let us_per_row = bytes_per_row / (rate * self.a.link_efficiency * 1e3);
        Ok(Some(Operation {
            name: "all-reduce".to_owned(),
            per: Per::Layer,
            over: Rows::All,
            cost: Curve::Affine { us: 2.0 * self.a.all_reduce_us, us_per_row: 2.0 * us_per_row },
        }))
    }

    /// Bytes of KV of one token in one layer on one GPU.
    fn kv_bytes(&self) -> f64 {
        let bytes = self.model.kv_bytes_per_token_per_gpu(self.degree as u32) as f64;
        bytes / f64::from(self.model.layers)
    }

    fn kv_us_per_token(&self) -> f64 {
        self.kv_bytes() / (self.gpu.gigabytes_per_second * self.a.attention_bandwidth_efficiency * 1e3)
    }

    fn decode_attention(&self) -> DecodeAttention {
        let bound = DecodeBound::uniform("bandwidth", self.a.kernel_us, self.kv_us_per_token(), 0.0);
        DecodeAttention { bounds: vec![bound], ..DecodeAttention::default() }
    }

    fn prefill_attention(&self) -> PrefillAttention {
        // A pair takes a multiply-add for the score and one for the value, in each feature of each query head.
        let flops_per_pair = 4.0 * self.model.query_width() as f64 / self.degree;
        let teraflops = self.gpu.teraflops_16bit * self.a.attention_arithmetic_efficiency;
        let bound = |name: &str, us_per_kilopair: f64, us_per_context_token: f64| PromptBound {
            name: name.to_owned(),
            us: 0.0,
            us_per_token: 0.0,
            us_per_kilopair,
            us_per_context_token,
        };
        PrefillAttention {
            us: self.a.kernel_us,
            prompt: PromptCost::Bounds(vec![
                bound("arithmetic", flops_per_pair * 1e3 / (teraflops * 1e6), 0.0),
                bound("bandwidth", 0.0, self.kv_us_per_token()),
            ]),
        }
    }
}
