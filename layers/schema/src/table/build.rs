//! From a decoded descriptor set to a [`Table`], refusing what no Protobuf compiler would have written.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prost::Message as _;

use super::{
    Enum, Features, Field, Kind, Message, Oneof, Presence, Shape, Table, TypeRef, WellKnown, features,
    imports::check_imports,
    names::{check_entry, check_identifier, invalid, json_name, qualify, spellings},
};
use crate::{
    descriptor::{
        EnumProto, FeatureProto, FieldProto, FieldRules, FileProto, FileSet, MessageProto, OneofRules,
    },
    error::LoadError,
    wire::read::FIELD_NUMBER_MAX,
};

/// `buf.validate.Ignore.IGNORE_ALWAYS`.
pub(crate) const IGNORE_ALWAYS: i32 = 3;

/// Compiles the set.
///
/// # Errors
///
/// [`LoadError`] names the element: an unknown syntax or edition, a missing or cyclic import, a duplicate or illegal
/// name or number, an undefined type.
pub(crate) fn build(set: &FileSet) -> Result<Table, LoadError> {
    let features = set
        .file
        .iter()
        .map(Features::of_file)
        .collect::<Result<Vec<_>, _>>()?;
    check_imports(&set.file)?;
    let mut builder = Builder::default();
    for file in &set.file {
        builder.register_file(file)?;
    }
    let mut next = Next::default();
    for (file, &features) in set.file.iter().zip(&features) {
        let scope = file.package.as_deref().unwrap_or_default();
        for message in &file.message_type {
            builder.message(&mut next, message, features)?;
        }
        for enumeration in &file.enum_type {
            builder.enumeration(&mut next, enumeration, features)?;
        }
        for extension in &file.extension {
            builder.extension(extension, scope, features)?;
        }
    }
    builder.finish(set)
}

/// Where the second pass stands: it meets the types in the order of the first.
#[derive(Default)]
struct Next {
    message: usize,
    enumeration: usize,
}

#[derive(Default)]
struct Builder {
    messages: Vec<Message>,
    enums: Vec<Enum>,
    by_name: HashMap<Arc<str>, TypeRef>,
}

impl Builder {
    fn register_file(&mut self, file: &FileProto) -> Result<(), LoadError> {
        let package = file.package.as_deref().unwrap_or_default();
        if !package.is_empty() {
            package
                .split('.')
                .try_for_each(|part| check_identifier(package, part))?;
        }
        for message in &file.message_type {
            self.register_message(package, message)?;
        }
        file.enum_type
            .iter()
            .try_for_each(|proto| self.register_enum(package, proto))
    }

    fn register_message(&mut self, scope: &str, proto: &MessageProto) -> Result<(), LoadError> {
        let index = u32::try_from(self.messages.len()).expect("the scan caps the messages");
        let name = self.register(scope, proto.name.as_deref(), TypeRef::Message(index))?;
        let options = proto.options.as_ref();
        self.messages.push(Message {
            name: Arc::clone(&name),
            fields: Vec::new(),
            oneofs: Vec::new(),
            json: HashMap::new(),
            map_entry: options.and_then(|options| options.map_entry).unwrap_or(false),
            message_set: options
                .and_then(|options| options.message_set_wire_format)
                .unwrap_or(false),
            well_known: WellKnown::of(&name),
            rules: options
                .map(|options| options.validate.concat())
                .unwrap_or_default()
                .into(),
        });
        for nested in &proto.nested_type {
            self.register_message(&name, nested)?;
        }
        proto
            .enum_type
            .iter()
            .try_for_each(|proto| self.register_enum(&name, proto))
    }

    fn register_enum(&mut self, scope: &str, proto: &EnumProto) -> Result<(), LoadError> {
        let index = u32::try_from(self.enums.len()).expect("the scan caps the enum values");
        let name = self.register(scope, proto.name.as_deref(), TypeRef::Enum(index))?;
        self.enums.push(Enum {
            name,
            closed: false,
            numbers: Vec::new(),
            names: HashMap::new(),
        });
        Ok(())
    }

