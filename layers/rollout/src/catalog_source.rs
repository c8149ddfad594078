//! Where a catalog update's bytes come from. Never from the network at a message's word (no SSRF).

use std::{future::Future, path::PathBuf, pin::Pin};

use bytes::Bytes;

use crate::{
    catalog::{Catalog, MAX_CATALOG_BYTES},
    digest::Digest,
};

/// What [`CatalogSource::fetch`] yields.
pub type CatalogFuture<'a, T = Bytes> = Pin<Box<dyn Future<Output = Result<T, FetchError>> + Send + 'a>>;

/// Why a catalog could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The URI is not one this node follows.
    #[error("`{0}` is not followed: only `kv://` and files in an allowed folder are")]
    Refused(String),
    /// It is not there, or too large, or what is there is another one.
    #[error("`{uri}` cannot be read: {source}")]
    Read {
        /// What was asked for.
        uri: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Where it is kept does not answer now: asking again may help.
    #[error("`{uri}` cannot be reached: {source}")]
    Unavailable {
        /// What was asked for.
        uri: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What a catalog update announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatalogWanted<'a> {
    /// Where it is.
    pub uri: &'a str,
    /// Its version. A source that keeps history yields this one, so that a node that comes late reads what the others read.
    pub version: u64,
    /// Its digest, if the update names one.
    pub digest: Option<&'a str>,
}

impl<'a> CatalogWanted<'a> {
    /// Wants version `version` of what is at `uri`.
    pub fn new(uri: &'a str, version: u64, digest: Option<&'a str>) -> Self {
        Self { uri, version, digest }
    }

    /// Whether these bytes are the ones that are wanted: those of the digest; without one, a catalog of the version. Others are
    /// not there: they are never folded, since other nodes may have read something else.
    ///
    /// # Errors
    ///
    /// [`FetchError::Read`], naming what is there instead.
    pub fn check(&self, bytes: &[u8]) -> Result<(), FetchError> {
        let source = match self.digest {
            Some(digest) => {
                let actual = Digest::of_bytes(bytes);
                if actual.matches(digest) {
                    return Ok(());
                }
                format!("its digest is {actual}, announced was `{digest:.80}`")
            }
            None => match Catalog::parse(bytes) {
                Ok(catalog) if catalog.version() == self.version => return Ok(()),
                Ok(catalog) => format!(
                    "its version is {}, announced was {}",
                    catalog.version(),
                    self.version
                ),
                Err(error) => error.to_string(),
            },
        };
        let (uri, source) = (shown(self.uri), source.into());
        Err(FetchError::Read { uri, source })
    }

    /// Whether it is at a place that any node could follow.
    pub(crate) fn is_followed(&self) -> bool {
        ["kv://", "file:///"]
            .iter()
            .any(|scheme| self.uri.starts_with(scheme))
    }
}

/// Fetches the bytes a `source_uri` names.
pub trait CatalogSource: Send + Sync + 'static {
    /// The bytes, at most [`MAX_CATALOG_BYTES`]. Those that are not what is [wanted](CatalogWanted::check) count as not there.
    fn fetch(&self, wanted: CatalogWanted<'_>) -> CatalogFuture<'_>;

    /// Keeps the bytes of an update that is about to get into the log, for nodes that find something else at its place, then or
    /// years later. What has no place for that keeps nothing.
    fn keep(&self, wanted: CatalogWanted<'_>, bytes: Bytes) -> CatalogFuture<'_, ()> {
        let _ = (wanted, bytes);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Follows nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCatalogs;

impl CatalogSource for NoCatalogs {
    fn fetch(&self, wanted: CatalogWanted<'_>) -> CatalogFuture<'_> {
        let refused = FetchError::Refused(shown(wanted.uri));
        Box::pin(std::future::ready(Err(refused)))
    }
}

/// Follows `file://` into allowed folders, by real path: neither `..` nor a symbolic link leads out.
#[derive(Debug, Clone, Default)]
pub struct FileCatalogs {
    allowed: Vec<PathBuf>,
}

impl FileCatalogs {
    /// Allows these folders.
    pub fn new(allowed: impl IntoIterator<Item = PathBuf>) -> Self {
        Self {
            allowed: allowed.into_iter().collect(),
        }
    }

    fn read(&self, uri: &str) -> Result<Bytes, FetchError> {
        let refused = || FetchError::Refused(shown(uri));
        let read = |source: std::io::Error| FetchError::Read {
            uri: shown(uri),
            source: source.into(),
        };
        let path = uri
            .strip_prefix("file://")
            .filter(|path| path.starts_with('/'))
            .ok_or_else(refused)?;
        let path = std::fs::canonicalize(path).map_err(read)?;
        let inside =
            |folder: &PathBuf| std::fs::canonicalize(folder).is_ok_and(|folder| path.starts_with(folder));
        if !self.allowed.iter().any(inside) {
            // Another node's folder may be another one.
            return Err(read(std::io::Error::other(
                "it is not in a folder of this node's",
            )));
        }
        let length = std::fs::metadata(&path).map_err(read)?.len();
        if length > MAX_CATALOG_BYTES as u64 {
            return Err(read(std::io::Error::other(format!(
                "{length} bytes, at most {MAX_CATALOG_BYTES}"
            ))));
        }
        std::fs::read(&path).map(Bytes::from).map_err(read)
    }
}

impl CatalogSource for FileCatalogs {
    fn fetch(&self, wanted: CatalogWanted<'_>) -> CatalogFuture<'_> {
        // A small local file, off the request path: read in place.
        let read = self.read(wanted.uri);
        Box::pin(std::future::ready(read))
    }
}

fn shown(uri: &str) -> String {
    uri.chars().take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_inside_an_allowed_folder_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (inside, outside) = (folder.path().join("in"), folder.path().join("secret.json"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("catalog.json"), "{}").unwrap();
        std::fs::write(&outside, "secret").unwrap();
        let source = FileCatalogs::new([inside.clone()]);
        let uri = |path: &std::path::Path| format!("file://{}", path.display());
        assert_eq!(source.read(&uri(&inside.join("catalog.json"))).unwrap(), "{}");
        assert!(source.read(&uri(&outside)).is_err());
        assert!(source.read(&uri(&inside.join("../secret.json"))).is_err());
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&outside, inside.join("link.json")).unwrap();
            assert!(source.read(&uri(&inside.join("link.json"))).is_err());
        }
        for uri in [
            "http://169.254.169.254/latest/meta-data",
            "https://id.example/catalog.json",
            "file://localhost/etc/passwd",
            "FILE:///etc/passwd",
            "gopher://x",
            "",
        ] {
            assert!(matches!(source.read(uri), Err(FetchError::Refused(_))), "{uri}");
        }
    }
}
