//! Sets: the fields of one message, the keys of one map.

use std::collections::HashSet;

use crate::path::Key;

/// Indexes of fields. Allocates only for messages with more than 128 fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct FieldSet {
    low: u128,
    high: Vec<u64>,
}

impl FieldSet {
    /// Adds a field; whether it was new.
    #[inline]
    pub(crate) fn insert(&mut self, field: u32) -> bool {
        if field < 128 {
            let bit = 1 << field;
            let new = self.low & bit == 0;
            self.low |= bit;
            return new;
        }
        self.insert_high(field)
    }

    #[cold]
    fn insert_high(&mut self, field: u32) -> bool {
        let (word, bit) = ((field - 128) as usize / 64, 1 << (field % 64));
        if self.high.len() <= word {
            self.high.resize(word + 1, 0);
        }
        let new = self.high[word] & bit == 0;
        self.high[word] |= bit;
        new
    }

    #[inline]
    pub(crate) fn contains(&self, field: u32) -> bool {
        if field < 128 {
            return self.low & 1 << field != 0;
        }
        let word = self.high.get((field - 128) as usize / 64);
        word.is_some_and(|word| word & 1 << (field % 64) != 0)
    }
}

/// Keys of one object. A few are compared one by one, more are hashed.
#[derive(Debug, Default)]
pub(crate) struct KeySet<'a> {
    few: Vec<Key<'a>>,
    many: HashSet<Key<'a>>,
}

/// Up to this many keys, comparing is faster than hashing.
const FEW: usize = 8;

impl<'a> KeySet<'a> {
    pub(crate) fn contains(&self, key: &Key<'a>) -> bool {
        self.few.contains(key) || !self.many.is_empty() && self.many.contains(key)
    }

    pub(crate) fn insert(&mut self, key: Key<'a>) {
        if self.few.len() < FEW {
            self.few.push(key);
        } else {
            self.many.insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FieldSet;

    #[test]
    fn a_field_is_new_once() {
        let mut set = FieldSet::default();
        for field in [0, 127, 128, 191, 192, 19_999] {
            assert!(!set.contains(field));
            assert!(
                set.insert(field) && !set.insert(field) && set.contains(field),
                "{field}"
            );
        }
        assert!(!set.contains(1) && !set.contains(129));
    }
}
