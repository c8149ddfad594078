//! The rules of strings and bytes.

use std::collections::HashSet;

use regex::bytes::Regex;

use super::{Report, range::list};

/// `StringRules`, compiled.
#[derive(Debug, Default)]
pub(crate) struct TextRules {
    pub(super) constant: Option<Box<str>>,
    pub(super) len: Option<u64>,
    pub(super) min_len: Option<u64>,
    pub(super) max_len: Option<u64>,
    pub(super) len_bytes: Option<u64>,
    pub(super) min_bytes: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) pattern: Option<(Box<str>, Regex)>,
    pub(super) prefix: Option<Box<str>>,
    pub(super) suffix: Option<Box<str>>,
    pub(super) contains: Option<Box<str>>,
    pub(super) not_contains: Option<Box<str>>,
    pub(super) among: Set<Box<str>>,
    pub(super) not_among: Set<Box<str>>,
    pub(super) format: Option<Format>,
}

/// A set of values and their order, for the message.
#[derive(Debug)]
pub(super) struct Set<T>(pub(super) Vec<T>, pub(super) HashSet<T>);

impl<T> Default for Set<T> {
    fn default() -> Self {
        Self(Vec::new(), HashSet::new())
    }
}

/// One well-known form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    /// After `string.`
    pub(super) id: &'static str,
    /// After `must be a valid`.
    pub(super) what: &'static str,
    /// The empty string has a rule of its own: `.._empty`, `value is empty, which is not a valid ..`.
    pub(super) empty: Option<&'static str>,
    pub(super) fits: fn(&str) -> bool,
}

impl TextRules {
    /// The bytes are UTF-8, as the walker has seen.
    pub(super) fn check(&self, bytes: &[u8], report: &mut impl Report) {
        // One after the other, in the order of the options; `return` when the report has enough.
        macro_rules! rule {
            ($holds:expr, $id:expr, $($text:tt)*) => {
                if !$holds && !report.broken($id, || format!($($text)*)) {
                    return;
                }
            };
        }
        let size = bytes.len() as u64;
        if let Some(constant) = &self.constant {
            rule!(
                bytes == constant.as_bytes(),
                "string.const",
                "must equal `{constant}`"
            );
        }
        if self.len.is_some() || self.min_len.is_some() || self.max_len.is_some() {
            let letters = bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count() as u64;
            if let Some(len) = self.len {
                rule!(letters == len, "string.len", "must be {len} characters");
            }
            if let Some(least) = self.min_len {
                rule!(
                    letters >= least,
                    "string.min_len",
                    "must be at least {least} characters"
                );
            }
            if let Some(most) = self.max_len {
                rule!(
                    letters <= most,
                    "string.max_len",
                    "must be at most {most} characters"
                );
            }
        }
        if let Some(len) = self.len_bytes {
            rule!(size == len, "string.len_bytes", "must be {len} bytes");
        }
        if let Some(least) = self.min_bytes {
            rule!(
                size >= least,
                "string.min_bytes",
                "must be at least {least} bytes"
            );
        }
        if let Some(most) = self.max_bytes {
            rule!(size <= most, "string.max_bytes", "must be at most {most} bytes");
        }
        if let Some((pattern, regex)) = &self.pattern {
            rule!(
                regex.is_match(bytes),
                "string.pattern",
                "does not match regex pattern `{pattern}`"
            );
        }
        if let Some(prefix) = &self.prefix {
            rule!(
                bytes.starts_with(prefix.as_bytes()),
                "string.prefix",
                "does not have prefix `{prefix}`"
            );
        }
        if let Some(suffix) = &self.suffix {
            rule!(
                bytes.ends_with(suffix.as_bytes()),
                "string.suffix",
                "does not have suffix `{suffix}`"
            );
        }
        if let Some(part) = &self.contains {
            rule!(
                contains(bytes, part.as_bytes()),
                "string.contains",
                "does not contain substring `{part}`"
            );
        }
        if let Some(part) = &self.not_contains {
            rule!(
                !contains(bytes, part.as_bytes()),
                "string.not_contains",
                "contains substring `{part}`"
            );
        }
        let all = |set: &Set<Box<str>>| list(set.0.iter().map(ToString::to_string));
        if self.among.0.is_empty() && self.not_among.0.is_empty() && self.format.is_none() {
            return;
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return;
        };
        if !self.among.0.is_empty() {
            rule!(
                self.among.1.contains(text),
                "string.in",
                "must be in list {}",
                all(&self.among)
            );
        }
        let excluded = self.not_among.1.contains(text);
        rule!(
            !excluded,
            "string.not_in",
            "must not be in list {}",
            all(&self.not_among)
        );
        let Some(format) = &self.format else { return };
        match format.empty {
            Some(what) if text.is_empty() => {
                report.broken(format!("string.{}_empty", format.id), || {
                    format!("value is empty, which is not a valid {what}")
                });
            }
            _ if (format.fits)(text) => {}
            _ => {
                report.broken(format!("string.{}", format.id), || {
                    format!("must be a valid {}", format.what)
                });
            }
        }
    }
}

