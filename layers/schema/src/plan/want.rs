//! Required paths of a mapping, as a tree.

use std::collections::BTreeMap;

use super::Requirement;
use crate::{
    error::LoadError,
    table::{Message, Shape, Table},
};

/// Required paths as a tree: what is wanted of a message, and of the messages in its fields.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) here: Vec<Requirement>,
    pub(super) below: BTreeMap<u32, Wanted>,
}

/// Adds one required path, such as `items[].sku`, to the tree.
pub(super) fn want(table: &Table, root: u32, path: &str, wanted: &mut Wanted) -> Result<(), LoadError> {
    let refuse = |problem: String| LoadError::Required {
        path: path.to_owned(),
        problem,
    };
    let (mut message, mut wanted) = (root, wanted);
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let owner = &table.messages[message as usize];
        if owner.well_known.is_some() {
            return Err(refuse(format!(
                "{} has a form of its own; require the field that holds it",
                owner.name
            )));
        }
        let (name, each) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        let Some(index) = owner.fields.iter().position(|field| *field.name == *name) else {
            let oneof = owner.oneofs.iter().position(|oneof| *oneof.name == *name);
            let last = parts.peek().is_none() && !each;
            let Some(oneof) = oneof.filter(|_| last).and_then(|at| u32::try_from(at).ok()) else {
                return Err(refuse(format!(
                    "{} has no field '{name}'{}",
                    owner.name,
                    hint(owner, name)
                )));
            };
            wanted.here.push(Requirement::Oneof(oneof));
            return Ok(());
        };
        let field = &owner.fields[index];
        let index = u32::try_from(index).expect("the scan caps the fields");
        if parts.peek().is_none() {
            if each {
                return Err(refuse(format!(
                    "ends in '{part}': name the list itself, or a field of its elements"
                )));
            }
            wanted.here.push(Requirement::Field(index));
            return Ok(());
        }
        if each == (field.shape == Shape::Singular) {
            return Err(refuse(match field.shape {
                Shape::Singular => format!("'{name}' is not repeated: write '{name}'"),
                Shape::Repeated | Shape::Map => format!("'{name}' is repeated: write '{name}[]'"),
            }));
        }
        let not_message = || {
            refuse(format!(
                "'{name}' holds no messages, so nothing can be required of them"
            ))
        };
        message = field.kind.message().ok_or_else(not_message)?;
        wanted = wanted.below.entry(index).or_default();
        if field.shape == Shape::Map {
            let entry = &table.messages[message as usize];
            let value = entry.by_number(2).ok_or_else(not_message)?;
            message = entry.fields[value].kind.message().ok_or_else(not_message)?;
            wanted = wanted
                .below
                .entry(u32::try_from(value).expect("an entry has two fields"))
                .or_default();
        }
    }
    Ok(())
}

/// A field that was probably meant: the same name in its other spelling.
fn hint(message: &Message, name: &str) -> String {
    let meant = message
        .json
        .get(name)
        .map(|&at| &message.fields[at as usize].name);
    meant.map_or_else(String::new, |meant| format!(": write '{meant}'"))
}
