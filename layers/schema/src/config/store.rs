//! What holds of updates that come from a store.

use std::{collections::BTreeMap, path::Path};

use serde::{Deserialize, Serialize};

use super::{RegistryConfig, split_key};
use crate::{
    compat::{Compatibility, Profile},
    error::Finding,
};

/// Store keys (a schema id, or `t.<tenant>.<schema id>`) and the one revision of each that may be in force.
pub type Pins = BTreeMap<String, u64>;

/// Most pins of one registry.
pub const PINS_MAX: usize = 1_024;

/// What happens to an update that is not compatible with what is in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnIncompatible {
    /// It is refused, the last good revision stays; unless whoever wrote it said that the break is meant.
    #[default]
    Refuse,
    /// It is taken, and told as an alarm.
    Accept,
}

/// What happens to a revision at or below the one in force with another content: the store lost data, was restored from
/// a backup, or is another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnRegression {
    /// What is in force stays, and an alarm is raised.
    #[default]
    Keep,
    /// The store is right whatever it says.
    Adopt,
}

impl RegistryConfig {
    /// How an update must relate to what is in force; `None` compares nothing. Without `compatibility` it is `BACKWARD`
    /// for a bucket, which many write, and `NONE` for a folder, which is edited by hand.
    #[must_use]
    pub fn guard(&self) -> Option<(Compatibility, Profile)> {
        let unsaid = if self.kv_bucket.is_some() {
            Compatibility::Backward
        } else {
            Compatibility::None
        };
        let compatibility = self.compatibility.unwrap_or(unsaid);
        (compatibility != Compatibility::None).then_some((compatibility, self.profile))
    }

    /// What is wrong with the keys of the store.
    pub(super) fn validate_store(&self, findings: &mut Vec<Finding>) {
        let mut find = |key: String, value: String, fix: &str| {
            findings.push(Finding {
                key,
                value,
                fix: fix.to_owned(),
            });
        };
        let bucket = self.kv_bucket.is_some();
        if let Some(path) = &self.last_known_good {
            let value = path.display().to_string();
            if !bucket {
                let fix = "only what comes from kv_bucket needs a copy on disk: remove the key";
                find("last_known_good".to_owned(), value, fix);
            } else if path.file_name().is_none() || path.is_dir() {
                let fix = "name a file, such as schemas.lkg, in a folder the service may write to";
                find("last_known_good".to_owned(), value, fix);
            } else if !folder_of(path).is_dir() {
                let fix = "its folder is not there: make it, or mend the path";
                find("last_known_good".to_owned(), value, fix);
            }
        }
        if !bucket && !self.pins.is_empty() {
            let fix = "only kv_bucket keeps old revisions: remove the pins";
            find("pins".to_owned(), self.pins.len().to_string(), fix);
        }
        if self.pins.len() > PINS_MAX {
            find("pins".to_owned(), self.pins.len().to_string(), "use at most 1024");
        }
        for (id, revision) in &self.pins {
            if split_key(id).is_none() {
                let fix = "a pin is a schema id, or t.<tenant>.<schema id>, and a revision";
                find(format!("pins.{id}"), revision.to_string(), fix);
            } else if *revision == 0 {
                let fix = "revisions count from 1: `arqon schema list` shows them";
                find(format!("pins.{id}"), "0".to_owned(), fix);
            }
        }
    }
}

/// The folder a file is in.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
