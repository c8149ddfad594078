//! `google.protobuf.{Value, Struct, ListValue}`: JSON that no message describes.

use super::{
    Stop,
    field_set::KeySet,
    lexer::Lexer,
    object::Pass,
    output::{Form, Output, Scalar, Slot},
};
use crate::{
    path::{Key, Path},
    table::Kind,
    violation::rule,
};

impl<O: Output> Pass<'_, '_, '_, O> {
    /// `google.protobuf.Value`: any JSON.
    pub(super) fn free_value(&mut self, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        match self.peek(path)? {
            b'{' => {
                let left = self.down(path, depth_left, 1)?;
                self.out.open(5);
                self.free_object(path, left)?;
                self.out.close();
                Ok(())
            }
            b'[' => {
                let left = self.down(path, depth_left, 1)?;
                self.out.open(6);
                self.free_array(path, left)?;
                self.out.close();
                Ok(())
            }
            b'-' | b'0'..=b'9' => {
                let text = self.lexed(path, Lexer::number)?;
                self.slot = Slot {
                    number: 2,
                    form: Form::Tagged,
                };
                self.number(Kind::Double, text, path).map(drop)
            }
            b'"' => {
                let text = self.string(path)?;
                self.put(3, Form::Tagged, Kind::String, Scalar::Bytes(text.as_bytes()));
                Ok(())
            }
            first @ (b't' | b'f') => {
                let truth = first == b't';
                let literal = if truth { "true" } else { "false" };
                self.lexed(path, |lexer| lexer.literal(literal))?;
                self.put(4, Form::Tagged, Kind::Bool, Scalar::Integer(i128::from(truth)));
                Ok(())
            }
            b'n' => {
                self.lexed(path, |lexer| lexer.literal("null"))?;
                self.put(1, Form::Tagged, Kind::Int32, Scalar::Integer(0));
                Ok(())
            }
            _ => self.skip(path, depth_left),
        }
    }

    /// `google.protobuf.Struct`. On the wire each member is an entry and a value: two levels.
    pub(super) fn free_object(&mut self, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        self.lexed(path, |lexer| lexer.expect(b'{'))?;
        if self.lexed(path, |lexer| lexer.take(b'}'))? {
            return Ok(());
        }
        let left = self.down(path, depth_left, 2)?;
        let mut names = KeySet::default();
        loop {
            let name = self.string(path)?;
            self.out.open(1);
            self.put(1, Form::Filled, Kind::String, Scalar::Bytes(name.as_bytes()));
            let key = Key::Text(name);
            let place = Path::Key(path, &key);
            self.lexed(&place, |lexer| lexer.expect(b':'))?;
            self.out.open(2);
            self.free_value(&place, left)?;
            self.out.close();
            self.out.close();
            if names.contains(&key) {
                self.report(&place, rule::JSON_DUPLICATE, "this name is there twice")?;
            }
            names.insert(key);
            if !self.lexed(path, |lexer| lexer.more(b'}'))? {
                return Ok(());
            }
        }
    }

    /// `google.protobuf.ListValue`.
    pub(super) fn free_array(&mut self, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        self.lexed(path, |lexer| lexer.expect(b'['))?;
        if self.lexed(path, |lexer| lexer.take(b']'))? {
            return Ok(());
        }
        let left = self.down(path, depth_left, 1)?;
        let mut index = 0;
        loop {
            self.out.open(1);
            self.free_value(&Path::Index(path, index), left)?;
            self.out.close();
            index += 1;
            if !self.lexed(path, |lexer| lexer.more(b']'))? {
                return Ok(());
            }
        }
    }
}
