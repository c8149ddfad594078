//! Where latches survive a restart, with what else has to: spent counters and what the guard has capped.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use arqon_message::TenantId;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Brake, Latch, LatchKey, Latches, Waiting,
    slots::{Opened, Slots},
};
use crate::{
    digest::Digest, handle::Shared, record::Channel, spent::Spent, state::Scope, watch::Caps,
    wire::AlertSeverity,
};

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
    pub(crate) caps: Caps,
    /// The position at which the log was last known to end.
    pub(crate) contact_seq: u64,
    /// Whether one of the two copies cannot be read.
    pub(crate) torn: bool,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Saved {
    latches: Vec<SavedLatch>,
    spent: Spent,
    #[serde(default)]
    caps: Vec<SavedCap>,
    #[serde(default)]
    contact_seq: u64,
}

/// What the guard has capped.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedCap {
    tenant: TenantId,
    scope: Option<String>,
    digest: [u8; 32],
    percent: f64,
}

impl SavedCap {
    fn of(((tenant, scope), (digest, percent)): (&(TenantId, Scope), &(Digest, f64))) -> Self {
        Self {
            tenant: tenant.clone(),
            scope: scope.pattern().map(ToString::to_string),
            digest: *digest.as_bytes(),
            percent: *percent,
        }
    }

    fn read(self) -> std::io::Result<((TenantId, Scope), (Digest, f64))> {
        let scope = Scope::parse(self.scope.as_deref(), &self.tenant).map_err(std::io::Error::other)?;
        // What cannot be is none at all.
        let percent = if (0.0..=100.0).contains(&self.percent) {
            self.percent
        } else {
            0.0
        };
        Ok(((self.tenant, scope), (Digest::from_bytes(self.digest), percent)))
    }
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
    #[serde(default)]
    last_us: u64,
    #[serde(default)]
    waiting: Vec<SavedWaiting>,
    #[serde(default)]
    program: bool,
    #[serde(default)]
    at_seq: u64,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedWaiting {
    payload: [u8; 32],
    own: bool,
    channel: String,
    envelope: String,
    since_us: u64,
}

fn read_message(channel: &str, envelope: &str) -> std::io::Result<(Channel, Bytes)> {
    let channel = channel.parse().map_err(std::io::Error::other)?;
    let envelope = BASE64_STANDARD.decode(envelope).map_err(std::io::Error::other)?;
    Ok((channel, envelope.into()))
}

impl SavedWaiting {
    fn of(waiting: &Waiting) -> Self {
        let (channel, envelope) = &waiting.message;
        Self {
            payload: *waiting.payload.as_bytes(),
            own: waiting.own,
            channel: channel.to_string(),
            envelope: BASE64_STANDARD.encode(envelope),
            since_us: waiting.since_us,
        }
    }

    fn read(self) -> std::io::Result<Waiting> {
        Ok(Waiting {
            payload: Digest::from_bytes(self.payload),
            own: self.own,
            message: read_message(&self.channel, &self.envelope)?,
            logged: false,
            since_us: self.since_us,
        })
    }
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
            last_us: latch.last_us,
            waiting: latch.waiting.iter().map(SavedWaiting::of).collect(),
            program: latch.program,
            at_seq: latch.at_seq,
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
            (Some(channel), Some(envelope)) => Some(read_message(&channel, &envelope)?),
            _ => None,
        };
        let waiting = self.waiting.into_iter().map(SavedWaiting::read);
        let freed = self
            .freed
            .iter()
            .map(|part| Scope::parse(Some(part), &self.tenant));
        let freed = freed.collect::<Result<_, _>>().map_err(std::io::Error::other)?;
        let latch = Latch {
            payload: self.payload.map(Digest::from_bytes),
            message,
            logged: false,
            waiting: waiting.collect::<std::io::Result<_>>()?,
            program: self.program,
            at_seq: self.at_seq,
            local: self.local,
            refused: self.refused,
            freed,
            floor: self.floor,
            since_us: self.since_us,
            last_us: self.last_us.max(self.since_us),
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
            caps: saved
                .caps
                .into_iter()
                .map(SavedCap::read)
                .collect::<std::io::Result<_>>()?,
            contact_seq: saved.contact_seq,
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
        let (latches, spent, caps, contact_seq) = {
            let mut live = self.lock();
            let caps = live.caps_in_use();
            (live.latches.clone(), live.spent.clone(), caps, live.kept_seq)
        };
        let saved = Saved {
            latches: latches
                .iter()
                .map(|(key, latch)| SavedLatch::of(key, latch))
                .collect(),
            spent,
            caps: caps.iter().map(SavedCap::of).collect(),
            contact_seq,
        };
        let written = serde_json::to_vec(&saved)
            .map_err(std::io::Error::from)
            .and_then(|bytes| slots.write(&bytes));
        drop(slots);
        let mut live = self.lock();
        for (key, latch) in &latches {
            // One that was replaced meanwhile is for the next writer.
            if let Some(live) = live.latches.get_mut(key).filter(|live| live.is_same(latch)) {
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
            (loaded.latches, loaded.spent, loaded.caps, loaded.torn),
            (Latches::new(), Spent::default(), Caps::new(), false)
        );
        let tenant = TenantId::new("default").unwrap();
        let stop = Latch {
            payload: Some(Digest::of_bytes(b"stop")),
            message: Some((Channel::Down(tenant.clone()), Bytes::from_static(b"{}"))),
            logged: false,
            waiting: Vec::new(),
            program: false,
            at_seq: 6,
            local: false,
            refused: None,
            freed: Vec::new(),
            floor: None,
            since_us: 7,
            last_us: 8,
            reason: "fire".to_owned(),
            by: vec!["sre-1".to_owned()],
            saved: true,
        };
        let local = Latch {
            payload: None,
            message: None,
            waiting: vec![Waiting {
                payload: Digest::of_bytes(b"waits"),
                own: true,
                message: (Channel::Down(tenant.clone()), Bytes::from_static(b"{}")),
                logged: false,
                since_us: 8,
            }],
            program: true,
            at_seq: 0,
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
        let place = |scope: &Scope| (tenant.clone(), scope.clone());
        let caps = Caps::from([
            (place(&Scope::TENANT), (Digest::of_bytes(b"p1"), 0.0)),
            (
                place(&Scope::parse(Some("in.t.default.a.>"), &tenant).unwrap()),
                (Digest::of_bytes(b"p2"), 12.5),
            ),
        ]);
        let mut spent = Spent::default();
        spent.note(&tenant, "", 3, 17);
        let saved = Saved {
            latches: latches
                .iter()
                .map(|(key, latch)| SavedLatch::of(key, latch))
                .collect(),
            spent: spent.clone(),
            caps: caps.iter().map(SavedCap::of).collect(),
            contact_seq: 11,
        };
        let bytes = serde_json::to_vec(&saved).unwrap();
        loaded.file.slots.lock().unwrap().write(&bytes).unwrap();
        let again = LatchFile::open(&path).unwrap();
        let read = (again.latches, again.spent, again.caps, again.contact_seq);
        assert_eq!(read, (latches, spent, caps, 11));
        std::fs::write(&path, "{").unwrap();
        assert!(LatchFile::open(&path).is_err());
    }
}
