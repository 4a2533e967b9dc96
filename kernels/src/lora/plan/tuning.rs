//! What a plan can be told, and what it chooses by itself otherwise.

use super::super::variant::RowTile;

/// A plan's choices, for measuring what they are worth. `None` leaves a choice to the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Rows a group.
    pub row_tile: Option<RowTile>,
    /// Blocks over which all groups together are spread.
    pub blocks: Option<u32>,
    /// How members exchange their sums.
    pub exchange: Option<Exchange>,
    /// The most shared memory a block may use, less than the chip's limit.
    pub shared_bytes: Option<u32>,
    /// When the next launch may start its blocks.
    pub release: Option<Release>,
    /// What the launch follows.
    pub follows: Follows,
    /// Whether the code is to be as short as it gets: for launches between other kernels, which leave none of it in the
    /// instruction caches.
    pub short: bool,
}

/// What a launch follows on its stream, which decides what it has time for before x is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Follows {
    /// A launch of the same kind, which lets this one start its blocks early.
    #[default]
    Itself,
    /// Another kernel, which may not let this one begin before its end.
    Another,
    /// Another kernel beside which it runs ([`pair_beside`](super::super::launch::LoadedPlan::pair_beside)), and with which it
    /// shares the multiprocessors.
    Beside,
}

/// When a launch lets the next one of its stream start its blocks, which ask for their weights at once and so share
/// the memory with its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Release {
    /// As soon as its own have started.
    #[default]
    AtStart,
    /// When x and y are there.
    WithOperands,
    /// When its blocks have multiplied their inputs, and are about to exchange their sums.
    WithSums,
}

impl Release {
    /// All of them, earliest first.
    pub const ALL: [Release; 3] = [Release::AtStart, Release::WithOperands, Release::WithSums];
}

/// How the members of a group exchange their partial sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// Through the shared memory of a cluster: quick, but every group must have the same number of members, a power
    /// of two.
    Cluster,
    /// Through global memory: any number of members for any group.
    Global,
}
