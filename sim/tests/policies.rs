//! Each built-in policy follows its rule: small scenarios made by hand, judged by the facts that they tell.

mod asked;
mod batcher;
mod conformance;
mod evictor;
mod limits;
mod load_path;
mod migrator;
mod preemptor;
mod router;
mod s_lora;
mod scaler;
mod stage;
mod table;
mod textgen;
