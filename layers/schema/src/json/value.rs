//! Scalars and enums as JSON values.

use super::{
    Stop,
    lexer::Lexer,
    object::Pass,
    output::{Output, Scalar},
    scalar::{self, Misfit},
};
use crate::{path::Path, table::Kind, violation::rule};

impl<O: Output> Pass<'_, '_, '_, O> {
    /// A scalar; whether it is more than its type's zero. What does not fit counts as there.
    pub(super) fn scalar(&mut self, kind: Kind, path: &Path<'_>, depth_left: u32) -> Result<bool, Stop> {
        let first = self.peek(path)?;
        if is_integer(kind)
            && let Some(value) = self.lexer.small_integer(first == b'"')
        {
            let value = scalar::small_fits(kind, value).map(i128::from);
            return self.fitted(kind, value, path);
        }
        match (kind, first) {
            (Kind::Bool, b't') => {
                self.lexed(path, |lexer| lexer.literal("true"))?;
                Ok(self.emit(kind, Scalar::Integer(1), true))
            }
            (Kind::Bool, b'f') => {
                self.lexed(path, |lexer| lexer.literal("false"))?;
                Ok(self.emit(kind, Scalar::Integer(0), false))
            }
            (Kind::Bool, _) => self
                .mistyped(path, "expected true or false", depth_left)
                .map(|()| true),
            (Kind::String, b'"') => {
                let text = self.string(path)?;
                Ok(self.emit(kind, Scalar::Bytes(text.as_bytes()), !text.is_empty()))
            }
            (Kind::String, _) => self
                .mistyped(path, "expected a string", depth_left)
                .map(|()| true),
            (Kind::Bytes, b'"') => {
                let text = self.string(path)?;
                let Some(length) = scalar::base64(&text) else {
                    return self
                        .report(path, rule::JSON_FORMAT, "expected base64")
                        .map(|()| true);
                };
                if O::ON {
                    self.emit(kind, Scalar::Bytes(&scalar::decode_base64(&text)), true);
                }
                Ok(length > 0)
            }
            (Kind::Bytes, _) => self
                .mistyped(path, "expected a string of base64", depth_left)
                .map(|()| true),
            (Kind::Enum(at), _) => self.enumeration(at, first, path, depth_left),
            (_, b'"') => {
                let text = self.string(path)?;
                let float = matches!(kind, Kind::Double | Kind::Float);
                let special = match &*text {
                    "NaN" => Some(f64::NAN),
                    "Infinity" => Some(f64::INFINITY),
                    "-Infinity" => Some(f64::NEG_INFINITY),
                    _ => None,
                };
                if let Some(value) = special.filter(|_| float) {
                    return Ok(self.emit(kind, Scalar::Float(value), true));
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

    /// Writes the value; whether it is more than its type's zero.
    fn emit(&mut self, kind: Kind, value: Scalar<'_>, filled: bool) -> bool {
        self.out.scalar(self.slot, kind, value);
        filled
    }

    /// The first elements of an array, as far as they are small integers each followed by a comma; how many there were.
    #[inline]
    pub(super) fn integers(&mut self, kind: Kind) -> usize {
        if !is_integer(kind) {
            return 0;
        }
        let (out, slot) = (&mut self.out, self.slot);
        self.lexer
            .integers(|value| match scalar::small_fits(kind, value) {
                Ok(value) => {
                    out.scalar(slot, kind, Scalar::Integer(i128::from(value)));
                    true
                }
                Err(_) => false,
            })
    }

    pub(super) fn number(&mut self, kind: Kind, text: &str, path: &Path<'_>) -> Result<bool, Stop> {
        if !matches!(kind, Kind::Double | Kind::Float) {
            return self.fitted(kind, scalar::fits(kind, text), path);
        }
        if !O::ON
            && let Some(filled) = scalar::short_float(text)
        {
            return Ok(filled);
        }
        match scalar::floats(kind, text) {
            Ok(value) => Ok(self.emit(kind, Scalar::Float(value), value.to_bits() != 0)),
            Err(misfit) => self.misfit(misfit, path).map(|()| true),
        }
    }

    fn fitted(&mut self, kind: Kind, value: Result<i128, Misfit>, path: &Path<'_>) -> Result<bool, Stop> {
        match value {
            Ok(value) => Ok(self.emit(kind, Scalar::Integer(value), value != 0)),
            Err(misfit) => self.misfit(misfit, path).map(|()| true),
        }
    }

    fn misfit(&mut self, misfit: Misfit, path: &Path<'_>) -> Result<(), Stop> {
        match misfit {
            Misfit::Format => self.report(path, rule::JSON_FORMAT, "expected a number"),
            Misfit::Range => self.report(
                path,
                rule::JSON_RANGE,
                "this number does not fit the field's type",
            ),
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
                Some(&number) => {
                    Ok(self.emit(Kind::Enum(at), Scalar::Integer(i128::from(number)), number != 0))
                }
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
                    Some(number) => {
                        Ok(self.emit(Kind::Enum(at), Scalar::Integer(i128::from(number)), number != 0))
                    }
                }
            }
            b'n' if &*declared.name == "google.protobuf.NullValue" => {
                self.lexed(path, |lexer| lexer.literal("null"))?;
                Ok(self.emit(Kind::Enum(at), Scalar::Integer(0), false))
            }
            _ => self
                .mistyped(path, "expected an enum value's name", depth_left)
                .map(|()| true),
        }
    }
}

/// A kind whose JSON is an integer.
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
