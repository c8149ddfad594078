//! One entry of the control log.

use std::{fmt, str::FromStr, sync::Arc};

use arqon_message::TenantId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Names a node: `[A-Za-z0-9_-]{1,64}`, one token of a subject.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Arc<str>);

/// A node id that is not `[A-Za-z0-9_-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("node id `{0}` is not [A-Za-z0-9_-]{{1,64}}")]
pub struct InvalidNodeId(String);

impl NodeId {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`InvalidNodeId`].
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidNodeId> {
        let name = name.as_ref();
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(legal) {
            return Err(InvalidNodeId(name.chars().take(64).collect()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidNodeId;

    fn try_from(name: String) -> Result<Self, InvalidNodeId> {
        Self::new(name)
    }
}

impl From<NodeId> for String {
    fn from(node: NodeId) -> Self {
        node.as_str().to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Where in the log a message belongs; also its subject in JetStream (DESIGN 8).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// `gov.t.<tenant>.down`: what the control plane says.
    Down(TenantId),
    /// `gov.t.<tenant>.up.<node>`: what a node proposes.
    Up(TenantId, NodeId),
}

impl Channel {
    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        match self {
            Self::Down(tenant) | Self::Up(tenant, _) => tenant,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(tenant) => write!(formatter, "gov.t.{tenant}.down"),
            Self::Up(tenant, node) => write!(formatter, "gov.t.{tenant}.up.{node}"),
        }
    }
}

/// A subject that is not a channel of the control log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not `gov.t.<tenant>.down` or `gov.t.<tenant>.up.<node>`")]
pub struct InvalidChannel(String);

impl FromStr for Channel {
    type Err = InvalidChannel;

    fn from_str(subject: &str) -> Result<Self, InvalidChannel> {
        let invalid = || InvalidChannel(subject.chars().take(256).collect());
        let tokens: Vec<&str> = subject.split('.').take(6).collect();
        let tenant = |name: &str| TenantId::new(name).map_err(|_| invalid());
        match tokens[..] {
            ["gov", "t", name, "down"] => Ok(Self::Down(tenant(name)?)),
            ["gov", "t", name, "up", node] => {
                Ok(Self::Up(tenant(name)?, NodeId::new(node).map_err(|_| invalid())?))
            }
            _ => Err(invalid()),
        }
    }
}

/// One entry of the control log, as every node reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its position; strictly increasing.
    pub seq: u64,
    /// When the log stored it, microseconds since the Unix epoch. Expiry and the ramp go by this time.
    pub received_at_us: u64,
    /// Where it was stored.
    pub channel: Channel,
    /// The envelope, verbatim.
    pub envelope: Bytes,
    /// For a catalog update: the bytes its `source_uri` led to.
    pub catalog: Option<Bytes>,
}

/// A record that a node has judged before, with what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// What the log had.
    pub record: Record,
    /// Whether it was accepted, or the name of the reason why not; None when that is not known.
    pub verdict: Option<Result<(), String>>,
}

impl From<Record> for Recovered {
    fn from(record: Record) -> Self {
        Self {
            record,
            verdict: None,
        }
    }
}

impl From<Recovered> for Record {
    fn from(recovered: Recovered) -> Self {
        recovered.record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_survives_its_subject() {
        for subject in ["gov.t.default.down", "gov.t.a_b.up.gw-1"] {
            assert_eq!(subject.parse::<Channel>().unwrap().to_string(), subject);
        }
        for subject in [
            "gov.t.default",
            "gov.t.default.up",
            "gov.t.a b.down",
            "gov.t.x.up.y.z",
            "in.t.x.down",
            "",
        ] {
            assert!(subject.parse::<Channel>().is_err(), "{subject}");
        }
    }
}
