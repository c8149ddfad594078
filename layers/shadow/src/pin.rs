//! One decision for a whole session.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{mirror::Core, rules::Rules};

/// Keeps a session (a WebSocket) on the rules it began with: an edge makes one per session and puts a clone into the
/// extensions of every request that it makes of a frame. [`ShadowHandle::session`](crate::ShadowHandle::session) makes one
/// that holds the rules of that moment; one made by [`SessionPin::new`] takes those of the session's first request.
///
/// Without it a session of which the key lies between the old and the new percent changes sides when the percent
/// changes. Only shares and the seed are pinned: everything else of a rule (methods, caps, stripped headers) is as it is now, and what an
/// operator takes away holds at once: a mirror that is off, a rule that is gone or at 0.
///
/// ```
/// use arqon_shadow::SessionPin;
///
/// let pin = SessionPin::new();
/// let mut frame = http::Request::new("a frame");
/// frame.extensions_mut().insert(pin.clone());
/// ```
#[derive(Clone)]
pub struct SessionPin {
    begun: Arc<OnceLock<Begun>>,
}

/// A pin was made in this process. Until then no request is searched for one.
static ANY: AtomicBool = AtomicBool::new(false);

/// Whether a request may carry a pin.
#[inline]
pub(crate) fn any() -> bool {
    ANY.load(Ordering::Acquire)
}

/// The rules of the first request, and of which mirror they are.
struct Begun {
    mirror: usize,
    rules: Arc<Rules>,
}

impl Begun {
    fn of(core: &Arc<Core>) -> Self {
        Self {
            mirror: Arc::as_ptr(core).addr(),
            rules: core.rules.load_full(),
        }
    }
}

impl SessionPin {
    /// A pin for one session, which takes the rules in force at the session's first request.
    #[must_use]
    pub fn new() -> Self {
        ANY.store(true, Ordering::Release);
        Self {
            begun: Arc::default(),
        }
    }

    /// A pin that holds the rules in force now.
    pub(crate) fn now(core: &Arc<Core>) -> Self {
        let pin = Self::new();
        pin.begun.get_or_init(|| Begun::of(core));
        pin
    }

    /// The rules of the session, unless they were pinned by another mirror.
    pub(crate) fn rules(&self, core: &Arc<Core>) -> Option<&Rules> {
        let begun = self.begun.get_or_init(|| Begun::of(core));
        (begun.mirror == Arc::as_ptr(core).addr()).then_some(&*begun.rules)
    }
}

impl Default for SessionPin {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SessionPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPin")
            .field("begun", &self.begun.get().is_some())
            .finish()
    }
}
