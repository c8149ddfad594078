//! Texts without what must not leave the process. Takes out too much rather than too little.

mod beside;
mod names;
mod plain;
#[cfg(test)]
mod tests;
mod words;

use std::borrow::Cow;

use self::plain::plain;

/// The longest reason, in characters.
const REASON_CHARS_MAX: usize = 120;
/// The longest name, in characters.
const NAME_CHARS_MAX: usize = 256;
/// What is looked at of a text, in characters: at most 256 of them are shown, and a word may be long.
const LOOKED_AT_CHARS_MAX: usize = 4_096;
/// What is looked at of a text for the log, in bytes.
const LOG_BYTES_MAX: usize = 16 * 1024;
/// What of it is not shown where it was cut, in bytes: a key that the cut went through is not known as one any more, and
/// none is as long.
const LOG_BYTES_UNSURE: usize = 256;
/// What stands for what was cut off.
const CUT: &str = " [cut]";
/// What stands for what was taken out.
const GONE: &str = "[redacted]";

/// What a text is for: how much is suspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum For {
    /// A crash reason, which goes to readers of the event stream: anything that may be a secret goes.
    Reason,
    /// The operator's own log: ids and digests stay, and so do words that are names of secrets only now and then.
    Log,
    /// A tenant and a scope: as for the log, but a tenant that is called `basic` is no scheme.
    Rollout,
}

/// The first line, at most 120 characters, without control and invisible characters, and without what looks like a
/// credential: what follows a secret's name or an authentication scheme, quoted values beside such a name, the user part
/// of a URL and its query, keys whose form is known, PEM, and long opaque words; however they are quoted, cased,
/// separated or percent-encoded. Best effort: a secret that looks like any other word and has no name beside it stays.
pub(crate) fn redacted(reason: &str) -> String {
    one_line(reason, For::Reason, REASON_CHARS_MAX)
}

/// A name or an id that leaves the process: its first line, at most 256 characters, by the rules of
/// [`without_credentials`], which leave ids and digests alone.
pub(super) fn redacted_name(name: &str) -> String {
    one_line(name, For::Log, NAME_CHARS_MAX)
}

/// As [`redacted_name`], for a rollout: a tenant and, after a blank, a scope.
pub(super) fn redacted_rollout(name: &str) -> String {
    one_line(name, For::Rollout, NAME_CHARS_MAX)
}

fn one_line(text: &str, use_for: For, chars_max: usize) -> String {
    let line = text.trim_start().lines().next().unwrap_or_default();
    let shown = line.chars().take(LOOKED_AT_CHARS_MAX).filter_map(|c| match c {
        '\t' => Some(' '),
        c if c.is_control() || plain::is_invisible(c) => None,
        c => Some(c),
    });
    let line: String = shown.collect();
    clean(&line, use_for).0.chars().take(chars_max).collect()
}

/// A text for the log, without what follows a secret's name or an authentication scheme, without URLs that have a user
/// part or a query, and without keys whose form is known. Ids and digests stay. Of a text longer than 16 KiB the
/// beginning is kept, with ` [cut]` at its end; the work is linear in the length.
#[must_use]
pub fn without_credentials(text: &str) -> String {
    if text.len() <= LOG_BYTES_MAX {
        return clean_lines(text);
    }
    let mut shown = clean_lines(&text[..text.floor_char_boundary(LOG_BYTES_MAX)]);
    if !shown.ends_with(GONE) {
        shown.truncate(shown.floor_char_boundary(shown.len().saturating_sub(LOG_BYTES_UNSURE)));
    }
    shown + CUT
}

/// A text whose invisible characters, such as those that turn the direction of reading, are written as `\u{202e}`.
#[must_use]
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(plain::is_invisible) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if plain::is_invisible(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn clean_lines(text: &str) -> String {
    let (mut pem, mut owed) = (false, false);
    let mut lines = Vec::new();
    for line in text.split('\n') {
        let begins = line.contains("-----BEGIN");
        if pem || begins {
            // A body follows its head, line by line, to the end; each line of it is a secret.
            pem = !line.contains("-----END");
            lines.push(GONE.to_owned());
            continue;
        }
        if owed && !line.trim().is_empty() {
            // The line before ended in a secret's name and a sign.
            owed = false;
            lines.push(GONE.to_owned());
            continue;
        }
        let (line, ends_in_name) = clean(line, For::Log);
        owed |= ends_in_name;
        lines.push(line);
    }
    lines.join("\n")
}

/// One line without credentials, and whether it ended where one would have stood.
fn clean(line: &str, use_for: For) -> (String, bool) {
    let given: Vec<&str> = line.split_whitespace().collect();
    // As it reads once it is decoded; offsets into that text tell the words.
    let (mut text, mut starts) = (String::with_capacity(line.len()), Vec::with_capacity(given.len()));
    for word in &given {
        // A first word may read as nothing (a mark that stands on no letter), and the next one stands apart from it all the same.
        if !starts.is_empty() {
            text.push(' ');
        }
        starts.push(text.len());
        text.push_str(&plain(word));
    }
    let cut = names::first_secret(&text, use_for);
    let until = cut.as_ref().map_or(given.len(), |cut| {
        starts.partition_point(|start| *start <= cut.at).saturating_sub(1)
    });
    let named = use_for == For::Reason && beside::has_name(&text);
    let login = (use_for == For::Reason)
        .then(|| beside::login_end(&text))
        .flatten();
    // A word that begins before the secret goes with it.
    let mut words: Vec<&str> = Vec::with_capacity(until + 1);
    for at in 0..until {
        let end = starts.get(at + 1).map_or(text.len(), |next| next - 1);
        let (word, read) = (given[at], &text[starts[at]..end]);
        if use_for == For::Reason {
            let last = at
                .checked_sub(1)
                .map_or("", |last| text[starts[last]..starts[at]].trim_end());
            if (named && beside::is_mixed(read))
                || beside::is_value(last, read)
                || (login.is_some_and(|end| end <= starts[at]) && beside::is_login(read))
            {
                words.push(GONE);
                continue;
            }
        }
        match words::judge(read, use_for) {
            words::Verdict::Stays => words.push(word),
            words::Verdict::Goes => words.push(GONE),
            words::Verdict::GoesWithRest => {
                words.push(GONE);
                return (words.join(" "), false);
            }
            words::Verdict::NextGoes => {
                words.push(word);
                if at + 1 < given.len() {
                    words.push(GONE);
                    return (words.join(" "), false);
                }
            }
        }
    }
    if cut.is_some() {
        words.push(GONE);
    }
    (words.join(" "), cut.is_some_and(|cut| cut.nothing_follows))
}
