//! All launches of a layer priced side by side: to the last digit what each costs by itself (`launch.rs`).

mod blocks;
mod launch;

use super::classes::{Classes, PAIRS_MAX};
use super::four::{Four, Places, Which};
use super::launch::Moved;
use super::share::Shared;
use super::tile::{Tile, Tiles};
use super::{Planned, PlannedTile, Rule, Rules, SITES, Sites, TILES};

/// What prices need of a plan's launches, side by side.
#[derive(Clone, Debug)]
pub(crate) struct Abreast {
    runs: Vec<Runs>,
    /// As those of [`super::Site`]; zero where there is no launch.
    bytes_pair: Four,
    bytes_row: Four,
    moved: MovedBy,
    /// By launches and kinds of tiles.
    scales: [[f64; TILES]; SITES],
    us_waiting: Four,
    waiting: Four,
    us_hidden: Four,
    tiles: TilesReady,
    /// Blocks of clusters that find room at once, by [`Ready::of_cluster`], and [`Planned::added`].
    of_clusters: [f64; CLUSTERS],
    added: f64,
    /// By pairs: where members of tiles of 8 rows would multiply all inputs, each for itself; and whether that is anywhere.
    alone: [(Which, bool); PAIRS_MAX + 1],
    /// Bytes of a pair of granules and of a row, of the smallest and of the largest projection.
    smallest: [Four; 2],
    largest: [Four; 2],
    /// Numbers of groups that rules do not tell apart.
    alike: Vec<u32>,
    /// By pairs of the narrowest class, bits by those of the widest: are groups of at most 8 rows uneven whatever rows they have?
    uneven: [u32; PAIRS_MAX + 1],
    /// Where are there launches?
    there: Which,
    /// Projections of each.
    projections_whole: [u32; SITES],
}

/// The first runs of all launches, the second ones, and so on: where a launch has no more, none, which widen and have one member.
#[derive(Clone, Copy, Debug)]
struct Runs {
    times: Four,
    /// Nothing; without end where there is none, which is never the shortest.
    missing: Four,
    /// Of inputs and outputs, and of either.
    pieces: Four,
    pieces_in: Four,
    pieces_out: Four,
    bytes_pair: Four,
    bytes_row: Four,
    members_most: Four,
    widens: Which,
}

/// [`Moved`] of each launch.
#[derive(Clone, Copy, Debug)]
struct MovedBy {
    megabytes_granule: Four,
    megabytes_row: Four,
    us_granule: Four,
    us_pair: Four,
    us_row: Four,
    us_row_missed: Four,
}

/// What kinds of tiles cost, one of each kind side by side.
#[derive(Clone, Debug)]
struct TilesReady {
    rows: Four,
    rows_least: Four,
    is_staged: Which,
    us: Four,
    us_per_block: Four,
    /// Within a cluster, and through global memory.
    us_shared: [Four; 2],
    us_per_cell: [Four; 2],
    us_per_member: Four,
    crowded: Four,
    sparse: Four,
    lonely: Four,
    rounding: Four,
    uneven: Four,
    of_rows: Four,
    barriers: Four,
    by_pairs: [PairsReady; PAIRS_MAX + 1],
}

/// The same for ranks of so many pairs.
#[derive(Clone, Copy, Debug, Default)]
struct PairsReady {
    /// What a piece takes whatever rows it has.
    piece_us: Four,
    /// [`Tile::length`].
    length: Four,
    k_warps: Four,
    /// The most bytes of exchange with which two blocks fit a multiprocessor, of blocks that find room at once and of more. Longer stages never
    /// leave room for more.
    two: [Four; 2],
}

/// What the plan decides about each launch, ready to be priced: small, for many are remembered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready([u16; SITES]);

/// Where a launch's bits of it are: members and sets, and what is or is not.
const MEMBERS: u32 = 0;
const SETS: u32 = 6;
const TWO: u32 = 9;
const CLUSTER: u32 = 10;
const AT_ONCE: u32 = 11;
const PROPORTIONAL: u32 = 12;
const BY_LENGTH: u32 = 13;
const FEW: u32 = 14;
const PAIRS_UP: u32 = 15;

/// Members of clusters, at most, by one and by two blocks a multiprocessor.
const CLUSTERS: usize = 64;

/// Segments cut into tiles.
struct Cut<'a> {
    /// The kind of tile of each launch, and where it has not 8 rows.
    places: Places,
    is_staged: Which,
    of: &'a TilesReady,
    classes: &'a Classes,
    /// Pairs of granules of all groups of a projection.
    weights: Four,
    /// Rows of all segments, and granules.
    rows: f64,
    granules: f64,
    /// [`super::PlannedSite::scale`].
    scale: Four,
}

