//! How many lines each place in the code may write.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Filter};

use super::{
    ACCESS,
    bucket::Bucket,
    tenants::{Tenants, Whose},
};

/// Policies that are told apart in the limit; those that come later share a place's lines.
const POLICIES_MAX: usize = 256;

/// Lets each place in the code write so many lines a minute, and counts what it held back (F44: whatever fails again and
/// again says so, and says how often, but does not fill the disk). All policies log through the same few places: each has
/// lines of its own there, so that one that logs much silences no other.
#[derive(Clone)]
pub(super) struct Limit {
    per_min: u32,
    places: Arc<Mutex<Places>>,
    /// And how many lines each tenant may cause.
    pub(super) tenants: Tenants,
}

#[derive(Default)]
struct Places {
    /// By place, and by policy where it is one's line: as many as there are places in the code, times [`POLICIES_MAX`].
    places: HashMap<(tracing::callsite::Identifier, String), Bucket>,
    policies: HashSet<String>,
}

impl Places {
    /// Whose line it is, as it is counted: the policy's, or nobody's.
    fn policy(&mut self, policy: String) -> String {
        if policy.is_empty() || self.policies.contains(&policy) {
            return policy;
        }
        if self.policies.len() >= POLICIES_MAX {
            return String::new();
        }
        self.policies.insert(policy.clone());
        policy
    }
}

/// The policy whose line it is (`module`), empty where it is none's.
pub(super) fn policy_of(event: &Event<'_>) -> String {
    struct Module(String);
    impl Visit for Module {
        fn record_str(&mut self, field: &Field, value: &str) {
            if field.name() == "module" {
                value.clone_into(&mut self.0);
            }
        }
        fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
    }
    let metadata = event.metadata();
    let mut module = Module(String::new());
    if metadata.target().starts_with("arqon") && metadata.fields().field("module").is_some() {
        event.record(&mut module);
    }
    module.0
}

impl Limit {
    pub(super) fn new(per_min: u32, tenant_per_min: u32) -> Self {
        Self {
            per_min,
            places: Arc::default(),
            tenants: Tenants::new(tenant_per_min),
        }
    }

    /// Whether a place may write now, for this policy.
    fn takes(&self, metadata: &Metadata<'_>, policy: String, now: Instant) -> bool {
        if metadata.target() == ACCESS {
            return true;
        }
        let full = f64::from(self.per_min);
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = places.policy(policy);
        let key = (metadata.callsite(), policy);
        let place = places.places.entry(key.clone());
        let takes = place.or_insert_with(|| Bucket::new(full, now)).takes(full, now);
        if !takes {
            match key.1 {
                policy if policy.is_empty() => metrics::counter!("shield_gateway_log_held_back_total"),
                policy => metrics::counter!("shield_gateway_log_held_back_total", "module" => policy),
            }
            .increment(1);
        }
        takes
    }

    /// How many lines of a place, and of this policy there, were held back since it was asked last.
    pub(super) fn held_back(&self, metadata: &Metadata<'_>, policy: String) -> u64 {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let policy = places.policy(policy);
        let place = places.places.get_mut(&(metadata.callsite(), policy));
        place.map_or(0, Bucket::held_back)
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let now = Instant::now();
        self.takes(event.metadata(), policy_of(event), now)
            && Whose::line(event).is_none_or(|whose| self.tenants.takes(&whose, now))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_held_back_is_said_with_the_next_line() {
        let limit = Limit::new(2, 60);
        let known = || tracing::info_span!("any").metadata().expect("enabled");
        let metadata = tracing::subscriber::with_default(tracing_subscriber::registry(), known);
        let start = Instant::now();
        let takes = |seconds| limit.takes(metadata, String::new(), start + Duration::from_secs(seconds));
        assert_eq!(
            [takes(0), takes(0), takes(0), takes(1)],
            [true, true, false, false]
        );
        assert!(takes(31), "half a minute is one more line");
        let held_back = || limit.held_back(metadata, String::new());
        assert_eq!((held_back(), held_back()), (2, 0));
    }

    #[test]
    fn so_many_policies_are_told_apart_and_what_is_held_back_is_said_with_the_next_line_of_the_same() {
        let limit = Limit::new(1, 60);
        let known = || tracing::info_span!("any").metadata().expect("enabled");
        let metadata = tracing::subscriber::with_default(tracing_subscriber::registry(), known);
        let now = Instant::now();
        let takes = |policy: usize| limit.takes(metadata, format!("p{policy}"), now);
        assert!((0..POLICIES_MAX).all(takes));
        assert!(!(0..POLICIES_MAX).any(takes), "one line each");
        // Those that come later share the lines of the place.
        assert!(takes(POLICIES_MAX) && !takes(POLICIES_MAX + 1));
        assert!(!limit.takes(metadata, String::new(), now));
        let held_back = |policy: &str| limit.held_back(metadata, policy.to_owned());
        assert_eq!(held_back("p0"), 1);
        assert_eq!((held_back("p0"), held_back("p1"), held_back("")), (0, 1, 2));
    }
}
