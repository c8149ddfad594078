//! Rollouts as operators steer them: the command line, real gateways, a real nats-server.

mod catalogs;
mod cluster;
mod faults;
mod kills;
mod sessions;
mod site;
mod steering;
mod stranger;
