//! Catalogs of variants in NATS KV: `kv://<bucket>/<key>` (DESIGN 8).

use std::time::Duration;

use arqon_message::BoxError;
use arqon_rollout::{
    Catalog, CatalogFuture, CatalogSource, CatalogWanted, Digest, FetchError, FileCatalogs, MAX_CATALOG_BYTES,
};
use async_nats::{
    Client,
    connection::State,
    jetstream::{self, kv::Operation},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::timeout;

/// How long a read of the bucket may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Follows `kv://` to buckets of the server the gateway is connected to, and to no other; `file://` as
/// [`FileCatalogs`] does. Of a key with history the revision that was announced is taken, so that a node that comes late
/// reads what the others read.
#[derive(Clone, Debug)]
pub struct KvCatalogs {
    client: Client,
    jetstream: jetstream::Context,
    files: FileCatalogs,
}

/// What is looked for, owned.
struct Wanted {
    uri: String,
    version: u64,
    digest: Option<String>,
}

impl KvCatalogs {
    /// Buckets that `client` reaches, and files in the folders of `files`.
    #[must_use]
    pub fn new(client: Client, files: FileCatalogs) -> Self {
        Self {
            jetstream: jetstream::new(client.clone()),
            client,
            files,
        }
    }

    /// The catalog at `<bucket>/<key>` that the fold starts with: the oldest revision that is kept, so that a node that
    /// comes late starts where the others started. Later ones come by catalog updates.
    ///
    /// # Errors
    /// When it is not there or cannot be read; one sentence.
    pub async fn first(&self, place: &str) -> Result<Bytes, BoxError> {
        let (bucket, key) = place.split_once('/').ok_or("a KV catalog is `<bucket>/<key>`")?;
        let read = async {
            let store = self.jetstream.get_key_value(bucket).await?;
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

    /// The revision that was announced, else the newest one.
    async fn revision(&self, place: &str, wanted: &Wanted) -> Result<Option<Bytes>, BoxError> {
        let Some((bucket, key)) = place.split_once('/') else {
            return Ok(None);
        };
        let store = self.jetstream.get_key_value(bucket).await?;
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
        if self.client.connection_state() != State::Connected {
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
        let Some(place) = wanted.uri.strip_prefix("kv://").map(str::to_owned) else {
            return self.files.fetch(wanted);
        };
        let wanted = Wanted {
            uri: wanted.uri.to_owned(),
            version: wanted.version,
            digest: wanted.digest.map(str::to_owned),
        };
        Box::pin(async move { self.read(&wanted, &place).await })
    }
}
