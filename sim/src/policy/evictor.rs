//! Which idle adapter makes room? One rule a file.

mod at_once;
mod fifo;
mod lfu;
mod lru;
mod pinned;
mod size_aware;

pub use at_once::AtOnce;
pub use fifo::Fifo;
pub use lfu::Lfu;
pub use lru::Lru;
pub use pinned::{Pinned, Rest};
pub use size_aware::SizeAware;
