//! Sums over projections against every group written out.

use std::collections::BTreeMap;

use super::super::{PlannedBeside, PlannedExchange, PlannedSite, Ready, SITES, Sites};
use super::*;
use crate::batch::Segment;

pub(in super::super) fn planned() -> Planned {
    let tile = |times: f64| PlannedTile {
        us: 0.9 * times,
        us_per_block: 1.1,
        us_per_piece: 0.013 * times,
        us_per_piece_of_rows: 0.98,
        us_per_piece_pair: 1.4 / times,
        us_per_piece_pair_squared: 0.1,
        us_shared: 0.3,
        us_per_cell: 0.5,
        us_per_member: 0.03,
        apart: Some(PlannedExchange { us: 0.7, us_per_cell: 0.2 }),
        crowded: 0.15,
        sparse: 0.2,
        lonely: 0.7,
        rounding: 0.9,
        uneven: 0.5,
    };
    let site = |inputs, outputs: &[u32]| PlannedSite {
        inputs,
        outputs: outputs.to_vec(),
        scale: 1.0 + f64::from(inputs) * 1e-5,
        scales: vec![1.1, 0.9, 1.2],
        us_waiting: 0.3,
        waiting: 0.07,
        us_hidden: 0.4,
        more_rows: Vec::new(),
    };
    Planned {
        multiprocessors: 132,
        shared_bytes: 232_448,
        cluster_max: 16,
        beside: false,
        alone: true,
        packs: false,
        prompts: false,
        mixed: false,
        rounds: false,
        dealt: false,
        sites: vec![
            site(4096, &[4096, 1024, 1024]),
            site(1024, &[8192, 512]),
            site(4096, &[14336, 14336]),
            site(14336, &[4096]),
        ],
        tiles: vec![tile(1.0), tile(1.3), tile(1.7), tile(1.5)],
        us_per_megabyte: 0.21,
        us_per_megabyte_again: 0.05,
        us_per_megabyte_of_rows: 0.2,
        cache_megabytes: 1.5,
        cache_megabytes_more: 20.0,
        us_per_megabyte_beyond: 0.3,
    }
}

