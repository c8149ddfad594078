//! The slow pass: every violation of a payload the fast pass would not pass.

use std::collections::HashMap;

use super::{
    DEPTH_MAX, presence,
    read::{self, Fault},
    walk::{enum_number, is_utf8},
};
use crate::{
    path::{Key, Path},
    plan::{Node, Op, Plan, Step},
    table::{Kind, Message, Shape},
    violation::{Findings, rule},
};

/// All violations of the payload; none means that it keeps the contract after all.
pub(crate) fn explain(plan: &Plan, payload: &[u8]) -> Findings {
    let mut pass = Pass {
        plan,
        found: Findings::default(),
        malformed: false,
    };
    let _ = pass.message(&plan.nodes[0], payload, DEPTH_MAX, 0, &Path::Root);
    let Pass {
        mut found, malformed, ..
    } = pass;
    // What is missing in a message that could not be read is anyone's guess.
    if !malformed && !found.full() && plan.nodes[0].needs {
        presence::judge(plan, 0, &[payload], &Path::Root, &mut found);
    }
    found
}

struct Pass<'p> {
    plan: &'p Plan,
    found: Findings,
    /// Some bytes could not be read as fields.
    malformed: bool,
}

impl Pass<'_> {
    /// Like the fast pass' function of that name; `None`: the rest of this slice cannot be read.
    fn message<'a>(
        &mut self,
        node: &Node,
        payload: &'a [u8],
        depth_left: u32,
        group: u32,
        path: &Path<'_>,
    ) -> Option<&'a [u8]> {
        let plan = self.plan;
        let message = plan.message(node);
        let mut rest = payload;
        let mut counts = HashMap::new();
        while !self.found.full() {
            if rest.is_empty() {
                return if group == 0 {
                    Some(rest)
                } else {
                    self.fault(path, Fault::Truncated)
                };
            }
            let (tag, after) = match read::tag(rest) {
                Ok(read) => read,
                Err(fault) => return self.fault(path, fault),
            };
            let number = tag >> 3;
            if tag & 7 == read::END_GROUP {
                return if number == group {
                    Some(after)
                } else {
                    self.fault(path, Fault::Group)
                };
            }
            rest = if let Some(step) = node.step(tag) {
                self.field(message, step, after, depth_left, path, &mut counts)?
            } else {
                let known = message.by_number(number).map(|at| &message.fields[at]);
                match known {
                    Some(field) => {
                        let place = Path::Field(path, &field.name);
                        self.found.push(
                            &place,
                            rule::WIRE_TYPE,
                            "wire type does not fit the declared type",
                        );
                    }
                    None if plan.strict => {
                        let text = format!("unknown field {number}");
                        self.found
                            .push(&Path::Number(path, number), rule::UNKNOWN_FIELD, text);
                    }
                    None => {}
                }
                match read::skip(tag, after, depth_left) {
                    Ok((_, rest)) => rest,
                    Err(fault) => return self.fault(&Path::Number(path, number), fault),
                }
            };
        }
        None
    }

    fn field<'a>(
        &mut self,
        message: &Message,
        step: &Step,
        bytes: &'a [u8],
        depth_left: u32,
        path: &Path<'_>,
        counts: &mut HashMap<u32, usize>,
    ) -> Option<&'a [u8]> {
        let field = &message.fields[step.field as usize];
        // An entry's own fields have no place of their own: the entry is `labels["eu"]`.
        let named = if message.map_entry {
            *path
        } else {
            Path::Field(path, &field.name)
        };
        let next = counts.entry(step.field).or_default();
        let index = *next;
        match field.shape {
            Shape::Singular => self.value(step, bytes, depth_left, &named),
            Shape::Repeated if field.kind.packable() && step.tag & 7 == read::LEN => {
                let (elements, rest) = self.read(&named, read::delimited(bytes))?;
                *next += self.packed(step, elements, index, &named);
                Some(rest)
            }
            Shape::Repeated => {
                *next += 1;
                self.value(step, bytes, depth_left, &Path::Index(&named, index))
            }
            Shape::Map => {
                let entry = match read::delimited(bytes) {
                    Ok((entry, _)) => entry,
                    Err(fault) => return self.fault(&named, fault),
                };
                let key = entry_key(&self.plan.table.messages[field.kind.message()? as usize], entry);
                self.value(step, bytes, depth_left, &Path::Key(&named, &key))
            }
        }
    }

    /// One value that is not packed.
    fn value<'a>(
        &mut self,
        step: &Step,
        bytes: &'a [u8],
        depth_left: u32,
        path: &Path<'_>,
    ) -> Option<&'a [u8]> {
        let plan = self.plan;
        match step.op {
            Op::Message => {
                let (value, rest) = self.read(path, read::delimited(bytes))?;
                match depth_left.checked_sub(1) {
                    // A broken message inside a whole one: what follows it can still be read.
                    Some(left) => {
                        let _ = self.message(&plan.nodes[step.child as usize], value, left, 0, path);
                    }
                    None => {
                        let _ = self.fault::<()>(path, Fault::Depth);
                    }
                }
                (!self.found.full()).then_some(rest)
            }
            Op::Group => match depth_left.checked_sub(1) {
                Some(left) => {
                    self.message(&plan.nodes[step.child as usize], bytes, left, step.tag >> 3, path)
                }
                None => self.fault(path, Fault::Depth),
            },
            Op::Text => {
                let (value, rest) = self.read(path, read::delimited(bytes))?;
                if !is_utf8(value) {
                    self.found
                        .push(path, rule::WIRE_UTF8, "a string must be valid UTF-8");
                }
                Some(rest)
            }
            Op::Closed => {
                let (number, rest) = self.read(path, read::varint(bytes))?;
                self.closed(step, number, path);
                Some(rest)
            }
            _ => Some(self.read(path, read::skip(step.tag, bytes, depth_left))?.1),
        }
    }

    /// The elements of a packed field; how many there are.
    fn packed(&mut self, step: &Step, elements: &[u8], first: usize, path: &Path<'_>) -> usize {
        let width = match step.op {
            Op::PackedFixed64 => 8,
            Op::PackedFixed32 => 4,
            _ => 0,
        };
        if width > 0 {
            if !elements.len().is_multiple_of(width) {
                self.malformed = true;
                self.found
                    .push(path, rule::WIRE_PACKED, "the last packed element is cut off");
            }
            return elements.len() / width;
        }
        let (mut rest, mut index) = (elements, first);
        while !rest.is_empty() && !self.found.full() {
            let place = Path::Index(path, index);
            match read::varint(rest) {
                Ok((number, after)) => {
                    if step.op == Op::PackedClosed {
                        self.closed(step, number, &place);
                    }
                    rest = after;
                    index += 1;
                }
                Err(Fault::Truncated) => {
                    self.malformed = true;
                    self.found
                        .push(&place, rule::WIRE_PACKED, "the last packed element is cut off");
                    break;
                }
                Err(fault) => {
                    let _ = self.fault::<()>(&place, fault);
                    break;
                }
            }
        }
        index - first
    }

    fn closed(&mut self, step: &Step, number: u64, path: &Path<'_>) {
        let declared = &self.plan.table.enums[step.child as usize];
        if self.plan.strict && !declared.knows(enum_number(number)) {
            self.found.push(
                path,
                rule::CLOSED_ENUM,
                format!("not a value of the closed enum {}", declared.name),
            );
        }
    }

    fn read<'a, T>(&mut self, path: &Path<'_>, read: Result<(T, &'a [u8]), Fault>) -> Option<(T, &'a [u8])> {
        match read {
            Ok(read) => Some(read),
            Err(fault) => self.fault(path, fault),
        }
    }

    fn fault<T>(&mut self, path: &Path<'_>, fault: Fault) -> Option<T> {
        self.malformed = true;
        let (rule, text) = match fault {
            Fault::Truncated => (rule::WIRE_TRUNCATED, "the payload ends inside this value"),
            Fault::Varint => (rule::WIRE_VARINT, "a varint has more than 64 bits"),
            Fault::Tag => (rule::WIRE_TAG, "not a legal field tag"),
            Fault::Length => (rule::WIRE_LENGTH, "a length has more than 32 bits"),
            Fault::Group => (rule::WIRE_GROUP, "group start and end tags do not match"),
            Fault::Depth => (rule::WIRE_DEPTH, "nested deeper than 100 levels"),
        };
        self.found.push(path, rule, text);
        None
    }
}

