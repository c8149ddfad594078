//! Tasks that run as long as the program: one that dies is told.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use ron_bus::{Bus, Event};
use serde::Serialize;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::events;

/// The most deaths that are remembered.
const CRASHES_MAX: usize = 64;

/// Starts tasks and watches over them. One that panics or ends with an error is published as
/// [`ServiceCrashed`](Event::ServiceCrashed), logged, and remembered; it is not started again.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use arqon::{bus::{Bus, Event}, supervise::Supervisor};
///
/// let bus = Bus::new(16)?;
/// let mut facts = bus.subscribe();
/// let tasks = Supervisor::new(bus);
/// tasks.run("mailer", async { Err("login with password: hunter2".to_owned()) });
///
/// let Event::ServiceCrashed { service, reason } = facts.recv().await? else { panic!() };
/// assert_eq!((service.as_str(), reason.as_str()), ("mailer", "login with [redacted]"));
/// assert_eq!(tasks.crashed()[0].service, "mailer");
/// tasks.stop().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Supervisor {
    tracker: TaskTracker,
    stop: CancellationToken,
    bus: Bus,
    crashed: Arc<Mutex<Vec<Crash>>>,
}

/// A task that died: the state behind [`ServiceCrashed`](Event::ServiceCrashed), for who missed the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Crash {
    /// The task.
    pub service: &'static str,
    /// Why, free of credentials.
    pub reason: String,
}

impl Supervisor {
    /// Tells deaths on `bus`.
    #[must_use]
    pub fn new(bus: Bus) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            bus,
            crashed: Arc::default(),
        }
    }

    /// Runs `task` until it ends or [`stop`](Self::stop). Ending with `Ok` is no death.
    pub fn run(
        &self,
        service: &'static str,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) {
        let this = self.clone();
        self.tracker.spawn(async move {
            let mut running = tokio::spawn(task);
            let ended = tokio::select! {
                () = this.stop.cancelled() => {
                    running.abort();
                    return;
                }
                ended = &mut running => ended,
            };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => this.died(service, &reason),
                Err(died) => this.died(service, &events::panic_text(died)),
            }
        });
    }

    fn died(&self, service: &'static str, reason: &str) {
        // The bus must never carry a credential (S2-32), inside the process neither.
        let reason = events::redacted(reason);
        tracing::error!(component = "platform", service, reason, "a task died");
        let mut crashed = self.crashed.lock().unwrap_or_else(PoisonError::into_inner);
        if crashed.len() < CRASHES_MAX {
            crashed.push(Crash {
                service,
                reason: reason.clone(),
            });
        }
        drop(crashed);
        // Nobody has to listen.
        let _ = self.bus.publish(Event::ServiceCrashed {
            service: service.to_owned(),
            reason,
        });
    }

    /// The tasks that died.
    #[must_use]
    pub fn crashed(&self) -> Vec<Crash> {
        self.crashed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// For `/readyz`: `Err` says which of `services` died first, and why.
    ///
    /// # Errors
    /// One sentence.
    pub fn alive(&self, services: &[&str]) -> Result<(), String> {
        let crashed = self.crashed.lock().unwrap_or_else(PoisonError::into_inner);
        match crashed.iter().find(|crash| services.contains(&crash.service)) {
            None => Ok(()),
            Some(Crash { service, reason }) => Err(format!("{service} died: {reason}")),
        }
    }

    /// Waits until every task has ended by itself.
    ///
    /// # Cancellation
    /// Dropping this future changes nothing.
    pub async fn ended(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Ends every task where it waits, and returns when all are gone.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.ended().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_and_an_error_are_deaths_and_an_end_or_a_stop_is_none()
    -> Result<(), Box<dyn std::error::Error>> {
        let bus = Bus::new(16)?;
        let mut facts = bus.subscribe();
        let tasks = Supervisor::new(bus);
        tasks.run("ends", async { Ok(()) });
        tasks.run("errs", async { Err("disk full".to_owned()) });
        tasks.run("panics", async { panic!("token=abc") });
        tasks.run("waits", std::future::pending());
        let mut told = Vec::new();
        while told.len() < 2 {
            match facts.recv().await? {
                Event::ServiceCrashed { service, reason } => told.push((service, reason)),
                other => panic!("{other:?}"),
            }
        }
        tasks.stop().await;
        told.sort();
        let expected = [("errs", "disk full"), ("panics", "panicked: [redacted]")];
        assert_eq!(
            told,
            expected.map(|(service, reason)| (service.to_owned(), reason.to_owned()))
        );
        let mut crashed = tasks.crashed();
        crashed.sort_by_key(|crash| crash.service);
        assert_eq!(tasks.alive(&["ends", "waits"]), Ok(()));
        assert_eq!(
            tasks.alive(&["waits", "errs"]),
            Err("errs died: disk full".to_owned())
        );
        let crashed: Vec<_> = crashed
            .iter()
            .map(|crash| (crash.service, crash.reason.as_str()))
            .collect();
        assert_eq!(crashed, expected);
        assert!(facts.try_recv().is_err(), "a stop is no death");
        Ok(())
    }
}
