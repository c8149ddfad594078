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
    /// A full listing came back empty; nothing was unloaded.
    StoreEmptied {
        /// How many schemas stay in force.
        kept: usize,
    },
}

/// Where facts go. Called on the writer's thread; it must not block.
pub type EventSink = Arc<dyn Fn(Event) + Send + Sync>;