/// A launch, every class of every projection by itself.
fn by_hand(planned: &Planned, site: &PlannedSite, rule: Rule, classes: &Classes) -> f64 {
    let cost = &planned.tiles[rule.tile as usize];
    let size = f64::from(rule.tile.rows());
    let tiles = |outputs: u32| f64::from(site.inputs.div_ceil(32) + outputs.div_ceil(32));
    let bytes = |outputs: u32, pairs: f64, rows: f64| {
        tiles(outputs) * pairs * 1024.0 + rows * 2.0 * (f64::from(site.inputs) + 2.0 * f64::from(outputs))
    };
    let parts = || classes.iter().flat_map(|class| site.outputs.iter().map(move |&outputs| (class, outputs)));
    let of = |class: &Class, outputs: u32| {
        let count = f64::from(class.groups[rule.tile.size()]);
        (count, bytes(outputs, f64::from(class.pairs), class.rows as f64 / count))
    };
    let total: f64 = parts().map(|(class, outputs)| of(class, outputs)).map(|(count, bytes)| count * bytes).sum();
    let most_of = |outputs: u32| f64::from(outputs.min(site.inputs).div_ceil(32).min(32));
    let at_once = |blocks: &f64| {
        let members = |(class, outputs): (&Class, u32)| {
            let (count, bytes) = of(class, outputs);
            count * (blocks * bytes / total).floor().clamp(1.0, most_of(outputs))
        };
        parts().map(members).sum::<f64>() <= f64::from(planned.multiprocessors)
    };
    let mut spread = f64::from(planned.multiprocessors * 3 / 2);
    if rule.shared == (Shared::ByBytes { at_once: true }) {
        // 264, 255, …, 138 blocks of a chip of 132.
        let tried: Vec<f64> = (0..15).map(|step| f64::from(264 - 9 * step)).collect();
        spread = tried.iter().copied().find(|blocks| at_once(blocks)).unwrap_or(138.0);
    }
    let length = |class: &Class, outputs: u32| {
        let pairs = f64::from(class.pairs);
        let column = match rule.tile {
            Tile::Rows8 => 15.0 + 40.0 * pairs,
            Tile::Staged16 | Tile::Wide16 => 16.0 + 28.0 * pairs + 4.0 * pairs * pairs,
            Tile::Staged32 => {
                if class.pairs > 4 {
                    162.0
                } else {
                    81.0
                }
            }
        };
        column * tiles(outputs)
    };
    let lengths: f64 = parts().map(|(class, outputs)| of(class, outputs).0 * length(class, outputs)).sum();
    let (mut blocks, mut work, mut longest, mut shortest, mut exchange) = (0.0, 0.0, 0.0_f64, f64::INFINITY, 0);
    for (class, outputs) in parts() {
        let (count, bytes) = of(class, outputs);
        let most = most_of(outputs);
        let places = f64::from(planned.multiprocessors);
        let even = |places: f64| (places * length(class, outputs) / lengths - 1e-9).ceil().clamp(1.0, most);
        let members = match rule.shared {
            Shared::Equal(members) => f64::from(members.count),
            Shared::ByBytes { .. } => (spread * bytes / total).floor().clamp(1.0, most),
            Shared::ByLength { few } => even(if few { 0.75 * places } else { 1.5 * places }),
        };
        let sets = rule.members().map_or(1.0, |members| f64::from(members.sets));
        let pairs = f64::from(class.pairs);
        let rows_most = class.most.min(rule.tile.rows());
        let rows_added = if rule.tile == Tile::Staged32 { 32 } else { rows_most };
        let exchanged = class.pairs * rows_added.div_ceil(8);
        let cluster = rule.members().is_some_and(|members| members.cluster);
        let alone = members > 1.0
            && !cluster
            && rule.tile == Tile::Rows8
            && outputs > site.inputs
            && site.inputs.div_ceil(32) * class.pairs <= 96;
        let pieces = match alone {
            true => f64::from(site.inputs.div_ceil(32)) + f64::from(outputs.div_ceil(32)) / members,
            false => f64::from(site.inputs.div_ceil(32)) / members + f64::from(outputs.div_ceil(32)) / (members * sets),
        };
        let block = |rows: f64| {
            let by_pairs = pairs * (cost.us_per_piece_pair + cost.us_per_piece_pair_squared * pairs);
            let piece = cost.us_per_piece + cost.us_per_piece_of_rows * rows / size + by_pairs;
            let [us, us_per_cell] = match cost.apart {
                Some(apart) if !cluster => [apart.us, apart.us_per_cell],
                _ => [cost.us_shared, cost.us_per_cell],
            };
            let shared = us + us_per_cell * f64::from(exchanged) + cost.us_per_member * members;
            let shared = if members > 1.0 && !alone { shared } else { 0.0 };
            cost.us_per_block + pieces / 64.0 * piece + shared
        };
        blocks += count * members * sets;
        work += count * members * sets * block(class.rows as f64 / count);
        longest = longest.max(block(f64::from(rows_most)));
        shortest = shortest.min(block(class.rows as f64 / count));
        let exchanging = if alone { 1 } else { members as u32 };
        exchange = exchange.max(rule.tile.exchange(class.pairs, exchanged, exchanging, false));
    }
    let two = rule
        .members()
        .map_or_else(|| planned.two_fit(classes, rule.tile, blocks as u32, exchange), |members| members.two);
    let chip = f64::from(planned.multiprocessors);
    let rounds = blocks / if two { 2.0 * chip } else { chip };
    let mean = work / blocks;
    let uneven = (longest - mean).max(0.0) * cost.uneven;
    let many = (rounds + cost.rounding * (rounds.ceil() - rounds)) * mean + uneven;
    let us = if rounds <= 1.0 { longest } else { many };
    let crowded = if two { 1.0 + cost.crowded * (blocks / chip - 1.0).clamp(0.0, 1.0) } else { cost.lonely };
    let outputs = || site.outputs.iter().map(|&outputs| f64::from(outputs));
    let inputs = f64::from(site.inputs);
    let weights: f64 = outputs().map(|outputs| classes.granules as f64 * (inputs + outputs) * 16e-6).sum();
    let rows: f64 = outputs().map(|outputs| classes.rows as f64 * (inputs + 2.0 * outputs) * 2e-6).sum();
    let groups: f64 = parts()
        .map(|(class, outputs)| of(class, outputs).0 * f64::from(class.pairs) * (inputs + f64::from(outputs)) * 32e-6)
        .sum();
    let kept: f64 = inputs + outputs().sum::<f64>();
    // There is none for the last kind.
    let scale = site.scale * site.scales.get(rule.tile as usize).unwrap_or(&1.0);
    if planned.rounds {
        let moved = classes.rows as f64 * 2e-6 * (inputs + outputs().map(|outputs| 2.0 * outputs).sum::<f64>());
        let missed = (weights + kept * classes.rows as f64 * 2e-6 - planned.cache_megabytes).max(0.0);
        let missed = (missed / planned.cache_megabytes_more).min(1.0);
        let fetched = weights * planned.us_per_megabyte + missed * moved * planned.us_per_megabyte_beyond;
        let cached = groups * planned.us_per_megabyte_again + moved * planned.us_per_megabyte_of_rows;
        let memory = if planned.dealt { fetched + cached } else { fetched.max(cached) };
        // Every round by itself, the last of what is left.
        let cluster = rule.members().filter(|members| members.cluster).map_or(1, |members| u32::from(members.count));
        let mut places = if two { 2.0 * chip } else { chip };
        if planned.dealt && cluster > 1 {
            // Of 132 multiprocessors two parts have 18, six 16.
            let of_part = |multiprocessors: u32| multiprocessors * if two { 2 } else { 1 } / cluster;
            places = f64::from((6 * of_part(16) + 2 * of_part(18)).max(1) * cluster);
        }
        let (mut us, mut left) = (0.0, blocks);
        while left > 0.0 {
            let round = left.min(places);
            let last = blocks > places && round < places;
            let mut way = if blocks > places { mean } else { longest };
            if planned.dealt && last {
                way = way.min(mean * round / places + shortest);
            }
            let pairs = planned.dealt && ![1, 2, 4, 8, 16].contains(&cluster);
            let crowded = if round > chip || pairs { cost.crowded } else { 0.0 };
            let slower = if two { 1.0 + crowded } else { cost.lonely };
            let sparse = if two { cost.sparse * (2.0 - round / chip).min(1.0) } else { 0.0 };
            us += (way * slower).hypot(memory * round / blocks * (1.0 + sparse));
            left -= round;
        }
        let uneven = if blocks > places { cost.uneven * (longest - mean).max(0.0) } else { 0.0 };
        return cost.us + scale * (us + uneven);
    }
    let beyond = (weights + kept * classes.rows as f64 * 2e-6 - planned.cache_megabytes).max(0.0);
    let fetched = beyond * planned.us_per_megabyte_beyond + weights * planned.us_per_megabyte;
    let cached = rows * planned.us_per_megabyte_of_rows + groups * planned.us_per_megabyte_again;
    let memory = if planned.dealt { fetched.hypot(cached) } else { fetched + cached };
    let waiting = if blocks > 0.9 * chip { site.us_waiting + site.waiting * memory } else { 0.0 };
    cost.us + scale * (us * crowded - site.us_hidden).max(0.0).hypot(memory) + waiting
}

