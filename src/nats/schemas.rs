//! Schemas in a NATS KV bucket (DESIGN 7): watched, reconciled, never the truth by themselves.

use std::{sync::Arc, time::Duration};

use arqon_schema::{Change, Entry, RegistryConfig, RegistryWriter, SchemaStore, StoreError};
use async_nats::{
    Client,
    jetstream::{
        self,
        kv::{self, Operation, Store},
    },
};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::{interval, sleep, timeout};

use arqon_message::BoxError;

/// How many revisions a bucket that we make keeps of each schema.
const HISTORY: i64 = 16;
/// How long one read of the bucket may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest time between two full reads.
const RECONCILE: Duration = Duration::from_secs(30);
/// Waiting after an error: doubled each time, with jitter.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Feeds a registry from a bucket: a full read, then every change as it is watched, and a full read again every 30
/// seconds and after every error. What was in force stays in force while the bucket cannot be read.
#[derive(Clone, Debug)]
pub struct KvSchemas {
    jetstream: jetstream::Context,
    bucket: Arc<str>,
    reconcile: Duration,
}

impl KvSchemas {
    /// The bucket called `bucket`; it is made, with a history of 16, if it is not there.
    #[must_use]
    pub fn new(client: Client, bucket: &str, config: &RegistryConfig) -> Self {
        // A registry that goes stale sooner has to hear from its store sooner.
        let reconcile = RECONCILE
            .min(Duration::from_secs(config.cache_ttl_seconds) / 3)
            .max(Duration::from_secs(1));
        Self {
            jetstream: jetstream::new(client),
            bucket: bucket.into(),
            reconcile,
        }
    }

    async fn store(&self) -> Result<Store, BoxError> {
        if let Ok(store) = self.jetstream.get_key_value(self.bucket.as_ref()).await {
            return Ok(store);
        }
        let config = kv::Config {
            bucket: self.bucket.to_string(),
            history: HISTORY,
            ..kv::Config::default()
        };
        Ok(self.jetstream.create_key_value(config).await?)
    }

    /// Reads everything.
    async fn read(store: &Store, writer: &RegistryWriter) -> Result<(), BoxError> {
        let keys: Vec<String> = store.keys().await?.try_collect().await?;
        let mut entries = Vec::with_capacity(keys.len());
        for id in keys {
            // A key that went between the two reads is gone.
            if let Some(entry) = store
                .entry(&id)
                .await?
                .filter(|entry| entry.operation == Operation::Put)
            {
                entries.push(Entry {
                    id,
                    revision: entry.revision,
                    bytes: entry.value,
                });
            }
        }
        writer.contact();
        // What was refused is in the log and on the bus; the last good one stays.
        let _refused = writer.apply_in_background(Change::Reset { entries }).await;
        Ok(())
    }

    /// Follows the bucket until something goes wrong.
    async fn follow(&self, writer: &RegistryWriter, backoff: &mut Duration) -> Result<(), BoxError> {
        let store = timeout(READ_TIMEOUT, self.store()).await??;
        // The watch begins before the read, so that no change falls between them.
        let mut changes = store.watch_all().await?;
        let mut reconcile = interval(self.reconcile);
        loop {
            tokio::select! {
                change = changes.next() => match change {
                    Some(Ok(entry)) => {
                        writer.contact();
                        let change = match entry.operation {
                            Operation::Put => Change::Put { id: entry.key, revision: entry.revision, bytes: entry.value },
                            Operation::Delete | Operation::Purge => Change::Delete { id: entry.key },
                        };
                        let _refused = writer.apply_in_background(change).await;
                    }
                    // The watcher mends itself if it is polled on; what it missed, the next full read brings.
                    Some(Err(error)) => {
                        tracing::warn!(component = "registry", error = %error, "watching the schema bucket failed");
                        reconcile.reset_immediately();
                    }
                    None => return Err("the watch ended".into()),
                },
                _ = reconcile.tick() => {
                    timeout(READ_TIMEOUT, Self::read(&store, writer)).await??;
                    *backoff = BACKOFF.0;
                }
            }
        }
    }
}

impl SchemaStore for KvSchemas {
    async fn run(self, writer: RegistryWriter) -> Result<(), StoreError> {
        let mut backoff = BACKOFF.0;
        loop {
            let Err(error) = self.follow(&writer, &mut backoff).await else {
                continue;
            };
            tracing::warn!(component = "registry", error = %error, bucket = %self.bucket, "the schema bucket cannot be read");
            // Up to a quarter more, so that gateways do not come back in step.
            let jitter = arqon_message::ConnectionId::mint().as_u128() as u32 % 256;
            sleep(backoff + backoff * jitter / 1_024).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }
}
