//! How a word reads once its escapes and disguises are undone.

/// Characters that show nothing and could split a name: soft hyphen, zero width, direction marks, fillers, variation
/// selectors, tags, byte order mark.
pub(super) const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Accents that are drawn over the letter before them: `pa\u{301}ssword` reads as the name it is.
const fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}')
}

/// Rounds of decoding: `%253D` is `=` after two.
const ROUNDS_MAX: usize = 4;

/// The word without percent-encoding, `\u003d`, `\x3d`, `\075`, `&#61;` and `&quot;`, full-width forms, accents written apart and
/// invisible characters.
/// White space in it, once decoded, is a blank.
pub(super) fn plain(word: &str) -> String {
    let mut text: String = word
        .chars()
        .filter(|c| !is_invisible(*c) && !is_accent(*c) && !c.is_control())
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

/// The ASCII form of a full-width character, of a small or look-alike sign, and of the Cyrillic and Greek letters that
/// look like Latin ones.
fn narrow(c: char) -> char {
    match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(c as u32 - 0xfee0).unwrap_or(c),
        '\u{fe66}' | '\u{a78a}' | '\u{207c}' | '\u{208c}' => '=',
        '\u{fe55}' | '\u{fe13}' | '\u{a789}' | '\u{2236}' | '\u{2d0}' => ':',
        '\u{430}' | '\u{410}' | '\u{3b1}' | '\u{391}' => 'a',
        '\u{435}' | '\u{415}' | '\u{395}' => 'e',
        '\u{43e}' | '\u{41e}' | '\u{3bf}' | '\u{39f}' => 'o',
        '\u{440}' | '\u{420}' | '\u{3c1}' | '\u{3a1}' => 'p',
        '\u{441}' | '\u{421}' | '\u{3f2}' => 'c',
        '\u{443}' | '\u{423}' | '\u{3a5}' => 'y',
        '\u{445}' | '\u{425}' | '\u{3a7}' => 'x',
        '\u{456}' | '\u{406}' | '\u{3b9}' | '\u{399}' => 'i',
        '\u{458}' => 'j',
        '\u{43a}' | '\u{41a}' | '\u{3ba}' | '\u{39a}' => 'k',
        '\u{43d}' | '\u{41d}' | '\u{39d}' => 'n',
        '\u{455}' | '\u{405}' => 's',
        '\u{442}' | '\u{422}' | '\u{3c4}' | '\u{3a4}' => 't',
        '\u{432}' | '\u{412}' | '\u{392}' => 'b',
        '\u{501}' => 'd',
        '\u{51d}' => 'w',
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
            '\\' => octal(rest),
            '&' => entity(rest),
            _ => None,
        };
        let (shown, len) = found.unwrap_or((c, c.len_utf8()));
        let shown = narrow(shown);
        if shown.is_whitespace() || shown.is_control() {
            out.push(' ');
        } else if !is_invisible(shown) && !is_accent(shown) {
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

/// `\075`, as C and shells write it.
fn octal(text: &str) -> Option<(char, usize)> {
    let digits = text.get(1..4)?;
    let all = digits.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let code = u8::from_str_radix(digits, 8)
        .ok()
        .filter(|code| all && code.is_ascii())?;
    Some((char::from(code), 4))
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
