//! Messages as JSON objects.

use std::borrow::Cow;

use super::{
    Stop,
    field_set::{FieldSet, KeySet},
    lexer::{Lexer, Syntax},
    output::{Form, Output, Scalar, Slot},
    scalar, well_known,
};
use crate::{
    path::{Key, Path},
    plan::{NONE, Plan, Requirement},
    table::{Field, Kind, Message, Presence, Shape, WellKnown},
    violation::{Findings, rule},
};

/// One pass over a document. Functions return [`Stop`] when nothing more can be said; what only this value gets wrong
/// is reported, and the pass goes on behind it.
pub(super) struct Pass<'p, 'a, 'f, O> {
    pub(super) plan: &'p Plan,
    pub(super) lexer: Lexer<'a>,
    /// How many bytes may still be read ahead of their turn.
    pub(super) ahead_left: usize,
    pub(super) found: &'f mut Findings,
    pub(super) out: O,
    /// Where the value that is read next goes. A message's own values go into it.
    pub(super) slot: Slot,
}

/// What has been seen of an object.
#[derive(Default)]
struct Seen {
    names: FieldSet,
    present: FieldSet,
    oneofs: FieldSet,
}

impl<'a, O: Output> Pass<'_, 'a, '_, O> {
    /// Reports that the document cannot be read on.
    pub(super) fn syntax(&mut self, error: Syntax, path: &Path<'_>) -> Stop {
        let (rule, text) = error.describe();
        self.found.push(path, rule, text);
        Stop
    }

    /// Reports a finding; stops when there are enough.
    pub(super) fn report(
        &mut self,
        path: &Path<'_>,
        rule: &'static str,
        text: impl Into<Cow<'static, str>>,
    ) -> Result<(), Stop> {
        self.found.push(path, rule, text);
        if self.found.full() { Err(Stop) } else { Ok(()) }
    }

    pub(super) fn peek(&mut self, path: &Path<'_>) -> Result<u8, Stop> {
        self.lexer.peek().map_err(|error| self.syntax(error, path))
    }

