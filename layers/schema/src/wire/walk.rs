//! The fast pass: proves that a payload is fine, without building anything.
//!
//! It judges presence per occurrence of a message. Protobuf judges the merged one, but when every occurrence is
//! complete by itself, so is what they merge into (a later occurrence can only replace a value by another that counts
//! as set). So "yes" is always right; a "no" is decided by [`explain`](super::explain::explain).

use super::{
    DEPTH_MAX, read,
    rules::{self, Tally},
};
use crate::plan::{Node, Op, Plain, Plan, Step, Zero};

/// Whether the payload keeps the contract, as far as one pass can tell. Allocates nothing.
pub(crate) fn walk(plan: &Plan, payload: &[u8]) -> bool {
    // Two walkers: without rules there is nothing to count, and nothing to look up.
    if plan.ruled {
        whole::<true>(plan, &plan.nodes[0], payload, DEPTH_MAX).is_some()
    } else {
        whole::<false>(plan, &plan.nodes[0], payload, DEPTH_MAX).is_some()
    }
}

/// A message with its end known. Most are flat: their fields are read without any of what nesting needs.
#[inline]
fn whole<const RULES: bool>(plan: &Plan, node: &Node, payload: &[u8], depth_left: u32) -> Option<()> {
    if node.asks_nothing() {
        let rest = plain(node, payload)?;
        if rest.is_empty() {
            return Some(());
        }
        // Nothing of what was read is asked for.
        return message::<RULES>(plan, node, rest, depth_left, 0).map(drop);
    }
    message::<RULES>(plan, node, payload, depth_left, 0).map(drop)
}

/// Reads plain fields with short tags up to the first field that is something else.
#[inline]
fn plain<'a>(node: &Node, payload: &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = payload;
    while let [first, after @ ..] = rest {
        let Some(quick) = node.quick.get(usize::from(*first)) else {
            break;
        };
        rest = match quick.plain {
            Plain::No => break,
            Plain::Varint => read::past_varint(after).ok()?,
            Plain::Fixed64 => after.get(8..)?,
            Plain::Fixed32 => after.get(4..)?,
            Plain::Bytes => read::delimited(after).ok()?.1,
            Plain::Text => {
                let (value, after) = read::delimited(after).ok()?;
                if !is_utf8(value) {
                    return None;
                }
                after
            }
        };
    }
    Some(rest)
}

/// Checks fields up to the end of the slice, or of the group of that number (0: not in a group); returns what follows.
fn message<'a, const RULES: bool>(
    plan: &Plan,
    node: &Node,
    payload: &'a [u8],
    depth_left: u32,
    group: u32,
) -> Option<&'a [u8]> {
    let mut rest = payload;
    let mut seen = 0_u64;
    let mut tally = Tally::default();
    loop {
        rest = plain(node, rest)?;
        let Some((&first, after)) = rest.split_first() else {
            return (group == 0 && complete::<RULES>(plan, node, seen, &tally, payload)).then_some(rest);
        };
        let place = node.quick.get(usize::from(first)).map_or(0, |quick| quick.place);
        let (at, after) = if place == 0 {
            let (tag, after) = read::tag(rest).ok()?;
            if tag & 7 == read::END_GROUP {
                let body = &payload[..payload.len() - rest.len()];
                return (tag >> 3 == group && complete::<RULES>(plan, node, seen, &tally, body))
                    .then_some(after);
            }
            match node.place(tag) {
                Some(at) => (at, after),
                None if plan.strict || plan.message(node).by_number(tag >> 3).is_some() => return None,
                None => {
                    rest = read::skip(tag, after, depth_left).ok()?.1;
                    continue;
                }
            }
        } else {
            (usize::from(place - 1), after)
        };
        rest = value::<RULES>(plan, &node.steps[at], after, depth_left, &mut seen)?;
        if RULES && let Some(rules) = &node.rules {
            let bytes = &after[..after.len() - rest.len()];
            if !rules::keeps(plan, node, rules, at, bytes, &mut tally) {
                return None;
            }
        }
    }
}

