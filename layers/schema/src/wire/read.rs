//! Tags, varints, lengths: the smallest parts of the wire format.

/// Why a part could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes end inside the part.
    Truncated,
    /// More than ten bytes, or more than 64 bits.
    Varint,
    /// A tag or a length of more than five bytes, a field number of 0 or above 2^29-1, or wire type 6 or 7.
    Tag,
    /// A length of more than five bytes.
    Length,
    /// An end-group tag that closes nothing, or another group; or a group that never ends.
    Group,
    /// More than 100 levels.
    Depth,
}

/// Wire types, as the low three bits of a tag.
pub(crate) const VARINT: u32 = 0;
pub(crate) const FIXED64: u32 = 1;
pub(crate) const LEN: u32 = 2;
pub(crate) const START_GROUP: u32 = 3;
pub(crate) const END_GROUP: u32 = 4;
pub(crate) const FIXED32: u32 = 5;

/// The highest field number: 2^29 - 1.
pub(crate) const FIELD_NUMBER_MAX: u32 = 0x1fff_ffff;

/// A varint of up to ten bytes, and what follows it.
#[inline]
pub(crate) fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    match bytes {
        [first, rest @ ..] if *first < 0x80 => Ok((u64::from(*first), rest)),
        [first, second, rest @ ..] if *second < 0x80 => {
            Ok((u64::from(*first & 0x7f) | u64::from(*second) << 7, rest))
        }
        _ => long_varint(bytes),
    }
}

/// What follows a varint of up to ten bytes, whatever it says: up to eight bytes at once.
#[inline]
pub(crate) fn past_varint(bytes: &[u8]) -> Result<&[u8], Fault> {
    match bytes {
        [first, rest @ ..] if *first < 0x80 => return Ok(rest),
        _ => {}
    }
    if let Some((chunk, _)) = bytes.split_first_chunk::<8>() {
        let ends = !u64::from_le_bytes(*chunk) & 0x8080_8080_8080_8080;
        if ends != 0 {
            return Ok(&bytes[ends.trailing_zeros() as usize / 8 + 1..]);
        }
    }
    long_varint(bytes).map(|(_, rest)| rest)
}

fn long_varint(bytes: &[u8]) -> Result<(u64, &[u8]), Fault> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().take(10).enumerate() {
        if at == 9 && byte > 1 {
            return Err(Fault::Varint);
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok((value, &bytes[at + 1..]));
        }
    }
    Err(if bytes.len() < 10 {
        Fault::Truncated
    } else {
        Fault::Varint
    })
}

/// A tag of up to five bytes: number and wire type together, both within bounds.
#[inline]
pub(crate) fn tag(bytes: &[u8]) -> Result<(u32, &[u8]), Fault> {
    let (value, rest) = match bytes {
        [first, rest @ ..] if *first < 0x80 => (u32::from(*first), rest),
        [first, second, rest @ ..] if *second < 0x80 => {
            (u32::from(*first & 0x7f) | u32::from(*second) << 7, rest)
        }
        _ => short_varint(bytes, Fault::Tag)?,
    };
    // 1 << 3 is the least tag with a number of at least 1.
    if value < 8 || value & 7 > 5 {
        Err(Fault::Tag)
    } else {
        Ok((value, rest))
    }
}

/// A length of up to five bytes that the rest can hold: the field's bytes and what follows them.
#[inline]
pub(crate) fn delimited(bytes: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let (length, rest) = match bytes {
        [first, rest @ ..] if *first < 0x80 => (u32::from(*first), rest),
        _ => short_varint(bytes, Fault::Length)?,
    };
    rest.split_at_checked(length as usize).ok_or(Fault::Truncated)
}

/// A varint of at most five bytes and 32 bits.
fn short_varint(bytes: &[u8], too_long: Fault) -> Result<(u32, &[u8]), Fault> {
    let mut value = 0_u32;
    for (at, &byte) in bytes.iter().take(5).enumerate() {
        if at == 4 && byte > 0x0f {
            return Err(too_long);
        }
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return Ok((value, &bytes[at + 1..]));
        }
    }
    Err(if bytes.len() < 5 {
        Fault::Truncated
    } else {
        too_long
    })
}

/// `count` bytes, and what follows them.
#[inline]
pub(crate) fn fixed(bytes: &[u8], count: usize) -> Result<(&[u8], &[u8]), Fault> {
    bytes.split_at_checked(count).ok_or(Fault::Truncated)
}

/// One field value of that tag, whatever it is: its bytes (a group's without the end tag) and what follows.
pub(crate) fn skip(tag: u32, bytes: &[u8], depth_left: u32) -> Result<(&[u8], &[u8]), Fault> {
    match tag & 7 {
        VARINT => {
            let (_, rest) = varint(bytes)?;
            Ok((&bytes[..bytes.len() - rest.len()], rest))
        }
        FIXED64 => fixed(bytes, 8),
        LEN => delimited(bytes),
        START_GROUP => group(tag >> 3, bytes, depth_left),
        FIXED32 => fixed(bytes, 4),
        _ => Err(Fault::Group),
    }
}

/// The content of a group whose start tag was just read, and what follows its end tag.
pub(crate) fn group(number: u32, bytes: &[u8], depth_left: u32) -> Result<(&[u8], &[u8]), Fault> {
    if depth_left == 0 {
        return Err(Fault::Depth);
    }
    let mut rest = bytes;
    loop {
        let at = rest.len();
        let (tag, after) = match tag(rest) {
            Err(Fault::Truncated) if rest.is_empty() => return Err(Fault::Group),
            other => other?,
        };
        if tag & 7 == END_GROUP {
            if tag >> 3 != number {
                return Err(Fault::Group);
            }
            return Ok((&bytes[..bytes.len() - at], after));
        }
        rest = skip(tag, after, depth_left - 1)?.1;
    }
}
