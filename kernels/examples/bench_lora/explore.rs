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

/// Times the plan's own choice with the kernels of each folder, then every choice with those that `bench` has: called back
/// to back, or `after` another kernel.
pub(crate) fn explore(bench: &mut Bench, point: &Point, folders: &[PathBuf], after: bool) -> Result<Value, Error> {
    let prepared = bench.prepare(point)?;
    let bytes = point.bytes("pair");
    let copy = bench.time_copy(bytes, prepared.sets)?.median;
    let target = if after { 4.6 + bytes as f64 / 3.41e6 } else { 3.0 + bytes as f64 / 3.70e6 };
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
    let mut found = Vec::new();
    let before = if after { Before::Uncooperative } else { Before::Itself };
    let follows = if after { Follows::Another } else { Follows::Itself };
    let lengths: &[bool] = if after { &[false, true] } else { &[false] };
    let settings = settings(point, bench.gpu.chip().shared_bytes_block_max);
    let chosen = lengths.iter().map(|&short| Tuning { follows, short, ..Tuning::default() });
    let all = settings.iter().flat_map(|&tuning| lengths.iter().map(move |&short| Tuning { follows, short, ..tuning }));
    let mut own = Vec::new();
    for tuning in chosen.chain(all) {
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
        if found.iter().any(|(_, seen, _)| *seen == what) {
            continue;
        }
        match bench.time(&prepared, &plan, Call::Pair, before, REPEATS) {
            Ok((pair, _)) => found.push((pair.median, what, tuning)),
            Err(error) => println!("    {what}: {error}"),
        }
    }
    found.sort_by(|a, b| a.0.total_cmp(&b.0));
    for (index, (us, what, tuning)) in found.iter().take(6).enumerate() {
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
    for (us, what, _) in found.iter().filter(|(_, what, _)| own.contains(what)) {
        println!("    {us:6.2}  the plan's own: {what}");
    }
    let key = if after { "after_us" } else { "pair_us" };
    let tried: Vec<Value> = found.iter().map(|(us, what, _)| json!({ key: us, "plan": what })).collect();
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

/// The settings that may suit a point.
fn settings(point: &Point, shared_bytes_max: u32) -> Vec<Tuning> {
    let longest = point.segments.iter().map(|&(rows, _)| rows).max().unwrap_or(0);
    let rank_max = point.segments.iter().map(|&(_, rank)| rank).max().unwrap_or(0);
    let mut all = Vec::new();
    for tile in RowTile::ALL {
        let suits = match tile {
            RowTile::Brief8 => point.rows() <= 300 && rank_max <= 32,
            RowTile::Rows8 => longest < 300,
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
            for members in [1, 2, 4, 8, 16] {
                if groups * members <= 560 || members == 1 {
                    push(groups * members, Exchange::Cluster);
                }
            }
            for blocks in [66, 132, 198, 264, groups] {
                push(blocks.max(groups), Exchange::Global);
            }
        }
    }
    all
}
