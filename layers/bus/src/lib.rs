//! Bounded, lossy, observable in-process broadcast of facts.
//!
//! One channel, no topics: every subscriber sees every [`Event`] and picks by `match`. Publishing never
//! waits; a subscriber that falls behind loses the oldest events, is told so, and the loss is counted in
//! events. The crate starts no task, does no I/O, writes no log and registers no metric: the host gives
//! it a [`BusMetrics`] and reads it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), ron_bus::BusError> {
//! use ron_bus::{Bus, Event, Notice};
//!
//! let bus = Bus::new(256)?;
//! let mut subscriber = bus.observe("audit"); // one per task, never shared
//! bus.publish(Event::ConfigUpdated { version: 7 })?;
//!
//! match subscriber.next().await {
//!     Some(Notice::Event(event)) => assert_eq!(event, Event::ConfigUpdated { version: 7 }),
//!     Some(Notice::Resync { .. }) => { /* we were too slow: read the state itself again */ }
//!     Some(_) => {}
//!     None => { /* the bus is gone */ }
//! }
//! # Ok(()) }
//! ```
//!
//! The plain tokio handles are there too ([`Bus::sender`], [`Bus::subscribe`]), and metrics are the host's:
//!
//! ```
//! use std::sync::Arc;
//! use ron_bus::{Bus, BusConfig, BusMetrics};
//!
//! let metrics = Arc::new(BusMetrics::new().with_warning(Arc::new(|warning| {
//!     eprintln!("{} lost {} events", warning.subscriber, warning.lost);
//! })));
//! let config = BusConfig::new(1_024).with_overflow_warn_rate_per_min(6);
//! let bus = Bus::with_metrics(config, Arc::clone(&metrics))?;
//! assert_eq!((bus.capacity(), metrics.overflow_dropped_total()), (1_024, 0));
//! # Ok::<(), ron_bus::BusError>(())
//! ```
//!
//! # Under load
//!
//! Memory is `effective_capacity` slots plus what the retained events own, however many subscribers there
//! are, and at most 160 KiB of batches that were read and wait for their publisher's thread to free them (what texts and
//! vectors have reserved is counted). A burst belongs into [`Bus::publish_batch`]; a subscriber's loop belongs on [`Subscriber::next`],
//! which drains what is there before it parks and gives the worker back every 128 events.
//!
//! # Cancellation
//!
//! Dropping a `next()` future loses nothing. Dropping a [`Subscriber`] gives up what it had not read.
//! [`BusSwitch`] replaces a bus by one of another capacity without gap or duplicate.
#![forbid(unsafe_code)]
#![deny(
    missing_docs,
    clippy::await_holding_lock,
    clippy::incompatible_msrv,
    clippy::unwrap_used,
    clippy::expect_used
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod bus;
mod config;
mod error;
mod event;
mod ledger;
mod metrics;
mod patience;
mod reports;
mod subscriber;
mod switch;
mod sync;
mod throttle;
mod trace;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;

pub use bus::Bus;
pub use config::BusConfig;
pub use error::BusError;
pub use event::Event;
pub use metrics::{BusMetrics, OverflowWarning, PqPosture, WarningSink};
pub use reports::Reports;
pub use subscriber::{Notice, Subscriber};
pub use switch::{BusSwitch, Follower};
