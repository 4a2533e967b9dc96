//! What the adapters of a step cost, in each layer.

use crate::batch::BatchShape;
use crate::profile::Profile;
use crate::profile::check::BadProfile;
use crate::profile::lora::{LoraCost, LoraKernel, LoraQuantity};

/// The figures of the chosen kernel; none if it is free.
#[derive(Clone, Debug)]
pub(super) struct Lora(Option<LoraCost>);

/// The quantities that a kernel's time can depend on.
#[derive(Clone, Copy, Debug, Default)]
struct Quantities {
    segments: u64,
    decode_rows: u64,
    prefill_rows: u64,
    tiles: u64,
    rank_sum: u64,
    rank_max: u64,
    row_rank_sum: u64,
    rank_slot: u64,
    slots: u64,
}

impl Lora {
    pub(super) fn compile(profile: &Profile, kernel: LoraKernel) -> Result<Lora, BadProfile> {
        if let Some(cost) = profile.lora.get(&kernel) {
            return Ok(Lora((kernel != LoraKernel::None).then(|| cost.clone())));
        }
        if kernel.is_free() {
            return Ok(Lora(None));
        }
        let known: Vec<_> = profile.lora.keys().map(|kernel| kernel.as_str()).chain(["none", "merged"]).collect();
        Err(BadProfile {
            profile: profile.name.clone(),
            key: format!("lora.{kernel}"),
            problem: format!("there are no figures for this kernel; there are for: {}", known.join(", ")),
        })
    }

    /// Microseconds in each layer.
    pub(super) fn us(&self, shape: &BatchShape<'_>) -> f64 {
        let Some(cost) = &self.0 else { return 0.0 };
        if shape.segments.is_empty() {
            let on = if shape.lora_slots > 0 { cost.idle_us } else { 0.0 };
            return on + cost.idle_us_per_slot * f64::from(shape.lora_slots);
        }
        let quantities = Quantities::of(shape, u64::from(cost.rows_per_tile.max(1)));
        let bound = |bound: &crate::profile::lora::LoraBound| {
            bound.terms.iter().map(|term| term.cost.us(quantities.get(term.over))).sum::<f64>()
        };
        let largest = cost.bounds.iter().map(bound).fold(0.0, f64::max);
        cost.idle_us + cost.idle_us_per_slot * f64::from(shape.lora_slots) + cost.us + largest
    }
}

impl Quantities {
    fn of(shape: &BatchShape<'_>, tile: u64) -> Quantities {
        let mut sums = Quantities {
            segments: shape.segments.len() as u64,
            slots: u64::from(shape.lora_slots),
            ..Quantities::default()
        };
        for segment in shape.segments {
            let (rank, rows) =
                (u64::from(segment.rank), u64::from(segment.prefill_rows) + u64::from(segment.decode_rows));
            sums.decode_rows += u64::from(segment.decode_rows);
            sums.prefill_rows += u64::from(segment.prefill_rows);
            sums.tiles += rows.div_ceil(tile);
            sums.rank_sum += rank;
            sums.rank_max = sums.rank_max.max(rank);
            sums.row_rank_sum += rows * rank;
        }
        // Where no slots are configured the widest adapter decides.
        sums.rank_slot = u64::from(shape.lora_rank_max).max(sums.rank_max);
        sums
    }

    fn get(&self, quantity: LoraQuantity) -> f64 {
        let rows = self.decode_rows + self.prefill_rows;
        let value = match quantity {
            LoraQuantity::Segments => self.segments,
            LoraQuantity::Rows => rows,
            LoraQuantity::DecodeRows => self.decode_rows,
            LoraQuantity::PrefillRows => self.prefill_rows,
            LoraQuantity::Tiles => self.tiles,
            LoraQuantity::RankSum => self.rank_sum,
            LoraQuantity::RankPadded => self.segments * self.rank_max,
            LoraQuantity::RankSlot => self.segments * self.rank_slot,
            LoraQuantity::SlotRanks => self.slots * self.rank_slot,
            LoraQuantity::RowRankSum => self.row_rank_sum,
            LoraQuantity::RowRankPadded => rows * self.rank_max,
            LoraQuantity::RowRankSlot => rows * self.rank_slot,
        };
        value as f64
    }
}
