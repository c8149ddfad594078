//! The request body that the primary reads.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::tee::Tee;

pin_project! {
    /// A request's body, streaming to the primary; if the request is mirrored, frames are looked at as they pass: one is kept
    /// by reference, those of a body of several are copied. It is polled by the primary only, never ahead, so `100-continue`, flow control and cancellation stay as
    /// they are, and every frame, trailer, error and size hint passes unchanged.
    pub struct ShadowBody<B> {
        #[pin]
        inner: B,
        tee: Option<Box<Tee>>,
    }
}

impl<B> ShadowBody<B> {
    /// A body, with what looks at it if it is mirrored.
    #[inline]
    pub(crate) const fn new(inner: B, tee: Option<Box<Tee>>) -> Self {
        Self { inner, tee }
    }
}

impl<B> Body for ShadowBody<B>
where
    B: Body<Data = Bytes>,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        if this.tee.is_none() {
            return this.inner.poll_frame(cx);
        }
        let polled = ready!(this.inner.as_mut().poll_frame(cx));
        if let Some(tee) = this.tee {
            match &polled {
                Some(Ok(frame)) => {
                    let goes_on = frame.trailers_ref().is_none_or(|trailers| tee.trailers(trailers))
                        && frame.data_ref().is_none_or(|data| tee.data(data));
                    if !goes_on {
                        *this.tee = None;
                    } else if this.inner.is_end_stream() {
                        // Many readers stop here, without asking for the end.
                        this.tee.take().into_iter().for_each(|tee| tee.end());
                    }
                }
                Some(Err(_)) => *this.tee = None,
                None => this.tee.take().into_iter().for_each(|tee| tee.end()),
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

impl<B> fmt::Debug for ShadowBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShadowBody")
            .field("mirrored", &self.tee.is_some())
            .finish_non_exhaustive()
    }
}
