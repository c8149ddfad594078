//! Where in a payload a violation is: `items[3].sku`, `labels["eu"]`, an unknown field by its number, the root as `.`.

use std::fmt;

/// Longest piece of a map key or of a JSON name that a path quotes, in bytes.
const QUOTED_BYTES_MAX: usize = 64;

/// A path as a chain of borrowed frames: it lives on the walker's stack and becomes text only for a violation.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
    Key(&'a Path<'a>, &'a Key<'a>),
    /// An unknown field of a binary payload.
    Number(&'a Path<'a>, u32),
    /// An unknown field of a JSON payload.
    Unknown(&'a Path<'a>, &'a str),
}

/// A map key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key<'a> {
    Text(std::borrow::Cow<'a, str>),
    Signed(i64),
    Unsigned(u64),
    Bool(bool),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dot = |f: &mut fmt::Formatter<'_>, parent: &Path<'_>| match parent {
            Path::Root => Ok(()),
            parent => write!(f, "{parent}."),
        };
        match self {
            Self::Root => f.write_str("."),
            Self::Field(parent, name) => {
                dot(f, parent)?;
                f.write_str(name)
            }
            Self::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Self::Key(parent, Key::Text(text)) => {
                write!(f, "{parent}[")?;
                quoted(f, text)?;
                f.write_str("]")
            }
            Self::Key(parent, Key::Signed(number)) => write!(f, "{parent}[{number}]"),
            Self::Key(parent, Key::Unsigned(number)) => write!(f, "{parent}[{number}]"),
            Self::Key(parent, Key::Bool(truth)) => write!(f, "{parent}[{truth}]"),
            Self::Number(parent, number) => {
                dot(f, parent)?;
                write!(f, "{number}")
            }
            Self::Unknown(parent, name) => {
                dot(f, parent)?;
                if !name.is_empty() && name.len() <= QUOTED_BYTES_MAX && name.bytes().all(is_plain) {
                    f.write_str(name)
                } else {
                    quoted(f, name)
                }
            }
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'@' | b'$')
}

/// The text in quotes, escaped so that it can stand in a log line or a header, and cut.
fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    let mut room = QUOTED_BYTES_MAX;
    for letter in text.chars() {
        if room < letter.len_utf8() {
            f.write_str("…")?;
            break;
        }
        room -= letter.len_utf8();
        match letter {
            '\'' => f.write_str("'")?,
            letter => write!(f, "{}", letter.escape_debug())?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::{Key, Path};

    #[test]
    fn a_path_reads_as_the_source_writes_it() {
        let items = Path::Field(&Path::Root, "items");
        let third = Path::Index(&items, 3);
        assert_eq!(Path::Field(&third, "sku").to_string(), "items[3].sku");
        let key = Key::Text("eu".into());
        let labels = Path::Field(&Path::Root, "labels");
        assert_eq!(Path::Key(&labels, &key).to_string(), "labels[\"eu\"]");
        assert_eq!(Path::Root.to_string(), ".");
        assert_eq!(Path::Number(&Path::Root, 7).to_string(), "7");
        assert_eq!(Path::Number(&third, 7).to_string(), "items[3].7");
    }

    #[test]
    fn key_text_is_escaped_and_cut() {
        let labels = Path::Field(&Path::Root, "labels");
        let evil = Key::Text("a\r\nit's: 1\"".into());
        assert_eq!(
            Path::Key(&labels, &evil).to_string(),
            "labels[\"a\\r\\nit's: 1\\\"\"]"
        );
        let long = Key::Text("k".repeat(1000).into());
        assert_eq!(
            Path::Key(&labels, &long).to_string(),
            format!("labels[\"{}…\"]", "k".repeat(64))
        );
    }
}
