//! What the adapters of a step cost, in each layer.

mod remembered;

use super::memory::Memory;
use super::quick::Quick;
use crate::batch::{BatchShape, Segment, SegmentSums, TILES};
use crate::print::Print;
use crate::profile::check::BadProfile;
use crate::profile::lora::{LoraBound, LoraCost, LoraKernel, LoraQuantity, LoraTerm, Slots, Slotted};
use crate::profile::{Profile, StepRows};
use remembered::Remembered;

/// The figures of the chosen kernel; none if it is free.
#[derive(Clone, Debug)]
pub(super) struct Lora(Option<Figures>);

#[derive(Clone, Debug)]
struct Figures {
    /// LoRA on, and what each configured slot adds.
    idle_us: f64,
    idle_us_per_slot: f64,
    /// Once an adapter is in the step.
    us: f64,
    bounds: Vec<Bound>,
    /// What else steps of few rows cost.
    few_rows: Option<FewRows>,
    /// What is shared out by a plan: steps of many rows.
    planned: Option<Remembered>,
    /// And of few, from so many rows on, those of the most first: beside other products launches fare otherwise.
    few_planned: Vec<(u32, Remembered)>,
    /// What has a slot for each adapter and row tile.
    slotted: Option<Slotted>,
    /// What the bounds came to.
    known: Memory<f64>,
    /// Rows of a tile, where a term counts tiles: every segment is looked at then.
    rows_per_tile: Option<u32>,
}

/// Steps of at most so many rows: by bounds, where there is no plan.
#[derive(Clone, Debug)]
struct FewRows {
    rows_max: u32,
    bounds: Vec<Bound>,
    /// By rows: what is the same for every plan.
    reading: Vec<f64>,
}

/// A bound's terms over quantities, and what it costs by rank: a segment, and each of its rows. The last rank stands for wider ones.
#[derive(Clone, Debug)]
struct Bound {
    terms: Vec<Term>,
    by_rank: Vec<[f64; 2]>,
}

/// No kernel of ours serves wider adapters.
const RANK_MAX: u32 = 256;

/// What so much of a quantity costs.
#[derive(Clone, Debug)]
struct Term {
    over: LoraQuantity,
    cost: Quick,
}

/// The quantities that a kernel's time can depend on.
#[derive(Clone, Copy, Debug)]
struct Quantities {
    sums: SegmentSums,
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
            let mut figures = Figures::of(cost);
            figures.known.remember();
            figures.plans_mut().for_each(Remembered::remember);
            return Ok(Lora(Some(figures)));
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
        self.0.as_ref().is_some_and(|figures| {
            figures.us > 0.0
                || !figures.bounds.is_empty()
                || figures.planned.is_some()
                || figures.slotted.is_some()
                || figures.few_rows.is_some()
        })
    }

    /// From now on every price is made anew.
    pub(super) fn forget(&mut self) {
        if let Some(figures) = &mut self.0 {
            figures.known.forget();
            figures.plans_mut().for_each(Remembered::forget);
        }
    }

    /// How many prices of segments were asked for, and how many of them had to be made?
    pub(super) fn asked_and_made(&self) -> (u64, u64) {
        let Some(figures) = &self.0 else { return (0, 0) };
        let plans = figures.plans().map(Remembered::asked_and_made);
        plans.fold(figures.known.asked_and_made(), |(asked, made), (more, of_them)| (asked + more, made + of_them))
    }

    /// Microseconds in each layer.
    pub(super) fn us(&mut self, shape: &BatchShape<'_>, rows: StepRows) -> f64 {
        self.0.as_mut().map_or(0.0, |figures| figures.us(shape, rows.all()))
    }
}

/// Whole tiles of rows, over all segments. Most have no more than one, which needs no division.
fn tiles(shape: &BatchShape<'_>, rows_per_tile: u32) -> u64 {
    // Where no segment has both kinds of rows its census has its tiles.
    if let (Some(census), 0) = (shape.census, shape.segment_sums.prefill_rows)
        && let Some(size) = TILES.into_iter().position(|rows| rows == rows_per_tile)
    {
        return census.classes().map(|(_, sizes)| u64::from(sizes.tiles()[size])).sum();
    }
    let of = |segment: &Segment| {
        let rows = segment.prefill_rows.saturating_add(segment.decode_rows);
        if rows <= rows_per_tile { u64::from(rows > 0) } else { u64::from(rows.div_ceil(rows_per_tile)) }
    };
    shape.segments.iter().map(of).sum()
}

impl Figures {
    fn of(cost: &LoraCost) -> Figures {
        let few = cost.few_rows.as_ref();
        let all = || cost.bounds.iter().chain(few.iter().flat_map(|few| &few.bounds));
        let counts_tiles = all().flat_map(|bound| &bound.terms).any(|term| term.over == LoraQuantity::Tiles);
        let compiled = |bounds: &[LoraBound]| bounds.iter().map(Bound::of).collect();
        Figures {
            idle_us: cost.idle_us,
            idle_us_per_slot: cost.idle_us_per_slot,
            us: cost.us,
            bounds: compiled(&cost.bounds),
            few_rows: few.map(|few| FewRows {
                rows_max: few.rows_max,
                bounds: compiled(&few.bounds),
                reading: few.reading.as_ref().map_or_else(Vec::new, |reading| {
                    (0..=few.rows_max).map(|rows| reading.us(f64::from(rows))).collect()
                }),
            }),
            rows_per_tile: counts_tiles.then_some(cost.rows_per_tile),
            planned: cost.planned.clone().map(|planned| Remembered::of(planned, u32::MAX)),
            few_planned: few.and_then(|few| few.planned.as_ref()).map_or_else(Vec::new, |planned| {
                planned
                    .rows_apart()
                    .into_iter()
                    .rev()
                    .map(|rows| (rows, Remembered::of(planned.clone(), rows)))
                    .collect()
            }),
            slotted: cost.slotted.clone(),
            known: Memory::default(),
        }
    }

