//! File, environment and flags: merged, and named again when something that came from them does not hold.

use std::path::Path;

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Env, Format, Serialized, Toml},
};

#[cfg(feature = "cli")]
use super::flags;
use super::{Finding, InvalidConfig, Override, Place, origin};
use crate::files;

fn environment() -> Env {
    Env::prefixed("ARQON_").split("__")
}

/// File, environment and flags, what goes first merged last.
pub(super) fn figment(file: Option<&Path>, flags: &[Override]) -> Result<Figment, InvalidConfig> {
    let mut figment = Figment::new();
    if let Some(file) = file {
        if let Err(error) = files::read(file, files::CONFIG_BYTES_MAX) {
            return Err(InvalidConfig(vec![Finding::new(
                file.display().to_string(),
                format!("cannot be read: {error}"),
            )]));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment = figment.merge(environment());
    // The bus's own variables (source: CONFIG 2): RON_BUS_CAPACITY is bus.capacity.
    figment = figment.merge(Env::prefixed("RON_BUS_").map(|key| format!("bus.{key}").into()));
    for (key, value) in flags {
        figment = figment.merge(Flag::new(key, value));
    }
    Ok(figment)
}

/// Variables that begin as ours do, and name no key.
pub(super) fn nameless() -> Vec<Finding> {
    let given = ["ARQON_", "RON_BUS_"]
        .into_iter()
        .filter(|name| std::env::var_os(name).is_some());
    given
        .map(|name| {
            Finding::new(
                name,
                format!("the variable names no key: write {name}<KEY>, or unset it"),
            )
        })
        .collect()
}

/// The variable that sets a key.
pub(super) fn variable_of(key: &str) -> String {
    format!("ARQON_{}", key.replace('.', "__").to_ascii_uppercase())
}

/// The flag that sets a key.
pub(super) fn flag_of(key: &str) -> Option<&'static str> {
    #[cfg(feature = "cli")]
    {
        flags::FLAGS
            .iter()
            .find(|(_, set)| *set == key)
            .map(|(flag, _)| *flag)
    }
    #[cfg(not(feature = "cli"))]
    {
        let _ = key;
        None
    }
}

/// Where the value of a key came from: its own place, or that of the nearest table.
pub(super) fn source_of(figment: &Figment, key: &str) -> Option<String> {
    let mut path = key.to_owned();
    loop {
        let (place, from) = origin::place_of(figment, &path);
        match (place, from) {
            (Place::Default, _) => path.truncate(path.rfind(['.', '['])?),
            (Place::Env, Some(variable)) if path == key => {
                return Some(format!("from {variable} in the environment"));
            }
            (Place::Env, _) => return Some("from the environment".to_owned()),
            (_, Some(from)) => return Some(format!("from {from}")),
            (_, None) => return None,
        }
    }
}

/// One value from the command line.
struct Flag {
    key: &'static str,
    value: String,
}

impl Flag {
    fn new(key: &'static str, value: &str) -> Self {
        Self {
            key,
            value: value.to_owned(),
        }
    }
}

impl Provider for Flag {
    fn metadata(&self) -> Metadata {
        Metadata::named(format!("a flag for {}", self.key))
    }

    fn data(&self) -> Result<figment::value::Map<Profile, figment::value::Dict>, figment::Error> {
        // Numbers and truth values are read as such, as in the environment.
        if let Ok(number) = self.value.parse::<u64>() {
            Serialized::default(self.key, number).data()
        } else if let Ok(truth) = self.value.parse::<bool>() {
            Serialized::default(self.key, truth).data()
        } else {
            Serialized::default(self.key, &self.value).data()
        }
    }
}
