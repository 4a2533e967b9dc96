//! Oracles that nobody can tune to, and relations that must hold whatever the numbers are.

mod case;
mod decisions;
mod differential;
mod lies;
mod metamorphic;
mod queueing;
mod reasons;
mod regressions;
mod rules;
mod signals;
mod stalled;
mod station;
mod twins;
mod waits;
