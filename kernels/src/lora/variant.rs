//! The compiled forms of `lora.cu` and `lora_staged.cu`: one a number format, a row tile and a length of the code.

use crate::Element;
use crate::compile::Unit;

/// The sources that all of them are made of.
pub const SOURCES: [&str; 9] = [
    "primitives.cuh",
    "lora.cuh",
    "lora_exchange.cuh",
    "lora_stream.cuh",
    "lora.cu",
    "lora_stages.cuh",
    "lora_fragments.cuh",
    "lora_warpgroups.cuh",
    "lora_staged.cu",
];

/// One compiled form of the LoRA kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Number format.
    pub element: Element,
    /// Rows that a group of blocks holds, and how they travel.
    pub rows: RowTile,
    /// Whether the code is as short as it gets: between other kernels a launch finds none of it in the instruction caches,
    /// and fetching more of it costs more than it saves. Only `lora.cu` comes in two lengths.
    pub short: bool,
}

/// Rows of a segment that one group of blocks multiplies at once, and how they travel. More rows read the weights less
/// often and hold more sums in registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowTile {
    /// 8 rows, for slices so short that a warp has one batch of two tiles: what counts then is the length of the code.
    Brief8,
    /// 8 rows: decode.
    Rows8,
    /// 16 rows, x and y staged in shared memory: prefill.
    Staged16,
    /// 16 rows, staged, in blocks of twice as many warps, one a multiprocessor: few groups, of more than one pair of rank
    /// granules.
    Wide16,
    /// 32 rows, staged, in blocks that have a multiprocessor each: ranks whose weights are many of the bytes. Warpgroups
    /// multiply, where there are any; elsewhere a warp holds all of v in the expand, and asks for weights while it multiplies.
    Staged32,
}

/// How one variant uses a multiprocessor. The numbers reach `lora.cu` as definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Warps a block that multiply.
    pub(crate) warps: u32,
    /// Warps a block that only copy, on GPUs whose barriers in shared memory tell them when; on others they help.
    pub(crate) copiers: u32,
    /// Tiles of 16 rows that a warp multiplies at once in a staged expand.
    pub(crate) expand_rows: u32,
    /// Deepest ring in units of two tiles, a warp.
    pub(crate) depth_max: u32,
    /// Pairs of rank granules whose sums one warp holds.
    pub(crate) pairs: u32,
    /// Blocks that share a multiprocessor, as far as registers go.
    pub(crate) blocks_min: u32,
}

/// Cells (16 ranks × 8 rows) of a group from which on its members own them in turn, and those of all members together.
pub(crate) const CELLS_IN_TURNS: u32 = 5;
pub(crate) const CELLS_OF_ALL_IN_TURNS: u32 = 64;

impl RowTile {
    /// All row tiles, smallest first.
    pub const ALL: [RowTile; 5] =
        [RowTile::Brief8, RowTile::Rows8, RowTile::Staged16, RowTile::Wide16, RowTile::Staged32];

    /// Rows in the tile.
    pub fn rows(self) -> u32 {
        8 * self.tiles()
    }

    pub(crate) fn tiles(self) -> u32 {
        match self {
            RowTile::Brief8 | RowTile::Rows8 => 1,
            RowTile::Staged16 | RowTile::Wide16 => 2,
            RowTile::Staged32 => 4,
        }
    }

    /// The next tile that needs less shared memory: first fewer rows or warps, then none of x and y staged.
    pub(crate) fn smaller(self) -> Option<RowTile> {
        match self {
            RowTile::Staged32 | RowTile::Wide16 => Some(RowTile::Staged16),
            RowTile::Staged16 => Some(RowTile::Rows8),
            RowTile::Rows8 | RowTile::Brief8 => None,
        }
    }

    /// Units of weights that a warp of `lora.cu` takes from its ring at once: more of them hide more latency, and make
    /// more code.
    pub(crate) fn batch(self) -> u32 {
        match self {
            RowTile::Rows8 => 4,
            RowTile::Brief8 => 2,
            RowTile::Staged16 | RowTile::Wide16 | RowTile::Staged32 => 1,
        }
    }

    /// Whether x and y pass through shared memory (`lora_staged.cu`) rather than registers (`lora.cu`).
    pub fn is_staged(self) -> bool {
        self.tiles() > 1
    }

    /// Whether sums are of all rows of the tile, whatever rows the group has: those of warpgroups are.
    pub(crate) fn is_added_up_whole(self) -> bool {
        self == RowTile::Staged32
    }

    pub(crate) fn shape(self) -> Shape {
        // The depth of a ring of stages follows from the memory there is.
        let depth_max = if self.is_staged() { 0 } else { 11 };
        let (warps, copiers, pairs, expand_rows, blocks_min) = match self {
            RowTile::Brief8 | RowTile::Rows8 => (8, 0, 2, 1, 2),
            RowTile::Staged16 => (8, 2, 2, 1, 2),
            RowTile::Wide16 => (16, 4, 2, 1, 1),
            RowTile::Staged32 => (8, 4, 2, 1, 1),
        };
        Shape { warps, copiers, depth_max, pairs, expand_rows, blocks_min }
    }

    /// Threads a block.
    pub fn threads(self) -> u32 {
        let shape = self.shape();
        (shape.warps + shape.copiers) * 32
    }

    /// The largest rank that the block's warps can accumulate, and that leaves room for stages beside the exchange.
    pub fn rank_max(self) -> u32 {
        if self.tiles() == RowTile::Staged32.tiles() { super::layout::RANK_MAX / 2 } else { super::layout::RANK_MAX }
    }
}

impl Variant {
    /// Every variant.
    pub fn all() -> impl Iterator<Item = Variant> {
        let lengths = |rows: RowTile| [false, true].into_iter().filter(move |&short| !(short && rows.is_staged()));
        let forms = move |element| {
            RowTile::ALL
                .into_iter()
                .flat_map(move |rows| lengths(rows).map(move |short| Variant { element, rows, short }))
        };
        Element::ALL.into_iter().flat_map(forms)
    }

    /// What to compile for an architecture (`sm_80`, `sm_90a`, …).
    pub fn unit(self, architecture: &str) -> Unit {
        let source = if self.rows.is_staged() { "lora_staged.cu" } else { "lora.cu" };
        let mut defines = self.defines();
        if self.rows.is_staged() {
            let bulk = architecture.trim_start_matches(|c: char| !c.is_ascii_digit()).starts_with('9');
            defines.push(("BULK", u32::from(bulk).to_string()));
        }
        Unit { source, architecture: architecture.to_owned(), defines }
    }

    /// The definitions that select this variant.
    pub fn defines(self) -> Vec<(&'static str, String)> {
        let shape = self.rows.shape();
        vec![
            ("ELEMENT", self.element.device_name().to_owned()),
            ("NT", self.rows.tiles().to_string()),
            ("WARPS", shape.warps.to_string()),
            ("COPIERS", shape.copiers.to_string()),
            ("EXPAND_ROWS", shape.expand_rows.to_string()),
            ("PAIRS", shape.pairs.to_string()),
            ("BATCH", self.rows.batch().to_string()),
            ("SETS", if self.short { 1 } else { 2 }.to_string()),
            ("TURNS", CELLS_IN_TURNS.to_string()),
            ("TURNS_OF_ALL", CELLS_OF_ALL_IN_TURNS.to_string()),
            ("MIN_BLOCKS", shape.blocks_min.to_string()),
        ]
    }
}
