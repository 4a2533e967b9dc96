//! Adapters: a layer by kernel, and the curve over their number beside what others say of it.

use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;

use super::charts::series;
use super::{Answered, Chart, Kind, published};
use crate::error::CalibrateError;
use crate::fit::predict::Predictor;
use crate::machine::{Question, StepShape};

/// The rank of the charts.
const RANK: u32 = 16;
/// Numbers of adapters at which lines are drawn.
const ADAPTERS: [u32; 17] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256];

/// What each kernel adds to a layer: one row an adapter.
pub(super) fn layer(
    profile: &Profile,
    predictor: &mut Predictor<'_>,
    answered: &[Answered<'_>],
) -> Result<Chart, CalibrateError> {
    let mut all = Vec::new();
    for &kernel in profile.lora.keys().filter(|kernel| !kernel.is_free()) {
        let of = |answer: &Answered<'_>| match answer.question {
            Question::Lora { kernel: k, shape } if *k == kernel && shape.prompts.is_empty() => {
                let distinct = shape.adapters.iter().all(|a| a.rank == RANK && a.decode == 1);
                distinct.then_some((shape.adapters.len() as f64, answer.us))
            }
            _ => None,
        };
        all.push(series(kernel.as_str(), Kind::Measured, answered.iter().filter_map(of).collect()));
        let mut line = Vec::new();
        for adapters in ADAPTERS {
            let shape = StepShape::decode(adapters, 16).with_adapters(RANK, &vec![1; adapters as usize]);
            line.extend(predictor.us(&Question::Lora { kernel, shape })?.map(|us| (f64::from(adapters), us)));
        }
        all.push(series(kernel.as_str(), Kind::Modelled, line));
    }
    Ok(Chart {
        title: "What adapters add to a layer, by kernel".to_owned(),
        note: format!("Rank {RANK}, one row an adapter, all seven matrices."),
        x: "adapters".to_owned(),
        y: "microseconds".to_owned(),
        log: (true, true),
        series: all,
    })
}

/// The step over the step without LoRA, by the number of adapters that share 256 rows: alone with what others measured, so that the shape
/// is seen, and beside the straight lines of other simulators.
pub(super) fn curves(predictor: &mut Predictor<'_>, answered: &[Answered<'_>]) -> Result<[Chart; 2], CalibrateError> {
    const ROWS: u32 = 256;
    const CONTEXT: u32 = 256;
    let kernel = LoraKernel::Segmented;
    let shape = |adapters: u32| {
        let bare = StepShape::decode(ROWS, CONTEXT);
        let share = |index: u32| ROWS / adapters + u32::from(index < ROWS % adapters);
        if adapters == 0 { bare } else { bare.with_adapters(RANK, &(0..adapters).map(share).collect::<Vec<_>>()) }
    };
    let off = Question::Step { kernel: LoraKernel::None, shape: shape(0) };
    let measured_off = answered.iter().find(|answer| *answer.question == off).map(|answer| answer.us);
    let of = |answer: &Answered<'_>| match answer.question {
        Question::Step { kernel: k, shape } if *k == kernel && shape.decode == [(ROWS, CONTEXT)] => {
            let even = shape.adapters.iter().all(|a| a.rank == RANK);
            even.then(|| Some((shape.adapters.len() as f64, answer.us / measured_off?))).flatten()
        }
        _ => None,
    };
    let mut all = vec![series("this GPU, our kernels", Kind::Measured, answered.iter().filter_map(of).collect())];
    let base = predictor.us(&off)?;
    let mut line = Vec::new();
    for adapters in std::iter::once(0).chain(ADAPTERS) {
        let us = predictor.us(&Question::Step { kernel, shape: shape(adapters) })?;
        if let (Some(us), Some(base)) = (us, base) {
            line.push((f64::from(adapters), us / base));
        }
    }
    all.push(series("this GPU, our kernels", Kind::Modelled, line));
    let mut published = published::vllm(RANK)?;
    for curve in &mut published {
        curve.points.retain(|(adapters, _)| *adapters <= f64::from(ROWS));
    }
    all.extend(published);
    let note = format!(
        "Ours: {ROWS} rows of {CONTEXT} tokens shared evenly, rank {RANK}; at 0 LoRA is enabled but idle. Published: vLLM 0.5.0, Llama-2-7B at \
         saturation, another and unnamed GPU: compare the shape alone."
    );
    let chart = |title: &str, note: String, series| Chart {
        title: title.to_owned(),
        note,
        x: "adapters".to_owned(),
        y: "times the step without LoRA".to_owned(),
        log: (false, false),
        series,
    };
    let mut with_lines = all.clone();
    with_lines.extend(published::lines(RANK)?);
    Ok([
        chart("The step over the step without LoRA, by adapters in use", note, all),
        chart(
            "The same beside the straight lines in use elsewhere",
            "Straight lines: what other simulators multiply a step by, whatever the kernels.".to_owned(),
            with_lines,
        ),
    ])
}
