//! How many lines each tenant may cause (T19): the access log has one for each request, and so has whatever names its tenant.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tracing::{
    Event,
    field::{Field, Visit},
};

use super::{ACCESS, bucket::Bucket};

/// Tenants that are told apart at once; what the others cause is one tenant's.
const TENANTS_MAX: usize = 4_096;
/// The name of lines that have none, and of tenants beyond the border.
const NOBODY: &str = "";

/// One bucket for each tenant.
#[derive(Clone)]
pub(super) struct Tenants {
    per_min: f64,
    buckets: Arc<Mutex<HashMap<String, Bucket>>>,
}

impl Tenants {
    pub(super) fn new(per_min: u32) -> Self {
        Self {
            per_min: f64::from(per_min),
            buckets: Arc::default(),
        }
    }

    /// Whether a line of this tenant may be written now.
    pub(super) fn takes(&self, whose: &Whose, now: Instant) -> bool {
        let full = self.per_min;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut name = whose.name();
        if !buckets.contains_key(name) {
            if buckets.len() >= TENANTS_MAX {
                // Who has all of it back, and nothing to be told, is as good as new.
                buckets.retain(|_, bucket| !bucket.is_rested(full, now));
            }
            if buckets.len() >= TENANTS_MAX {
                name = NOBODY;
            }
        }
        // Names are only copied for those who are new.
        if !buckets.contains_key(name) {
            buckets.insert(name.to_owned(), Bucket::new(full, now));
        }
        let bucket = buckets.get_mut(name).expect("it is there by now");
        let takes = bucket.takes(full, now);
        if !takes {
            metrics::counter!("shield_gateway_log_held_back_total").increment(1);
        }
        takes
    }

    /// How many lines of a tenant were held back since it was asked last.
    pub(super) fn held_back(&self, whose: &Whose) -> u64 {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let name = whose.name();
        let name = if buckets.contains_key(name) { name } else { NOBODY };
        buckets.get_mut(name).map_or(0, Bucket::held_back)
    }
}

/// Whose line it is: the tenant that it names, or nobody.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Whose(Option<String>);

impl Whose {
    /// None where it is the gateway's own, which no tenant pays for: no line of a request, and it names none.
    pub(super) fn line(event: &Event<'_>) -> Option<Self> {
        let mut whose = Self::default();
        if event.metadata().fields().field("tenant").is_some() {
            event.record(&mut whose);
        }
        (whose.0.is_some() || event.metadata().target() == ACCESS).then_some(whose)
    }

    fn name(&self) -> &str {
        self.0.as_deref().unwrap_or(NOBODY)
    }
}

impl Visit for Whose {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "tenant" {
            self.0 = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "tenant" {
            self.0 = Some(format!("{value:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn of(name: &str) -> Whose {
        Whose(Some(name.to_owned()))
    }

    #[test]
    fn each_tenant_has_its_own_and_so_have_lines_of_nobody() {
        let (tenants, start) = (Tenants::new(2), Instant::now());
        for whose in [of("a"), of("b"), Whose(None)] {
            let taken = [(); 4].map(|()| tenants.takes(&whose, start));
            assert_eq!(taken, [true, true, false, false], "{whose:?}");
        }
        assert!(
            tenants.takes(&of("a"), start + Duration::from_secs(31)),
            "half a minute is one more"
        );
        assert_eq!([tenants.held_back(&of("a")), tenants.held_back(&of("a"))], [2, 0]);
        assert_eq!(tenants.held_back(&Whose(None)), 2);
    }

    #[test]
    fn tenants_without_end_are_one_and_those_who_rest_make_room() {
        let (tenants, start) = (Tenants::new(2), Instant::now());
        // One place goes to nobody.
        assert!(tenants.takes(&Whose(None), start));
        for n in 1..TENANTS_MAX {
            assert!(tenants.takes(&of(&n.to_string()), start));
        }
        let late = ["x", "y", "z"].map(|name| tenants.takes(&of(name), start));
        assert_eq!(late, [true, false, false], "they share what nobody has left");
        assert_eq!(tenants.held_back(&of("x")), 2);
        assert_eq!(tenants.buckets.lock().expect("whole").len(), TENANTS_MAX);
        assert!(tenants.takes(&of("x"), start + Duration::from_secs(61)));
        assert_eq!(tenants.buckets.lock().expect("whole").len(), 1);
    }
}
