//! Patterns: RE2, as protovalidate has it, on an engine that takes linear time, within caps.
//!
//! RE2's classes `\d`, `\w`, `\s` and the border `\b` are ASCII, a `[` inside a class is a bracket, and `\Q..\E` quotes.
//! The rewriting below says the same to the `regex` crate; what cannot be said is refused.

use std::{collections::HashMap, rc::Rc};

use regex::bytes::{Regex, RegexBuilder};

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 4_096;
/// Most different patterns of one mapping.
const PATTERNS_MAX: usize = 256;
/// Largest program that any of them may compile to, in bytes.
const PROGRAM_BYTES: usize = 128 * 1024;
/// Largest program of those few that need more.
const PROGRAM_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How many may need more.
const LARGE_MAX: usize = 8;

/// Compiles patterns, each once.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    known: HashMap<Rc<str>, Regex>,
    large: usize,
}

impl Patterns {
    pub(super) fn compile(&mut self, pattern: &str) -> Result<Regex, String> {
        if let Some(known) = self.known.get(pattern) {
            return Ok(known.clone());
        }
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!(
                "has a pattern of {} bytes; at most {PATTERN_BYTES_MAX} are compiled",
                pattern.len()
            ));
        }
        if self.known.len() >= PATTERNS_MAX {
            return Err(format!(
                "has one pattern too many: at most {PATTERNS_MAX} are compiled"
            ));
        }
        let rewritten = rewrite(pattern).map_err(|what| format!("has the pattern {pattern:?}: {what}"))?;
        let build = |size: usize| {
            let mut builder = RegexBuilder::new(&rewritten);
            builder.size_limit(size).dfa_size_limit(512 * 1024).nest_limit(64);
            builder.build()
        };
        let refused = |error: &regex::Error| match error {
            regex::Error::CompiledTooBig(limit) => {
                format!("has the pattern {pattern:?}: it compiles to more than {limit} bytes")
            }
            // The last line of the parser's message says what; the others draw it.
            other => format!(
                "has the pattern {pattern:?}: {}",
                other.to_string().lines().last().unwrap_or_default().trim()
            ),
        };
        let regex = match build(PROGRAM_BYTES) {
            Err(regex::Error::CompiledTooBig(_)) if self.large < LARGE_MAX => {
                self.large += 1;
                build(PROGRAM_BYTES_MAX).map_err(|error| refused(&error))?
            }
            other => other.map_err(|error| refused(&error))?,
        };
        self.known.insert(pattern.into(), regex.clone());
        Ok(regex)
    }
}

/// The classes that have a name.
const CLASSES: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// A class so far ends in a dash that may begin the end of a range.
fn ends_in_dash(class: &str) -> bool {
    let first = ["[-", "[^-", r"\-"];
    class.ends_with('-') && !first.iter().any(|first| class.ends_with(first))
}

