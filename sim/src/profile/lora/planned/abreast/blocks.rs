//! The blocks of all launches of a layer, and what they take.

use super::super::four::{Four, Which};
use super::super::{Planned, SITES};
use super::{AT_ONCE, Abreast, CLUSTER, Cut, MEMBERS, PROPORTIONAL, Part, Ready, Runs, TWO};

/// The blocks of each launch, as those of one.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) count: Four,
    pub(super) work_us: Four,
    pub(super) longest_us: Four,
    pub(super) two: Which,
}

/// What blocks of each launch take whatever pieces they have.
struct BlockUs {
    us: Four,
    us_shared: Four,
    us_per_cell: Four,
}

impl Abreast {
    /// The blocks of these launches.
    #[inline(always)]
    pub(super) fn blocks(&self, planned: &Planned, ready: Ready, cut: &Cut<'_>) -> Blocks {
        if !ready.any(1 << PROPORTIONAL) {
            return self.equal(ready, cut);
        }
        let other = self.proportional(planned, ready, cut);
        if !ready.any(0x3f << MEMBERS) {
            return other;
        }
        let (equal, are) = (self.equal(ready, cut), ready.has(PROPORTIONAL).not());
        Blocks {
            count: equal.count.there(are, other.count),
            work_us: equal.work_us.there(are, other.work_us),
            longest_us: equal.longest_us.there(are, other.longest_us),
            two: are.and(equal.two).or(are.not().and(other.two)),
        }
    }

    /// [`Planned::equal`] of each.
    #[inline(always)]
    fn equal(&self, ready: Ready, cut: &Cut<'_>) -> Blocks {
        let (members, sets) = (ready.members(), ready.sets());
        let (one, of) = (Four::all(1.0), BlockUs::of(cut));
        let of_group = members * sets * self.projections;
        let pieces = self.pieces + (sets - one) * self.pieces_in_all;
        let most = (self.pieces_in + self.pieces_out_most / sets) / members;
        let shares = members.above(one);
        let pieces_of_rows = pieces * cut.of.of_rows.at(cut.places);
        let (mut work_us, mut longest_us) = (Four::default(), Four::default());
        for part in cut.parts {
            let block = of.us(shares, part.cells);
            let work = (of_group * block + pieces * part.piece_us) * part.count + pieces_of_rows * part.rows;
            let longest = block + most * part.piece_us_most;
            let (may_be_alone, any) = self.alone[part.pairs];
            if !any {
                work_us += work;
                longest_us = longest_us.max(longest);
                continue;
            }
            let alone = shares.and(may_be_alone).and(ready.has(CLUSTER).or(cut.is_staged).not());
            let (mut work_alone, mut longest_alone) = (work_us, longest_us);
            for run in &self.runs {
                let (block, pieces) = run.block(&of, part, members, shares, alone);
                work_alone += members * part.count * run.times * (block + pieces * part.piece_us_mean);
                let longest = block + pieces * part.piece_us_most;
                longest_alone = longest.there(run.there, Four::default()).max(longest_alone);
            }
            work_us = work_alone.there(alone, work_us + work);
            longest_us = longest_alone.there(alone, longest_us.max(longest));
        }
        Blocks { count: of_group * cut.count, work_us, longest_us, two: ready.has(TWO) }
    }

    /// [`Planned::proportional`] of each.
    #[inline(always)]
    fn proportional(&self, planned: &Planned, ready: Ready, cut: &Cut<'_>) -> Blocks {
        let mut total = Four::default();
        for part in cut.parts {
            for run in &self.runs {
                let bytes = run.bytes(part, part.rows_mean) * part.count;
                // As often as there are projections, each for itself: sums of numbers with a fraction depend on that.
                for often in &run.often[..self.times_most] {
                    total += bytes.there(*often, Four::default());
                }
            }
        }
        let chip = planned.multiprocessors;
        if !ready.any(1 << AT_ONCE) {
            return self.spread(planned, cut, Four::all(f64::from(chip * 3 / 2)), total);
        }
        let (at_once, step) = (ready.0.map(|bits| bits >> AT_ONCE & 1 > 0), chip / 16 + 1);
        let mut tried = at_once.map(|at_once| if at_once { 2 * chip } else { chip * 3 / 2 });
        loop {
            let blocks = self.spread(planned, cut, Four::of(tried.map(f64::from)), total);
            let (count, mut again) = (blocks.count.get(), false);
            for index in (0..SITES).filter(|index| at_once[*index]) {
                if count[index] > f64::from(chip) && tried[index] >= chip + step {
                    tried[index] -= step;
                    again = true;
                }
            }
            if !again {
                return blocks;
            }
        }
    }

