//! Tokens that held, so that a signature is checked once.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use ring::digest::{SHA256, digest};

use super::token::Verified;

/// At most so many verified tokens, by their digest: the tokens themselves are not kept. Two halves: when the young one is
/// full it becomes the old one, and what was in that is forgotten, unless it was asked for in between.
pub(super) struct Cache {
    half: usize,
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    /// Of the keys that the entries were verified with.
    generation: u64,
    young: HashMap<Digest, Verified>,
    old: HashMap<Digest, Verified>,
}

pub(super) type Digest = [u8; 32];

impl Cache {
    pub(super) fn new(entries: usize) -> Self {
        Self {
            half: entries.div_ceil(2),
            halves: Mutex::default(),
        }
    }

    /// The key of a token, unless nothing is remembered.
    pub(super) fn digest(&self, token: &str) -> Option<Digest> {
        (self.half > 0).then(|| {
            digest(&SHA256, token.as_bytes())
                .as_ref()
                .try_into()
                .expect("SHA-256 has 32 bytes")
        })
    }

    /// A token that held with the keys of `generation`.
    pub(super) fn get(&self, digest: &Digest, generation: u64) -> Option<Verified> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.generation != generation {
            return None;
        }
        if let Some(found) = halves.young.get(digest) {
            return Some(found.clone());
        }
        let found = halves.old.remove(digest)?;
        self.insert(&mut halves, *digest, found.clone());
        Some(found)
    }

    pub(super) fn put(&self, digest: Digest, generation: u64, verified: Verified) {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.generation > generation {
            return;
        }
        if halves.generation < generation {
            *halves = Halves {
                generation,
                ..Halves::default()
            };
        }
        self.insert(&mut halves, digest, verified);
    }

    fn insert(&self, halves: &mut Halves, digest: Digest, verified: Verified) {
        if halves.young.len() >= self.half {
            halves.old = std::mem::take(&mut halves.young);
        }
        halves.young.insert(digest, verified);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        halves.young.len() + halves.old.len()
    }
}
