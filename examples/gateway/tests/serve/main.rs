//! The built gateway, driven from outside: processes, sockets, signals.

mod embedded;
mod facts;
mod foreign;
mod governance;
mod ingress;
mod metrics;
mod mirror;
mod nats;
mod policies;
mod process;
mod schema;
mod startup;
mod telemetry;
mod unwell;
