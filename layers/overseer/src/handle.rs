//! [`OverseerHandle`]: changes the policies of a running layer.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::{
    assemble::{assemble, read_and_load},
    candidate::Divergence,
    chain::{Policy, Snapshot},
    config::OverseerConfig,
    error::{BuildError, HandleError},
    event::Event,
    report::LoadReport,
    shared::Shared,
    verify::Loaded,
};

/// Changes the policies while requests run. A clone is one `Arc`.
///
/// A module is compiled, configured and dry-run off the request path, and swapped in only then; what is refused changes
/// nothing. A request that has begun ends under the policies it began with.
#[derive(Clone, Debug)]
pub struct OverseerHandle {
    shared: Arc<Shared>,
}

/// One policy as it is now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyStatus {
    /// Its name.
    pub name: String,
    /// `enforce` or `monitor`.
    pub mode: String,
    /// Whether a module is loaded.
    pub loaded: bool,
    /// SHA-256 of the active module's file.
    pub sha256: Option<String>,
    /// SHA-256 of the candidate's file, if one runs beside it.
    pub candidate_sha256: Option<String>,
    /// Whether [`OverseerHandle::rollback`] has something to go back to.
    pub can_roll_back: bool,
    /// What loading the active module found.
    pub report: LoadReport,
}

/// What a module becomes.
#[derive(Clone, Copy)]
enum Place {
    Active,
    Candidate,
}

impl OverseerHandle {
    pub(crate) const fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// The policies of the chain, in order.
    #[must_use]
    pub fn policies(&self) -> Vec<PolicyStatus> {
        let snapshot = self.shared.snapshot();
        let policies = snapshot.iter().flat_map(|snapshot| snapshot.policies.iter());
        policies.map(|policy| status(policy)).collect()
    }

    /// Puts another module, Wasm or WAT, in the place of a policy's. The rest of the policy stays as configured.
    ///
    /// # Errors
    ///
    /// No such policy, or everything wrong with the module; then the one there was goes on.
    pub async fn replace(&self, name: &str, module: Bytes) -> Result<LoadReport, HandleError> {
        self.place(name, Some(module), Place::Active).await
    }

    /// Loads the policy's module anew from its path.
    ///
    /// # Errors
    ///
    /// As [`OverseerHandle::replace`].
    pub async fn reload(&self, name: &str) -> Result<LoadReport, HandleError> {
        self.place(name, None, Place::Active).await
    }

    /// Runs another module beside the policy's active one. Its verdicts are counted and compared, never enforced.
    ///
    /// # Errors
    ///
    /// As [`OverseerHandle::replace`].
    pub async fn candidate(&self, name: &str, module: Bytes) -> Result<LoadReport, HandleError> {
        self.place(name, Some(module), Place::Candidate).await
    }

    /// The last requests on which the policy's candidate differed from its active module, at most
    /// [`DIVERGENCES_MAX`](crate::DIVERGENCES_MAX); how often they agreed and differed is counted in
    /// `shield_overseer_candidate_total{module,verdict}`.
    #[must_use]
    pub fn divergences(&self, name: &str) -> Vec<Divergence> {
        let snapshot = self.shared.snapshot();
        find(snapshot.as_ref(), name)
            .map(|(snapshot, at)| snapshot.policies[at].divergences.list())
            .unwrap_or_default()
    }

    /// Makes the candidate the active module.
    ///
    /// # Errors
    ///
    /// No such policy, or no candidate.
    pub fn promote(&self, name: &str) -> Result<(), HandleError> {
        self.swap(name, "candidate", |policy| {
            let candidate = policy.candidate.clone()?;
            Some(Policy {
                loaded: Some(candidate),
                candidate: None,
                former: policy.loaded.clone(),
                ..copy(policy)
            })
        })
    }

