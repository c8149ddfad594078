//! Catalog updates.

use std::sync::Arc;

use super::Order;
use crate::{
    catalog::Catalog,
    digest::Digest,
    refusal::{Reason, Refusal},
    state::{ApprovedRollout, Mode, Scope, State},
    table::{Effect, Trigger, effect},
    wire::RolloutConfig,
};

impl State {
    pub(super) fn update_catalog(
        &mut self,
        version: u64,
        digest: Option<&str>,
        order: &Order,
    ) -> Result<(), Refusal> {
        let refuse = |detail: String| Refusal::new(Reason::Catalog, detail);
        let newest = self.parked_catalog.as_ref().unwrap_or(&self.catalog).version();
        if version <= newest {
            let detail = format!("version {version}, in force or waiting is {newest}");
            return Err(Refusal::new(Reason::CatalogVersion, detail));
        }
        let bytes = order
            .catalog
            .as_deref()
            .ok_or_else(|| refuse("it could not be fetched".to_owned()))?;
        if let Some(announced) = digest {
            let actual = Digest::of_bytes(bytes);
            if !actual.matches(announced) {
                return Err(refuse(format!(
                    "its digest is {actual}, announced was `{announced:.80}`"
                )));
            }
        }
        let catalog = Catalog::parse(bytes).map_err(|error| refuse(error.to_string()))?;
        if catalog.version() != version {
            return Err(refuse(format!(
                "its version is {}, announced was {version}",
                catalog.version()
            )));
        }
        let catalog = Arc::new(catalog);
        let paused = self.lanes.values().any(|lane| {
            lane.is_paused() || effect(lane.phase(self.clock_us), Trigger::Catalog) == Effect::Defer
        });
        if paused {
            self.parked_catalog = Some(catalog);
        } else {
            self.swap(catalog, None, order);
        }
        Ok(())
    }

    /// Replaces the catalog. A scope whose variant is gone goes on with what it has and is paused; one that
    /// is just being resumed is held at its percent.
    pub(super) fn swap(&mut self, catalog: Arc<Catalog>, resuming: Option<&[Scope]>, order: &Order) {
        let now = self.clock_us;
        let cause = self.cause(&format!("catalog {} lacks the variant", catalog.version()), order);
        for (scope, lane) in &mut self.lanes {
            let mut whole = true;
            let choices = match &mut lane.mode {
                Mode::Rollout(rollout) => Some(&mut rollout.choice),
                Mode::Forced { choice, .. } => Some(choice),
                Mode::Idle | Mode::Stopped => None,
            };
            for choice in choices.into_iter().chain(lane.promoted.as_mut()) {
                match choice.again(&catalog) {
                    Ok(again) => *choice = again,
                    Err(_) => whole = false,
                }
            }
            if !whole {
                if resuming.is_some_and(|scopes| scopes.contains(scope)) {
                    // A resume must not raise a variant that no longer exists.
                    if let Mode::Rollout(rollout) = &mut lane.mode {
                        rollout.config = hold(rollout, now);
                    }
                } else {
                    lane.freeze(now, &Scope::TENANT, &cause);
                }
                lane.cause = cause.clone();
            }
        }
        self.catalog = catalog;
        self.parked_catalog = None;
    }
}

/// The ramp that stays where it is.
fn hold(rollout: &ApprovedRollout, now_us: u64) -> RolloutConfig {
    let percent = rollout.percent(now_us);
    RolloutConfig {
        initial_percent: percent,
        increment_per_minute: 0.0,
        max_percent: percent,
    }
}
