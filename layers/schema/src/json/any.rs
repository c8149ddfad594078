//! `google.protobuf.Any`, whose fields depend on one of its members.

use std::borrow::Cow;

use super::{
    Stop,
    object::Pass,
    output::{Form, Output, Scalar},
};
use crate::{path::Path, table::Kind, violation::rule};

impl<'a, O: Output> Pass<'_, 'a, '_, O> {
    /// `google.protobuf.Any`: `@type` and the fields of that type, or `@type` and `value`.
    pub(super) fn any(&mut self, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        if self.peek(path)? != b'{' {
            return self.mistyped(path, "expected an object", depth_left);
        }
        let start = self.lexer.clone();
        let found = self.find_type(path, depth_left)?;
        let ahead = self.lexer.position() - start.position();
        let Some(url) = found else {
            return Ok(());
        };
        let Some(left) = self.ahead_left.checked_sub(ahead) else {
            let place = Path::Field(path, "@type");
            self.report(
                &place,
                rule::JSON_FORMAT,
                "\"@type\" has to stand first where so much follows",
            )?;
            return Err(Stop);
        };
        self.ahead_left = left;
        let name = url.rsplit_once('/').map(|(_, name)| name);
        let plan = self.plan;
        let node = name.and_then(|name| plan.anywhere(plan.table.message(name)?));
        self.lexer = start;
        let Some(node) = node else {
            self.skip(path, depth_left)?;
            let place = Path::Field(path, "@type");
            return self.report(
                &place,
                rule::JSON_FORMAT,
                "the type is not in the schema's descriptor set",
            );
        };
        let left = self.down(path, depth_left, 1)?;
        self.put(1, Form::Filled, Kind::String, Scalar::Bytes(url.as_bytes()));
        if plan.well_known(&plan.nodes[node as usize]).is_some() {
            self.boxed(node, path, left)
        } else {
            self.out.open(2);
            self.object(node, path, left, true)?;
            self.out.close_filled();
            Ok(())
        }
    }

    /// Reads the object up to its `@type` and returns it; `None` for the empty object, or when the lack was reported. What
    /// follows is read in its turn, another `@type` too.
    fn find_type(&mut self, path: &Path<'_>, depth_left: u32) -> Result<Option<Cow<'a, str>>, Stop> {
        self.lexed(path, |lexer| lexer.expect(b'{'))?;
        if self.lexed(path, |lexer| lexer.take(b'}'))? {
            return Ok(None);
        }
        loop {
            let name = self.string(path)?;
            self.lexed(path, |lexer| lexer.expect(b':'))?;
            if name == "@type" && self.peek(path)? == b'"' {
                return Ok(Some(self.string(path)?));
            }
            self.skip(path, depth_left)?;
            if !self.lexed(path, |lexer| lexer.more(b'}'))? {
                break;
            }
        }
        self.report(path, rule::JSON_FORMAT, "an Any needs \"@type\"")?;
        Ok(None)
    }

    /// An `Any` of a type with a JSON form of its own: exactly `@type` and `value`.
    fn boxed(&mut self, node: u32, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        self.lexed(path, |lexer| lexer.expect(b'{'))?;
        let (mut types, mut values) = (0, 0);
        loop {
            let name = self.string(path)?;
            self.lexed(path, |lexer| lexer.expect(b':'))?;
            match &*name {
                "@type" => {
                    types += 1;
                    self.skip(path, depth_left)?;
                }
                "value" => {
                    values += 1;
                    self.out.open(2);
                    self.message(node, &Path::Field(path, "value"), depth_left)?;
                    self.out.close_filled();
                }
                name => {
                    let place = Path::Unknown(path, name);
                    self.skip(&place, depth_left)?;
                    self.report(&place, rule::UNKNOWN_FIELD, "unknown field")?;
                }
            }
            if !self.lexed(path, |lexer| lexer.more(b'}'))? {
                break;
            }
        }
        if types > 1 || values > 1 {
            return self.report(path, rule::JSON_DUPLICATE, "a name is there twice");
        }
        if values == 0 {
            self.report(path, rule::JSON_FORMAT, "an Any of this type needs \"value\"")
        } else {
            Ok(())
        }
    }
}
