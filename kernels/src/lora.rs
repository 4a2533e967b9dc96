//! y += scale · (x·A)·B for every segment of a batch, each with an adapter and a rank of its own.
//!
//! [`layout`] packs an adapter's weights once, when it is loaded. [`plan`] decides once a step which block does
//! what; it sees segments and ranks. [`launch`] runs shrink, expand or the fused pair.

pub mod launch;
pub mod layout;
pub mod plan;
pub mod variant;
