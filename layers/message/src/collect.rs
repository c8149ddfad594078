//! The capped collect.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use pin_project_lite::pin_project;

use crate::{BoxError, Code, MessageBody, Problem};

/// Reads a body to its end, at most `limit` bytes of data; trailers are kept.
///
/// A body that arrives in one data frame is not copied: what comes out is that frame's `Bytes`. A body that announces
/// more than `limit` is refused before it is read. Dropping the future drops the body.
pub fn collect<B: Body<Data = Bytes>>(body: B, limit: usize) -> Collect<B> {
    Collect {
        body,
        limit,
        data: Data::Nothing,
        trailers: None,
    }
}

pin_project! {
    /// The future of [`collect`].
    pub struct Collect<B> {
        #[pin]
        body: B,
        limit: usize,
        data: Data,
        // Boxed: they are rare, and a `HeaderMap` is 96 bytes of every future that waits for a body.
        trailers: Option<Box<HeaderMap>>,
    }
}

/// What came so far.
enum Data {
    Nothing,
    /// One frame, as it came.
    Frame(Bytes),
    /// More than one, copied.
    Joined(BytesMut),
}

impl Data {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Frame(data) => data.len(),
            Self::Joined(data) => data.len(),
        }
    }

    /// Adds a frame; `more` is how many bytes are known to follow it.
    fn push(&mut self, frame: Bytes, more: impl FnOnce() -> usize) {
        match self {
            Self::Nothing => *self = Self::Frame(frame),
            // An empty frame says nothing yet.
            Self::Frame(first) if first.is_empty() => *first = frame,
            Self::Frame(first) => {
                let mut joined = BytesMut::with_capacity(first.len() + frame.len() + more());
                joined.extend_from_slice(first);
                joined.extend_from_slice(&frame);
                *self = Self::Joined(joined);
            }
            Self::Joined(joined) => joined.extend_from_slice(&frame),
        }
    }

    fn take(&mut self) -> Bytes {
        match std::mem::replace(self, Self::Nothing) {
            Self::Nothing => Bytes::new(),
            Self::Frame(data) => data,
            Self::Joined(data) => data.freeze(),
        }
    }
}

/// A whole body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// All data.
    pub bytes: Bytes,
    /// The trailers after it. Boxed: they are rare, and a `HeaderMap` is 96 bytes.
    pub trailers: Option<Box<HeaderMap>>,
}

impl Collected {
    /// The same body again, to be handed on.
    #[inline]
    #[must_use]
    pub fn into_body<B>(self) -> MessageBody<B> {
        MessageBody::collected(self.bytes, self.trailers)
    }
}

/// Why a body could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum CollectError<E> {
    /// It has, or announces, more than the limit.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// Reading it failed.
    #[error("the body could not be read")]
    Read(#[source] E),
}

impl<E: Into<BoxError>> CollectError<E> {
    /// The problem to answer with: `body.too_large`, `body.timeout` when a [`BodyTimeout`] is the cause, `frame.invalid`
    /// when a [`BodyBroken`] is, else `read`.
    #[must_use]
    pub fn problem(self, read: Code) -> Problem {
        let error = match self {
            Self::TooLarge { limit } => return too_large(limit),
            Self::Read(error) => error.into(),
        };
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
        while let Some(error) = cause {
            if error.is::<BodyTimeout>() {
                return Problem::new(Code::BodyTimeout, "the body did not arrive in time");
            }
            if error.is::<BodyBroken>() {
                return Problem::new(Code::FrameInvalid, "the body breaks the protocol that carries it");
            }
            cause = error.source();
        }
        Problem::new(read, "the body could not be read to its end")
    }
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("the body is larger than the limit of {limit} bytes"),
    )
}

/// The error of a body from which nothing came for too long; an edge puts it into the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing came of the body for too long")]
pub struct BodyTimeout;

/// The error of a body that its sender broke: chunks that are none, a length that does not hold, a stream that was reset. An
/// edge puts it into the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body breaks the protocol that carries it")]
pub struct BodyBroken;

impl<B: Body<Data = Bytes>> Future for Collect<B> {
    type Output = Result<Collected, CollectError<B::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let limit = *this.limit;
        loop {
            let seen = this.data.len();
            let announced = usize::try_from(this.body.size_hint().lower()).unwrap_or(usize::MAX);
            if announced > limit - seen {
                return Poll::Ready(Err(CollectError::TooLarge { limit }));
            }
            let frame = match ready!(this.body.as_mut().poll_frame(cx)) {
                None => break,
                Some(Err(error)) => return Poll::Ready(Err(CollectError::Read(error))),
                Some(Ok(frame)) => frame,
            };
            match frame.into_data() {
                Ok(data) if data.len() > limit - seen => {
                    return Poll::Ready(Err(CollectError::TooLarge { limit }));
                }
                Ok(data) => {
                    let after = limit - seen - data.len();
                    let body = this.body.as_ref();
                    this.data.push(data, || {
                        usize::try_from(body.size_hint().lower()).unwrap_or(0).min(after)
                    });
                    if this.body.is_end_stream() {
                        break;
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        *this.trailers = Some(Box::new(trailers));
                    }
                }
            }
        }
        Poll::Ready(Ok(Collected {
            bytes: this.data.take(),
            trailers: this.trailers.take(),
        }))
    }
}

