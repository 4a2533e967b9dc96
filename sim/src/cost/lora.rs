//! What the adapters of a step cost, in each layer.

use crate::batch::{BatchShape, Segment};
use crate::profile::check::BadProfile;
use crate::profile::lora::{LoraBound, LoraCost, LoraKernel, LoraQuantity, LoraTerm};
use crate::profile::{Profile, Range};

/// The figures of the chosen kernel; none if it is free.
#[derive(Clone, Debug)]
pub(super) struct Lora(Option<Figures>);

#[derive(Clone, Debug)]
struct Figures {
    cost: LoraCost,
    /// Does a term count tiles? Each segment pays a division then.
    counts_tiles: bool,
    /// Does a term look at single ranks?
    ranks: bool,
    bounds: Vec<Bound>,
    few_rows: Vec<Bound>,
}

/// A bound's terms over quantities, and what it costs by rank: a segment, and each of its rows. The last rank stands for wider ones.
#[derive(Clone, Debug)]
struct Bound {
    terms: Vec<LoraTerm>,
    by_rank: Vec<[f64; 2]>,
}

/// No kernel of ours serves wider adapters.
const RANK_MAX: u32 = 256;

/// What one pass over the segments gives.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    decode_rows: u64,
    prefill_rows: u64,
    rank_sum: u64,
    row_rank_sum: u64,
    rank_max: u32,
    /// Is a rank out of range?
    pub(super) rank_outside: bool,
}

/// The quantities that a kernel's time can depend on.
#[derive(Clone, Copy, Debug)]
struct Quantities {
    sums: Sums,
    segments: u64,
    tiles: u64,
    rank_slot: u64,
    slots: u64,
}

