//! One whole step of a Llama model on one GPU: prefill and decode rows mixed, an adapter on each sequence, a paged KV
//! cache. What runs is what a serving engine would run; what it knows is tokens, KV blocks and adapter slots, no
//! request, no tenant and no scheduler.
//!
//! Reading order: [`shape`] (which model), [`settings`] (what memory and which LoRA path), [`sequence`] (what goes into a
//! step and what comes out), [`weights`] (where numbers come from).

pub mod adapters;
mod attend;
mod batch;
mod engine;
mod forward;
mod graphs;
mod groups;
pub mod kernels;
mod loads;
mod measure;
mod memory;
mod metadata;
pub mod sequence;
pub mod settings;
pub mod shape;
mod sites;
mod slots;
pub mod weights;

pub use adapters::{HostAdapter, Loading};
pub use batch::bucket;
pub use engine::{Build, Llama};
pub use loads::Beside;
pub use measure::CapturedStep;
pub use sequence::{Operation, Sequence, StepResult};
pub use settings::{GemmPath, LlamaSettings, LoraOrder, LoraPath};
pub use shape::{LlamaShape, RopeScaling};
pub use weights::{AdapterWeights, Half, ModelWeights, Projection, Tensor};
