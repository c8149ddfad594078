//! The heads of audit trails in NATS KV: what was cut off the end of a file is noticed by its head kept elsewhere.

use std::time::Duration;

use arqon_message::BoxError;
use arqon_rollout::NodeId;
use async_nats::{
    Client,
    connection::State,
    jetstream::{
        self,
        kv::{self, Store},
    },
};
use serde::{Deserialize, Serialize};
use tokio::time::{interval, timeout};

use crate::audit::{AuditLog, Head};

/// The bucket; its keys are node ids.
pub const BUCKET: &str = "ARQON_AUDIT";

/// How many heads of each node are kept.
const HISTORY: i64 = 64;
/// How often a head that has moved is exported.
const EVERY: Duration = Duration::from_secs(1);
/// How long one export may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A head as the bucket has it: `{"lines":12,"hash":"<64 hex digits>"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedHead {
    /// How many lines the trail had.
    pub lines: u64,
    /// The last `h`.
    pub hash: String,
}

impl From<Head> for ExportedHead {
    fn from(head: Head) -> Self {
        Self {
            lines: head.lines,
            hash: head.to_hex(),
        }
    }
}

/// The head that a node exported last; none if it never did.
///
/// # Errors
/// When the bucket cannot be read, or holds something else; one sentence.
pub async fn exported(client: &Client, node: &NodeId) -> Result<Option<ExportedHead>, BoxError> {
    let store = jetstream::new(client.clone()).get_key_value(BUCKET).await?;
    match store.get(node.as_str()).await? {
        Some(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        None => Ok(None),
    }
}

/// Exports the head of `trail` whenever it has moved, until dropped. The first thing it does is to compare what was
/// exported before with the file: `cut_off` is told when lines are missing. Call it before anything is appended: what the
/// log gives again would mend the trail unseen.
pub fn export(
    client: Client,
    replicas: usize,
    node: NodeId,
    trail: AuditLog,
    cut_off: impl Fn(String) + Send + Sync + 'static,
) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
    let opened = trail.head();
    follow(client, replicas, node, trail, opened, cut_off)
}

async fn follow(
    client: Client,
    replicas: usize,
    node: NodeId,
    trail: AuditLog,
    opened: Head,
    cut_off: impl Fn(String) + Send + Sync,
) -> Result<(), BoxError> {
    let mut ticks = interval(EVERY);
    let (mut bucket, mut compared, mut last) = (None, false, None);
    loop {
        ticks.tick().await;
        let head = trail.head();
        if client.connection_state() != State::Connected || (compared && last == Some(head)) {
            continue;
        }
        let step = async {
            let store = match bucket.take() {
                Some(store) => store,
                None => open(&client, replicas).await?,
            };
            if !compared {
                if let Some(before) = store.get(node.as_str()).await? {
                    let before: ExportedHead = serde_json::from_slice(&before)?;
                    let (reader, lines, hash) = (trail.clone(), before.lines, before.hash);
                    // The whole trail is read: off the async threads.
                    let held = tokio::task::spawn_blocking(move || reader.holds(lines, &hash)).await?;
                    if before.lines > opened.lines || !held {
                        cut_off(format!(
                            "the audit trail had {} lines at start, but {} were exported before: its end was cut off or replaced",
                            opened.lines, before.lines
                        ));
                    }
                }
                compared = true;
            }
            let json = serde_json::to_vec(&ExportedHead::from(head))?;
            store.put(node.as_str(), json.into()).await?;
            Ok::<Store, BoxError>(store)
        };
        match timeout(TIMEOUT, step).await {
            Ok(Ok(store)) => (bucket, last) = (Some(store), Some(head)),
            Ok(Err(error)) => {
                tracing::warn!(component = "audit", %error, "the head of the audit trail could not be exported");
            }
            Err(_) => tracing::warn!(
                component = "audit",
                "the head of the audit trail was not taken in time"
            ),
        }
    }
}

async fn open(client: &Client, replicas: usize) -> Result<Store, BoxError> {
    let jetstream = jetstream::new(client.clone());
    if let Ok(store) = jetstream.get_key_value(BUCKET).await {
        return Ok(store);
    }
    let config = kv::Config {
        bucket: BUCKET.to_owned(),
        history: HISTORY,
        num_replicas: replicas,
        ..kv::Config::default()
    };
    Ok(jetstream.create_key_value(config).await?)
}
