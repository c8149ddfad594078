//! The bytes of a catalog update that is written to the log itself: no gateway has put them where others find them.

use std::path::Path;

use arqon_rollout::Message;

use super::Usage;

/// Keeps the bytes of a catalog update in bucket `ARQON_CATALOGS`: those of `catalog`, else what is at its place. Anything else needs
/// nothing kept.
#[cfg(feature = "nats")]
pub(super) async fn keep(
    url: &str,
    creds: Option<&Path>,
    message: &Message,
    catalog: Option<&Path>,
) -> Result<(), Usage> {
    use anyhow::Context;
    use arqon_rollout::{CatalogSource, CatalogWanted, DownstreamMessage, FileCatalogs};

    use crate::nats::KvCatalogs;

    let Message::Downstream(DownstreamMessage::CatalogUpdate {
        version,
        source_uri,
        digest,
    }) = message
    else {
        return Ok(());
    };
    anyhow::ensure!(
        digest.is_some(),
        "the update names no digest, so nodes cannot tell whether they read the same bytes: give --catalog FILE"
    );
    let wanted = CatalogWanted::new(source_uri, *version, digest.as_deref());
    let client = super::target::connect(url, creds).await?;
    // What the operator who signs may read.
    let folder = source_uri
        .strip_prefix("file://")
        .map(Path::new)
        .and_then(Path::parent);
    let catalogs = KvCatalogs::new(client.clone(), FileCatalogs::new(folder.map(Path::to_path_buf)));
    let bytes = match catalog {
        Some(path) => {
            let bytes = bytes::Bytes::from(std::fs::read(path).with_context(|| path.display().to_string())?);
            wanted.check(&bytes).with_context(|| path.display().to_string())?;
            bytes
        }
        None => catalogs.fetch(wanted).await.with_context(|| {
            format!("nothing was sent: nodes would wait for catalog {version}, which cannot be read here: give --catalog FILE")
        })?,
    };
    let kept = catalogs.keep(wanted, bytes).await;
    kept.with_context(|| format!("nothing was sent: catalog {version} could not be kept for the nodes"))
}

/// There is no log to be written to.
#[cfg(not(feature = "nats"))]
pub(super) async fn keep(url: &str, _: Option<&Path>, _: &Message, _: Option<&Path>) -> Result<(), Usage> {
    anyhow::bail!("--nats {url}: this program was built without the feature `nats`")
}
