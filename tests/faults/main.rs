//! What breaks beside us, live: a real nats-server that is away, dies, stalls or refuses, and what the layers do then.
#![cfg(feature = "nats")]

mod line;
mod shadow;