    fn plans(&self) -> impl Iterator<Item = &Remembered> {
        self.planned.iter().chain(self.few_planned.iter().map(|(_, plan)| plan))
    }

    fn plans_mut(&mut self) -> impl Iterator<Item = &mut Remembered> {
        self.planned.iter_mut().chain(self.few_planned.iter_mut().map(|(_, plan)| plan))
    }

    fn us(&mut self, shape: &BatchShape<'_>, rows: u32) -> f64 {
        let slots = f64::from(shape.lora_slots);
        if shape.segments.is_empty() {
            let on = if shape.lora_slots > 0 { self.idle_us } else { 0.0 };
            return on + self.idle_us_per_slot * slots;
        }
        let idle = self.idle_us + self.idle_us_per_slot * slots;
        let few = self.few_rows.as_ref().filter(|few| rows <= few.rows_max);
        let is_few = few.is_some();
        let (bounds, reading) = match few {
            Some(few) => (&few.bounds, few.reading.get(rows as usize).copied().unwrap_or(0.0)),
            None => (&self.bounds, 0.0),
        };
        let planned = match is_few {
            true => self.few_planned.iter_mut().find(|(from, _)| *from <= rows).map(|(_, planned)| planned),
            false => self.planned.as_mut(),
        };
        if let Some(planned) = planned {
            // A plan's figures are of launches at work, measured whole.
            return idle.max(self.us + planned.us(shape) + reading);
        }
        if let Some(slotted) = &self.slotted {
            let slots = Slots::of(shape.segments);
            return idle + self.us + self.known.recall(slots.print(), || slotted.us_of(&slots));
        }
        let quantities = Quantities::of(shape, self.rows_per_tile);
        let largest = || bounds.iter().map(|bound| bound.us(&quantities, shape.segments)).fold(0.0, f64::max);
        // Sums over segments of several ranks are not told by the quantities.
        let (least, most) = shape.segment_sums.ranks;
        let told = least == most || bounds.iter().all(|bound| bound.by_rank.is_empty());
        let us = if told { self.known.recall(quantities.print(is_few), largest) } else { largest() };
        idle + self.us + us + reading
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
        let term = |term: &LoraTerm| Term { over: term.over, cost: Quick::of(&term.cost) };
        Bound { terms: terms.into_iter().map(term).collect(), by_rank }
    }

    fn us(&self, quantities: &Quantities, segments: &[Segment]) -> f64 {
        let mut us: f64 = self.terms.iter().map(|term| term.cost.us(quantities.get(term.over))).sum();
        let Some(widest) = self.by_rank.last() else { return us };
        let of = |rank: u32| self.by_rank.get(rank as usize).unwrap_or(widest);
        let SegmentSums { decode_rows, prefill_rows, ranks: (least, largest), .. } = quantities.sums;
        if least == largest {
            // One rank, as mostly: no segment need be looked at.
            let [each, row] = of(least);
            return us + each * quantities.segments as f64 + row * (decode_rows + prefill_rows) as f64;
        }
        for segment in segments {
            let [each, row] = of(segment.rank);
            us += each + row * f64::from(segment.decode_rows.wrapping_add(segment.prefill_rows));
        }
        us
    }
}

impl LoraCost {
    /// What the kernel adds to each layer of such a step, microseconds.
    pub fn us(&self, shape: &BatchShape<'_>) -> f64 {
        Figures::of(self).us(shape, StepRows::from(shape).all())
    }
}

impl LoraQuantity {
    /// How much of it is in a step? Tiles are of `rows_per_tile` rows.
    pub fn of(self, shape: &BatchShape<'_>, rows_per_tile: u32) -> f64 {
        Quantities::of(shape, Some(rows_per_tile)).get(self)
    }
}

impl Quantities {
    /// Tiles are counted where their rows are given.
    fn of(shape: &BatchShape<'_>, rows_per_tile: Option<u32>) -> Quantities {
        let (_, rank_max) = shape.segment_sums.ranks;
        Quantities {
            segments: shape.segments.len() as u64,
            sums: shape.segment_sums,
            tiles: rows_per_tile.map_or(0, |rows| tiles(shape, rows.max(1))),
            // Where no slots are configured the widest adapter decides.
            rank_slot: u64::from(shape.lora_rank_max.max(rank_max)),
            slots: u64::from(shape.lora_slots),
        }
    }

    fn print(&self, few: bool) -> u64 {
        let SegmentSums { decode_rows, prefill_rows, rank_sum, row_rank_sum, ranks: (least, most) } = self.sums;
        let mut print = Print::new();
        print.pair(decode_rows << 1 | u64::from(few), prefill_rows);
        print.pair(rank_sum, row_rank_sum);
        print.pair(u64::from(least) | u64::from(most) << 32, self.segments | self.slots << 32);
        print.pair(self.tiles, self.rank_slot);
        print.finish()
    }

    fn get(&self, quantity: LoraQuantity) -> f64 {
        let SegmentSums { decode_rows, prefill_rows, rank_sum, row_rank_sum, ranks: (_, rank_max) } = self.sums;
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
