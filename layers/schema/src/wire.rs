//! The Protobuf binary format, checked without building a message.
//!
//! [`walk`](walk::walk) proves that a payload is fine: one pass, no allocation, at most [`DEPTH_MAX`] frames. Only when it
//! cannot, [`explain`](explain::explain) reads the payload again, judges presence on the merged message and names
//! every violation.

pub(crate) mod explain;
pub(crate) mod presence;
pub(crate) mod read;
mod rules;
pub(crate) mod walk;

/// Nested messages, groups and map entries below the root; the 101st is refused, as upb, prost and prost-reflect do.
pub(crate) const DEPTH_MAX: u32 = 100;