    pub(super) fn string(&mut self, path: &Path<'_>) -> Result<Cow<'a, str>, Stop> {
        self.lexer.string().map_err(|error| self.syntax(error, path))
    }

    pub(super) fn skip(&mut self, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        self.lexer
            .skip(depth_left)
            .map_err(|error| self.syntax(error, path))
    }

    pub(super) fn lexed<T>(
        &mut self,
        path: &Path<'_>,
        read: impl FnOnce(&mut Lexer<'a>) -> Result<T, Syntax>,
    ) -> Result<T, Stop> {
        read(&mut self.lexer).map_err(|error| self.syntax(error, path))
    }

    /// One level further down.
    pub(super) fn down(&mut self, path: &Path<'_>, depth_left: u32, levels: u32) -> Result<u32, Stop> {
        depth_left
            .checked_sub(levels)
            .ok_or_else(|| self.syntax(Syntax::Depth, path))
    }

    /// The value is of a type the field does not take: reports it and reads past it.
    pub(super) fn mistyped(
        &mut self,
        path: &Path<'_>,
        wanted: &'static str,
        depth_left: u32,
    ) -> Result<(), Stop> {
        // What cannot be read at all is a matter of syntax.
        self.skip(path, depth_left)?;
        self.report(path, rule::JSON_TYPE, wanted)
    }

    /// The value of a message field, or the document.
    pub(super) fn message(&mut self, node: u32, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        let plan = self.plan;
        let message = plan.message(&plan.nodes[node as usize]);
        match message.well_known {
            None => self.object(node, path, depth_left, false),
            Some(WellKnown::Any) => self.any(path, depth_left),
            Some(WellKnown::Timestamp) => {
                let wanted = "expected a timestamp as in RFC 3339";
                let moment = self.text(path, depth_left, well_known::timestamp, wanted)?;
                self.seconds(moment);
                Ok(())
            }
            Some(WellKnown::Duration) => {
                let wanted = "expected a duration in seconds, such as \"1.5s\"";
                let length = self.text(path, depth_left, well_known::duration, wanted)?;
                self.seconds(length);
                Ok(())
            }
            Some(WellKnown::FieldMask) => {
                let fits = |text: &str| well_known::is_field_mask(text).then(|| text.to_owned());
                let wanted = "expected camelCase paths joined by commas";
                let paths = self.text(path, depth_left, fits, wanted)?.unwrap_or_default();
                for path in paths.split(',').filter(|path| !path.is_empty()) {
                    let path = well_known::snake_case(path);
                    self.put(1, Form::Tagged, Kind::String, Scalar::Bytes(path.as_bytes()));
                }
                Ok(())
            }
            Some(WellKnown::Struct) if self.peek(path)? != b'{' => {
                self.mistyped(path, "expected an object", depth_left)
            }
            Some(WellKnown::Struct) => self.free_object(path, depth_left),
            Some(WellKnown::ListValue) if self.peek(path)? != b'[' => {
                self.mistyped(path, "expected an array", depth_left)
            }
            Some(WellKnown::ListValue) => self.free_array(path, depth_left),
            Some(WellKnown::Value) => self.free_value(path, depth_left),
            Some(WellKnown::Wrapper) => match message.fields.first() {
                Some(value) => {
                    self.slot = Slot {
                        number: value.number,
                        form: Form::Filled,
                    };
                    self.scalar(value.kind, path, depth_left).map(drop)
                }
                None => self.skip(path, depth_left),
            },
        }
    }

    /// Writes a value of the message that is open.
    pub(super) fn put(&mut self, number: u32, form: Form, kind: Kind, value: Scalar<'_>) {
        self.out.scalar(Slot { number, form }, kind, value);
    }

    /// The fields of a `Timestamp` or a `Duration`.
    fn seconds(&mut self, value: Option<(i64, i32)>) {
        if let Some((seconds, nanos)) = value {
            self.put(1, Form::Filled, Kind::Int64, Scalar::Integer(i128::from(seconds)));
            self.put(2, Form::Filled, Kind::Int32, Scalar::Integer(i128::from(nanos)));
        }
    }

    /// A string with a form of its own; `None`: it does not fit, which is reported.
    pub(super) fn text<T>(
        &mut self,
        path: &Path<'_>,
        depth_left: u32,
        read: impl FnOnce(&str) -> Option<T>,
        wanted: &'static str,
    ) -> Result<Option<T>, Stop> {
        if self.peek(path)? != b'"' {
            return self.mistyped(path, wanted, depth_left).map(|()| None);
        }
        let text = self.string(path)?;
        let value = read(&text);
        if value.is_none() {
            self.report(path, rule::JSON_FORMAT, wanted)?;
        }
        Ok(value)
    }

    /// An object with the message's fields; `typed`: `@type` is among them.
    pub(super) fn object(
        &mut self,
        node: u32,
        path: &Path<'_>,
        depth_left: u32,
        typed: bool,
    ) -> Result<(), Stop> {
        let plan = self.plan;
        let node = &plan.nodes[node as usize];
        let message = plan.message(node);
        if self.peek(path)? != b'{' {
            return self.mistyped(path, "expected an object", depth_left);
        }
        self.lexed(path, |lexer| lexer.expect(b'{'))?;
        let mut seen = Seen::default();
        let mut more = !self.lexed(path, |lexer| lexer.take(b'}'))?;
        let mut type_seen = false;
        let mut guess = 0;
        while more {
            let name = self.string(path)?;
            self.lexed(path, |lexer| lexer.expect(b':'))?;
            match message.by_spelling(&name, guess) {
                Some(at) => {
                    guess = at + 1;
                    let field = &message.fields[at as usize];
                    self.member(
                        message,
                        field,
                        at,
                        node.children[at as usize],
                        path,
                        depth_left,
                        &mut seen,
                    )?;
                }
                None if typed && name == "@type" => {
                    if std::mem::replace(&mut type_seen, true) {
                        self.report(
                            &Path::Field(path, "@type"),
                            rule::JSON_DUPLICATE,
                            "this name is there twice",
                        )?;
                    }
                    self.skip(path, depth_left)?;
                }
                None => {
                    let place = Path::Unknown(path, &name);
                    self.skip(&place, depth_left)?;
                    self.report(&place, rule::UNKNOWN_FIELD, "unknown field")?;
                }
            }
            more = self.lexed(path, |lexer| lexer.more(b'}'))?;
        }
        for &requirement in &node.required {
            match requirement {
                Requirement::Field(at) if !seen.present.contains(at) => {
                    self.found
                        .missing(&Path::Field(path, &message.fields[at as usize].name), "field");
                }
                Requirement::Oneof(at) if !seen.oneofs.contains(at) => {
                    self.found
                        .missing(&Path::Field(path, &message.oneofs[at as usize].name), "oneof");
                }
                Requirement::Field(_) | Requirement::Oneof(_) => {}
            }
        }
        if self.found.full() { Err(Stop) } else { Ok(()) }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one call site, and each is a different thing"
    )]
    fn member(
        &mut self,
        message: &Message,
        field: &Field,
        at: u32,
        child: u32,
        path: &Path<'_>,
        depth_left: u32,
        seen: &mut Seen,
    ) -> Result<(), Stop> {
        let path = &Path::Field(path, &field.name);
        if !seen.names.insert(at) {
            self.report(path, rule::JSON_DUPLICATE, "this field is there twice")?;
        }
        if self.peek(path)? == b'n' && !self.takes_null(field.kind, field.shape) {
            return self.lexed(path, |lexer| lexer.literal("null"));
        }
        if let Some(oneof) = field.oneof
            && !seen.oneofs.insert(oneof)
        {
            let name = &message.oneofs[oneof as usize].name;
            self.report(
                path,
                rule::JSON_DUPLICATE,
                format!("another member of the oneof '{name}' is already set"),
            )?;
        }
        self.slot = Slot {
            number: field.number,
            form: form(field),
        };
        let filled = match field.shape {
            Shape::Singular => self.value(field.kind, child, path, depth_left)?,
            Shape::Repeated => self.array(field, child, path, depth_left)?,
            Shape::Map => self.map(child, path, depth_left)?,
        };
        let explicit = field.shape == Shape::Singular && field.presence != Presence::Implicit;
        if filled || explicit {
            seen.present.insert(at);
        }
        Ok(())
    }

    /// Whether `null` is a value of the field, and not its absence.
    fn takes_null(&self, kind: Kind, shape: Shape) -> bool {
        let table = &self.plan.table;
        shape == Shape::Singular
            && match kind {
                Kind::Message(at) => table.messages[at as usize].well_known == Some(WellKnown::Value),
                Kind::Enum(at) => &*table.enums[at as usize].name == "google.protobuf.NullValue",
                _ => false,
            }
    }

    /// One value; whether it is more than its type's zero.
    pub(super) fn value(
        &mut self,
        kind: Kind,
        child: u32,
        path: &Path<'_>,
        depth_left: u32,
    ) -> Result<bool, Stop> {
        if child == NONE {
            return self.scalar(kind, path, depth_left);
        }
        let left = self.down(path, depth_left, 1)?;
        let number = self.slot.number;
        let group = matches!(kind, Kind::Group(_));
        if group {
            self.out.group(number, false);
        } else {
            self.out.open(number);
        }
        self.message(child, path, left)?;
        if group {
            self.out.group(number, true);
        } else {
            self.out.close();
        }
        Ok(true)
    }

    /// An element of an array or map, which may be null only where null is a value.
    pub(super) fn element(
        &mut self,
        kind: Kind,
        child: u32,
        path: &Path<'_>,
        depth_left: u32,
    ) -> Result<(), Stop> {
        if self.peek(path)? == b'n' && !self.takes_null(kind, Shape::Singular) {
            return self.mistyped(path, "null is no element", depth_left);
        }
        self.value(kind, child, path, depth_left).map(drop)
    }

    pub(super) fn array(
        &mut self,
        field: &Field,
        child: u32,
        path: &Path<'_>,
        depth_left: u32,
    ) -> Result<bool, Stop> {
        if self.peek(path)? != b'[' {
            return self
                .mistyped(path, "expected an array", depth_left)
                .map(|()| true);
        }
        self.lexed(path, |lexer| lexer.expect(b'['))?;
        if self.lexed(path, |lexer| lexer.take(b']'))? {
            return Ok(false);
        }
        let slot = Slot {
            form: if field.packed { Form::Packed } else { Form::Tagged },
            ..self.slot
        };
        if field.packed {
            self.out.open(slot.number);
        }
        let mut index = 0;
        loop {
            self.slot = slot;
            index += self.integers(field.kind);
            self.element(field.kind, child, &Path::Index(path, index), depth_left)?;
            index += 1;
            if !self.lexed(path, |lexer| lexer.more(b']'))? {
                break;
            }
        }
        if field.packed {
            self.out.close();
        }
        Ok(true)
    }

    pub(super) fn map(&mut self, entry: u32, path: &Path<'_>, depth_left: u32) -> Result<bool, Stop> {
        let plan = self.plan;
        let node = &plan.nodes[entry as usize];
        let [key_field, value] = plan.message(node).fields.as_slice() else {
            unreachable!("the table checks that an entry has two fields");
        };
        let key_kind = key_field.kind;
        if self.peek(path)? != b'{' {
            return self
                .mistyped(path, "expected an object", depth_left)
                .map(|()| true);
        }
        // The entry is a message of its own, as on the wire.
        let left = self.down(path, depth_left, 1)?;
        self.lexed(path, |lexer| lexer.expect(b'{'))?;
        if self.lexed(path, |lexer| lexer.take(b'}'))? {
            return Ok(false);
        }
        let number = self.slot.number;
        let mut keys = KeySet::default();
        loop {
            let text = self.string(path)?;
            self.lexed(path, |lexer| lexer.expect(b':'))?;
            match map_key(key_kind, text.clone()) {
                Some(key) => {
                    let place = Path::Key(path, &key);
                    if keys.contains(&key) {
                        self.report(&place, rule::JSON_DUPLICATE, "this key is there twice")?;
                    }
                    self.out.open(number);
                    let written = match &key {
                        Key::Text(text) => Scalar::Bytes(text.as_bytes()),
                        Key::Signed(number) => Scalar::Integer(i128::from(*number)),
                        Key::Unsigned(number) => Scalar::Integer(i128::from(*number)),
                        Key::Bool(truth) => Scalar::Integer(i128::from(*truth)),
                    };
                    self.put(1, form(key_field), key_kind, written);
                    self.slot = Slot {
                        number: 2,
                        form: form(value),
                    };
                    self.element(value.kind, node.children[1], &place, left)?;
                    self.out.close();
                    keys.insert(key);
                }
                None => {
                    let key = Key::Text(text);
                    let place = Path::Key(path, &key);
                    self.skip(&place, left)?;
                    self.report(&place, rule::JSON_FORMAT, "not a key of this map's key type")?;
                }
            }
            if !self.lexed(path, |lexer| lexer.more(b'}'))? {
                return Ok(true);
            }
        }
    }
}

/// How a field's value is written.
fn form(field: &Field) -> Form {
    if field.shape == Shape::Singular && field.presence == Presence::Implicit {
        Form::Filled
    } else {
        Form::Tagged
    }
}

/// The key a JSON name stands for in a map with that key type.
fn map_key(kind: Kind, text: Cow<'_, str>) -> Option<Key<'_>> {
    match kind {
        Kind::String => return Some(Key::Text(text)),
        Kind::Bool => return text.parse().ok().map(Key::Bool),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(&text);
    if digits.is_empty()
        || digits.len() > 1 && digits.starts_with('0')
        || !digits.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let value = scalar::fits(kind, &text).ok()?;
    match kind {
        Kind::Uint32 | Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => {
            u64::try_from(value).ok().map(Key::Unsigned)
        }
        _ => i64::try_from(value).ok().map(Key::Signed),
    }
}
