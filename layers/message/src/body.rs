//! The one body type.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// The body that layers hand on and answer with: another body as it streams, or one that is whole in memory.
    ///
    /// A whole body is one data frame (the same `Bytes`, so the next layer that collects it counts a reference) and
    /// then the trailers, if any, with an exact size hint.
    pub struct MessageBody<B> {
        #[pin]
        kind: Kind<B>,
    }
}

pin_project! {
    #[project = KindProj]
    enum Kind<B> {
        Streaming { #[pin] body: B },
        // The trailers are boxed: they are rare, and a `HeaderMap` is 96 bytes.
        Whole { data: Option<Bytes>, trailers: Option<Box<HeaderMap>> },
    }
}

impl<B> MessageBody<B> {
    /// Passes `body` on as it is.
    #[inline]
    pub const fn streaming(body: B) -> Self {
        Self {
            kind: Kind::Streaming { body },
        }
    }

    /// A body of one data frame, none if `data` is empty, and then `trailers`.
    #[must_use]
    pub fn whole(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self::collected(data, trailers.map(Box::new))
    }

    #[inline]
    pub(crate) fn collected(data: Bytes, trailers: Option<Box<HeaderMap>>) -> Self {
        let data = (!data.is_empty()).then_some(data);
        Self {
            kind: Kind::Whole { data, trailers },
        }
    }

    /// A body of nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            kind: Kind::Whole {
                data: None,
                trailers: None,
            },
        }
    }
}

impl<B> Default for MessageBody<B> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<B: Body<Data = Bytes>> Body for MessageBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().kind.project() {
            KindProj::Streaming { body } => body.poll_frame(cx),
            KindProj::Whole { data, trailers } => Poll::Ready(match (data.take(), trailers) {
                (Some(data), _) => Some(Ok(Frame::data(data))),
                (None, trailers) => trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Streaming { body } => body.is_end_stream(),
            Kind::Whole { data, trailers } => data.is_none() && trailers.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Streaming { body } => body.size_hint(),
            Kind::Whole { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
        }
    }
}

impl<B> fmt::Debug for MessageBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Streaming { .. } => f.write_str("MessageBody(streaming)"),
            Kind::Whole { data, .. } => {
                write!(f, "MessageBody({} bytes)", data.as_ref().map_or(0, Bytes::len))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty};

    use super::*;

    #[tokio::test]
    async fn a_whole_body_is_one_frame_and_its_trailers() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
        let mut body = MessageBody::<Empty<Bytes>>::whole(Bytes::from_static(b"abc"), Some(trailers.clone()));
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(
            body.frame()
                .await
                .expect("data")
                .expect("ok")
                .into_data()
                .expect("data"),
            "abc"
        );
        assert!(!body.is_end_stream());
        assert_eq!(
            body.frame()
                .await
                .expect("trailers")
                .expect("ok")
                .into_trailers()
                .expect("trailers"),
            trailers
        );
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn an_empty_body_is_at_its_end() {
        let body = MessageBody::<Empty<Bytes>>::whole(Bytes::new(), None);
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
    }
}
