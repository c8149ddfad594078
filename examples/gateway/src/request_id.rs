//! Ids of requests: one that a client sent and that is fit to be one, else one of ours; each answer has its request's. Nothing
//! reads or sets a header before: what the client's `Connection` names is gone from here on.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use arqon::{
    ConnectionId,
    edge::{hop, single},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header::Entry};
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
    HeaderValue::from_bytes(&ConnectionId::mint().hex()).expect("digits are a header's value")
}

/// The id of a request: the one it has, if it is fit to be one, else one of ours. The name is looked up once.
fn identify(headers: &mut HeaderMap) -> HeaderValue {
    match headers.try_entry(X_REQUEST_ID) {
        Ok(Entry::Occupied(given)) if single::is_request_id(given.get().as_bytes()) => given.get().clone(),
        Ok(Entry::Occupied(mut given)) => {
            let id = mint();
            given.insert(id.clone());
            id
        }
        Ok(Entry::Vacant(none)) => {
            let id = mint();
            // A map that is full stays without.
            let _ = none.try_insert(id.clone());
            id
        }
        Err(_) => mint(),
    }
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
        let id = identify(headers);
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
        // Amended where it is: an answer that is taken out of its `Poll` is copied.
        let mut polled = this.inner.poll(cx);
        if let Poll::Ready(Ok(response)) = &mut polled
            && let Some(id) = this.id.take()
            && let Ok(entry) = response.headers_mut().try_entry(X_REQUEST_ID)
        {
            let _ = entry.or_try_insert(id);
        }
        polled
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
