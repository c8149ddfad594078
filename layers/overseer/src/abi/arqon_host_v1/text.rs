//! Text from a guest, made safe to show.

use std::fmt::Write;

/// `bytes` as text on one line: bytes that are not UTF-8 replaced, control characters and characters that change the
/// direction of writing escaped, at most `max` bytes (before escaping) looked at.
pub(crate) fn visible(bytes: &[u8], max: usize) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(max)]);
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if is_hidden(character) => {
                write!(out, "\\u{{{:x}}}", u32::from(character)).expect("a string takes all that is written");
            }
            _ => out.push(character),
        }
    }
    out
}

/// `bytes` as a reason for a client: as [`visible`], but what would be escaped is removed.
pub(super) fn reason(bytes: &[u8], max: usize) -> String {
    let mut text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(max)])
        .chars()
        .filter(|character| !is_hidden(*character))
        .collect();
    // A character cut in two, and bytes replaced, may have made it longer.
    while text.len() > max {
        text.pop();
    }
    text
}

/// Control characters, separators that break lines, and marks that reorder text.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_breaks_and_terminal_codes_cannot_be_smuggled_into_a_log() {
        assert_eq!(visible(b"a\r\nlevel=error", 100), "a\\r\\nlevel=error");
        assert_eq!(visible(b"\x1b[31mred", 100), "\\u{1b}[31mred");
        assert_eq!(visible("\u{202e}txet".as_bytes(), 100), "\\u{202e}txet");
        assert_eq!(visible(b"\xff\xfe", 100), "\u{fffd}\u{fffd}");
        assert_eq!(visible(b"abcdef", 3), "abc");
        assert_eq!(visible("h\u{e4}user".as_bytes(), 100), "h\u{e4}user");
    }

    #[test]
    fn a_reason_has_no_control_characters_and_keeps_to_its_length() {
        assert_eq!(reason(b"no\r\n\x1b[0m way", 100), "no[0m way");
        assert_eq!(reason(&vec![b'x'; 1 << 20], 256).len(), 256);
        assert!(reason(&[0xff; 100], 100).len() <= 100);
        assert_eq!(
            reason("aaaa\u{20ac}".as_bytes(), 5),
            "aaaa",
            "a character is kept whole or not at all"
        );
    }
}
