//! One bounded HTTP exchange with a server that the configuration names: its own connection, no redirects.

use std::{path::Path, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring::default_provider,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::files;

/// TLS to a server, trusting the authorities of `ca_file`, else the system's.
///
/// # Errors
/// One sentence, when no authority can be read.
pub(crate) fn connector(ca_file: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let unreadable =
                |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
            let pem = files::read(path, files::KEYS_BYTES_MAX).map_err(|error| unreadable(&error))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
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

/// Asks the server that the request's whole URI names, and reads at most `bytes_max` of its answer. Time is the caller's to limit.
///
/// # Errors
/// One sentence.
pub(crate) async fn ask(
    request: Request<Bytes>,
    tls: &TlsConnector,
    bytes_max: usize,
) -> Result<Response<Bytes>, String> {
    let said = |error: &dyn std::error::Error| error.to_string();
    let uri = request.uri();
    let host = uri.host().ok_or("the URL names no host")?;
    let secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_matches(['[', ']']).to_owned();
    let stream = TcpStream::connect((bare.as_str(), port))
        .await
        .map_err(|error| said(&error))?;
    if !secure {
        return exchange(stream, request, bytes_max).await;
    }
    let name = ServerName::try_from(bare).map_err(|error| said(&error))?;
    let stream = tls.connect(name, stream).await.map_err(|error| said(&error))?;
    exchange(stream, request, bytes_max).await
}

async fn exchange<S>(stream: S, request: Request<Bytes>, bytes_max: usize) -> Result<Response<Bytes>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(said)?;
    let mut request = request.map(Full::new);
    let host = request
        .uri()
        .authority()
        .map_or("", |authority| authority.as_str());
    let host = HeaderValue::from_str(host).map_err(|error| error.to_string())?;
    request.headers_mut().insert(header::HOST, host);
    let target = request.uri().path_and_query().cloned();
    *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
    let answered = async {
        let (parts, body) = sender.send_request(request).await.map_err(said)?.into_parts();
        let body = Limited::new(body, bytes_max).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok(Response::from_parts(parts, body))
    };
    let (mut answered, mut connection) = (pin!(answered), pin!(connection));
    tokio::select! {
        biased;
        answer = &mut answered => answer,
        // A connection that ended may have left the whole answer behind.
        _ = &mut connection => answered.await,
    }
}