    fn register(&mut self, scope: &str, name: Option<&str>, item: TypeRef) -> Result<Arc<str>, LoadError> {
        let name = name.unwrap_or_default();
        check_identifier(scope, name)?;
        let full = qualify(scope, name);
        match self.by_name.insert(Arc::clone(&full), item) {
            None => Ok(full),
            Some(_) => Err(invalid(&full, "is declared twice")),
        }
    }

    fn message(&mut self, next: &mut Next, proto: &MessageProto, above: Features) -> Result<(), LoadError> {
        let index = next.message;
        next.message += 1;
        let name = Arc::clone(&self.messages[index].name);
        let features = above.with(
            proto
                .options
                .as_ref()
                .and_then(|options| options.features.as_ref()),
        );
        let (oneofs, places) = oneofs(&name, proto)?;
        let mut fields = Vec::with_capacity(proto.field.len());
        for field in &proto.field {
            fields.push(self.field(&name, proto, field, features, &places)?);
        }
        let message = &mut self.messages[index];
        message.fields = fields;
        message.oneofs = oneofs;
        for nested in &proto.nested_type {
            self.message(next, nested, features)?;
        }
        for enumeration in &proto.enum_type {
            self.enumeration(next, enumeration, features)?;
        }
        proto
            .extension
            .iter()
            .try_for_each(|extension| self.extension(extension, &name, features))
    }

    fn field(
        &self,
        message: &str,
        owner: &MessageProto,
        proto: &FieldProto,
        above: Features,
        places: &[Option<u32>],
    ) -> Result<Field, LoadError> {
        let name = proto.name.as_deref().unwrap_or_default();
        check_identifier(message, name)?;
        let full = format!("{message}.{name}");
        let oneof = match proto.oneof_index {
            None => None,
            Some(index) => {
                let place = usize::try_from(index)
                    .ok()
                    .and_then(|index| places.get(index).copied());
                place.ok_or_else(|| invalid(&full, "is in a oneof that does not exist"))?
            }
        };
        let oneof_features = proto.oneof_index.and_then(|index| {
            owner
                .oneof_decl
                .get(usize::try_from(index).ok()?)?
                .options
                .as_ref()?
                .features
                .as_ref()
        });
        let owner_options = owner.options.as_ref();
        let in_entry = owner_options
            .and_then(|options| options.map_entry)
            .unwrap_or(false);
        let features = above.with(oneof_features);
        let mut field = self.any_field(&full, name, proto, features, in_entry)?;
        if proto.oneof_index.is_some() {
            if field.shape != Shape::Singular || field.presence == Presence::Required {
                return Err(invalid(
                    &full,
                    "is in a oneof and may be neither repeated nor required",
                ));
            }
            field.presence = Presence::Explicit;
        }
        field.oneof = oneof;
        Ok(field)
    }