/// The key of a map entry: the last one it holds, else its type's zero. A broken entry has what could be read.
pub(crate) fn entry_key<'a>(entry: &Message, bytes: &'a [u8]) -> Key<'a> {
    let kind = entry.fields.first().map_or(Kind::String, |key| key.kind);
    let mut key = match kind {
        Kind::String => Key::Text("".into()),
        Kind::Bool => Key::Bool(false),
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => Key::Unsigned(0),
        _ => Key::Signed(0),
    };
    let mut rest = bytes;
    while let Ok((tag, after)) = read::tag(rest) {
        let Ok((value, after)) = read::skip(tag, after, DEPTH_MAX) else {
            break;
        };
        rest = after;
        if tag >> 3 == 1
            && let Some(found) = key_value(kind, tag, value)
        {
            key = found;
        }
    }
    key
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "this is how the wire encodes them"
)]
fn key_value(kind: Kind, tag: u32, value: &[u8]) -> Option<Key<'_>> {
    let varint = || {
        read::varint(value)
            .ok()
            .filter(|_| tag & 7 == read::VARINT)
            .map(|(value, _)| value)
    };
    let zigzag = |value: u64| (value >> 1) as i64 ^ -((value & 1) as i64);
    let long = || {
        value
            .first_chunk::<8>()
            .filter(|_| tag & 7 == read::FIXED64)
            .map(|value| u64::from_le_bytes(*value))
    };
    let short = || {
        value
            .first_chunk::<4>()
            .filter(|_| tag & 7 == read::FIXED32)
            .map(|value| u32::from_le_bytes(*value))
    };
    Some(match kind {
        Kind::String if tag & 7 == read::LEN => Key::Text(String::from_utf8_lossy(value)),
        Kind::Bool => Key::Bool(varint()? != 0),
        Kind::Int32 => Key::Signed(i64::from(varint()? as i32)),
        Kind::Int64 => Key::Signed(varint()? as i64),
        Kind::Uint32 => Key::Unsigned(u64::from(varint()? as u32)),
        Kind::Uint64 => Key::Unsigned(varint()?),
        Kind::Sint32 => Key::Signed(zigzag(u64::from(varint()? as u32))),
        Kind::Sint64 => Key::Signed(zigzag(varint()?)),
        Kind::Fixed32 => Key::Unsigned(u64::from(short()?)),
        Kind::Fixed64 => Key::Unsigned(long()?),
        Kind::Sfixed32 => Key::Signed(i64::from(short()? as i32)),
        Kind::Sfixed64 => Key::Signed(long()? as i64),
        _ => return None,
    })
}
