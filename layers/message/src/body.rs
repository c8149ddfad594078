//! The one body type.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
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
        // The body is boxed, so that the others are no larger for it.
        Tapped { body: Pin<Box<B>>, tap: Option<Box<dyn BodyTap>> },
    }
}

/// Sees the data of a body that others read: [`MessageBody::tapped`].
///
/// A tap that is dropped before its [`end`](Self::end) saw a body that broke off, or that nobody read to its end.
pub trait BodyTap: Send + Sync {
    /// A data frame is handed on.
    fn data(&mut self, data: &Bytes);

    /// All data was handed on.
    fn end(self: Box<Self>);
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

    /// Passes `body` on as it is and as it comes, and shows its data to `tap`.
    pub fn tapped(body: B, tap: Box<dyn BodyTap>) -> Self {
        Self {
            kind: Kind::Tapped {
                body: Box::pin(body),
                tap: Some(tap),
            },
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
            KindProj::Tapped { body, tap } => {
                let frame = ready!(body.as_mut().poll_frame(cx));
                if let (Some(tap), Some(Ok(frame))) = (tap.as_mut(), &frame)
                    && let Some(data) = frame.data_ref()
                {
                    tap.data(data);
                }
                match &frame {
                    // Who knows that nothing follows asks for nothing.
                    Some(Ok(_)) if !body.is_end_stream() => {}
                    Some(Ok(_)) | None => tap.take().into_iter().for_each(BodyTap::end),
                    Some(Err(_)) => *tap = None,
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Streaming { body } => body.is_end_stream(),
            Kind::Whole { data, trailers } => data.is_none() && trailers.is_none(),
            Kind::Tapped { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Streaming { body } => body.size_hint(),
            Kind::Whole { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Kind::Tapped { body, .. } => body.size_hint(),
        }
    }
}

impl<B> fmt::Debug for MessageBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Streaming { .. } => f.write_str("MessageBody(streaming)"),
            Kind::Tapped { .. } => f.write_str("MessageBody(tapped)"),
            Kind::Whole { data, .. } => {
                write!(f, "MessageBody({} bytes)", data.as_ref().map_or(0, Bytes::len))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{Arc, Mutex},
    };

    use http_body_util::{BodyExt, Empty};

    use super::*;

    /// What a tap saw: text, and a full stop for the end.
    struct Seen(Arc<Mutex<String>>);

    impl BodyTap for Seen {
        fn data(&mut self, data: &Bytes) {
            let text = std::str::from_utf8(data).expect("text");
            self.0.lock().expect("no panic").push_str(text);
        }

        fn end(self: Box<Self>) {
            self.0.lock().expect("no panic").push('.');
        }
    }

    /// Frames, an error in the place of one that is empty; knows when nothing follows if it is `Sized`.
    struct Frames {
        left: VecDeque<&'static str>,
        knows: bool,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(self.left.pop_front().map(|text| match text {
                "" => Err("broken"),
                "trailers" => Ok(Frame::trailers(HeaderMap::new())),
                text => Ok(Frame::data(Bytes::from_static(text.as_bytes()))),
            }))
        }

        fn is_end_stream(&self) -> bool {
            self.knows && self.left.is_empty()
        }
    }

    /// What is handed on of these frames in so many polls, and what the tap saw.
    async fn tapped(frames: &[&'static str], knows: bool, polls: usize) -> (String, String) {
        let seen = Arc::<Mutex<String>>::default();
        let body = Frames {
            left: frames.iter().copied().collect(),
            knows,
        };
        let mut body = MessageBody::tapped(body, Box::new(Seen(Arc::clone(&seen))));
        let mut handed = String::new();
        for _ in 0..polls {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    handed.push_str(std::str::from_utf8(&data).expect("text"));
                }
                Some(Err(error)) => handed.push_str(error),
                None => handed.push('.'),
            }
        }
        assert_eq!(body.is_end_stream(), knows && polls >= frames.len());
        drop(body);
        let seen = seen.lock().expect("no panic").clone();
        (handed, seen)
    }

    #[tokio::test]
    async fn a_tap_sees_what_is_handed_on_and_its_end_once() {
        for (frames, knows, polls, handed, seen) in [
            (&["ab", "c"][..], false, 4, "abc..", "abc."),
            (&["ab", "c"], true, 2, "abc", "abc."),
            (&["ab", "c"], true, 4, "abc..", "abc."),
            (&["ab", "trailers"], false, 3, "ab.", "ab."),
            (&["ab", "trailers"], true, 2, "ab", "ab."),
            (&["ab", "c"], false, 2, "abc", "abc"),
            (&["ab", "", "c"], false, 4, "abbrokenc.", "ab"),
            (&[], false, 1, ".", "."),
        ] {
            let expected = (handed.to_owned(), seen.to_owned());
            assert_eq!(tapped(frames, knows, polls).await, expected, "{frames:?} {polls}");
        }
    }

    #[test]
    fn a_tap_makes_no_body_larger() {
        let whole = size_of::<(Option<Bytes>, Option<Box<HeaderMap>>)>();
        assert_eq!(
            size_of::<MessageBody<Empty<Bytes>>>(),
            whole + 8,
            "and what kind it is"
        );
    }

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
