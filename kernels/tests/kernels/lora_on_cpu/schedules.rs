//! Blocks that begin late, warps that fall asleep and sums that arrive late change no bit.

use aril_kernels::Element;
use aril_kernels::lora::plan::{Exchange, Plan, Tuning};
use aril_kernels::lora::variant::RowTile;

use super::{
    ARCHITECTURES, Batch, CHIP, EXPAND, LATE_PAIR, Launch, PAIR, Program, SHRINK, floats_of, is_close, part, plan_of,
    runner,
};
use crate::shim::Runner;

/// A launch by one path of the kernels.
pub(super) struct Scene {
    pub(super) name: String,
    pub(super) architecture: &'static str,
    pub(super) batch: Batch,
    pub(super) plan: Plan,
}

/// Every way in which the members of a group exchange their sums, in every form of the kernels that has it.
pub(super) fn scenes(element: Element) -> Vec<Scene> {
    let [older, hopper] = ARCHITECTURES;
    let cases = [
        // Sums of one cell and of three, in one hop.
        (RowTile::Rows8, older, Exchange::Cluster, 4, part(2, 16)),
        (RowTile::Rows8, older, Exchange::Cluster, 3, part(2, 48)),
        (RowTile::Rows8, older, Exchange::Global, 3, part(2, 48)),
        // In turns, and between two members at once.
        (RowTile::Rows8, older, Exchange::Cluster, 3, part(5, 96)),
        (RowTile::Rows8, older, Exchange::Cluster, 2, part(5, 96)),
        (RowTile::Rows8, older, Exchange::Global, 3, part(5, 96)),
        (RowTile::Staged16, hopper, Exchange::Cluster, 3, part(21, 40)),
        (RowTile::Staged16, hopper, Exchange::Cluster, 2, part(12, 16)),
        (RowTile::Staged16, hopper, Exchange::Global, 3, part(12, 24)),
        (RowTile::Staged16, older, Exchange::Global, 3, part(21, 40)),
        (RowTile::Staged16, older, Exchange::Global, 2, part(12, 24)),
        (RowTile::Wide16, hopper, Exchange::Cluster, 3, part(12, 40)),
        (RowTile::Staged32, hopper, Exchange::Cluster, 3, part(37, 61)),
        (RowTile::Staged32, hopper, Exchange::Cluster, 2, part(30, 100)),
        (RowTile::Staged32, hopper, Exchange::Global, 3, part(30, 61)),
    ];
    let scene = |(row_tile, architecture, exchange, members, part): (RowTile, _, _, u32, super::Part)| {
        let batch = Batch::cancelling(element, 712, &[520], &[part], 17);
        let groups = part.rows.div_ceil(row_tile.rows());
        let tuning = Tuning {
            row_tile: Some(row_tile),
            blocks: Some(groups * members),
            exchange: Some(exchange),
            shared_bytes: row_tile.is_staged().then_some(70 << 10),
            ..Tuning::default()
        };
        let name = format!("{row_tile:?} {architecture} {exchange:?}, {members} members, rank {}", part.rank);
        Scene { name, architecture, plan: plan_of(&batch, CHIP, tuning), batch }
    };
    cases.into_iter().map(scene).collect()
}

impl Scene {
    /// y of the pair and of the expand, and v of the shrink.
    fn results(
        &self,
        runner: &Runner,
        launch: &Launch<'_>,
        kernel: usize,
        v: &[Vec<f32>],
    ) -> Result<Vec<Vec<u8>>, String> {
        let outputs = launch.run(runner, kernel, v)?;
        let bytes = |y: Vec<u16>| y.into_iter().flat_map(u16::to_le_bytes).collect();
        Ok(if kernel == SHRINK { outputs } else { launch.y_of(&outputs).into_iter().map(bytes).collect() })
    }

    /// That of the pair.
    pub(super) fn program(&self) -> Program {
        Launch::new(&self.batch, self.plan.clone(), 0, self.architecture).program(PAIR)
    }

    /// What every kernel gives where nothing is late, and what the pair gives is right.
    pub(super) fn rights(&self, runner: &Runner) -> Rights {
        let launch = Launch::new(&self.batch, self.plan.clone(), 1, self.architecture);
        let run = |kernel, v: &[Vec<f32>]| match self.results(runner, &launch, kernel, v) {
            Ok(outputs) => outputs,
            Err(error) => panic!("{}: {error}", self.name),
        };
        let pair = launch.run(runner, PAIR, &[]).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        is_close(&self.batch, &launch.y_of(&pair)).unwrap_or_else(|wrong| panic!("{}: {wrong}", self.name));
        let shrink = run(SHRINK, &[]);
        let v: Vec<Vec<f32>> = shrink.iter().map(|bytes| floats_of(bytes)).collect();
        let pair = run(PAIR, &[]);
        Rights { expand: run(EXPAND, &v), pair, shrink, v }
    }

    /// Whether delays change anything.
    pub(super) fn holds(&self, runner: &Runner, rights: &Rights, seed: u64, planted: usize) -> Result<(), String> {
        let launch =
            Launch { delays: true, planted, ..Launch::new(&self.batch, self.plan.clone(), seed, self.architecture) };
        for (kernel, name, right) in [
            (PAIR, "pair", &rights.pair),
            (LATE_PAIR, "late pair", &rights.pair),
            (SHRINK, "shrink", &rights.shrink),
            (EXPAND, "expand", &rights.expand),
        ] {
            let v: &[Vec<f32>] = if kernel == EXPAND { &rights.v } else { &[] };
            let result = self.results(runner, &launch, kernel, v).map_err(|error| format!("{name}: {error}"))?;
            if result != *right {
                return Err(format!("{name}: other bits"));
            }
        }
        Ok(())
    }
}

pub(super) struct Rights {
    pair: Vec<Vec<u8>>,
    shrink: Vec<Vec<u8>>,
    expand: Vec<Vec<u8>>,
    v: Vec<Vec<f32>>,
}

#[test]
fn whatever_is_late_changes_no_bit() {
    let Some(runner) = runner() else { return };
    for scene in scenes(Element::F16) {
        let rights = scene.rights(runner);
        for seed in 0..4 {
            if let Err(wrong) = scene.holds(runner, &rights, seed, 0) {
                panic!("{}, seed {seed}: {wrong}", scene.name);
            }
        }
    }
}
