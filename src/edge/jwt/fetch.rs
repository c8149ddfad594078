//! One bounded GET of a key set: no redirects, no more than a few seconds, no more than [`SET_BYTES_MAX`].

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use super::key::SET_BYTES_MAX;

/// How long a fetch may take, from the name's resolution to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// TLS to an issuer, trusting the authorities of `ca_file`, else the system's.
///
/// # Errors
/// One sentence, when no authority can be read.
pub(super) fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unreadable =
                |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
                roots
                    .add(certificate.map_err(|error| unreadable(&error))?)
                    .map_err(|error| unreadable(&error))?;
            }
            if roots.is_empty() {
                return Err(format!("{} holds no certificate (PEM)", path.display()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Fetches what `url` names.
///
/// # Errors
/// One sentence, on anything but 200 and a body within its bounds and in time.
pub(super) async fn get(url: &Uri, tls: &TlsConnector) -> Result<Bytes, String> {
    timeout(TIMEOUT, fetch(url, tls))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))
}

async fn fetch(url: &Uri, tls: &TlsConnector) -> Result<Bytes, String> {
    let said = |error: &dyn std::error::Error| error.to_string();
    let host = url.host().ok_or("the URL names no host")?;
    let secure = url.scheme_str() == Some("https");
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect((bare, port))
        .await
        .map_err(|error| said(&error))?;
    if !secure {
        return exchange(stream, url).await;
    }
    let name = ServerName::try_from(bare.to_owned()).map_err(|error| said(&error))?;
    let stream = tls.connect(name, stream).await.map_err(|error| said(&error))?;
    exchange(stream, url).await
}

async fn exchange<S>(stream: S, url: &Uri) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(said)?;
    let request = Request::get(url.path_and_query().map_or("/", |path| path.as_str()))
        .header(
            header::HOST,
            url.authority().map_or("", |authority| authority.as_str()),
        )
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(said)?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer was {}", response.status()));
        }
        let body = Limited::new(response.into_body(), SET_BYTES_MAX).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    };
    let (mut answered, mut connection) = (pin!(answered), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // A connection that ended may have left the whole answer behind.
        _ = &mut connection => answered.await,
    }
}
