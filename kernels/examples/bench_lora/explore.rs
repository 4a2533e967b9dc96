//! What each of a plan's choices is worth, and each of several versions of the kernels: what the plan's rules are
//! chosen by.

use std::path::PathBuf;

use aril_kernels::Error;
use aril_kernels::cache::Cache;
use aril_kernels::lora::launch::LoraKernels;
use aril_kernels::lora::plan::{Exchange, Follows, Release, Tuning};
use aril_kernels::lora::variant::RowTile;
use aril_kernels::source::Sources;
use serde_json::{Value, json};

use crate::bench::{Before, Bench, Call, Prepared};
use crate::points::Point;

/// Replays of one setting: enough for a difference of a few percent.
const REPEATS: usize = 12;
/// A setting that takes this many times as long as the best so far is not looked at any closer.
const HOPELESS: f64 = 1.35;
/// Blocks of a cluster: any number works, but not every number of clusters finds room.
const MEMBERS: [u32; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 12, 16];

/// Times the plan's own choice with the kernels of each folder, then every choice with those that `bench` has: called back
/// to back, and where `after` is asked for, after a plain copy kernel and after the backbone's GEMM too.
pub(crate) fn explore(
    bench: &mut Bench,
    point: &Point,
    folders: &[PathBuf],
    after: bool,
    tile: Option<RowTile>,
) -> Result<Value, Error> {
    let prepared = bench.prepare(point)?;
    let bytes = point.bytes("pair");
    let copy = bench.time_copy(bytes, prepared.sets)?.median;
    let target = 3.0 + bytes as f64 / 3.70e6;
    println!("{}: copy {copy:.2} target {target:.2} (1.15 copy + 1: {:.2})", point.name(), 1.15 * copy + 1.0);
    let mut versions = Vec::new();
    let built_in = bench.kernels.clone();
    for folder in folders {
        bench.kernels = LoraKernels::new(&bench.gpu, Sources::in_folder(folder), Cache::of_user());
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let measured = measure(bench, &prepared, Tuning::default());
        versions.push(match measured {
            Ok((us, after, shrink, expand)) => {
                println!("    {name:12} {us:6.2}  after {after:6.2}  shrink {shrink:5.2}  expand {expand:5.2}");
                json!({ "version": name, "pair_us": us, "after_us": after, "shrink_us": shrink, "expand_us": expand })
            }
            Err(error) => {
                println!("    {name}: {error}");
                json!({ "version": name, "error": error.to_string() })
            }
        });
    }
    bench.kernels = built_in;
    let mut found: Vec<(f64, String, Tuning, [f64; 2])> = Vec::new();
    let backbone = if after && bench.library.is_some() { Some(bench.backbone(&prepared)?) } else { None };
    let (mut best, mut last) = (f64::INFINITY, 0.0);
    let mut settings = settings(point, bench.gpu.chip().shared_bytes_block_max);
    settings.retain(|setting| tile.is_none() || setting.row_tile == tile);
    let own_after = Tuning { follows: Follows::Another, ..Tuning::default() };
    let mut chosen = vec![Tuning::default()];
    if after {
        chosen.push(own_after);
    }
    let mut own = Vec::new();
    for tuning in chosen.into_iter().chain(settings) {
        let Ok(plan) = bench.plan(&prepared, tuning) else { continue };
        if tuning.exchange.is_some_and(|exchange| (exchange == Exchange::Cluster) != (plan.cluster() > 1)) {
            continue;
        }
        let what = format!(
            "{:?}{} {} blocks c{} {} KiB {:?}",
            plan.variant().rows,
            if plan.variant().short { " short" } else { "" },
            plan.jobs().len(),
            plan.cluster(),
            plan.shared_bytes() >> 10,
            plan.release()
        );
        if tuning.row_tile.is_none() {
            own.push(what.clone());
        }
        if found.iter().any(|(_, seen, ..)| *seen == what) {
            continue;
        }
        let mut median = |before| -> Result<f64, Error> {
            Ok(bench.time_after(&prepared, &plan, Call::Pair, before, backbone.as_ref(), REPEATS)?.0.median)
        };
        let mut all = || -> Result<(f64, [f64; 2]), Error> {
            let pair = median(Before::Itself)?;
            let mut others = [f64::NAN; 2];
            // When the next launch may begin is nothing to a kernel that waits for its end.
            let looked_at = tuning.release.is_none_or(|release| release == Release::WithOperands);
            if after && looked_at && pair < best * HOPELESS {
                others[0] = median(Before::Uncooperative)?;
                if backbone.is_some() {
                    others[1] = median(Before::Gemm)?;
                }
            }
            Ok((pair, others))
        };
        if tuning.release.is_some_and(|release| release != Release::ALL[0]) && last > best * HOPELESS {
            continue;
        }
        match all() {
            Ok((pair, others)) => {
                (best, last) = (best.min(pair), pair);
                found.push((pair, what, tuning, others));
            }
            Err(error) => println!("    {what}: {error}"),
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (index, (us, what, tuning, _)) in found.iter().take(6).enumerate() {
        let (pair, after, shrink, expand) = measure(bench, &prepared, *tuning)?;
        let right = if index < 2 {
            let checked = bench.check(point, *tuning, 7 + index as u64, false)?;
            if checked.passes(point.element) { "right".to_owned() } else { format!("WRONG {checked:?}") }
        } else {
            String::new()
        };
        println!(
            "    {us:6.2}  pair {pair:6.2}  after {after:6.2}  shrink {shrink:5.2}  expand {expand:5.2}  {what}  {right}"
        );
    }
    for (us, what, ..) in found.iter().filter(|(_, what, ..)| own.contains(what)) {
        println!("    {us:6.2}  the plan's own: {what}");
    }
    let rounded = |us: f64| (us * 1e3).round() / 1e3;
    let tried: Vec<Value> = found
        .iter()
        .map(|(us, what, _, [copy, gemm])| {
            let mut tried = json!({ "pair_us": rounded(*us), "plan": what });
            if after {
                tried["after_us"] = json!(rounded(*copy));
                tried["after_gemm_us"] = json!(rounded(*gemm));
            }
            tried
        })
        .collect();
    Ok(json!({ "point": point.name(), "copy_us": copy, "target_us": target, "versions": versions, "own": own,
        "tried": tried }))
}

fn measure(bench: &mut Bench, prepared: &Prepared, tuning: Tuning) -> Result<(f64, f64, f64, f64), Error> {
    let plan = bench.plan(prepared, tuning)?;
    let mut median =
        |call, before| bench.time(prepared, &plan, call, before, REPEATS).map(|(summary, _)| summary.median);
    Ok((
        median(Call::Pair, Before::Itself)?,
        median(Call::Pair, Before::Uncooperative)?,
        median(Call::Shrink, Before::Itself)?,
        median(Call::Expand, Before::Itself)?,
    ))
}

/// Row tile, members and way of exchange of a batch of prompts, the rest by the plan: all of them back to back, and the
/// best ones after a plain copy kernel.
pub(crate) fn explore_swiftly(bench: &mut Bench, point: &Point) -> Result<Value, Error> {
    let prepared = bench.prepare(point)?;
    let target = 3.0 + point.bytes("pair") as f64 / 3.70e6;
    let mut found: Vec<(f64, f64, String, Tuning)> = Vec::new();
    let own = [Follows::Itself, Follows::Another].map(|follows| Tuning { follows, ..Tuning::default() });
    for tuning in own.into_iter().chain(settings_of_prompts(point, bench.gpu.chip().multiprocessors)) {
        let Ok(plan) = bench.plan(&prepared, tuning) else { continue };
        if tuning.exchange.is_some_and(|exchange| (exchange == Exchange::Cluster) != (plan.cluster() > 1)) {
            continue;
        }
        let chosen = match (tuning.row_tile, tuning.follows) {
            (Some(_), _) => "",
            (None, Follows::Itself) => "own ",
            _ => "own after ",
        };
        let (tile, release) = (plan.variant().rows, plan.release());
        let what = format!("{chosen}{tile:?} {} c{} {release:?}", plan.jobs().len(), plan.cluster());
        if chosen.is_empty() && found.iter().any(|(.., seen, _)| *seen == what) {
            continue;
        }
        match bench.time(&prepared, &plan, Call::Pair, Before::Itself, REPEATS_SWIFT) {
            Ok((summary, _)) => found.push((summary.median, f64::NAN, what, tuning)),
            Err(error) => println!("    {what}: {error}"),
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (index, (_, after, what, tuning)) in found.iter_mut().enumerate() {
        if index < 10 || what.starts_with("own") {
            let plan = bench.plan(&prepared, *tuning)?;
            *after = bench.time(&prepared, &plan, Call::Pair, Before::Uncooperative, REPEATS_SWIFT)?.0.median;
        }
    }
    let groups_of = |tuning: &Tuning| tuning.blocks.map_or(String::new(), |blocks| format!(" of {blocks}"));
    println!("{} target {target:.2}", point.name());
    for (index, (pair, after, what, tuning)) in found.iter().enumerate() {
        if index < 4 || what.starts_with("own") {
            println!("    {pair:6.2} after {after:6.2} {what}{}", groups_of(tuning));
        }
    }
    let rounded = |us: f64| (us * 1e3).round() / 1e3;
    let tried: Vec<Value> = found
        .iter()
        .map(|(pair, after, what, tuning)| json!([rounded(*pair), rounded(*after), what, tuning.blocks]))
        .collect();
    Ok(json!({ "point": point.name(), "target_us": target, "tried": tried }))
}

const REPEATS_SWIFT: usize = 7;

fn settings_of_prompts(point: &Point, multiprocessors: u32) -> Vec<Tuning> {
    let rank_max = point.segments.iter().map(|&(_, rank)| rank).max().unwrap_or(0);
    let mut all = Vec::new();
    for tile in RowTile::ALL {
        let at_once = match tile {
            RowTile::Brief8 | RowTile::Rows8 | RowTile::Staged16 => 2 * multiprocessors,
            RowTile::Wide16 | RowTile::Staged32 => multiprocessors,
        };
        let row_tiles = point.segments.iter().map(|&(rows, _)| rows.div_ceil(tile.rows())).sum::<u32>();
        let groups = row_tiles * (1 + point.also.len() as u32);
        if rank_max > tile.rank_max() || (!tile.is_staged() && groups > at_once) {
            continue;
        }
        let tuning = |blocks, exchange| Tuning {
            row_tile: Some(tile),
            blocks: Some(blocks),
            exchange: Some(exchange),
            ..Tuning::default()
        };
        for members in MEMBERS.into_iter().chain([7]) {
            if groups * members <= at_once || members == 1 {
                all.push(tuning(groups * members, Exchange::Cluster));
                all.push(tuning(groups * members, Exchange::Global));
            }
        }
        let shares = [1, 2, 3, 4].map(|half| multiprocessors * half / 2);
        all.extend(
            shares
                .into_iter()
                .filter(|&blocks| groups < blocks && blocks <= at_once)
                .map(|blocks| tuning(blocks, Exchange::Global)),
        );
    }
    all
}

/// The settings that may suit a point.
fn settings(point: &Point, shared_bytes_max: u32) -> Vec<Tuning> {
    let longest = point.segments.iter().map(|&(rows, _)| rows).max().unwrap_or(0);
    let rank_max = point.segments.iter().map(|&(_, rank)| rank).max().unwrap_or(0);
    let mut all = Vec::new();
    for tile in RowTile::ALL {
        let suits = match tile {
            RowTile::Brief8 => point.rows() <= 300 && rank_max <= 64,
            RowTile::Rows8 => longest < 600,
            RowTile::Staged16 | RowTile::Wide16 => longest > 8 || rank_max > 64,
            RowTile::Staged32 => longest > tile.rows() / 2,
        };
        if !suits {
            continue;
        }
        let groups: u32 = point.segments.iter().map(|&(rows, _)| rows.div_ceil(tile.rows())).sum();
        // Room for one, two or three blocks a multiprocessor.
        let shares = [1, 2, 3].map(|blocks| Some((shared_bytes_max + 1024) / blocks - 1024));
        for &shared_bytes in if tile.is_staged() { &shares[..] } else { &[None] } {
            let mut push = |blocks, exchange| {
                let (row_tile, blocks, exchange) = (Some(tile), Some(blocks), Some(exchange));
                let tuning = Tuning { row_tile, blocks, exchange, shared_bytes, ..Tuning::default() };
                all.extend(Release::ALL.map(|release| Tuning { release: Some(release), ..tuning }));
            };
            for members in MEMBERS {
                if groups * members <= 300 || members == 1 {
                    push(groups * members, Exchange::Cluster);
                }
            }
            for blocks in [132, 198].into_iter().chain([2, 3, 4, 6].map(|members| groups * members)) {
                if groups <= blocks && blocks <= 300 {
                    push(blocks, Exchange::Global);
                }
            }
        }
    }
    all
}
