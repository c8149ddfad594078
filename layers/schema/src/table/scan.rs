//! Counts what a descriptor set declares before anything is built from it.
//!
//! An empty message is two bytes in the set and hundreds in memory, so the caps are checked on the bytes: no more is
//! ever decoded than the caps allow.

use crate::{
    error::LoadError,
    wire::read::{self, LEN},
};

/// Most messages in one set, nested ones and map entries included.
pub(crate) const MESSAGES_MAX: usize = 5_000;
/// Most fields in one set, extensions included.
pub(crate) const FIELDS_MAX: usize = 20_000;
/// Most files in one set.
pub(crate) const FILES_MAX: usize = 2_000;
/// Most enum types and values, oneofs, reserved ranges and names, and imports together in one set.
pub(crate) const OTHERS_MAX: usize = 50_000;

#[derive(Default)]
struct Counts {
    files: usize,
    messages: usize,
    fields: usize,
    others: usize,
}

/// Checks the caps.
///
/// # Errors
///
/// A cap is exceeded, or the bytes are not a descriptor set.
pub(crate) fn scan(set: &[u8]) -> Result<(), LoadError> {
    let mut counts = Counts::default();
    each(set, &mut |number, file| match number {
        1 => {
            counts.files += 1;
            counts.check()?;
            scan_file(file, &mut counts)
        }
        _ => Ok(()),
    })
}

fn scan_file(file: &[u8], counts: &mut Counts) -> Result<(), LoadError> {
    each(file, &mut |number, item| match number {
        4 => scan_message(item, counts, 0),
        5 => scan_enum(item, counts),
        7 => counts.field(),
        3 | 6 => counts.other(),
        _ => Ok(()),
    })
}

fn scan_message(message: &[u8], counts: &mut Counts, depth: usize) -> Result<(), LoadError> {
    counts.messages += 1;
    counts.check()?;
    if depth >= 64 {
        return Err(LoadError::TooLarge {
            what: "nesting of message types",
            limit: 64,
        });
    }
    each(message, &mut |number, item| match number {
        2 | 6 => counts.field(),
        3 => scan_message(item, counts, depth + 1),
        4 => scan_enum(item, counts),
        5 | 8 | 9 | 10 => counts.other(),
        _ => Ok(()),
    })
}

fn scan_enum(item: &[u8], counts: &mut Counts) -> Result<(), LoadError> {
    counts.other()?;
    each(item, &mut |number, _| match number {
        2 | 4 | 5 => counts.other(),
        _ => Ok(()),
    })
}

/// What is done with a length-delimited field.
type Found<'f> = dyn FnMut(u32, &[u8]) -> Result<(), LoadError> + 'f;

/// Calls for each length-delimited field.
fn each(bytes: &[u8], found: &mut Found<'_>) -> Result<(), LoadError> {
    let broken = |fault| LoadError::Decode(format!("not a FileDescriptorSet ({fault:?})"));
    let mut rest = bytes;
    while !rest.is_empty() {
        let (tag, after) = read::tag(rest).map_err(broken)?;
        let (value, after) = read::skip(tag, after, 64).map_err(broken)?;
        if tag & 7 == LEN {
            found(tag >> 3, value)?;
        }
        rest = after;
    }
    Ok(())
}

impl Counts {
    fn field(&mut self) -> Result<(), LoadError> {
        self.fields += 1;
        self.check()
    }

    fn other(&mut self) -> Result<(), LoadError> {
        self.others += 1;
        self.check()
    }

    fn check(&self) -> Result<(), LoadError> {
        for (what, count, limit) in [
            ("files", self.files, FILES_MAX),
            ("messages", self.messages, MESSAGES_MAX),
            ("fields", self.fields, FIELDS_MAX),
            ("other declarations", self.others, OTHERS_MAX),
        ] {
            if count > limit {
                return Err(LoadError::TooLarge { what, limit });
            }
        }
        Ok(())
    }
}
