//! The behaviour of the mirror, seen from outside.

mod answers;
mod bodies;
mod books;
mod contract;
mod faults;
mod http;
mod operator;
mod servers;
mod support;
