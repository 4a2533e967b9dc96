//! Shrink, expand and pair on the CPU shim against float64, on the batches that break kernels.

use std::sync::OnceLock;

use aril_kernels::Element;
use aril_kernels::lora::plan::{CELL_BYTES, Chip, Exchange, Follows, Job, Plan, Release, Tuning};
use aril_kernels::lora::variant::{RowTile, Variant};
use aril_kernels::reference::lora::Deviation;

use crate::batch::{Batch, Part};
use crate::shim::{Around, Buffer, Case, Pointer, Program, Runner};

mod faults;
mod precision;
mod schedules;

const CHIP: Chip = Chip { multiprocessors: 16, shared_bytes_block_max: 232_448, cluster_max: 16 };

const fn part(rows: u32, rank: u32) -> Part {
    Part { rows, rank }
}

fn bytes_of(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn words_of(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// Rows of `width` moved apart to rows of `stride`, the gaps filled with NaN.
fn spread(words: &[u16], width: usize, stride: usize) -> Vec<u16> {
    let mut out = Vec::new();
    for row in words.chunks_exact(width) {
        out.extend_from_slice(row);
        out.extend(std::iter::repeat_n(u16::MAX, stride - width));
    }
    out.truncate(out.len().saturating_sub(stride - width));
    out
}

fn gather(words: &[u16], width: usize, stride: usize) -> Vec<u16> {
    words.chunks(stride).flat_map(|row| row[..width].to_vec()).collect()
}

struct Launch<'a> {
    batch: &'a Batch,
    plan: Plan,
    seed: u64,
    architecture: &'static str,
    delays: bool,
    planted: usize,
}

const KERNELS: [&str; 3] = ["lora_pair", "lora_shrink", "lora_expand"];
/// Of which the second has sources of its own where a variant is staged.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90a"];
const PAIR: usize = 0;
const SHRINK: usize = 1;
const EXPAND: usize = 2;
/// The pair as a launch beside its predecessor: x and y appear while that runs, and one block waits at its end.
const LATE_PAIR: usize = 3;
const GAP: usize = 8;

fn name_of(kernel: usize) -> &'static str {
    KERNELS[if kernel == LATE_PAIR { PAIR } else { kernel }]
}

fn programs(variant: Variant) -> impl Iterator<Item = Program> {
    let units = ARCHITECTURES.into_iter().map(move |architecture| variant.unit(architecture));
    units.flat_map(|unit| KERNELS.into_iter().map(move |kernel| Program::of(unit.clone(), kernel)))
}

/// Every variant, built once a test process.
fn runner() -> Option<&'static Runner> {
    static RUNNER: OnceLock<Option<Runner>> = OnceLock::new();
    let programs = || Variant::all().flat_map(programs).collect();
    RUNNER.get_or_init(|| Runner::build("lora", programs(), |_, source| source.to_owned())).as_ref()
}

