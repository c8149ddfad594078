//! [`OverseerHandle`]: changes the policies of a running layer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    assemble::assemble,
    candidate::Divergence,
    chain::{Policy, Snapshot},
    config::OverseerConfig,
    error::{BuildError, HandleError},
    event::Event,
    place::{self, Origin, Place, copy, find, with},
    report::LoadReport,
    shared::Shared,
    status::PolicyStatus,
    watch::Watch,
};

/// Changes the policies while requests run. A clone is one `Arc`.
///
/// A module is compiled, configured and dry-run off the request path, and swapped in only then; what is refused changes
/// nothing. A request that has begun ends under the policies it began with.
#[derive(Clone, Debug)]
pub struct OverseerHandle {
    shared: Arc<Shared>,
}

impl OverseerHandle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The policies of the chain, in order.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyStatus> {
        self.settle();
        let snapshot = self.shared.snapshot();
        let policies = snapshot.iter().flat_map(|snapshot| snapshot.policies.iter());
        policies
            .map(|policy| PolicyStatus::of(policy, self.shared.refused(&policy.spec.guest.name)))
            .collect()
    }

    /// Counts the calls that are over. A call for which an instance stood by is counted when that one is dropped, up to a
    /// quarter of a second after the response: whoever reads the metrics calls this before.
    pub fn settle(&self) {
        if let Some(snapshot) = self.shared.snapshot() {
            snapshot.loader.refill.settle();
        }
    }

    /// Puts another module, Wasm or WAT, in the place of a policy's. The rest of the policy stays as configured.
    ///
    /// # Errors
    ///
    /// No such policy, or everything wrong with the module; then the one there was goes on.
    pub async fn replace(&self, name: &str, module: Bytes) -> Result<LoadReport, HandleError> {
        self.place(name, Origin::Upload(module), Place::Active).await
    }

    /// Loads the policy's module anew from its path.
    ///
    /// # Errors
    ///
    /// As [`OverseerHandle::replace`].
    pub async fn reload(&self, name: &str) -> Result<LoadReport, HandleError> {
        self.place(name, Origin::Path, Place::Active).await
    }

    /// Tries another module on what the policy's active one sees. It runs on a thread of its own, on a copy, so no request
    /// waits for it; its verdicts are counted and compared a moment later, never enforced. While too many requests of a
    /// shard wait for that, or hold too many bytes, others are skipped, and counted as such. One that looks at bodies that
    /// no policy looks at is asked when the handler has read the body, of a known length within `max_body_bytes`, to its end;
    /// else it is not asked, which is counted too.
    ///
    /// # Errors
    ///
    /// As [`OverseerHandle::replace`].
    pub async fn candidate(&self, name: &str, module: Bytes) -> Result<LoadReport, HandleError> {
        self.place(name, Origin::Upload(module), Place::Candidate).await
    }

    /// The last requests on which the policy's candidate differed from its active module, at most
    /// [`DIVERGENCES_MAX`](crate::DIVERGENCES_MAX); how often they agreed and differed is counted in
    /// `shield_overseer_candidate_total{module,verdict}`. Empty without a candidate.
    #[must_use]
    pub fn divergences(&self, name: &str) -> Vec<Divergence> {
        let snapshot = self.shared.snapshot();
        find(snapshot.as_ref(), name)
            .ok()
            .and_then(|(snapshot, at)| Some(snapshot.policies[at].candidate.as_ref()?.divergences()))
            .unwrap_or_default()
    }

    /// Makes the candidate the active module.
    ///
    /// # Errors
    ///
    /// No such policy, or no candidate.
    pub fn promote(&self, name: &str) -> Result<(), HandleError> {
        self.swap(name, "candidate", |policy| {
            let candidate = Arc::clone(&policy.candidate.as_ref()?.loaded);
            let sha256 = candidate.sha256.clone();
            let next = Policy {
                loaded: Some(candidate),
                candidate: None,
                former: policy.loaded.clone(),
                ..copy(policy)
            };
            Some((next, reloaded(name, sha256)))
        })
    }

    /// Drops the candidate if there is one, else goes back to the module before the last change.
    ///
    /// # Errors
    ///
    /// No such policy, or nothing to go back to.
    pub fn rollback(&self, name: &str) -> Result<(), HandleError> {
        self.swap(name, "candidate and no former module", |policy| {
            if let Some(candidate) = &policy.candidate {
                let dropped = Event::CandidateDropped {
                    name: name.to_owned(),
                    sha256: candidate.loaded.sha256.clone(),
                };
                let next = Policy {
                    candidate: None,
                    ..copy(policy)
                };
                return Some((next, dropped));
            }
            let former = policy.former.clone()?;
            let sha256 = former.sha256.clone();
            let next = Policy {
                loaded: Some(former),
                former: policy.loaded.clone(),
                ..copy(policy)
            };
            Some((next, reloaded(name, sha256)))
        })
    }

    /// Puts the chain of another configuration in the place of this one: all of it or nothing.
    ///
    /// # Errors
    ///
    /// Everything wrong with the configuration or with its modules; then everything goes on as it was.
    pub async fn reconfigure(&self, config: OverseerConfig) -> Result<(), HandleError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || reconfigure(&shared, &config)).await
    }

    /// Looks at the policies' files every so often and loads what changed, for as long as the future is polled; it never
    /// ends. A file is loaded once it has been left alone from one look to the next; one that does not load, or is gone,
    /// is told once and changes nothing. What was uploaded stays until its policy's file changes.
    pub async fn watch(&self, every: Duration) {
        let mut looks = interval(every.max(Duration::from_millis(1)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut watch = Watch::default();
        loop {
            looks.tick().await;
            let shared = Arc::clone(&self.shared);
            let looked = blocking(move || {
                watch.look(&shared);
                Ok(watch)
            });
            match looked.await {
                Ok(again) => watch = again,
                // The runtime is shutting down, and this future with it.
                Err(_) => return std::future::pending().await,
            }
        }
    }

    async fn place(&self, name: &str, origin: Origin, place: Place) -> Result<LoadReport, HandleError> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        blocking(move || place::place(&shared, &name, &origin, place)).await
    }

    fn swap(
        &self,
        name: &str,
        what: &'static str,
        swap: impl FnOnce(&Policy) -> Option<(Policy, Event)>,
    ) -> Result<(), HandleError> {
        let event = self.shared.change(|snapshot| {
            let (snapshot, at) = find(snapshot, name)?;
            let (next, event) = swap(&snapshot.policies[at]).ok_or_else(|| HandleError::Nothing {
                name: name.to_owned(),
                what,
            })?;
            Ok::<_, HandleError>((Some(with(snapshot, at, next)), event))
        })?;
        self.shared.tell(event);
        Ok(())
    }
}

