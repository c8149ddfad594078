//! The configuration as JSON Schema, for editors and for checks in pipelines.

use schemars::{SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Config, NatsConfig, flags::FLAGS, variable_of};

/// Everything that `gateway.toml`, the environment and the command line can say: JSON Schema 2020-12. Under `x-keys` stands
/// each key with its variable and, where it has one, its flag; under `x-variables` the variables that set no key.
#[must_use]
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut gateway = Map::new();
    for (name, section) in sections(&mut generator) {
        put(&mut gateway, name, section);
    }
    let mut definitions = generator.take_definitions(true);
    for definition in definitions.values_mut() {
        close(definition);
    }
    let defaults = serde_json::to_value(Config {
        nats: Some(NatsConfig::default()),
        auth: Some(super::AuthConfig::default()),
        ..Config::default()
    })
    .expect("a configuration is plain data");
    let root = json!({ "properties": gateway, "$defs": definitions });
    let mut keys = Vec::new();
    list(&root, &root, "", &defaults, &mut keys);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:arqon:config",
        "title": "gateway.toml",
        "description": "The configuration of the gateway. Flags go before variables, these before the file, that before the defaults.",
        "type": "object",
        "additionalProperties": false,
        "properties": root["properties"],
        "$defs": root["$defs"],
        "x-keys": keys,
        "x-variables": {
            "RON_BUS_CAPACITY": "bus.capacity",
            "RON_BUS_OVERFLOW_WARN_RATE_PER_MIN": "bus.overflow_warn_rate_per_min",
            "RON_BUS_METRICS_NAMESPACE": "bus.metrics_namespace",
            "RON_BUS_EMIT_AMNESIA_LABEL": "bus.emit_amnesia_label",
            "RON_AMNESIA": "`on` or `off`: the value of the label `amnesia`",
            "RUST_LOG": "which log lines are written, such as `info,arqon=debug`",
            "NO_COLOR": "no colours on a terminal",
        },
    })
}

/// The sections in their order, `platform.*` nested.
fn sections(generator: &mut SchemaGenerator) -> Vec<(&'static str, Value)> {
    macro_rules! sections {
        ($($path:literal => $type:ty),* $(,)?) => {
            vec![$(($path, generator.subschema_for::<$type>().to_value())),*]
        };
    }
    sections! {
        "gateway" => super::GatewayConfig,
        "nats" => super::NatsConfig,
        "bus" => super::BusSection,
        "telemetry" => super::TelemetryConfig,
        "auth" => super::AuthConfig,
        "platform.overseer" => arqon_overseer::OverseerConfig,
        "platform.registry" => arqon_schema::RegistryConfig,
        "platform.rollout" => arqon_rollout::Config,
        "platform.mirroring" => arqon_shadow::ShadowConfig,
    }
}

fn put(root: &mut Map<String, Value>, path: &str, section: Value) {
    match path.split_once('.') {
        None => {
            root.insert(path.to_owned(), section);
        }
        Some((table, name)) => {
            let table = root.entry(table.to_owned()).or_insert_with(
                || json!({ "type": "object", "additionalProperties": false, "properties": {} }),
            );
            table["properties"][name] = section;
        }
    }
}

/// An unknown key is an error, in every table.
fn close(definition: &mut Value) {
    if definition.get("properties").is_some() {
        definition["additionalProperties"] = Value::from(false);
    }
}

/// Lists the keys of a schema: those of tables, and those of tables in lists with `[]`.
fn list(root: &Value, schema: &Value, path: &str, defaults: &Value, keys: &mut Vec<Value>) {
    let table = target(root, schema);
    let Some(properties) = table.get("properties").and_then(Value::as_object) else {
        return;
    };
    for (name, property) in properties {
        let key = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let of = target(root, property);
        let items = of.get("items").map(|items| target(root, items));
        if of.get("properties").is_some() {
            list(root, of, &key, defaults, keys);
        } else if let Some(items) = items.filter(|items| items.get("properties").is_some()) {
            if !key.contains('[') {
                // As a whole, in TOML's words.
                keys.push(json!({ "key": key, "env": variable_of(&key), "default": [] }));
            }
            list(root, items, &format!("{key}[]"), defaults, keys);
        } else {
            let mut entry = json!({ "key": key });
            if !key.contains('[') {
                entry["env"] = variable_of(&key).into();
                let pointer = format!("/{}", key.replace('.', "/"));
                entry["default"] = defaults.pointer(&pointer).cloned().unwrap_or_default();
            }
            if let Some((flag, _)) = FLAGS.iter().find(|(_, set)| *set == key) {
                entry["flag"] = Value::from(*flag);
            }
            keys.push(entry);
        }
    }
}

/// What a schema is once references are followed, and the choice between a table and nothing is made for the table.
fn target<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(name) = schema["$ref"].as_str() {
        let pointer = name.trim_start_matches('#');
        return root.pointer(pointer).map_or(schema, |found| target(root, found));
    }
    let choices = schema["anyOf"].as_array().into_iter().flatten();
    let mut references = choices.filter(|choice| choice.get("$ref").is_some());
    references.next().map_or(schema, |choice| target(root, choice))
}
