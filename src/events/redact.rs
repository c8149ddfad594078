//! Crash reasons without what must not leave the process.

/// The longest reason, in characters.
const REASON_CHARS_MAX: usize = 120;
/// What stands for what was taken out.
const GONE: &str = "[redacted]";
/// Where a name ends in one of these and `=` or `:` follows, all that comes after it on the line is a credential.
const NAMES: &[&str] = &[
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "authorization",
    "cookie",
    "credential",
    "credentials",
    "signature",
    "private_key",
    "nkey",
    "seed",
    "jwt",
];
/// A word after which a credential stands (RFC 9110, 11.6.2).
const SCHEMES: &[&str] = &["bearer", "basic", "digest", "negotiate"];
/// From this length on a word of letters and digits is taken for a key.
const OPAQUE_CHARS_MIN: usize = 20;

/// The first line, at most 120 characters, without control characters, and without what looks like a credential: what
/// follows a secret's name or an authentication scheme, the user part of a URL and its query, and long opaque words. It
/// takes out too much rather than too little.
pub(crate) fn redacted(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    clean(&line, true).chars().take(REASON_CHARS_MAX).collect()
}

/// A text for the log, without what follows a secret's name or an authentication scheme, and without URLs that have a user
/// part or a query. Ids and digests stay.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(|line| clean(line, false)).collect();
    lines.join("\n")
}

/// One line without credentials; `opaque` words go too where that is asked for.
fn clean(line: &str, opaque: bool) -> String {
    let mut words = Vec::new();
    let mut given = line.split_whitespace().peekable();
    while let Some(word) = given.next() {
        let bare = bare(word);
        let then = given.peek().copied().unwrap_or_default();
        if is_named(&bare) || (ends_in_name(&bare) && then.starts_with(['=', ':'])) {
            words.push(GONE);
            break;
        }
        if SCHEMES.contains(&bare.as_str()) && !then.is_empty() {
            words.extend([word, GONE]);
            break;
        }
        words.push(if is_url_with_secrets(word) || (opaque && is_opaque(word)) {
            GONE
        } else {
            word
        });
    }
    words.join(" ")
}

/// In lower case and without quotes, brackets and back-slashes, so that JSON's `{"token":"x"}` reads as `token:x`.
fn bare(word: &str) -> String {
    let kept = word
        .chars()
        .filter(|c| !matches!(c, '"' | '\'' | '`' | '\\' | '{' | '}' | '(' | ')' | '[' | ']'));
    kept.collect::<String>().to_ascii_lowercase()
}

/// Whether `name=` or `name:` stands in it, for a secret's name. `::` separates the parts of a path in Rust.
fn is_named(bare: &str) -> bool {
    bare.match_indices(['=', ':']).any(|(at, sign)| {
        let (before, after) = (&bare[..at], &bare[at + 1..]);
        let path = sign == ":" && (after.starts_with(':') || before.ends_with(':'));
        !path && ends_in_name(before)
    })
}

fn ends_in_name(bare: &str) -> bool {
    NAMES.iter().any(|name| bare.ends_with(name))
}

fn is_url_with_secrets(word: &str) -> bool {
    word.split_once("://")
        .is_some_and(|(_, rest)| rest.contains(['@', '?']))
}

/// A run of 20 or more of base64's or base64url's characters that holds a digit and a letter; a path's parts count by
/// themselves.
fn is_opaque(word: &str) -> bool {
    let of_key = |b: &u8| b.is_ascii_alphanumeric() || b"+=_-".contains(b);
    let keyish = |part: &[u8]| {
        part.len() >= OPAQUE_CHARS_MIN
            && part.iter().any(u8::is_ascii_digit)
            && part.iter().any(u8::is_ascii_alphabetic)
    };
    let mixed = |part: &[u8]| {
        keyish(part) && part.iter().any(u8::is_ascii_uppercase) && part.iter().any(u8::is_ascii_lowercase)
    };
    word.as_bytes().split(|b| !of_key(b)).any(keyish)
        || word.as_bytes().split(|b| !of_key(b) && *b != b'/').any(mixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_reason_keeps_no_secret() {
        for (reason, shown) in [
            ("index out of bounds\nstack: ...", "index out of bounds"),
            ("connect nats://user:pw@host failed", "connect [redacted] failed"),
            ("get https://h/x?sig=abc failed", "get [redacted] failed"),
            ("password=hunter2 refused", "[redacted]"),
            ("login with password: hunter2", "login with [redacted]"),
            ("login with password = hunter2", "login with [redacted]"),
            (r#"bad body {"api_key":"k1 k2"}"#, "bad body [redacted]"),
            ("bad header Bearer abc.def", "bad header Bearer [redacted]"),
            ("Authorization: Basic dXNlcjpwdw==", "[redacted]"),
            ("cookie: a=b; c=d", "[redacted]"),
            ("key c2VjcmV0c2VjcmV0c2VjcmV0 refused", "key [redacted] refused"),
            ("key AKIAIOSFODNN7EXAMPLE refused", "key [redacted] refused"),
            (
                "seed SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
                "seed [redacted]",
            ),
            (
                "key ab/cdefgHIJ/klmnop/9qrstuv/wxyz refused",
                "key [redacted] refused",
            ),
            ("a\u{1b}[31mred", "a[31mred"),
            ("é=é 漢: ü", "é=é 漢: ü"),
            ("pass\u{0}word=x", "[redacted]"),
        ] {
            assert_eq!(redacted(reason), shown, "{reason}");
        }
        assert_eq!(redacted(&"ab ".repeat(100)).chars().count(), REASON_CHARS_MAX);
        assert_eq!(redacted(""), "");
    }

    #[test]
    fn a_log_text_keeps_its_lines_and_ids_and_loses_its_credentials() {
        for (text, shown) in [
            (
                "trace 0af7651916cd43dd8448eb211c80319c",
                "trace 0af7651916cd43dd8448eb211c80319c",
            ),
            ("one\ntwo Bearer abc.def", "one\ntwo Bearer [redacted]"),
            ("nats://user:pw@host gone", "[redacted] gone"),
        ] {
            assert_eq!(without_credentials(text), shown);
        }
    }

    #[test]
    fn what_helps_an_operator_stays() {
        for reason in [
            "panicked: index out of bounds: the len is 3 but the index is 7",
            "unexpected token `}` at line 3",
            "arqon_overseer::token::parse failed",
            "/var/lib/arqon/schemas/v1.events.user_created.proto: No such file or directory (os error 2)",
            "nats://127.0.0.1:4222: connection refused",
        ] {
            assert_eq!(redacted(reason), reason);
        }
    }
}
