//! Ids of requests: one that a client sent and that is fit to be one, else one of ours; each answer has its request's. Nothing
//! reads or sets a header before: what the client's `Connection` names is gone from here on.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use arqon::{
    ConnectionId,
    edge::{hop, single},
};
use http::{HeaderName, HeaderValue, Request, Response};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

/// The header.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Makes [`Named`] of a service. It stands outermost: the id is set before anything can log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestIdLayer;

impl<S> Layer<S> for RequestIdLayer {
    type Service = Named<S>;

    fn layer(&self, inner: S) -> Named<S> {
        Named { inner }
    }
}

/// A service whose requests and answers have ids.
#[derive(Clone, Debug)]
pub(crate) struct Named<S> {
    inner: S,
}

/// As good as a UUID, and no call of the system for each.
fn mint() -> HeaderValue {
    HeaderValue::try_from(ConnectionId::mint().to_string()).expect("digits are a header's value")
}

impl<S, B, R> Service<Request<B>> for Named<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Naming<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let headers = request.headers_mut();
        hop::strip(headers);
        single::keep_short_request_id(headers);
        let id = match headers.get(X_REQUEST_ID) {
            Some(id) => id.clone(),
            None => {
                let id = mint();
                headers.insert(X_REQUEST_ID, id.clone());
                id
            }
        };
        Naming {
            inner: self.inner.call(request),
            id: Some(id),
        }
    }
}

pin_project! {
    /// The answer of [`Named`].
    pub(crate) struct Naming<F> {
        #[pin]
        inner: F,
        id: Option<HeaderValue>,
    }
}

impl<F, R, E> Future for Naming<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some(id) = this.id.take()
            && !response.headers().contains_key(X_REQUEST_ID)
        {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tower::{ServiceExt, service_fn};

    use super::*;

    #[tokio::test]
    async fn connection_takes_off_the_clients_id_and_not_ours() {
        let service = RequestIdLayer.layer(service_fn(|request: Request<()>| async move {
            Ok::<_, Infallible>(Response::new(request.headers().clone()))
        }));
        let request = Request::builder()
            .header("connection", "x-request-id, x-own")
            .header("x-request-id", "theirs")
            .header("x-own", "1");
        let answer = service
            .oneshot(request.body(()).expect("valid"))
            .await
            .expect("infallible");
        let seen = answer.body();
        assert_eq!((seen.len(), seen[X_REQUEST_ID].len()), (1, 32), "{seen:?}");
        assert_eq!(answer.headers()[X_REQUEST_ID], seen[X_REQUEST_ID]);
    }

    #[tokio::test]
    async fn a_request_has_one_id_and_its_answer_the_same() {
        for (given, kept) in [(Some("a-1"), true), (Some("a b"), false), (None, false)] {
            let service = RequestIdLayer.layer(service_fn(|request: Request<()>| async move {
                let ids = request.headers().get_all(X_REQUEST_ID).iter();
                let ids: Vec<_> = ids.map(|id| id.to_str().expect("text").to_owned()).collect();
                Ok::<_, Infallible>(Response::new(ids))
            }));
            let mut request = Request::new(());
            if let Some(given) = given {
                request
                    .headers_mut()
                    .insert(X_REQUEST_ID, HeaderValue::from_static(given));
            }
            let answer = service.oneshot(request).await.expect("infallible");
            let [seen] = &answer.body()[..] else {
                panic!("{:?}", answer.body());
            };
            assert_eq!(answer.headers()[X_REQUEST_ID], seen.as_str());
            assert_eq!(given == Some(seen), kept, "{seen}");
            assert!(kept || seen.len() == 32, "{seen}");
        }
    }
}
