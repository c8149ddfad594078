//! One bounded GET of a key set: no redirects, no more than a few seconds, no more than [`SET_BYTES_MAX`].

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::key::SET_BYTES_MAX;
use crate::outbound;

/// How long a fetch may take, from the name's resolution to the last byte.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Fetches what `url` names.
///
/// # Errors
/// One sentence, on anything but 200 and a body within its bounds and in time.
pub(super) async fn get(url: &Uri, tls: &TlsConnector) -> Result<Bytes, String> {
    let request = Request::get(url)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .body(Bytes::new())
        .map_err(|error| error.to_string())?;
    let answered = timeout(TIMEOUT, outbound::ask(request, tls, SET_BYTES_MAX)).await;
    let answer = answered.unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())))?;
    match answer.status() {
        StatusCode::OK => Ok(answer.into_body()),
        status => Err(format!("the answer was {status}")),
    }
}
