//! Finds the first name of a secret that a value follows, and the first authentication scheme.

use super::{For, beside};

/// Names, in small letters without separators. Whatever ends in one names a secret: `DB_PASSWORD`, `x-api-key`.
pub(super) const NAMES: &[&str] = &[
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "authorization",
    "cookie",
    "credential",
    "signature",
    "privatekey",
    "nkey",
    "seed",
    "jwt",
    "passphrase",
    "passcode",
    "passwort",
    "secretkey",
    "signingkey",
    "encryptionkey",
    "sharedkey",
    "accountkey",
    "masterkey",
    "sessionkey",
    "sshkey",
    "authkey",
    "accesskeyid",
    "sessionid",
    "sessid",
    "connectionstring",
    "passkey",
    "psk",
];
/// The same for reasons only: in a log these are more often harmless.
const NAMES_REASON: &[&str] = &["pass", "session", "bearer", "assertion", "privkey", "pkey"];
/// For reasons, as a word of its own or a part of one (`DB_PIN`, `userPw`): too short to be looked for inside words.
const NAMES_SHORT: &[&str] = &[
    "pw", "psw", "pin", "otp", "totp", "sid", "sig", "auth", "cred", "creds", "mac", "hmac", "dsn", "csrf",
    "xsrf", "key", "pem", "basic", "login", "userinfo",
];
/// What may follow such a name and is no value.
pub(super) const HARMLESS: &[&str] = &[
    "incorrect",
    "wrong",
    "expired",
    "required",
    "missing",
    "invalid",
    "mismatch",
    "mismatched",
    "rejected",
    "refused",
    "denied",
    "failed",
    "failure",
    "empty",
    "absent",
    "not",
    "too",
    "must",
    "cannot",
    "could",
    "should",
    "has",
    "had",
    "does",
    "did",
    "file",
    "store",
    "provider",
    "source",
    "bucket",
    "count",
    "limit",
    "length",
    "policy",
    "error",
    "and",
    "or",
    "at",
    "in",
    "from",
    "on",
    "changed",
    "rotated",
    "revoked",
    "unknown",
    "unset",
    "found",
    "unavailable",
    "malformed",
    "violation",
    "timeout",
    "disabled",
    "exceeded",
];
/// Words after which a credential stands (RFC 9110, 11.6.2, and what is used beside it).
const SCHEMES: &[&str] = &["bearer", "basic", "digest", "negotiate"];
const SCHEMES_REASON: &[&str] = &[
    "ntlm",
    "apikey",
    "hoba",
    "mutual",
    "vapid",
    "dpop",
    "scram",
    "hmac",
    "sha256",
    "sha1",
    "gnap",
    "privatetoken",
];
/// As many letters and digits before a sign are a name.
const NAME_CHARS_MAX: usize = 32;

/// Where a credential begins in a line.
pub(super) struct Cut {
    pub(super) at: usize,
    /// The line ends with the name: what belongs to it is on the next one.
    pub(super) nothing_follows: bool,
}

/// The first place from which on a line is a secret.
pub(super) fn first_secret(line: &str, use_for: For) -> Option<Cut> {
    let begin = line.find("-----BEGIN").map(|at| Cut {
        at,
        nothing_follows: false,
    });
    let beside = (use_for == For::Reason)
        .then(|| beside::first_secret(line))
        .flatten();
    let cuts = [
        begin,
        signed(line, use_for),
        bare(line, use_for),
        scheme(line, use_for),
        beside,
    ];
    cuts.into_iter().flatten().min_by_key(|cut| cut.at)
}

/// What may stand between a name and its sign: quotes, brackets and blanks; and `=` of `=>`, `-` of `->`.
const GAP: &[char] = &[
    '"', '\'', '`', '\\', ')', ']', '}', ' ', '=', '-', '!', '?', ':', '>', '*', '<', '/',
];

/// The first sign that a secret's name stands before. Linear in the line: how far a run of gaps reaches back is known
/// from the way here, and what stands before a run is judged once for all of its signs.
fn signed(line: &str, use_for: For) -> Option<Cut> {
    // Where the text before ends without gaps, without blanks; and the last one judged, with what was judged.
    let (mut solid, mut printed) = (0, 0);
    let mut judged = None;
    let mut before = None;
    for (at, sign) in line.char_indices() {
        if matches!(sign, '=' | ':' | '(' | '{' | '[' | '>' | ',' | '|') {
            let end = match sign {
                '{' => printed,
                '(' | '[' => at,
                _ => solid,
            };
            let wide = matches!(sign, '=' | ':');
            if is_sign(line, at, sign, before, use_for)
                && judged != Some((end, true))
                && judged != Some((end, wide))
            {
                let head = &line[..end];
                let within = || wide.then(|| beside::name_within(head, use_for)).flatten();
                if let Some(name) = name_at_end(head, use_for).or_else(within) {
                    let follows = line[at + 1..].chars().any(char::is_alphanumeric);
                    // `seed:` at the end of a line: the value may be on the next.
                    return Some(Cut {
                        at: name,
                        nothing_follows: !follows,
                    });
                }
                judged = Some((end, wide));
            }
        }
        let next = at + sign.len_utf8();
        if !GAP.contains(&sign) {
            solid = next;
        }
        if sign != ' ' {
            printed = next;
        }
        before = Some(sign);
    }
    None
}

