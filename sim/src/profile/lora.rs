//! What adapters add to a step, by kernel: enabled but idle, once used, and by segments, ranks and rows.

mod planned;
mod slotted;

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ProvenanceKind;
use super::curve::{Curve, not_negative};
pub(crate) use planned::{Abreast, Classes, Ready, Sites};
pub use planned::{Planned, PlannedBeside, PlannedExchange, PlannedSite, PlannedTile, SharedOut};
pub(crate) use slotted::Slots;
pub use slotted::{Slotted, SlottedGrid, SlottedProjection};

/// Which kernel adds adapters to a batch?
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraKernel {
    /// No adapter is computed at all: the backbone alone, as the paper ran FasterTransformer and vLLM.
    None,
    /// One adapter is added into the weights: steps cost what the backbone costs, switching adapters takes time.
    Merged,
    /// One small matrix product after the other, adapter by adapter (PEFT).
    Loop,
    /// Weights of each row gathered into a batch of their own, then a batched product.
    GatherBmm,
    /// Row by row, whatever rows share (Punica's BGMV).
    Bgmv,
    /// By segments, every rank padded to the largest that a slot can hold (vLLM).
    Padded,
    /// By segments of rows that share an adapter (Punica's SGMV).
    Sgmv,
    /// By segments, this project's kernels.
    Segmented,
}

impl LoraKernel {
    /// All of them.
    pub const ALL: [LoraKernel; 8] = [
        LoraKernel::None,
        LoraKernel::Merged,
        LoraKernel::Loop,
        LoraKernel::GatherBmm,
        LoraKernel::Bgmv,
        LoraKernel::Padded,
        LoraKernel::Sgmv,
        LoraKernel::Segmented,
    ];

    /// As scenarios and profiles write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            LoraKernel::None => "none",
            LoraKernel::Merged => "merged",
            LoraKernel::Loop => "loop",
            LoraKernel::GatherBmm => "gather-bmm",
            LoraKernel::Bgmv => "bgmv",
            LoraKernel::Padded => "padded",
            LoraKernel::Sgmv => "sgmv",
            LoraKernel::Segmented => "segmented",
        }
    }

    /// Is it free even where a profile has no figures for it?
    pub const fn is_free(self) -> bool {
        matches!(self, LoraKernel::None | LoraKernel::Merged)
    }
}

impl fmt::Display for LoraKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Reads the name as scenarios write it; the error lists all names.
impl FromStr for LoraKernel {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraKernel, String> {
        LoraKernel::ALL.into_iter().find(|kernel| kernel.as_str() == text).ok_or_else(|| {
            let names: Vec<_> = LoraKernel::ALL.iter().map(|kernel| kernel.as_str()).collect();
            format!("`{text}` is no LoRA kernel: {}", names.join(", "))
        })
    }
}

/// What one kernel costs in each layer, over all matrices that adapters add to.
///
/// `idle + slots × idle_per_slot`, whenever LoRA is on; then, with a segment in the step, `us + the largest of the bounds`.
/// What a plan shares out was measured whole, with what launches cost whatever they compute: that takes the place of idleness, never less than it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraCost {
    /// How do we know? Where absent, as the profile as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ProvenanceKind>,
    /// Where the figures come from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// LoRA on, no adapter in the step: each layer.
    #[serde(default)]
    pub idle_us: f64,
    /// The same, for each configured slot.
    #[serde(default)]
    pub idle_us_per_slot: f64,
    /// Once an adapter is in the step: each layer.
    pub us: f64,
    /// Rows are computed in whole tiles of so many of one segment, where a term counts tiles.
    #[serde(default = "one_row")]
    pub rows_per_tile: u32,
    /// What the segments cost: the largest of these.
    #[serde(default)]
    pub bounds: Vec<LoraBound>,
    /// Other bounds for steps of few rows, where adapters hide behind the products.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_rows: Option<FewRows>,
    /// What the segments of all other steps cost, where a plan shares them out that is known; then there are no bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<Planned>,
    /// What the segments cost beside `us` where grids have a slot for each adapter and row tile; then there are no bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slotted: Option<Slotted>,
    /// Merging another adapter into the weights, once, where the kernel does so.
    #[serde(default)]
    pub us_per_switch: f64,
}

