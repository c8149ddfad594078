//! Rollouts as operators steer them: the command line, real gateways, a real nats-server.

mod behind;
mod catalogs;
mod cluster;
#[cfg(unix)]
mod disk;
mod faults;
mod guard;
mod keys;
mod kills;
mod missed;
mod orders;
mod past;
mod sessions;
mod site;
mod spent;
mod steering;
mod stranger;
mod told;
mod users;
