//! What each LoRA kernel should need, by the bytes and the arithmetic that its way of working moves.

use std::collections::BTreeMap;

use aril_sim::model::lora::LoraTarget;
use aril_sim::profile::curve::Curve;
use aril_sim::profile::lora::{LoraBound, LoraCost, LoraKernel, LoraQuantity, LoraTerm};

use super::Sheet;

/// A shrink and an expand for each of the seven matrices.
const KERNELS_PER_LAYER: f64 = 2.0 * LoraTarget::LAYER.len() as f64;

/// What a kernel's way of working repeats.
struct Way {
    /// Kernels in a layer, whatever the batch.
    kernels: f64,
    /// Whose weights are read: a quantity counted in ranks.
    weights: LoraQuantity,
    /// How often their bytes are moved.
    times: f64,
    /// What is multiplied: rows times ranks.
    arithmetic: LoraQuantity,
    /// Kernels launched one by one for each segment.
    kernels_per_segment: f64,
}

/// The kernels whose cost follows from what they move. `segmented` is measured or absent.
pub(super) fn kernels(sheet: &Sheet<'_>) -> BTreeMap<LoraKernel, LoraCost> {
    let fused = |weights, arithmetic| Way {
        kernels: KERNELS_PER_LAYER,
        weights,
        times: 1.0,
        arithmetic,
        kernels_per_segment: 0.0,
    };
    let ways = [
        (LoraKernel::Sgmv, fused(LoraQuantity::RankSum, LoraQuantity::RowRankSum)),
        (LoraKernel::Padded, fused(LoraQuantity::RankSlot, LoraQuantity::RowRankSlot)),
        (LoraKernel::Bgmv, fused(LoraQuantity::RowRankSum, LoraQuantity::RowRankSum)),
        (
            // Gathered weights are read, written, and read again; gathering is a kernel of its own for A and for B.
            LoraKernel::GatherBmm,
            Way {
                kernels: 2.0 * KERNELS_PER_LAYER,
                weights: LoraQuantity::RowRankPadded,
                times: 3.0,
                arithmetic: LoraQuantity::RowRankPadded,
                kernels_per_segment: 0.0,
            },
        ),
        (
            // Two products and an addition for each matrix and each adapter.
            LoraKernel::Loop,
            Way {
                kernels: 0.0,
                weights: LoraQuantity::RankSum,
                times: 1.0,
                arithmetic: LoraQuantity::RowRankSum,
                kernels_per_segment: 3.0 * LoraTarget::LAYER.len() as f64,
            },
        ),
    ];
    let mut costs: BTreeMap<_, _> = ways.into_iter().map(|(kernel, way)| (kernel, cost(sheet, &way))).collect();
    costs.insert(LoraKernel::Merged, merged(sheet));
    costs
}

fn cost(sheet: &Sheet<'_>, way: &Way) -> LoraCost {
    let features = features(sheet);
    // Every row is read once for each matrix, and its result is read and written.
    let row_bytes: f64 = LoraTarget::LAYER
        .iter()
        .map(|&target| {
            let projection = sheet.model.projection(target);
            2.0 * (projection.input as f64 + 2.0 * projection.output as f64) / sheet.degree
        })
        .sum();
    let flops = 2.0 * features / (sheet.gpu.teraflops_16bit * sheet.a.arithmetic_efficiency * 1e6);
    let term = |over, us_per_row| LoraTerm { over, cost: Curve::per_row(us_per_row) };
    let launches = term(LoraQuantity::Segments, way.kernels_per_segment * sheet.a.eager_kernel_us);
    let bound = |name: &str, terms: Vec<LoraTerm>| {
        let launches = (way.kernels_per_segment > 0.0).then(|| launches.clone());
        LoraBound { name: name.to_owned(), terms: terms.into_iter().chain(launches).collect() }
    };
    LoraCost {
        kind: None,
        source: None,
        idle_us: 0.0,
        idle_us_per_slot: 0.0,
        us: way.kernels * sheet.a.kernel_us,
        rows_per_tile: 1,
        bounds: vec![
            bound(
                "bandwidth",
                vec![
                    term(way.weights, way.times * sheet.stream_us(2.0 * features)),
                    term(LoraQuantity::Rows, sheet.stream_us(row_bytes)),
                ],
            ),
            bound("arithmetic", vec![term(way.arithmetic, flops)]),
        ],
        few_rows: None,
        planned: None,
        slotted: None,
        us_per_switch: 0.0,
    }
}

/// Merged weights cost a step nothing; a switch subtracts one product from every matrix and adds another.
fn merged(sheet: &Sheet<'_>) -> LoraCost {
    let layers = f64::from(sheet.model.layers);
    let matrices = sheet.model.layer_matrix_parameters() as f64 * sheet.model.weights.bytes() as f64 / sheet.degree;
    LoraCost {
        kind: None,
        source: None,
        idle_us: 0.0,
        idle_us_per_slot: 0.0,
        us: 0.0,
        rows_per_tile: 1,
        bounds: Vec::new(),
        few_rows: None,
        planned: None,
        slotted: None,
        us_per_switch: layers * (2.0 * sheet.stream_us(2.0 * matrices) + 2.0 * 7.0 * sheet.a.kernel_us),
    }
}

/// Input and output features of this GPU's share of the adapters of a layer.
fn features(sheet: &Sheet<'_>) -> f64 {
    let bytes = sheet.model.adapter_bytes_per_gpu(1, &LoraTarget::LAYER, sheet.degree as u32);
    bytes as f64 / 2.0 / f64::from(sheet.model.layers)
}
