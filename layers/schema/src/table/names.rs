//! Names: which are legal, how they join, and how JSON spells them.

use std::{collections::HashMap, sync::Arc};

use super::{Kind, Message, Shape};
use crate::error::LoadError;

const IDENTIFIER_BYTES_MAX: usize = 255;

/// An element that no Protobuf compiler would have written.
pub(super) fn invalid(element: &str, problem: impl Into<String>) -> LoadError {
    LoadError::Invalid {
        element: element.to_owned(),
        problem: problem.into(),
    }
}

/// Every JSON spelling: the names first, then the JSON names that are still free. A JSON name that two fields claim
/// (proto2 allows it) belongs to neither.
pub(super) fn spellings(message: &Message) -> Result<HashMap<Box<str>, u32>, LoadError> {
    let mut names: HashMap<Box<str>, u32> = HashMap::with_capacity(message.fields.len() * 2);
    for (at, field) in (0_u32..).zip(&message.fields) {
        if names.insert(field.name.clone(), at).is_some() {
            return Err(invalid(
                &message.name,
                format!("has the field {} twice", field.name),
            ));
        }
    }
    let mut claims: HashMap<&str, Option<u32>> = HashMap::new();
    for (at, field) in (0_u32..).zip(&message.fields) {
        claims
            .entry(&field.json_name)
            .and_modify(|claim| *claim = None)
            .or_insert(Some(at));
    }
    for (name, claim) in claims {
        if let Some(at) = claim {
            names.entry(name.into()).or_insert(at);
        }
    }
    Ok(names)
}

pub(super) fn check_entry(message: &Message) -> Result<(), LoadError> {
    let shape = message.fields.iter().all(|field| field.shape == Shape::Singular);
    let (Some(key), Some(_)) = (message.by_number(1), message.by_number(2)) else {
        return Err(invalid(&message.name, "is a map entry without key and value"));
    };
    let legal = !matches!(
        message.fields[key].kind,
        Kind::Double | Kind::Float | Kind::Bytes | Kind::Enum(_) | Kind::Message(_) | Kind::Group(_)
    );
    if shape && legal && message.fields.len() == 2 {
        Ok(())
    } else {
        Err(invalid(&message.name, "is not a legal map entry"))
    }
}

pub(super) fn qualify(scope: &str, name: &str) -> Arc<str> {
    if scope.is_empty() {
        name.into()
    } else {
        format!("{scope}.{name}").into()
    }
}

pub(super) fn check_identifier(scope: &str, name: &str) -> Result<(), LoadError> {
    let legal = name.len() <= IDENTIFIER_BYTES_MAX
        && name
            .bytes()
            .next()
            .is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if legal {
        Ok(())
    } else {
        Err(invalid(scope, format!("contains the illegal name {name:?}")))
    }
}

/// `user_id` to `userId`, as protoc does it.
pub(super) fn json_name(name: &str) -> String {
    let mut json = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        if letter == '_' {
            upper = true;
        } else if upper {
            json.push(letter.to_ascii_uppercase());
            upper = false;
        } else {
            json.push(letter);
        }
    }
    json
}
