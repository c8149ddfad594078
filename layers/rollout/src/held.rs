//! Who holds a scope, and why.

use std::{collections::BTreeMap, sync::Arc};

use crate::scope::Scope;

/// Why a scope is as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// Since when, by the log.
    pub since_us: u64,
    /// The reason somebody gave.
    pub reason: String,
    /// The names of the keys that signed.
    pub by: Vec<String>,
    /// The position in the log.
    pub seq: u64,
    /// When it was signed: a resume that was signed before does not end it.
    pub(crate) issued_us: u64,
}

/// The orders that stop or pause a scope, by the scope they were given for, each with its reason. One holds until a resume
/// that is meant for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Held(BTreeMap<Scope, Arc<Cause>>);

impl Held {
    /// Adds an order; one that is repeated holds since it was first given.
    pub(crate) fn add(&mut self, order: &Scope, cause: &Arc<Cause>) {
        let known = self.0.entry(order.clone()).or_insert_with(|| cause.clone());
        if known.issued_us < cause.issued_us {
            Arc::make_mut(known).issued_us = cause.issued_us;
        }
    }

    /// The orders that a resume of `resumed` ends on `lane`.
    pub(crate) fn ended_by(&self, lane: &Scope, resumed: &Scope) -> impl Iterator<Item = &Cause> {
        let inside = resumed.contains(lane);
        let ended = self
            .0
            .iter()
            .filter(move |(order, _)| ends(order, resumed, inside));
        ended.map(|(_, cause)| cause.as_ref())
    }

    /// What a resume of `resumed` leaves on `lane`. Inside of it every order ends that holds all of it, so a narrow resume
    /// frees its part of what is stopped; of a scope that it only crosses it ends no more than what was ordered alike.
    pub(crate) fn released(&self, lane: &Scope, resumed: &Scope) -> Self {
        let inside = resumed.contains(lane);
        let left = self.0.iter().filter(|(order, _)| !ends(order, resumed, inside));
        Self(
            left.map(|(order, cause)| (order.clone(), cause.clone()))
                .collect(),
        )
    }

    pub(crate) fn by(&self, order: &Scope) -> bool {
        self.0.contains_key(order)
    }

    pub(crate) fn get(&self, order: &Scope) -> Option<&Arc<Cause>> {
        self.0.get(order)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Scope, &Cause)> {
        self.0.iter().map(|(order, cause)| (order, cause.as_ref()))
    }

    pub(crate) fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Whether a resume of the whole tenant leaves some of it.
    pub(crate) fn outlasts_tenant(&self) -> bool {
        self.0.keys().any(|order| !order.contains(&Scope::TENANT))
    }

    /// The order that has been in force longest.
    pub(crate) fn first(&self) -> Option<&Cause> {
        self.0
            .values()
            .map(AsRef::as_ref)
            .min_by_key(|cause: &&Cause| cause.seq)
    }
}

/// Whether a resume ends an order on a scope that lies inside what is resumed, or does not.
fn ends(order: &Scope, resumed: &Scope, inside: bool) -> bool {
    order.contains(resumed) && (inside || resumed.contains(order))
}

impl FromIterator<(Scope, Arc<Cause>)> for Held {
    fn from_iter<T: IntoIterator<Item = (Scope, Arc<Cause>)>>(orders: T) -> Self {
        Self(orders.into_iter().collect())
    }
}