    /// [`Planned::spread`] of each.
    #[inline(always)]
    fn spread(&self, planned: &Planned, cut: &Cut<'_>, blocks: Four, bytes_total: Four) -> Blocks {
        let (one, of, few_cells) = (Four::all(1.0), BlockUs::of(cut), Four::all(5.0));
        let barriers = cut.of.barriers.at(cut.places);
        let (mut count, mut work_us, mut longest_us) = (Four::default(), Four::default(), Four::default());
        let (mut exchange, mut most) = (Four::default(), [Four::all(f64::INFINITY); 3]);
        for part in cut.parts {
            let (may_be_alone, any) = self.alone[part.pairs];
            let ready = &cut.of.by_pairs[part.pairs];
            for (most, of_pairs) in most.iter_mut().zip(ready.two) {
                *most = most.min(of_pairs);
            }
            let k_cells = ready.k_warps.at(cut.places) * part.cells;
            let in_turns = cut.is_staged.or(few_cells.at_most(part.cells));
            for run in &self.runs {
                let share = blocks * run.bytes(part, part.rows_mean) / bytes_total;
                let members = share.floor().max(one).min(run.members_most);
                let shares = members.above(one);
                let (mut alone, mut exchanging) = (Which::of([false; SITES]), members);
                if any {
                    alone = shares.and(may_be_alone).and(cut.is_staged.not());
                    exchanging = one.there(alone.and(run.widens), members);
                }
                let (block, pieces) = run.block(&of, part, members, shares, alone);
                let mine = members * part.count * run.times;
                count += mine;
                work_us += mine * (block + pieces * part.piece_us_mean);
                let longest = block + pieces * part.piece_us_most;
                longest_us = longest_us.max(longest.there(run.there, Four::default()));
                // `Tile::exchange` without a cluster.
                let all = exchanging * part.cells;
                let others = all.there(exchanging.above(one), Four::default());
                let others = part.cells.there(in_turns.or(Four::all(64.0).at_most(all)), others);
                let bytes = (others + k_cells) * 512.0 + barriers;
                exchange = exchange.max(bytes.there(run.there, Four::default()));
            }
        }
        let chip = Four::all(f64::from(planned.multiprocessors));
        let [few, more, many] = most.map(|most| most.at(cut.places));
        let fits = few.there((count + count).at_most(chip), more.there(count.at_most(chip), many));
        Blocks { count, work_us, longest_us, two: exchange.at_most(fits) }
    }
}

impl BlockUs {
    #[inline(always)]
    fn of(cut: &Cut<'_>) -> BlockUs {
        let of = |table: Four| table.at(cut.places);
        BlockUs { us: of(cut.of.us_per_block), us_shared: of(cut.of.us_shared), us_per_cell: of(cut.of.us_per_cell) }
    }

    /// What a block takes whatever pieces it has.
    #[inline(always)]
    fn us(&self, shares: Which, cells: Four) -> Four {
        self.us + (self.us_shared + self.us_per_cell * cells).there(shares, Four::default())
    }
}

impl Runs {
    /// Bytes of a group.
    #[inline(always)]
    fn bytes(&self, part: &Part, rows: Four) -> Four {
        self.bytes_pair * part.pairs_wide + self.bytes_row * rows
    }

    /// What a block takes whatever its pieces, and its pieces.
    #[inline(always)]
    fn block(&self, of: &BlockUs, part: &Part, members: Four, shares: Which, alone: Which) -> (Four, Four) {
        let alone = alone.and(self.widens);
        let block = of.us(shares.and(alone.not()), part.cells);
        let shared = self.pieces / members;
        if !alone.any() {
            return (block, shared);
        }
        let pieces = self.pieces_in + (self.pieces - self.pieces_in) / members;
        (block, pieces.there(alone, shared))
    }
}
