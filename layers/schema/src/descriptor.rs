//! `FileDescriptorSet` as this crate reads it.
//!
//! `prost-types` knows neither `edition` nor `features`, and it drops extensions such as `buf.validate`. These are the
//! same messages (same numbers, same wire form) with what a contract needs, and without what it does not: comments,
//! language options, services.

use prost::Message;

/// `google.protobuf.FileDescriptorSet`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FileSet {
    #[prost(message, repeated, tag = "1")]
    pub(crate) file: Vec<FileProto>,
}

/// `google.protobuf.FileDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FileProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) package: Option<String>,
    #[prost(string, repeated, tag = "3")]
    pub(crate) dependency: Vec<String>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) message_type: Vec<MessageProto>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) enum_type: Vec<EnumProto>,
    #[prost(message, repeated, tag = "7")]
    pub(crate) extension: Vec<FieldProto>,
    #[prost(message, optional, tag = "8")]
    pub(crate) options: Option<FileOptions>,
    #[prost(string, optional, tag = "12")]
    pub(crate) syntax: Option<String>,
    #[prost(int32, optional, tag = "14")]
    pub(crate) edition: Option<i32>,
}

/// `google.protobuf.FileOptions`, the features only.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FileOptions {
    #[prost(message, optional, tag = "50")]
    pub(crate) features: Option<FeatureProto>,
}

/// `google.protobuf.DescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MessageProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) field: Vec<FieldProto>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) nested_type: Vec<MessageProto>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) enum_type: Vec<EnumProto>,
    #[prost(message, repeated, tag = "6")]
    pub(crate) extension: Vec<FieldProto>,
    #[prost(message, optional, tag = "7")]
    pub(crate) options: Option<MessageOptions>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) oneof_decl: Vec<OneofProto>,
    #[prost(message, repeated, tag = "9")]
    pub(crate) reserved_range: Vec<RangeProto>,
    #[prost(string, repeated, tag = "10")]
    pub(crate) reserved_name: Vec<String>,
}

/// `google.protobuf.MessageOptions`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MessageOptions {
    #[prost(bool, optional, tag = "1")]
    pub(crate) message_set_wire_format: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(crate) map_entry: Option<bool>,
    #[prost(message, optional, tag = "12")]
    pub(crate) features: Option<FeatureProto>,
    /// `(buf.validate.message)`. Several occurrences are one message when concatenated.
    #[prost(bytes = "vec", repeated, tag = "1159")]
    pub(crate) validate: Vec<Vec<u8>>,
}

/// `google.protobuf.FieldDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(crate) extendee: Option<String>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) number: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) label: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) r#type: Option<i32>,
    #[prost(string, optional, tag = "6")]
    pub(crate) type_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    pub(crate) default_value: Option<String>,
    #[prost(message, optional, tag = "8")]
    pub(crate) options: Option<FieldOptions>,
    #[prost(int32, optional, tag = "9")]
    pub(crate) oneof_index: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub(crate) json_name: Option<String>,
    #[prost(bool, optional, tag = "17")]
    pub(crate) proto3_optional: Option<bool>,
}

/// `google.protobuf.FieldOptions`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldOptions {
    #[prost(bool, optional, tag = "2")]
    pub(crate) packed: Option<bool>,
    #[prost(message, optional, tag = "21")]
    pub(crate) features: Option<FeatureProto>,
    /// `(buf.validate.field)`.
    #[prost(bytes = "vec", repeated, tag = "1159")]
    pub(crate) validate: Vec<Vec<u8>>,
}

/// `google.protobuf.OneofDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OneofProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(message, optional, tag = "2")]
    pub(crate) options: Option<OneofOptions>,
}

/// `google.protobuf.OneofOptions`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OneofOptions {
    #[prost(message, optional, tag = "1")]
    pub(crate) features: Option<FeatureProto>,
    /// `(buf.validate.oneof)`.
    #[prost(bytes = "vec", repeated, tag = "1159")]
    pub(crate) validate: Vec<Vec<u8>>,
}

/// `google.protobuf.EnumDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) value: Vec<EnumValueProto>,
    #[prost(message, optional, tag = "3")]
    pub(crate) options: Option<EnumOptions>,
    /// Inclusive at both ends, unlike a message's.
    #[prost(message, repeated, tag = "4")]
    pub(crate) reserved_range: Vec<RangeProto>,
    #[prost(string, repeated, tag = "5")]
    pub(crate) reserved_name: Vec<String>,
}

/// `google.protobuf.EnumOptions`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumOptions {
    #[prost(message, optional, tag = "7")]
    pub(crate) features: Option<FeatureProto>,
}

/// `google.protobuf.EnumValueDescriptorProto`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EnumValueProto {
    #[prost(string, optional, tag = "1")]
    pub(crate) name: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) number: Option<i32>,
}

/// A reserved range: `DescriptorProto.ReservedRange` (end exclusive) or the enum's (end inclusive).
#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeProto {
    #[prost(int32, optional, tag = "1")]
    pub(crate) start: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) end: Option<i32>,
}

/// `google.protobuf.FeatureSet`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FeatureProto {
    #[prost(int32, optional, tag = "1")]
    pub(crate) field_presence: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    pub(crate) enum_type: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    pub(crate) repeated_field_encoding: Option<i32>,
    #[prost(int32, optional, tag = "4")]
    pub(crate) utf8_validation: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    pub(crate) message_encoding: Option<i32>,
    #[prost(int32, optional, tag = "6")]
    pub(crate) json_format: Option<i32>,
}

/// `buf.validate.FieldRules`: what the level `required` reads. The rest is read by the level `rules`, in `rules/`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct FieldRules {
    #[prost(bool, optional, tag = "25")]
    pub(crate) required: Option<bool>,
    #[prost(int32, optional, tag = "27")]
    pub(crate) ignore: Option<i32>,
}

/// `buf.validate.OneofRules`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OneofRules {
    #[prost(bool, optional, tag = "1")]
    pub(crate) required: Option<bool>,
}
