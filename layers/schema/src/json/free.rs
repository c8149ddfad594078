//! `google.protobuf.{Value, Struct, ListValue}`: JSON that no message describes.

use super::{Stop, field_set::KeySet, lexer::Lexer, object::Pass};
use crate::{
    path::{Key, Path},
    table::Kind,
    violation::rule,
};

impl Pass<'_, '_, '_> {
    /// `google.protobuf.Value`: any JSON.
    pub(super) fn free_value(&mut self, path: &Path<'_>, depth_left: u32) -> Result<(), Stop> {
        match self.peek(path)? {
            b'{' => {
                let left = self.down(path, depth_left, 1)?;
                self.free_object(path, left)
            }
            b'[' => {
                let left = self.down(path, depth_left, 1)?;
                self.free_array(path, left)
            }
            b'-' | b'0'..=b'9' => {
                let text = self.lexed(path, Lexer::number)?;
                self.number(Kind::Double, text, path).map(drop)
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
            let key = Key::Text(self.string(path)?);
            let place = Path::Key(path, &key);
            self.lexed(&place, |lexer| lexer.expect(b':'))?;
            self.free_value(&place, left)?;
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
            self.free_value(&Path::Index(path, index), left)?;
            index += 1;
            if !self.lexed(path, |lexer| lexer.more(b']'))? {
                return Ok(());
            }
        }
    }
}
