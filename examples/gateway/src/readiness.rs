//! Whether the gateway may take traffic, check by check.

use std::sync::{Arc, Mutex, PoisonError};

use arqon::bus::{Bus, Event};
use serde::Serialize;

/// One condition of readiness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) ok: bool,
    /// Shown, and no reason to take requests elsewhere.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) advisory: bool,
    /// Why not, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// What to know although it holds, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) note: Option<String>,
}

impl Check {
    pub(crate) fn of(name: &'static str, result: Result<(), String>) -> Self {
        Self {
            name,
            ok: result.is_ok(),
            advisory: false,
            reason: result.err(),
            note: None,
        }
    }

    /// Whether it lets the gateway take traffic.
    pub(crate) fn passes(&self) -> bool {
        self.ok || self.advisory
    }
}

type Probe = Box<dyn Fn() -> Check + Send + Sync>;

/// All conditions. Cloning it is a reference count.
#[derive(Clone, Default)]
pub(crate) struct Readiness {
    probes: Arc<Mutex<Vec<Probe>>>,
}

impl Readiness {
    /// Adds a condition; `probe` must return at once.
    pub(crate) fn add(
        &self,
        name: &'static str,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.push(Box::new(move || Check::of(name, probe())));
    }

    /// Adds a condition, and what to know of it while it holds; both must return at once.
    pub(crate) fn add_noted(
        &self,
        name: &'static str,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
        note: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.push(Box::new(move || {
            let check = Check::of(name, probe());
            let note = if check.ok { note() } else { None };
            Check { note, ..check }
        }));
    }

    /// Adds what people should see and balancers need not.
    pub(crate) fn advise(
        &self,
        name: &'static str,
        probe: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let advice = move || Check {
            advisory: true,
            ..Check::of(name, probe())
        };
        let mut probes = self.probes.lock().unwrap_or_else(PoisonError::into_inner);
        probes.push(Box::new(advice));
    }

    /// What holds now.
    pub(crate) fn checks(&self) -> Vec<Check> {
        self.probes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|probe| probe())
            .collect()
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.checks().iter().all(Check::passes)
    }
}

/// Tells each flip of readiness on the bus, once and in order.
#[derive(Default)]
pub(crate) struct Flips {
    told: Mutex<Option<bool>>,
}

impl Flips {
    /// Looks, and tells if it is not as it was told last.
    pub(crate) fn look(&self, readiness: &Readiness, bus: &Bus) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let ok = readiness.is_ready();
        if told.replace(ok) != Some(ok) {
            // Nobody has to listen. Sending under the lock keeps the order; it does not wait.
            let _ = bus.publish(Event::Health {
                service: "gateway".to_owned(),
                ok,
            });
        }
    }
}
