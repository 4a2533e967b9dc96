//! All launches of a layer priced side by side: to the last digit what each costs by itself (`launch.rs`).

mod blocks;
mod launch;

use super::classes::{Classes, PAIRS_MAX};
use super::four::{Four, Which};
use super::share::cells;
use super::site::PROJECTIONS;
use super::tile::Tile;
use super::{Planned, PlannedTile, Rules, SITES, Sites, TILES};

/// What prices need of a plan's launches, side by side.
#[derive(Clone, Debug)]
pub(crate) struct Abreast {
    runs: Vec<Runs>,
    /// As those of [`super::Site`]; zero where there is no launch.
    projections: Four,
    pieces: Four,
    pieces_in: Four,
    pieces_in_all: Four,
    pieces_out_most: Four,
    columns: Four,
    moved: Four,
    moved_once: Four,
    kept: Four,
    scale: Four,
    us_waiting: Four,
    us_hidden: Four,
    tiles: Vec<TileReady>,
    /// By pairs: where members of tiles of 8 rows would multiply all inputs, each for itself; and whether that is anywhere.
    alone: [(Which, bool); PAIRS_MAX + 1],
    /// Bytes of a pair of granules and of a row, of the smallest and of the largest projection.
    smallest: [Four; 2],
    largest: [Four; 2],
    /// Where are there launches? And a bit for each.
    there: Which,
    all: u8,
    /// Projections of each.
    projections_whole: [u32; SITES],
    /// The most projections of a run.
    times_most: usize,
    /// The classes of the batch that is priced, cut into tiles.
    parts: [Part; PAIRS_MAX],
}

/// The first runs of all launches, the second ones, and so on: where a launch has no more, none.
#[derive(Clone, Copy, Debug)]
struct Runs {
    times: Four,
    /// Where there are more than none of them, more than one, and so on.
    often: [Which; PROJECTIONS],
    pieces: Four,
    pieces_in: Four,
    bytes_pair: Four,
    bytes_row: Four,
    members_most: Four,
    there: Which,
    widens: Which,
}

/// Launches with tiles of one size.
#[derive(Clone, Debug)]
struct TileReady {
    cost: PlannedTile,
    of_rows: f64,
    /// By pairs: what a piece takes whatever rows it has.
    piece_us: [f64; PAIRS_MAX + 1],
    /// By pairs: the most bytes of exchange with which two blocks fit a multiprocessor, of few blocks, of more and of many. Longer stages
    /// never leave room for more.
    two: [Four; PAIRS_MAX + 1],
}

/// What the plan decides about each launch if it has tiles of one size, ready to be priced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready {
    /// Zero where groups have members in proportion to their bytes.
    members: [u8; SITES],
    sets: [u8; SITES],
    two: [bool; SITES],
    cluster: [bool; SITES],
    fills_clusters: [bool; SITES],
    at_once: [bool; SITES],
}

/// A class cut into tiles.
#[derive(Clone, Copy, Debug, Default)]
struct Part {
    pairs: usize,
    pairs_wide: f64,
    count: f64,
    rows: f64,
    rows_mean: f64,
    cells: f64,
    /// What a piece takes whatever rows it has; and with those of the largest group, and of all groups in the mean.
    piece_us: f64,
    piece_us_most: f64,
    piece_us_mean: f64,
}

/// All parts of a batch.
struct Cut<'a> {
    tile: Tile,
    of: &'a TileReady,
    parts: &'a [Part],
    /// Groups of a projection, and pairs of granules of all of them.
    count: f64,
    weights: f64,
    /// Rows of all segments, and granules.
    rows: f64,
    granules: f64,
}

impl Ready {
    pub(crate) fn of(rules: &Rules) -> Ready {
        let mut ready = Ready::default();
        for (index, rule) in rules.iter().enumerate() {
            let Some(rule) = rule else { continue };
            ready.at_once[index] = rule.at_once;
            ready.fills_clusters[index] = rule.fills_clusters();
            if let Some(members) = rule.members {
                (ready.members[index], ready.sets[index]) = (members.count, members.sets);
                (ready.two[index], ready.cluster[index]) = (members.two, members.cluster);
            }
        }
        ready
    }

