//! Words that are secrets by their form.

use super::For;

/// From this length on a word of letters and digits is taken for a key.
const OPAQUE_CHARS_MIN: usize = 20;
/// No word of a message is longer.
const WORD_BYTES_MAX: usize = 256;
/// How known keys begin, and how many characters follow at least.
const PREFIXES: &[(&str, usize)] = &[
    ("eyJ", 8), // {" in base64: a JWT, JWE or JWK
    ("ghp_", 16),
    ("gho_", 16),
    ("ghu_", 16),
    ("ghs_", 16),
    ("ghr_", 16),
    ("github_pat_", 16),
    ("glpat-", 12),
    ("xoxa-", 8),
    ("xoxb-", 8),
    ("xoxp-", 8),
    ("xoxr-", 8),
    ("xoxs-", 8),
    ("sk_live_", 8),
    ("sk_test_", 8),
    ("rk_live_", 8),
    ("sk-", 20),
    ("AIza", 30),
    ("ya29.", 16),
    ("npm_", 30),
    ("pypi-", 16),
    ("dop_v1_", 16),
    ("hvs.", 16),
    ("SG.", 16),
    ("AGE-SECRET-KEY-", 8),
];
/// The kinds of AWS's identifiers: 16 capitals and digits follow.
const AWS: &[&str] = &[
    "AKIA", "ASIA", "AGPA", "AIDA", "AROA", "AIPA", "ANPA", "ANVA", "ABIA", "ACCA",
];
/// An identifier of AWS's is as long.
const AWS_CHARS: usize = 20;
/// Options after which a credential stands.
const FLAGS: &[&str] = &["-u", "-p", "-a"];
/// How such options end when they have two strokes.
const FLAG_ENDS: &[&str] = &[
    "user", "pass", "pw", "pin", "otp", "psk", "key", "auth", "login", "cred", "creds",
];

/// What happens to a word.
pub(super) enum Verdict {
    Stays,
    Goes,
    /// What comes after it may be a part of it.
    GoesWithRest,
    NextGoes,
}

/// Looks at one decoded word.
pub(super) fn judge(word: &str, use_for: For) -> Verdict {
    if use_for == For::Reason {
        match flag(word) {
            Verdict::Stays => {}
            other => return other,
        }
    }
    match url(word) {
        Verdict::Stays => {}
        other => return other,
    }
    let opaque = use_for == For::Reason && (word.len() > WORD_BYTES_MAX || is_opaque(word));
    if opaque || has_user_part(word, use_for) || is_known_key(word) {
        return Verdict::Goes;
    }
    Verdict::Stays
}

/// An option after which, or in which, a credential stands: `--db-pass`, `-phunter2`.
fn flag(word: &str) -> Verdict {
    if FLAGS.contains(&word) {
        return Verdict::NextGoes;
    }
    if let Some(long) = word.strip_prefix("--") {
        let last = long.rsplit(['-', '_', '.']).next().unwrap_or_default();
        let known = FLAG_ENDS.contains(&last.to_ascii_lowercase().as_str());
        return if known { Verdict::NextGoes } else { Verdict::Stays };
    }
    let joined = word.strip_prefix("-p").or_else(|| word.strip_prefix("-u"));
    match joined {
        Some(value) if value.contains(|c: char| c.is_ascii_digit() || c == ':') => Verdict::Goes,
        _ => Verdict::Stays,
    }
}

/// A URL with a user part, a query or a fragment with a value.
fn url(word: &str) -> Verdict {
    let Some((_, rest)) = word.split_once("://") else {
        return Verdict::Stays;
    };
    if rest.contains(['@', '?']) || rest.split_once('#').is_some_and(|(_, part)| part.contains('=')) {
        return Verdict::Goes;
    }
    // `nats://user:pa ss@host`: a colon that no port follows, and the rest of it in the next words.
    let authority = rest.split('/').next().unwrap_or_default();
    let port = match authority.rsplit_once(']') {
        Some((_, port)) => port.strip_prefix(':').unwrap_or_default(),
        None => authority.split_once(':').map_or("", |(_, port)| port),
    };
    let port = port.trim_end_matches(|c: char| !c.is_alphanumeric() && c != '*');
    let numbers = port.bytes().all(|b| b.is_ascii_digit() || b",.:".contains(&b));
    if numbers || port.len() <= 1 {
        Verdict::Stays
    } else {
        Verdict::GoesWithRest
    }
}

/// `user:password@host` without a scheme; in reasons any `user@host`.
fn has_user_part(word: &str, use_for: For) -> bool {
    // Where what stands before an `@` begins, and its first colon.
    let (mut from, mut colon) = (0, None);
    for (at, c) in word.char_indices() {
        match c {
            ' ' | '"' | '\'' | '<' | '(' | ',' => (from, colon) = (at + 1, None),
            ':' if colon.is_none() => colon = Some(at),
            '@' => {
                let named = colon.is_some_and(|colon| colon + 1 < at);
                if named || (use_for == For::Reason && from < at) {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}

/// A key that is known by how it begins.
fn is_known_key(word: &str) -> bool {
    let runs = || word.split(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c)));
    runs().any(|run| {
        let begins = |at: usize| {
            run[..at]
                .chars()
                .next_back()
                .is_none_or(|c| !c.is_ascii_alphanumeric())
        };
        PREFIXES.iter().any(|(prefix, more)| {
            run.match_indices(prefix)
                .any(|(at, _)| run.len() - at >= prefix.len() + more && begins(at))
        }) || AWS.iter().any(|prefix| {
            run.match_indices(prefix).any(|(at, _)| {
                let key = run[at..]
                    .bytes()
                    .take(AWS_CHARS + 1)
                    .take_while(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
                key.count() == AWS_CHARS && begins(at)
            })
        }) || run.split(|c: char| !c.is_ascii_alphanumeric()).any(is_nkey)
    })
}

/// A seed (58 characters) or a private key (56) of NATS: base32, `S` or `P` first.
fn is_nkey(run: &str) -> bool {
    run.len() >= 52
        && run.starts_with(['S', 'P'])
        && run
            .bytes()
            .all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
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