    /// Drops the candidate if there is one, else goes back to the module before the last change.
    ///
    /// # Errors
    ///
    /// No such policy, or nothing to go back to.
    pub fn rollback(&self, name: &str) -> Result<(), HandleError> {
        self.swap(name, "candidate and no former module", |policy| {
            if policy.candidate.is_some() {
                return Some(Policy {
                    candidate: None,
                    ..copy(policy)
                });
            }
            let former = policy.former.clone()?;
            Some(Policy {
                loaded: Some(former),
                former: policy.loaded.clone(),
                ..copy(policy)
            })
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

    async fn place(
        &self,
        name: &str,
        module: Option<Bytes>,
        place: Place,
    ) -> Result<LoadReport, HandleError> {
        let (shared, name) = (Arc::clone(&self.shared), name.to_owned());
        blocking(move || place_module(&shared, &name, module, place)).await
    }

    fn swap(
        &self,
        name: &str,
        what: &'static str,
        swap: impl FnOnce(&Policy) -> Option<Policy>,
    ) -> Result<(), HandleError> {
        let sha256 = self.shared.change(|snapshot| {
            let (snapshot, at) = find(snapshot, name)?;
            let next = swap(&snapshot.policies[at]).ok_or_else(|| HandleError::Nothing {
                name: name.to_owned(),
                what,
            })?;
            let sha256 = next
                .loaded
                .as_ref()
                .map(|loaded| loaded.sha256.clone())
                .unwrap_or_default();
            Ok::<_, HandleError>((Some(with(snapshot, at, next)), sha256))
        })?;
        self.shared.tell(Event::PolicyReloaded {
            name: name.to_owned(),
            sha256,
        });
        Ok(())
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

fn reconfigure(shared: &Shared, config: &OverseerConfig) -> Result<(), HandleError> {
    let assembled: Result<Vec<String>, BuildError> = shared.change(|_| {
        let next = assemble(config, shared.on_event())?;
        let names = next
            .iter()
            .flat_map(|next| &next.policies)
            .map(|policy| policy.spec.guest.name.to_string());
        let names = names.collect();
        Ok((next.map(Arc::new), names))
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

fn place_module(
    shared: &Shared,
    name: &str,
    module: Option<Bytes>,
    place: Place,
) -> Result<LoadReport, HandleError> {
    let result = shared.change(|snapshot| {
        let (snapshot, at) = find(snapshot, name)?;
        let policy = &snapshot.policies[at];
        let (report, loaded) = match &module {
            Some(module) => snapshot.loader.load(&policy.spec, "upload", module),
            None => read_and_load(&snapshot.loader, &policy.spec),
        };
        let Some(loaded) = loaded.map(Arc::new) else {
            return Err(HandleError::Refused(Box::new(report)));
        };
        let next = match place {
            Place::Active => Policy {
                loaded: Some(Arc::clone(&loaded)),
                former: policy.loaded.clone(),
                report: report.clone(),
                ..copy(policy)
            },
            Place::Candidate => Policy {
                candidate: Some(Arc::clone(&loaded)),
                divergences: Arc::default(),
                ..copy(policy)
            },
        };
        Ok((Some(with(snapshot, at, next)), (report, loaded)))
    });
    let name = name.to_owned();
    match result {
        Ok((report, loaded)) => {
            let sha256 = loaded.sha256.clone();
            shared.tell(match place {
                Place::Active => Event::PolicyReloaded { name, sha256 },
                Place::Candidate => Event::CandidateInstalled { name, sha256 },
            });
            Ok(report)
        }
        Err(HandleError::Refused(report)) => {
            let findings = report.errors().map(ToString::to_string).collect();
            shared.tell(Event::PolicyRefused { name, findings });
            Err(HandleError::Refused(report))
        }
        Err(error) => Err(error),
    }
}

fn find<'a>(
    snapshot: Option<&'a Arc<Snapshot>>,
    name: &str,
) -> Result<(&'a Arc<Snapshot>, usize), HandleError> {
    let names = || {
        let policies = snapshot.iter().flat_map(|snapshot| snapshot.policies.iter());
        policies
            .map(|policy| policy.spec.guest.name.to_string())
            .collect::<Vec<_>>()
    };
    snapshot
        .and_then(|snapshot| {
            let at = snapshot
                .policies
                .iter()
                .position(|policy| *policy.spec.guest.name == *name)?;
            Some((snapshot, at))
        })
        .ok_or_else(|| HandleError::UnknownPolicy {
            name: name.to_owned(),
            known: names().join(", "),
        })
}

/// The snapshot with one policy changed.
fn with(snapshot: &Arc<Snapshot>, at: usize, policy: Policy) -> Arc<Snapshot> {
    let mut policies = snapshot.policies.to_vec();
    policies[at] = Arc::new(policy);
    Arc::new(Snapshot {
        loader: Arc::clone(&snapshot.loader),
        policies: policies.into(),
        body_bytes_max: snapshot.body_bytes_max,
        pool_wait: snapshot.pool_wait,
        on_event: Arc::clone(&snapshot.on_event),
    })
}

fn copy(policy: &Policy) -> Policy {
    Policy {
        spec: policy.spec.clone(),
        loaded: policy.loaded.clone(),
        candidate: policy.candidate.clone(),
        divergences: Arc::clone(&policy.divergences),
        former: policy.former.clone(),
        report: policy.report.clone(),
        metrics: Arc::clone(&policy.metrics),
    }
}

fn status(policy: &Policy) -> PolicyStatus {
    let sha256 = |loaded: &Option<Arc<Loaded>>| loaded.as_ref().map(|loaded| loaded.sha256.clone());
    PolicyStatus {
        name: policy.spec.guest.name.to_string(),
        mode: if policy.spec.monitor { "monitor" } else { "enforce" }.to_owned(),
        loaded: policy.loaded.is_some(),
        sha256: sha256(&policy.loaded),
        candidate_sha256: sha256(&policy.candidate),
        can_roll_back: policy.candidate.is_some() || policy.former.is_some(),
        report: policy.report.clone(),
    }
}
