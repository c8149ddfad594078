//! Live requests written down, so that they can be replayed against any module offline.
//!
//! A policy that decided hands over a copy of what it saw, without waiting: a thread writes it as a line of JSON, and what
//! comes faster than it can write is dropped and counted. Guests see no clock and no randomness, so the same module gives
//! the same verdict and the same fuel on the record as it did live.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use http::HeaderName;
use metrics::Counter;
use serde::{Deserialize, Serialize};

use crate::{
    abi::arqon_host_v1::Guest,
    allowance::{Allowance, Share},
    conditions::{Conditions, EngineLimits},
    exchange::Lent,
    record::RecordedRequest,
    run::Call,
    spec::PolicySpec,
    verdict::{Cause, Verdict},
    verify::Loaded,
};

/// Records that may wait to be written.
const QUEUE_MAX: usize = 256;
/// Bytes that they hold: headers and, where they are recorded, bodies.
const QUEUE_BYTES_MAX: usize = 16 << 20;

/// A line of `platform.overseer.record.path`: one request as one policy saw it, and what the policy said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// The policy.
    pub policy: String,
    /// SHA-256 of its module's file.
    pub sha256: String,
    /// Whether it can be replayed: `false` when the policy looks at bodies and bodies are not recorded. Whether a policy
    /// reads what is masked depends on the module, and is seen by [`PolicyEngine::replay`](crate::PolicyEngine::replay).
    pub complete: bool,
    /// `allow` or `reject`.
    pub verdict: String,
    /// The status of the refusal.
    pub status: Option<u16>,
    /// `denied`, or the cause for which there was no verdict.
    pub cause: Option<String>,
    /// Fuel it used, host calls included.
    pub fuel: u64,
    /// How the policy was configured; absent in records of versions that did not write it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Conditions>,
    /// The request, with the edits of the policies before it.
    pub request: RecordedRequest,
}

impl Recording {
    /// Whether a replay can be held against it: the request is complete, and neither time nor room decided.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        let outside = [Cause::Deadline, Cause::Pool].map(Cause::as_str);
        self.complete
            && !self
                .cause
                .as_deref()
                .is_some_and(|cause| outside.contains(&cause))
    }
}

/// Where to and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordSettings {
    pub(crate) path: PathBuf,
    pub(crate) requests_max: usize,
    pub(crate) bodies: bool,
    pub(crate) masked: Box<[HeaderName]>,
}

/// Takes what policies decided. The thread that writes ends when this is dropped, all written.
#[derive(Debug)]
pub(crate) struct Recorder {
    settings: RecordSettings,
    limits: EngineLimits,
    left: AtomicUsize,
    queue: Option<SyncSender<Note>>,
    waiting: Allowance,
    thread: Option<JoinHandle<()>>,
    dropped: Dropped,
}

struct Dropped(Counter);

impl std::fmt::Debug for Dropped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dropped")
    }
}

/// What a request leaves behind.
#[derive(Debug)]
struct Note {
    guest: Arc<Guest>,
    limits: EngineLimits,
    fuel_limit: u64,
    sha256: String,
    exchange: Lent,
    needs_body: bool,
    verdict: &'static str,
    status: Option<u16>,
    cause: Option<&'static str>,
    fuel: u64,
    /// Given back when it is written.
    share: Share,
}

impl Recorder {
    /// Opens the file, which is appended to and readable by its owner only: claims are recorded as they are.
    pub(crate) fn open(settings: RecordSettings, limits: EngineLimits) -> io::Result<Self> {
        let file = create(&settings.path)?;
        let (queue, notes) = sync_channel(QUEUE_MAX);
        let at = settings.clone();
        let thread = thread::Builder::new()
            .name("overseer-record".into())
            .spawn(move || write(&at, file, &notes))?;
        let dropped = Dropped(metrics::counter!("shield_overseer_records_dropped_total"));
        dropped.0.increment(0);
        Ok(Self {
            left: AtomicUsize::new(settings.requests_max),
            settings,
            limits,
            queue: Some(queue),
            waiting: Allowance::new(QUEUE_BYTES_MAX),
            thread: Some(thread),
            dropped,
        })
    }

    /// A copy of what a policy is about to see, if it is to be recorded.
    pub(crate) fn before(&self, exchange: &Lent) -> Option<Lent> {
        (self.left.load(Ordering::Relaxed) > 0).then(|| {
            let mut copy = exchange.clone();
            if !self.settings.bodies {
                copy.body = None;
            }
            copy
        })
    }

    /// Hands over what the policy said to it.
    pub(crate) fn after(&self, exchange: Lent, policy: &PolicySpec, loaded: &Loaded, call: &Call) {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match taken {
            Ok(1) => tracing::info!(
                component = "overseer",
                path = %self.settings.path.display(),
                msg = "recorded requests_max requests: no more are"
            ),
            Ok(_) => {}
            Err(_) => return,
        }
        let Some(share) = self.waiting.take(exchange.bytes()) else {
            self.dropped.0.increment(1);
            return;
        };
        let (verdict, status, cause) = match &call.verdict {
            Verdict::Allow => ("allow", None, None),
            Verdict::Deny(denial) => ("reject", Some(denial.status), Some("denied")),
            Verdict::Fail(cause, _) => (
                "reject",
                Some(cause.code().status().as_u16()),
                Some(cause.as_str()),
            ),
        };
        let note = Note {
            guest: Arc::clone(&loaded.guest),
            limits: self.limits,
            fuel_limit: policy.budget.fuel,
            sha256: loaded.sha256.clone(),
            exchange,
            needs_body: loaded.plan.needs_body,
            verdict,
            status,
            cause,
            fuel: call.fuel,
            share,
        };
        let queue = self.queue.as_ref();
        if queue.is_none_or(|queue| queue.try_send(note).is_err()) {
            self.dropped.0.increment(1);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed already.
            drop(thread.join());
        }
    }
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn write(settings: &RecordSettings, file: File, notes: &Receiver<Note>) {
    let mut file = BufWriter::new(file);
    while let Ok(note) = notes.recv() {
        // What waits is written in one go.
        let rest = std::iter::from_fn(|| notes.try_recv().ok());
        for note in std::iter::once(note).chain(rest.take(QUEUE_MAX)) {
            let (recording, share) = note.recording(settings);
            let written = serde_json::to_string(&recording)
                .map_err(io::Error::from)
                .and_then(|line| writeln!(file, "{line}"));
            drop(share);
            if let Err(error) = written {
                tracing::warn!(component = "overseer", %error, msg = "a record was not written");
            }
        }
        if let Err(error) = file.flush() {
            tracing::warn!(component = "overseer", %error, msg = "records were not written");
        }
    }
}

impl Note {
    fn recording(self, settings: &RecordSettings) -> (Recording, Share) {
        let mut exchange = self.exchange;
        let body = exchange.body.take().unwrap_or_default();
        // Without the body, so that headers that tell of it stay as the policy saw them.
        // A map that takes no more headers was refused live too.
        let _full = exchange.amend_request();
        let parts = exchange.request();
        let recording = Recording {
            policy: self.guest.name.to_string(),
            sha256: self.sha256,
            complete: settings.bodies || !self.needs_body,
            verdict: self.verdict.to_owned(),
            status: self.status,
            cause: self.cause.map(str::to_owned),
            fuel: self.fuel,
            conditions: Some(Conditions::new(&self.guest, self.fuel_limit, self.limits)),
            request: RecordedRequest::record(parts, &body, &settings.masked),
        };
        (recording, self.share)
    }
}
