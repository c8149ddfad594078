//! Reading sections: every finding at once, each naming key, value and fix.

use std::fmt;

use serde::{
    Deserialize,
    de::{DeserializeOwned, Deserializer, Visitor, value::Error as Captured},
    forward_to_deserialize_any,
};
use serde_json::Value;

use super::shown_url;
use crate::events::without_credentials;

/// At most this many findings are reported for one section.
const FINDINGS_MAX: usize = 32;

/// Something in the configuration that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key, such as `platform.mirroring.rules[0].percent`.
    pub key: String,
    /// What is wrong, the value that was given, and what would mend it.
    pub message: String,
    /// The file or variable that the value came from, where it is known.
    pub source: Option<String>,
}

impl Finding {
    /// A finding.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
            source: None,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

/// Takes one section out of `root`. A value that does not fit is reported and left out, and reading goes on, so that
/// one run names all of them; unknown keys are reported with the nearest known one.
pub(super) fn section<T>(root: &mut Value, key: &str, known: &[Known], findings: &mut Vec<Finding>) -> T
where
    T: DeserializeOwned + Default,
{
    let mut value = take(root, key).unwrap_or(Value::Null);
    if value.is_null() {
        return T::default();
    }
    let mut gone = Gone::default();
    for _ in 0..FINDINGS_MAX {
        let mut unknown = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let tracked = serde_path_to_error::Deserializer::new(value.clone(), &mut track);
        match serde_ignored::deserialize(tracked, |path| unknown.push(dotted(&path.to_string()))) {
            Ok(section) => {
                findings.extend(
                    unknown
                        .into_iter()
                        .map(|path| unknown_key(&join(key, &gone.as_written(&path)), known)),
                );
                return section;
            }
            Err(error) => {
                let path = track.path().to_string();
                let mut finding = finding(key, &path, &value, &error);
                if path != "." {
                    finding.key = join(key, &gone.as_written(&path));
                }
                findings.push(finding);
                if !remove(&mut value, &path) {
                    break;
                }
                gone.note(&path);
            }
        }
    }
    T::default()
}

fn finding(section: &str, path: &str, value: &Value, error: &serde_json::Error) -> Finding {
    let given = at(value, path).filter(|given| !given.is_object() && !given.is_array());
    let said = error.to_string();
    let wanted = wanted(&said);
    let message = match (given, wanted) {
        // A text where a section or a list should stand may be a whole URL with its user, or a token.
        (Some(Value::String(_)), None | Some(LIST)) if said.starts_with("invalid type: string") => {
            let (_, expected) = said.rsplit_once("expected ").unwrap_or_default();
            match wanted {
                Some(wanted) => format!("a text does not fit: write {wanted}"),
                None => format!("a text does not fit: expected {expected}"),
            }
        }
        (Some(given), Some(wanted)) => format!("{} does not fit: write {wanted}", shown(given)),
        (Some(given), None) if !said.contains(&given.to_string()) => {
            format!("{} does not fit: {}", shown(given), without_users(&said, given))
        }
        (Some(given), None) => without_users(&said, given),
        (None, _) => said,
    };
    Finding::new(
        if path == "." {
            section.to_owned()
        } else {
            join(section, path)
        },
        message,
    )
}

/// A value as a finding shows it: findings go into the log, and to whoever reads `/v1/state`.
fn shown(given: &Value) -> String {
    match given {
        Value::String(text) if text.contains("://") => Value::from(shown_url(text)).to_string(),
        given => given.to_string(),
    }
}

/// What was said of a value, without what the value may not show.
fn without_users(said: &str, given: &Value) -> String {
    let Value::String(text) = given else {
        return said.to_owned();
    };
    match text.contains("://") {
        true => said
            .replace(text, &shown_url(text))
            .replace(&text.escape_debug().to_string(), &shown_url(text)),
        false => said.to_owned(),
    }
}

/// What a parser gave up of a file, with the lines that it draws of it as they may be shown.
pub(super) fn without_secrets(picture: &str) -> String {
    let lines = picture.split('\n').map(|line| {
        // `7 | url = ..`; what is said beside has nothing of the file but names.
        let number = line.split_once(" | ").map_or("", |(number, _)| number.trim());
        let is_drawn = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let clean = without_credentials(line);
        // It also joins white space, which the drawing needs.
        if is_drawn && clean.contains("[redacted]") {
            clean
        } else {
            line.to_owned()
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

const LIST: &str = "a list in brackets";

/// What serde expected, in words for people.
fn wanted(said: &str) -> Option<&'static str> {
    let (_, expected) = said.rsplit_once("expected ")?;
    Some(match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number of 0 or more",
        "f32" | "f64" => "a number, such as 0.5",
        "a boolean" => "true or false",
        "a string" | "path string" => "text in quotes",
        "a sequence" => LIST,
        "socket address" | "an IP socket address" => "an address and a port, such as \"127.0.0.1:8080\"",
        _ => return None,
    })
}

fn unknown_key(path: &str, known: &[Known]) -> Finding {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let plain = strip_indexes(parent);
    let near = known
        .iter()
        .filter(|known| known.path == plain)
        .flat_map(|known| known.fields)
        .map(|field| (strsim::damerau_levenshtein(field, key), field))
        .filter(|(distance, _)| *distance <= 3.max(key.len() / 3))
        .min();
    let message = match near {
        Some((_, field)) => format!("unknown key; did you mean `{field}`?"),
        None => match known.iter().find(|known| known.path == plain) {
            Some(known) => format!("unknown key; known here: {}", known.fields.join(", ")),
            None => "unknown key; remove it".to_owned(),
        },
    };
    Finding::new(path, message)
}

/// The elements of lists that were left out: those behind them moved up, and are reported where they were written.
#[derive(Default)]
struct Gone(Vec<(String, usize)>);

impl Gone {
    /// `path` was removed; only elements of lists count.
    fn note(&mut self, path: &str) {
        let written = self.as_written(path);
        if let Some((list, index)) = element(&written) {
            self.0.push((list.to_owned(), index));
            self.0.sort();
        }
    }

    /// The path in the file of what is at `path` now.
    fn as_written(&self, path: &str) -> String {
        let mut written = String::new();
        for piece in path.split_inclusive(']') {
            match element(piece) {
                Some((before, mut index)) => {
                    written.push_str(before);
                    // In order, so that each one that was in front counts.
                    for (_, gone) in self.0.iter().filter(|(list, _)| *list == written) {
                        index += usize::from(*gone <= index);
                    }
                    written.push_str(&format!("[{index}]"));
                }
                None => written.push_str(piece),
            }
        }
        written
    }
}

/// `rules[7]` as `("rules", 7)`.
fn element(path: &str) -> Option<(&str, usize)> {
    let (list, index) = path.strip_suffix(']')?.rsplit_once('[')?;
    Some((list, index.parse().ok()?))
}

/// The keys that a table may have.
pub(super) struct Known {
    path: &'static str,
    fields: &'static [&'static str],
}

impl Known {
    #[cfg(test)]
    pub(super) fn path(&self) -> &'static str {
        self.path
    }

    #[cfg(test)]
    pub(super) fn fields(&self) -> &'static [&'static str] {
        self.fields
    }

