//! The figures that people quote, and how far the profile is off.

use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::Profile;
use aril_sim::profile::lora::LoraKernel;

use super::{Answered, Table};
use crate::error::CalibrateError;
use crate::fit::predict::Predictor;
use crate::machine::{Question, StepShape};
use crate::recording::Recording;

/// One sentence: how good is it?
pub(super) fn verdict(profile: &Profile) -> String {
    let step = profile.held_out.iter().find(|e| e.of == "step");
    match step {
        Some(e) => format!(
            "Whole steps that the fit never saw are {:.1} % off in the median and {:.1} % at the 95th percentile, {:+.1} % on average.",
            e.median_percent, e.p95_percent, e.mean_signed_percent
        ),
        None => "Nothing was held out: nobody knows how far this profile is off.".to_owned(),
    }
}

pub(super) fn facts(profile: &Profile, recordings: &[Recording]) -> Vec<(String, String)> {
    let p = &profile.provenance;
    let mut facts = vec![
        ("profile".to_owned(), profile.name.clone()),
        ("known by".to_owned(), format!("{}: {}", p.kind.as_str(), p.source)),
    ];
    for (key, value) in [
        ("GPU", &p.gpu),
        ("driver", &p.driver),
        ("CUDA", &p.cuda),
        ("clocks", &p.clocks),
        ("kernel sources", &p.kernel_source_hash),
        ("commit", &p.commit),
        ("date", &p.date),
        ("note", &p.note),
    ] {
        if let Some(value) = value {
            facts.push((key.to_owned(), value.clone()));
        }
    }
    for recording in recordings {
        let seconds: f64 = recording.sessions.iter().map(|session| session.budget_s).sum();
        let points = recording.points.len();
        facts.push(("measurements".to_owned(), format!("{points} points, budget {seconds:.0} s")));
    }
    facts
}

pub(super) fn tables(profile: &Profile, answered: &[Answered<'_>]) -> Result<Vec<Table>, CalibrateError> {
    let mut tables = vec![quoted(profile, answered)?, layer(profile)];
    if !profile.held_out.is_empty() {
        let rows = profile.held_out.iter().map(|e| {
            vec![
                e.of.clone(),
                e.split.clone(),
                e.shapes.to_string(),
                format!("{:.2} %", e.median_percent),
                format!("{:.2} %", e.p95_percent),
                format!("{:+.2} %", e.mean_signed_percent),
                e.median_us.map_or_else(|| "–".to_owned(), |us| format!("{us:.1}")),
                e.p95_us.map_or_else(|| "–".to_owned(), |us| format!("{us:.1}")),
            ]
        });
        tables.push(Table {
            title: "How far off on shapes that the fit never saw".to_owned(),
            note: "Each row is of fits made without the shapes that it judges.".to_owned(),
            headings: ["of", "held out", "shapes", "median", "95th percentile", "mean", "median, us", "95th, us"]
                .map(str::to_owned)
                .to_vec(),
            rows: rows.collect(),
        });
    }
    Ok(tables)
}

/// The paper's points, LoRA's three figures, and a load.
pub(super) fn quoted_questions(profile: &Profile) -> Vec<(String, Question)> {
    let ours = LoraKernel::Segmented;
    let mut questions = Vec::new();
    for (rows, context) in [(1, 128), (32, 128), (1, 2048), (32, 2048)] {
        let shape = StepShape::decode(rows, context);
        let what = format!("decode step, {rows} rows of {context}");
        questions.push((what.clone(), Question::Step { kernel: LoraKernel::None, shape: shape.clone() }));
        let with = shape.with_adapters(16, &vec![1; rows as usize]);
        questions
            .push((format!("{what}, each its own adapter of rank 16"), Question::Step { kernel: ours, shape: with }));
    }
    let one = StepShape::decode(1, 512);
    for (what, kernel, shape) in [
        ("1 row of 512, LoRA off", LoraKernel::None, one.clone()),
        ("1 row of 512, LoRA enabled but idle", ours, one.clone()),
        ("1 row of 512, one adapter of rank 16", ours, one.with_adapters(16, &[1])),
    ] {
        questions.push((what.to_owned(), Question::Step { kernel, shape }));
    }
    let mb = profile.model.adapter_bytes_per_gpu(16, &LoraTarget::LAYER, profile.tensor_parallel) as f64 * 1e-6;
    let load = Question::Load { rank: 16, pinned: true, beside: None };
    questions.push((format!("load of an adapter of rank 16 ({mb:.0} MB, pinned)"), load));
    questions
}

/// The same: measured where they were, modelled always.
fn quoted(profile: &Profile, answered: &[Answered<'_>]) -> Result<Table, CalibrateError> {
    let questions = quoted_questions(profile);
    let mut predictor = Predictor::new(profile);
    let mut rows = Vec::new();
    for (what, question) in questions {
        let measured = answered.iter().find(|answer| *answer.question == question).map(|answer| answer.us);
        let modelled = predictor.us(&question)?;
        let ms = |us: Option<f64>| us.map_or_else(|| "–".to_owned(), |us| format!("{:.3} ms", us * 1e-3));
        rows.push(vec![what, ms(measured), ms(modelled)]);
    }
    Ok(Table {
        title: "The figures that people quote".to_owned(),
        note: "The GPU's part of a step; the host's part is in the profile apart.".to_owned(),
        headings: ["", "measured", "modelled"].map(str::to_owned).to_vec(),
        rows,
    })
}

/// Where the time of a layer goes.
fn layer(profile: &Profile) -> Table {
    let sizes = [1_u32, 32, 256, 2048];
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut totals = [0.0; 4];
    let mut add = |name: &str, us: [f64; 4]| {
        totals.iter_mut().zip(us).for_each(|(total, us)| *total += us);
        rows.push(std::iter::once(name.to_owned()).chain(us.map(|us| format!("{us:.1}"))).collect());
    };
    for operation in profile.operations.iter().filter(|o| o.per == aril_sim::profile::Per::Layer) {
        add(&operation.name, sizes.map(|rows| operation.cost.us(f64::from(profile.padded(rows)))));
    }
    let decode = |rows: u32| profile.decode_attention.us(rows, u64::from(rows) * 512, 512);
    add("decode attention, context 512", sizes.map(|rows| if rows <= 512 { decode(rows) } else { 0.0 }));
    let last = std::iter::once("sum".to_owned()).chain(totals.map(|us| format!("{us:.1}"))).collect();
    rows.push(last);
    Table {
        title: "Where the time of a layer goes, as the profile has it".to_owned(),
        note: "Microseconds by rows; 2,048 rows are a prompt, whose attention is not in the sum.".to_owned(),
        headings: std::iter::once("operation".to_owned()).chain(sizes.map(|rows| format!("{rows} rows"))).collect(),
        rows,
    }
}
