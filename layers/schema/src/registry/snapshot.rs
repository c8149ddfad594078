//! The immutable snapshot behind a [`Registry`](crate::Registry), and how a change makes the next one.

mod refusals;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use bytes::Bytes;
use http::HeaderValue;

use super::{Binding, Change, Contract, Entry};
use crate::{
    common::Common,
    compat::{Compatibility, Profile},
    config::{OnIncompatible, OnRegression, Pins, SCHEMAS_MAX, TENANT_SCHEMAS_MAX, split_key},
    descriptors::Descriptors,
    error::{ApplyError, LoadError},
    event::Event,
    handle::{RefusedInfo, SchemaInfo},
};

/// How many older revisions the transitive modes look at, besides the one in force.
const OLDER_MAX: usize = 15;

/// All schemas in force, bound to all mappings.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    schemas: BTreeMap<Arc<str>, Schema>,
    /// Per mapping.
    slots: Vec<Slot>,
    /// The newest update of each schema that was refused, until a good one comes.
    refused: BTreeMap<Arc<str>, RefusedInfo>,
    /// The newest revision that a pin keeps out.
    held: BTreeMap<Arc<str>, u64>,
    /// What is in force although the store does not have it, nor its deletion.
    lost: BTreeSet<Arc<str>>,
}

#[derive(Clone, Debug)]
struct Schema {
    revision: u64,
    bytes: Bytes,
    descriptors: Descriptors,
    /// What this process had in force before, the oldest first; kept for the transitive modes only.
    older: Arc<[Descriptors]>,
}

/// What every update must satisfy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) common: &'a Arc<Common>,
    /// How an update must relate to the revision in force.
    pub(crate) guard: Option<(Compatibility, Profile)>,
    pub(crate) pins: &'a Pins,
}

/// The bindings of one mapping.
#[derive(Clone, Debug, Default)]
struct Slot {
    common: Option<Arc<Binding>>,
    tenants: HashMap<Arc<str>, Arc<Binding>>,
}

/// What a change leads to.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) changed: usize,
    pub(crate) refused: Vec<ApplyError>,
    /// The refusals that were not told before.
    pub(crate) news: Vec<String>,
    pub(crate) events: Vec<Event>,
    /// Something other than what is in force changed.
    noted: bool,
}

impl Snapshot {
    pub(crate) fn new(mappings: usize) -> Self {
        Self {
            schemas: BTreeMap::new(),
            slots: vec![Slot::default(); mappings],
            refused: BTreeMap::new(),
            held: BTreeMap::new(),
            lost: BTreeSet::new(),
        }
    }

