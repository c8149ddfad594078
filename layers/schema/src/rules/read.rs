//! Reads the options themselves: fields of a rules message, none of them overlooked.

use crate::{table::Kind, wire::read};

/// One field of a rules message.
pub(super) struct Option_<'a> {
    pub(super) number: u32,
    pub(super) wire: u32,
    pub(super) bytes: &'a [u8],
}

/// The fields in order; an error when the bytes cannot be read.
pub(super) fn fields(bytes: &[u8]) -> Result<Vec<Option_<'_>>, String> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let broken = |fault| format!("has unreadable buf.validate rules ({fault:?})");
        let (tag, after) = read::tag(rest).map_err(broken)?;
        let (value, after) = read::skip(tag, after, 64).map_err(broken)?;
        found.push(Option_ {
            number: tag >> 3,
            wire: tag & 7,
            bytes: value,
        });
        rest = after;
    }
    Ok(found)
}

impl<'a> Option_<'a> {
    pub(super) fn number_of(&self, kind: Kind) -> Result<i128, String> {
        integer(kind, self.bytes).ok_or_else(|| self.unreadable())
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        Ok(self.number_of(Kind::Uint64)? != 0)
    }

    pub(super) fn count(&self) -> Result<u64, String> {
        u64::try_from(self.number_of(Kind::Uint64)?).map_err(|_| self.unreadable())
    }

    pub(super) fn text(&self) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes).map_err(|_| self.unreadable())
    }

    /// The elements of a repeated number, packed or not.
    pub(super) fn elements(&self, kind: Kind) -> Result<Vec<&'a [u8]>, String> {
        if self.wire != read::LEN {
            return Ok(vec![self.bytes]);
        }
        let mut found = Vec::new();
        let mut rest = self.bytes;
        while !rest.is_empty() {
            let (element, after) = element(kind, rest).ok_or_else(|| self.unreadable())?;
            found.push(element);
            rest = after;
        }
        Ok(found)
    }

    fn unreadable(&self) -> String {
        format!("has an unreadable buf.validate rule (field {})", self.number)
    }
}

/// The first element of a packed field, and the rest.
pub(crate) fn element(kind: Kind, bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let width = match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => 8,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => 4,
        _ => bytes.len() - read::varint(bytes).ok()?.1.len(),
    };
    bytes.split_at_checked(width)
}

/// The integer that these bytes of the wire stand for in that kind; a bool is 0 or 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "this is how the wire encodes them"
)]
pub(crate) fn integer(kind: Kind, bytes: &[u8]) -> Option<i128> {
    let varint = || read::varint(bytes).ok().map(|(value, _)| value);
    let zigzag = |value: u64| (value >> 1) as i64 ^ -((value & 1) as i64);
    let long = || bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let short = || bytes.first_chunk::<4>().map(|bytes| u32::from_le_bytes(*bytes));
    Some(match kind {
        Kind::Int64 => i128::from(varint()? as i64),
        Kind::Uint64 => i128::from(varint()?),
        Kind::Int32 | Kind::Enum(_) => i128::from(varint()? as i32),
        Kind::Uint32 => i128::from(varint()? as u32),
        Kind::Bool => i128::from(varint()? != 0),
        Kind::Sint32 => i128::from(zigzag(u64::from(varint()? as u32))),
        Kind::Sint64 => i128::from(zigzag(varint()?)),
        Kind::Fixed32 => i128::from(short()?),
        Kind::Fixed64 => i128::from(long()?),
        Kind::Sfixed32 => i128::from(short()? as i32),
        Kind::Sfixed64 => i128::from(long()? as i64),
        _ => return None,
    })
}

/// The float of these bytes.
pub(crate) fn float(kind: Kind, bytes: &[u8]) -> Option<f64> {
    match kind {
        Kind::Double => bytes.first_chunk::<8>().map(|bytes| f64::from_le_bytes(*bytes)),
        Kind::Float => bytes
            .first_chunk::<4>()
            .map(|bytes| f64::from(f32::from_le_bytes(*bytes))),
        _ => None,
    }
}