    fn any_field(
        &self,
        full: &str,
        name: &str,
        proto: &FieldProto,
        above: Features,
        in_entry: bool,
    ) -> Result<Field, LoadError> {
        let options = proto.options.as_ref();
        let features = above.with(options.and_then(|options| options.features.as_ref()));
        let number = match proto.number.unwrap_or_default() {
            19_000..=19_999 => return Err(invalid(full, "has a number reserved for Protobuf itself")),
            number => u32::try_from(number)
                .ok()
                .filter(|number| (1..=FIELD_NUMBER_MAX).contains(number))
                .ok_or_else(|| {
                    invalid(
                        full,
                        format!("has the field number {number}, outside 1..=536870911"),
                    )
                })?,
        };
        let mut kind = self.kind(full, proto)?;
        let entry = kind
            .message()
            .is_some_and(|index| self.messages[index as usize].map_entry);
        let shape = match proto.label {
            Some(3) if entry => Shape::Map,
            Some(3) => Shape::Repeated,
            None | Some(1 | 2) if entry => return Err(invalid(full, "is a map entry and must be repeated")),
            None | Some(1 | 2) => Shape::Singular,
            Some(other) => return Err(invalid(full, format!("has the unknown label {other}"))),
        };
        if let Kind::Message(index) = kind
            && features.delimited
            && shape != Shape::Map
            && !in_entry
        {
            kind = Kind::Group(index);
        }
        let required = proto.label == Some(2)
            || shape == Shape::Singular && features.presence == features::Presence::LegacyRequired;
        let presence = match features.presence {
            _ if required => Presence::Required,
            features::Presence::Implicit if kind.message().is_none() => Presence::Implicit,
            _ => Presence::Explicit,
        };
        let presence = if proto.proto3_optional == Some(true) {
            Presence::Explicit
        } else {
            presence
        };
        let rules = options
            .map(|options| options.validate.concat())
            .unwrap_or_default();
        let read = FieldRules::decode(rules.as_slice())
            .map_err(|error| invalid(full, format!("has unreadable buf.validate rules: {error}")))?;
        let packed = options
            .and_then(|options| options.packed)
            .unwrap_or(features.packed);
        Ok(Field {
            number,
            name: name.into(),
            json_name: proto
                .json_name
                .as_deref()
                .map_or_else(|| json_name(name), str::to_owned)
                .into(),
            json_name_is_own: false,
            kind,
            shape,
            presence,
            oneof: None,
            validate_required: read.required == Some(true) && read.ignore != Some(IGNORE_ALWAYS),
            packed: packed && shape == Shape::Repeated && kind.packable(),
            rules: rules.into(),
        })
    }

