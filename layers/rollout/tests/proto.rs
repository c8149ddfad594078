//! `governance.proto` has the messages of the JSON, neither more nor less: by the golden vectors, which the code writes.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{
    collections::{BTreeSet, HashMap},
    path::PathBuf,
};

use arqon_rollout::{AlertSeverity, Control, Message};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage,
    Value as Proto, prost::Message as _,
};
use serde_json::{Map, Value, json};

const PACKAGE: &str = "arqon.governance.v1";

/// The compiled file; None where the crate is packaged without its workspace.
fn pool() -> Option<DescriptorPool> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let file = "arqon/governance/v1/governance.proto";
    folder.exists().then(|| {
        let files = protox::compile([file], [folder]).expect("it compiles");
        DescriptorPool::from_file_descriptor_set(files).expect("it is whole")
    })
}

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/governance");
    serde_json::from_str(&std::fs::read_to_string(path.join(name)).unwrap()).unwrap()
}

/// From JSON to the proto's messages and back, noting what was used of them.
struct Bridge {
    pool: DescriptorPool,
    used: BTreeSet<String>,
}

impl Bridge {
    fn message(&self, name: &str) -> MessageDescriptor {
        let found = self.pool.get_message_by_name(&format!("{PACKAGE}.{name}"));
        found.unwrap_or_else(|| panic!("the proto lacks {name}"))
    }

    fn field(&mut self, of: &MessageDescriptor, name: &str) -> FieldDescriptor {
        let field = of.get_field_by_name(name);
        let field = field.unwrap_or_else(|| panic!("{} lacks {name}", of.name()));
        self.used.insert(field.full_name().to_owned());
        field
    }

    /// An object whose keys are fields.
    fn object(&mut self, of: &MessageDescriptor, object: &Map<String, Value>) -> DynamicMessage {
        let mut message = DynamicMessage::new(of.clone());
        for (name, value) in object.iter().filter(|(name, _)| *name != "type") {
            let field = self.field(of, name);
            let value = self.value(&field, value);
            message.set_field(&field, value);
        }
        message
    }

    fn value(&mut self, field: &FieldDescriptor, value: &Value) -> Proto {
        if field.is_map() {
            let entry = field.kind().as_message().unwrap().clone();
            let entries = value.as_object().unwrap().iter().map(|(key, value)| {
                let value = self.value(&entry.map_entry_value_field(), value);
                (MapKey::String(key.clone()), value)
            });
            return Proto::Map(entries.collect::<HashMap<_, _>>());
        }
        match field.kind() {
            Kind::String => Proto::String(value.as_str().unwrap().to_owned()),
            Kind::Double => Proto::F64(value.as_f64().unwrap()),
            Kind::Uint32 => Proto::U32(value.as_u64().unwrap().try_into().unwrap()),
            Kind::Uint64 => Proto::U64(value.as_u64().unwrap()),
            Kind::Bool => Proto::Bool(value.as_bool().unwrap()),
            Kind::Bytes => Proto::Bytes(BASE64_STANDARD.decode(value.as_str().unwrap()).unwrap().into()),
            Kind::Enum(of) => {
                let name = format!("ALERT_SEVERITY_{}", value.as_str().unwrap().to_uppercase());
                let value = of.get_value_by_name(&name);
                Proto::EnumNumber(value.unwrap_or_else(|| panic!("{name}")).number())
            }
            Kind::Message(of) => Proto::Message(match of.name() {
                "Params" => self.params(&of, value),
                "EnforcementAction" => self.action(&of, value),
                _ => self.object(&of, value.as_object().unwrap()),
            }),
            other => panic!("{} is {other:?}", field.full_name()),
        }
    }

    fn params(&mut self, of: &MessageDescriptor, value: &Value) -> DynamicMessage {
        self.object(of, &Map::from_iter([("values".to_owned(), value.clone())]))
    }

    /// `{"kind": K, "value": V}` is the member K of the oneof.
    fn action(&mut self, of: &MessageDescriptor, action: &Value) -> DynamicMessage {
        let field = self.field(of, action["kind"].as_str().unwrap());
        assert_eq!(field.containing_oneof().unwrap().name(), "kind");
        let empty = json!({});
        let value = self.value(&field, action.get("value").unwrap_or(&empty));
        let mut message = DynamicMessage::new(of.clone());
        message.set_field(&field, value);
        message
    }

    /// `{"type": T, ..}` is the member T of a direction's oneof; a rotation is a message of its own.
    fn tagged(&mut self, value: &Value) -> (&'static str, DynamicMessage) {
        let kind = value["type"].as_str().unwrap();
        let direction = match kind {
            "rotation" => {
                let of = self.message("Rotation");
                return ("rotation", self.object(&of, value.as_object().unwrap()));
            }
            "telemetry" | "proposal" | "alert" => "UpstreamMessage",
            _ => "DownstreamMessage",
        };
        let of = self.message(direction);
        let field = self.field(&of, kind);
        assert_eq!(field.containing_oneof().unwrap().name(), "message");
        let inner = self.object(field.kind().as_message().unwrap(), value.as_object().unwrap());
        let mut message = DynamicMessage::new(of);
        message.set_field(&field, Proto::Message(inner));
        (
            if direction == "UpstreamMessage" {
                "upstream"
            } else {
                "downstream"
            },
            message,
        )
    }

