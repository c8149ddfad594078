//! Where each value came from.

use std::path::Path;

use figment::{Figment, value};
use serde::Serialize;
use serde_json::Value;

use super::{Config, Finding, InvalidConfig, Override};

/// A key, its value in force, and where that came from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Origin {
    /// The key, such as `platform.mirroring.rules[0].percent`.
    pub key: String,
    /// Its value; what is secret is `"[redacted]"`.
    pub value: Value,
    /// Which kind of place.
    pub source: Place,
    /// The flag, the variable or the file; `None` for a default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// The kinds of places a value can come from; what stands first goes before what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The command line.
    Flag,
    /// The environment.
    Env,
    /// The configuration file.
    File,
    /// Nobody said anything.
    Default,
}

impl Place {
    /// `flag`, `env`, `file` or `default`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Env => "env",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// Whoever knows these can choose to be in a sample.
const SECRETS: &[&str] = &["platform.mirroring.seed"];
/// Keys that end so hold something secret, whatever table they are in. A path to a file is none.
const SECRET_ENDS: &[&str] = &["password", "secret", "token", "private_key"];

impl Config {
    /// Every key with its value in force and where it came from, in the order of the sections.
    ///
    /// # Errors
    /// All findings, as [`Config::load`].
    pub fn origins(file: Option<&Path>, flags: &[Override]) -> Result<Vec<Origin>, InvalidConfig> {
        let config = Self::load(file, flags)?;
        let figment = super::figment(file, flags)?;
        let tree = serde_json::to_value(&config).expect("a configuration is plain data");
        let mut origins = Vec::new();
        walk(&figment, &tree, "", &mut origins);
        Ok(origins)
    }
}

fn walk(figment: &Figment, value: &Value, path: &str, origins: &mut Vec<Origin>) {
    let join = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match value {
        Value::Object(table) if !table.is_empty() => {
            for (name, value) in table {
                walk(figment, value, &join(name), origins);
            }
        }
        Value::Array(list) if list.first().is_some_and(Value::is_object) => {
            for (at, value) in list.iter().enumerate() {
                walk(figment, value, &format!("{path}[{at}]"), origins);
            }
        }
        _ => {
            let (source, from) = place_of(figment, path);
            origins.push(Origin {
                key: path.to_owned(),
                value: shown(path, value),
                source,
                from,
            });
        }
    }
}

fn shown(path: &str, value: &Value) -> Value {
    let name = path.rsplit('.').next().unwrap_or(path);
    let secret = SECRETS.contains(&path) && value.as_u64() != Some(0)
        || SECRET_ENDS.iter().any(|end| name.ends_with(end));
    if secret && !value.is_null() {
        return Value::from("[redacted]");
    }
    match value {
        Value::String(text) if text.contains("://") && text.contains(['@', '?', '#']) => {
            Value::from(super::shown_url(text))
        }
        other => other.clone(),
    }
}

/// Which place set the key, and its name there.
pub(super) fn place_of(figment: &Figment, path: &str) -> (Place, Option<String>) {
    let Ok(root) = figment.extract::<value::Value>() else {
        return (Place::Default, None);
    };
    let Some(found) = find(&root, path) else {
        return (Place::Default, None);
    };
    let Some(metadata) = figment.get_metadata(found.tag()) else {
        return (Place::Default, None);
    };
    let name = metadata.name.as_ref();
    if let Some(flag) = name.strip_prefix("a flag for ") {
        let flag = super::flag_of(flag).unwrap_or(flag);
        return (Place::Flag, Some(flag.to_owned()));
    }
    if name.contains("environment variable") {
        let variable = match path.strip_prefix("bus.") {
            Some(key) if name.contains("RON_BUS_") => format!("RON_BUS_{}", key.to_ascii_uppercase()),
            _ => super::variable_of(path),
        };
        return (Place::Env, Some(variable));
    }
    let file = metadata.source.as_ref().map(ToString::to_string);
    (Place::File, file)
}

/// The value at a path such as `a.b[2].c`.
fn find<'a>(root: &'a value::Value, path: &str) -> Option<&'a value::Value> {
    let mut at = root;
    for part in path.split(['.', '[']).map(|part| part.trim_end_matches(']')) {
        at = match at {
            value::Value::Dict(_, table) => table.get(part)?,
            value::Value::Array(_, list) => list.get(part.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(at)
}

/// Numbers that are none: TOML can write them, and nothing here means anything by them.
pub(super) fn not_numbers(figment: &Figment) -> Vec<Finding> {
    fn walk(value: &value::Value, path: &str, findings: &mut Vec<Finding>) {
        match value {
            value::Value::Dict(_, table) => {
                for (name, value) in table {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    walk(value, &path, findings);
                }
            }
            value::Value::Array(_, list) => {
                for (at, value) in list.iter().enumerate() {
                    walk(value, &format!("{path}[{at}]"), findings);
                }
            }
            value::Value::Num(_, number) => {
                if let Some(float) = number.to_f64().filter(|float| !float.is_finite()) {
                    let shown = float.to_string().to_lowercase();
                    findings.push(Finding::new(
                        path,
                        format!("{shown} is not a number that can be used: write a finite one"),
                    ));
                }
            }
            _ => {}
        }
    }
    let mut findings = Vec::new();
    if let Ok(root) = figment.extract::<value::Value>() {
        walk(&root, "", &mut findings);
    }
    findings
}
