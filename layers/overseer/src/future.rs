//! The future of a request on its way through the chain.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use arqon_message::{
    BoxError, Claims, Code, Collect, ConnectionId, MessageBody, Problem, Protocol, Rejection, RemoteAddr,
    Subject, TenantId, TraceKey, collect,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, header::ACCEPT, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::{
    abi::arqon_host_v1::Phase,
    chain::{Matching, Snapshot},
    edit,
    engine::Gate,
    exchange::{Back, Lent},
};

pin_project! {
    /// The future of [`Overseer`](crate::Overseer).
    ///
    /// Dropping it at any point stops there: a guest runs to its end within one poll, so none is left half way.
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<MessageBody<B>>>,
    {
        #[pin]
        pub(crate) state: State<S, B, S::Future, S::Response>,
    }
}

pin_project! {
    #[project = StateProj]
    pub(crate) enum State<S, B, F, T> {
        // The body is being read, for policies that look at it.
        Collect { collect: Pin<Box<Collect<B>>>, held: Option<Held<S>> },
        // The policies look at the request as soon as there is room to run them.
        Consult { turn: Turn, held: Option<Held<S>>, payload: Option<Payload<B>> },
        // The inner service is at work.
        Inner { #[pin] future: F, after: Option<Box<After>> },
        // No policy looks any more: the inner service's own answer.
        Pass { #[pin] future: F },
        // A policy refused, and the inner service was not called.
        Refused { refused: Option<Refused> },
        // The policies look at the response as soon as there is room to run them.
        Answer { turn: Turn, after: Option<Box<After>>, response: Option<T> },
        Done,
    }
}

/// What waits for the verdict: the readied inner service among it.
pub(crate) struct Held<S> {
    pub(crate) ready: S,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) matching: Matching,
    pub(crate) exchange: Lent,
}

/// What was refused, and why.
type Refused = Box<(Parts, Rejection)>;

pub(crate) enum Payload<B> {
    Streaming(B),
    /// On the heap, as the body was when it was read: the future is moved before its first poll, so it is kept small.
    Collected(Box<(Bytes, Option<HeaderMap>)>),
}

/// What policies that see responses are told of the request.
pub(crate) struct After {
    snapshot: Arc<Snapshot>,
    matching: Matching,
    request: Parts,
    /// Whether only candidates look at the response: nobody waits for a place then.
    tried: bool,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>>,
    B: Body<Data = Bytes>,
{
    /// Waits for the body, if a policy needs it, and for room to run the policies.
    pub(crate) fn wait(held: Held<S>, body: B) -> Self {
        let limit = held.snapshot.body_bytes_max;
        let collects = held.snapshot.needs_body(held.matching);
        let held = Some(held);
        if collects {
            return Self {
                state: State::Collect {
                    collect: Box::pin(collect(body, limit)),
                    held,
                },
            };
        }
        Self {
            state: State::Consult {
                turn: Turn::Untried,
                held,
                payload: Some(Payload::Streaming(body)),
            },
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
        match self.as_mut().project().state.project() {
            StateProj::Pass { future } => future
                .poll(cx)
                .map_ok(|response| response.map(MessageBody::streaming)),
            _ => self.poll_looked(cx),
        }
    }
}

impl<S, B, R> ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>, Response = Response<R>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    /// Out of line: what no policy looks at pays nothing for it.
    #[inline(never)]
    fn poll_looked(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<<Self as Future>::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Collect { collect, held } => {
                    let collected = ready!(collect.as_mut().poll(cx));
                    let held = held.take().expect(POLLED_AFTER_END);
                    match collected {
                        Ok(body) => State::Consult {
                            turn: Turn::Untried,
                            held: Some(held),
                            payload: Some(Payload::Collected(Box::new((
                                body.bytes,
                                body.trailers.map(|trailers| *trailers),
                            )))),
                        },
                        Err(error) => {
                            let problem = error.problem(Code::OverseerBody);
                            let rejection = held.snapshot.unreadable(held.matching, problem);
                            state.set(State::Done);
                            return Poll::Ready(Ok(rejection.into_response(held.exchange.request())));
                        }
                    }
                }
                StateProj::Consult { turn, held, payload } => {
                    let entered = ready!(turn.poll(cx, &held.as_ref().expect(POLLED_AFTER_END).snapshot));
                    let held = held.take().expect(POLLED_AFTER_END);
                    let payload = payload.take().expect(POLLED_AFTER_END);
                    let Held {
                        mut ready,
                        snapshot,
                        matching,
                        mut exchange,
                    } = held;
                    if let Payload::Collected(collected) = &payload {
                        exchange.body = Some(collected.0.clone());
                    }
                    match consult(&snapshot, matching, exchange, entered) {
                        (exchange, Ok(after)) => State::Inner {
                            future: ready.call(amended(&mut Back::of(exchange), payload)),
                            after,
                        },
                        (exchange, Err(rejection)) => State::Refused {
                            refused: Some(Box::new((exchange.into_request(), rejection))),
                        },
                    }
                }
                StateProj::Refused { refused } => {
                    let refused = refused.take().expect(POLLED_AFTER_END);
                    let (request, rejection) = *refused;
                    state.set(State::Done);
                    return Poll::Ready(Ok(rejection.into_response(&request)));
                }
                StateProj::Inner { future, after } => {
                    let response = ready!(future.poll(cx));
                    let after = after.take();
                    match (response, after) {
                        (Ok(response), Some(after)) if after.tried => {
                            state.set(State::Done);
                            return Poll::Ready(Ok(after.only_tries(response)));
                        }
                        (Ok(response), Some(after)) => State::Answer {
                            turn: Turn::Untried,
                            after: Some(after),
                            response: Some(response),
                        },
                        (response, _) => {
                            state.set(State::Done);
                            return Poll::Ready(
                                response.map(|response| response.map(MessageBody::streaming)),
                            );
                        }
                    }
                }
                StateProj::Answer {
                    turn,
                    after,
                    response,
                } => {
                    let entered = ready!(turn.poll(cx, &after.as_ref().expect(POLLED_AFTER_END).snapshot));
                    let after = after.take().expect(POLLED_AFTER_END);
                    let response = response.take().expect(POLLED_AFTER_END);
                    state.set(State::Done);
                    return Poll::Ready(Ok(after.consult(response, entered)));
                }
                StateProj::Pass { .. } | StateProj::Done => panic!("{POLLED_AFTER_END}"),
            };
            state.set(next);
        }
    }
}

