//! Yes or no.

use crate::host;

/// What a policy says of a request, of a response, or of its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It may pass.
    Allow,
    /// It may not: 403.
    Deny,
    /// It may not, with a status of 400 to 599 and a reason that the client is told (at most 256 bytes of it). For a
    /// reason that is put together at run time there is [`reject`].
    Reject {
        /// 400 to 599; everything else becomes 403.
        status: u16,
        /// What would help the client.
        reason: &'static str,
    },
}

impl Verdict {
    /// [`Verdict::Reject`].
    pub const fn reject(status: u16, reason: &'static str) -> Self {
        Verdict::Reject { status, reason }
    }

    /// [`Verdict::Allow`] if `allowed`, else [`Verdict::Deny`].
    pub const fn allow_if(allowed: bool) -> Self {
        if allowed {
            Verdict::Allow
        } else {
            Verdict::Deny
        }
    }

    /// What an entry point returns; does not return for [`Verdict::Reject`]. For [`export!`](crate::export).
    #[doc(hidden)]
    pub fn into_code(self) -> i32 {
        match self {
            Verdict::Allow => 0,
            Verdict::Deny => 1,
            Verdict::Reject { status, reason } => reject(status, reason),
        }
    }
}

/// Refuses at once, from however deep a call. Where the policy can return, [`Verdict::Reject`] does the same.
pub fn reject(status: u16, reason: &str) -> ! {
    host::reject(i32::from(status), reason.as_bytes())
}
