//! What changes nothing that is in force, and is told once: refusals, losses, and their end.

use std::{collections::BTreeSet, sync::Arc};

use super::{Outcome, Snapshot};
use crate::{config::SCHEMAS_MAX, error::ApplyError, event::Event, handle::RefusedInfo};

impl Snapshot {
    pub(super) fn regress(&mut self, id: &str, revision: u64, current: u64, outcome: &mut Outcome) {
        let event = Event::RevisionRegressed {
            id: id.into(),
            from: current,
            to: revision,
        };
        let error = ApplyError::Regression {
            id: id.to_owned(),
            revision,
            current,
        };
        self.refuse(id, revision, error, Some(event), outcome);
    }

    /// Tells a refusal, unless that was told before.
    pub(super) fn refuse(
        &mut self,
        id: &str,
        revision: u64,
        error: ApplyError,
        event: Option<Event>,
        outcome: &mut Outcome,
    ) {
        let reason = error.to_string();
        let told = |known: &RefusedInfo| known.revision == revision && known.reason == reason;
        if !self.refused.get(id).is_some_and(told) {
            if self.refused.len() < SCHEMAS_MAX || self.refused.contains_key(id) {
                let info = RefusedInfo {
                    id: id.to_owned(),
                    revision,
                    reason: reason.clone(),
                };
                self.refused.insert(id.into(), info);
            }
            outcome.noted = true;
            outcome.events.push(event.unwrap_or_else(|| Event::SchemaRefused {
                id: id.into(),
                revision,
                reason: reason.clone(),
            }));
            outcome.news.push(reason);
        }
        outcome.refused.push(error);
    }

    /// The store has again what is in force: nothing is refused any more.
    pub(super) fn mend(&mut self, id: &str, revision: u64, outcome: &mut Outcome) {
        if self.refused.remove(id).is_some() {
            outcome.noted = true;
            let id = id.into();
            outcome.events.push(Event::SchemaMended { id, revision });
        }
    }

    /// Drops refusals of what the store has no more and what was never in force.
    pub(super) fn forget(&mut self, is_there: impl Fn(&str) -> bool, outcome: &mut Outcome) {
        let gone = self
            .refused
            .keys()
            .filter(|id| !is_there(id) && !self.schemas.contains_key(*id));
        for id in gone.cloned().collect::<Vec<_>>() {
            self.refused.remove(&id);
            outcome.noted = true;
            outcome.events.push(Event::SchemaDeleted { id, revision: 0 });
        }
    }

    /// The store has it, or its deletion, again.
    pub(super) fn found(&mut self, id: &str, outcome: &mut Outcome) {
        if self.lost.remove(id) {
            outcome.noted = true;
            if self.lost.is_empty() {
                outcome.events.push(Event::StoreMended);
            }
        }
    }

    /// What is in force and not in the store: it stays, and that is told once.
    pub(super) fn lose(&mut self, lost: BTreeSet<Arc<str>>, outcome: &mut Outcome) {
        if !lost.is_empty() {
            let error = ApplyError::Emptied { kept: lost.len() };
            if !lost.is_subset(&self.lost) {
                outcome.news.push(error.to_string());
                outcome.events.push(Event::StoreEmptied { kept: lost.len() });
            }
            outcome.refused.push(error);
        } else if !self.lost.is_empty() {
            outcome.events.push(Event::StoreMended);
        }
        outcome.noted |= lost != self.lost;
        self.lost = lost;
    }
}