/// `BytesRules`, compiled.
#[derive(Debug, Default)]
pub(crate) struct BytesRules {
    pub(super) constant: Option<Box<[u8]>>,
    pub(super) len: Option<u64>,
    pub(super) min_len: Option<u64>,
    pub(super) max_len: Option<u64>,
    pub(super) pattern: Option<(Box<str>, Regex)>,
    pub(super) prefix: Option<Box<[u8]>>,
    pub(super) suffix: Option<Box<[u8]>>,
    pub(super) contains: Option<Box<[u8]>>,
    pub(super) among: Set<Box<[u8]>>,
    pub(super) not_among: Set<Box<[u8]>>,
    /// Id, what it is called, and the lengths it may have.
    pub(super) format: Option<(&'static str, &'static str, &'static [usize])>,
}

impl BytesRules {
    pub(super) fn check(&self, bytes: &[u8], report: &mut impl Report) {
        macro_rules! rule {
            ($holds:expr, $id:expr, $($text:tt)*) => {
                if !$holds && !report.broken($id, || format!($($text)*)) {
                    return;
                }
            };
        }
        let size = bytes.len() as u64;
        if let Some(constant) = &self.constant {
            rule!(bytes == &**constant, "bytes.const", "must be {}", hex(constant));
        }
        if let Some(len) = self.len {
            rule!(size == len, "bytes.len", "must be {len} bytes");
        }
        if let Some(least) = self.min_len {
            rule!(size >= least, "bytes.min_len", "must be at least {least} bytes");
        }
        if let Some(most) = self.max_len {
            rule!(size <= most, "bytes.max_len", "must be at most {most} bytes");
        }
        if let Some((pattern, regex)) = &self.pattern {
            // Bytes that are no text match nothing.
            let holds = regex.is_match(bytes) && simdutf8::basic::from_utf8(bytes).is_ok();
            rule!(holds, "bytes.pattern", "must match regex pattern `{pattern}`");
        }
        if let Some(prefix) = &self.prefix {
            rule!(
                bytes.starts_with(prefix),
                "bytes.prefix",
                "does not have prefix {}",
                hex(prefix)
            );
        }
        if let Some(suffix) = &self.suffix {
            rule!(
                bytes.ends_with(suffix),
                "bytes.suffix",
                "does not have suffix {}",
                hex(suffix)
            );
        }
        if let Some(part) = &self.contains {
            rule!(
                contains(bytes, part),
                "bytes.contains",
                "does not contain {}",
                hex(part)
            );
        }
        let all =
            |set: &Set<Box<[u8]>>| list(set.0.iter().map(|one| String::from_utf8_lossy(one).into_owned()));
        if !self.among.0.is_empty() {
            rule!(
                self.among.1.contains(bytes),
                "bytes.in",
                "must be in list {}",
                all(&self.among)
            );
        }
        let excluded = self.not_among.1.contains(bytes);
        rule!(
            !excluded,
            "bytes.not_in",
            "must not be in list {}",
            all(&self.not_among)
        );
        match self.format {
            Some((id, what, _)) if bytes.is_empty() => {
                report.broken(format!("bytes.{id}_empty"), || {
                    format!("value is empty, which is not a valid {what}")
                });
            }
            Some((id, what, lengths)) if !lengths.contains(&bytes.len()) => {
                report.broken(format!("bytes.{id}"), || format!("must be a valid {what}"));
            }
            _ => {}
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the part is somewhere in the bytes.
fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}
