//! The heads of audit trails in NATS KV: what was cut off the end of a file is noticed by its head kept elsewhere. Beside it stands with
//! which keys the node begins: nodes of one log that begin with others make two states of it.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use arqon_message::BoxError;
use arqon_rollout::NodeId;
use async_nats::{
    Client,
    jetstream::{
        self,
        kv::{self, Store},
    },
};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::{interval, timeout};

use super::Connection;
use crate::audit::{AuditLog, Head};

/// The bucket; its keys are node ids.
pub const BUCKET: &str = "ARQON_AUDIT";

/// How many heads of each node are kept.
const HISTORY: i64 = 64;
/// How often a head that has moved is exported.
const EVERY: Duration = Duration::from_secs(1);
/// How often the others' keys are compared.
const COMPARED_EVERY: Duration = Duration::from_secs(60);
/// How long one export may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// A head as the bucket has it: `{"lines":12,"hash":"<64 hex digits>"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportedHead {
    /// How many lines the trail had.
    pub lines: u64,
    /// The last `h`.
    pub hash: String,
    /// The digest of the key set with which the node begins, as its configuration has it; None of one that did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_keys: Option<String>,
}

impl From<Head> for ExportedHead {
    fn from(head: Head) -> Self {
        Self {
            lines: head.lines,
            hash: head.to_hex(),
            first_keys: None,
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

/// Exports the head of `trail` whenever it has moved, with `first_keys`, until dropped. The first thing it does is to compare what was
/// exported before with the file: `told` hears when lines are missing. Call it before anything is appended: what the
/// log gives again would mend the trail unseen. Then, and once a minute, it compares the keys that the other nodes begin with, and tells
/// of each that has others.
pub fn export(
    nats: Connection,
    replicas: usize,
    node: NodeId,
    trail: AuditLog,
    first_keys: String,
    told: impl Fn(String) + Send + Sync + 'static,
) -> impl Future<Output = Result<(), BoxError>> + Send + 'static {
    let opened = trail.head();
    follow(nats, replicas, (node, first_keys), trail, opened, told)
}

async fn follow(
    nats: Connection,
    replicas: usize,
    (node, first_keys): (NodeId, String),
    trail: AuditLog,
    opened: Head,
    told: impl Fn(String) + Send + Sync,
) -> Result<(), BoxError> {
    let mut ticks = interval(EVERY);
    let (mut bucket, mut compared, mut last) = (None, false, None);
    let (mut due, mut apart) = (Instant::now(), BTreeSet::new());
    let mut life = nats.life();
    loop {
        ticks.tick().await;
        let head = trail.head();
        // A bucket is of one client; the next one exports first.
        if !Arc::ptr_eq(&life, &nats.life()) {
            (life, bucket, last) = (nats.life(), None, None);
        }
        if !life.is_connected() {
            continue;
        }
        if Instant::now() >= due
            && let Some(store) = &bucket
        {
            // What failed is tried again at the next tick.
            let looked = Instant::now();
            match timeout(TIMEOUT, others(store, &node, &first_keys)).await {
                Ok(Ok(found)) => {
                    for (name, keys) in found.difference(&apart) {
                        told(format!(
                            "node `{name}` begins with other keys than this one ({keys} and not {first_keys}): of one log they make two states; make `keys`, `stop_keys`, `node_keys` and `threshold` the same, or delete `{name}` from the bucket {BUCKET} if it is gone"
                        ));
                    }
                    (apart, due) = (found, looked + COMPARED_EVERY);
                }
                Ok(Err(error)) => {
                    tracing::warn!(component = "audit", %error, "the keys of other nodes could not be compared")
                }
                Err(_) => tracing::warn!(
                    component = "audit",
                    "the keys of other nodes were not read in time"
                ),
            }
        }
        if compared && last == Some(head) {
            continue;
        }
        let step = async {
            let store = match bucket.take() {
                Some(store) => store,
                None => open(&life.client, replicas).await?,
            };
            if !compared {
                // TD-042: the client that reads a record with a carriage return in a header's value dies of it.
                if let Some(before) = store.get(node.as_str()).await? {
                    let before: ExportedHead = serde_json::from_slice(&before)?;
                    let (reader, lines, hash) = (trail.clone(), before.lines, before.hash);
                    // The whole trail is read: off the async threads.
                    let held = tokio::task::spawn_blocking(move || reader.holds(lines, &hash)).await?;
                    if before.lines > opened.lines || !held {
                        told(format!(
                            "the audit trail had {} lines at start, but {} were exported before: its end was cut off or replaced",
                            opened.lines, before.lines
                        ));
                    }
                }
                compared = true;
            }
            let exported = ExportedHead {
                first_keys: Some(first_keys.clone()),
                ..head.into()
            };
            let json = serde_json::to_vec(&exported)?;
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

/// The other nodes that begin with other keys, with the digest of those.
async fn others(
    store: &Store,
    node: &NodeId,
    first_keys: &str,
) -> Result<BTreeSet<(String, String)>, BoxError> {
    let mut found = BTreeSet::new();
    let names: Vec<String> = store.keys().await?.try_collect().await?;
    for name in names.into_iter().filter(|name| name != node.as_str()) {
        let Some(bytes) = store.get(&name).await? else {
            continue;
        };
        // What somebody else put there is not a node's.
        let head = serde_json::from_slice::<ExportedHead>(&bytes).ok();
        if let Some(keys) = head
            .and_then(|head| head.first_keys)
            .filter(|keys| keys != first_keys)
        {
            found.insert((name, keys));
        }
    }
    Ok(found)
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