    fn kind(&self, full: &str, proto: &FieldProto) -> Result<Kind, LoadError> {
        let named = || {
            let name = proto.type_name.as_deref().unwrap_or_default();
            let known = name.strip_prefix('.').and_then(|name| self.by_name.get(name));
            known
                .copied()
                .ok_or_else(|| invalid(full, format!("has the type {name:?}, which is not in the set")))
        };
        let wrong = || invalid(full, "names a type of another kind");
        Ok(match proto.r#type.unwrap_or_default() {
            1 => Kind::Double,
            2 => Kind::Float,
            3 => Kind::Int64,
            4 => Kind::Uint64,
            5 => Kind::Int32,
            6 => Kind::Fixed64,
            7 => Kind::Fixed32,
            8 => Kind::Bool,
            9 => Kind::String,
            12 => Kind::Bytes,
            13 => Kind::Uint32,
            15 => Kind::Sfixed32,
            16 => Kind::Sfixed64,
            17 => Kind::Sint32,
            18 => Kind::Sint64,
            10 => match named()? {
                TypeRef::Message(index) => Kind::Group(index),
                TypeRef::Enum(_) => return Err(wrong()),
            },
            11 => match named()? {
                TypeRef::Message(index) => Kind::Message(index),
                TypeRef::Enum(_) => return Err(wrong()),
            },
            14 => match named()? {
                TypeRef::Enum(index) => Kind::Enum(index),
                TypeRef::Message(_) => return Err(wrong()),
            },
            other => return Err(invalid(full, format!("has the unknown type {other}"))),
        })
    }

    fn extension(&mut self, proto: &FieldProto, scope: &str, features: Features) -> Result<(), LoadError> {
        let name = proto.name.as_deref().unwrap_or_default();
        check_identifier(scope, name)?;
        let full = qualify(scope, name);
        let extendee = proto.extendee.as_deref().unwrap_or_default();
        let target = extendee.strip_prefix('.').and_then(|name| self.by_name.get(name));
        let Some(&TypeRef::Message(index)) = target else {
            return Err(invalid(
                &full,
                format!("extends {extendee:?}, which is not in the set"),
            ));
        };
        if proto.oneof_index.is_some() && proto.proto3_optional != Some(true) {
            return Err(invalid(&full, "is an extension and may not be in a oneof"));
        }
        let spelling = format!("[{full}]");
        let mut field = self.any_field(&full, &spelling, proto, features, false)?;
        field.json_name = spelling.into();
        if field.presence == Presence::Implicit {
            field.presence = Presence::Explicit;
        }
        self.messages[index as usize].fields.push(field);
        Ok(())
    }

    fn enumeration(&mut self, next: &mut Next, proto: &EnumProto, above: Features) -> Result<(), LoadError> {
        let target = &mut self.enums[next.enumeration];
        next.enumeration += 1;
        let features = above.with(own_features(proto));
        target.closed = features.closed_enum;
        if proto.value.is_empty() {
            return Err(invalid(&target.name, "is an enum without values"));
        }
        for value in &proto.value {
            let name = value.name.as_deref().unwrap_or_default();
            check_identifier(&target.name, name)?;
            let number = value.number.unwrap_or_default();
            if target.names.insert(name.into(), number).is_some() {
                return Err(invalid(&target.name, format!("has the value {name} twice")));
            }
            target.numbers.push(number);
        }
        target.numbers.sort_unstable();
        target.numbers.dedup();
        Ok(())
    }

    fn finish(mut self, set: &FileSet) -> Result<Table, LoadError> {
        for message in &mut self.messages {
            message.fields.sort_by_key(|field| field.number);
            if let Some(pair) = message
                .fields
                .windows(2)
                .find(|pair| pair[0].number == pair[1].number)
            {
                return Err(invalid(
                    &message.name,
                    format!(
                        "uses the number {} for {} and {}",
                        pair[0].number, pair[0].name, pair[1].name
                    ),
                ));
            }
            message.json = spellings(message)?;
            for (at, field) in (0_u32..).zip(&mut message.fields) {
                field.json_name_is_own = message.json.get(&field.json_name) == Some(&at);
            }
        }
        for message in self.messages.iter().filter(|message| message.map_entry) {
            check_entry(message)?;
        }
        let roots = set.file.last().map_or_else(Vec::new, |file| {
            let scope = file.package.as_deref().unwrap_or_default();
            let names = file
                .message_type
                .iter()
                .filter_map(|message| message.name.as_deref());
            names
                .filter_map(|name| match self.by_name.get(&qualify(scope, name)) {
                    Some(&TypeRef::Message(index)) => Some(index),
                    _ => None,
                })
                .collect()
        });
        Ok(Table {
            messages: self.messages,
            enums: self.enums,
            by_name: self.by_name,
            roots,
        })
    }
}

fn own_features(proto: &EnumProto) -> Option<&FeatureProto> {
    proto.options.as_ref()?.features.as_ref()
}

/// The oneofs that offer a choice, and for each declared one its place among them.
fn oneofs(message: &str, proto: &MessageProto) -> Result<(Vec<Oneof>, Vec<Option<u32>>), LoadError> {
    let members = proto
        .field
        .iter()
        .filter(|field| field.proto3_optional != Some(true));
    let real: HashSet<i32> = members.filter_map(|field| field.oneof_index).collect();
    let mut oneofs = Vec::new();
    let mut places = Vec::with_capacity(proto.oneof_decl.len());
    for (at, oneof) in proto.oneof_decl.iter().enumerate() {
        let name = oneof.name.as_deref().unwrap_or_default();
        check_identifier(message, name)?;
        if !i32::try_from(at).is_ok_and(|at| real.contains(&at)) {
            places.push(None);
            continue;
        }
        let rules = oneof
            .options
            .as_ref()
            .map(|options| options.validate.concat())
            .unwrap_or_default();
        let rules = OneofRules::decode(rules.as_slice())
            .map_err(|error| invalid(message, format!("has unreadable buf.validate rules: {error}")))?;
        places.push(u32::try_from(oneofs.len()).ok());
        oneofs.push(Oneof {
            name: name.into(),
            validate_required: rules.required == Some(true),
        });
    }
    Ok((oneofs, places))
}
