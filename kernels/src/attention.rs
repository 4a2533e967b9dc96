//! Attention over paged keys and values: one new token a sequence ([`decode`]), or many ([`prefill`]).
//!
//! K and V of a layer lie in KV blocks of 16 tokens ([`layout`]); each sequence lists its blocks in a table. A step
//! plans both launches once ([`plan`]), from lengths alone, copies the plans to the GPU and launches them for every
//! layer. The new tokens' own K and V must be in their blocks before: attention reads no key from anywhere else.

pub mod decode;
pub mod layout;
pub mod operands;
pub mod plan;
pub mod prefill;
pub mod variant;