    /// Is any of these launches' groups given as many members as all, and any in proportion to its bytes?
    fn ways(&self, mine: u8) -> (bool, bool) {
        let equal: u8 = (0..SITES).map(|index| u8::from(self.members[index] > 0) << index).sum();
        (equal & mine != 0, !equal & mine != 0)
    }
}

impl Abreast {
    pub(super) fn of(planned: &Planned, sites: &Sites) -> Abreast {
        let four =
            |of: &dyn Fn(&super::Site) -> f64| Four::of(sites.each_ref().map(|site| site.as_ref().map_or(0.0, of)));
        let which =
            |of: &dyn Fn(&super::Site) -> bool| Which::of(sites.each_ref().map(|site| site.as_ref().is_some_and(of)));
        let runs_of = |number: usize| {
            let of = |get: &dyn Fn(&super::site::Run) -> f64| four(&|site| site.runs().get(number).map_or(0.0, get));
            let times = of(&|run| f64::from(run.times));
            Runs {
                times,
                often: std::array::from_fn(|count| times.above(Four::all(count as f64))),
                pieces: of(&|run| run.pieces),
                pieces_in: of(&|run| run.pieces_in),
                bytes_pair: of(&|run| run.bytes_pair),
                bytes_row: of(&|run| run.bytes_row),
                // None have one too, so that nothing is divided by zero.
                members_most: of(&|run| f64::from(run.members_most.min(planned.multiprocessors))).max(Four::all(1.0)),
                there: which(&|site| site.runs().len() > number),
                widens: which(&|site| site.runs().get(number).is_some_and(|run| run.widens)),
            }
        };
        let runs = (0..PROJECTIONS).map(runs_of).take_while(|runs| runs.there.any()).collect();
        let bytes_of = |pick: &dyn Fn(&[super::site::Run]) -> Option<super::site::Run>| {
            [
                four(&|site| pick(site.runs()).map_or(0.0, |run| run.bytes_pair)),
                four(&|site| pick(site.runs()).map_or(0.0, |run| run.bytes_row)),
            ]
        };
        let alone_of = |pairs: usize| {
            let alone = which(&|site| planned.is_alone(site, Tile::Rows8, false, pairs as u32));
            (alone, alone.any())
        };
        Abreast {
            runs,
            projections: four(&|site| f64::from(site.projections)),
            pieces: four(&|site| site.pieces),
            pieces_in: four(&|site| site.pieces_in),
            pieces_in_all: four(&|site| site.pieces_in * f64::from(site.projections)),
            pieces_out_most: four(&|site| site.pieces_out_most),
            columns: four(&|site| site.columns),
            moved: four(&|site| site.moved),
            moved_once: four(&|site| site.moved_once),
            kept: four(&|site| site.kept),
            scale: four(&|site| site.scale),
            us_waiting: four(&|site| site.us_waiting),
            us_hidden: four(&|site| site.us_hidden),
            tiles: planned
                .tiles
                .iter()
                .zip(Tile::ALL)
                .map(|(cost, tile)| TileReady::of(planned, *cost, tile))
                .collect(),
            alone: std::array::from_fn(alone_of),
            smallest: bytes_of(&|runs| runs.iter().copied().min_by(|a, b| a.bytes_row.total_cmp(&b.bytes_row))),
            largest: bytes_of(&|runs| runs.iter().copied().max_by(|a, b| a.bytes_row.total_cmp(&b.bytes_row))),
            there: which(&|_| true),
            all: (0..SITES).map(|index| u8::from(sites[index].is_some()) << index).sum(),
            projections_whole: sites.each_ref().map(|site| site.as_ref().map_or(0, |site| site.projections)),
            times_most: sites
                .iter()
                .flatten()
                .flat_map(|site| site.runs())
                .map(|run| run.times as usize)
                .max()
                .unwrap_or(0),
            parts: [Part::default(); PAIRS_MAX],
        }
    }

