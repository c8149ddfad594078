//! [`ResponseFuture`]: reads the body if it must, then calls the inner service or refuses.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use arqon_message::{BoxError, Collect, MessageBody, Rejection};
use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{admission, config::Encoding, registry::Binding};

pin_project! {
    /// The future of [`Schema`](crate::Schema). Dropping it drops the body, the readied inner service or the inner
    /// future, whichever it holds; nothing else is lost.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<MessageBody<B>>>,
    {
        #[pin]
        pub(crate) state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(crate) enum State<S, B>
    where
        S: Service<Request<MessageBody<B>>>,
    {
        Inner { #[pin] future: S::Future },
        Collecting { #[pin] body: Collect<B>, head: Option<Parts>, job: Option<Job<S>> },
        Refused { answer: Option<(Rejection, Parts)> },
    }
}

/// What is needed once the body is whole.
pub(crate) struct Job<S> {
    pub(crate) ready: S,
    pub(crate) binding: Arc<Binding>,
    pub(crate) encoding: Encoding,
}

impl<S, B> State<S, B>
where
    S: Service<Request<MessageBody<B>>>,
{
    pub(crate) fn refused(rejection: Rejection, parts: Parts) -> Self {
        Self::Refused {
            answer: Some((rejection, parts)),
        }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<MessageBody<R>>, S::Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !matches!(self.state, State::Inner { .. })
            && let Some(refusal) = ready!(self.as_mut().check(cx))
        {
            return Poll::Ready(Ok(refusal));
        }
        // Polled in one place, inline: an answer handed through another function is moved once more.
        match self.project().state.project() {
            StateProj::Inner { future } => future
                .poll(cx)
                .map_ok(|response| response.map(MessageBody::streaming)),
            _ => unreachable!("what is checked and not refused is with the inner service"),
        }
    }
}

impl<S, B, R> ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Reads the body and calls the inner service, or gives the refusal. Out of line: what has no contract pays nothing
    /// for it.
    #[inline(never)]
    fn check(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Response<MessageBody<R>>>> {
        let mut state = self.project().state;
        let (head, problem) = match state.as_mut().project() {
            StateProj::Inner { .. } => return Poll::Ready(None),
            StateProj::Refused { answer } => {
                let (rejection, parts) = answer.take().expect("polled after it was ready");
                return Poll::Ready(Some(rejection.into_response(&parts)));
            }
            StateProj::Collecting { body, head, job } => {
                let collected = ready!(body.poll(cx));
                let Job {
                    mut ready,
                    binding,
                    encoding,
                } = job.take().expect("a state is left once");
                // The head is completed where it is, and moved once: straight into the inner call.
                let draft = head.as_mut().expect("a state is left once");
                let judged = admission::judge(binding, encoding, draft, collected);
                let head = head.take().expect("a state is left once");
                match judged {
                    Ok(body) => {
                        let future = ready.call(Request::from_parts(head, body.into_body()));
                        state.set(State::Inner { future });
                        return Poll::Ready(None);
                    }
                    Err(problem) => (head, problem),
                }
            }
        };
        // What the refused request held goes before the answer does.
        state.set(State::Refused { answer: None });
        Poll::Ready(Some(Rejection::new(*problem).into_response(&head)))
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
