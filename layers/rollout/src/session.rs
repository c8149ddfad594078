//! What a WebSocket session keeps of the moment it was opened.

use std::{fmt, sync::Arc};

use http::{Extensions, HeaderMap};

use crate::{
    assignment::{Cohort, Sampling},
    decider::Decider,
    snapshot::Snapshot,
    wire::VariantId,
};

/// What a session was opened with, in the request's extensions: an edge asks
/// [`RolloutLayer::session`](crate::RolloutLayer::session) at the upgrade and puts the answer into each frame.
///
/// It carries the upgrade's key, for a frame that has none of its own: cookies and headers come with the upgrade
/// only. With `cohort = "new_sessions"` it also carries what was served then: the session keeps the variant it was
/// opened with as long as that is served at all, whatever the share has become. Cloning costs a few reference
/// counts.
#[derive(Clone)]
pub struct SessionVariant {
    key: Option<Arc<[u8]>>,
    flip: Option<u64>,
    opened: Option<Arc<Snapshot>>,
}

impl SessionVariant {
    pub(crate) fn open(decider: &Decider, headers: &HeaderMap, extensions: &Extensions) -> Self {
        let Decider {
            handle,
            key,
            sampling,
            coin,
        } = decider;
        Self {
            key: key.with(headers, extensions, |key: &[u8]| Arc::from(key)),
            flip: (*sampling == Sampling::Random).then(|| coin.flip()),
            opened: (handle.cohort() == Cohort::NewSessions).then(|| Arc::clone(&handle.snapshot())),
        }
    }

    /// The upgrade's key.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    /// The variant of a request's scope when the session was opened; None where sessions keep none.
    pub(crate) fn opened_with(&self, extensions: &Extensions) -> Option<VariantId> {
        let (_, lane) = self.opened.as_ref()?.lane(extensions)?;
        let taken = lane.canary().filter(|canary| match self.flip {
            Some(flip) => canary.threshold.contains(flip),
            None => self.key().is_some_and(|key| canary.takes(key)),
        });
        Some(taken.map_or(&lane.base, |canary| &canary.served).variant.id)
    }
}

impl fmt::Debug for SessionVariant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SessionVariant")
            .field("keeps", &self.opened.is_some())
            .finish_non_exhaustive()
    }
}
