//! Catalogs of variants in NATS KV: `kv://<bucket>/<key>` (DESIGN 8).

use std::time::Duration;

use arqon_message::BoxError;
use arqon_rollout::{
    Catalog, CatalogFuture, CatalogSource, CatalogWanted, Digest, FetchError, FileCatalogs, MAX_CATALOG_BYTES,
};
use async_nats::jetstream::{
    ErrorCode,
    context::GetStreamErrorKind,
    kv::{self, Operation},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

use super::Connection;

/// How long a read of the bucket may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The bucket where gateways keep the catalogs of the updates that they let into the log, by digest: `sha256.<hex>`.
const BUCKET: &str = "ARQON_CATALOGS";

/// Follows `kv://` to buckets of the server the gateway is connected to, and to no other; `file://` as
/// [`FileCatalogs`] does. Of a key with history the revision that was announced is taken, so that a node that comes late
/// reads what the others read. What is not there, or not any more, is looked for in bucket `ARQON_CATALOGS` by its digest.
#[derive(Clone, Debug)]
pub struct KvCatalogs {
    nats: Connection,
    replicas: usize,
    files: FileCatalogs,
}

/// What is looked for, owned.
struct Wanted {
    uri: String,
    version: u64,
    digest: Option<String>,
}

impl KvCatalogs {
    /// Buckets that `nats` reaches, and files in the folders of `files`.
    #[must_use]
    pub fn new(nats: impl Into<Connection>, files: FileCatalogs) -> Self {
        Self {
            nats: nats.into(),
            replicas: 1,
            files,
        }
    }

    /// Keeps so many copies of what it keeps.
    #[must_use]
    pub fn with_replicas(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    /// The catalog at `<bucket>/<key>` that the fold starts with: the oldest revision that is kept, so that a node that
    /// comes late starts where the others started. Later ones come by catalog updates.
    ///
    /// # Errors
    /// When it is not there or cannot be read; one sentence.
    pub async fn first(&self, place: &str) -> Result<Bytes, BoxError> {
        let (bucket, key) = place.split_once('/').ok_or("a KV catalog is `<bucket>/<key>`")?;
        let read = async {
            let store = self.nats.life().jetstream.get_key_value(bucket).await?;
            let mut revisions = store.history(key).await?;
            while let Some(entry) = revisions.next().await {
                let entry = entry?;
                if entry.operation == Operation::Put {
                    return Ok(entry.value);
                }
            }
            Err(BoxError::from(format!("bucket {bucket} has no key {key}")))
        };
        timeout(READ_TIMEOUT, read).await?
    }

    /// What gateways have kept of a digest.
    async fn by_digest(&self, digest: &str) -> Option<Bytes> {
        let key = key(digest)?;
        let read = async {
            let store = self.nats.life().jetstream.get_key_value(BUCKET).await.ok()?;
            store.get(key).await.ok()?
        };
        timeout(READ_TIMEOUT, read).await.ok()?
    }

    async fn put(&self, digest: &str, bytes: Bytes) -> Result<(), BoxError> {
        let Some(key) = key(digest) else { return Ok(()) };
        let nats = self.nats.life();
        let store = match nats.jetstream.get_key_value(BUCKET).await {
            Ok(store) => store,
            Err(_) => {
                let config = kv::Config {
                    bucket: BUCKET.to_owned(),
                    description: "Arqon's catalogs by digest".to_owned(),
                    num_replicas: self.replicas,
                    ..kv::Config::default()
                };
                nats.jetstream.create_key_value(config).await?
            }
        };
        if store.get(key.as_str()).await?.is_none_or(|known| known != bytes) {
            store.put(key.as_str(), bytes).await?;
        }
        Ok(())
    }

    /// The revision that was announced, else the newest one.
    async fn revision(&self, place: &str, wanted: &Wanted) -> Result<Option<Bytes>, BoxError> {
        let Some((bucket, key)) = place.split_once('/') else {
            return Ok(None);
        };
        let nats = self.nats.life();
        if let Err(error) = nats.jetstream.get_stream(format!("KV_{bucket}")).await
            && let GetStreamErrorKind::JetStream(error) = error.kind()
            && error.error_code() == ErrorCode::STREAM_NOT_FOUND
        {
            return Ok(None);
        }
        let store = nats.jetstream.get_key_value(bucket).await?;
        // TD-042: the client that reads a record with a carriage return in a header's value dies of it.
        let mut revisions = store.history(key).await?;
        let mut newest = None;
        while let Some(entry) = revisions.next().await {
            let entry = entry?;
            if entry.operation != Operation::Put || entry.value.len() > MAX_CATALOG_BYTES {
                continue;
            }
            let announced = match &wanted.digest {
                Some(digest) => Digest::of_bytes(&entry.value).matches(digest),
                None => Catalog::parse(&entry.value).is_ok_and(|found| found.version() == wanted.version),
            };
            if announced {
                return Ok(Some(entry.value));
            }
            newest = Some(entry.value);
        }
        Ok(newest)
    }

    async fn read(&self, wanted: &Wanted, place: &str) -> Result<Bytes, FetchError> {
        let uri = || wanted.uri.clone();
        let unavailable = |source: BoxError| FetchError::Unavailable { uri: uri(), source };
        if !self.nats.is_connected() {
            return Err(unavailable("not connected to NATS".into()));
        }
        match timeout(READ_TIMEOUT, self.revision(place, wanted)).await {
            Ok(Ok(Some(bytes))) => Ok(bytes),
            Ok(Ok(None)) => Err(FetchError::Read {
                uri: uri(),
                source: "there is no such catalog".into(),
            }),
            Ok(Err(error)) => Err(unavailable(error)),
            Err(elapsed) => Err(unavailable(elapsed.into())),
        }
    }
}

impl CatalogSource for KvCatalogs {
    fn fetch(&self, wanted: CatalogWanted<'_>) -> CatalogFuture<'_> {
        let wanted = Wanted {
            uri: wanted.uri.to_owned(),
            version: wanted.version,
            digest: wanted.digest.map(str::to_owned),
        };
        Box::pin(async move {
            let announced = CatalogWanted::new(&wanted.uri, wanted.version, wanted.digest.as_deref());
            let found = match wanted.uri.strip_prefix("kv://") {
                Some(place) => self.read(&wanted, place).await,
                None => self.files.fetch(announced).await,
            };
            let found = found.and_then(|bytes| announced.check(&bytes).map(|()| bytes));
            let Err(error @ (FetchError::Read { .. } | FetchError::Unavailable { .. })) = found else {
                return found;
            };
            let Some(digest) = announced.digest else {
                return Err(error);
            };
            let kept = self.by_digest(digest).await;
            kept.filter(|bytes| announced.check(bytes).is_ok()).ok_or(error)
        })
    }

    fn keep(&self, wanted: CatalogWanted<'_>, bytes: Bytes) -> CatalogFuture<'_, ()> {
        let digest = wanted.digest.map(str::to_owned);
        Box::pin(async move {
            let Some(digest) = digest else { return Ok(()) };
            let failed = |source: BoxError| FetchError::Unavailable {
                uri: format!("kv://{BUCKET}"),
                source,
            };
            match timeout(READ_TIMEOUT, self.put(&digest, bytes)).await {
                Ok(put) => put.map_err(failed),
                Err(elapsed) => Err(failed(elapsed.into())),
            }
        })
    }
}

/// The key of a digest.
fn key(digest: &str) -> Option<String> {
    let hex = digest.strip_prefix("sha256:")?;
    let is_hex = hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| format!("sha256.{hex}"))
}
