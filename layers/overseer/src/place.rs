//! A module put in a policy's place while requests run.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    abi::arqon_host_v1::Role,
    assemble::read_and_load,
    candidate::Candidate,
    chain::{Policy, Snapshot},
    error::{BuildError, EngineError, HandleError},
    event::Event,
    report::LoadReport,
    shared::Shared,
};

/// What a module becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Active,
    Candidate,
}

/// Where a module is taken from.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Handed over by an operator.
    Upload(Bytes),
    /// Read from the policy's path now.
    Path,
    /// Read from the policy's path a moment ago.
    File(Bytes),
}

/// Loads a module and puts it into the chain; blocks while it compiles. What is refused changes nothing.
pub(crate) fn place(
    shared: &Shared,
    name: &str,
    origin: &Origin,
    place: Place,
) -> Result<LoadReport, HandleError> {
    let result = shared.load(|| load_and_place(shared, name, origin, place));
    let owned = name.to_owned();
    match result {
        Ok((report, sha256)) => {
            shared.tell(match place {
                Place::Active => Event::PolicyReloaded { name: owned, sha256 },
                Place::Candidate => Event::CandidateInstalled { name: owned, sha256 },
            });
            Ok(report)
        }
        Err(HandleError::Refused(report)) => {
            let findings = report.errors().map(ToString::to_string).collect();
            shared.tell(Event::PolicyRefused {
                name: owned,
                findings,
            });
            Err(HandleError::Refused(report))
        }
        Err(error) => Err(error),
    }
}

fn load_and_place(
    shared: &Shared,
    name: &str,
    origin: &Origin,
    place: Place,
) -> Result<(LoadReport, String), HandleError> {
    let snapshot = shared.snapshot();
    let (snapshot, at) = find(snapshot.as_ref(), name)?;
    let policy = &snapshot.policies[at];
    let role = match place {
        Place::Active => Role::Active,
        Place::Candidate => Role::Candidate,
    };
    let load = |source: &str, module| snapshot.loader.load(&policy.spec, role, source, module);
    let (report, loaded) = match origin {
        Origin::Upload(module) => load("upload", module),
        Origin::File(module) => load(&policy.spec.source.name(), module),
        Origin::Path => read_and_load(&snapshot.loader, &policy.spec),
    };
    policy.metrics.reloaded(loaded.is_some());
    let Some(loaded) = loaded.map(Arc::new) else {
        return Err(HandleError::Refused(Box::new(report)));
    };
    let sha256 = loaded.sha256.clone();
    shared.change(|snapshot| {
        // Looked up again: a promotion or a rollback may have come in between.
        let (snapshot, at) = find(snapshot, name)?;
        let policy = &snapshot.policies[at];
        let next = match place {
            Place::Active => Policy {
                source_sha256: match origin {
                    Origin::Upload(_) => policy.source_sha256.clone(),
                    Origin::File(_) | Origin::Path => Some(sha256.clone()),
                },
                loaded: Some(loaded),
                former: policy.loaded.clone(),
                report: report.clone(),
                ..copy(policy)
            },
            Place::Candidate => {
                let trials = &snapshot.loader.trials;
                trials
                    .start(&snapshot.loader.engine)
                    .map_err(EngineError::Thread)
                    .map_err(BuildError::Engine)?;
                let (budget, metrics) = (policy.spec.budget, Arc::clone(&policy.metrics));
                Policy {
                    candidate: Some(Arc::new(Candidate::new(loaded, budget, metrics))),
                    ..copy(policy)
                }
            }
        };
        Ok::<_, HandleError>((Some(with(snapshot, at, next)), ()))
    })?;
    Ok((report, sha256))
}

/// The policy called `name`: its snapshot, and its place in the chain.
pub(crate) fn find<'a>(
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
pub(crate) fn with(snapshot: &Arc<Snapshot>, at: usize, policy: Policy) -> Arc<Snapshot> {
    let mut policies = snapshot.policies.to_vec();
    policies[at] = Arc::new(policy);
    Arc::new(Snapshot {
        responses: policies.iter().any(|policy| policy.responds()),
        policies: policies.into(),
        ..snapshot.share()
    })
}

pub(crate) fn copy(policy: &Policy) -> Policy {
    Policy {
        spec: policy.spec.clone(),
        loaded: policy.loaded.clone(),
        candidate: policy.candidate.clone(),
        former: policy.former.clone(),
        source_sha256: policy.source_sha256.clone(),
        report: policy.report.clone(),
        metrics: Arc::clone(&policy.metrics),
    }
}
