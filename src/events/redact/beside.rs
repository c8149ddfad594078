//! In reasons: secrets that stand somewhere beside a name, not right after it; and names that go on after what makes
//! them a secret's.

use super::{
    For, GONE,
    names::{Cut, HARMLESS, NAMES, letters, words},
};

/// As many letters and digits of an identifier are looked at.
const IDENTIFIER_CHARS_MAX: usize = 64;
/// What goes on after a secret's name and says that its value is none: `token_file`, `password_length`.
const ABOUT: &[&str] = &["file", "path", "dir", "count", "limit", "length", "ttl", "policy"];
/// From this length on a name is looked for inside of words too; a shorter one has to end a part (`token_v2`).
const INSIDE_CHARS_MIN: usize = 6;
/// Names after which a word goes if it looks like a value.
const SHORT: &[&str] = &[
    "pass", "pw", "psw", "pin", "otp", "totp", "key", "privkey", "pkey", "cred", "creds", "auth", "hmac",
    "mac", "login", "dsn", "sid", "sig",
];
/// What reports a value, quoted: of serde, and of many parsers.
const REPORTS: &[&str] = &["invalid type", "invalid value", "unknown variant"];
/// Words after which `a:b` is a user and a password.
const LOGINS: &[&str] = &["login", "logon", "auth", "user", "account", "authenticat"];

/// Where the identifier begins that a text ends in, if a secret's name is anywhere in it. In a log only when digits or a
/// version are all that goes on.
pub(super) fn name_within(head: &str, use_for: For) -> Option<usize> {
    let of_identifier = |c: &char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    let mut read: Vec<(usize, char)> = head
        .char_indices()
        .rev()
        .take_while(|(_, c)| of_identifier(c))
        .filter(|(_, c)| c.is_alphanumeric())
        .take(IDENTIFIER_CHARS_MAX)
        .collect();
    read.reverse();
    let begin = read.first()?.0;
    let small: Vec<char> = read.iter().map(|(_, c)| c.to_ascii_lowercase()).collect();
    let one = |name: &&str| {
        let long = name.len();
        (0..(small.len() + 1).saturating_sub(long)).any(|from| {
            let found = small[from..from + long].iter().copied().eq(name.chars());
            found && goes_on(&read, &small, from + long, long, use_for)
        })
    };
    NAMES.iter().any(one).then_some(begin)
}

/// Whether what goes on at `end` of an identifier leaves it a secret's name.
fn goes_on(read: &[(usize, char)], small: &[char], end: usize, long: usize, use_for: For) -> bool {
    let rest: String = small[end..].iter().collect();
    if use_for != For::Reason {
        let rest = rest.strip_prefix('v').unwrap_or(&rest);
        return rest.chars().all(|c| c.is_ascii_digit());
    }
    if ABOUT
        .iter()
        .any(|about| rest.trim_start_matches('s').starts_with(about))
    {
        return false;
    }
    let parted = end == read.len() || !read[end].1.is_lowercase() || read[end].0 > read[end - 1].0 + 1;
    parted || long >= INSIDE_CHARS_MIN
}

/// The first place from which on a line is a secret by what stands beside it.
pub(super) fn first_secret(line: &str) -> Option<Cut> {
    let named = words(line).find(|(_, word)| names_one(word));
    let told = named.and_then(|(at, word)| after(line, at + word.len()));
    let small = line.to_ascii_lowercase();
    let reported = REPORTS.iter().filter_map(|report| small.find(report)).min();
    let quoted_from = if named.is_some() { Some(0) } else { reported };
    let quoted = quoted_from.and_then(|from| quoted(line, from));
    [told, quoted].into_iter().flatten().min().map(|at| Cut {
        at,
        nothing_follows: false,
    })
}

/// Whether a word, of a sentence and not of a path, ends in a secret's name.
fn names_one(word: &str) -> bool {
    if word.contains("::") || word.contains('/') || word.ends_with('.') {
        return false;
    }
    let read = letters(word);
    let one = read.strip_suffix('s').unwrap_or(&read);
    NAMES
        .iter()
        .any(|name| one.ends_with(name) || read.ends_with(name))
}