    /// The field names of `T`, as serde knows them.
    pub(super) fn of<'de, T: Deserialize<'de>>(path: &'static str) -> Self {
        let mut fields: &'static [&'static str] = &[];
        // The capturing deserializer always ends in an error: the names are what we came for.
        let _ = T::deserialize(Capture(&mut fields));
        Self { path, fields }
    }
}

struct Capture<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Capture<'_> {
    type Error = Captured;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Captured> {
        Err(serde::de::Error::custom("only names are wanted"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Captured> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

/// Reports tables and keys of `root` that no section took.
pub(super) fn leftovers(root: &Value, prefix: &str, known: &[&str], findings: &mut Vec<Finding>) {
    for (key, value) in root.as_object().into_iter().flatten() {
        let path = join(prefix, key);
        if known.contains(&path.as_str()) && value.as_object().is_none_or(|table| !table.is_empty()) {
            leftovers(value, &path, known, findings);
        } else if !known.contains(&path.as_str()) {
            let near = known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &path), known))
                .filter(|(distance, _)| *distance <= 4)
                .min();
            let hint = near.map_or_else(
                || "remove it".to_owned(),
                |(_, known)| format!("did you mean `[{known}]`?"),
            );
            findings.push(Finding::new(path, format!("unknown section; {hint}")));
        }
    }
}

fn take(root: &mut Value, key: &str) -> Option<Value> {
    let (parent, last) = match key.rsplit_once('.') {
        Some((parent, last)) => (root.pointer_mut(&format!("/{}", parent.replace('.', "/")))?, last),
        None => (root, key),
    };
    parent.as_object_mut()?.remove(last)
}