    /// Of each kind of tile which launches have it, a bit each.
    pub(crate) fn launches(&self, planned: &Planned, sites: &Sites, classes: &Classes) -> [u8; TILES] {
        let mut launches = [0; TILES];
        if classes.most <= Tile::Rows8.rows() {
            launches[Tile::Rows8 as usize] = self.all;
        } else if classes.are_prompts() {
            for (index, site) in sites.iter().enumerate() {
                if let Some(site) = site {
                    launches[planned.tile(site, classes) as usize] |= 1 << index;
                }
            }
        } else {
            let (groups, most) = (classes.groups[Tile::Rows8.size()], planned.groups_in_registers(classes));
            let few = |index: usize| u8::from(groups * self.projections_whole[index] <= most) << index;
            let small = (few(0) | few(1) | few(2) | few(3)) & self.all;
            launches[Tile::Rows8 as usize] = small;
            launches[Tile::Staged16 as usize] = self.all & !small;
        }
        launches
    }

    /// Are the groups of every launch so uneven, whatever its other classes, that the rules ask no more about bytes? Of ranks that differ, most are.
    pub(crate) fn is_uneven(&self, classes: &Classes, tile: Tile) -> bool {
        let mut all = classes.iter();
        let (Some(first), Some(last)) = (all.next(), all.next_back()) else { return false };
        let bytes =
            |[pair, row]: [Four; 2], pairs: u32, rows: u32| (pair * f64::from(pairs) + row * f64::from(rows)).floor();
        let least = bytes(self.smallest, first.pairs, first.fewest[tile.size()]);
        let most = bytes(self.largest, last.pairs, last.most.min(tile.rows()));
        last.pairs > 1 && !self.there.and(most.at_most(least * 2.0)).any()
    }

    /// Notes what these launches of one layer take, whose tiles are of this size, by what the plan decided about them; microseconds.
    pub(crate) fn price(
        &mut self,
        planned: &Planned,
        ready: &Ready,
        classes: &Classes,
        tile: Tile,
        mine: u8,
        us: &mut [f64; SITES],
    ) {
        let of = &self.tiles[tile as usize];
        let mut weights = 0;
        for (part, class) in self.parts.iter_mut().zip(classes.iter()) {
            let (groups, most, pairs) = (class.groups[tile.size()], class.most.min(tile.rows()), class.pairs as usize);
            weights += groups * class.pairs;
            let (count, rows, rows_most) = (f64::from(groups), class.rows as i64 as f64, f64::from(most));
            let (rows_mean, piece_us) = (rows / count, of.piece_us[pairs]);
            *part = Part {
                pairs,
                pairs_wide: f64::from(class.pairs),
                count,
                rows,
                rows_mean,
                cells: f64::from(cells(class.pairs, most)),
                piece_us,
                piece_us_most: piece_us + of.of_rows * rows_most,
                piece_us_mean: piece_us + of.of_rows * rows_mean,
            };
        }
        let cut = Cut {
            tile,
            of,
            parts: &self.parts[..classes.count_of_classes()],
            count: f64::from(classes.groups[tile.size()]),
            weights: f64::from(weights),
            rows: classes.rows as i64 as f64,
            granules: classes.granules as i64 as f64,
        };
        let blocks = self.blocks(planned, ready, &cut, mine);
        let found = if planned.rounds {
            self.in_rounds_us(planned, &cut, blocks)
        } else {
            self.once_us(planned, ready, &cut, blocks)
        };
        for (index, found) in found.get().into_iter().enumerate() {
            if mine >> index & 1 != 0 {
                us[index] = found;
            }
        }
    }
}

impl TileReady {
    fn of(planned: &Planned, cost: PlannedTile, tile: Tile) -> TileReady {
        let chip = planned.multiprocessors;
        // The most of few blocks, of more, of many: rules ask nothing else about their number.
        let counts = [chip / 2, chip, u32::MAX / 2, u32::MAX / 2];
        TileReady {
            cost,
            of_rows: cost.us_per_piece_of_rows / f64::from(tile.rows()),
            piece_us: std::array::from_fn(|pairs| cost.piece_us(pairs as u32)),
            two: std::array::from_fn(|pairs| {
                Four::of(counts.map(|count| planned.exchange_most(tile, pairs as u32, count)))
            }),
        }
    }
}
