//! LoRA kernels by the paper's operator figures.
//!
//! The operator figures are wall times of single calls, so their constant part is mostly the call. What a step pays once
//! is therefore taken from the 2 ms a token of the abstract, and only differences between operator figures are used: what a
//! further adapter, rank or row adds.

use std::collections::BTreeMap;

use aril_sim::gpu::Gpu;
use aril_sim::model::Model;
use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::ProvenanceKind;
use aril_sim::profile::curve::Curve;
use aril_sim::profile::lora::{LoraBound, LoraCost, LoraKernel, LoraQuantity, LoraTerm};

use super::fit::line;
use super::{Facts, System, fit_error};
use crate::error::CalibrateError;

/// What the figures say of one launch, microseconds.
struct Launch {
    /// Once: the share of the 2 ms a token.
    once: f64,
    /// Each further adapter.
    segment: f64,
    /// Each byte of its weights.
    byte: f64,
    /// Each further row.
    row: f64,
}

/// The kernels that the paper gives figures for, and those that follow from them; `others` are by data sheet.
pub(super) fn kernels(
    facts: &Facts,
    gpu: &Gpu,
    system: System,
    model: &Model,
    others: &BTreeMap<LoraKernel, LoraCost>,
) -> Result<BTreeMap<LoraKernel, LoraCost>, CalibrateError> {
    let damaged = |what: &str| fit_error(system, model, what);
    let paper_model = Model::named("llama-2-7b").ok_or_else(|| damaged("its model is unknown"))?;
    let paper_gpu = Gpu::named(&facts.gpu).ok_or_else(|| damaged("its GPU is unknown"))?;
    let launch = launch(facts, &paper_model).ok_or_else(|| damaged("Fig. 9 needs two ranks"))?;
    let pairs = LoraTarget::LAYER.len() as f64;
    let (_, loop_segment) =
        line(&facts.r#loop.segments, &facts.r#loop.us).ok_or_else(|| damaged("the loop needs two points"))?;
    let launches = 2.0 * pairs;
    // Two bytes for each feature of each rank; bytes take longer on a board of less bandwidth.
    let slower = paper_gpu.gigabytes_per_second / gpu.gigabytes_per_second;
    let rank_bytes = model.adapter_bytes(1, &LoraTarget::LAYER) as f64 / f64::from(model.layers);
    let term = |over, us_per_row| LoraTerm { over, cost: Curve::per_row(us_per_row) };
    let cost = |kind, source: &str, us: f64, terms: Vec<LoraTerm>| LoraCost {
        kind: Some(kind),
        source: Some(source.to_owned()),
        idle_us: 0.0,
        idle_us_per_slot: 0.0,
        us,
        rows_per_tile: 1,
        bounds: vec![LoraBound { name: "slopes".to_owned(), terms }],
        few_rows: None,
        planned: None,
        slotted: None,
        us_per_switch: 0.0,
    };
    // The first adapter and the first row are in what is paid once.
    let further = |over, each: f64| LoraTerm { over, cost: Curve::Affine { us: -each, us_per_row: each } };
    let sgmv_terms = |ranks| {
        vec![
            further(LoraQuantity::Segments, launches * launch.segment),
            term(ranks, rank_bytes * launch.byte * slower),
            further(LoraQuantity::Rows, launches * launch.row),
        ]
    };
    let first_adapter = rank_bytes * launch.byte * f64::from(facts.rank);
    let once = (launches * launch.once - first_adapter).max(0.0);
    let loop_once =
        once + pairs * (facts.r#loop.us.first().copied().unwrap_or(0.0) - facts.operator.one_row_us).max(0.0);
    let row_bytes = f64::from(facts.rank) * 2.0 * f64::from(facts.operator.input + facts.operator.output);
    let gathered_byte = (facts.operator.gather_bmm_distinct_us - facts.operator.one_row_us)
        / (f64::from(facts.operator.rows - 1) * row_bytes);
    let mut kernels = BTreeMap::from([
        (
            LoraKernel::Sgmv,
            cost(
                ProvenanceKind::Published,
                "once: 2 ms a token (abstract); slopes: Figs. 8 and 9",
                once,
                sgmv_terms(LoraQuantity::RankSum),
            ),
        ),
        (
            LoraKernel::Padded,
            cost(
                ProvenanceKind::Derived,
                "SGMV's figures with every rank padded to the slot's",
                once,
                sgmv_terms(LoraQuantity::RankSlot),
            ),
        ),
        (
            LoraKernel::GatherBmm,
            cost(
                ProvenanceKind::Published,
                "once: as SGMV; slope: Fig. 8 as read off by a third party, uncertain",
                once,
                vec![term(LoraQuantity::RowRankPadded, rank_bytes * gathered_byte * slower)],
            ),
        ),
        (
            LoraKernel::Loop,
            cost(
                ProvenanceKind::Published,
                "the loop of the repository's backbone-vs-sgmv plot, over SGMV at one row",
                loop_once,
                vec![further(LoraQuantity::Segments, pairs * loop_segment)],
            ),
        ),
    ]);
    // The paper has no figures for these.
    for kernel in [LoraKernel::Bgmv, LoraKernel::Merged] {
        if let Some(other) = others.get(&kernel) {
            let mut derived = other.clone();
            derived.kind = Some(ProvenanceKind::Derived);
            derived.source = Some(format!("{}; bytes and arithmetic by data sheet", gpu.source));
            if kernel == LoraKernel::Bgmv {
                derived.us = once;
            }
            kernels.insert(kernel, derived);
        }
    }
    Ok(kernels)
}

/// Fig. 9 says how an adapter's cost splits into a constant and its bytes, Fig. 8 how much both halves of an operator cost.
fn launch(facts: &Facts, paper_model: &Model) -> Option<Launch> {
    let (expand, operator) = (&facts.expand, &facts.operator);
    let added: Vec<f64> =
        expand.distinct_us.iter().map(|us| (us - expand.one_row_us) / f64::from(expand.rows - 1)).collect();
    let bytes: Vec<f64> = expand.ranks.iter().map(|rank| rank * 2.0 * f64::from(expand.output)).collect();
    let (segment, byte) = line(&bytes, &added)?;
    let row = (operator.identical_us - operator.one_row_us) / (2.0 * f64::from(operator.rows - 1));
    let operator_bytes = f64::from(facts.rank) * 2.0 * f64::from(operator.input + operator.output);
    let by_expand = 2.0 * segment + operator_bytes * byte;
    let measured = (operator.distinct_us - operator.identical_us) / f64::from(operator.rows - 1);
    let launches = 2.0 * LoraTarget::LAYER.len() as f64 * f64::from(paper_model.layers);
    let share = measured / by_expand;
    Some(Launch { once: facts.lora.ms_per_token * 1e3 / launches, segment: segment * share, byte: byte * share, row })
}