const POLLED_AFTER_END: &str = "a future is not polled after it is ready";

/// The verdict on a request: what policies that see its response are to know, or why it does not go on. If it `entered` the
/// gate, its place is given back.
#[inline]
pub(crate) fn consult(
    snapshot: &Arc<Snapshot>,
    matching: Matching,
    exchange: Lent,
    entered: bool,
) -> (Lent, Result<Option<Box<After>>, Rejection>) {
    let (mut exchange, verdict) = snapshot.look(matching, Phase::Request, exchange, entered);
    let passed = verdict.and_then(|()| exchange.amend_request().map_err(|_| too_many_headers()));
    let after = passed.map(|()| {
        let seen = snapshot.sees_responses(matching);
        (seen || snapshot.tries_responses(matching)).then(|| {
            Box::new(After {
                snapshot: Arc::clone(snapshot),
                matching,
                request: context(exchange.request()),
                tried: !seen,
            })
        })
    });
    (exchange, after)
}

/// Hands the request on. It is moved once, into the place where the next service takes it from: each way has its own call.
#[inline(always)]
pub(crate) fn onward<S, B>(inner: &mut S, exchange: Lent, body: B) -> S::Future
where
    S: Service<Request<MessageBody<B>>>,
{
    let mut exchange = Back::of(exchange);
    if exchange.rewritten || exchange.awaiting.is_some() {
        inner.call(amended(&mut exchange, Payload::Streaming(body)))
    } else {
        inner.call(Request::from_parts(
            exchange.take_request(),
            MessageBody::streaming(body),
        ))
    }
}

#[inline(never)]
fn amended<B>(exchange: &mut Lent, payload: Payload<B>) -> Request<MessageBody<B>> {
    let rewritten = if exchange.rewritten {
        exchange.body.take()
    } else {
        None
    };
    let body = match (payload, rewritten) {
        (Payload::Streaming(body), None) => match exchange.awaiting.take() {
            None => MessageBody::streaming(body),
            Some(awaiting) => MessageBody::tapped(body, awaiting),
        },
        (Payload::Streaming(_), Some(rewritten)) => MessageBody::whole(rewritten, None),
        (Payload::Collected(collected), None) => MessageBody::whole(collected.0, collected.1),
        (Payload::Collected(collected), Some(rewritten)) => {
            let (_, mut trailers) = *collected;
            if let Some(trailers) = &mut trailers {
                edit::drop_digests(trailers);
            }
            MessageBody::whole(rewritten, trailers)
        }
    };
    Request::from_parts(exchange.take_request(), body)
}