#[inline]
fn complete<const RULES: bool>(plan: &Plan, node: &Node, seen: u64, tally: &Tally, body: &[u8]) -> bool {
    let present = seen & node.mask == node.mask && !node.crowded;
    match &node.rules {
        Some(rules) if RULES => present && rules::complete(plan, node, rules, seen, tally, body),
        _ => present,
    }
}

#[inline]
fn value<'a, const RULES: bool>(
    plan: &Plan,
    step: &Step,
    bytes: &'a [u8],
    depth_left: u32,
    seen: &mut u64,
) -> Option<&'a [u8]> {
    // `bits` is what an implicit field is judged by: zero means absent.
    let (bits, rest) = match step.op {
        // Where presence asks for nothing, only its end matters.
        Op::Varint if step.set | step.clear == 0 => (0, read::past_varint(bytes).ok()?),
        Op::Varint => read::varint(bytes).ok()?,
        Op::Closed => {
            let (number, rest) = read::varint(bytes).ok()?;
            if !knows(plan, step, number) {
                // An undeclared number of a closed enum is an unknown field: it sets nothing.
                return (!plan.strict).then_some(rest);
            }
            (number, rest)
        }
        Op::Fixed64 => {
            let (value, rest) = bytes.split_first_chunk::<8>()?;
            (u64::from_le_bytes(*value), rest)
        }
        Op::Fixed32 => {
            let (value, rest) = bytes.split_first_chunk::<4>()?;
            (u64::from(u32::from_le_bytes(*value)), rest)
        }
        Op::Bytes => {
            let (value, rest) = read::delimited(bytes).ok()?;
            (value.len() as u64, rest)
        }
        Op::Text => {
            let (value, rest) = read::delimited(bytes).ok()?;
            if !is_utf8(value) {
                return None;
            }
            (value.len() as u64, rest)
        }
        Op::Message => {
            let (value, rest) = read::delimited(bytes).ok()?;
            let node = &plan.nodes[step.child as usize];
            whole::<RULES>(plan, node, value, depth_left.checked_sub(1)?)?;
            (1, rest)
        }
        Op::Group => {
            let node = &plan.nodes[step.child as usize];
            (
                1,
                message::<RULES>(plan, node, bytes, depth_left.checked_sub(1)?, step.tag >> 3)?,
            )
        }
        Op::PackedVarint => {
            let (value, rest) = read::delimited(bytes).ok()?;
            if !packed_varints(value) {
                return None;
            }
            (value.len() as u64, rest)
        }
        Op::PackedClosed => {
            let (value, rest) = read::delimited(bytes).ok()?;
            let (mut numbers, mut known) = (value, 0);
            while !numbers.is_empty() {
                let (number, after) = read::varint(numbers).ok()?;
                numbers = after;
                if knows(plan, step, number) {
                    known += 1;
                } else if plan.strict {
                    return None;
                }
            }
            (known, rest)
        }
        Op::PackedFixed64 => packed_fixed(bytes, 8)?,
        Op::PackedFixed32 => packed_fixed(bytes, 4)?,
    };
    if step.set | step.clear != 0 {
        let absent = match step.zero {
            Zero::Never => false,
            Zero::Full => bits == 0,
            Zero::Low32 => bits & 0xffff_ffff == 0,
        };
        if !absent {
            *seen = (*seen | step.set) & !step.clear;
        } else if !is_packed(step.op) {
            *seen &= !step.set;
        }
    }
    Some(rest)
}

/// An empty packed field takes nothing back, unlike a zero in a singular field.
fn is_packed(op: Op) -> bool {
    matches!(
        op,
        Op::PackedVarint | Op::PackedClosed | Op::PackedFixed64 | Op::PackedFixed32
    )
}

fn knows(plan: &Plan, step: &Step, number: u64) -> bool {
    plan.table.enums[step.child as usize].knows(enum_number(number))
}

