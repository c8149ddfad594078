//! `[nats.mirror]` and `[nats.control]`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{validate_certificate, validate_credentials};

/// Whom one connection is to NATS, instead of the user that `[nats]` names: permissions can then keep copies from where messages
/// go, and messages from the control log. Server, authority and `nats.url` are those of `[nats]`; a user in the URL is not this one's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(schemars::JsonSchema))]
#[serde(default)]
pub struct NatsUserConfig {
    /// A credentials file: a user's JWT and seed. At most one of this, `nkey_file` and `token_file`.
    pub creds_file: Option<PathBuf>,
    /// The file with a user's nkey seed, `SU...`.
    pub nkey_file: Option<PathBuf>,
    /// The file with a token.
    pub token_file: Option<PathBuf>,
    /// A certificate of its own (PEM), where the server maps certificates to users; with `key_file`. Absent: that of `[nats]`.
    pub cert_file: Option<PathBuf>,
    /// The key (PEM) of `cert_file`.
    pub key_file: Option<PathBuf>,
}

impl NatsUserConfig {
    pub(super) fn validate(&self, section: &str, refuse: &mut impl FnMut(&str, String)) {
        let mut refuse = |key: &str, message: String| refuse(&format!("{section}.{key}"), message);
        if *self == Self::default() {
            let message =
                "names nobody: give creds_file, nkey_file, token_file or cert_file, or leave the section out";
            return refuse("creds_file", message.to_owned());
        }
        let files = [&self.creds_file, &self.nkey_file, &self.token_file];
        validate_credentials(files, &mut refuse);
        validate_certificate(&self.cert_file, &self.key_file, &mut refuse);
    }

    pub(super) fn resolve_paths(&mut self, base: &Path) {
        for path in [
            &mut self.creds_file,
            &mut self.nkey_file,
            &mut self.token_file,
            &mut self.cert_file,
            &mut self.key_file,
        ]
        .into_iter()
        .flatten()
        {
            *path = base.join(&path);
        }
    }
}
