//! The immutable snapshot behind a [`Registry`](crate::Registry), and how a change makes the next one.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use bytes::Bytes;
use http::HeaderValue;

use crate::{
    compat::{Compatibility, Profile},
    config::{Encoding, MappingConfig, RegistryConfig, SCHEMAS_MAX, split_key},
    descriptors::Descriptors,
    error::ApplyError,
    event::Event,
    handle::SchemaInfo,
    validator::Validator,
};

/// One change of the store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// A schema was written.
    Put {
        /// The store key: a schema id, or `t.<tenant>.<schema id>`.
        id: String,
        /// The store's revision; must not fall.
        revision: u64,
        /// A `FileDescriptorSet`, plain or gzipped.
        bytes: Bytes,
    },
    /// A schema was deleted or purged: its subjects are refused with 503 from now on.
    Delete {
        /// The store key.
        id: String,
    },
    /// The whole content of the store. What is not in it is unloaded, unless it is empty while schemas are in force:
    /// then nothing is. Makes the registry ready.
    Reset {
        /// Every schema there is.
        entries: Vec<Entry>,
    },
}

/// One schema in a full listing.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The store key.
    pub id: String,
    /// The store's revision.
    pub revision: u64,
    /// A `FileDescriptorSet`, plain or gzipped.
    pub bytes: Bytes,
}

/// A mapping bound to one revision of its schema.
#[derive(Debug)]
pub struct Binding {
    pub(crate) mapping: usize,
    pub(crate) encoding: Option<Encoding>,
    pub(crate) validator: Validator,
    pub(crate) header: HeaderValue,
    pub(crate) validated_by: ValidatedBy,
}

impl Binding {
    /// What a request that passes is told.
    #[must_use]
    pub const fn validated_by(&self) -> &ValidatedBy {
        &self.validated_by
    }

    /// The check.
    #[must_use]
    pub const fn validator(&self) -> &Validator {
        &self.validator
    }

    /// The encoding the mapping fixes.
    #[must_use]
    pub const fn encoding(&self) -> Option<Encoding> {
        self.encoding
    }
}

/// Request extension: the contract the payload was checked against. Handlers read it; nobody else inserts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedBy {
    /// The store key: the schema id, or `t.<tenant>.<schema id>` for a tenant's own.
    pub schema_id: Arc<str>,
    /// The revision of the schema.
    pub revision: u64,
    /// The full name of the message.
    pub message: Arc<str>,
}

/// All schemas in force, bound to all mappings.
#[derive(Debug)]
pub(crate) struct Snapshot {
    schemas: BTreeMap<Arc<str>, Schema>,
    /// Per mapping.
    slots: Vec<Slot>,
}

#[derive(Clone, Debug)]
struct Schema {
    revision: u64,
    bytes: Bytes,
    descriptors: Descriptors,
}

/// What every update must satisfy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) config: &'a RegistryConfig,
    /// How an update must relate to the revision in force.
    pub(crate) guard: Option<(Compatibility, Profile)>,
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
    pub(crate) events: Vec<Event>,
}

impl Snapshot {
    pub(crate) fn new(mappings: usize) -> Self {
        Self {
            schemas: BTreeMap::new(),
            slots: vec![Slot::default(); mappings],
        }
    }

    /// The contract of a mapping for a tenant.
    pub(crate) fn binding(&self, mapping: usize, tenant: Option<&str>) -> Option<&Arc<Binding>> {
        let slot = &self.slots[mapping];
        if !slot.tenants.is_empty()
            && let Some(own) = tenant.and_then(|tenant| slot.tenants.get(tenant))
        {
            return Some(own);
        }
        slot.common.as_ref()
    }

    pub(crate) fn infos(&self) -> Vec<SchemaInfo> {
        let uses = |key: &Arc<str>| {
            let bindings = self
                .slots
                .iter()
                .flat_map(|slot| slot.common.iter().chain(slot.tenants.values()));
            bindings
                .filter(|binding| binding.validated_by.schema_id == *key)
                .count()
        };
        let schemas = self.schemas.iter();
        schemas
            .map(|(key, schema)| SchemaInfo {
                id: key.to_string(),
                revision: schema.revision,
                mappings: uses(key),
            })
            .collect()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        let schemas = self.schemas.iter();
        schemas
            .map(|(id, schema)| Entry {
                id: id.to_string(),
                revision: schema.revision,
                bytes: schema.bytes.clone(),
            })
            .collect()
    }