impl<'a> Launch<'a> {
    fn new(batch: &'a Batch, plan: Plan, seed: u64, architecture: &'static str) -> Launch<'a> {
        Launch { batch, plan, seed, architecture, delays: false, planted: 0 }
    }

    fn v_stride(&self) -> usize {
        self.plan.rank_max() as usize + 1
    }

    fn program(&self, kernel: usize) -> Program {
        Program::of(self.plan.variant().unit(self.architecture), name_of(kernel))
    }

    /// Runs one kernel; `v` is the input of expand. Returns y or v of each projection.
    fn run(&self, runner: &Runner, kernel: usize, v: &[Vec<f32>]) -> Result<Vec<Vec<u8>>, String> {
        let Launch { batch, plan, .. } = self;
        let inputs = batch.site.inputs() as usize;
        let buffer = |content: Vec<u8>, hidden, output| Buffer { content, hidden, output };
        let late = kernel == LATE_PAIR;
        // In a late launch the block that waits is the last one with something to do, or one with nothing to do.
        let blank = if late && self.seed.is_multiple_of(2) { Vec::new() } else { vec![Job::default(); 2] };
        let jobs: Vec<u8> = plan.jobs().iter().chain(&blank).copied().flat_map(Job::to_bytes).collect();
        let x = if kernel == EXPAND { Vec::new() } else { spread(&batch.x, inputs, inputs + GAP) };
        let mut buffers = vec![
            buffer(jobs, false, false),
            buffer(bytes_of(&x), true, false),
            buffer(vec![0xff; plan.inbox_cells() as usize * CELL_BYTES], false, true),
        ];
        let pointer = |holder, offset, target| Pointer { holder, offset, target, addend: 0 };
        let mut pointers = vec![pointer(None, 0, 0), pointer(None, 8, 1), pointer(None, 16, 2)];
        let mut arguments = vec![0_u8; 48 + 4 * 48 + 16];
        let mut put = |offset: usize, value: u32| arguments[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
        put(24, (inputs + GAP) as u32);
        put(28, inputs as u32);
        put(32, plan.jobs().len() as u32 + blank.len() as u32);
        // Expand exchanges nothing and is launched without clusters.
        let cluster = if kernel == EXPAND { 1 } else { plan.cluster() as usize };
        put(36, u32::from(cluster > 1));
        put(40, plan.depth());
        put(48 + 4 * 48 + 8, 7);
        for (index, place) in batch.site.places().iter().enumerate() {
            let at = 48 + index * 48;
            let outputs = place.shape.outputs as usize;
            put(at, place.a_tiles as u32);
            put(at + 8, place.b_tiles as u32);
            put(at + 32, (outputs + GAP) as u32);
            put(at + 36, self.v_stride() as u32);
            put(at + 40, outputs as u32);
            if kernel != SHRINK {
                pointers.push(pointer(None, at + 16, buffers.len()));
                buffers.push(buffer(bytes_of(&spread(&batch.y[index], outputs, outputs + GAP)), true, true));
            }
            if kernel == SHRINK || kernel == EXPAND {
                let nan = vec![f32::NAN; batch.rows as usize * self.v_stride()];
                let content = if kernel == EXPAND { &v[index] } else { &nan };
                pointers.push(pointer(None, at + 24, buffers.len()));
                buffers.push(buffer(content.iter().flat_map(|v| v.to_le_bytes()).collect(), true, kernel == SHRINK));
            }
        }
        if late {
            pointers.push(pointer(None, 48 + 4 * 48, buffers.len()));
            buffers.push(buffer(7_u32.to_le_bytes().to_vec(), true, false));
        }
        let first_adapter = buffers.len();
        for adapter in &batch.adapters {
            buffers.push(buffer(bytes_of(&adapter.packed), false, false));
        }
        for (index, job) in plan.jobs().iter().enumerate() {
            let adapter = (job.weights / 4096 - 1) as usize;
            pointers.push(pointer(Some(0), index * Job::BYTES, first_adapter + adapter));
        }
        let case = Case {
            program: self.program(kernel),
            blocks: (plan.jobs().len() + blank.len() + 1).next_multiple_of(cluster),
            threads: plan.variant().rows.threads() as usize,
            shared_bytes: plan.shared_bytes() as usize,
            cluster,
            seed: self.seed,
            around: Around { beside: late, delays: self.delays, planted: self.planted },
            buffers,
            pointers,
            arguments,
        };
        let mut outputs = runner.run(&case)?;
        let inbox = outputs.remove(0);
        if inbox.iter().any(|&byte| byte != 0xff) {
            return Err("the inbox is not empty after the launch".to_owned());
        }
        Ok(outputs)
    }

    fn y_of(&self, outputs: &[Vec<u8>]) -> Vec<Vec<u16>> {
        let widths = self.batch.site.places().iter().map(|place| place.shape.outputs as usize);
        outputs.iter().zip(widths).map(|(bytes, width)| gather(&words_of(bytes), width, width + GAP)).collect()
    }
}

fn close_enough(batch: &Batch, y: &[Vec<u16>], what: &str) {
    if let Err(wrong) = is_close(batch, y) {
        panic!("{what}, {wrong}");
    }
}

