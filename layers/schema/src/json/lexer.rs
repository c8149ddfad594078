//! JSON tokens (RFC 8259), strictly, straight from the bytes.

use std::borrow::Cow;

/// Why a token could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Syntax {
    End,
    Unexpected,
    Trailing,
    Escape,
    Surrogate,
    Control,
    Number,
    Depth,
}

/// Reads tokens from a text.
#[derive(Clone, Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    pub(crate) const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// How many bytes are consumed.
    pub(crate) const fn position(&self) -> usize {
        self.at
    }

    /// The next byte that is not white space, not consumed.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<u8, Syntax> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Ok(byte);
            }
            self.at += 1;
        }
        Err(Syntax::End)
    }

    /// Consumes that byte if it is next.
    #[inline]
    pub(crate) fn take(&mut self, byte: u8) -> Result<bool, Syntax> {
        let next = self.peek()? == byte;
        self.at += usize::from(next);
        Ok(next)
    }

    /// Consumes that byte, which must be next.
    #[inline]
    pub(crate) fn expect(&mut self, byte: u8) -> Result<(), Syntax> {
        if self.take(byte)? {
            Ok(())
        } else {
            Err(Syntax::Unexpected)
        }
    }

    /// Between two members of an object or array: whether another follows.
    #[inline]
    pub(crate) fn more(&mut self, close: u8) -> Result<bool, Syntax> {
        if self.take(b',')? {
            return Ok(true);
        }
        self.expect(close).map(|()| false)
    }

    /// Only white space is left.
    pub(crate) fn end(&mut self) -> Result<(), Syntax> {
        match self.peek() {
            Err(_) => Ok(()),
            Ok(_) => Err(Syntax::Trailing),
        }
    }

    /// A string, its escapes resolved.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Cow<'a, str>, Syntax> {
        self.expect(b'"')?;
        let text = self.text;
        let start = self.at;
        self.at += plain(&text.as_bytes()[start..]);
        match text.as_bytes().get(self.at) {
            Some(b'"') => {
                self.at += 1;
                Ok(Cow::Borrowed(&text[start..self.at - 1]))
            }
            Some(b'\\') => self.escaped(start).map(Cow::Owned),
            Some(_) => Err(Syntax::Control),
            None => Err(Syntax::End),
        }
    }

    /// The rest of a string that has escapes.
    fn escaped(&mut self, start: usize) -> Result<String, Syntax> {
        let text = self.text;
        let mut unescaped = text[start..self.at].to_owned();
        loop {
            match text.as_bytes().get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(unescaped);
                }
                Some(b'\\') => {
                    self.at += 1;
                    unescaped.push(self.escape()?);
                }
                Some(0..0x20) => return Err(Syntax::Control),
                Some(_) => {
                    let start = self.at;
                    self.at += plain(&text.as_bytes()[start..]);
                    unescaped.push_str(&text[start..self.at]);
                }
                None => return Err(Syntax::End),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Syntax> {
        let &letter = self.text.as_bytes().get(self.at).ok_or(Syntax::End)?;
        self.at += 1;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.unit()?;
                let code = match unit {
                    0xd800..=0xdbff => {
                        if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                            return Err(Syntax::Surrogate);
                        }
                        self.at += 2;
                        match self.unit()? {
                            low @ 0xdc00..=0xdfff => 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
                            _ => return Err(Syntax::Surrogate),
                        }
                    }
                    unit => unit,
                };
                char::from_u32(code).ok_or(Syntax::Surrogate)?
            }
            _ => return Err(Syntax::Escape),
        })
    }

    /// Four hexadecimal digits.
    fn unit(&mut self) -> Result<u32, Syntax> {
        let digits = self
            .text
            .as_bytes()
            .get(self.at..self.at + 4)
            .ok_or(Syntax::End)?;
        let mut unit = 0;
        for &digit in digits {
            unit = unit << 4 | char::from(digit).to_digit(16).ok_or(Syntax::Escape)?;
        }
        self.at += 4;
        Ok(unit)
    }

    /// A number, as it is written.
    pub(crate) fn number(&mut self) -> Result<&'a str, Syntax> {
        self.peek()?;
        let rest = &self.text[self.at..];
        let length = number_length(rest.as_bytes()).ok_or(Syntax::Number)?;
        self.at += length;
        Ok(&rest[..length])
    }

    /// An integer of at most 18 digits and nothing else, bare or in quotes, if that is what comes next. Nothing is consumed
    /// otherwise.
    #[inline]
    pub(crate) fn small_integer(&mut self, quoted: bool) -> Option<i64> {
        let bytes = &self.text.as_bytes()[self.at + usize::from(quoted)..];
        let (value, length) = integer(bytes)?;
        let ends = match bytes.get(length) {
            Some(b'"') => quoted,
            Some(b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r') => !quoted,
            _ => false,
        };
        if !ends {
            return None;
        }
        self.at += length + 2 * usize::from(quoted);
        Some(value)
    }

    /// Elements that are integers of at most eight digits, each with a comma right behind it, bare or in quotes; how many
    /// were taken. Stops before the first other element, and before one that is not wanted.
    pub(crate) fn integers(&mut self, mut wanted: impl FnMut(i64) -> bool) -> usize {
        let bytes = self.text.as_bytes();
        let mut count = 0;
        loop {
            let rest = &bytes[self.at..];
            // A bare number without a sign has a path of its own: where the next one begins then depends on nothing but
            // the length of this one.
            let (value, end) = match digits(rest) {
                Some((value, length)) if rest.get(length) == Some(&b',') => (value, length + 1),
                Some(_) => return count,
                None => match marked(rest) {
                    Some(marked) => marked,
                    None => return count,
                },
            };
            if !wanted(value) {
                return count;
            }
            self.at += end;
            count += 1;
        }
    }

    /// `true`, `false` or `null`.
    pub(crate) fn literal(&mut self, literal: &str) -> Result<(), Syntax> {
        self.peek()?;
        let rest = &self.text.as_bytes()[self.at..];
        if !rest.starts_with(literal.as_bytes()) {
            return Err(Syntax::Unexpected);
        }
        self.at += literal.len();
        Ok(())
    }

    /// Any value, at most that many arrays and objects deep.
    pub(crate) fn skip(&mut self, depth_left: u32) -> Result<(), Syntax> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            b'-' | b'0'..=b'9' => self.number().map(drop),
            open @ (b'[' | b'{') => {
                let left = depth_left.checked_sub(1).ok_or(Syntax::Depth)?;
                let close = open + 2;
                self.at += 1;
                if self.take(close)? {
                    return Ok(());
                }
                loop {
                    if open == b'{' {
                        self.string()?;
                        self.expect(b':')?;
                    }
                    self.skip(left)?;
                    if !self.more(close)? {
                        return Ok(());
                    }
                }
            }
            _ => Err(Syntax::Unexpected),
        }
    }
}

