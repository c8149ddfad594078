//! Protobuf answers as trees, by the names of their schema.

use prost_reflect::{DynamicMessage, MessageDescriptor, SerializeOptions};
use serde_json::Value;

/// Whether a media type means Protobuf.
pub(super) fn is_protobuf(media_type: &str) -> bool {
    const TYPES: [&str; 3] = [
        "application/protobuf",
        "application/x-protobuf",
        "application/vnd.google.protobuf",
    ];
    TYPES.iter().any(|known| media_type.eq_ignore_ascii_case(known))
}

/// The message, or nothing if the bytes are none. Fields at the top that the schema does not know are `#<number>`, with
/// their sizes.
pub(super) fn read(message: &MessageDescriptor, body: &[u8]) -> Option<Value> {
    let message = DynamicMessage::decode(message.clone(), body).ok()?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false);
    let mut tree = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .ok()?;
    for field in message.unknown_fields() {
        if let Some(tree) = tree.as_object_mut() {
            let sizes = tree
                .entry(format!("#{}", field.number()))
                .or_insert_with(|| Value::Array(Vec::new()));
            if let Some(sizes) = sizes.as_array_mut() {
                sizes.push(field.encoded_len().into());
            }
        }
    }
    Some(tree)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode, header};
    use prost_reflect::{
        DescriptorPool,
        prost::Message as _,
        prost_types::{
            DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
            field_descriptor_proto::{Label, Type},
        },
    };

    use crate::{Answer, compare::Differ};

    /// `message Reply { int64 total = 1; repeated string tags = 2; Inner inner = 3; }  message Inner { double rate = 1; }`
    fn descriptor() -> prost_reflect::MessageDescriptor {
        let field = |name: &str, number, kind: Type, label: Label, of: Option<&str>| FieldDescriptorProto {
            name: Some(name.into()),
            number: Some(number),
            r#type: Some(kind.into()),
            label: Some(label.into()),
            type_name: of.map(Into::into),
            ..FieldDescriptorProto::default()
        };
        let message = |name: &str, field| DescriptorProto {
            name: Some(name.into()),
            field,
            ..DescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("reply.proto".into()),
            syntax: Some("proto3".into()),
            message_type: vec![
                message(
                    "Reply",
                    vec![
                        field("total", 1, Type::Int64, Label::Optional, None),
                        field("tags", 2, Type::String, Label::Repeated, None),
                        field("inner", 3, Type::Message, Label::Optional, Some(".Inner")),
                    ],
                ),
                message(
                    "Inner",
                    vec![field("rate", 1, Type::Double, Label::Optional, None)],
                ),
            ],
            ..FileDescriptorProto::default()
        };
        let set = FileDescriptorSet { file: vec![file] };
        DescriptorPool::decode(set.encode_to_vec().as_slice())
            .expect("a pool")
            .get_message_by_name("Reply")
            .expect("the message")
    }

    fn answer(body: &[u8]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        Answer::new(StatusCode::OK, body.to_vec()).typed(&headers)
    }

    fn paths(a: &[u8], b: &[u8]) -> Vec<String> {
        let differ = Differ::new().tolerance(0.01).protobuf(descriptor());
        differ.diff(&answer(a), &answer(b)).into_keys().collect()
    }

    #[test]
    fn protobuf_fields_are_named_by_path() {
        let rate = |rate: f64| [&[0x1A, 9, 0x09][..], &rate.to_le_bytes()].concat();
        // total = 7 and 9; tags = "a"; inner.rate = 1.0 and 1.005, 2.0.
        assert!(paths(b"\x08\x07", b"\x08\x07").is_empty());
        assert_eq!(paths(b"\x08\x07", b"\x08\x09"), ["total"]);
        assert_eq!(paths(b"\x12\x01a", b"\x12\x01b"), ["tags[]"]);
        assert!(paths(&rate(1.0), &rate(1.005)).is_empty(), "within the tolerance");
        assert_eq!(paths(&rate(1.0), &rate(2.0)), ["inner.rate"]);
        // The order on the wire is no difference; a field that nobody knows is one.
        assert!(paths(b"\x08\x07\x12\x01a", b"\x12\x01a\x08\x07").is_empty());
        assert_eq!(paths(b"\x08\x07", b"\x08\x07\x50\x01"), ["#10"]);
        assert_eq!(paths(b"\x08\x07", b"\x08"), ["body"], "cut off");
    }
}
