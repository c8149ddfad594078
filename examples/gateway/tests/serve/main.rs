//! The built gateway, driven from outside: processes, sockets, signals.

mod embedded;
mod nats;
mod process;
mod startup;
