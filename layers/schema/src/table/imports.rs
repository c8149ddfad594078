//! The files of a set and how they import each other.

use std::collections::HashMap;

use super::names::invalid;
use crate::{descriptor::FileProto, error::LoadError};

/// Every import is in the set, none twice, none in a circle.
pub(super) fn check_imports(files: &[FileProto]) -> Result<(), LoadError> {
    let mut index = HashMap::new();
    for (at, file) in files.iter().enumerate() {
        let name = file.name.as_deref().unwrap_or_default();
        if name.is_empty() || name.len() > 1024 || name.chars().any(char::is_control) {
            return Err(invalid("a file", "has no usable name"));
        }
        if index.insert(name, at).is_some() {
            return Err(invalid(name, "is in the set twice"));
        }
    }
    let mut waiting = vec![0_usize; files.len()];
    let mut users: Vec<Vec<usize>> = vec![Vec::new(); files.len()];
    for (at, file) in files.iter().enumerate() {
        for dependency in &file.dependency {
            let Some(&import) = index.get(dependency.as_str()) else {
                return Err(invalid(
                    file.name.as_deref().unwrap_or_default(),
                    format!(
                        "imports {dependency:?}, which is not in the set: build it with --include_imports"
                    ),
                ));
            };
            waiting[at] += 1;
            users[import].push(at);
        }
    }
    let mut ready: Vec<usize> = (0..files.len()).filter(|&at| waiting[at] == 0).collect();
    let mut done = 0;
    while let Some(at) = ready.pop() {
        done += 1;
        for &user in &users[at] {
            waiting[user] -= 1;
            if waiting[user] == 0 {
                ready.push(user);
            }
        }
    }
    match waiting.iter().position(|&count| count > 0) {
        Some(at) if done < files.len() => Err(invalid(
            files[at].name.as_deref().unwrap_or_default(),
            "is part of an import cycle",
        )),
        _ => Ok(()),
    }
}
