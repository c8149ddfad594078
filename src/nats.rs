//! The distributed engine: everything that speaks NATS.

pub mod connect;
pub mod publish;
pub mod schemas;
pub mod sink;

pub use self::{
    connect::{ConnectError, connect},
    publish::Publish,
};
