//! Text as the host shows it.

use std::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Control characters, separators that break lines, and marks that reorder text.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn start(bytes: &[u8], max: usize) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).to_string()
}

/// A log line: cut, and what would break it or drive a terminal escaped.
pub(super) fn line(bytes: &[u8], max: usize) -> String {
    let shown = start(bytes, max);
    let shown = shown.chars().map(|character| match character {
        '\n' => "\\n".to_string(),
        '\r' => "\\r".to_string(),
        '\t' => "\\t".to_string(),
        _ if is_hidden(character) => format!("\\u{{{:x}}}", u32::from(character)),
        _ => character.to_string(),
    });
    shown.collect::<Vec<_>>().concat()
}

/// A reason: cut, and what would be escaped in a log left out.
pub(super) fn reason(bytes: &[u8], max: usize) -> String {
    let mut text: String = start(bytes, max)
        .chars()
        .filter(|character| !is_hidden(*character))
        .collect();
    while text.len() > max {
        text.pop();
    }
    text
}
