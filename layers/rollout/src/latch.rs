//! A stop that is in force on this node whatever the log says, also after a restart.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arqon_message::TenantId;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    apply::Accepted,
    digest::Digest,
    envelope::{Envelope, Message},
    handle::Shared,
    record::{Channel, Record},
    refusal::{Reason, Refusal},
    state::Scope,
    wire::{AlertSeverity, DownstreamMessage, EnforcementAction},
};

pub(crate) type Latches = BTreeMap<(TenantId, Scope), Latch>;

/// A stop in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Latch {
    /// The stop's payload; None for a stop of this program itself.
    pub(crate) payload: Option<Digest>,
    /// What still has to reach the log.
    pub(crate) unlogged: Option<(Channel, Bytes)>,
    /// Only a resume after this position ends it; None until the stop is in the log.
    pub(crate) floor: Option<u64>,
    pub(crate) since_us: u64,
    pub(crate) reason: String,
}

/// What a folded record means for the stops that are latched.
pub(crate) fn settle(latches: &mut Latches, record: &Record, verdict: Result<&Accepted, &Refusal>) {
    let tenant = record.channel.tenant();
    let payload = Envelope::parse(&record.envelope)
        .map(|envelope| envelope.payload_digest())
        .ok();
    latches.retain(|(of, _), latch| {
        if of != tenant || latch.payload.is_none() || latch.payload != payload {
            return true;
        }
        match verdict {
            // The state is stopped by the log now, or was and has been resumed since.
            Ok(_) => false,
            Err(refusal) if refusal.reason == Reason::Duplicate => false,
            Err(_) => {
                latch.floor = Some(record.seq);
                latch.unlogged = None;
                true
            }
        }
    });
    let Ok(accepted) = verdict else { return };
    if let Message::Downstream(DownstreamMessage::Enforce {
        action: EnforcementAction::ResumeAdaptation,
        ..
    }) = &accepted.control.message
        && let Ok(resumed) = Scope::parse(accepted.control.scope.as_deref(), tenant)
    {
        latches.retain(|(of, scope), latch| {
            let covered = of == tenant && (resumed == Scope::TENANT || resumed == *scope);
            !(covered && latch.floor.is_some_and(|floor| record.seq > floor))
        });
    }
}

/// Where latches survive a restart: a small JSON file beside the audit trail, replaced as a whole.
#[derive(Debug, Clone)]
pub(crate) struct LatchFile {
    path: PathBuf,
    /// One writer at a time, each with the newest latches.
    turn: Arc<Mutex<()>>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    tenant: TenantId,
    scope: Option<String>,
    payload: Option<[u8; 32]>,
    channel: Option<String>,
    envelope: Option<String>,
    floor: Option<u64>,
    since_us: u64,
    reason: String,
}

impl LatchFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            turn: Arc::default(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The latches of the last run; none if there is no file.
    pub(crate) fn load(&self) -> std::io::Result<Latches> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Latches::new()),
            Err(error) => return Err(error),
        };
        let saved: Vec<Saved> = serde_json::from_slice(&text)?;
        let read = |saved: Saved| {
            let scope = Scope::parse(saved.scope.as_deref(), &saved.tenant).map_err(std::io::Error::other)?;
            let unlogged = match (saved.channel, saved.envelope) {
                (Some(channel), Some(envelope)) => {
                    let channel = channel.parse().map_err(std::io::Error::other)?;
                    let envelope = BASE64_STANDARD.decode(envelope).map_err(std::io::Error::other)?;
                    Some((channel, envelope.into()))
                }
                _ => None,
            };
            let latch = Latch {
                payload: saved.payload.map(Digest::from_bytes),
                unlogged,
                floor: saved.floor,
                since_us: saved.since_us,
                reason: saved.reason,
            };
            Ok(((saved.tenant, scope), latch))
        };
        saved.into_iter().map(read).collect()
    }

    fn save(&self, latches: &Latches) -> std::io::Result<()> {
        let save = |((tenant, scope), latch): (&(TenantId, Scope), &Latch)| Saved {
            tenant: tenant.clone(),
            scope: scope.pattern().map(ToString::to_string),
            payload: latch.payload.map(|payload| *payload.as_bytes()),
            channel: latch.unlogged.as_ref().map(|(channel, _)| channel.to_string()),
            envelope: latch
                .unlogged
                .as_ref()
                .map(|(_, envelope)| BASE64_STANDARD.encode(envelope)),
            floor: latch.floor,
            since_us: latch.since_us,
            reason: latch.reason.clone(),
        };
        let saved: Vec<Saved> = latches.iter().map(save).collect();
        let mut next = self.path.clone().into_os_string();
        next.push(".next");
        let mut file = fs::File::create(&next)?;
        file.write_all(&serde_json::to_vec(&saved)?)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        // The name is on disk, too, once its folder is.
        match self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => fs::File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}

impl Shared {
    /// Writes the latches of this moment. A failure is told and changes nothing: the stop is in force.
    pub(crate) fn save_latches(&self) {
        let Some(file) = &self.latch_file else { return };
        let _turn = file.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let latches = self.lock().latches.clone();
        if let Err(error) = file.save(&latches) {
            let message = format!(
                "{}: a stop is in force but would not survive a restart: {error}",
                file.path.display()
            );
            self.alert(AlertSeverity::Critical, message);
        }
    }

    /// The same, off the async threads.
    pub(crate) async fn save_latches_aside(self: &Arc<Self>) {
        if self.latch_file.is_some() {
            let shared = self.clone();
            let _ = tokio::task::spawn_blocking(move || shared.save_latches()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latches_survive_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = LatchFile::new(folder.path().join("audit.jsonl.stop"));
        assert_eq!(file.load().unwrap(), Latches::new());
        let tenant = TenantId::new("default").unwrap();
        let latch = Latch {
            payload: Some(Digest::of_bytes(b"stop")),
            unlogged: Some((Channel::Down(tenant.clone()), Bytes::from_static(b"{}"))),
            floor: None,
            since_us: 7,
            reason: "fire".to_owned(),
        };
        let local = Latch {
            payload: None,
            unlogged: None,
            floor: Some(9),
            ..latch.clone()
        };
        let scope = Scope::parse(Some("in.t.default.users.>"), &tenant).unwrap();
        let latches = Latches::from([((tenant.clone(), Scope::TENANT), latch), ((tenant, scope), local)]);
        file.save(&latches).unwrap();
        assert_eq!(file.load().unwrap(), latches);
        fs::write(file.path(), "{").unwrap();
        assert!(file.load().is_err());
    }
}
