//! What this node refused without the log's judgement, and how much it lets somebody refuse.
//!
//! The log spends the counter of an authentic message that is refused (ADR 26). What cannot be put there (the audit trail
//! cannot be written, a catalog cannot be read, the log is away, somebody floods) is remembered here, so that at least
//! this node never takes the same bytes later; it survives a restart beside the latches.

use std::collections::BTreeMap;

use arqon_message::TenantId;
use serde::{Deserialize, Serialize};

/// Most issuers that are remembered; the lowest counters go first.
const MAX_ISSUERS: usize = 256;

/// How many messages that change nothing one issuer may put into the log at once.
pub(crate) const IDLE_BURST: u32 = 16;

/// How often one more is let in, microseconds.
pub(crate) const IDLE_EVERY_US: u64 = 10_000_000;

/// The highest counter of each issuer that was refused here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spent(Vec<Entry>);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    tenant: TenantId,
    issuer: String,
    epoch: u64,
    counter: u64,
}

impl Spent {
    /// Remembers a counter; true if that is new.
    pub(crate) fn note(&mut self, tenant: &TenantId, issuer: &str, epoch: u64, counter: u64) -> bool {
        let known = self
            .0
            .iter_mut()
            .find(|entry| entry.tenant == *tenant && entry.issuer == issuer);
        if let Some(entry) = known {
            let higher = (epoch, counter) > (entry.epoch, entry.counter);
            if higher {
                (entry.epoch, entry.counter) = (epoch, counter);
            }
            return higher;
        }
        if self.0.len() >= MAX_ISSUERS
            && let Some((lowest, _)) = self.0.iter().enumerate().min_by_key(|(_, entry)| entry.counter)
        {
            self.0.swap_remove(lowest);
        }
        self.0.push(Entry {
            tenant: tenant.clone(),
            issuer: issuer.to_owned(),
            epoch,
            counter,
        });
        true
    }

    /// The highest counter of an issuer that was spent here; another key set begins anew.
    pub(crate) fn last(&self, tenant: &TenantId, issuer: &str, epoch: u64) -> Option<u64> {
        let is =
            |entry: &&Entry| (&entry.tenant, entry.issuer.as_str(), entry.epoch) == (tenant, issuer, epoch);
        self.0.iter().find(is).map(|entry| entry.counter)
    }
}

/// How many messages that change nothing each issuer still may put into the log: a flood of them must not fill it.
#[derive(Debug, Default)]
pub(crate) struct Idle(BTreeMap<(TenantId, String), Bucket>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: u32,
    filled_us: u64,
}

impl Idle {
    /// Takes one; false if there is none left.
    pub(crate) fn take(&mut self, tenant: &TenantId, issuer: &str, now_us: u64) -> bool {
        if self.0.len() > MAX_ISSUERS {
            self.0.retain(|_, bucket| bucket.at(now_us).left < IDLE_BURST);
        }
        let full = Bucket {
            left: IDLE_BURST,
            filled_us: now_us,
        };
        let bucket = self.0.entry((tenant.clone(), issuer.to_owned())).or_insert(full);
        *bucket = bucket.at(now_us);
        let taken = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        taken
    }
}

impl Bucket {
    /// What is left at a time.
    fn at(self, now_us: u64) -> Self {
        let more = now_us.saturating_sub(self.filled_us) / IDLE_EVERY_US;
        let left = u64::from(self.left)
            .saturating_add(more)
            .min(u64::from(IDLE_BURST));
        Self {
            left: u32::try_from(left).unwrap_or(IDLE_BURST),
            filled_us: self.filled_us.saturating_add(more.saturating_mul(IDLE_EVERY_US)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_counter_covers_those_below_it_of_its_issuer_and_key_set() {
        let (tenant, other) = (TenantId::new("a").unwrap(), TenantId::new("b").unwrap());
        let mut spent = Spent::default();
        assert!(spent.note(&tenant, "ops", 1, 10));
        assert!(!spent.note(&tenant, "ops", 1, 9), "nothing new");
        assert_eq!(spent.last(&tenant, "ops", 1), Some(10));
        assert_eq!(spent.last(&tenant, "ops", 2), None);
        assert_eq!(
            (spent.last(&other, "ops", 1), spent.last(&tenant, "sre", 1)),
            (None, None)
        );
        for issuer in 0..2 * MAX_ISSUERS {
            spent.note(&tenant, &issuer.to_string(), 1, 100);
        }
        assert_eq!(spent.0.len(), MAX_ISSUERS);
    }

    #[test]
    fn an_issuer_has_a_burst_and_then_one_in_ten_seconds() {
        let tenant = TenantId::new("a").unwrap();
        let mut idle = Idle::default();
        let take = |idle: &mut Idle, now_us| (0..100).filter(|_| idle.take(&tenant, "x", now_us)).count();
        assert_eq!(take(&mut idle, 5), IDLE_BURST as usize);
        assert_eq!(take(&mut idle, 5 + IDLE_EVERY_US - 1), 0);
        assert_eq!(take(&mut idle, 5 + IDLE_EVERY_US), 1);
        assert_eq!(take(&mut idle, 5 + 1_000 * IDLE_EVERY_US), IDLE_BURST as usize);
        assert!(idle.take(&tenant, "y", 5), "another one has its own");
        for issuer in 0..10 * MAX_ISSUERS {
            idle.take(
                &tenant,
                &issuer.to_string(),
                issuer as u64 * IDLE_BURST as u64 * IDLE_EVERY_US,
            );
        }
        assert!(idle.0.len() <= MAX_ISSUERS + 1, "{}", idle.0.len());
    }
}