    fn control(&mut self, payload: &Value) -> DynamicMessage {
        let mut rest = payload.as_object().unwrap().clone();
        let (member, inner) = self.tagged(&rest.remove("message").unwrap());
        let of = self.message("Control");
        let mut control = self.object(&of, &rest);
        let field = self.field(&of, member);
        control.set_field(&field, Proto::Message(inner));
        control
    }
}

/// The JSON of a message, from nothing but its descriptor.
fn json_of(message: &DynamicMessage) -> Value {
    let of = message.descriptor();
    let member = |of: &MessageDescriptor| {
        let oneof = of.oneofs().find(|oneof| !oneof.is_synthetic())?;
        oneof.fields().find(|field| message.has_field(field))
    };
    match of.name() {
        "Params" => return value_of(&message.get_field_by_name("values").unwrap()),
        "EnforcementAction" => {
            let field = member(&of).unwrap();
            let value = message.get_field(&field);
            let empty = matches!(field.kind(), Kind::Message(of) if of.name() == "Empty");
            return if empty {
                json!({ "kind": field.name() })
            } else {
                json!({ "kind": field.name(), "value": value_of(&value) })
            };
        }
        "UpstreamMessage" | "DownstreamMessage" => {
            let field = member(&of).unwrap();
            let mut inner = value_of(&message.get_field(&field));
            inner["type"] = json!(field.name());
            return inner;
        }
        _ => {}
    }
    let mut object = Map::new();
    for field in of.fields() {
        let present = message.has_field(&field);
        let in_oneof = field
            .containing_oneof()
            .is_some_and(|oneof| !oneof.is_synthetic());
        let left_out = in_oneof || field.name() == "node_keys" || matches!(field.kind(), Kind::Bool);
        let optional = field.supports_presence() || left_out;
        if !present && optional {
            continue;
        }
        let value = value_of(&message.get_field(&field));
        if in_oneof {
            object.insert("message".to_owned(), value);
        } else {
            object.insert(field.name().to_owned(), value);
        }
    }
    if of.name() == "Rotation" {
        object.insert("type".to_owned(), json!("rotation"));
    }
    Value::Object(object)
}

fn value_of(value: &Proto) -> Value {
    match value {
        Proto::Bool(value) => json!(value),
        Proto::U32(value) => json!(value),
        Proto::U64(value) => json!(value),
        Proto::F64(value) => json!(value),
        Proto::String(value) => json!(value),
        Proto::Bytes(value) => json!(BASE64_STANDARD.encode(value)),
        // UNSPECIFIED is 0, and the source's four follow in its order.
        Proto::EnumNumber(number) => {
            json!(["", "info", "warning", "error", "critical"][usize::try_from(*number).unwrap()])
        }
        Proto::Message(message) => json_of(message),
        Proto::Map(entries) => {
            let text = |key: &MapKey| key.as_str().unwrap().to_owned();
            entries
                .iter()
                .map(|(key, value)| (text(key), value_of(value)))
                .collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_proto_has_what_the_json_has_and_nothing_else() {
    let Some(pool) = pool() else { return };
    let mut bridge = Bridge {
        pool,
        used: BTreeSet::new(),
    };
    let there_and_back = |message: &DynamicMessage| {
        let bytes = message.encode_to_vec();
        json_of(&DynamicMessage::decode(message.descriptor(), bytes.as_slice()).unwrap())
    };
    let messages = golden("messages.json");
    for (name, value) in messages.as_object().unwrap() {
        let (_, message) = bridge.tagged(value);
        let back = there_and_back(&message);
        assert_eq!(&back, value, "{name}");
        // And the code reads the same out of it.
        let read = |value: Value| serde_json::from_value::<Message>(value).unwrap();
        assert_eq!(read(back), read(value.clone()), "{name}");
    }
    let envelopes = golden("envelopes.json");
    for envelope in envelopes["envelopes"].as_array().unwrap() {
        let payload: Value = serde_json::from_str(envelope["payload"].as_str().unwrap()).unwrap();
        let back = there_and_back(&bridge.control(&payload));
        assert_eq!(back, payload, "{}", envelope["name"]);
        let read = |value: Value| serde_json::from_value::<Control>(value).unwrap();
        assert_eq!(read(back), read(payload), "{}", envelope["name"]);
    }

    // No field that no message has.
    let fields = bridge
        .pool
        .all_messages()
        .filter(|of| !of.is_map_entry())
        .flat_map(|of| {
            of.fields()
                .map(|field| field.full_name().to_owned())
                .collect::<Vec<_>>()
        });
    let unused: Vec<_> = fields
        .filter(|field| field.starts_with(PACKAGE) && !bridge.used.contains(field))
        .collect();
    assert!(unused.is_empty(), "only the proto has {unused:?}");
    let severities = [
        AlertSeverity::Info,
        AlertSeverity::Warning,
        AlertSeverity::Error,
        AlertSeverity::Critical,
    ];
    let names: Vec<_> = severities
        .iter()
        .map(|severity| {
            let name = serde_json::to_value(severity).unwrap();
            format!("ALERT_SEVERITY_{}", name.as_str().unwrap().to_uppercase())
        })
        .collect();
    let of = bridge
        .pool
        .get_enum_by_name(&format!("{PACKAGE}.AlertSeverity"))
        .unwrap();
    let values: Vec<_> = of.values().skip(1).map(|value| value.name().to_owned()).collect();
    assert_eq!(values, names);
}
