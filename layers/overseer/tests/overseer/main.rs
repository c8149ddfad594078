//! The crate from outside: one binary, because linking a compiler takes a while.
#![allow(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]

mod abi;
mod abi_write;
mod bombs;
mod borders;
#[cfg(feature = "cache")]
mod cache;
mod candidate;
mod candidate_bodies;
mod contract;
mod failures;
mod fuzz;
mod guests;
mod handle;
mod hostile;
mod limits;
mod load;
mod recorded;
mod samples;
mod servers;
mod targets;
mod telemetry;
mod watch;