fn join(parent: &str, key: &str) -> String {
    if parent.is_empty() {
        return key.to_owned();
    }
    if key.starts_with('[') {
        format!("{parent}{key}")
    } else {
        format!("{parent}.{key}")
    }
}

/// `serde_ignored` writes `rules.0.x`, and `?` for an option; we write `rules[0].x`.
fn dotted(path: &str) -> String {
    let mut out = String::new();
    for part in path.split('.').filter(|part| *part != "?") {
        out = if part.parse::<usize>().is_ok() {
            format!("{out}[{part}]")
        } else {
            join(&out, part)
        };
    }
    out
}

fn strip_indexes(path: &str) -> String {
    let mut plain = String::new();
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            c if !inside => plain.push(c),
            _ => {}
        }
    }
    plain
}

fn pointer(path: &str) -> String {
    if path == "." {
        return String::new();
    }
    let path = path.replace('[', ".").replace(']', "");
    path.split('.')
        .filter(|part| !part.is_empty())
        .fold(String::new(), |pointer, part| format!("{pointer}/{part}"))
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    value.pointer(&pointer(path))
}

/// Removes what a path names, so that reading can go on; a missing key is reported at its table, which then goes.
fn remove(value: &mut Value, path: &str) -> bool {
    let pointer = pointer(path);
    let Some((parent, last)) = pointer.rsplit_once('/') else {
        return false;
    };
    match value.pointer_mut(parent) {
        Some(Value::Object(table)) => table.remove(last).is_some(),
        Some(Value::Array(list)) => match last.parse::<usize>() {
            Ok(index) if index < list.len() => {
                list.remove(index);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Section {
        port: u16,
        name: Option<String>,
        rules: Vec<Rule>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Rule {
        percent: f64,
        #[serde(default)]
        max: u8,
    }

    fn read(value: Value) -> (Section, Vec<String>) {
        let mut root = json!({ "a": { "b": value } });
        let known = [Known::of::<Section>("a.b"), Known::of::<Rule>("a.b.rules")];
        let mut findings = Vec::new();
        let section = section(&mut root, "a.b", &known, &mut findings);
        (section, findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn elements_behind_one_that_was_left_out_keep_their_number() {
        let rules: Vec<_> = (0..8)
            .map(|n| match n {
                1 | 4 => json!({}),
                2 | 7 => json!({ "percent": "a lot" }),
                _ => json!({ "percent": 0.5 }),
            })
            .collect();
        let (section, findings) = read(json!({ "rules": rules }));
        let keys: Vec<_> = findings
            .iter()
            .map(|said| said.split(": ").next().unwrap_or_default())
            .collect();
        assert_eq!(
            keys,
            [
                "a.b.rules[1]",
                "a.b.rules[2].percent",
                "a.b.rules[2]",
                "a.b.rules[4]",
                "a.b.rules[7].percent",
                "a.b.rules[7]"
            ],
            "{findings:?}"
        );
        assert_eq!(section.rules.len(), 4);
    }

    #[test]
    fn every_finding_is_named_in_one_run() {
        let (section, findings) = read(json!({
            "port": 70_000,
            "nmae": "x",
            "rules": [{"percent": "x"}, {"percent": 0.5, "max": 300, "prcent": 1}],
        }));
        assert_eq!(section.rules, [Rule { percent: 0.5, max: 0 }]);
        let text = findings.join("\n");
        for said in [
            "a.b.port: ",
            "70000",
            "a.b.nmae: unknown key; did you mean `name`?",
            "a.b.rules[0].percent: ",
            "max: ",
            "did you mean `percent`?",
        ] {
            assert!(text.contains(said), "{said} in\n{text}");
        }
    }

    #[test]
    fn a_missing_key_is_named_with_its_table() {
        let (section, findings) = read(json!({ "rules": [{}], "port": 1 }));
        assert_eq!(section.port, 1);
        assert_eq!(findings, ["a.b.rules[0]: missing field `percent`"]);
    }

    #[test]
    fn sections_nobody_knows_are_reported() {
        let mut findings = Vec::new();
        leftovers(
            &json!({"a": {"unheard": {}}, "gatway": {}}),
            "",
            &["a", "gateway"],
            &mut findings,
        );
        let text: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "a.unheard: unknown section; remove it",
                "gatway: unknown section; did you mean `[gateway]`?"
            ]
        );
    }
}
