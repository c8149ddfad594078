//! What becomes of the values of a document: nothing, or the same message in the binary format.
//!
//! The lengths of messages are known when they end. So the bytes are written without them, each place is noted, and
//! [`Encoder::finish`] puts all together: linear, whatever the nesting.

use crate::{
    table::Kind,
    wire::read::{END_GROUP, FIXED32, FIXED64, LEN, START_GROUP, VARINT},
};

/// Where a value goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) form: Form,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With its tag.
    Tagged,
    /// With its tag, unless it is its type's zero.
    Filled,
    /// Without a tag, inside a packed field.
    Packed,
}

/// A scalar.
#[derive(Clone, Copy, Debug)]
pub(super) enum Scalar<'a> {
    Integer(i128),
    Float(f64),
    Bytes(&'a [u8]),
}

/// Takes the values of a document in its order.
pub(super) trait Output {
    /// Whether values matter at all.
    const ON: bool;
    fn scalar(&mut self, slot: Slot, kind: Kind, value: Scalar<'_>);
    /// A message or a packed field begins.
    fn open(&mut self, number: u32);
    fn close(&mut self);
    /// The bytes field of an `Any` ends: it is not there when it is empty.
    fn close_filled(&mut self);
    /// A group begins or ends.
    fn group(&mut self, number: u32, end: bool);
}

/// Only checked.
impl Output for () {
    const ON: bool = false;
    #[inline]
    fn scalar(&mut self, _: Slot, _: Kind, _: Scalar<'_>) {}
    #[inline]
    fn open(&mut self, _: u32) {}
    #[inline]
    fn close(&mut self) {}
    #[inline]
    fn close_filled(&mut self) {}
    #[inline]
    fn group(&mut self, _: u32, _: bool) {}
}

/// Writes the binary format.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    /// Everything but the lengths of messages.
    raw: Vec<u8>,
    lengths: Vec<Length>,
    /// Open messages: their length's index, `added` when they began, and where their tag is.
    open: Vec<(usize, usize, usize)>,
    /// How many bytes the lengths of closed messages take.
    added: usize,
}

#[derive(Debug)]
struct Length {
    at: usize,
    bytes: usize,
}

impl Encoder {
    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len() + self.added);
        let mut done = 0;
        for length in &self.lengths {
            out.extend_from_slice(&self.raw[done..length.at]);
            varint(length.bytes as u64, &mut out);
            done = length.at;
        }
        out.extend_from_slice(&self.raw[done..]);
        out
    }

    fn tag(&mut self, number: u32, wire: u32) {
        varint(u64::from(number << 3 | wire), &mut self.raw);
    }
}

impl Output for Encoder {
    const ON: bool = true;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "numbers were checked to fit; this is how the wire encodes them"
    )]
    fn scalar(&mut self, slot: Slot, kind: Kind, value: Scalar<'_>) {
        let empty = match value {
            Scalar::Integer(value) => value == 0,
            Scalar::Float(value) => value.to_bits() == 0,
            Scalar::Bytes(bytes) => bytes.is_empty(),
        };
        if slot.form == Form::Filled && empty {
            return;
        }
        let wire = match kind {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => FIXED64,
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => FIXED32,
            Kind::String | Kind::Bytes => LEN,
            _ => VARINT,
        };
        if slot.form != Form::Packed {
            self.tag(slot.number, wire);
        }
        match (kind, value) {
            (_, Scalar::Bytes(bytes)) => {
                varint(bytes.len() as u64, &mut self.raw);
                self.raw.extend_from_slice(bytes);
            }
            (Kind::Float, Scalar::Float(value)) => self.raw.extend((value as f32).to_le_bytes()),
            (_, Scalar::Float(value)) => self.raw.extend(value.to_le_bytes()),
            (Kind::Sint32 | Kind::Sint64, Scalar::Integer(value)) => {
                let value = value as i64;
                varint((value << 1 ^ value >> 63) as u64, &mut self.raw);
            }
            (Kind::Fixed32 | Kind::Sfixed32, Scalar::Integer(value)) => {
                self.raw.extend((value as u32).to_le_bytes());
            }
            (Kind::Fixed64 | Kind::Sfixed64, Scalar::Integer(value)) => {
                self.raw.extend((value as u64).to_le_bytes());
            }
            (_, Scalar::Integer(value)) => varint(value as u64, &mut self.raw),
        }
    }

    fn open(&mut self, number: u32) {
        let tag = self.raw.len();
        self.tag(number, LEN);
        self.open.push((self.lengths.len(), self.added, tag));
        self.lengths.push(Length {
            at: self.raw.len(),
            bytes: 0,
        });
    }

    fn close(&mut self) {
        // A document that is not accepted may close less than it opened; what it wrote is dropped.
        if let Some((index, added, _)) = self.open.pop() {
            let length = &mut self.lengths[index];
            length.bytes = self.raw.len() - length.at + self.added - added;
            self.added += width(length.bytes);
        }
    }

    fn close_filled(&mut self) {
        match self.open.last() {
            Some(&(index, _, tag)) if self.lengths[index].at == self.raw.len() => {
                self.raw.truncate(tag);
                self.lengths.truncate(index);
                self.open.pop();
            }
            _ => self.close(),
        }
    }

    fn group(&mut self, number: u32, end: bool) {
        self.tag(number, if end { END_GROUP } else { START_GROUP });
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn width(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}
