//! The other half of a comparison: looking at the primary's response as it passes.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::{Answer, frames::Frames, tee::Pending};

/// Looks at the primary's responses for rules with `compare = true`, so that a copy carries the answer it is compared
/// with ([`ShadowCopy::primary`](crate::ShadowCopy::primary)). It belongs *inside* of [`ShadowLayer`](crate::ShadowLayer),
/// which asks for it request by request; without it copies go out without an answer.
///
/// The response streams to the client as it comes; what is kept of it is a copy, within the rule's `max_body_bytes` and the
/// mirror's byte budget.
#[derive(Clone, Copy, Debug, Default)]
pub struct ResponseTapLayer;

impl<S> Layer<S> for ResponseTapLayer {
    type Service = ResponseTap<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ResponseTap { inner }
    }
}

/// The service of [`ResponseTapLayer`].
#[derive(Clone, Copy, Debug)]
pub struct ResponseTap<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for ResponseTap<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Response = Response<TapBody<R>>;
    type Error = S::Error;
    type Future = TapFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let wanted = request
            .extensions_mut()
            .remove::<Wanted>()
            .and_then(|wanted| wanted.take());
        TapFuture {
            inner: self.inner.call(request),
            wanted,
        }
    }
}

pin_project! {
    /// The future of [`ResponseTap`].
    pub struct TapFuture<F> {
        #[pin]
        inner: F,
        // Boxed: few answers are wanted, and every future would have room for one.
        wanted: Option<Box<Capture>>,
    }
}

impl<F, R, E> Future for TapFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<TapBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let answer = ready!(this.inner.poll(cx));
        let wanted = this.wanted.take();
        Poll::Ready(answer.map(|response| {
            let capture = wanted.map(|mut capture| {
                capture.answer = Answer::of_status(response.status()).typed(response.headers());
                capture.open = true;
                capture
            });
            response.map(|inner| TapBody::new(inner, capture))
        }))
    }
}

pin_project! {
    /// A response's body on its way to the client, looked at if the response is compared.
    pub struct TapBody<R> {
        #[pin]
        inner: R,
        capture: Option<Box<Capture>>,
    }
}

impl<R: Body<Data = Bytes>> TapBody<R> {
    fn new(inner: R, mut capture: Option<Box<Capture>>) -> Self {
        // Servers do not poll a body that is over before it begins.
        if inner.is_end_stream() {
            capture.take().into_iter().for_each(|capture| capture.end());
        }
        Self { inner, capture }
    }
}

impl<R: Body<Data = Bytes>> Body for TapBody<R> {
    type Data = Bytes;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let polled = ready!(this.inner.as_mut().poll_frame(cx));
        if let Some(capture) = this.capture {
            match &polled {
                Some(Ok(frame)) => {
                    let fits = frame.data_ref().is_none_or(|data| capture.data(data));
                    if !fits {
                        *this.capture = None;
                    } else if this.inner.is_end_stream() {
                        this.capture.take().into_iter().for_each(|capture| capture.end());
                    }
                }
                Some(Err(_)) => *this.capture = None,
                None => this.capture.take().into_iter().for_each(|capture| capture.end()),
            }
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The wish for an answer, as it travels in a request's extensions (which must be `Clone`).
#[derive(Clone)]
pub(crate) struct Wanted(Arc<Mutex<Option<Box<Capture>>>>);

impl Wanted {
    pub(crate) fn new(pending: Arc<Pending>, bytes_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Some(Box::new(Capture {
            pending,
            answer: Answer::of_status(StatusCode::OK),
            frames: Frames::own(),
            held: 0,
            bytes_max,
            open: false,
            told: false,
        })))))
    }

    fn take(&self) -> Option<Box<Capture>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An answer being captured. Dropped before its end it tells what it knows: the status, or nothing.
struct Capture {
    pending: Arc<Pending>,
    /// Without its body.
    answer: Answer,
    /// Copied: a frame may hold on to a buffer that nobody has counted.
    frames: Frames,
    /// Reserved for them.
    held: usize,
    bytes_max: usize,
    /// A response came.
    open: bool,
    told: bool,
}

impl Capture {
    /// False: the answer is too large to be captured.
    fn data(&mut self, frame: &Bytes) -> bool {
        let growth = self.frames.growth(frame.len(), self.bytes_max);
        let fits = frame.len() <= self.bytes_max - self.frames.len() && self.pending.reserve(growth);
        if fits {
            self.held += growth;
            self.frames.push(frame, self.bytes_max);
        }
        fits
    }

    fn end(mut self) {
        self.told = true;
        let body = std::mem::take(&mut self.frames).join();
        let answer = Answer {
            body,
            complete: true,
            ..self.answer.clone()
        };
        self.pending
            .response_ended(Some(answer), std::mem::take(&mut self.held));
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if !self.told {
            self.pending.release(self.held);
            self.pending
                .response_ended(self.open.then(|| self.answer.clone()), 0);
        }
    }
}

impl<F> fmt::Debug for TapFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapFuture").finish_non_exhaustive()
    }
}

impl<R> fmt::Debug for TapBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TapBody")
            .field("compared", &self.capture.is_some())
            .finish_non_exhaustive()
    }
}