/// The number of at most eight digits at the start, and its length. Eight bytes are read at once, so at least eight must be
/// there.
#[inline]
fn digits(bytes: &[u8]) -> Option<(i64, usize)> {
    let word = u64::from_le_bytes(*bytes.first_chunk::<8>()?) ^ 0x3030_3030_3030_3030;
    // The high bit of every byte that is above 9.
    let others = (word.wrapping_add(0x7676_7676_7676_7676) | word) & 0x8080_8080_8080_8080;
    let length = others.trailing_zeros() as usize / 8;
    if length == 0 || length > 1 && word & 0xff == 0 {
        return None;
    }
    // The digits to the end of the word, zeros before them; then pairs, fours, eight.
    let word = word << (64 - 8 * length);
    let pairs = word.wrapping_mul(10).wrapping_add(word >> 8);
    let high = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(0x000f_4240_0000_0064);
    let low = (pairs >> 16 & 0x0000_00ff_0000_00ff).wrapping_mul(0x0000_2710_0000_0001);
    let value = high.wrapping_add(low) >> 32 & 0xffff_ffff;
    Some((i64::try_from(value).unwrap_or_default(), length))
}

/// An element in quotes or below zero with its comma: the value, and how many bytes it takes.
fn marked(bytes: &[u8]) -> Option<(i64, usize)> {
    let quoted = usize::from(bytes.first() == Some(&b'"'));
    let sign = usize::from(bytes.get(quoted) == Some(&b'-'));
    let (value, length) = digits(&bytes[quoted + sign..])?;
    let end = quoted + sign + length;
    let ends = if quoted == 1 {
        bytes.get(end..end + 2) == Some(b"\",")
    } else {
        bytes.get(end) == Some(&b',')
    };
    ends.then_some((if sign == 1 { -value } else { value }, end + quoted + 1))
}

/// The integer of at most eighteen digits at the start, and its length.
#[inline]
fn integer(bytes: &[u8]) -> Option<(i64, usize)> {
    let sign = usize::from(bytes.first() == Some(&b'-'));
    let rest = &bytes[sign..];
    if let Some((value, length)) = digits(rest)
        && !rest.get(length).is_some_and(u8::is_ascii_digit)
    {
        return Some((if sign == 1 { -value } else { value }, sign + length));
    }
    let (mut value, mut length) = (0_i64, 0);
    while let Some(digit) = rest
        .get(length)
        .map(|byte| byte.wrapping_sub(b'0'))
        .filter(|digit| *digit < 10)
    {
        if length == 18 {
            return None;
        }
        value = value * 10 + i64::from(digit);
        length += 1;
    }
    let whole = length == 1 || length > 1 && rest[0] != b'0';
    whole.then_some((if sign == 1 { -value } else { value }, sign + length))
}