fn too_many_headers() -> Rejection {
    Rejection::new(Problem::new(
        Code::Internal,
        "the message has too many headers to add one",
    ))
}

impl After {
    fn consult<R>(self: Box<Self>, response: Response<R>, entered: bool) -> Response<MessageBody<R>> {
        let Self {
            snapshot,
            matching,
            request,
            tried: _,
        } = *self;
        let (parts, body) = response.into_parts();
        let exchange = Lent::response(request, parts);
        let (mut exchange, verdict) = snapshot.look(matching, Phase::Response, exchange, entered);
        let mut parts = exchange.response.take().expect("a response's exchange holds one");
        let applied = verdict.and_then(|()| {
            let edits = &exchange.edits;
            edits
                .apply(&mut parts.headers, true)
                .map_err(|_| too_many_headers())
        });
        match applied {
            Ok(()) => Response::from_parts(*parts, MessageBody::streaming(body)),
            Err(rejection) => rejection.into_response(&exchange.into_request()),
        }
    }
}

impl After {
    /// The response as it is, seen by candidates.
    fn only_tries<R>(self: Box<Self>, response: Response<R>) -> Response<MessageBody<R>> {
        let (parts, body) = response.into_parts();
        let mut exchange = Lent::response(self.request, parts);
        self.snapshot.only_try_response(self.matching, &mut exchange);
        let parts = exchange.response.take().expect("a response's exchange holds one");
        Response::from_parts(*parts, MessageBody::streaming(body))
    }
}

/// What `on_response` may know of a request: all but its headers and body.
fn context(request: &Parts) -> Parts {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = request.method.clone();
    parts.uri = request.uri.clone();
    parts.version = request.version;
    if let Some(accept) = request.headers.get(ACCEPT) {
        // For the answer to a refusal; the guest looks at the response's headers.
        parts.headers.insert(ACCEPT, accept.clone());
    }
    let from = &request.extensions;
    let to = &mut parts.extensions;
    from.get::<Subject>().cloned().map(|value| to.insert(value));
    from.get::<TenantId>().cloned().map(|value| to.insert(value));
    from.get::<Claims>().cloned().map(|value| to.insert(value));
    from.get::<RemoteAddr>().copied().map(|value| to.insert(value));
    from.get::<Protocol>().copied().map(|value| to.insert(value));
    from.get::<ConnectionId>().copied().map(|value| to.insert(value));
    TraceKey::from_request(&request.headers, from).map(|value| to.insert(value));
    parts
}

/// A place to run in. It is taken when the future is polled, waited for at most `pool_wait`, and boxed only then.
enum Turn {
    Untried,
    Waiting(Pin<Box<dyn Future<Output = bool> + Send + Sync>>),
}

impl Turn {
    /// Whether a place came free in time. If so it is taken, and to be given back: see [`Snapshot::look`].
    fn poll(&mut self, cx: &mut Context<'_>, snapshot: &Snapshot) -> Poll<bool> {
        if matches!(self, Self::Untried) {
            let gate = snapshot.loader.engine.gate();
            if gate.try_enter() {
                return Poll::Ready(true);
            }
            let (gate, wait): (Arc<Gate>, _) = (Arc::clone(gate), snapshot.pool_wait);
            *self = Self::Waiting(Box::pin(async move {
                tokio::time::timeout(wait, gate.enter()).await.is_ok()
            }));
        }
        match self {
            Self::Untried => Poll::Pending,
            Self::Waiting(future) => {
                let entered = ready!(future.as_mut().poll(cx));
                drop(mem::replace(self, Self::Untried));
                Poll::Ready(entered)
            }
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<MessageBody<B>>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Collect { .. } => "collecting the body",
            State::Consult { .. } => "consulting the policies",
            State::Inner { .. } | State::Pass { .. } => "waiting for the inner service",
            State::Answer { .. } => "consulting the policies on the response",
            State::Refused { .. } => "refusing",
            State::Done => "done",
        };
        write!(f, "ResponseFuture({state})")
    }
}
