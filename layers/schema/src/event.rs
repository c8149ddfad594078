//! Facts about the registry, for whoever wants to tell the rest of the program.

use std::sync::Arc;

/// What happened. State never depends on an event arriving.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Another revision of a schema is in force.
    SchemaChanged {
        /// The store key: the schema id, or `t.<tenant>.<schema id>`.
        id: Arc<str>,
        /// The revision in force from now on.
        revision: u64,
    },
    /// A schema is gone; its subjects are refused with 503.
    SchemaDeleted {
        /// The store key.
        id: Arc<str>,
        /// The revision of the deletion; 0 where the store counts none.
        revision: u64,
    },
    /// An update was refused; the last good revision stays in force.
    SchemaRefused {
        /// The store key.
        id: Arc<str>,
        /// The refused revision.
        revision: u64,
        /// Why, in one line.
        reason: String,
    },
    /// A store offered a lower revision than the one in force: a restored backup, or somebody else's bucket.
    RevisionRegressed {
        /// The store key.
        id: Arc<str>,
        /// The revision that was in force.
        from: u64,
        /// The revision that was offered.
        to: u64,
    },
    /// After a refused update the store has again what is in force.
    SchemaMended {
        /// The store key.
        id: Arc<str>,
        /// The revision in force.
        revision: u64,
    },
    /// A pin keeps a newer revision out.
    SchemaHeldBack {
        /// The store key.
        id: Arc<str>,
        /// The newer revision.
        revision: u64,
    },
    /// An update came in force although it is not compatible with the one before it: as configured, or as whoever wrote it
    /// meant. Its [`SchemaChanged`](Self::SchemaChanged) follows.
    ContractBroken {
        /// The store key.
        id: Arc<str>,
        /// The revision that breaks.
        revision: u64,
    },
    /// A full listing lacks schemas that are in force, and tells no deletion: they stay.
    StoreEmptied {
        /// How many stay in force.
        kept: usize,
    },
    /// The store has again all that is in force.
    StoreMended,
}

/// Where facts go. Called on the writer's thread; it must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;
