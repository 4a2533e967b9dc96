//! What all launches of a layer take, by their blocks and by what they move.

use super::super::Planned;
use super::super::four::Four;
use super::super::launch::CLUSTERS_ROOM;
use super::blocks::Blocks;
use super::{Abreast, Cut, FILLS_CLUSTERS, Ready};

impl Abreast {
    /// [`Planned::launch_us`] of each, where nothing goes by rounds.
    #[inline(always)]
    pub(super) fn once_us(&self, planned: &Planned, ready: Ready, cut: &Cut<'_>, blocks: Blocks) -> Four {
        let of = |table: Four| table.at(cut.places);
        let Blocks { count, work_us, longest_us, two } = blocks;
        let (zero, one, chip) = (Four::default(), Four::all(1.0), Four::all(f64::from(planned.multiprocessors)));
        let rounds = count / (chip * Four::all(2.0).there(two, one));
        let mean = work_us / count;
        let lacking = (rounds.ceil() - rounds) * of(cut.of.rounding);
        let many = (rounds + lacking) * mean + (longest_us - mean).max(zero) * of(cut.of.uneven);
        let blocks_us = longest_us.there(rounds.at_most(one), many);
        let crowded = ((count - chip) / chip).max(zero).min(one).there(two, zero);
        let slower = (one + crowded * of(cut.of.crowded)) * one.there(two, of(cut.of.lonely));
        let again = cut.weights * planned.us_per_megabyte_again * self.columns * 32e-6;
        let (weights, rows) = (self.columns * cut.granules * 16e-6, cut.rows * 2e-6);
        let beyond = (weights + self.kept * rows - Four::all(planned.cache_megabytes)).max(zero);
        let memory = weights * planned.us_per_megabyte
            + self.moved * rows * planned.us_per_megabyte_of_rows
            + again
            + beyond * planned.us_per_megabyte_beyond;
        let blocks_us = (blocks_us * slower - self.us_hidden).max(zero);
        let large = ready.has(FILLS_CLUSTERS).and(count.above(chip * CLUSTERS_ROOM));
        let waiting = self.us_waiting.there(count.above(chip), self.us_waiting.there(large, zero));
        of(cut.of.us) + self.scale * (blocks_us * blocks_us + memory * memory).sqrt() + waiting
    }

    /// [`Planned::launch_in_rounds_us`] of each.
    #[inline(always)]
    pub(super) fn in_rounds_us(&self, planned: &Planned, cut: &Cut<'_>, blocks: Blocks) -> Four {
        let of = |table: Four| table.at(cut.places);
        let Blocks { count, work_us, longest_us, two } = blocks;
        let (zero, one, chip) = (Four::default(), Four::all(1.0), Four::all(f64::from(planned.multiprocessors)));
        let (weights, rows) = (self.columns * cut.granules * 16e-6, cut.rows * 2e-6);
        let missed = weights + self.kept * rows - Four::all(planned.cache_megabytes);
        let part = (missed / Four::all(planned.cache_megabytes_more)).min(one);
        let missed = part.there(missed.above(zero), zero);
        let moved = self.moved_once * rows;
        let fetched = weights * planned.us_per_megabyte + missed * planned.us_per_megabyte_beyond * moved;
        let of_groups = self.columns * cut.weights * 32e-6;
        let cached = of_groups * planned.us_per_megabyte_again + moved * planned.us_per_megabyte_of_rows;
        let memory_of_block = fetched.max(cached) / count;
        let places = chip * Four::all(2.0).there(two, one);
        let round = |blocks: Four, way_us: Four| {
            let slower = (one + (blocks / places) * of(cut.of.crowded)).there(two, of(cut.of.lonely));
            let (way, memory) = (way_us * slower, blocks * memory_of_block);
            (way * way + memory * memory).sqrt()
        };
        let (full, mean) = ((count / places).floor(), work_us / count);
        let single = count.at_most(places);
        let first = round(count.there(single, places), longest_us.there(single, mean));
        let left = count - full * places;
        let last = round(left, mean).there(left.above(zero), zero);
        let many = full * first + last + (longest_us - mean).max(zero) * of(cut.of.uneven);
        of(cut.of.us) + self.scale * first.there(single, many)
    }
}