/// All launches side by side; `decided` sees what the plan decided, and the fingerprint of what it depends on.
fn abreast(planned: &Planned, sites: &Sites, classes: &Classes, mut decided: impl FnMut(u64, Ready)) -> [f64; SITES] {
    let abreast = planned.abreast(sites);
    let (tiles, ready) = (abreast.tiles(planned, sites, classes), Ready::of(planned, &planned.rules(sites, classes)));
    decided(abreast.print(classes, tiles), ready);
    abreast.price(planned, ready, classes, tiles)
}

#[test]
fn sums_over_projections_are_those_of_every_group_written_out() {
    let (mut planned, mut state) = (planned(), 1_u64);
    let mut draw = |below: u32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32 % below
    };
    let (mut equal, mut by_bytes, mut by_length, mut alone, mut sets, mut at_once) = (0, 0, [0; 2], 0, 0, 0);
    let mut rules = BTreeMap::new();
    for batch in 0..4000 {
        (planned.rounds, planned.packs, planned.prompts) = (batch % 2 == 1, batch % 4 >= 2, batch % 8 >= 4);
        planned.mixed = batch % 16 >= 8;
        planned.dealt = batch % 3 > 0;
        let ranks = [&[16_u32][..], &[8, 16, 32, 64, 128]][draw(2) as usize];
        let most = 2 << draw(6);
        let mut segment = || Segment {
            rank: ranks[draw(ranks.len() as u32) as usize],
            decode_rows: 1 + draw(most),
            prefill_rows: if draw(10) == 0 { draw(2000) } else { 0 },
        };
        let mut segments: Vec<Segment> = (0..1 + most).map(|_| segment()).collect();
        if batch % 7 == 0 {
            // Few single rows, which may have several sets of members.
            segments.truncate(1 + most as usize % 3);
            segments.iter_mut().for_each(|segment| {
                *segment = Segment { rank: 16, decode_rows: 1, prefill_rows: 0 };
            });
        }
        if batch % 5 == 0 {
            segments.truncate(1 + most as usize % 7);
            segments.iter_mut().for_each(|segment| {
                *segment = Segment { decode_rows: 0, prefill_rows: 16 + 37 * segment.decode_rows, ..*segment };
            });
        }
        let classes = Classes::of(&segments);
        for site in &planned.sites {
            let ready = Site::of(site, 0);
            let rule = planned.rule(&ready, &classes, planned.tile(&ready, &classes));
            match rule.shared {
                Shared::Equal(members) => (equal, sets) = (equal + 1, sets + u32::from(members.sets > 1)),
                Shared::ByBytes { at_once: once } => (by_bytes, at_once) = (by_bytes + 1, at_once + u32::from(once)),
                Shared::ByLength { few } => by_length[usize::from(few)] += 1,
            }
            alone += u32::from(planned.shared_out_by(&ready, rule, &classes).alone);
            let (us, by_hand) = (
                planned.launch_us(&ready, rule, &planned.cut(rule.tile, &classes)),
                by_hand(&planned, site, rule, &classes),
            );
            assert!((us / by_hand - 1.0).abs() < 1e-12, "{us} {by_hand} {rule:?} {segments:?}");
        }
        let sites = planned.compiled(0);
        let one_by_one = planned.us_by(&sites, &planned.rules(&sites, &classes), &classes);
        let us = abreast(&planned, &sites, &classes, |print, ready| {
            let known = *rules.entry((batch % 16, planned.dealt, print)).or_insert(ready);
            assert_eq!(known, ready, "two batches with the same print: {segments:?}");
        });
        assert_eq!(us, one_by_one, "{segments:?}");
    }
    let seen = (equal, by_bytes, by_length, alone, sets, at_once);
    assert!(equal > 1000 && by_bytes > 1000 && alone > 30 && sets > 10 && at_once > 10, "{seen:?}");
    assert!(by_length.iter().all(|of| *of > 300), "{seen:?}");
}