fn is_close(batch: &Batch, y: &[Vec<u16>]) -> Result<(), String> {
    // No rounding of y gives more than 0.0039 and 0.00049. Where v were rounded, 0.03 and more, and 0.004.
    let (norm, element) = match batch.site.element() {
        Element::Bf16 => (4.3e-3, 8e-3),
        Element::F16 => (5.4e-4, 1e-3),
    };
    for (projection, y) in y.iter().enumerate() {
        let expected = batch.expected_y(projection);
        let outputs = batch.site.places()[projection].shape.outputs as usize;
        // Each segment for itself: one is not lost among others.
        for &(first, rows, adapter, _) in batch.segments.iter().filter(|(_, rows, ..)| *rows > 0) {
            let range = first as usize * outputs..(first + rows) as usize * outputs;
            let got = batch.decode(&y[range.clone()]).into_iter().map(f64::from);
            let deviation = Deviation::of(got, &expected[range]);
            if !deviation.within(norm, element) {
                let rank = batch.adapters[adapter].rank;
                return Err(format!(
                    "projection {projection}, {rows} rows of rank {rank} from {first} on: {deviation:?}"
                ));
            }
        }
        // Rows without an adapter are untouched, to the bit.
        for row in 0..batch.rows as usize {
            let served = batch.segments.iter().any(|&(first, rows, ..)| (first..first + rows).contains(&(row as u32)));
            let range = row * outputs..(row + 1) * outputs;
            if !served && y[range.clone()] != batch.y[projection][range] {
                return Err(format!("row {row} was written"));
            }
        }
    }
    Ok(())
}

/// The same of v in fp32, whatever lies where there is none.
fn is_close_v(batch: &Batch, v: &[Vec<f32>], stride: usize) -> Result<(), String> {
    for (projection, v) in v.iter().enumerate() {
        let expected = batch.expected_v(projection, stride, f64::NAN);
        for (index, (&value, &expected)) in v.iter().zip(&expected).enumerate() {
            let same = if expected.is_nan() { value.is_nan() } else { (f64::from(value) - expected).abs() < 3e-6 };
            if !same {
                return Err(format!("v[{}][{}] is {value}, not {expected}", index / stride, index % stride));
            }
        }
    }
    Ok(())
}

fn check(runner: &Runner, batch: &Batch, tuning: Tuning, seed: u64) {
    check_plan(ARCHITECTURES[0], runner, batch, plan_of(batch, CHIP, tuning), seed);
    if tuning.row_tile.is_some_and(RowTile::is_staged) {
        check_plan(ARCHITECTURES[1], runner, batch, plan_of(batch, CHIP, tuning), seed + 100);
    }
}

fn plan_of(batch: &Batch, chip: Chip, tuning: Tuning) -> Plan {
    let segments = batch.segments(|adapter| (adapter as u64 + 1) * 4096);
    Plan::new(&batch.site, &segments, chip, tuning).expect("a valid batch")
}

fn check_plan(architecture: &'static str, runner: &Runner, batch: &Batch, plan: Plan, seed: u64) {
    let what = format!("{:?}, {} blocks in clusters of {}", plan.variant(), plan.jobs().len(), plan.cluster());
    let launch = Launch::new(batch, plan, seed, architecture);
    let run = |kernel, v: &[Vec<f32>]| match launch.run(runner, kernel, v) {
        Ok(outputs) => outputs,
        Err(error) => panic!("{what}, {}: {error}", name_of(kernel)),
    };

    let y = launch.y_of(&run(PAIR, &[]));
    close_enough(batch, &y, &what);
    let again = Launch::new(batch, launch.plan.clone(), seed + 1, architecture);
    for late in [&launch, &again] {
        let outputs = late.run(runner, LATE_PAIR, &[]).unwrap_or_else(|error| panic!("{what}, beside: {error}"));
        assert_eq!(late.y_of(&outputs), y, "{what}: beside its predecessor it gives other bits");
    }
    let repeated = again.run(runner, PAIR, &[]).expect("it ran before");
    assert_eq!(again.y_of(&repeated), y, "{what}: another order of warps gives other bits");

    let v: Vec<Vec<f32>> = run(SHRINK, &[]).iter().map(|bytes| floats_of(bytes)).collect();
    if let Err(wrong) = is_close_v(batch, &v, launch.v_stride()) {
        panic!("{what}: {wrong}");
    }
    close_enough(batch, &launch.y_of(&run(EXPAND, &v)), &format!("{what}, expand"));
}

