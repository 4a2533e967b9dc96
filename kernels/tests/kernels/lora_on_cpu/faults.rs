//! What the shim is for: each of these faults passes unnoticed on some GPU, some of the time, or in the last digits. A form of
//! the kernels is compiled once with all of its faults, of which a launch has one.

use aril_kernels::Element;
use aril_kernels::lora::plan::{Plan, Tuning};
use aril_kernels::lora::variant::{RowTile, Variant};

use super::precision::{extremes, holds, is_bounded};
use super::schedules::{Rights, Scene, scenes};
use super::{ARCHITECTURES, Batch, CHIP, KERNELS, Launch, PAIR, Program, Runner, is_close, part, plan_of};

/// What finds a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// One launch of a small batch, under the sanitizers and against float64.
    Launch,
    /// Launches in which things are late, to the bit.
    Delays,
    /// Weights that nearly cancel, against float64.
    Digits,
    /// v at both ends of its range, against the documented bound.
    Ends,
}

/// A line, what is there in its place (`FAULT`: where the fault is), what that does, and what finds it.
type Fault = (&'static str, &'static str, &'static str, By);

/// Of every form.
const ANY: &[Fault] = &[
    ("  wait_for_operands(args);", "  if (!FAULT) wait_for_operands(args);", "x read too early", By::Delays),
    (
        "      while (load_acquire(args.ready) != args.mark)",
        "      while (!FAULT && load_acquire(args.ready) != args.mark)",
        "the preceding kernel's mark not waited for",
        By::Delays,
    ),
    (
        "poll_pause();\n    block_barrier();\n  } else {",
        "poll_pause();\n    if (!FAULT) block_barrier();\n  } else {",
        "one thread alone waits for the mark",
        By::Delays,
    ),
    (
        "  if (waits_for_predecessor(args)) dependency_wait();",
        "  if (!FAULT && waits_for_predecessor(args)) dependency_wait();",
        "a block without a job that does not wait",
        By::Delays,
    ),
    (
        "  if (args.ready && waits_for_predecessor(args)) dependency_wait();",
        "  if (!FAULT && args.ready && waits_for_predecessor(args)) dependency_wait();",
        "a launch that ends before its predecessor",
        By::Delays,
    ),
    (
        "while (!arrived(values[i]))",
        "while (!FAULT && !arrived(values[i]))",
        "an inbox taken before it is full",
        By::Delays,
    ),
    (
        "  u32 low01 = ELEMENT::pack(",
        "  if (FAULT) return make_uint4(high01, high23, 0, 0);\n  u32 low01 = ELEMENT::pack(",
        "v rounded to 16 bits",
        By::Digits,
    ),
    (
        "  return make_uint4(high01, high23, low01, low23);",
        "  if (FAULT) low01 = ELEMENT::pack(ELEMENT::clamp(v0 - h0), ELEMENT::clamp(v1 - h1));\n  return make_uint4(high01, high23, low01, low23);",
        "a low part that stops at the largest half",
        By::Ends,
    ),
    (
        "float h0 = ELEMENT::clamp(v0),",
        "float h0 = FAULT ? v0 : ELEMENT::clamp(v0),",
        "a high part that does not stop there",
        By::Ends,
    ),
    (
        "v[rows_on * projection.v_stride + ranks_on] = value;",
        "v[rows_on * projection.v_stride + ranks_on] = FAULT ? rounded(value) : value;",
        "v stored in 16 bits",
        By::Digits,
    ),
    (
        "rank < job.rank) sum.x = v[0];",
        "rank < job.rank) sum.x = FAULT ? rounded(v[0]) : v[0];",
        "v read in 16 bits",
        By::Digits,
    ),
];

/// Of those that have clusters.
const CLUSTERS: &[Fault] = &[
    (
        "    barrier_wait(room.barriers);\n    for",
        "    if (!FAULT) barrier_wait(room.barriers);\n    for",
        "the other member's sums not waited for",
        By::Delays,
    ),
    (
        "  if (room.cluster) barrier_wait(room.barriers);",
        "  if (!FAULT && room.cluster) barrier_wait(room.barriers);",
        "the other members' sums of owned cells not waited for",
        By::Delays,
    ),
    (
        "  if (room.cluster) return barrier_wait(room.barriers + 1);",
        "  if (room.cluster && FAULT) return;\n  if (room.cluster) return barrier_wait(room.barriers + 1);",
        "the other members' cells of v not waited for",
        By::Delays,
    ),
];

/// Of `lora.cu`.
const STREAMED: &[Fault] = &[
    (
        "    else\n      copy_wait<0>();",
        "    else if (FAULT)\n      copy_wait<12>();\n    else\n      copy_wait<0>();",
        "an asynchronous copy used before it is waited for",
        By::Launch,
    ),
    ("x.here = i < job.rows ?", "x.here = i < job.rows + FAULT ?", "x read past its last row", By::Launch),
    ("y.here = tiles_below(", "y.here = FAULT ? my_columns : tiles_below(", "y read past its last column", By::Launch),
    ("  if (cluster) cluster_wait();", "  if (cluster) WAIT;", "the cluster not waited for", By::Delays),
    (
        "    block_barrier();\n    if (args.release == WITH_SUMS)",
        "    if (!FAULT) block_barrier();\n    if (args.release == WITH_SUMS)",
        "other warps' sums not waited for",
        By::Delays,
    ),
    (
        "    if (!each) block_barrier();",
        "    if (!FAULT && !each) block_barrier();",
        "v used before it is whole",
        By::Delays,
    ),
    (
        "    block_barrier();\n  }\n  if (hall.cluster) barrier_wait",
        "    if (!FAULT) block_barrier();\n  }\n  if (hall.cluster) barrier_wait",
        "sums that other warps received not waited for",
        By::Delays,
    ),
    (
        "  if (hall.cluster) barrier_wait(hall.barrier);",
        "  if (!FAULT && hall.cluster) barrier_wait(hall.barrier);",
        "the other members' sums not waited for",
        By::Delays,
    ),
    (
        "make_float4(sums[p][0], sums[p][1], sums[p][2], sums[p][3]);",
        "make_float4(FAULT ? rounded(sums[p][0]) : sums[p][0], sums[p][1], sums[p][2], sums[p][3]);",
        "a quarter of a warp's sums rounded to 16 bits",
        By::Digits,
    ),
    (
        "unit[0].x, unit[0].y, v.x, v.z);",
        "unit[0].x, unit[0].y, v.x, FAULT ? 0u : v.z);",
        "no low part of 8 ranks",
        By::Digits,
    ),
    (
        "  ELEMENT::mma(low[0], a.x, a.y, c.x, c.y, v.z, v.w);",
        "  if (!FAULT) ELEMENT::mma(low[0], a.x, a.y, c.x, c.y, v.z, v.w);",
        "no low part of half the outputs",
        By::Digits,
    ),
    (
        "  ELEMENT::mma(low[1], a.z, a.w, c.z, c.w, v.z, v.w);",
        "  if (!FAULT) ELEMENT::mma(low[1], a.z, a.w, c.z, c.w, v.z, v.w);",
        "no low part of the other half",
        By::Digits,
    ),
    (
        "sums[0][half][e] += low[0][half][e];",
        "sums[0][half][e] += FAULT ? 0.f : low[0][half][e];",
        "no low part of large ranks",
        By::Digits,
    ),
];

/// Of `lora_staged.cu`.
const STAGED: &[Fault] = &[
    (
        "    multiplying_barrier();\n    if (args.release == WITH_SUMS)",
        "    if (!FAULT) multiplying_barrier();\n    if (args.release == WITH_SUMS)",
        "other warps' sums not waited for",
        By::Delays,
    ),
    (
        "    multiplying_barrier();\n    expand(",
        "    if (!FAULT) multiplying_barrier();\n    expand(",
        "v used before it is whole",
        By::Delays,
    ),
];

/// Of `lora_staged.cu` where barriers in shared memory serve the ring.
const BULK: &[Fault] = &[
    (
        "  if (BULK) block_barrier();",
        "  if (BULK && !FAULT) block_barrier();",
        "barriers used before they are made",
        By::Delays,
    ),
    (
        "      phases_wait(full(slot), parity);",
        "      if (!FAULT) phases_wait(full(slot), parity);",
        "a stage read before it is here",
        By::Launch,
    ),
    (
        "      phases_wait(empty(asked_slot), asked_parity);",
        "      if (!FAULT) phases_wait(empty(asked_slot), asked_parity);",
        "a stage overwritten while it is read",
        By::Launch,
    ),
];

/// Where block barriers do.
const BARRIERS: &[Fault] = &[
    (
        "      copy_wait_at_most(asked - stage - 1);",
        "      if (!FAULT) copy_wait_at_most(asked - stage - 1);",
        "a stage read before this thread's copies are here",
        By::Delays,
    ),
    (
        "copy_wait_at_most(asked - stage - 1);\n      block_barrier();",
        "copy_wait_at_most(asked - stage - 1);\n      if (!FAULT) block_barrier();",
        "a stage read before other threads' copies are here",
        By::Delays,
    ),
];

/// Of `lora_fragments.cuh`.
const FRAGMENTS: &[Fault] = &[
    (
        "tile * 4 + 4 > quarters &&",
        "!FAULT && tile * 4 + 4 > quarters &&",
        "columns of x multiplied that it does not have",
        By::Launch,
    ),
    (
        "half * 8 < lane_rows) {",
        "half * 8 < lane_rows + 8 * FAULT) {",
        "y written past the last row of a segment",
        By::Launch,
    ),
    (
        "make_float4(sums[p][m][0][e],",
        "make_float4(FAULT ? rounded(sums[p][m][0][e]) : sums[p][m][0][e],",
        "a quarter of a warp's sums rounded to 16 bits",
        By::Digits,
    ),
    (
        "  ELEMENT::mma(sums[0], v.low[0],",
        "  if (!FAULT) ELEMENT::mma(sums[0], v.low[0],",
        "no low part of a quarter of the outputs",
        By::Digits,
    ),
    (
        "  ELEMENT::mma(sums[3], v.low[0],",
        "  if (!FAULT) ELEMENT::mma(sums[3], v.low[0],",
        "no low part of another quarter",
        By::Digits,
    ),
];

const FRAGMENTS_OF_CLUSTERS: &[Fault] = &[(
    "  if (cluster && !WARPGROUPS) cluster_wait();",
    "  if (cluster && !WARPGROUPS) WAIT;",
    "the cluster not waited for",
    By::Delays,
)];

/// Of `lora_warpgroups.cuh`.
const WARPGROUPS: &[Fault] = &[
    (
        "    if (cluster && WARPGROUPS) cluster_wait();\n    if (warp",
        "    if (cluster && WARPGROUPS) WAIT;\n    if (warp",
        "the cluster not waited for",
        By::Delays,
    ),
    (
        "    if (cluster && WARPGROUPS) cluster_wait();\n    return",
        "    if (!FAULT && cluster && WARPGROUPS) cluster_wait();\n    return",
        "a warp that copies ends before its cluster has begun",
        By::Delays,
    ),
    (
        "    group_barrier(2 + group);",
        "    if (!FAULT) group_barrier(2 + group);",
        "y stored before other warps have made it",
        By::Delays,
    ),
    (
        "make_float4(sums[4 * n],",
        "make_float4(FAULT ? rounded(sums[4 * n]) : sums[4 * n],",
        "a quarter of a warpgroup's sums rounded to 16 bits",
        By::Digits,
    ),
    ("part < 2; ++part", "part < (FAULT ? 1 : 2); ++part", "no low part of v", By::Digits),
];

/// A form of the kernels, its faults, and the launches that are to find them.
struct Form {
    row_tile: RowTile,
    architecture: &'static str,
    faults: Vec<Fault>,
}

impl Form {
    fn new(row_tile: RowTile, architecture: &'static str, faults: &[&[Fault]]) -> Form {
        Form { row_tile, architecture, faults: faults.concat() }
    }

    fn programs(&self) -> impl Iterator<Item = Program> {
        let unit = Variant { element: Element::F16, rows: self.row_tile, short: false }.unit(self.architecture);
        KERNELS.into_iter().map(move |kernel| Program::of(unit.clone(), kernel))
    }

    /// The source with all faults, each where its number is asked for.
    fn plant(&self, source: &str) -> String {
        let mut text = source.to_owned();
        for (index, (from, to, what, _)) in self.faults.iter().enumerate() {
            assert!(text.contains(from), "{what}: the line to change is no longer in the source: {from}");
            let is_there = format!("(planted == {})", index + 1);
            // Without what the shim itself says of a thread that does not wait.
            let wait = format!("{{ if {is_there} current->in_cluster_barrier = false; else cluster_wait(); }}");
            text = text.replacen(from, &to.replace("WAIT;", &wait).replace("FAULT", &is_there), 1);
        }
        let rounded = "static float rounded(float v) { return ELEMENT::low(ELEMENT::pack(v, 0.f)); }";
        text.replacen("DEVICE u32 input_lane(", &format!("{rounded}\nDEVICE u32 input_lane("), 1)
    }

    fn tuning(&self, blocks: u32) -> Tuning {
        let shared_bytes = self.row_tile.is_staged().then_some(70 << 10);
        Tuning { row_tile: Some(self.row_tile), blocks: Some(blocks), shared_bytes, ..Tuning::default() }
    }

    /// A batch that ends in the middle of tiles of rows and columns.
    fn launch(&self, runner: &Runner, planted: usize) -> Result<(), String> {
        let staged = self.row_tile.is_staged();
        let (inputs, outputs, rows) = if staged { (1000, 520, 19) } else { (72, 40, 3) };
        let parts = [part(rows, 16), part(1, if staged { 0 } else { 9 })];
        let batch = Batch::cancelling(Element::F16, inputs, &[outputs], &parts, 5);
        let plan = plan_of(&batch, CHIP, self.tuning(if staged { 1 } else { 4 }));
        let launch = Launch { planted, ..Launch::new(&batch, plan, 11, self.architecture) };
        is_close(&batch, &launch.y_of(&launch.run(runner, PAIR, &[])?))
    }

    fn of_digits(&self) -> (Batch, Plan) {
        let rows = self.row_tile.rows() - 1;
        let batch = Batch::cancelling(Element::F16, 264, &[136], &[part(rows, 16), part(1, 8), part(rows, 80)], 6);
        let plan = plan_of(&batch, CHIP, self.tuning(12));
        (batch, plan)
    }

    fn finds(&self, runner: &Runner, scenes: &[(&Scene, Rights)], planted: usize, by: By) -> bool {
        match by {
            By::Launch => self.launch(runner, planted).is_err(),
            By::Digits => {
                let (batch, plan) = self.of_digits();
                holds(runner, &batch, &plan, self.architecture, planted, is_close).is_err()
            }
            By::Ends => {
                let batch = extremes(Element::F16, 2);
                let plan = plan_of(&batch, CHIP, self.tuning(40));
                holds(runner, &batch, &plan, self.architecture, planted, is_bounded).is_err()
            }
            By::Delays => (0..8)
                .flat_map(|seed| scenes.iter().map(move |scene| (seed, scene)))
                .any(|(seed, (scene, rights))| scene.holds(runner, rights, seed, planted).is_err()),
        }
    }
}

#[test]
fn planted_faults_are_found() {
    let [older, hopper] = ARCHITECTURES;
    let forms = [
        Form::new(RowTile::Rows8, older, &[ANY, CLUSTERS, STREAMED]),
        Form::new(RowTile::Staged16, hopper, &[ANY, CLUSTERS, STAGED, BULK, FRAGMENTS, FRAGMENTS_OF_CLUSTERS]),
        Form::new(RowTile::Staged16, older, &[ANY, STAGED, BARRIERS, FRAGMENTS]),
        Form::new(RowTile::Staged32, hopper, &[ANY, CLUSTERS, STAGED, BULK, WARPGROUPS]),
    ];
    let all = scenes(Element::F16);
    let mut passed = Vec::new();
    for form in &forms {
        let name = format!("lora-faults-{:?}-{}", form.row_tile, form.architecture);
        let Some(runner) = Runner::build(&name, form.programs().collect(), |_, source| form.plant(source)) else {
            return;
        };
        let program = form.programs().next();
        let scenes: Vec<_> = all
            .iter()
            .filter(|scene| Some(scene.program()) == program)
            .map(|scene| (scene, scene.rights(&runner)))
            .collect();
        for by in [By::Launch, By::Digits, By::Ends] {
            assert!(
                !form.finds(&runner, &scenes, 0, by),
                "{by:?} finds a fault in {:?} where there is none",
                form.row_tile
            );
        }
        for (index, &(_, _, what, by)) in form.faults.iter().enumerate() {
            if !form.finds(&runner, &scenes, index + 1, by) {
                passed.push(format!("{:?} {}: {what}, by {by:?}", form.row_tile, form.architecture));
            }
        }
    }
    assert!(passed.is_empty(), "not found:\n{}", passed.join("\n"));
}
