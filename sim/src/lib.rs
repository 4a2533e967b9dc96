//! The pure core of aril: time, requests, replicas, policies, cost models and facts.
//!
//! No files, no clocks, no threads. Read in this order: [`time`], [`workload`], [`batch`], [`settings`], [`fact`], [`policy`],
//! [`draft`], [`fleet`], [`engine`].

pub mod batch;
pub mod conformance;
pub mod cost;
pub mod draft;
pub mod engine;
mod event;
pub mod fact;
pub mod fetch;
mod find;
pub mod fleet;
pub mod gpu;
pub mod model;
pub mod policy;
mod print;
pub mod profile;
pub mod random;
mod replica;
mod residency;
mod rows;
mod sequence;
pub mod settings;
pub mod time;
pub mod workload;
