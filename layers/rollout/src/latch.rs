//! A stop or a pause that is in force on this node whatever the log says, also after a restart.

mod slots;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arqon_message::TenantId;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::slots::{Opened, Slots};
use crate::{
    apply::Accepted,
    digest::Digest,
    envelope::{Control, Envelope, Message},
    handle::Shared,
    record::{Channel, Record},
    refusal::{Reason, Refusal},
    spent::Spent,
    state::Scope,
    wire::{AlertSeverity, DownstreamMessage, EnforcementAction},
};

/// What holds a scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Brake {
    /// Everyone gets the baseline.
    Stop,
    /// The share stays where it is.
    Pause,
}

impl Brake {
    /// The name in messages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Pause => "pause",
        }
    }

    /// What a message brakes and why; None for one that does not.
    pub(crate) fn of(control: &Control) -> Option<(Self, &str)> {
        let Message::Downstream(DownstreamMessage::Enforce { action, reason }) = &control.message else {
            return None;
        };
        match action {
            EnforcementAction::EmergencyStop => Some((Self::Stop, reason)),
            EnforcementAction::PauseAdaptation => Some((Self::Pause, reason)),
            EnforcementAction::SetVariant(_)
            | EnforcementAction::SetParams(_)
            | EnforcementAction::ResumeAdaptation => None,
        }
    }
}

pub(crate) type LatchKey = (TenantId, Scope, Brake);

pub(crate) type Latches = BTreeMap<LatchKey, Latch>;

/// A stop or a pause in force.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Latch {
    /// The message's payload; None for a stop of this program itself.
    pub(crate) payload: Option<Digest>,
    /// What has to be in the log.
    pub(crate) message: Option<(Channel, Bytes)>,
    /// Whether the log has it, as far as this run knows.
    pub(crate) logged: bool,
    /// Whether it was sent to this node, or by this program itself; else it was read from the log ahead of its turn.
    pub(crate) local: bool,
    /// Why the log refused it.
    pub(crate) refused: Option<String>,
    /// The parts that were resumed since.
    pub(crate) freed: Vec<Scope>,
    /// Only a resume after this position ends it; None until the log has judged it.
    pub(crate) floor: Option<u64>,
    pub(crate) since_us: u64,
    pub(crate) reason: String,
    /// The names of the keys that signed; none for this program itself.
    pub(crate) by: Vec<String>,
    /// Whether it is on this node's disk.
    pub(crate) saved: bool,
}

/// Most parts of one latch that are freed by themselves; of the next one nothing is.
const MAX_FREED: usize = 64;

impl Latch {
    /// Whether a latch for `order` holds a scope: what it reaches, but for the parts that were resumed since.
    pub(crate) fn holds(&self, order: &Scope, scope: &Scope) -> bool {
        order.reaches(scope) && !self.freed.iter().any(|part| part.contains(scope))
    }
}

/// What a folded record means for what is latched; yields the stops and pauses that were sent to this node and that the log
/// refused: they hold here alone, until a resume.
pub(crate) fn settle(
    latches: &mut Latches,
    record: &Record,
    verdict: Result<&Accepted, &Refusal>,
) -> Vec<(Brake, Scope)> {
    let tenant = record.channel.tenant();
    let payload = Envelope::parse(&record.envelope)
        .map(|envelope| envelope.payload_digest())
        .ok();
    let mut alone = Vec::new();
    latches.retain(|(of, scope, brake), latch| {
        if of != tenant || latch.payload.is_none() || latch.payload != payload {
            return true;
        }
        match verdict {
            // The state has it by the log now, or had and has been resumed since.
            Ok(_) => false,
            Err(refusal) if refusal.reason == Reason::Duplicate => false,
            // Every node that reads the log refuses it: what this one latched ahead of its turn is no more than that.
            Err(_) if !latch.local => false,
            Err(refusal) => {
                (latch.floor, latch.message, latch.saved) = (Some(record.seq), None, false);
                latch.refused = Some(refusal.to_string());
                alone.push((*brake, scope.clone()));
                true
            }
        }
    });
    let Ok(accepted) = verdict else { return alone };
    if let Message::Downstream(DownstreamMessage::Enforce {
        action: EnforcementAction::ResumeAdaptation,
        ..
    }) = &accepted.control.message
        && let Ok(resumed) = Scope::of_order(accepted.control.scope.as_deref(), tenant)
    {
        latches.retain(|(of, order, _), latch| {
            let judged = latch.floor.is_some_and(|floor| record.seq > floor);
            if of != tenant || !judged || !order.contains(&resumed) {
                // Of the whole tenant's resume a scope's own stop knows nothing.
                return true;
            }
            if !resumed.contains(order) && latch.freed.len() < MAX_FREED && !latch.freed.contains(&resumed) {
                latch.freed.push(resumed.clone());
                latch.saved = false;
            }
            !resumed.contains(order)
        });
    }
    alone
}

