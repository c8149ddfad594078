//! How a word reads once its escapes and disguises are undone.

/// Characters that show nothing and could split a name: soft hyphen, zero width, direction marks, byte order mark.
pub(super) const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
    )
}

/// Rounds of decoding: `%253D` is `=` after two.
const ROUNDS_MAX: usize = 4;

/// The word without percent-encoding, `\u003d`, `\x3d`, `&#61;` and `&quot;`, full-width forms and invisible characters.
/// White space in it, once decoded, is a blank.
pub(super) fn plain(word: &str) -> String {
    let mut text: String = word
        .chars()
        .filter(|c| !is_invisible(*c) && !c.is_control())
        .map(narrow)
        .collect();
    for _ in 0..ROUNDS_MAX {
        if !text.contains(['%', '\\', '&']) {
            break;
        }
        let decoded = decoded(&text);
        if decoded == text {
            break;
        }
        text = decoded;
    }
    text
}

/// The ASCII form of a full-width character.
fn narrow(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        c => c,
    }
}

fn decoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let found = match c {
            '%' => hex(rest, 1, 2),
            '\\' if rest.starts_with("\\u{") => braced(rest),
            '\\' if rest.starts_with("\\u") => hex(rest, 2, 4),
            '\\' if rest.starts_with("\\x") => hex(rest, 2, 2),
            '\\' if rest.starts_with("\\t") || rest.starts_with("\\n") || rest.starts_with("\\r") => {
                Some((' ', 2))
            }
            '&' => entity(rest),
            _ => None,
        };
        let (shown, len) = found.unwrap_or((c, c.len_utf8()));
        let shown = narrow(shown);
        if shown.is_whitespace() || shown.is_control() {
            out.push(' ');
        } else if !is_invisible(shown) {
            out.push(shown);
        }
        rest = &rest[len..];
    }
    out
}

/// `digits` hexadecimal digits from `from`: the character they are the number of, and where they end.
fn hex(text: &str, from: usize, digits: usize) -> Option<(char, usize)> {
    let number = text.get(from..from + digits)?;
    let all = number.bytes().all(|b| b.is_ascii_hexdigit());
    let code = u32::from_str_radix(number, 16).ok().filter(|_| all)?;
    Some((char::from_u32(code)?, from + digits))
}

/// `\u{3d}`, as Rust writes it.
fn braced(text: &str) -> Option<(char, usize)> {
    let end = text.get(..12.min(text.len())).unwrap_or(text).find('}')?;
    let code = u32::from_str_radix(text.get(3..end)?, 16).ok()?;
    Some((char::from_u32(code)?, end + 1))
}

/// The entities of HTML that stand for signs and quotes.
fn entity(text: &str) -> Option<(char, usize)> {
    let end = text.bytes().take(10).position(|b| b == b';')?;
    let name = text.get(1..end)?;
    let c = match name {
        "quot" => '"',
        "apos" => '\'',
        "amp" => '&',
        "equals" => '=',
        "colon" => ':',
        "lt" => '<',
        "gt" => '>',
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)?
        }
    };
    Some((c, end + 1))
}