/// How many bytes at the start are neither a quote, a backslash nor a control character.
#[inline]
fn plain(bytes: &[u8]) -> usize {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some((chunk, _)) = bytes[at..].split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        // A byte that is zero after the exclusive or, or below 0x20, borrows into its highest bit.
        let zero = |word: u64| word.wrapping_sub(LOW) & !word & HIGH;
        let special = zero(word ^ (LOW * 0x22))
            | zero(word ^ (LOW * 0x5c))
            | (word.wrapping_sub(LOW * 0x20) & !word & HIGH);
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
        if at >= 32 {
            return at + long_plain(&bytes[at..]);
        }
    }
    let tail = bytes[at..]
        .iter()
        .position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    tail.map_or(bytes.len(), |tail| at + tail)
}

/// The same for long strings: up to the quote by vector instructions, then the least byte before it, in a form the
/// compiler turns into such.
#[inline(never)]
fn long_plain(bytes: &[u8]) -> usize {
    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
    let text = &bytes[..end];
    let least = |chunk: &[u8]| chunk.iter().fold(u8::MAX, |least, byte| least.min(*byte));
    let mut chunks = text.chunks_exact(128);
    let control = chunks.any(|chunk| least(chunk) < 0x20) || least(chunks.remainder()) < 0x20;
    if control {
        text.iter().position(|byte| *byte < 0x20).unwrap_or(end)
    } else {
        end
    }
}

/// The length of the JSON number at the start, if there is one.
pub(crate) fn number_length(bytes: &[u8]) -> Option<usize> {
    let digits = |from: usize| {
        bytes[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    let whole = digits(at);
    if whole == 0 || whole > 1 && bytes[at] == b'0' {
        return None;
    }
    at += whole;
    if bytes.get(at) == Some(&b'.') {
        let fraction = digits(at + 1);
        if fraction == 0 {
            return None;
        }
        at += 1 + fraction;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let exponent = digits(at + 1 + sign);
        if exponent == 0 {
            return None;
        }
        at += 1 + sign + exponent;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Lexer, integer, plain};

    proptest! {
        #[test]
        fn a_document_is_json_exactly_when_serde_json_says_so(text in r#"[\[\]{}:,"a\\u0-9eE.+\-tfn \n]{0,24}"#) {
            let mut lexer = Lexer::new(&text);
            let ours = lexer.skip(100).and_then(|()| lexer.end()).is_ok();
            prop_assert_eq!(ours, serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{}", text);
        }

        #[test]
        fn a_string_is_read_as_serde_json_reads_it(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(Lexer::new(&json).string().unwrap(), text);
        }

        #[test]
        fn integers_are_read_as_the_standard_library_reads_them(text in "-?[0-9]{0,20}[,\"x ]?[0-9, ]{0,9}") {
            let length = text.len() - text.strip_prefix('-').unwrap_or(&text).trim_start_matches(|byte: char| byte.is_ascii_digit()).len();
            let digits = text[..length].trim_start_matches('-');
            let whole = (1..=18).contains(&digits.len()) && (digits == "0" || !digits.starts_with('0'));
            let expected = whole.then(|| (text[..length].parse::<i64>().unwrap(), length));
            prop_assert_eq!(integer(text.as_bytes()), expected, "{}", text);
        }

        #[test]
        fn an_array_of_integers_is_read_as_one_after_the_other(values in proptest::collection::vec(any::<i32>(), 1..20), quoted: bool) {
            let text: String = values.iter().map(|value| if quoted { format!("\"{value}\",") } else { format!("{value},") }).collect();
            let text = format!("{text}        ");
            let mut lexer = Lexer::new(&text);
            let mut read = Vec::new();
            while read.len() < values.len() {
                let before = read.len();
                let count = lexer.integers(|value| { read.push(value); true });
                prop_assert_eq!(count, read.len() - before);
                if read.len() < values.len() {
                    read.push(lexer.small_integer(quoted).unwrap());
                    lexer.expect(b',').unwrap();
                }
            }
            prop_assert_eq!(read, values.into_iter().map(i64::from).collect::<Vec<_>>());
        }

        #[test]
        fn plain_bytes_end_at_the_first_special_one(
            bytes in proptest::collection::vec(prop_oneof![100 => 0x5d_u8.., 1 => any::<u8>()], 0..200),
        ) {
            let expected = bytes.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
            prop_assert_eq!(plain(&bytes), expected.unwrap_or(bytes.len()));
        }
    }
}
