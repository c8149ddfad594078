//! The behaviour of the mirror, seen from outside.

mod answers;
mod bodies;
mod books;
#[cfg(feature = "compare")]
mod compare;
mod contract;
mod faults;
mod http;
mod limits;
mod operator;
mod servers;
mod support;
mod telling;