    /// The contract of a mapping for a tenant.
    pub(crate) fn binding<'t>(
        &self,
        mapping: usize,
        tenant: impl FnOnce() -> Option<&'t str>,
    ) -> Option<&Arc<Binding>> {
        let slot = &self.slots[mapping];
        if !slot.tenants.is_empty()
            && let Some(own) = tenant().and_then(|tenant| slot.tenants.get(tenant))
        {
            return Some(own);
        }
        slot.common.as_ref()
    }

    pub(crate) fn infos(&self, pins: &Pins) -> Vec<SchemaInfo> {
        let uses = |key: &Arc<str>| {
            let bindings = self
                .slots
                .iter()
                .flat_map(|slot| slot.common.iter().chain(slot.tenants.values()));
            bindings
                .filter(|binding| binding.contract.schema_id == *key)
                .count()
        };
        let schemas = self.schemas.iter();
        schemas
            .map(|(key, schema)| SchemaInfo {
                id: key.to_string(),
                revision: schema.revision,
                mappings: uses(key),
                pinned: pins.contains_key(&**key),
                held_back: self.held.get(key).copied(),
            })
            .collect()
    }

    pub(crate) fn refused(&self) -> Vec<RefusedInfo> {
        self.refused.values().cloned().collect()
    }

    pub(crate) fn lost(&self) -> Vec<String> {
        self.lost.iter().map(ToString::to_string).collect()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let schemas = self.schemas.iter();
        schemas
            .map(|(id, schema)| Entry::new(&**id, schema.revision, schema.bytes.clone()))
            .collect()
    }

    /// The snapshot after the change; `None` inside the outcome when nothing changed.
    pub(crate) fn apply(&self, terms: Terms<'_>, change: Change) -> Outcome {
        let mut next = self.clone();
        let mut outcome = Outcome::default();
        match change {
            Change::Put(entry) => next.put(terms, entry, &mut outcome),
            Change::Delete { id, revision } => next.delete(terms, &id, revision, &mut outcome),
            Change::Reset { entries } if entries.is_empty() && !self.schemas.is_empty() => {
                next.lose(self.schemas.keys().cloned().collect(), &mut outcome);
            }
            Change::Reset { entries } => {
                let listed: BTreeSet<String> = entries.iter().map(|entry| entry.id.clone()).collect();
                for gone in self.schemas.keys().filter(|key| !listed.contains(&***key)) {
                    next.delete(terms, gone, 0, &mut outcome);
                }
                next.forget(|id| listed.contains(id), &mut outcome);
                for entry in entries {
                    next.put(terms, entry, &mut outcome);
                }
                next.lose(BTreeSet::new(), &mut outcome);
            }
            Change::Merge { entries, gone } => next.merge(terms, entries, gone, &mut outcome),
            Change::Listing {
                entries,
                gone,
                unread,
            } => {
                let mut named: BTreeSet<String> = unread.into_iter().collect();
                named.extend(gone.iter().map(|(id, _)| id.clone()));
                named.extend(entries.iter().map(|entry| entry.id.clone()));
                next.merge(terms, entries, gone, &mut outcome);
                next.forget(
                    |id| named.contains(id) || terms.pins.contains_key(id),
                    &mut outcome,
                );
                let lost = next.schemas.keys().filter(|key| !named.contains(&***key));
                next.lose(lost.cloned().collect(), &mut outcome);
            }
        }
        outcome.snapshot = (outcome.changed > 0 || outcome.noted).then_some(next);
        outcome
    }

    fn merge(
        &mut self,
        terms: Terms<'_>,
        entries: Vec<Entry>,
        gone: Vec<(String, u64)>,
        outcome: &mut Outcome,
    ) {
        for (id, revision) in gone {
            self.delete(terms, &id, revision, outcome);
        }
        for entry in entries {
            self.put(terms, entry, outcome);
        }
    }

    /// Remembers a refusal from outside: what could not even be read.
    pub(crate) fn refuse_unread(&self, id: &str, revision: u64, error: ApplyError) -> Outcome {
        let mut next = self.clone();
        let mut outcome = Outcome::default();
        next.refuse(id, revision, error, None, &mut outcome);
        outcome.snapshot = outcome.noted.then_some(next);
        outcome
    }

    fn put(&mut self, terms: Terms<'_>, entry: Entry, outcome: &mut Outcome) {
        let (id, revision) = (entry.id.as_str(), entry.revision);
        self.found(id, outcome);
        let pin = terms.pins.get(id).copied();
        if pin.is_some_and(|pin| pin != revision) {
            if self.held.get(id).is_none_or(|held| *held < revision) && pin < Some(revision) {
                self.held.insert(id.into(), revision);
                outcome.noted = true;
                let id = id.into();
                outcome.events.push(Event::SchemaHeldBack { id, revision });
            }
            return;
        }
        if pin.is_none() && self.held.remove(id).is_some() {
            outcome.noted = true;
        }
        match self.schemas.get(id) {
            Some(current) if current.revision == revision && current.bytes == entry.bytes => {
                self.mend(id, revision, outcome);
                return;
            }
            Some(current) => {
                let goes_back = revision <= current.revision && pin.is_none();
                if goes_back
                    && terms.common.config.on_regression == OnRegression::Keep
                    && !is_the_same(current, &entry.bytes)
                {
                    self.regress(id, revision, current.revision, outcome);
                    return;
                }
            }
            None => {
                if let Some(error) = self.too_many(id) {
                    self.refuse(id, revision, error, None, outcome);
                    return;
                }
            }
        }
        match self.bind(terms, &entry, pin.is_some(), outcome) {
            Ok(descriptors) => {
                let id: Arc<str> = id.into();
                let older = self.older(terms, &id);
                self.schemas.insert(
                    Arc::clone(&id),
                    Schema {
                        revision,
                        bytes: entry.bytes,
                        descriptors,
                        older,
                    },
                );
                self.refused.remove(&id);
                outcome.changed += 1;
                outcome.events.push(Event::SchemaChanged { id, revision });
            }
            Err(error) => self.refuse(id, revision, error, None, outcome),
        }
    }

    fn too_many(&self, id: &str) -> Option<ApplyError> {
        if self.schemas.len() >= SCHEMAS_MAX {
            return Some(ApplyError::TooMany(SCHEMAS_MAX));
        }
        let (tenant, _) = split_key(id)?;
        let own = format!("t.{}.", tenant?);
        let from = (Bound::Included(own.as_str()), Bound::Unbounded);
        let all = self.schemas.range::<str, _>(from);
        let count = all.take_while(|(key, _)| key.starts_with(&own)).count();
        (count >= TENANT_SCHEMAS_MAX).then_some(ApplyError::TooManyOfTenant(TENANT_SCHEMAS_MAX))
    }

    /// What the transitive modes compare the next revision with, besides the one that comes in force now.
    fn older(&self, terms: Terms<'_>, id: &str) -> Arc<[Descriptors]> {
        use Compatibility::{BackwardTransitive, ForwardTransitive, FullTransitive};

        let transitive = matches!(
            terms.guard,
            Some((BackwardTransitive | ForwardTransitive | FullTransitive, _))
        );
        match self.schemas.get(id) {
            Some(current) if transitive => {
                let skip = (current.older.len() + 1).saturating_sub(OLDER_MAX);
                let older = current.older.iter().skip(skip).cloned();
                older.chain([current.descriptors.clone()]).collect()
            }
            _ => Arc::default(),
        }
    }

    /// Compiles the schema and binds every mapping that uses it, or changes nothing.
    fn bind(
        &mut self,
        terms: Terms<'_>,
        entry: &Entry,
        pinned: bool,
        outcome: &mut Outcome,
    ) -> Result<Descriptors, ApplyError> {
        let (id, revision) = (entry.id.as_str(), entry.revision);
        let (tenant, schema_id) = split_key(id).ok_or_else(|| ApplyError::Id(id.to_owned()))?;
        let descriptors = Descriptors::decode(&entry.bytes).map_err(|cause| ApplyError::Load {
            id: id.to_owned(),
            revision,
            cause,
        })?;
        let mut bound = Vec::new();
        let mappings = terms.common.config.mappings.iter().enumerate();
        for (at, mapping) in mappings.filter(|(_, mapping)| mapping.schema_id == schema_id) {
            let binding = bind(terms.common, at, id, revision, &descriptors);
            let binding = binding.map_err(|cause| ApplyError::Mapping {
                id: id.to_owned(),
                revision,
                subject: mapping.subject.clone(),
                cause,
            })?;
            bound.push((at, Arc::new(binding)));
        }
        if !pinned && let Some(broken) = self.breaks(terms, entry, &descriptors) {
            if !entry.breaking && terms.common.config.on_incompatible == OnIncompatible::Refuse {
                return Err(broken);
            }
            outcome.news.push(format!("{broken}; it is taken all the same"));
            outcome.events.push(Event::ContractBroken {
                id: id.into(),
                revision,
            });
        }
        for (at, binding) in bound {
            let slot = &mut self.slots[at];
            match tenant {
                None => slot.common = Some(binding),
                Some(tenant) => {
                    slot.tenants.insert(tenant.into(), binding);
                }
            }
        }
        Ok(descriptors)
    }

    /// What an update breaks of what is, or was, in force.
    fn breaks(&self, terms: Terms<'_>, entry: &Entry, new: &Descriptors) -> Option<ApplyError> {
        let (compatibility, profile) = terms.guard?;
        let current = self.schemas.get(entry.id.as_str())?;
        let older = current.older.iter().chain(std::iter::once(&current.descriptors));
        let breaks = compatibility.check(profile, older, new);
        (!breaks.is_empty()).then(|| ApplyError::Incompatible {
            id: entry.id.clone(),
            revision: entry.revision,
            in_force: current.revision,
            breaks,
        })
    }

    fn delete(&mut self, terms: Terms<'_>, id: &str, revision: u64, outcome: &mut Outcome) {
        self.found(id, outcome);
        // A pin holds against a deletion too.
        if terms.pins.contains_key(id) {
            return;
        }
        let Some(current) = self.schemas.get(id).map(|schema| schema.revision) else {
            if self.refused.remove(id).is_some() {
                outcome.noted = true;
                outcome.events.push(Event::SchemaDeleted {
                    id: id.into(),
                    revision,
                });
            }
            return;
        };
        let goes_back = revision != 0 && revision <= current;
        if goes_back && terms.common.config.on_regression == OnRegression::Keep {
            self.regress(id, revision, current, outcome);
            return;
        }
        self.schemas.remove(id);
        self.refused.remove(id);
        self.held.remove(id);
        for slot in &mut self.slots {
            slot.common.take_if(|binding| &*binding.contract.schema_id == id);
            slot.tenants
                .retain(|_, binding| &*binding.contract.schema_id != id);
        }
        outcome.changed += 1;
        outcome.events.push(Event::SchemaDeleted {
            id: id.into(),
            revision,
        });
    }
}

/// Whether those bytes are the same contract, perhaps compressed otherwise.
fn is_the_same(current: &Schema, bytes: &Bytes) -> bool {
    current.bytes == *bytes
        || Descriptors::decode(bytes).is_ok_and(|found| found.declares_the_same(&current.descriptors))
}

fn bind(
    common: &Arc<Common>,
    at: usize,
    id: &str,
    revision: u64,
    descriptors: &Descriptors,
) -> Result<Binding, LoadError> {
    let mapping = &common.config.mappings[at];
    let validator = descriptors.validator(mapping.message.as_deref(), mapping.level, &mapping.required)?;
    let header = HeaderValue::try_from(format!("{id}@{revision}")).expect("a store key is printable ASCII");
    let contract = Contract {
        schema_id: id.into(),
        revision,
        message: validator.message().into(),
    };
    Ok(Binding {
        common: Arc::clone(common),
        mapping: at,
        encoding: mapping.encoding,
        validator,
        header,
        contract,
    })
}