/// Whether a name may end before this sign.
fn is_sign(line: &str, at: usize, sign: char, before: Option<char>, use_for: For) -> bool {
    match sign {
        // `::` separates the parts of a path in Rust.
        ':' => !line[at + 1..].starts_with(':') && before != Some(':'),
        '=' => true,
        _ if use_for != For::Reason => false,
        '(' | '[' => before != Some(' '),
        '{' | '>' | '|' => true,
        // A pair: `("password", "x")`.
        _ => matches!(before, Some('"' | '\'' | '`' | '\\')),
    }
}

/// Where the name begins that a text ends in, if it is a secret's.
fn name_at_end(head: &str, use_for: For) -> Option<usize> {
    // Letters and digits from behind, with their places; separators may stand between: `api-key`, `Api Key`, `p.w.d`.
    let mut tail: Vec<(usize, char)> = Vec::with_capacity(NAME_CHARS_MAX);
    let mut gap = 0;
    for (at, c) in head.char_indices().rev() {
        if c.is_alphanumeric() {
            gap = 0;
            tail.push((at, c));
        } else if matches!(c, '-' | '_' | '.' | ' ' | '"' | '\'' | '~' | '+') && gap < 2 {
            gap += 1;
        } else {
            break;
        }
        if tail.len() == NAME_CHARS_MAX {
            break;
        }
    }
    let read: String = tail.iter().rev().map(|(_, c)| c.to_ascii_lowercase()).collect();
    let from_behind = |chars: usize| tail.get(chars.checked_sub(1)?).map(|(at, _)| *at);
    for plural in ["", "s"] {
        let Some(read) = read.strip_suffix(plural) else {
            continue;
        };
        let at = |name: &str| from_behind(name.len() + plural.len());
        let long = NAMES
            .iter()
            .chain(NAMES_REASON.iter().filter(|_| use_for == For::Reason));
        if let Some(name) = long
            .filter(|name| read.ends_with(**name))
            .max_by_key(|name| name.len())
        {
            return at(name);
        }
        if use_for == For::Reason {
            for name in NAMES_SHORT.iter().filter(|name| read.ends_with(**name)) {
                let begin = at(name)?;
                if is_part(head, begin) {
                    return Some(begin);
                }
            }
        }
    }
    None
}

/// Whether a part of a name begins here: after no letter, or with a capital after a small one.
fn is_part(text: &str, begin: usize) -> bool {
    let first = text[begin..].chars().next();
    text[..begin].chars().next_back().is_none_or(|before| {
        !before.is_alphanumeric() || (before.is_lowercase() && first.is_some_and(char::is_uppercase))
    })
}

/// A name with its value right after it, and no sign between.
fn bare(line: &str, use_for: For) -> Option<Cut> {
    if use_for != For::Reason {
        return None;
    }
    let mut words = words(line).peekable();
    let mut before = String::new();
    while let Some((_, word)) = words.next() {
        let Some((next_at, next)) = words.peek().copied() else {
            break;
        };
        let read = letters(word);
        let joined = before.clone() + &read;
        before.clone_from(&read);
        // `token.` and `token,` end a sentence or a part of one.
        if word.ends_with(['.', ',', ';', '!', '?', '/']) || word.contains("::") || word.contains('/') {
            continue;
        }
        let one = |text: &str| {
            let text = text.strip_suffix('s').unwrap_or(text);
            NAMES.iter().any(|name| text.ends_with(name))
        };
        // `api key k1`: a name of two words.
        if !(one(&read) || one(&joined)) {
            continue;
        }
        let value = letters(next);
        if !value.is_empty() && !HARMLESS.contains(&value.as_str()) {
            return Some(Cut {
                at: next_at,
                nothing_follows: false,
            });
        }
    }
    None
}

/// A credential after a scheme's name.
fn scheme(line: &str, use_for: For) -> Option<Cut> {
    if use_for == For::Rollout {
        return None;
    }
    let mut words = words(line).peekable();
    while let Some((_, word)) = words.next() {
        // The last part of it: `header="Bearer`, `AWS4-HMAC-SHA256`.
        let last = word
            .trim_end_matches(|c: char| !c.is_alphanumeric())
            .rsplit(|c: char| !c.is_alphanumeric())
            .next();
        let last = last.unwrap_or_default().to_ascii_lowercase();
        let known = SCHEMES.contains(&last.as_str())
            || (use_for == For::Reason && SCHEMES_REASON.contains(&last.as_str()));
        if let (true, Some((at, _))) = (known, words.peek()) {
            return Some(Cut {
                at: *at,
                nothing_follows: false,
            });
        }
    }
    None
}

/// The words of a decoded line and where they begin.
pub(super) fn words(line: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    line.split(' ').filter_map(move |word| {
        let begin = at;
        at += word.len() + 1;
        (!word.is_empty()).then_some((begin, word))
    })
}

/// Its letters and digits, small.
pub(super) fn letters(word: &str) -> String {
    let kept = word.chars().filter(|c| c.is_alphanumeric());
    kept.map(|c| c.to_ascii_lowercase()).collect()
}
