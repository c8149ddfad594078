//! Tasks that run as long as the program: one that dies is told.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ron_bus::{Bus, Event};
use serde::Serialize;
use tokio::time::{Instant, sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::events;

/// The most deaths that are remembered.
const CRASHES_MAX: usize = 64;

/// How long a task that was started again waits at first, and at most; each death doubles it.
const BACK_OFF: Duration = Duration::from_secs(1);
const BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// A task that lived as long as this begins with the first wait again.
const SOUND: Duration = Duration::from_secs(60);

/// Starts tasks and watches over them. One that panics or ends with an error is published as
/// [`ServiceCrashed`](Event::ServiceCrashed), logged, and remembered. [`run`](Self::run) is for what can be started once,
/// [`keep`](Self::keep) for what can be made anew: that is started again, after a second, and later each time it dies again.
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
    /// The tasks that are dead now, and why.
    down: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

/// A task that died: the state behind [`ServiceCrashed`](Event::ServiceCrashed), for who missed the event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Crash {
    /// The task.
    pub service: &'static str,
    /// Why: one line of at most 120 characters, without what looks like a credential. Best effort: a secret that looks
    /// like any other word and has no name beside it stays.
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
            down: Arc::default(),
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
            this.live(service, task).await;
        });
    }

    /// Runs what `make` makes, and again what it makes then whenever that died, until one ends with `Ok` or
    /// [`stop`](Self::stop). Each death is told, and [`alive`](Self::alive) says no until the next has begun.
    pub fn keep<F>(&self, service: &'static str, mut make: impl FnMut() -> F + Send + 'static)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let this = self.clone();
        self.tracker.spawn(async move {
            let mut wait = BACK_OFF;
            loop {
                let began = Instant::now();
                if this.live(service, make()).await {
                    return;
                }
                if began.elapsed() >= SOUND {
                    wait = BACK_OFF;
                }
                tokio::select! {
                    () = this.stop.cancelled() => return,
                    () = sleep(wait) => {}
                }
                wait = (wait * 2).min(BACK_OFF_MAX);
                tracing::info!(component = "platform", service, "a task is started again");
                this.down
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .remove(service);
            }
        });
    }

    /// Lives one life; false if it was a death.
    async fn live(
        &self,
        service: &'static str,
        task: impl Future<Output = Result<(), String>> + Send + 'static,
    ) -> bool {
        let mut running = tokio::spawn(task);
        let ended = tokio::select! {
            () = self.stop.cancelled() => {
                running.abort();
                return true;
            }
            ended = &mut running => ended,
        };
        match ended {
            Ok(Ok(())) => return true,
            Ok(Err(reason)) => self.died(service, &reason),
            Err(died) => self.died(service, &events::panic_text(died)),
        }
        false
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
        self.down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(service, reason.clone());
        // Nobody has to listen.
        let _ = self.bus.publish(Event::ServiceCrashed {
            service: service.to_owned(),
            reason,
        });
    }

    /// The tasks that died, those that were started again too: the first 64.
    #[must_use]
    pub fn crashed(&self) -> Vec<Crash> {
        self.crashed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// For `/readyz`: `Err` says which of `services` is dead, and why.
    ///
    /// # Errors
    /// One sentence.
    pub fn alive(&self, services: &[&str]) -> Result<(), String> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let dead = services
            .iter()
            .find_map(|service| Some((service, down.get(service)?)));
        match dead {
            None => Ok(()),
            Some((service, reason)) => Err(format!("{service} died: {reason}")),
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

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_started_again_each_time_later_and_each_death_is_told()
    -> Result<(), Box<dyn std::error::Error>> {
        let bus = Bus::new(16)?;
        let mut facts = bus.subscribe();
        let tasks = Supervisor::new(bus);
        let began = Arc::new(Mutex::new(Vec::new()));
        let (lives, start) = (Arc::clone(&began), Instant::now());
        tasks.keep("kept", move || {
            let life = {
                let mut lives = lives.lock().expect("whole");
                lives.push(start.elapsed().as_secs());
                lives.len()
            };
            async move {
                match life {
                    1 => panic!("first"),
                    // It lived well for a while, so the next wait is short again.
                    4 => {
                        sleep(SOUND).await;
                        Err("fourth".to_owned())
                    }
                    5 => std::future::pending().await,
                    _ => Err("again".to_owned()),
                }
            }
        });
        for expected in ["panicked: first", "again", "again", "fourth"] {
            match facts.recv().await? {
                Event::ServiceCrashed { service, reason } => {
                    assert_eq!((service.as_str(), reason.as_str()), ("kept", expected));
                }
                other => panic!("{other:?}"),
            }
            assert!(tasks.alive(&["kept"]).is_err());
        }
        while began.lock().expect("whole").len() < 5 {
            sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(*began.lock().expect("whole"), [0, 1, 3, 7, 68]);
        assert_eq!((tasks.alive(&["kept"]), tasks.crashed().len()), (Ok(()), 4));
        tasks.stop().await;
        Ok(())
    }
}
