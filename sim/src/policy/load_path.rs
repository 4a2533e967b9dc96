//! How do adapters come to the GPU? One rule a file.

mod blocking;
mod join_when_ready;
mod next_in_queue;
mod on_arrival;

pub use blocking::Blocking;
pub use join_when_ready::JoinWhenReady;
pub use next_in_queue::NextInQueue;
pub use on_arrival::OnArrival;
