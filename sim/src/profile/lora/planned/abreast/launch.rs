//! What all launches of a layer take, by their blocks and by what they move.

use super::super::Planned;
use super::super::four::Four;
use super::super::launch::ROOM;
use super::blocks::Blocks;
use super::{Abreast, CLUSTER, Cut, PAIRS_UP, Ready};

impl Abreast {
    /// [`Planned::launch_us`] of each, where nothing goes by rounds.
    #[inline(always)]
    pub(super) fn once_us(&self, planned: &Planned, cut: &Cut<'_>, blocks: Blocks) -> Four {
        let of = |table: Four| table.at(cut.places);
        let Blocks { count, work_us, longest_us, two, .. } = blocks;
        let (zero, one, chip) = (Four::default(), Four::all(1.0), Four::all(f64::from(planned.multiprocessors)));
        let rounds = count / chip * Four::all(0.5).there(two, one);
        let mean = work_us / count;
        let lacking = (rounds.ceil() - rounds) * of(cut.of.rounding);
        let many = (rounds + lacking) * mean + (longest_us - mean).max(zero) * of(cut.of.uneven);
        let blocks_us = longest_us.there(rounds.at_most(one), many);
        let crowded = ((count - chip) / chip).max(zero).min(one).there(two, zero);
        let slower = (one + crowded * of(cut.of.crowded)) * one.there(two, of(cut.of.lonely));
        let moved = &self.moved;
        let kept = moved.megabytes_granule * cut.granules + moved.megabytes_row * cut.rows;
        let beyond = (kept - Four::all(planned.cache_megabytes)).max(zero) * planned.us_per_megabyte_beyond;
        let (fetched, cached) =
            (moved.us_granule * cut.granules + beyond, moved.us_row * cut.rows + moved.us_pair * cut.weights);
        let memory = if planned.dealt { (fetched * fetched + cached * cached).sqrt() } else { fetched + cached };
        let blocks_us = (blocks_us * slower - self.us_hidden).max(zero);
        let waiting = (self.us_waiting + self.waiting * memory).there(count.above(chip * ROOM), zero);
        of(cut.of.us) + cut.scale * (blocks_us * blocks_us + memory * memory).sqrt() + waiting
    }

    /// Blocks of each launch's clusters that find room at once.
    #[inline(always)]
    fn places_of(&self, ready: Ready) -> Four {
        Four::of(ready.of_cluster().map(|index| self.of_clusters[index]))
    }

    /// [`Planned::launch_in_rounds_us`] of each.
    #[inline(always)]
    pub(super) fn in_rounds_us(&self, planned: &Planned, ready: Ready, cut: &Cut<'_>, blocks: Blocks) -> Four {
        let of = |table: Four| table.at(cut.places);
        let Blocks { count, work_us, longest_us, shortest_us, two } = blocks;
        let (zero, one, chip) = (Four::default(), Four::all(1.0), Four::all(f64::from(planned.multiprocessors)));
        let moved = &self.moved;
        let kept = moved.megabytes_granule * cut.granules + moved.megabytes_row * cut.rows;
        let missed = kept - Four::all(planned.cache_megabytes);
        let part = (missed * (1.0 / planned.cache_megabytes_more)).min(one).there(missed.above(zero), zero);
        let fetched = moved.us_granule * cut.granules + part * (moved.us_row_missed * cut.rows);
        let cached = moved.us_pair * cut.weights + moved.us_row * cut.rows;
        let of_each = one / count;
        let both = fetched.max(cached) + fetched.min(cached) * self.added;
        let (memory_of_block, mean) = (both * of_each, work_us * of_each);
        let mut places = chip * Four::all(2.0).there(two, one);
        let (crowded, sparse, lonely) = (of(cut.of.crowded), of(cut.of.sparse), of(cut.of.lonely));
        let round = |blocks: Four, way_us: Four| {
            let shared = blocks.above(chip).or(ready.has(PAIRS_UP));
            let slower = (one + crowded.there(shared, zero)).there(two, lonely);
            let apart = (Four::all(2.0) - blocks / chip).max(zero).min(one);
            let sparse = (one + sparse * apart).there(two, one);
            let (way, memory) = (way_us * slower, blocks * memory_of_block * sparse);
            (way * way + memory * memory).sqrt()
        };
        // Half as many where two fit, to the last digit: nobody waits for who does.
        let mut rounds = count / chip * Four::all(0.5).there(two, one);
        if ready.any(1 << CLUSTER) {
            let (are, of_clusters) = (ready.has(CLUSTER), self.places_of(ready));
            (places, rounds) = (of_clusters.there(are, places), (count / of_clusters).there(are, rounds));
        }
        let (full, single) = (rounds.floor(), rounds.at_most(one));
        let first = round(count.min(places), longest_us.there(single, mean));
        let left = count - full * places;
        let way_us = mean.min(mean * (rounds - full) + shortest_us);
        let last = round(left, way_us).there(left.above(zero), zero);
        let many = full * first + last + (longest_us - mean).max(zero) * of(cut.of.uneven);
        of(cut.of.us) + cut.scale * first.there(single, many)
    }
}