/// The same pattern in the words of the `regex` crate.
fn rewrite(pattern: &str) -> Result<String, &'static str> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut letters = pattern.chars().peekable();
    let mut in_class = false;
    // The next `]` is a bracket, not the end: right after `[` or `[^`.
    let mut first = false;
    while let Some(letter) = letters.next() {
        let was_first = std::mem::replace(&mut first, false);
        match letter {
            '\\' => match letters.next().ok_or("it ends in a backslash")? {
                'd' | 's' | 'w' | 'D' | 'S' | 'W' | 'p' | 'P' if in_class && ends_in_dash(&out) => {
                    return Err(r"write \- for a dash before a class");
                }
                'd' if in_class => out.push_str("0-9"),
                // Each ends in a range, so that a dash after it is a dash.
                's' if in_class => out.push_str(r" \t-\n\x0C-\r"),
                'w' if in_class => out.push_str("_0-9A-Za-z"),
                'd' => out.push_str("[0-9]"),
                's' => out.push_str(r"[\t\n\x0C\r ]"),
                'w' => out.push_str("[0-9A-Za-z_]"),
                'D' => out.push_str("[^0-9]"),
                'S' => out.push_str(r"[^\t\n\x0C\r ]"),
                'W' => out.push_str("[^0-9A-Za-z_]"),
                'b' if !in_class => out.push_str(r"(?-u:\b)"),
                'B' if !in_class => out.push_str(r"(?-u:\B)"),
                'C' => return Err(r"\C, any byte, is not supported"),
                'Q' => {
                    let mut quoted = String::new();
                    while let Some(letter) = letters.next() {
                        if letter == '\\' && letters.peek() == Some(&'E') {
                            letters.next();
                            break;
                        }
                        quoted.push(letter);
                    }
                    out.push_str(&regex::escape(&quoted));
                }
                // Bounds of words to the crate, letters to RE2.
                letter @ ('<' | '>') => out.push(letter),
                other if other.is_ascii_punctuation() || "0123456789 aftnrvxpPAz".contains(other) => {
                    out.push('\\');
                    out.push(other);
                }
                _ => return Err("an escape that RE2 does not have"),
            },
            '(' if !in_class => {
                out.push('(');
                let mut ahead = letters.clone();
                if ahead.next_if_eq(&'?').is_some()
                    && ahead
                        .take_while(|letter| letter.is_ascii_alphabetic() || *letter == '-')
                        .any(|flag| !"imsUP-".contains(flag))
                {
                    return Err("a flag that RE2 does not have");
                }
            }
            '[' if !in_class => {
                in_class = true;
                first = true;
                out.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            '[' if letters.peek() == Some(&':') => {
                // `[:alpha:]`: up to its own bracket.
                let name: String = letters.by_ref().take_while(|letter| *letter != ']').collect();
                let bare = name.trim_start_matches(":^").trim_matches(':');
                if !CLASSES.contains(&bare) || !name.ends_with(':') {
                    return Err("a class that RE2 does not have");
                }
                out.push('[');
                out.push_str(&name);
                out.push(']');
            }
            '[' => out.push_str(r"\["),
            ']' if in_class && was_first => out.push_str(r"\]"),
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '&' | '~' if in_class => {
                out.push('\\');
                out.push(letter);
            }
            '-' if in_class && letters.peek() == Some(&'-') => {
                return Err(r"write \- for a dash beside a dash");
            }
            other => out.push(other),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::{Patterns, rewrite};

    fn matches(pattern: &str, text: &str) -> bool {
        Patterns::default()
            .compile(pattern)
            .unwrap()
            .is_match(text.as_bytes())
    }

    #[test]
    fn classes_are_ascii_as_in_re2() {
        assert!(matches(r"^\d+$", "123") && !matches(r"^\d+$", "١٢٣"));
        assert!(matches(r"^\w+$", "a_1") && !matches(r"^\w+$", "ä"));
        assert!(matches(r"^[\w-]+$", "a-b") && matches(r"^[^\s]+$", "ä") && matches(r"^\D$", "ä"));
        assert!(matches(r"^[\D]$", "x") && !matches(r"^[\D]$", "5"));
        assert!(matches(r"a\b", "a") && matches(r"^\pL+$", "ä") && matches("^.$", "ä"));
        assert!(!matches(r"\s", "\u{b}"), "the vertical tab is no space of RE2");
    }

    #[test]
    fn brackets_and_set_operators_inside_a_class_are_letters() {
        assert!(matches("^[[]$", "[") && matches("^[a&&b]+$", "&") && matches("^[]]$", "]"));
        assert!(matches("^[~~]$", "~") && matches("^[[:digit:]]$", "5") && matches("^[^[]$", "a"));
        assert_eq!(rewrite(r"\Qa.b\E+").as_deref(), Ok(r"a\.b+"));
    }

    #[test]
    fn angle_brackets_are_letters_and_a_dash_after_a_class_is_a_dash() {
        assert!(matches(r"^\<b\>$", "<b>") && !matches(r"^\<b\>$", "b"));
        assert!(matches(r"^[\<\>]+$", "<>") && !matches(r"^\<[a-z]+$", "ab"));
        for (pattern, letters, others) in [
            (r"^[\w-z]$", "-z_a0", "`+"),
            (r"^[\s-z]$", "-z \t\r", "A!\u{b}"),
            (r"^[\d-z]$", "-z09", "a:"),
            (r"^[-\d]$", "-09", "+,./"),
            (r"^[+\-\d]$", "+-09", ",./"),
            (r"^[[:alpha:]-]$", "-aZ", "0"),
            (r"^[[:^alpha:]]$", "-0", "a"),
        ] {
            for (all, is_there) in [(letters, true), (others, false)] {
                for letter in all.chars() {
                    assert_eq!(
                        matches(pattern, &letter.to_string()),
                        is_there,
                        "{pattern} {letter:?}"
                    );
                }
            }
        }
        assert!(matches(r"^(?i)a(?s-m:.)(?P<n>b)(?:c)(?U:d+)$", "A\nbcd"));
    }

    #[test]
    fn what_is_hostile_or_cannot_be_said_is_refused_in_words() {
        for (pattern, says) in [
            ("(?x)a b", "flag"),
            ("(?u:a)", "flag"),
            ("(?i-u:a)", "flag"),
            ("(?R)", "flag"),
            (r"\u0041", "escape"),
            (r"\U00000041", "escape"),
            (r"\q", "escape"),
            (r"\ä", "escape"),
            ("[[:foo:]]", "class"),
            ("[[:alpha]]", "class"),
            (r"[+-\d]", "dash"),
            (r"[a-z-\w]", "dash"),
            ("(", "unclosed group"),
            (r"\C", "any byte"),
            ("(?=a)", "look-around"),
            (r"(a)\1", "backreferences"),
            ("a{1000}{1000}", "more than"),
            (r"[a--b]", "dash"),
            (&"(".repeat(100), "unclosed group"),
            (&"a".repeat(5_000), "at most 4096"),
            ("\\", "backslash"),
        ] {
            let refused = Patterns::default().compile(pattern).unwrap_err();
            assert!(refused.contains(says), "{refused}");
        }
        let mut many = Patterns::default();
        let all: Result<Vec<_>, _> = (0..300).map(|at| many.compile(&format!("^a{at}$"))).collect();
        assert!(all.unwrap_err().contains("at most 256"));
        let mut large = Patterns::default();
        let all: Result<Vec<_>, _> = (0..20)
            .map(|at| large.compile(&format!(r"^\pL{{20}}{at}$")))
            .collect();
        assert!(all.unwrap_err().contains("more than"));
    }
}