    /// The snapshot after the change; `None` inside the outcome when nothing changed.
    pub(crate) fn apply(&self, terms: Terms<'_>, change: Change) -> Outcome {
        let mut next = Self {
            schemas: self.schemas.clone(),
            slots: self.slots.clone(),
        };
        let mut outcome = Outcome::default();
        match change {
            Change::Put { id, revision, bytes } => {
                next.put(terms, Entry { id, revision, bytes }, false, &mut outcome)
            }
            Change::Delete { id } => next.delete(&id, &mut outcome),
            Change::Reset { entries } if entries.is_empty() && !self.schemas.is_empty() => {
                outcome.events.push(Event::StoreEmptied {
                    kept: self.schemas.len(),
                });
                outcome.refused.push(ApplyError::Emptied {
                    kept: self.schemas.len(),
                });
            }
            Change::Reset { entries } => {
                let listed: BTreeSet<String> = entries.iter().map(|entry| entry.id.clone()).collect();
                for gone in self.schemas.keys().filter(|key| !listed.contains(&***key)) {
                    next.delete(gone, &mut outcome);
                }
                for entry in entries {
                    next.put(terms, entry, true, &mut outcome);
                }
            }
        }
        outcome.snapshot = (outcome.changed > 0).then_some(next);
        outcome
    }

    fn put(&mut self, terms: Terms<'_>, entry: Entry, listing: bool, outcome: &mut Outcome) {
        let Entry { id, revision, bytes } = entry;
        let current = self.schemas.get(id.as_str());
        if let Some(current) = current {
            if current.bytes == bytes && current.revision == revision {
                return;
            }
            if revision < current.revision {
                let current = current.revision;
                let event = Event::RevisionRegressed {
                    id: id.as_str().into(),
                    from: current,
                    to: revision,
                };
                outcome.events.push(event);
                if !listing {
                    outcome.refused.push(ApplyError::Regression {
                        id,
                        revision,
                        current,
                    });
                    return;
                }
            }
        } else if self.schemas.len() >= SCHEMAS_MAX {
            outcome.refused.push(ApplyError::TooMany(SCHEMAS_MAX));
            return;
        }
        match self.bind(terms, &id, revision, &bytes) {
            Ok(descriptors) => {
                let id: Arc<str> = id.into();
                self.schemas.insert(
                    Arc::clone(&id),
                    Schema {
                        revision,
                        bytes,
                        descriptors,
                    },
                );
                outcome.changed += 1;
                outcome.events.push(Event::SchemaChanged { id, revision });
            }
            Err(error) => {
                outcome.events.push(Event::SchemaRefused {
                    id: id.into(),
                    revision,
                    reason: error.to_string(),
                });
                outcome.refused.push(error);
            }
        }
    }

    /// Compiles the schema and binds every mapping that uses it, or changes nothing.
    fn bind(
        &mut self,
        terms: Terms<'_>,
        id: &str,
        revision: u64,
        bytes: &[u8],
    ) -> Result<Descriptors, ApplyError> {
        let (tenant, schema_id) = split_key(id).ok_or_else(|| ApplyError::Id(id.to_owned()))?;
        let descriptors = Descriptors::decode(bytes).map_err(|cause| ApplyError::Load {
            id: id.to_owned(),
            revision,
            cause,
        })?;
        if let (Some((compatibility, profile)), Some(current)) = (terms.guard, self.schemas.get(id)) {
            let breaks = compatibility.check(profile, std::iter::once(&current.descriptors), &descriptors);
            if !breaks.is_empty() {
                let (id, in_force) = (id.to_owned(), current.revision);
                return Err(ApplyError::Incompatible {
                    id,
                    revision,
                    in_force,
                    breaks,
                });
            }
        }
        let mut bound = Vec::new();
        for (at, mapping) in terms
            .config
            .mappings
            .iter()
            .enumerate()
            .filter(|(_, mapping)| mapping.schema_id == schema_id)
        {
            let binding =
                bind(at, mapping, id, revision, &descriptors).map_err(|cause| ApplyError::Mapping {
                    id: id.to_owned(),
                    revision,
                    subject: mapping.subject.clone(),
                    cause,
                })?;
            bound.push((at, Arc::new(binding)));
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

    fn delete(&mut self, id: &str, outcome: &mut Outcome) {
        let Some((key, _)) = self.schemas.remove_entry(id) else {
            return;
        };
        for slot in &mut self.slots {
            slot.common
                .take_if(|binding| binding.validated_by.schema_id == key);
            slot.tenants
                .retain(|_, binding| binding.validated_by.schema_id != key);
        }
        outcome.changed += 1;
        outcome.events.push(Event::SchemaDeleted { id: key });
    }
}

fn bind(
    at: usize,
    mapping: &MappingConfig,
    id: &str,
    revision: u64,
    descriptors: &Descriptors,
) -> Result<Binding, crate::LoadError> {
    let validator = descriptors.validator(mapping.message.as_deref(), mapping.level, &mapping.required)?;
    let header = HeaderValue::try_from(format!("{id}@{revision}")).expect("a store key is printable ASCII");
    let validated_by = ValidatedBy {
        schema_id: id.into(),
        revision,
        message: validator.message().into(),
    };
    Ok(Binding {
        mapping: at,
        encoding: mapping.encoding,
        validator,
        header,
        validated_by,
    })
}
