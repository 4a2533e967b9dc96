//! How other systems serve rows of different adapters: the same formula, so that a simulator can price the choice.
//!
//! | way | what a launch costs | ranks |
//! |---|---|---|
//! | [`bgmv`] | one block a (row, rank): an adapter is read again for each of its rows | any mix here; Punica's original has one of 8 to 64 |
//! | [`padded`] | every adapter at the largest rank, a grid slot for each (adapter, row tile of the batch) | any mix, paid at the largest |
//! | [`gathered`] | the weights of each row are copied next to one another, then two batched GEMMs | any mix, padded to the largest |
//! | [`looped`] | two GEMMs an adapter | any mix |
//! | [`merged`] | nothing a step; W += scale·A·B at a switch of adapters | any, one adapter at a time |
//!
//! They read weights as those systems keep them ([`layout`]), not as ours do. All can be captured in a graph and
//! allocate nothing when launched. [`table`] carries segments to the device once a step, [`launch`] the kernels of `baseline.cu`.

pub mod bgmv;
pub mod gathered;
pub mod launch;
pub mod layer;
pub mod layout;
pub mod looped;
pub mod merged;
pub mod padded;
pub mod table;
