//! Which tags a message has, and what each asks of its value.

use std::collections::HashMap;

use super::{Op, Requirement, Step, Zero};
use crate::{
    table::{Field, Kind, Message, Presence, Shape, Table},
    wire::read::{FIXED32, FIXED64, LEN, START_GROUP, VARINT},
};

pub(super) fn steps_of(
    table: &Table,
    message: &Message,
    index: u32,
    field: &Field,
    child: u32,
    bits: &HashMap<Requirement, u64>,
    strict: bool,
) -> impl Iterator<Item = Step> {
    let bit = |wish| bits.get(&wish).copied().unwrap_or(0);
    let mut set = bit(Requirement::Field(index));
    let mut clear = 0;
    if let Some(oneof) = field.oneof {
        set |= bit(Requirement::Oneof(oneof));
        for (other, _) in (0_u32..)
            .zip(&message.fields)
            .filter(|(at, other)| *at != index && other.oneof == Some(oneof))
        {
            clear |= bit(Requirement::Field(other));
        }
    }
    let (wire, op, packed) = forms(field.kind);
    let closed = match field.kind {
        Kind::Enum(at) if table.enums[at as usize].closed && (strict || set | clear != 0) => Some(at),
        _ => None,
    };
    let implicit = field.shape == Shape::Singular && field.presence == Presence::Implicit;
    let zero = match field.kind {
        _ if !implicit => Zero::Never,
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Enum(_) => Zero::Low32,
        _ => Zero::Full,
    };
    let one = Step {
        tag: field.number << 3 | wire,
        op: if closed.is_some() { Op::Closed } else { op },
        field: index,
        child: closed.unwrap_or(child),
        set,
        clear,
        zero,
    };
    let many = (field.shape == Shape::Repeated && field.kind.packable()).then(|| Step {
        tag: field.number << 3 | LEN,
        op: if closed.is_some() {
            Op::PackedClosed
        } else {
            packed
        },
        // An empty packed field adds no element.
        zero: Zero::Full,
        ..one
    });
    std::iter::once(one).chain(many)
}

/// Wire type, form and packed form of a kind.
fn forms(kind: Kind) -> (u32, Op, Op) {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => (FIXED64, Op::Fixed64, Op::PackedFixed64),
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => (FIXED32, Op::Fixed32, Op::PackedFixed32),
        Kind::String => (LEN, Op::Text, Op::Text),
        Kind::Bytes => (LEN, Op::Bytes, Op::Bytes),
        Kind::Message(_) => (LEN, Op::Message, Op::Message),
        Kind::Group(_) => (START_GROUP, Op::Group, Op::Group),
        Kind::Int64
        | Kind::Uint64
        | Kind::Int32
        | Kind::Bool
        | Kind::Uint32
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Enum(_) => (VARINT, Op::Varint, Op::PackedVarint),
    }
}