/// Single rows, an empty segment, rows without an adapter, odd ranks, one long segment.
const RAGGED: [Part; 9] =
    [part(1, 16), part(1, 1), part(2, 0), part(0, 8), part(3, 13), part(1, 64), part(21, 24), part(1, 7), part(4, 0)];

#[test]
fn every_variant_agrees_with_float64_on_a_ragged_batch() {
    let Some(runner) = runner() else { return };
    for element in Element::ALL {
        for row_tile in RowTile::ALL {
            let batch = Batch::cancelling(element, 200, &[136, 40], &RAGGED, 7);
            // The code in both its lengths.
            for short in [false, true].into_iter().filter(|short| !(short & row_tile.is_staged())) {
                let tuning = Tuning { row_tile: Some(row_tile), blocks: Some(30), short, ..Tuning::default() };
                check(runner, &batch, tuning, 1);
            }
        }
    }
}

#[test]
fn the_plan_s_own_choices_agree_with_float64() {
    let Some(runner) = runner() else { return };
    let batches: [(&[Part], u32, &[u32]); 7] = [
        (&[part(1, 16)], 1024, &[1024]),
        (&[part(40, 8)], 64, &[512]),
        (&[part(1, 8), part(1, 64), part(1, 128)], 256, &[320]),
        (&[part(1, 256), part(2, 5)], 104, &[72, 8, 8]),
        (&[part(67, 40), part(1, 16)], 8, &[8]),
        (&[part(1, 3), part(1, 3), part(1, 3), part(1, 3), part(1, 3), part(1, 3)], 96, &[64, 64, 64, 24]),
        // Few inputs, many outputs, unequal groups: some members multiply all inputs, others exchange their sums.
        (&[part(1, 16), part(2, 7), part(1, 250), part(1, 24)], 520, &[1064]),
    ];
    for (index, (parts, inputs, outputs)) in batches.into_iter().enumerate() {
        let batch = Batch::cancelling(Element::Bf16, inputs, outputs, parts, index as u64);
        for exchange in [None, Some(Exchange::Global)] {
            // As many blocks as multiprocessors leave the groups of a mixed batch unequal in members.
            let blocks = exchange.map(|_| CHIP.multiprocessors);
            check(runner, &batch, Tuning { exchange, blocks, ..Tuning::default() }, index as u64);
        }
    }
}

/// The tile that the rules choose does not fit: a smaller one serves.
#[test]
fn plans_for_chips_with_less_shared_memory_agree_with_float64() {
    let Some(runner) = runner() else { return };
    let chip = |shared_bytes_block_max| Chip { shared_bytes_block_max, cluster_max: 1, ..CHIP };
    let (staged, wide) = (RowTile::Staged16, RowTile::Wide16);
    let large = CHIP.shared_bytes_block_max;
    let cases = [
        (120, 101_376, [RowTile::Staged32, staged]),
        (64, 101_376, [RowTile::Staged32, RowTile::Rows8]),
        (220, 166_912, [wide, staged]),
        (256, 166_912, [wide, RowTile::Rows8]),
    ];
    for (index, (rank, shared_bytes, tiles)) in cases.into_iter().enumerate() {
        let batch = Batch::cancelling(Element::ALL[index % 2], 264, &[264], &[part(80, rank)], 40 + index as u64);
        let plan = |shared_bytes| plan_of(&batch, chip(shared_bytes), Tuning::default());
        assert_eq!([large, shared_bytes].map(|bytes| plan(bytes).variant().rows), tiles, "rank {rank}");
        check_plan(ARCHITECTURES[0], runner, &batch, plan(shared_bytes), index as u64);
    }
}

