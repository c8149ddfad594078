//! Rollouts as operators steer them: the command line, real gateways, a real nats-server.

mod cluster;
mod faults;
mod site;
mod stranger;