impl Lora {
    pub(super) fn compile(profile: &Profile, kernel: LoraKernel) -> Result<Lora, BadProfile> {
        if kernel == LoraKernel::None {
            return Ok(Lora(None));
        }
        if let Some(cost) = profile.lora.get(&kernel) {
            return Ok(Lora(Some(Figures::of(cost))));
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

    /// Does it compute adapters at all?
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Does it launch anything for the adapters of a step? Merged weights need no launch.
    pub(super) fn launches(&self) -> bool {
        self.0.as_ref().is_some_and(|figures| figures.cost.us > 0.0 || !figures.cost.bounds.is_empty())
    }

    /// Does its time depend on single ranks, beyond their sum?
    pub(super) fn reads_ranks(&self) -> bool {
        self.0.as_ref().is_some_and(|figures| figures.ranks)
    }

    /// Microseconds in each layer.
    pub(super) fn us(&self, shape: &BatchShape<'_>, sums: &Sums) -> f64 {
        let Some(Figures { cost, counts_tiles, bounds, few_rows, .. }) = &self.0 else { return 0.0 };
        let slots = f64::from(shape.lora_slots);
        if shape.segments.is_empty() {
            let on = if shape.lora_slots > 0 { cost.idle_us } else { 0.0 };
            return on + cost.idle_us_per_slot * slots;
        }
        let quantities = Quantities::of(shape, sums, if *counts_tiles { Some(cost.rows_per_tile) } else { None });
        let bounds = match &cost.few_rows {
            Some(few) if shape.decode_rows().saturating_add(shape.prefill_tokens()) <= few.rows_max => few_rows,
            _ => bounds,
        };
        let largest = bounds.iter().map(|bound| bound.us(&quantities, shape.segments)).fold(0.0, f64::max);
        cost.idle_us + cost.idle_us_per_slot * slots + cost.us + largest
    }
}

/// Whole tiles of rows, over all segments.
fn tiles(segments: &[Segment], rows_per_tile: u32) -> u64 {
    let of = |segment: &Segment| {
        u64::from((segment.prefill_rows.saturating_add(segment.decode_rows)).div_ceil(rows_per_tile))
    };
    segments.iter().map(of).sum()
}

impl Sums {
    /// One pass over the segments: the hot loop of a look-up. `valid` says which ranks are in range; `ranks`: does anybody ask for
    /// more than rows and the sum of ranks?
    pub(super) fn of(segments: &[Segment], valid: Range, ranks: bool) -> Sums {
        // A step has fewer than 2^32 rows, and no more of one adapter.
        let (mut decode, mut prefill, mut rank, mut outside) = (0_u32, 0_u32, 0_u64, false);
        let width = valid.max.saturating_sub(valid.min);
        for segment in segments {
            decode = decode.wrapping_add(segment.decode_rows);
            prefill = prefill.wrapping_add(segment.prefill_rows);
            rank += u64::from(segment.rank);
            // One comparison for both ends.
            outside |= segment.rank.wrapping_sub(valid.min) > width;
        }
        let mut sums = Sums {
            decode_rows: u64::from(decode),
            prefill_rows: u64::from(prefill),
            rank_sum: rank,
            rank_outside: outside,
            ..Sums::default()
        };
        if ranks {
            for segment in segments {
                sums.row_rank_sum +=
                    u64::from(segment.rank) * u64::from(segment.decode_rows.wrapping_add(segment.prefill_rows));
                sums.rank_max = sums.rank_max.max(segment.rank);
            }
        }
        sums
    }
}

impl Figures {
    fn of(cost: &LoraCost) -> Figures {
        let all = || cost.bounds.iter().chain(cost.few_rows.iter().flat_map(|few| &few.bounds));
        let mut terms = all().flat_map(|bound| &bound.terms);
        let counts_tiles = terms.any(|term| term.over == LoraQuantity::Tiles);
        let plain = [
            LoraQuantity::EachRank,
            LoraQuantity::RowsOfEachRank,
            LoraQuantity::Segments,
            LoraQuantity::Rows,
            LoraQuantity::DecodeRows,
            LoraQuantity::PrefillRows,
        ]
        .into_iter()
        .chain([LoraQuantity::RankSum, LoraQuantity::Tiles]);
        let plain: Vec<LoraQuantity> = plain.collect();
        let mut terms = all().flat_map(|bound| &bound.terms);
        let ranks = terms.any(|term| !plain.contains(&term.over));
        let few = cost.few_rows.iter().flat_map(|few| &few.bounds).map(Bound::of).collect();
        Figures {
            cost: cost.clone(),
            counts_tiles,
            ranks,
            bounds: cost.bounds.iter().map(Bound::of).collect(),
            few_rows: few,
        }
    }
}

impl Bound {
    fn of(bound: &LoraBound) -> Bound {
        let (by_rank, terms): (Vec<&LoraTerm>, Vec<&LoraTerm>) =
            bound.terms.iter().partition(|term| term.over.is_by_rank());
        let of_rank = |rank: u32| {
            let of = |over: LoraQuantity| {
                by_rank.iter().filter(|term| term.over == over).map(|term| term.cost.us(f64::from(rank))).sum()
            };
            [of(LoraQuantity::EachRank), of(LoraQuantity::RowsOfEachRank)]
        };
        let by_rank = if by_rank.is_empty() { Vec::new() } else { (0..=RANK_MAX).map(of_rank).collect() };
        Bound { terms: terms.into_iter().cloned().collect(), by_rank }
    }

    fn us(&self, quantities: &Quantities, segments: &[Segment]) -> f64 {
        let mut us: f64 = self.terms.iter().map(|term| term.cost.us(quantities.get(term.over))).sum();
        if let Some(widest) = self.by_rank.last() {
            for segment in segments {
                let [each, row] = self.by_rank.get(segment.rank as usize).unwrap_or(widest);
                us += each + row * f64::from(segment.decode_rows.wrapping_add(segment.prefill_rows));
            }
        }
        us
    }
}

impl LoraCost {
    /// What the kernel adds to each layer of such a step, microseconds.
    pub fn us(&self, shape: &BatchShape<'_>) -> f64 {
        Lora(Some(Figures::of(self))).us(shape, &Sums::of(shape.segments, Range { min: 0, max: u32::MAX }, true))
    }
}

impl LoraQuantity {
    /// How much of it is in a step? Tiles are of `rows_per_tile` rows.
    pub fn of(self, shape: &BatchShape<'_>, rows_per_tile: u32) -> f64 {
        Quantities::of(shape, &Sums::of(shape.segments, Range { min: 0, max: u32::MAX }, true), Some(rows_per_tile))
            .get(self)
    }
}

impl Quantities {
    /// Tiles are counted where their rows are given.
    fn of(shape: &BatchShape<'_>, sums: &Sums, rows_per_tile: Option<u32>) -> Quantities {
        Quantities {
            segments: shape.segments.len() as u64,
            sums: *sums,
            tiles: rows_per_tile.map_or(0, |rows| tiles(shape.segments, rows.max(1))),
            // Where no slots are configured the widest adapter decides.
            rank_slot: u64::from(shape.lora_rank_max.max(sums.rank_max)),
            slots: u64::from(shape.lora_slots),
        }
    }

    fn get(&self, quantity: LoraQuantity) -> f64 {
        let Sums { decode_rows, prefill_rows, rank_sum, row_rank_sum, rank_max, .. } = self.sums;
        let (rows, rank_max) = (decode_rows + prefill_rows, u64::from(rank_max));
        let value = match quantity {
            LoraQuantity::Segments => self.segments,
            LoraQuantity::Rows => rows,
            LoraQuantity::DecodeRows => decode_rows,
            LoraQuantity::PrefillRows => prefill_rows,
            LoraQuantity::Tiles => self.tiles,
            LoraQuantity::RankSum => rank_sum,
            LoraQuantity::RankMax => rank_max,
            LoraQuantity::RankPadded => self.segments * rank_max,
            LoraQuantity::RankSlot => self.segments * self.rank_slot,
            LoraQuantity::SlotRanks => self.slots * self.rank_slot,
            LoraQuantity::RowRankSum => row_rank_sum,
            LoraQuantity::RowRankPadded => rows * rank_max,
            LoraQuantity::RowRankSlot => rows * self.rank_slot,
            // Terms by rank are summed segment by segment.
            LoraQuantity::EachRank | LoraQuantity::RowsOfEachRank => 0,
        };
        value as f64
    }
}
