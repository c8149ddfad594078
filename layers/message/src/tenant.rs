//! The tenant a message belongs to.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

/// A tenant's name: 1 to 64 characters of `[A-Za-z0-9_-]` (DESIGN 4).
///
/// It goes unchanged into subjects and keys, so it is never folded, trimmed or escaped: a name that does not fit is an
/// error. It comes from the *verified* claim `tenant_id`, or is fixed by the program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TenantId(Arc<str>);

/// The longest tenant name, in bytes.
const TENANT_BYTES_MAX: usize = 64;

impl TenantId {
    /// Takes `name` as it is.
    ///
    /// # Errors
    /// When `name` is empty, longer than 64 bytes, or holds a character other than `A-Z a-z 0-9 _ -`.
    pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidTenantId> {
        let name = name.as_ref();
        let fits = (1..=TENANT_BYTES_MAX).contains(&name.len())
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits {
            Ok(Self(name.into()))
        } else {
            Err(InvalidTenantId(name.chars().take(80).collect()))
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A tenant name that no subject or key may carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tenant {0:?} is not 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")]
pub struct InvalidTenantId(String);

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// As its text.
impl Serialize for TenantId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for TenantId {
    type Error = InvalidTenantId;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(name)
    }
}

impl From<TenantId> for String {
    fn from(tenant: TenantId) -> Self {
        tenant.0.as_ref().into()
    }
}

impl Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_of_64_bytes_is_taken_and_one_of_65_is_not() {
        assert!(TenantId::new("a".repeat(64)).is_ok());
        assert!(TenantId::new("a".repeat(65)).is_err());
        assert!(TenantId::new("").is_err());
    }

    #[test]
    fn nothing_that_means_something_to_nats_or_http_is_a_name() {
        for bad in [
            "a.b", "*", ">", "a b", "a\r\nb", "a/b", "ä", "a%2e", "$SYS", "a\0",
        ] {
            let error = TenantId::new(bad).expect_err(bad);
            assert!(error.to_string().contains("1 to 64 characters"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_name_is_kept_as_it_is(name in "[A-Za-z0-9_-]{1,64}") {
            let tenant = TenantId::new(&name).expect("fits");
            prop_assert_eq!(tenant.as_str(), name.as_str());
            let json = serde_json::to_string(&tenant).expect("a string");
            prop_assert_eq!(serde_json::from_str::<TenantId>(&json).expect("round trip"), tenant);
        }
    }
}
