//! The service: a bearer token in, claims and tenant in the extensions, or 401.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use arqon_message::{Code, MessageBody, Problem, Rejection};
use http::{
    HeaderMap, HeaderValue, Request, Response,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
    request::Parts,
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    JwtLayer,
    token::{Refused, Verified},
};

/// The service of [`JwtLayer`].
#[derive(Clone, Debug)]
pub struct Jwt<S> {
    inner: S,
    layer: Option<JwtLayer>,
}

impl<S> Layer<S> for JwtLayer {
    type Service = Jwt<S>;

    fn layer(&self, inner: S) -> Jwt<S> {
        Jwt {
            inner,
            layer: Some(self.clone()),
        }
    }
}

/// A stack's place for authentication, taken or not.
pub(crate) struct Optional(pub(crate) Option<JwtLayer>);

impl<S> Layer<S> for Optional {
    type Service = Jwt<S>;

    fn layer(&self, inner: S) -> Jwt<S> {
        Jwt {
            inner,
            layer: self.0.clone(),
        }
    }
}

impl JwtLayer {
    /// Puts the claims and the tenant of a token that holds into the extensions.
    fn admit(&self, parts: &mut Parts) -> Result<(), Refusal> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        // A clock before 1970 is no clock: nothing holds then.
        let now = now.map_or(u64::MAX, |since| since.as_secs());
        let refused = |refused| Refusal {
            refused,
            ends_session: false,
        };
        let verified = match parts.extensions.get::<Verified>() {
            // A message of a session whose opening was verified: only the time has changed, and maybe the keys.
            Some(verified) => {
                let ended = |refused| Refusal {
                    refused,
                    ends_session: true,
                };
                if !verified.holds_at(now) {
                    return Err(ended(Refused::Expired));
                }
                if !self.has_key_of(verified) {
                    return Err(ended(Refused::Key));
                }
                verified.clone()
            }
            None => {
                let token = bearer(&parts.headers).map_err(refused)?;
                let verified = self.0.judge(token, now).map_err(refused)?;
                parts.extensions.insert(verified.clone());
                verified
            }
        };
        parts.extensions.insert(verified.tenant().clone());
        parts.extensions.insert(verified.claims().clone());
        Ok(())
    }
}

struct Refusal {
    refused: Refused,
    ends_session: bool,
}

impl Refusal {
    /// What the client learns: the same words for every token that is not ours, so that none tells a forger how far he
    /// came. That a genuine token has expired, or names no tenant, its holder may know.
    fn into_rejection(self) -> Rejection {
        let (code, detail) = match self.refused {
            Refused::Missing => (Code::AuthMissing, "send `Authorization: Bearer <token>`, once"),
            Refused::Tenant => (
                Code::TenantInvalid,
                "the token's claim `tenant_id` is not 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'",
            ),
            Refused::Expired => (Code::AuthInvalid, "the bearer token has expired: get a new one"),
            _ => (Code::AuthInvalid, "the bearer token does not hold"),
        };
        let rejection = Rejection::new(Problem::new(code, detail));
        if self.ends_session {
            rejection.closing_session()
        } else {
            rejection
        }
    }
}

/// The token of the one `Authorization` header (RFC 6750, 2.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Refused> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refused::Missing)?;
    if values.next().is_some() {
        return Err(Refused::Malformed);
    }
    let value = value.to_str().map_err(|_| Refused::Malformed)?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::Missing);
    }
    Ok(token.trim_start_matches(' '))
}

impl<S, B, R> Service<Request<B>> for Jwt<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
{
    type Response = Response<MessageBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(layer) = &self.layer else {
            return ResponseFuture::of(self.inner.call(request));
        };
        let (mut parts, body) = request.into_parts();
        match layer.admit(&mut parts) {
            Ok(()) => ResponseFuture::of(self.inner.call(Request::from_parts(parts, body))),
            Err(refusal) => {
                layer.0.count(refusal.refused);
                tracing::debug!(
                    component = "auth",
                    reason = refusal.refused.as_str(),
                    "not let in"
                );
                // The readied inner goes, and what it reserved with it.
                let clone = self.inner.clone();
                self.inner = clone;
                ResponseFuture {
                    state: State::Refused {
                        refused: Some(Box::new((refusal.into_rejection(), parts))),
                    },
                }
            }
        }
    }
}

pin_project! {
    /// The response of a service behind [`JwtLayer`].
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Inner { #[pin] inner: F },
        Refused { refused: Option<Box<(Rejection, Parts)>> },
    }
}

impl<F> ResponseFuture<F> {
    fn of(inner: F) -> Self {
        Self {
            state: State::Inner { inner },
        }
    }
}

impl<F, R, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<MessageBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Inner { inner } => Ok(ready!(inner.poll(cx))?.map(MessageBody::streaming)),
            StateProj::Refused { refused } => {
                let (rejection, parts) = *refused.take().expect("a future is not polled after it was ready");
                let invalid = rejection.problem().code == Code::AuthInvalid;
                let mut response = rejection.into_response(&parts);
                if invalid {
                    // RFC 6750, 3.1.
                    let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                    response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
                }
                Ok(response)
            }
        })
    }
}