/// An enum on the wire is an int32: parsers keep the low 32 bits.
#[expect(clippy::cast_possible_truncation, reason = "this is what parsers do")]
pub(crate) fn enum_number(varint: u64) -> i32 {
    varint as i32
}

fn packed_fixed(bytes: &[u8], width: usize) -> Option<(u64, &[u8])> {
    let (value, rest) = read::delimited(bytes).ok()?;
    (value.len() % width == 0).then_some((value.len() as u64, rest))
}

/// Every varint is whole, of at most ten bytes and 64 bits. Eight bytes at a time: only a run of nine continuation bits
/// needs a closer look.
pub(crate) fn packed_varints(bytes: &[u8]) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // `at` bytes are read; the last `open` of them begin a varint that is not ended yet.
    let (mut at, mut open) = (0, 0);
    while let Some((chunk, _)) = bytes[at..].split_first_chunk::<8>() {
        let ends = !u64::from_le_bytes(*chunk) & HIGH;
        let lead = ends.trailing_zeros() as usize / 8;
        if open + lead >= 9 {
            let start = at - open;
            let Ok((_, rest)) = read::varint(&bytes[start..]) else {
                return false;
            };
            (at, open) = (bytes.len() - rest.len(), 0);
            continue;
        }
        at += 8;
        open = if ends == 0 {
            open + 8
        } else {
            ends.leading_zeros() as usize / 8
        };
    }
    let mut rest = &bytes[at - open..];
    while !rest.is_empty() {
        let Ok((_, after)) = read::varint(rest) else {
            return false;
        };
        rest = after;
    }
    true
}

/// Whether the bytes are UTF-8: a glance for short ASCII, SIMD for the rest.
#[inline]
pub(crate) fn is_utf8(bytes: &[u8]) -> bool {
    bytes.len() <= 32 && is_short_ascii(bytes) || simdutf8::basic::from_utf8(bytes).is_ok()
}

/// At most 32 bytes, in words that overlap.
#[inline]
fn is_short_ascii(bytes: &[u8]) -> bool {
    let word = |chunk: Option<&[u8; 8]>| chunk.map_or(0, |chunk| u64::from_le_bytes(*chunk));
    let half = |chunk: Option<&[u8; 4]>| chunk.map_or(0, |chunk| u32::from_le_bytes(*chunk));
    let high = match bytes.len() {
        0..4 => bytes.iter().fold(0, |high, byte| high | u64::from(*byte)),
        4..8 => u64::from(half(bytes.first_chunk()) | half(bytes.last_chunk())),
        length => {
            let mut high = word(bytes.first_chunk()) | word(bytes.last_chunk());
            if length > 16 {
                high |= word(bytes[8..].first_chunk()) | word(bytes[..length - 8].last_chunk());
            }
            high
        }
    };
    high & 0x8080_8080_8080_8080 == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{is_utf8, packed_varints, read};

    proptest! {
        #[test]
        fn packed_varints_are_read_as_one_after_the_other(
            bytes in proptest::collection::vec(prop_oneof![Just(0x80_u8), Just(0xff), Just(0x01), any::<u8>()], 0..60),
        ) {
            let mut rest = bytes.as_slice();
            let mut whole = true;
            while whole && !rest.is_empty() {
                match read::varint(rest) {
                    Ok((_, after)) => rest = after,
                    Err(_) => whole = false,
                }
            }
            prop_assert_eq!(packed_varints(&bytes), whole, "{:02x?}", bytes);
            prop_assert_eq!(read::past_varint(&bytes), read::varint(&bytes).map(|(_, rest)| rest), "{:02x?}", bytes);
        }

        #[test]
        fn short_ascii_is_told_as_any_other(
            bytes in proptest::collection::vec(prop_oneof![9 => 0_u8..0x80, 1 => any::<u8>()], 0..40),
        ) {
            prop_assert_eq!(is_utf8(&bytes), std::str::from_utf8(&bytes).is_ok(), "{:02x?}", bytes);
        }
    }
}
