//! From facts to pages, checked from outside: against brute force over the same facts, and against what a reader relies on.

mod books;
mod facts;
mod metrics;
mod over_time;
mod pages;
mod queue;
mod rows;
mod setup;
mod tables;
