//! The case that `ci/hf_check.py` wrote: runs it and leaves the logits for the script to compare.
//!
//! The folder holds `case.json` (shape, adapters, sequences, steps), a file of bf16 bits for each tensor, and for each
//! adapter's A and B, already transposed as this crate takes them. Written: `logits.bin`, fp32, part by part in the order
//! of the steps.

use std::collections::HashMap;
use std::path::Path;

use aril_kernels::gpu::Gpu;
use aril_kernels::llama::{GemmPath, Half, LlamaShape, LoraOrder, Projection, RopeScaling, Tensor};
use aril_kernels::{Element, Error};
use serde_json::{Value, json};

use crate::Options;
use crate::case::{AdapterOf, Case, Part, tensors_of};

pub(crate) fn run(gpu: &Gpu, options: &Options) -> Result<(Value, usize), Error> {
    let case = read(&options.folder)?;
    let mut llama = case.open(gpu, case.settings(LoraOrder::default(), GemmPath::Own), &options.build)?;
    let results = case.run(&mut llama)?;
    let bytes: Vec<u8> =
        results.iter().flat_map(|(logits, _)| logits.iter().flatten()).flat_map(|value| value.to_le_bytes()).collect();
    let path = options.folder.join("logits.bin");
    std::fs::write(&path, bytes).map_err(|cause| Error::File { doing: "writing", path: path.clone(), cause })?;
    Ok((json!({ "steps": results.len(), "written": path.display().to_string() }), 0))
}

fn file(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|cause| Error::File { doing: "reading", path: path.to_owned(), cause })
}

fn bits(path: &Path) -> Result<Vec<u16>, Error> {
    Ok(file(path)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect())
}

fn name(projection: Projection) -> &'static str {
    match projection {
        Projection::Q => "q",
        Projection::K => "k",
        Projection::V => "v",
        Projection::O => "o",
        Projection::Gate => "gate",
        Projection::Up => "up",
        Projection::Down => "down",
    }
}

fn read(folder: &Path) -> Result<Case, Error> {
    let text = String::from_utf8_lossy(&file(&folder.join("case.json"))?).into_owned();
    let malformed = |what: &str| Error::Shape { what: "case.json".to_owned(), why: format!("has no usable {what}") };
    let json: Value = serde_json::from_str(&text).map_err(|_| malformed("JSON"))?;
    let number = |value: &Value, what: &str| value[what].as_f64().ok_or_else(|| malformed(what));
    let whole = |value: &Value, what: &str| number(value, what).map(|value| value as u32);
    let of = &json["shape"];
    let shape = LlamaShape {
        layers: whole(of, "layers")?,
        hidden: whole(of, "hidden")?,
        heads: whole(of, "heads")?,
        kv_heads: whole(of, "kv_heads")?,
        head_dim: whole(of, "head_dim")?,
        intermediate: whole(of, "intermediate")?,
        vocab: whole(of, "vocab")?,
        rope_theta: number(of, "rope_theta")? as f32,
        rope_scaling: Some(RopeScaling {
            factor: number(of, "factor")? as f32,
            low_frequency_factor: number(of, "low_frequency_factor")? as f32,
            high_frequency_factor: number(of, "high_frequency_factor")? as f32,
            original_context: whole(of, "original_context")?,
        }),
        rms_epsilon: number(of, "rms_epsilon")? as f32,
    };
    let mut tensors = HashMap::new();
    for (tensor, _, _) in tensors_of(&shape) {
        let file = match tensor {
            Tensor::Embedding => "embedding".to_owned(),
            Tensor::FinalNorm => "final_norm".to_owned(),
            Tensor::LmHead => "lm_head".to_owned(),
            Tensor::AttentionNorm { layer } => format!("attention_norm.{layer}"),
            Tensor::MlpNorm { layer } => format!("mlp_norm.{layer}"),
            Tensor::Projection { layer, projection } => format!("{}.{layer}", name(projection)),
        };
        tensors.insert(tensor, bits(&folder.join(file))?);
    }
    let list = |value: &Value, what: &str| value.as_array().cloned().ok_or_else(|| malformed(what));
    let mut adapters = Vec::new();
    for (index, adapter) in list(&json["adapters"], "adapters")?.iter().enumerate() {
        let mut weights = HashMap::new();
        for layer in 0..shape.layers {
            for projection in Projection::ALL {
                for (half, letter) in [(Half::A, "a"), (Half::B, "b")] {
                    let path = folder.join(format!("adapter{index}.{}.{layer}.{letter}", name(projection)));
                    weights.insert((layer, projection, half), bits(&path)?);
                }
            }
        }
        let (rank, scale) = (whole(adapter, "rank")?, number(adapter, "scale")? as f32);
        adapters.push(AdapterOf { rank, scale, weights });
    }
    let mut sequences = Vec::new();
    for sequence in list(&json["sequences"], "sequences")? {
        let tokens = list(&sequence["tokens"], "tokens")?;
        let tokens = tokens.iter().map(|token| token.as_u64().unwrap_or(u64::MAX) as u32).collect();
        sequences.push((tokens, sequence["adapter"].as_u64().map(|slot| slot as u32)));
    }
    let mut steps = Vec::new();
    for step in list(&json["steps"], "steps")? {
        let mut parts = Vec::new();
        for part in list(&step, "step")? {
            let at = |index: usize| part[index].as_u64().map(|value| value as usize).ok_or_else(|| malformed("part"));
            parts.push(Part { sequence: at(0)?, start: at(1)?, count: at(2)? });
        }
        steps.push(parts);
    }
    Ok(Case { shape, element: Element::Bf16, tensors, adapters, sequences, steps })
}
