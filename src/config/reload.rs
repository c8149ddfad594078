//! What a change of the configuration asks for: a swap while requests run, or a restart.

use serde_json::Value;

use super::Config;

/// What can be swapped while requests run. Everything else is built once, and so is what [`BUILT_ONCE`] names in these.
const SWAPPED: &[&str] = &[
    "platform.overseer",
    "platform.mirroring.enabled",
    "platform.mirroring.seed",
    "platform.mirroring.rules",
    "platform.registry.pins",
];

/// The task that looks at the policies' files is started once.
const BUILT_ONCE: &[&str] = &["platform.overseer.watch_interval"];

impl Config {
    /// The keys on which `next` differs and which only a restart changes, such as `gateway.listen`: a reload that has
    /// one of them is refused whole, so that a running gateway is always what one file says.
    #[must_use]
    pub fn restart_keys(&self, next: &Self) -> Vec<String> {
        let mut keys = Vec::new();
        let (old, new) = (tree(self), tree(next));
        differences(&old, &new, "", &mut keys);
        for key in BUILT_ONCE {
            let pointer = format!("/{}", key.replace('.', "/"));
            if old.pointer(&pointer) != new.pointer(&pointer) {
                keys.push((*key).to_owned());
            }
        }
        keys
    }

    /// Whether both say the same.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        tree(self) == tree(other)
    }
}

/// The configuration as data; every section is one, so none fails to serialise.
fn tree(config: &Config) -> Value {
    serde_json::to_value(config).expect("a configuration is plain data")
}

fn differences(old: &Value, new: &Value, path: &str, keys: &mut Vec<String>) {
    if old == new || SWAPPED.contains(&path) {
        return;
    }
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        keys.push(path.to_owned());
        return;
    };
    let mut names: Vec<_> = before.keys().chain(after.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let nested = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let of = |table: &serde_json::Map<String, Value>| table.get(name).cloned().unwrap_or(Value::Null);
        differences(&of(before), &of(after), &nested, keys);
    }
}
