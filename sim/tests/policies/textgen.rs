//! The 1,024 requests of Punica's text generation benchmark: how many steps each system's loop takes, to the last one.

use std::path::Path;

use aril_sim::policy::Batcher;
use aril_sim::policy::batcher::{FcfsSameAdapter, Punica, RegroupByAdapter, StaticConsecutive};

use super::stage::{Play, Stage, with};

/// Prompt, output, and the adapters under distinct, uniform, skewed and identical popularity.
type Row = (u32, u32, [u32; 4]);

fn requests() -> Option<Vec<Row>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/punica/textgen_1024.csv");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    };
    let row = |line: &str| {
        let numbers: Vec<u32> = line.split(',').map(|number| number.parse().expect("a number")).collect();
        (numbers[1], numbers[2], [numbers[3], numbers[4], numbers[5], numbers[6]])
    };
    Some(text.lines().skip(1).map(row).collect())
}

/// All requests at the start, on one GPU with 32 places and memory for everybody.
fn run(rows: &[Row], popularity: usize, batcher: impl Batcher + Clone + Send + Sync + 'static) -> Play {
    let mut stage = Stage::of(1).seqs(32).blocks(1_000_000).batcher(batcher);
    let adapter = stage.catalog.adapters[0].clone();
    stage.catalog.adapters = vec![adapter; 1024];
    let stage = stage.each(|replica| replica.max_loras = 32);
    rows.iter()
        .fold(stage, |stage, &(prompt, output, adapters)| stage.ask(0, adapters[popularity], prompt, output))
        .play()
}

#[test]
fn static_batches_take_as_many_steps_as_their_longest_members() {
    let Some(rows) = requests() else { return };
    let published = [(1_009_565, 1024), (990_897, 991), (889_362, 840), (62_758, 32)];
    for (popularity, (steps, batches)) in published.into_iter().enumerate() {
        let play = run(&rows, popularity, StaticConsecutive::default());
        assert_eq!((play.all_steps(), play.prompt_steps()), (steps, batches), "popularity {popularity}");
    }
}

#[test]
fn strict_fcfs_takes_a_decode_step_for_almost_every_token() {
    let Some(rows) = requests() else { return };
    for (popularity, steps) in [1_008_541, 989_906, 888_522, 32_377].into_iter().enumerate() {
        let play = run(&rows, popularity, FcfsSameAdapter::default());
        assert_eq!((play.decode_steps(), play.prompt_steps()), (steps, 1024), "popularity {popularity}");
    }
}

#[test]
fn punica_takes_the_same_steps_whatever_the_popularity() {
    let Some(rows) = requests() else { return };
    for popularity in 0..4 {
        let play = run(&rows, popularity, Punica::default());
        assert_eq!(play.all_steps(), 32_422);
        let rows_of = |steps: &super::stage::Steps| (steps.prompts.len() + steps.decodes.len()) as u64;
        let occupancy: u64 = play.steps.iter().map(|steps| rows_of(steps) * u64::from(steps.steps)).sum();
        assert_eq!(format!("{:.2}", occupancy as f64 / 32_422.0), "31.14");
        // The last token of a sequence is never written to memory. A count that gives it a slot all the same, as the
        // one behind the published 1,941 pages does, comes to two more.
        assert_eq!(play.steps.iter().map(|steps| steps.kv_blocks_used).max(), Some(1_939));
        assert_eq!(pages_with_last_token(&play, &rows), 1_941);
    }
}

/// The most pages of 16 tokens at the end of any step, if every sequence of the step had a slot for its newest token.
fn pages_with_last_token(play: &Play, rows: &[Row]) -> u32 {
    let mut emitted = vec![0; rows.len()];
    let mut most = 0;
    for steps in &play.steps {
        for step in 1..=steps.steps {
            let of = |&request: &u32| (rows[request as usize].0 + emitted[request as usize] + step).div_ceil(16);
            most = most.max(steps.prompts.iter().chain(&steps.decodes).map(of).sum());
        }
        for &request in steps.prompts.iter().chain(&steps.decodes) {
            emitted[request as usize] += steps.steps;
        }
    }
    most
}

#[test]
fn a_correct_punica_batch_has_as_many_segments_as_derived_and_the_published_one_has_one() {
    use aril_sim::policy::batcher::Fault;
    let Some(rows) = requests() else { return };
    for (popularity, segments) in [(0, "31.1"), (1, "20.3"), (2, "8.1"), (3, "1.0")] {
        let mean = |faults| {
            let play = run(&rows, popularity, with(|p: &mut Punica| p.faults = faults));
            let sum: u64 = play.steps.iter().map(|steps| u64::from(steps.segments) * u64::from(steps.steps)).sum();
            format!("{:.1}", sum as f64 / play.all_steps() as f64)
        };
        assert_eq!(mean(vec![]), segments);
        assert_eq!(mean(vec![Fault::SingleSegmentDecode]), "1.0");
    }
}

#[test]
fn a_baseline_that_regroups_its_queue_needs_a_fraction_of_the_steps() {
    let Some(rows) = requests() else { return };
    let steps = |popularity| run(&rows, popularity, RegroupByAdapter::default()).decode_steps();
    // Distinct adapters leave nothing to regroup; identical ones nothing to gain.
    assert_eq!(steps(0), 1_008_541);
    assert_eq!(steps(3), 32_377);
    // 32 adapters of 32 requests: each is a batch of its own, as long as its longest member.
    let longest =
        |adapter: u32| rows.iter().filter(|row| row.2[1] == adapter).map(|row| u64::from(row.1) - 1).max().unwrap();
    assert_eq!(steps(1), (0..32).map(longest).sum::<u64>());
    assert!(steps(2) < 889_362 / 10);
}