fn one_row() -> u32 {
    1
}

/// What the segments of a step of few rows cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FewRows {
    /// The most rows of such a step, with adapters and without.
    pub rows_max: u32,
    /// The largest of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bounds: Vec<LoraBound>,
    /// What they cost where a plan shares them out that is known; then there are no bounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planned: Option<Planned>,
    /// What whoever reads the products takes longer for adding what adapters wrote beside them, by the rows of the step, with adapters and
    /// without; each layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading: Option<Curve>,
}

/// A sum of terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraBound {
    /// What bounds it, such as `bandwidth`.
    pub name: String,
    /// At least one.
    pub terms: Vec<LoraTerm>,
}

/// A cost as a function of one quantity of the batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraTerm {
    /// Of what.
    pub over: LoraQuantity,
    /// How much; the `rows` of the curve are the quantity.
    pub cost: Curve,
}

/// What a kernel's time can depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LoraQuantity {
    /// Distinct adapters in the step.
    Segments,
    /// Rows that use an adapter.
    Rows,
    /// Decode rows that use an adapter.
    DecodeRows,
    /// Prefill rows that use an adapter.
    PrefillRows,
    /// Sum over segments of whole tiles of rows.
    Tiles,
    /// Sum of the ranks of the segments.
    RankSum,
    /// The largest rank among the segments.
    RankMax,
    /// Segments times the largest rank among them.
    RankPadded,
    /// Segments times the largest rank that a slot can hold.
    RankSlot,
    /// Configured slots times the largest rank that a slot can hold.
    SlotRanks,
    /// Sum over rows of the rank they use.
    RowRankSum,
    /// Rows times the largest rank among the segments.
    RowRankPadded,
    /// Rows times the largest rank that a slot can hold.
    RowRankSlot,
    /// The rank of each segment by itself: the cost is that of a segment of the rank, summed over all segments.
    EachRank,
    /// The same, times the rows of each segment.
    RowsOfEachRank,
}

impl LoraQuantity {
    /// Is the cost a function of one segment's rank, summed over the segments?
    pub const fn is_by_rank(self) -> bool {
        matches!(self, LoraQuantity::EachRank | LoraQuantity::RowsOfEachRank)
    }
}

impl LoraCost {
    pub(crate) fn check(&self) -> Result<(), String> {
        for (key, value) in [
            ("idle_us", self.idle_us),
            ("idle_us_per_slot", self.idle_us_per_slot),
            ("us", self.us),
            ("us_per_switch", self.us_per_switch),
        ] {
            not_negative(key, value)?;
        }
        if self.rows_per_tile == 0 {
            return Err("rows_per_tile is 0: at least 1".to_owned());
        }
        if let Some(planned) = &self.planned {
            planned.check().map_err(|error| format!("planned: {error}"))?;
        }
        if let Some(slotted) = &self.slotted {
            slotted.check().map_err(|error| format!("slotted: {error}"))?;
        }
        if let Some(few) = &self.few_rows {
            if let Some(planned) = &few.planned {
                planned.check().map_err(|error| format!("few_rows: planned: {error}"))?;
            }
            if let Some(reading) = &few.reading {
                reading.check().map_err(|error| format!("few_rows: reading: {error}"))?;
            }
        }
        for bound in self.bounds.iter().chain(self.few_rows.iter().flat_map(|few| &few.bounds)) {
            if bound.terms.is_empty() {
                return Err(format!("bound `{}` has no terms", bound.name));
            }
            for term in &bound.terms {
                term.cost.check().map_err(|error| format!("bound `{}`: {error}", bound.name))?;
            }
        }
        Ok(())
    }
}
