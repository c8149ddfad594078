//! The latest hour of comparisons, half a minute at a time: what a picture over time is drawn from.

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

/// How long one span is, in seconds.
const SPAN_SECONDS: u64 = 30;
/// How many are kept.
const SPANS: usize = 120;

/// The comparisons of half a minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Span {
    /// When it began, in seconds since 1970.
    pub at: u64,
    /// Candidate and primary were compared so often.
    pub compared: u64,
    /// Control and primary were compared so often.
    pub controlled: u64,
    /// The fields that differed.
    pub fields: BTreeMap<String, FieldSpan>,
}

/// One field in one [`Span`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FieldSpan {
    /// How often the candidate differed.
    pub different: u64,
    /// How often the control did.
    pub noise: u64,
}

/// The spans, the oldest first. Spans in which nothing was compared are not there.
#[derive(Default)]
pub(super) struct History {
    spans: VecDeque<Span>,
}

impl History {
    /// The span of a moment, in seconds since 1970. A clock that was set back goes on with the latest.
    pub(super) fn at(&mut self, now: u64) -> &mut Span {
        let at = now / SPAN_SECONDS * SPAN_SECONDS;
        if self.spans.back().is_none_or(|latest| latest.at < at) {
            if self.spans.len() == SPANS {
                self.spans.pop_front();
            }
            self.spans.push_back(Span {
                at,
                ..Span::default()
            });
        }
        let latest = self.spans.len() - 1;
        &mut self.spans[latest]
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.spans.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_kept_whatever_the_clock_does() {
        let mut history = History::default();
        for second in 0..10_000 {
            history.at(1_700_000_000 + second).compared += 1;
        }
        history.at(5).compared += 1;
        let spans = history.spans();
        assert_eq!(spans.len(), SPANS);
        assert!(
            spans
                .windows(2)
                .all(|pair| pair[1].at == pair[0].at + SPAN_SECONDS)
        );
        assert!(
            spans[1..SPANS - 1]
                .iter()
                .all(|span| span.compared == SPAN_SECONDS)
        );
    }
}