impl Ready {
    pub(crate) fn of(planned: &Planned, rules: &Rules) -> Ready {
        let bits = |rule: &Rule| match rule.shared {
            Shared::Equal(members) => {
                let numbers = u16::from(members.count) << MEMBERS | u16::from(members.sets) << SETS;
                let pairs_up = members.cluster && planned.pairs_up(u32::from(members.count));
                let numbers = numbers | u16::from(pairs_up) << PAIRS_UP;
                numbers | u16::from(members.two) << TWO | u16::from(members.cluster) << CLUSTER
            }
            Shared::ByBytes { at_once } => 1 << PROPORTIONAL | 1 << SETS | u16::from(at_once) << AT_ONCE,
            Shared::ByLength { few } => 1 << PROPORTIONAL | 1 << SETS | 1 << BY_LENGTH | u16::from(few) << FEW,
        };
        Ready(rules.each_ref().map(|rule| rule.as_ref().map_or(0, bits)))
    }

    /// Members of every group; zero where groups have one set of them in proportion to their bytes or lengths.
    #[inline(always)]
    fn members(self) -> Four {
        Four::bits(self.0, MEMBERS, 6)
    }

    #[inline(always)]
    fn sets(self) -> Four {
        Four::bits(self.0, SETS, 3)
    }

    #[inline(always)]
    fn has(self, bit: u32) -> Which {
        Which::bit(self.0, bit)
    }

    /// Where each launch's clusters are in a table by members, and then by whether two blocks fit.
    #[inline(always)]
    fn of_cluster(self) -> [usize; SITES] {
        self.0.map(|bits| usize::from(bits & 31 | (bits >> TWO & 1) << 5))
    }

    /// Is the bit there for any launch?
    #[inline(always)]
    fn any(self, bits: u16) -> bool {
        self.0.into_iter().fold(0, |any, one| any | one) & bits != 0
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
            Runs {
                times: of(&|run| f64::from(run.times)),
                missing: four(&|site| if number < site.runs().len() { 0.0 } else { f64::INFINITY }),
                pieces: of(&|run| run.pieces_in + run.pieces_out),
                pieces_in: of(&|run| run.pieces_in),
                pieces_out: of(&|run| run.pieces_out),
                bytes_pair: of(&|run| run.bytes_pair),
                bytes_row: of(&|run| run.bytes_row),
                members_most: of(&|run| f64::from(run.members_most.min(planned.multiprocessors))).max(Four::all(1.0)),
                widens: which(&|site| site.runs().get(number).is_none_or(|run| run.widens)),
            }
        };
        let moved = |of: fn(&Moved) -> f64| four(&|site| of(&planned.moved(site)));
        let runs_most = sites.iter().flatten().map(|site| site.runs().len()).max().unwrap_or(0);
        let runs = (0..runs_most).map(runs_of).collect();
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
        let mut abreast = Abreast {
            runs,
            bytes_pair: four(&|site| site.bytes_pair),
            bytes_row: four(&|site| site.bytes_row),
            moved: MovedBy {
                megabytes_granule: moved(|moved| moved.megabytes_granule),
                megabytes_row: moved(|moved| moved.megabytes_row),
                us_granule: moved(|moved| moved.us_granule),
                us_pair: moved(|moved| moved.us_pair),
                us_row: moved(|moved| moved.us_row),
                us_row_missed: moved(|moved| moved.us_row_missed),
            },
            scales: sites.each_ref().map(|site| site.as_ref().map_or([0.0; TILES], |site| site.scales)),
            us_waiting: four(&|site| site.us_waiting),
            waiting: four(&|site| site.waiting),
            us_hidden: four(&|site| site.us_hidden),
            tiles: TilesReady::of(planned),
            of_clusters: std::array::from_fn(|index| planned.places_at_once((index as u32 & 31).max(1), index >= 32)),
            added: planned.added(),
            alone: std::array::from_fn(alone_of),
            smallest: bytes_of(&|runs| runs.iter().copied().min_by(|a, b| a.bytes_row.total_cmp(&b.bytes_row))),
            largest: bytes_of(&|runs| runs.iter().copied().max_by(|a, b| a.bytes_row.total_cmp(&b.bytes_row))),
            alike: planned.alike(sites),
            uneven: [0; PAIRS_MAX + 1],
            there: which(&|_| true),
            projections_whole: sites.each_ref().map(|site| site.as_ref().map_or(0, |site| site.projections)),
        };
        let (one, eight) = (Four::all(1.0), Four::all(f64::from(Tile::Rows8.rows())));
        let of_narrowest = |least: usize| {
            let are = |most: u32| abreast.are_uneven((least as u32, eight), (most, one));
            (1..=PAIRS_MAX as u32).map(|most| u32::from(are(most)) << most).sum()
        };
        abreast.uneven = std::array::from_fn(of_narrowest);
        abreast
    }

    /// The tile of each launch.
    pub(crate) fn tiles(&self, planned: &Planned, sites: &Sites, classes: &Classes) -> Tiles {
        if classes.most <= Tile::Rows8.rows() {
            return [Tile::Rows8; SITES];
        }
        if classes.are_prompts {
            return sites.each_ref().map(|site| site.as_ref().map_or(Tile::Rows8, |site| planned.tile(site, classes)));
        }
        let (groups, most) = (classes.groups[Tile::Rows8.size()], planned.groups_in_registers(classes));
        let few = |projections: u32| groups * projections <= most;
        let larger = planned.tile_beside_prompts(classes);
        self.projections_whole.map(|projections| if few(projections) { Tile::Rows8 } else { larger })
    }

    /// A fingerprint of all that the rules depend on where launches have these tiles.
    #[inline(always)]
    pub(crate) fn print(&self, classes: &Classes, tiles: Tiles) -> u64 {
        classes.print(tiles, self.is_uneven(classes, tiles), &self.alike)
    }

    /// Are the groups of every launch so uneven, whatever its other classes, that the rules ask no more about bytes? Of ranks that differ, most are.
    fn is_uneven(&self, classes: &Classes, tiles: Tiles) -> bool {
        let (Some(first), Some(last)) = (classes.list().first(), classes.list().last()) else { return false };
        if last.pairs == 1 {
            return false;
        }
        if classes.most <= Tile::Rows8.rows() && self.uneven[first.pairs as usize] >> last.pairs & 1 > 0 {
            return true;
        }
        let places = Places::of(tiles.map(|tile| tile as u8));
        let fewest = Four::of(Tile::ALL.map(|tile| f64::from(first.fewest(tile))));
        let most = Four::all(f64::from(last.most)).min(self.tiles.rows);
        self.are_uneven((first.pairs, fewest.at(places)), (last.pairs, most.at(places)))
    }

    /// Has in every launch a group of so many pairs of granules and rows less than half of the bytes of another?
    fn are_uneven(&self, least: (u32, Four), most: (u32, Four)) -> bool {
        let bytes = |[pair, row]: [Four; 2], (pairs, rows): (u32, Four)| (pair * f64::from(pairs) + row * rows).floor();
        let (least, most) = (bytes(self.smallest, least), bytes(self.largest, most));
        !self.there.and(most.at_most(least * 2.0)).any()
    }

    /// What the launches of one layer take, whose tiles are these, by what the plan decided about them; microseconds.
    pub(crate) fn price(&self, planned: &Planned, ready: Ready, classes: &Classes, tiles: Tiles) -> [f64; SITES] {
        let (of, places) = (&self.tiles, Places::of(tiles.map(|tile| tile as u8)));
        let mut weights = Four::default();
        for class in classes.iter() {
            weights += Four::large(class.groups) * f64::from(class.pairs);
        }
        let cut = Cut {
            places,
            is_staged: of.is_staged.at(places),
            of,
            classes,
            weights: weights.at(places),
            rows: classes.rows as i64 as f64,
            granules: classes.granules as i64 as f64,
            scale: Four::of(std::array::from_fn(|site| self.scales[site][tiles[site] as usize])),
        };
        let blocks = self.blocks(planned, ready, &cut);
        let us = if planned.rounds {
            self.in_rounds_us(planned, ready, &cut, blocks)
        } else {
            self.once_us(planned, &cut, blocks)
        };
        us.there(self.there, Four::default()).get()
    }
}

