//! The blocks of all launches of a layer, and what they take.

use super::super::four::{Four, Which};
use super::super::launch::{HARDLY, WHOLE};
use super::super::{Planned, SITES};
use super::{AT_ONCE, Abreast, BY_LENGTH, CLUSTER, Cut, FEW, PROPORTIONAL, Ready, SETS, TWO};

/// The blocks of each launch, as those of one.
#[derive(Clone, Copy)]
pub(super) struct Blocks {
    pub(super) count: Four,
    pub(super) work_us: Four,
    pub(super) longest_us: Four,
    /// Of the shortest groups; without end where nothing is [dealt](Planned::dealt) out by it.
    pub(super) shortest_us: Four,
    pub(super) two: Which,
}

/// How some launches deal their blocks: to each group as many, by bytes too, or by lengths too.
const EQUAL: u8 = 0;
const BY_BYTES: u8 = 1;
const BY_ANY: u8 = 2;

impl Abreast {
    /// The blocks of these launches.
    #[inline(always)]
    pub(super) fn blocks(&self, planned: &Planned, ready: Ready, cut: &Cut<'_>) -> Blocks {
        if !ready.any(1 << PROPORTIONAL) {
            return self.deal::<EQUAL>(planned, ready, cut, Four::default());
        }
        if ready.any(1 << BY_LENGTH) {
            return self.by_length(planned, ready, cut);
        }
        let total = self.bytes_pair * cut.weights + self.bytes_row * cut.rows;
        let (chip, whole) = (planned.multiprocessors, Four::all(WHOLE));
        if !ready.any(1 << AT_ONCE) {
            return self.deal::<BY_BYTES>(planned, ready, cut, Four::all(f64::from(chip * 3 / 2)) * whole / total);
        }
        let (at_once, step) = (ready.0.map(|bits| bits >> AT_ONCE & 1 > 0), chip / 16 + 1);
        let mut tried = at_once.map(|at_once| if at_once { 2 * chip } else { chip * 3 / 2 });
        loop {
            let blocks = self.deal::<BY_BYTES>(planned, ready, cut, Four::of(tried.map(f64::from)) * whole / total);
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

    /// The same where some have members by how long groups take.
    fn by_length(&self, planned: &Planned, ready: Ready, cut: &Cut<'_>) -> Blocks {
        let mut lengths = Four::default();
        for class in cut.classes.iter() {
            lengths +=
                Four::large(class.groups).at(cut.places) * cut.of.by_pairs[class.pairs as usize].length.at(cut.places);
        }
        let (by_length, chip) = (ready.has(BY_LENGTH), planned.multiprocessors);
        let places = |few: bool| Four::all(f64::from(planned.places(few)));
        let of_length = places(true).there(ready.has(FEW), places(false)) * HARDLY / (self.bytes_pair * lengths);
        let total = self.bytes_pair * cut.weights + self.bytes_row * cut.rows;
        let of_bytes = Four::all(f64::from(chip * 3 / 2)) * WHOLE / total;
        self.deal::<BY_ANY>(planned, ready, cut, of_length.there(by_length, of_bytes))
    }

    /// [`Planned::deal`] of each: to some launches so many blocks a byte, whatever the rule says about their members, or a length.
    #[inline(always)]
    fn deal<const HOW: u8>(&self, planned: &Planned, ready: Ready, cut: &Cut<'_>, blocks: Four) -> Blocks {
        let (of, places, zero, one) = (cut.of, cut.places, Four::default(), Four::all(1.0));
        let (equal, sets, by_bytes) = (ready.members(), ready.sets(), ready.has(PROPORTIONAL));
        let (us_per_block, of_rows, cluster) = (of.us_per_block.at(places), of.of_rows.at(places), ready.has(CLUSTER));
        let exchanged = |[near, apart]: [Four; 2]| near.at(places).there(cluster, apart.at(places));
        let (us_shared, us_per_cell) = (exchanged(of.us_shared), exchanged(of.us_per_cell));
        let us_per_member = of.us_per_member.at(places);
        let several_sets = ready.any(0b110 << SETS);
        let (mut count, mut work_us, mut longest_us) = (zero, zero, zero);
        let mut shortest_us = Four::all(f64::INFINITY);
        let (mut exchange, mut most_at_once, mut most) = (zero, Four::all(f64::INFINITY), Four::all(f64::INFINITY));
        for class in cut.classes.iter() {
            let (by_pairs, pairs) = (&of.by_pairs[class.pairs as usize], f64::from(class.pairs));
            let (groups, rows_most) = (Four::large(class.groups).at(places), Four::all(f64::from(class.most)));
            let (rows_mean, rows_most) =
                (Four::all(class.rows as i64 as f64) / groups, rows_most.min(of.rows).at(places));
            let piece_us = by_pairs.piece_us.at(places);
            let cells = (rows_most.max(of.rows_least.at(places)) * 0.125).ceil() * pairs;
            let (piece_us_mean, piece_us_most) = (piece_us + of_rows * rows_mean, piece_us + of_rows * rows_most);
            let shared_us = us_shared + us_per_cell * cells;
            let (may_be_alone, any) = self.alone[class.pairs as usize];
            for run in &self.runs {
                let mut members = equal;
                if HOW != EQUAL {
                    let mut share = ((run.bytes_pair * pairs + run.bytes_row * rows_mean) * blocks).floor();
                    if HOW == BY_ANY {
                        let of_length = (run.bytes_pair * by_pairs.length.at(places) * blocks).ceil();
                        share = of_length.there(ready.has(BY_LENGTH), share);
                    }
                    members = share.max(one).min(run.members_most).there(by_bytes, equal);
                }
                let (mut shares, mut pieces, mut exchanging) = (members.above(one), run.pieces / members, members);
                if several_sets {
                    // Each multiplies all inputs, and all of them share the outputs.
                    pieces = (run.pieces_in + run.pieces_out / sets) / members;
                }
                if any {
                    let alone =
                        may_be_alone.and(shares).and(run.widens).and(ready.has(CLUSTER).or(cut.is_staged).not());
                    pieces = (run.pieces_in + run.pieces_out / members).there(alone, pieces);
                    exchanging = one.there(alone, members);
                    shares = shares.and(alone.not());
                }
                let block = us_per_block + (shared_us + us_per_member * members).there(shares, zero);
                let mine = (members * sets) * (groups * run.times);
                count += mine;
                let mean_us = block + pieces * piece_us_mean;
                work_us += mine * mean_us;
                shortest_us = shortest_us.min(mean_us + run.missing);
                longest_us = longest_us.max(block + pieces * piece_us_most);
                if HOW != EQUAL {
                    // `Tile::exchange` without a cluster.
                    let all = exchanging * cells;
                    let in_turns = cut.is_staged.or(Four::all(5.0).at_most(cells)).or(Four::all(64.0).at_most(all));
                    let others = cells.there(in_turns, all.there(exchanging.above(one), zero));
                    exchange = exchange.max(others + by_pairs.k_warps.at(places) * cells);
                }
            }
            if HOW != EQUAL {
                let [at_once, more] = by_pairs.two;
                (most_at_once, most) = (most_at_once.min(at_once), most.min(more));
            }
        }
        let mut two = ready.has(TWO);
        if HOW != EQUAL {
            let chip = Four::all(f64::from(planned.multiprocessors));
            let fits = most_at_once.at(places).there(count.at_most(chip), most.at(places));
            let bytes = exchange * 512.0 + of.barriers.at(places);
            two = two.or(by_bytes.and(bytes.at_most(fits)));
        }
        if !planned.dealt {
            shortest_us = Four::all(f64::INFINITY);
        }
        Blocks { count, work_us, longest_us, shortest_us, two }
    }
}
