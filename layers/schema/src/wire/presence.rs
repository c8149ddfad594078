//! Presence, and at level `rules` the values, of the merged message.
//!
//! Occurrences of a singular message merge as if their bytes were one: so a merged message is a list of slices, and no
//! message has to be built. This is the definition the fast pass approximates; it works for every syntax and edition.

use std::collections::HashMap;

use super::{DEPTH_MAX, explain::entry_key, read, rules, walk::enum_number};
use crate::{
    path::{Key, Path},
    plan::{NONE, Node, Op, Plan, Requirement, Step, Zero},
    table::{Kind, Shape},
    violation::Findings,
};

/// What the slices say of one field.
#[derive(Default)]
struct State<'a> {
    present: bool,
    /// Occurrences whose content matters.
    values: Vec<&'a [u8]>,
}

/// Reports what is missing in the message of that node whose merged form is these slices, which can all be read.
pub(crate) fn judge(plan: &Plan, node: u32, slices: &[&[u8]], path: &Path<'_>, found: &mut Findings) {
    let node = &plan.nodes[node as usize];
    let message = plan.message(node);
    let mut states: HashMap<u32, State<'_>> = HashMap::new();
    for slice in slices {
        let mut rest = *slice;
        while let Ok((tag, after)) = read::tag(rest) {
            let Ok((value, after)) = read::skip(tag, after, DEPTH_MAX) else {
                break;
            };
            rest = after;
            let Some(step) = node.step(tag) else { continue };
            let Some(present) = is_present(plan, message.fields[step.field as usize].kind, step, value)
            else {
                continue;
            };
            let field = &message.fields[step.field as usize];
            if field.oneof.is_some() {
                // The last member of a oneof wins and clears the others.
                states.retain(|&other, _| {
                    other == step.field || message.fields[other as usize].oneof != field.oneof
                });
            }
            let state = states.entry(step.field).or_default();
            state.present = present || state.present && field.shape != Shape::Singular;
            let ruled = node
                .rules
                .as_ref()
                .is_some_and(|rules| rules.field(step.field).is_some());
            if ruled || below(plan, node, step.field).is_some() {
                if field.shape == Shape::Singular && field.kind.message().is_none() {
                    state.values.clear();
                }
                rules::unpack(step, field.kind, value, &mut state.values);
                state
                    .values
                    .retain(|value| rules::is_kept(plan, field.kind, value));
            }
        }
    }
    let mut missing = Vec::new();
    for &requirement in &node.required {
        let present = |at: &u32| states.get(at).is_some_and(|state| state.present);
        match requirement {
            Requirement::Field(at) if !present(&at) => {
                found.missing(&Path::Field(path, &message.fields[at as usize].name), "field");
                missing.push(at);
            }
            Requirement::Oneof(oneof) => {
                let members = (0_u32..)
                    .zip(&message.fields)
                    .filter(|(_, field)| field.oneof == Some(oneof));
                if !members.map(|(at, _)| at).any(|at| present(&at)) {
                    found.missing(&Path::Field(path, &message.oneofs[oneof as usize].name), "oneof");
                }
            }
            Requirement::Field(_) => {}
        }
    }
    if let Some(rules) = &node.rules {
        let present = |at| states.get(&at).is_some_and(|state| state.present);
        rules::judge_groups(rules, present, path, found);
        for (at, field) in (0_u32..).zip(&message.fields) {
            // What is missing is said once.
            let Some(own) = rules
                .field(at)
                .filter(|_| !missing.contains(&at) && !message.map_entry)
            else {
                continue;
            };
            let values = states.get(&at).map_or(&[][..], |state| &state.values);
            rules::judge_field(plan, field, own, values, &Path::Field(path, &field.name), found);
        }
    }
    let mut messages: Vec<(u32, State<'_>)> = states
        .into_iter()
        .filter(|(at, state)| !state.values.is_empty() && below(plan, node, *at).is_some())
        .collect();
    messages.sort_unstable_by_key(|(at, _)| *at);
    for (at, state) in messages {
        let (field, child) = (&message.fields[at as usize], node.children[at as usize]);
        let place = Path::Field(path, &field.name);
        match field.shape {
            Shape::Singular => judge(plan, child, &state.values, &place, found),
            Shape::Repeated => {
                for (index, value) in state.values.iter().enumerate() {
                    if found.full() {
                        return;
                    }
                    judge(plan, child, &[value], &Path::Index(&place, index), found);
                }
            }
            Shape::Map => judge_map(plan, child, &state.values, &place, found),
        }
    }
}

/// The node of the messages in a field, if anything is asked of them.
fn below(plan: &Plan, node: &Node, field: u32) -> Option<u32> {
    let child = node.children[field as usize];
    (child != NONE && plan.nodes[child as usize].needs).then_some(child)
}

/// The last entry of a key is the entry.
fn judge_map(plan: &Plan, entry: u32, entries: &[&[u8]], path: &Path<'_>, found: &mut Findings) {
    let node = &plan.nodes[entry as usize];
    let message = plan.message(node);
    let Some(field) = message.by_number(2).and_then(|at| u32::try_from(at).ok()) else {
        return;
    };
    let kind = message.fields[field as usize].kind;
    let mut last: HashMap<Key<'_>, usize> = HashMap::with_capacity(entries.len());
    let keys: Vec<Key<'_>> = entries.iter().map(|bytes| entry_key(message, bytes)).collect();
    for (at, key) in keys.iter().enumerate() {
        last.insert(key.clone(), at);
    }
    for (at, key) in keys.iter().enumerate() {
        if found.full() {
            return;
        }
        if last.get(key) != Some(&at) {
            continue;
        }
        let mut values = Vec::new();
        let mut rest = entries[at];
        while let Ok((tag, after)) = read::tag(rest) {
            let Ok((bytes, after)) = read::skip(tag, after, DEPTH_MAX) else {
                break;
            };
            rest = after;
            if node.step(tag).is_some_and(|step| step.field == field) && rules::is_kept(plan, kind, bytes) {
                values.push(bytes);
            }
        }
        let place = Path::Key(path, key);
        if let Some(rules) = &node.rules {
            rules::judge_entry(plan, message, rules, key, &values, &place, found);
        }
        // An entry without a value holds the empty message.
        if let Some(value) = below(plan, node, field) {
            judge(plan, value, &values, &place, found);
        }
    }
}

/// Whether this occurrence makes the field present; `None`: it is not an occurrence at all.
fn is_present(plan: &Plan, kind: Kind, step: &Step, value: &[u8]) -> Option<bool> {
    if let Kind::Enum(at) = kind
        && plan.table.enums[at as usize].closed
    {
        let declared = &plan.table.enums[at as usize];
        let mut rest = value;
        let (mut known, mut any) = (false, false);
        while let Ok((number, after)) = read::varint(rest) {
            rest = after;
            any = true;
            known |= declared.knows(enum_number(number));
        }
        return if known {
            Some(true)
        } else if any || step.op == Op::PackedClosed {
            None
        } else {
            Some(false)
        };
    }
    Some(match step.zero {
        Zero::Never => true,
        Zero::Full => match step.op {
            Op::Varint => read::varint(value).is_ok_and(|(value, _)| value != 0),
            Op::Fixed32 | Op::Fixed64 => value.iter().any(|&byte| byte != 0),
            _ => !value.is_empty(),
        },
        Zero::Low32 => read::varint(value).is_ok_and(|(value, _)| value & 0xffff_ffff != 0),
    })
}
