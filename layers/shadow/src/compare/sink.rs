//! The sink that compares.

use std::{fmt, num::NonZeroUsize, time::Duration};

use arqon_message::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::time::timeout;
use tower_service::Service;

use super::Comparison;
use crate::{CopyBody, Delivery, HttpSink, ShadowCopy, Sink};

/// How long a control may take, unless set otherwise: half of the mirror's own limit.
const CONTROL_TIMEOUT: Duration = Duration::from_millis(500);

/// Sends each copy to a candidate, and to a control if there is one, and compares what they answer with what the primary
/// answered. A copy counts as mirrored when the candidate answered; a control that fails, or takes longer than
/// [its own limit](Self::control_timeout), is left out of the comparison.
#[derive(Clone)]
pub struct CompareSink<C> {
    candidate: HttpSink<C>,
    control: Option<HttpSink<C>>,
    control_timeout: Duration,
    comparison: Comparison,
}

impl<C> CompareSink<C> {
    /// Compares with `candidate`; results go to `comparison`.
    #[must_use]
    pub const fn new(candidate: HttpSink<C>, comparison: Comparison) -> Self {
        Self {
            candidate,
            control: None,
            control_timeout: CONTROL_TIMEOUT,
            comparison,
        }
    }

    /// Measures the noise with a second copy of the primary's own version.
    #[must_use]
    pub fn control(mut self, control: HttpSink<C>) -> Self {
        self.comparison.expect_control();
        self.control = Some(control);
        self
    }

    /// Sets how long the control may take, from when both are asked; 500 ms unless set. A limit of no less than the mirror's
    /// `timeout_ms` lets a control that hangs take the candidate's answers with it.
    #[must_use]
    pub const fn control_timeout(mut self, limit: Duration) -> Self {
        self.control_timeout = limit;
        self
    }
}

impl<C, R> Sink for CompareSink<C>
where
    C: Service<Request<CopyBody>, Response = Response<R>> + Clone + Send + Sync + 'static,
    C::Future: Send,
    C::Error: Into<BoxError>,
    R: Body<Data = Bytes> + Send,
    R::Error: Send,
{
    fn send(&self, mut copy: ShadowCopy) -> Delivery<'_> {
        Box::pin(async move {
            let (primary, key) = (copy.primary.take(), copy.key);
            let second = self
                .control
                .as_ref()
                .filter(|_| primary.is_some())
                .map(|control| (control, copy.clone()));
            let (candidate, control) = futures_util::future::join(self.candidate.exchange(copy), async {
                match second {
                    Some((control, copy)) => timeout(self.control_timeout, control.exchange(copy))
                        .await
                        .ok()?
                        .ok(),
                    None => None,
                }
            })
            .await;
            let candidate = candidate?;
            if let Some(primary) = primary {
                self.comparison
                    .record(&key, &primary, &candidate, control.as_ref());
            }
            Ok(())
        })
    }

    fn concurrency(&self) -> NonZeroUsize {
        self.candidate.concurrency()
    }
}

impl<C> fmt::Debug for CompareSink<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompareSink")
            .field("candidate", &self.candidate)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}
