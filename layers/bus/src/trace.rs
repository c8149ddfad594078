//! Spans of the feature `tracing`; without it, nothing. A span names the kind of event, never its content.

#[cfg(feature = "tracing")]
pub(crate) fn publish(event_kind: &'static str) -> tracing::span::EnteredSpan {
    tracing::debug_span!("svc.ron_bus.publish", event_kind).entered()
}

#[cfg(feature = "tracing")]
pub(crate) fn recv(event_kind: &'static str) -> tracing::span::EnteredSpan {
    tracing::debug_span!("svc.ron_bus.recv", event_kind).entered()
}

/// Stands in for an entered span.
#[cfg(not(feature = "tracing"))]
pub(crate) struct Untraced;

#[cfg(not(feature = "tracing"))]
#[inline]
pub(crate) fn publish(_event_kind: &'static str) -> Untraced {
    Untraced
}

#[cfg(not(feature = "tracing"))]
#[inline]
pub(crate) fn recv(_event_kind: &'static str) -> Untraced {
    Untraced
}
