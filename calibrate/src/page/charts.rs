//! Operations, steps and copies: dots that were measured, lines that the profile draws.

use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;

use super::{Answered, Chart, Kind, Series, published};
use crate::error::CalibrateError;
use crate::fit::physics::{self, sheet_of};
use crate::fit::predict::Predictor;
use crate::machine::{Part, Question, StepShape};

/// Rows at which lines are drawn.
pub(super) fn rows_to(most: u32) -> Vec<u32> {
    let mut rows: Vec<u32> = (1..=64).collect();
    let mut next = 64.0_f64;
    while next < f64::from(most) {
        next *= 1.04;
        rows.push((next.round() as u32).min(most));
    }
    rows.dedup();
    rows
}

pub(super) fn series(name: impl Into<String>, kind: Kind, mut points: Vec<(f64, f64)>) -> Series {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.into(), kind, points }
}

const PRODUCTS: [Part; 5] = [Part::Qkv, Part::O, Part::GateUp, Part::Down, Part::LmHead];

/// What matrix products reach, under what the data sheet allows.
pub(super) fn roofline(profile: &Profile, answered: &[Answered<'_>]) -> Chart {
    let gpu = sheet_of(profile);
    let (bandwidth, peak) = (gpu.gigabytes_per_second * 1e-3, gpu.teraflops_16bit);
    let ridge = peak / bandwidth;
    let mut all = vec![series(
        "peaks of the data sheet",
        Kind::Peak,
        vec![(0.5, 0.5 * bandwidth), (ridge, peak), (8192.0, peak)],
    )];
    for part in PRODUCTS {
        let product = physics::product(part, &profile.model, profile.tensor_parallel, &gpu);
        let place = |rows: f64, us: f64| {
            let (flops, bytes) = (product.flops_per_row * rows, product.bytes + product.bytes_per_row * rows);
            (flops / bytes, flops / us * 1e-6)
        };
        let measured = by_rows(answered, part).into_iter().map(|(rows, us)| place(rows, us)).collect();
        all.push(series(part.as_str(), Kind::Measured, measured));
        let Some(operation) = profile.operations.iter().find(|o| o.name == part.as_str()) else { continue };
        let most = profile.validity.rows.map_or(8192, |range| range.max);
        let modelled = rows_to(most)
            .into_iter()
            .map(|rows| place(f64::from(rows), operation.cost.us(f64::from(profile.padded(rows)))))
            .collect();
        all.push(series(part.as_str(), Kind::Modelled, modelled));
    }
    Chart {
        title: "Roofline of the matrix products".to_owned(),
        note: "Weights cold. A product that reaches its roof moves its bytes, or multiplies, as fast as the data sheet says.".to_owned(),
        x: "operations a byte".to_owned(),
        y: "TFLOP/s".to_owned(),
        log: (true, true),
        series: all,
    }
}

/// (rows, microseconds) of a part that was measured.
fn by_rows(answered: &[Answered<'_>], part: Part) -> Vec<(f64, f64)> {
    let of = |answer: &Answered<'_>| match answer.question {
        Question::Operation { operation, shape } if *operation == part => {
            let rows = if part.is_by_sequence() { shape.sequences() } else { shape.rows() };
            Some((f64::from(rows), answer.us))
        }
        _ => None,
    };
    answered.iter().filter_map(of).collect()
}

/// Every operation by rows: products, then what only moves bytes.
pub(super) fn operations(
    predictor: &mut Predictor<'_>,
    answered: &[Answered<'_>],
) -> Result<Vec<Chart>, CalibrateError> {
    let mut charts = Vec::new();
    for (title, parts) in [
        ("Matrix products of a layer", PRODUCTS.as_slice()),
        (
            "What only moves bytes",
            &[Part::Embedding, Part::Norm, Part::RopeAndKvAppend, Part::Activation, Part::Sampling],
        ),
    ] {
        let mut all = Vec::new();
        for &part in parts {
            all.push(series(part.as_str(), Kind::Measured, by_rows(answered, part)));
            let most = if part.is_by_sequence() { 512 } else { 8192 };
            let mut line = Vec::new();
            for rows in rows_to(most) {
                let shape =
                    if part.is_by_sequence() { StepShape::decode(rows, 16) } else { StepShape::prompt(rows, 0) };
                if let Some(us) = predictor.us(&Question::Operation { operation: part, shape })? {
                    line.push((f64::from(rows), us));
                }
            }
            all.push(series(part.as_str(), Kind::Modelled, line));
        }
        charts.push(Chart {
            title: title.to_owned(),
            note: String::new(),
            x: "rows".to_owned(),
            y: "microseconds".to_owned(),
            log: (true, true),
            series: all,
        });
    }
    Ok(charts)
}

/// Decode attention of rows of one context.
pub(super) fn decode_attention(
    predictor: &mut Predictor<'_>,
    answered: &[Answered<'_>],
) -> Result<Chart, CalibrateError> {
    let mut all = Vec::new();
    for rows in [1, 8, 32, 128] {
        let name = format!("{rows} rows");
        let of = |answer: &Answered<'_>| match answer.question {
            Question::Operation { operation: Part::DecodeAttention, shape } => match shape.decode.as_slice() {
                [(count, context)] if *count == rows => Some((f64::from(*context), answer.us)),
                _ => None,
            },
            _ => None,
        };
        let measured: Vec<(f64, f64)> = answered.iter().filter_map(of).collect();
        let longest = measured.iter().map(|(context, _)| *context).fold(8192.0 / f64::from(rows).sqrt(), f64::max);
        let mut line = Vec::new();
        for context in rows_to(longest as u32).into_iter().filter(|context| *context >= 16) {
            let shape = StepShape::decode(rows, context);
            let us = predictor.us(&Question::Operation { operation: Part::DecodeAttention, shape })?;
            line.extend(us.map(|us| (f64::from(context), us)));
        }
        all.push(series(name.clone(), Kind::Measured, measured));
        all.push(series(name, Kind::Modelled, line));
    }
    Ok(Chart {
        title: "Decode attention of a layer".to_owned(),
        note: "Rows of one context; ragged batches are in the errors below.".to_owned(),
        x: "context, tokens".to_owned(),
        y: "microseconds".to_owned(),
        log: (true, true),
        series: all,
    })
}

/// Prefill attention of one prompt after several prefixes.
pub(super) fn prefill_attention(
    predictor: &mut Predictor<'_>,
    answered: &[Answered<'_>],
) -> Result<Chart, CalibrateError> {
    let mut all = Vec::new();
    for prefix in [0, 1024, 4096, 16_384] {
        let name = if prefix == 0 { "a whole prompt".to_owned() } else { format!("after {prefix} tokens") };
        let of = |answer: &Answered<'_>| match answer.question {
            Question::Operation { operation: Part::PrefillAttention, shape } => match shape.prompts.as_slice() {
                [prompt] if prompt.prefix == prefix => Some((f64::from(prompt.chunk), answer.us)),
                _ => None,
            },
            _ => None,
        };
        all.push(series(name.clone(), Kind::Measured, answered.iter().filter_map(of).collect()));
        let mut line = Vec::new();
        for chunk in rows_to(8192).into_iter().filter(|chunk| *chunk >= 16) {
            let shape = StepShape::prompt(chunk, prefix);
            let us = predictor.us(&Question::Operation { operation: Part::PrefillAttention, shape })?;
            line.extend(us.map(|us| (f64::from(chunk), us)));
        }
        all.push(series(name, Kind::Modelled, line));
    }
    Ok(Chart {
        title: "Prefill attention of a layer".to_owned(),
        note: String::new(),
        x: "tokens computed".to_owned(),
        y: "microseconds".to_owned(),
        log: (true, true),
        series: all,
    })
}

/// A layer of decode rows, part by part, and what a layer of a whole step takes.
pub(super) fn layer(
    profile: &Profile,
    predictor: &mut Predictor<'_>,
    answered: &[Answered<'_>],
) -> Result<Chart, CalibrateError> {
    const CONTEXT: u32 = 1024;
    const ELEMENTWISE: [Part; 3] = [Part::Norm, Part::RopeAndKvAppend, Part::Activation];
    let layers = f64::from(profile.model.layers);
    let products: Vec<Part> = PRODUCTS.into_iter().filter(|part| !part.is_once()).collect();
    let parts = |shape: &StepShape, parts: &[Part], predictor: &mut Predictor<'_>| {
        let mut sum = 0.0;
        for &operation in parts {
            let us = predictor.us(&Question::Operation { operation, shape: shape.clone() })?;
            sum += us.unwrap_or(0.0) * operation.times();
        }
        Ok::<f64, CalibrateError>(sum)
    };
    let (mut by_products, mut attention, mut rest, mut whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for rows in rows_to(512) {
        let shape = StepShape::decode(rows, CONTEXT);
        let x = f64::from(rows);
        by_products.push((x, parts(&shape, &products, predictor)?));
        attention.push((x, parts(&shape, &[Part::DecodeAttention], predictor)?));
        rest.push((x, parts(&shape, &ELEMENTWISE, predictor)?));
        let once = parts(&shape, &[Part::Embedding, Part::LmHead, Part::Sampling], predictor)?;
        let step = predictor.us(&Question::Step { kernel: LoraKernel::None, shape })?;
        whole.extend(step.map(|us| (x, (us - once) / layers)));
    }
    // A layer that was measured is a step without what runs once.
    let mut measured = Vec::new();
    for answer in answered {
        let Question::Step { kernel: LoraKernel::None, shape } = answer.question else { continue };
        if let [(rows, CONTEXT)] = shape.decode.as_slice()
            && shape.prompts.is_empty()
        {
            let once = parts(shape, &[Part::Embedding, Part::LmHead, Part::Sampling], predictor)?;
            measured.push((f64::from(*rows), (answer.us - once) / layers));
        }
    }
    // Four products were measured at the same sizes: their sum was, too.
    let mut sums: std::collections::BTreeMap<u32, (usize, f64)> = std::collections::BTreeMap::new();
    for &part in &products {
        for (rows, us) in by_rows(answered, part).into_iter().filter(|(rows, _)| *rows <= 512.0) {
            let sum = sums.entry(rows as u32).or_default();
            *sum = (sum.0 + 1, sum.1 + us);
        }
    }
    let of_all = sums.into_iter().filter(|(_, (count, _))| *count == products.len());
    let products_measured = of_all.map(|(rows, (_, us))| (f64::from(rows), us)).collect();
    Ok(Chart {
        title: "A layer of decode rows, part by part".to_owned(),
        note: format!(
            "Rows of {CONTEXT} tokens, without adapters. A layer of a whole step is the step less what runs once, over its layers: gaps and \
             overlap are in it, and in no part."
        ),
        x: "rows".to_owned(),
        y: "microseconds".to_owned(),
        log: (true, true),
        series: vec![
            series("layer of a whole step", Kind::Measured, measured),
            series("layer of a whole step", Kind::Modelled, whole),
            series("products", Kind::Measured, products_measured),
            series("products", Kind::Modelled, by_products),
            series("attention", Kind::Modelled, attention),
            series("norms, rotation, activation", Kind::Modelled, rest),
        ],
    })
}

/// The GPU's part of decode steps without adapters, and the paper's figure.
pub(super) fn decode_steps(
    profile: &Profile,
    predictor: &mut Predictor<'_>,
    answered: &[Answered<'_>],
) -> Result<Chart, CalibrateError> {
    let mut all = Vec::new();
    for context in [128, 1024, 2048, 4096] {
        let name = format!("context {context}");
        let of = |answer: &Answered<'_>| match answer.question {
            Question::Step { kernel: LoraKernel::None, shape } if shape.prompts.is_empty() => {
                match shape.decode.as_slice() {
                    [(rows, c)] if *c == context => Some((f64::from(*rows), answer.us * 1e-3)),
                    _ => None,
                }
            }
            _ => None,
        };
        let measured: Vec<(f64, f64)> = answered.iter().filter_map(of).collect();
        all.push(series(name.clone(), Kind::Measured, measured));
        let mut line = Vec::new();
        for rows in rows_to(512).into_iter().filter(|rows| u64::from(*rows) * u64::from(context) <= 131_072) {
            let question = Question::Step { kernel: LoraKernel::None, shape: StepShape::decode(rows, context) };
            line.extend(predictor.us(&question)?.map(|us| (f64::from(rows), us * 1e-3)));
        }
        all.push(series(name, Kind::Modelled, line));
    }
    if profile.model.name == "llama-2-7b" {
        all.extend(published::paper_steps()?);
    }
    Ok(Chart {
        title: "Decode steps without adapters".to_owned(),
        note: "The GPU's part. Published: Figure 1 of the Punica paper, one A100 80 GB, host included.".to_owned(),
        x: "rows".to_owned(),
        y: "milliseconds".to_owned(),
        log: (true, true),
        series: all,
    })
}

/// Steps of one prompt.
pub(super) fn prefill_steps(predictor: &mut Predictor<'_>, answered: &[Answered<'_>]) -> Result<Chart, CalibrateError> {
    let mut all = Vec::new();
    for prefix in [0, 8192] {
        let name = if prefix == 0 { "a whole prompt".to_owned() } else { format!("after {prefix} tokens") };
        let of = |answer: &Answered<'_>| match answer.question {
            Question::Step { kernel: LoraKernel::None, shape } if shape.decode.is_empty() => {
                match shape.prompts.as_slice() {
                    [prompt] if prompt.prefix == prefix => Some((f64::from(prompt.chunk), answer.us * 1e-3)),
                    _ => None,
                }
            }
            _ => None,
        };
        all.push(series(name.clone(), Kind::Measured, answered.iter().filter_map(of).collect()));
        let mut line = Vec::new();
        for chunk in rows_to(8192).into_iter().filter(|chunk| *chunk >= 16) {
            let question = Question::Step { kernel: LoraKernel::None, shape: StepShape::prompt(chunk, prefix) };
            line.extend(predictor.us(&question)?.map(|us| (f64::from(chunk), us * 1e-3)));
        }
        all.push(series(name, Kind::Modelled, line));
    }
    Ok(Chart {
        title: "Prefill steps".to_owned(),
        note: "The GPU's part of a step with one prompt.".to_owned(),
        x: "tokens computed".to_owned(),
        y: "milliseconds".to_owned(),
        log: (true, true),
        series: all,
    })
}

/// Copies of adapters by size.
pub(super) fn loads(predictor: &mut Predictor<'_>, answered: &[Answered<'_>]) -> Result<Chart, CalibrateError> {
    let bytes = |rank: u32, profile: &Profile| {
        let targets = &aril_sim::model::lora::LoraTarget::LAYER;
        profile.model.adapter_bytes_per_gpu(rank, targets, profile.tensor_parallel) as f64 * 1e-6
    };
    let mut all = Vec::new();
    for (name, pinned, beside) in
        [("pinned", true, false), ("pageable", false, false), ("pinned, beside a step", true, true)]
    {
        let of = |answer: &Answered<'_>| match answer.question {
            Question::Load { rank, pinned: p, beside: b } if *p == pinned && b.is_some() == beside => {
                Some((bytes(*rank, predictor.profile()), answer.us * 1e-3))
            }
            _ => None,
        };
        all.push(series(name, Kind::Measured, answered.iter().filter_map(of).collect()));
        if !beside {
            let mut line = Vec::new();
            for rank in [1, 2, 4, 8, 16, 32, 64, 128] {
                let us = predictor.us(&Question::Load { rank, pinned, beside: None })?;
                line.extend(us.map(|us| (bytes(rank, predictor.profile()), us * 1e-3)));
            }
            all.push(series(name, Kind::Modelled, line));
        }
    }
    Ok(Chart {
        title: "Loads of adapters".to_owned(),
        note: "Ranks 1 to 128, all seven matrices of every layer.".to_owned(),
        x: "megabytes".to_owned(),
        y: "milliseconds".to_owned(),
        log: (true, true),
        series: all,
    })
}

/// Whole steps: the profile over the measurement.
pub(super) fn residuals(predictor: &mut Predictor<'_>, answered: &[Answered<'_>]) -> Result<Chart, CalibrateError> {
    let mut kinds: [(&str, Vec<(f64, f64)>); 3] =
        [("decode", Vec::new()), ("with prompts", Vec::new()), ("with adapters", Vec::new())];
    for answer in answered {
        let Question::Step { shape, .. } = answer.question else { continue };
        let Some(us) = predictor.us(answer.question)? else { continue };
        let which = if !shape.adapters.is_empty() { 2 } else { usize::from(!shape.prompts.is_empty()) };
        kinds[which].1.push((f64::from(shape.rows()), (us / answer.us - 1.0) * 100.0));
    }
    Ok(Chart {
        title: "Whole steps: modelled over measured".to_owned(),
        note: "Of the profile as it ships, which has seen these steps; the table of held-out errors has not."
            .to_owned(),
        x: "rows".to_owned(),
        y: "percent apart".to_owned(),
        log: (true, false),
        series: kinds.into_iter().map(|(name, points)| series(name, Kind::Measured, points)).collect(),
    })
}