/// Where latches survive a restart: a file beside the audit trail that takes its room once and is overwritten in place.
#[derive(Debug, Clone)]
pub(crate) struct LatchFile {
    path: PathBuf,
    /// One writer at a time, each with the newest latches.
    slots: Arc<Mutex<Slots>>,
}

/// What the file of the last run says.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) file: LatchFile,
    pub(crate) latches: Latches,
    pub(crate) spent: Spent,
    /// Whether one of the two copies cannot be read.
    pub(crate) torn: bool,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Saved {
    latches: Vec<SavedLatch>,
    spent: Spent,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedLatch {
    brake: Brake,
    tenant: TenantId,
    scope: Option<String>,
    payload: Option<[u8; 32]>,
    channel: Option<String>,
    envelope: Option<String>,
    floor: Option<u64>,
    since_us: u64,
    reason: String,
    #[serde(default)]
    by: Vec<String>,
    /// One of a file of before was sent to this node, as far as anybody knows.
    #[serde(default = "sent_here")]
    local: bool,
    #[serde(default)]
    refused: Option<String>,
    #[serde(default)]
    freed: Vec<String>,
}

fn sent_here() -> bool {
    true
}

impl SavedLatch {
    fn of((tenant, scope, brake): &LatchKey, latch: &Latch) -> Self {
        let message = latch.message.as_ref();
        Self {
            brake: *brake,
            tenant: tenant.clone(),
            scope: scope.pattern().map(ToString::to_string),
            payload: latch.payload.map(|payload| *payload.as_bytes()),
            channel: message.map(|(channel, _)| channel.to_string()),
            envelope: message.map(|(_, envelope)| BASE64_STANDARD.encode(envelope)),
            floor: latch.floor,
            since_us: latch.since_us,
            reason: latch.reason.clone(),
            by: latch.by.clone(),
            local: latch.local,
            refused: latch.refused.clone(),
            freed: latch.freed.iter().map(ToString::to_string).collect(),
        }
    }

    fn read(self) -> std::io::Result<(LatchKey, Latch)> {
        let scope = Scope::parse(self.scope.as_deref(), &self.tenant).map_err(std::io::Error::other)?;
        let message = match (self.channel, self.envelope) {
            (Some(channel), Some(envelope)) => {
                let channel = channel.parse().map_err(std::io::Error::other)?;
                let envelope = BASE64_STANDARD.decode(envelope).map_err(std::io::Error::other)?;
                Some((channel, envelope.into()))
            }
            _ => None,
        };
        let freed = self
            .freed
            .iter()
            .map(|part| Scope::parse(Some(part), &self.tenant));
        let freed = freed.collect::<Result<_, _>>().map_err(std::io::Error::other)?;
        let latch = Latch {
            payload: self.payload.map(Digest::from_bytes),
            message,
            logged: false,
            local: self.local,
            refused: self.refused,
            freed,
            floor: self.floor,
            since_us: self.since_us,
            reason: self.reason,
            by: self.by,
            saved: true,
        };
        Ok(((self.tenant, scope, self.brake), latch))
    }
}

impl LatchFile {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path) -> std::io::Result<Loaded> {
        let Opened { slots, payload, torn } = Slots::open(path)?;
        let saved: Saved = if payload.is_empty() {
            Saved::default()
        } else {
            serde_json::from_slice(&payload)?
        };
        let latches = saved.latches.into_iter().map(SavedLatch::read);
        let file = Self {
            path: path.to_path_buf(),
            slots: Arc::new(Mutex::new(slots)),
        };
        Ok(Loaded {
            file,
            latches: latches.collect::<std::io::Result<_>>()?,
            spent: saved.spent,
            torn,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Shared {
    /// Writes the latches of this moment; true when they are on disk, or there are none. A failure is told and changes
    /// nothing else: what is latched is in force.
    pub(crate) fn save_latches(&self) -> bool {
        let Some(file) = &self.latch_file else {
            return self.lock().latches.is_empty();
        };
        let mut slots = file.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let (latches, spent) = {
            let live = self.lock();
            (live.latches.clone(), live.spent.clone())
        };
        let saved = Saved {
            latches: latches
                .iter()
                .map(|(key, latch)| SavedLatch::of(key, latch))
                .collect(),
            spent,
        };
        let written = serde_json::to_vec(&saved)
            .map_err(std::io::Error::from)
            .and_then(|bytes| slots.write(&bytes));
        drop(slots);
        let mut live = self.lock();
        for (key, latch) in &latches {
            // One that was replaced meanwhile is for the next writer.
            if let Some(live) = live
                .latches
                .get_mut(key)
                .filter(|live| live.payload == latch.payload)
            {
                live.saved = written.is_ok();
            }
        }
        drop(live);
        if let Err(error) = &written {
            let message = format!(
                "{}: what is latched is in force but would not survive a restart: {error}",
                file.path.display()
            );
            self.alert(AlertSeverity::Critical, message);
        }
        written.is_ok()
    }

    /// The same, off the async threads.
    pub(crate) async fn save_latches_aside(self: &Arc<Self>) -> bool {
        if self.latch_file.is_none() {
            return self.save_latches();
        }
        let shared = self.clone();
        tokio::task::spawn_blocking(move || shared.save_latches())
            .await
            .unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latches_survive_their_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl.stop");
        let loaded = LatchFile::open(&path).unwrap();
        assert_eq!(
            (loaded.latches, loaded.spent, loaded.torn),
            (Latches::new(), Spent::default(), false)
        );
        let tenant = TenantId::new("default").unwrap();
        let stop = Latch {
            payload: Some(Digest::of_bytes(b"stop")),
            message: Some((Channel::Down(tenant.clone()), Bytes::from_static(b"{}"))),
            logged: false,
            local: false,
            refused: None,
            freed: Vec::new(),
            floor: None,
            since_us: 7,
            reason: "fire".to_owned(),
            by: vec!["sre-1".to_owned()],
            saved: true,
        };
        let local = Latch {
            payload: None,
            message: None,
            local: true,
            refused: Some("stale".to_owned()),
            freed: vec![Scope::parse(Some("in.t.default.a.>"), &tenant).unwrap()],
            floor: Some(9),
            ..stop.clone()
        };
        let scope = Scope::parse(Some("in.t.default.users.>"), &tenant).unwrap();
        let latches = Latches::from([
            ((tenant.clone(), Scope::TENANT, Brake::Stop), stop.clone()),
            ((tenant.clone(), Scope::TENANT, Brake::Pause), stop),
            ((tenant.clone(), scope, Brake::Stop), local),
        ]);
        let mut spent = Spent::default();
        spent.note(&tenant, "", 3, 17);
        let saved = Saved {
            latches: latches
                .iter()
                .map(|(key, latch)| SavedLatch::of(key, latch))
                .collect(),
            spent: spent.clone(),
        };
        let bytes = serde_json::to_vec(&saved).unwrap();
        loaded.file.slots.lock().unwrap().write(&bytes).unwrap();
        let again = LatchFile::open(&path).unwrap();
        assert_eq!((again.latches, again.spent), (latches, spent));
        std::fs::write(&path, "{").unwrap();
        assert!(LatchFile::open(&path).is_err());
    }
}
