//! The crate from outside: one binary, because linking a compiler takes a while.

mod abi;
mod contract;
mod failures;
mod guests;
mod handle;
mod limits;
mod load;
mod servers;