#[test]
fn members_of_a_group_exchange_their_sums_in_any_number() {
    let Some(runner) = runner() else { return };
    for exchange in [Exchange::Global, Exchange::Cluster] {
        let exchange = Some(exchange);
        for (blocks, rank, seed) in [(2, 16, 1), (3, 48, 3), (4, 64, 5), (8, 32, 7), (10, 16, 9), (7, 256, 11)] {
            let batch = Batch::cancelling(Element::F16, 512, &[512], &[part(2, rank)], seed);
            check(
                runner,
                &batch,
                Tuning { row_tile: Some(RowTile::Rows8), blocks: Some(blocks), exchange, ..Tuning::default() },
                seed,
            );
        }
        let batch = Batch::cancelling(Element::F16, 512, &[512], &[part(61, 70)], 9);
        check(
            runner,
            &batch,
            Tuning { row_tile: Some(RowTile::Staged16), blocks: Some(4), exchange, ..Tuning::default() },
            3,
        );
    }
}

/// More members than a warp asks for at once, which chips with few multiprocessors never have.
#[test]
fn more_members_than_are_asked_for_at_once_exchange_their_sums() {
    let Some(runner) = runner() else { return };
    let chip = Chip { multiprocessors: 48, ..CHIP };
    // Two, three and four cells belong to 4, 2 and 2 warps each, every one of which asks four members at once. More members
    // would take turns, and a single cell has 32 at most, which its 8 warps ask all at once.
    for (members, rank, seed) in [(31, 32, 1), (21, 48, 3), (15, 64, 5)] {
        let batch = Batch::cancelling(Element::F16, 1120, &[1120], &[part(2, rank)], seed);
        let (row_tile, exchange) = (Some(RowTile::Rows8), Some(Exchange::Global));
        let tuning = Tuning { row_tile, exchange, blocks: Some(members), ..Tuning::default() };
        let plan = plan_of(&batch, chip, tuning);
        assert!(plan.jobs().iter().all(|job| job.members == members), "{members} members");
        check_plan(ARCHITECTURES[0], runner, &batch, plan, seed);
    }
}

/// Rings of two to five slots, which stages of x and y pass through many times.
#[test]
fn many_rows_pass_through_a_short_ring() {
    let Some(runner) = runner() else { return };
    let batches: [(RowTile, u32, &[u32], &[Part]); 7] = [
        (RowTile::Staged16, 1000, &[520], &[part(16, 16), part(2, 0), part(5, 40)]),
        (RowTile::Staged16, 680, &[1000], &[part(37, 16), part(12, 9)]),
        (RowTile::Staged16, 264, &[72, 200], &[part(17, 250), part(1, 3)]),
        (RowTile::Staged16, 520, &[392], &[part(30, 64), part(3, 125)]),
        (RowTile::Wide16, 1000, &[1064], &[part(37, 32), part(12, 9)]),
        (RowTile::Staged32, 1000, &[1064], &[part(67, 24), part(40, 61)]),
        (RowTile::Staged32, 680, &[520], &[part(37, 72), part(40, 61)]),
    ];
    for (index, (row_tile, inputs, outputs, parts)) in batches.into_iter().enumerate() {
        let batch = Batch::cancelling(Element::ALL[index % 2], inputs, outputs, parts, 20 + index as u64);
        for (exchange, members) in [(Exchange::Cluster, 1), (Exchange::Cluster, 3), (Exchange::Global, 3)] {
            let groups: u32 = parts.iter().filter(|p| p.rank > 0).map(|p| p.rows.div_ceil(row_tile.rows())).sum();
            let tuning = Tuning {
                row_tile: Some(row_tile),
                blocks: Some(groups * members * outputs.len() as u32),
                exchange: Some(exchange),
                shared_bytes: Some(70 << 10),
                release: Some(Release::ALL[index % 3]),
                follows: Follows::Itself,
                short: false,
            };
            check(runner, &batch, tuning, index as u64);
        }
    }
}
