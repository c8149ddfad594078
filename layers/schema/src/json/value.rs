//! Scalars and enums as JSON values.

use super::{
    Stop,
    lexer::Lexer,
    object::Pass,
    scalar::{self, Misfit},
};
use crate::{path::Path, table::Kind, violation::rule};

impl Pass<'_, '_, '_> {
    /// A scalar; whether it is more than its type's zero. What does not fit counts as there.
    pub(super) fn scalar(&mut self, kind: Kind, path: &Path<'_>, depth_left: u32) -> Result<bool, Stop> {
        let first = self.peek(path)?;
        if is_integer(kind)
            && let Some(value) = self.lexer.small_integer(first == b'"')
        {
            return self.fitted(scalar::small_fits(kind, value), path);
        }
        match (kind, first) {
            (Kind::Bool, b't') => self.lexed(path, |lexer| lexer.literal("true")).map(|()| true),
            (Kind::Bool, b'f') => self.lexed(path, |lexer| lexer.literal("false")).map(|()| false),
            (Kind::Bool, _) => self
                .mistyped(path, "expected true or false", depth_left)
                .map(|()| true),
            (Kind::String, b'"') => Ok(!self.string(path)?.is_empty()),
            (Kind::String, _) => self
                .mistyped(path, "expected a string", depth_left)
                .map(|()| true),
            (Kind::Bytes, b'"') => match scalar::base64(&self.string(path)?) {
                Some(length) => Ok(length > 0),
                None => self
                    .report(path, rule::JSON_FORMAT, "expected base64")
                    .map(|()| true),
            },
            (Kind::Bytes, _) => self
                .mistyped(path, "expected a string of base64", depth_left)
                .map(|()| true),
            (Kind::Enum(at), _) => self.enumeration(at, first, path, depth_left),
            (_, b'"') => {
                let text = self.string(path)?;
                let float = matches!(kind, Kind::Double | Kind::Float);
                if float && matches!(&*text, "NaN" | "Infinity" | "-Infinity") {
                    return Ok(true);
                }
                if !scalar::is_number(&text) {
                    return self
                        .report(path, rule::JSON_FORMAT, "expected a number")
                        .map(|()| true);
                }
                self.number(kind, &text, path)
            }
            (_, b'-' | b'0'..=b'9') => {
                let text = self.lexed(path, Lexer::number)?;
                self.number(kind, text, path)
            }
            _ => self
                .mistyped(path, "expected a number", depth_left)
                .map(|()| true),
        }
    }

    pub(super) fn number(&mut self, kind: Kind, text: &str, path: &Path<'_>) -> Result<bool, Stop> {
        let fits = match kind {
            Kind::Double | Kind::Float => scalar::floats(kind, text),
            kind => scalar::fits(kind, text),
        };
        self.fitted(fits, path)
    }

    fn fitted(&mut self, fits: Result<bool, Misfit>, path: &Path<'_>) -> Result<bool, Stop> {
        match fits {
            Ok(filled) => Ok(filled),
            Err(Misfit::Format) => self
                .report(path, rule::JSON_FORMAT, "expected a number")
                .map(|()| true),
            Err(Misfit::Range) => self
                .report(
                    path,
                    rule::JSON_RANGE,
                    "this number does not fit the field's type",
                )
                .map(|()| true),
        }
    }

    pub(super) fn enumeration(
        &mut self,
        at: u32,
        first: u8,
        path: &Path<'_>,
        depth_left: u32,
    ) -> Result<bool, Stop> {
        let declared = &self.plan.table.enums[at as usize];
        match first {
            b'"' => match declared.names.get(&*self.string(path)?) {
                Some(number) => Ok(*number != 0),
                None => {
                    let text = format!("not a value of the enum {}", declared.name);
                    self.report(path, rule::JSON_FORMAT, text).map(|()| true)
                }
            },
            b'-' | b'0'..=b'9' => {
                let text = self.lexed(path, Lexer::number)?;
                let number = scalar::integer(text).and_then(|number| i32::try_from(number).ok());
                match number {
                    None => self.number(Kind::Enum(at), text, path),
                    // The parser of a closed enum drops the number: the field would be missing.
                    Some(number) if declared.closed && !declared.knows(number) => {
                        let text = format!("not a value of the closed enum {}", declared.name);
                        self.report(path, rule::CLOSED_ENUM, text).map(|()| true)
                    }
                    Some(number) => Ok(number != 0),
                }
            }
            b'n' if &*declared.name == "google.protobuf.NullValue" => {
                self.lexed(path, |lexer| lexer.literal("null")).map(|()| false)
            }
            _ => self
                .mistyped(path, "expected an enum value's name", depth_left)
                .map(|()| true),
        }
    }
}

fn is_integer(kind: Kind) -> bool {
    !matches!(
        kind,
        Kind::Double
            | Kind::Float
            | Kind::Bool
            | Kind::String
            | Kind::Bytes
            | Kind::Enum(_)
            | Kind::Message(_)
            | Kind::Group(_)
    )
}