#[test]
fn two_blocks_fit_up_to_some_bytes_of_exchange_which_longer_stages_make_fewer() {
    for (shared_bytes, packs) in [(232_448, false), (232_448, true), (166_912, true), (101_376, false)] {
        let planned = Planned { shared_bytes, packs, ..planned() };
        for tile in Tile::ALL {
            for blocks in [1, 66, 67, 132, 133, 4000] {
                let most = |pairs: u32| planned.exchange_most(tile, pairs, blocks);
                for pairs in 1..=PAIRS_MAX as u32 {
                    let classes = Classes::of(&[Segment { rank: 16 * pairs, decode_rows: 1, prefill_rows: 0 }]);
                    for bytes in (0..shared_bytes).step_by(256) {
                        let fit = planned.two_fit(&classes, tile, blocks, bytes);
                        assert_eq!(
                            fit,
                            f64::from(bytes) <= most(pairs),
                            "{tile:?}, {blocks} blocks, {pairs} pairs, {bytes}"
                        );
                    }
                    for other in (1..=PAIRS_MAX as u32).filter(|other| tile.slot(*other) > tile.slot(pairs)) {
                        assert!(most(other) <= most(pairs), "{tile:?}, {blocks} blocks: {other} and {pairs} pairs");
                    }
                }
            }
        }
    }
}

#[test]
fn launches_beside_products_of_more_rows_fare_as_these_kernels_let_them() {
    let mut planned = planned();
    let (first, more) = (
        planned.sites[0].beside(0),
        PlannedBeside { rows: 9, scale: 1.7, us_waiting: 2.0, waiting: 0.3, us_hidden: 1.1 },
    );
    planned.sites[0].more_rows = vec![more, PlannedBeside { rows: 17, us_hidden: 3.0, ..more }];
    assert_eq!(planned.check(), Ok(()));
    assert_eq!(
        [0, 8, 9, 16, 17, 400].map(|rows| planned.sites[0].beside(rows).us_hidden),
        [0.4, 0.4, 1.1, 1.1, 3.0, 3.0]
    );
    assert_eq!(planned.rows_apart(), [0, 9, 17]);
    let segments = [Segment { rank: 16, decode_rows: 1, prefill_rows: 0 }; 5];
    let alike = |beside: PlannedBeside| {
        let PlannedBeside { scale, us_waiting, waiting, us_hidden, .. } = beside;
        let mut planned = planned.clone();
        planned.sites[0] =
            PlannedSite { scale, us_waiting, waiting, us_hidden, more_rows: Vec::new(), ..planned.sites[0].clone() };
        planned.us(&segments, 0)
    };
    let more = [9, 17].map(|rows| planned.sites[0].beside(rows));
    assert_eq!(planned.us(&segments, 8), alike(first));
    assert_eq!([16, 32].map(|rows| planned.us(&segments, rows)), more.map(alike));
    assert!(planned.us(&segments, 16) > planned.us(&segments, 32));
    planned.sites[0].more_rows.reverse();
    assert!(planned.check().unwrap_err().contains("rows must rise"));
}