impl<B> fmt::Debug for Collect<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collect")
            .field("limit", &self.limit)
            .field("seen", &self.data.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::HeaderValue;
    use http_body::Frame;
    use http_body_util::{Full, StreamBody};
    use proptest::prelude::*;

    use super::*;

    fn stream(
        frames: Vec<Result<Frame<Bytes>, BoxError>>,
    ) -> impl Body<Data = Bytes, Error = BoxError> + Unpin {
        StreamBody::new(Frames(frames.into_iter()))
    }

    struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, BoxError>>);

    impl futures_util::Stream for Frames {
        type Item = Result<Frame<Bytes>, BoxError>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            Poll::Ready(self.0.next())
        }
    }

    #[tokio::test]
    async fn one_frame_is_not_copied() {
        let data = Bytes::from(vec![7; 1_000]);
        let collected = collect(Full::new(data.clone()), 1_000).await.expect("fits");
        assert_eq!(collected.bytes.as_ptr(), data.as_ptr());
        let again = collect(collected.into_body::<Full<Bytes>>(), 1_000)
            .await
            .expect("fits");
        assert_eq!(again.bytes.as_ptr(), data.as_ptr());
    }

    #[tokio::test]
    async fn the_limit_fits_and_one_byte_more_does_not() {
        for (len, fits) in [(0, true), (1_000, true), (1_001, false)] {
            let announced = collect(Full::new(Bytes::from(vec![0; len])), 1_000).await;
            assert_eq!(announced.is_ok(), fits, "{len} announced");
            let frames = vec![0; len]
                .chunks(300)
                .map(|c| Ok(Frame::data(Bytes::copy_from_slice(c))))
                .collect();
            assert_eq!(
                collect(stream(frames), 1_000).await.is_ok(),
                fits,
                "{len} streamed"
            );
        }
        let error = collect(Full::new(Bytes::from_static(b"abc")), 2)
            .await
            .expect_err("large");
        assert_eq!(
            error.problem(Code::Internal).detail,
            "the body is larger than the limit of 2 bytes"
        );
    }

    #[tokio::test]
    async fn trailers_are_kept() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]);
        let frames = vec![
            Ok(Frame::data(Bytes::from_static(b"a"))),
            Ok(Frame::trailers(trailers.clone())),
        ];
        let collected = collect(stream(frames), 10).await.expect("fits");
        assert_eq!(collected.trailers.as_deref(), Some(&trailers));
    }

    #[tokio::test]
    async fn a_body_that_went_idle_is_a_timeout_and_any_other_fault_the_given_code() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] BodyTimeout);

        let error = collect(stream(vec![Err(Box::new(Outer(BodyTimeout)))]), 10)
            .await
            .expect_err("idle");
        assert_eq!(error.problem(Code::OverseerBody).code, Code::BodyTimeout);
        let error = collect(stream(vec![Err("reset".into())]), 10)
            .await
            .expect_err("reset");
        assert_eq!(error.problem(Code::OverseerBody).code, Code::OverseerBody);
    }

    #[tokio::test]
    async fn a_body_that_its_sender_broke_is_the_senders_fault() {
        let error = collect(stream(vec![Err(Box::new(BodyBroken))]), 10)
            .await
            .expect_err("broken");
        assert_eq!(error.problem(Code::Internal).code, Code::FrameInvalid);
    }

    proptest! {
        #[test]
        fn whatever_the_frames_the_bytes_are_theirs_in_order(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..12),
            limit in 0_usize..300,
        ) {
            let whole = chunks.concat();
            let frames = chunks.into_iter().map(|c| Ok(Frame::data(c.into()))).collect();
            let mut future = tokio_test_block(collect(stream(frames), limit));
            match &mut future {
                Ok(collected) => prop_assert_eq!(&collected.bytes[..], &whole[..]),
                Err(CollectError::TooLarge { .. }) => prop_assert!(whole.len() > limit),
                Err(CollectError::Read(error)) => prop_assert!(false, "{}", error),
            }
        }
    }

    fn tokio_test_block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("runtime")
            .block_on(future)
    }

    #[allow(
        dead_code,
        reason = "a body that cannot fail must be collectable too: this only has to compile"
    )]
    fn infallible_bodies_have_a_problem(error: CollectError<Infallible>) -> Problem {
        error.problem(Code::Internal)
    }
}