fn reloaded(name: &str, sha256: String) -> Event {
    Event::PolicyReloaded {
        name: name.to_owned(),
        sha256,
    }
}

/// Runs what compiles on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, HandleError> + Send + 'static,
) -> Result<T, HandleError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(HandleError::Cancelled),
    }
}

/// What was uploaded is in no configuration: whoever did it must hear that it is gone.
fn tell_what_goes(former: &Snapshot) {
    for policy in &former.policies {
        let runs = policy.loaded.as_ref().map(|loaded| &loaded.sha256);
        if policy.candidate.is_some() || runs.is_some_and(|runs| policy.source_sha256.as_ref() != Some(runs))
        {
            tracing::warn!(
                component = "overseer",
                module = &*policy.spec.guest.name,
                "what was uploaded or promoted is gone: a new configuration runs what its files say"
            );
        }
    }
}

fn reconfigure(shared: &Shared, config: &OverseerConfig) -> Result<(), HandleError> {
    let assembled: Result<Vec<String>, BuildError> = shared.load(|| {
        let next = assemble(config, shared.on_event())?;
        let names = next
            .iter()
            .flat_map(|next| &next.policies)
            .map(|policy| policy.spec.guest.name.to_string());
        let names = names.collect();
        shared.change(|former| {
            if let Some(former) = former {
                tell_what_goes(former);
            }
            Ok((next.map(Arc::new), names))
        })
    });
    match assembled {
        Ok(names) => {
            shared.tell(Event::Reconfigured { names });
            Ok(())
        }
        Err(error) => {
            shared.tell(Event::ReconfigureRefused {
                reason: error.to_string(),
            });
            Err(error.into())
        }
    }
}

#[cfg(test)]
mod tests;