impl TilesReady {
    fn of(planned: &Planned) -> TilesReady {
        let chip = planned.multiprocessors;
        // Where kernels have no wide tiles no launch has them.
        let of = |get: &dyn Fn(Tile, &PlannedTile) -> f64| {
            Four::of(Tile::ALL.map(|tile| planned.tiles.get(tile as usize).map_or(0.0, |cost| get(tile, cost))))
        };
        // The most of these blocks: all that is asked about their number, where it matters whether two fit.
        let counts = [chip, u32::MAX / 2];
        let of_pairs = |pairs: usize| PairsReady {
            piece_us: of(&|_, cost| cost.piece_us(pairs as u32)),
            length: of(&|tile, _| f64::from(tile.length(pairs as u32))),
            k_warps: of(&|tile, _| f64::from(tile.k_warps(pairs as u32))),
            two: counts.map(|count| of(&|tile, _| planned.exchange_most(tile, pairs as u32, count))),
        };
        TilesReady {
            rows: Four::of(Tile::ALL.map(|tile| f64::from(tile.rows()))),
            rows_least: Four::of(Tile::ALL.map(|tile| f64::from(tile.rows_least()))),
            is_staged: Which::of(Tile::ALL.map(Tile::is_staged)),
            us: of(&|_, cost| cost.us),
            us_per_block: of(&|_, cost| cost.us_per_block),
            us_shared: [true, false].map(|cluster| of(&|_, cost| cost.exchange(cluster).us)),
            us_per_cell: [true, false].map(|cluster| of(&|_, cost| cost.exchange(cluster).us_per_cell)),
            us_per_member: of(&|_, cost| cost.us_per_member),
            crowded: of(&|_, cost| cost.crowded),
            sparse: of(&|_, cost| cost.sparse),
            lonely: of(&|_, cost| cost.lonely),
            rounding: of(&|_, cost| cost.rounding),
            uneven: of(&|_, cost| cost.uneven),
            of_rows: of(&|tile, cost| cost.us_per_piece_of_rows / f64::from(tile.rows())),
            barriers: of(&|tile, _| f64::from(tile.barriers())),
            by_pairs: std::array::from_fn(of_pairs),
        }
    }
}