/// What a sign, a bracket or a comma announces: the first letter or digit after the first such sign.
fn after(line: &str, from: usize) -> Option<usize> {
    // The name may have its comma in its own word.
    let from = from
        - line[..from]
            .chars()
            .next_back()
            .filter(char::is_ascii_punctuation)
            .map_or(0, char::len_utf8);
    let mut at = from;
    while let Some(c) = line[at..].chars().next() {
        if line[at..].starts_with(GONE) {
            at += GONE.len();
            continue;
        }
        at += c.len_utf8();
        if matches!(
            c,
            ':' | '=' | '(' | '[' | '{' | '<' | '>' | ',' | ';' | '|' | '!' | '?'
        ) {
            return alphanumeric(line, at);
        }
    }
    None
}

/// The first quoted value from a place on that is more than punctuation, a name or a path of Rust's.
fn quoted(line: &str, from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(c) = line[at..].chars().next() {
        let opens = matches!(c, '"' | '\'' | '`')
            && line[..at]
                .chars()
                .next_back()
                .is_none_or(|before| !before.is_alphanumeric());
        at += c.len_utf8();
        if !opens {
            continue;
        }
        let within = line[at..].split(c).next().unwrap_or_default();
        let named = within
            .chars()
            .all(|c| c.is_ascii_alphabetic() || "_-. ".contains(c))
            && names_one(within);
        if !named && !within.contains("::") && within != "Err" && within.contains(char::is_alphanumeric) {
            return alphanumeric(line, at);
        }
        at += within.len();
        // The closing one.
        at += line[at..].chars().next().map_or(0, char::len_utf8);
    }
    None
}

/// The first letter or digit from a place on.
fn alphanumeric(line: &str, from: usize) -> Option<usize> {
    line[from..].find(char::is_alphanumeric).map(|at| from + at)
}

/// Whether a word is the value of the short name before it: `pin 1234`, `DB_PASS hunter2`.
pub(super) fn is_value(before: &str, word: &str) -> bool {
    let name = before.trim_end_matches(|c: char| !c.is_alphanumeric());
    let last = name
        .rsplit(|c: char| !c.is_alphanumeric())
        .next()
        .unwrap_or_default();
    if before.ends_with(['.', ',', ';']) || !SHORT.contains(&last.to_ascii_lowercase().as_str()) {
        return false;
    }
    let mixed = || {
        word.chars().skip(1).any(char::is_uppercase)
            && word.contains(char::is_lowercase)
            && !word.contains("::")
    };
    word != GONE
        && !HARMLESS.contains(&letters(word).as_str())
        && (word.contains(|c: char| c.is_ascii_digit()) || mixed())
}

/// Whether a line has a secret's name.
pub(super) fn has_name(line: &str) -> bool {
    words(line).any(|(_, word)| names_one(word))
}

/// Whether a word could be a value where a line has a secret's name: letters and digits, and no path.
pub(super) fn is_mixed(word: &str) -> bool {
    !word.contains('/')
        && !word.contains("::")
        && word.contains(|c: char| c.is_ascii_digit())
        && word.contains(char::is_alphabetic)
}

/// Where the first word that speaks of a login ends, in a whole line.
pub(super) fn login_end(line: &str) -> Option<usize> {
    let small = line.to_ascii_lowercase();
    LOGINS
        .iter()
        .filter_map(|login| Some(small.find(login)? + login.len()))
        .min()
}

/// Whether a word is `user:password`.
pub(super) fn is_login(word: &str) -> bool {
    let Some((user, password)) = word.split_once(':') else {
        return false;
    };
    let password = password.trim_end_matches(|c: char| !c.is_alphanumeric());
    let of_port = password.bytes().all(|b| b.is_ascii_digit());
    user.ends_with(char::is_alphanumeric) && password.starts_with(char::is_alphanumeric) && !of_port
}
