//! The pure core of aril: time, requests, replicas, policies, cost models and facts.
//!
//! No files, no clocks, no threads. Read in this order: [`time`], [`workload`], [`batch`], [`settings`], [`fact`].

pub mod batch;
pub mod fact;
pub mod gpu;
pub mod model;
pub mod random;
pub mod settings;
pub mod time;
pub mod workload;
