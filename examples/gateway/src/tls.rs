//! TLS of the public listener, by rustls. Files that change are read again; what does not hold changes nothing.

use std::{path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use arqon::{
    config::TlsConfig,
    files::{self, KEYS_BYTES_MAX},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The certificate in force. Cloning it is a reference count.
#[derive(Clone)]
pub(crate) struct Tls {
    files: Arc<TlsConfig>,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One sentence that names the key, the file and what is wrong.
    pub(crate) fn load(files: &TlsConfig) -> Result<Self, String> {
        Ok(Self {
            config: Arc::new(ArcSwap::new(read(files)?)),
            files: Arc::new(files.clone()),
        })
    }

    /// For one connection, with the certificate that is in force now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.config.load_full())
    }

    /// Reads the files again when they have other bytes, until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) -> Result<(), String> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = bytes_of(Arc::clone(&self.files)).await;
        // What changed since the start is read at once.
        let mut first = true;
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = looks.tick() => {}
            }
            let now = bytes_of(Arc::clone(&self.files)).await;
            if now == seen && !first {
                continue;
            }
            let told = !std::mem::take(&mut first);
            seen = now;
            let files = Arc::clone(&self.files);
            match tokio::task::spawn_blocking(move || read(&files)).await {
                Ok(Ok(config)) => {
                    self.config.store(config);
                    if told {
                        tracing::info!(component = "edge", "the certificate was read again");
                    }
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        component = "edge",
                        error,
                        "the certificate does not hold, the last one stays"
                    );
                }
                Err(died) => return Err(died.to_string()),
            }
        }
    }
}

/// What the files hold; `None` for those that cannot be read.
async fn bytes_of(files: Arc<TlsConfig>) -> Vec<Option<Vec<u8>>> {
    let read = tokio::task::spawn_blocking(move || {
        let all = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
        all.into_iter()
            .flatten()
            .map(|path| files::read(path, KEYS_BYTES_MAX).ok())
            .collect()
    });
    read.await.unwrap_or_default()
}

fn read(files: &TlsConfig) -> Result<Arc<ServerConfig>, String> {
    let chain = certificates("gateway.tls.cert", &files.cert)?;
    let shown = files.key.display();
    let key = files::read(&files.key, KEYS_BYTES_MAX)
        .map_err(|error| format!("gateway.tls.key: {shown} cannot be read: {error}"))?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| format!("gateway.tls.key: {shown} holds no private key (PEM): {error}"))?;
    let provider = Arc::new(default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("gateway.tls.client_ca", path)? {
                roots
                    .add(certificate)
                    .map_err(|error| format!("gateway.tls.client_ca: {}: {error}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| format!("gateway.tls.client_ca: {error}"))?,
            )
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        format!(
            "gateway.tls: {} and {}: {error}",
            files.cert.display(),
            files.key.display()
        )
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let wrong = |error: &dyn std::fmt::Display| {
        format!("{key}: {} holds no certificate (PEM): {error}", path.display())
    };
    let pem = files::read(path, KEYS_BYTES_MAX)
        .map_err(|error| format!("{key}: {} cannot be read: {error}", path.display()))?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&error))?;
    if all.is_empty() {
        return Err(wrong(&"there is none in it"));
    }
    Ok(all)
}
