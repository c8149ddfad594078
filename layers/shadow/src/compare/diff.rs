//! Where two answers differ: a pure function.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::Answer;

/// The most fields that one comparison reports.
const FIELDS_MAX: usize = 64;
/// The longest path that is told, in bytes; of longer ones the beginning.
const PATH_MAX: usize = 200;
/// The longest name that is told, and the longest media type.
const NAME_MAX: usize = 64;

/// A field that differs, with what stands there on both sides: kinds and lengths, never values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// On the primary's side, such as `string of 12`.
    pub primary: String,
    /// On the other side.
    pub other: String,
}

/// What counts as a difference.
///
/// Fields are named by path: `status`, `content-type`, `body` (when not both bodies can be read), `total`, `items[].sku`. Of
/// Protobuf they are the names in the schema; a field that the schema does not know is `#<number>`. Names are shown, values
/// never: a key that is no identifier (`alice@example.com`, `4711`, more than 64 bytes) is data, and stands as `*`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Differ {
    ignore: Vec<String>,
    unordered: Vec<String>,
    tolerance: f64,
    #[cfg(feature = "protobuf")]
    message: Option<prost_reflect::MessageDescriptor>,
}

impl Differ {
    /// Everything counts.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Passes over a field and all below it.
    #[must_use]
    pub fn ignore(mut self, path: impl Into<String>) -> Self {
        self.ignore.push(path.into());
        self
    }

    /// The items of this list are a set: they are compared in the order of what is not ignored of them. A body that is a list
    /// itself is `body`.
    #[must_use]
    pub fn unordered(mut self, path: impl Into<String>) -> Self {
        self.unordered.push(path.into());
        self
    }

    /// Answers of a Protobuf type (`application/protobuf`, `application/x-protobuf`, `application/vnd.google.protobuf`) are
    /// this message.
    #[cfg(feature = "protobuf")]
    #[cfg_attr(docsrs, doc(cfg(feature = "protobuf")))]
    #[must_use]
    pub fn protobuf(mut self, message: prost_reflect::MessageDescriptor) -> Self {
        self.message = Some(message);
        self
    }

    /// Numbers are equal when they differ by at most this share of the larger one.
    #[must_use]
    pub const fn tolerance(mut self, share: f64) -> Self {
        self.tolerance = share;
        self
    }

    /// The fields that differ, at most 64. Bodies are compared only when both are complete; one that broke off differs,
    /// and one that is known to be the larger.
    #[must_use]
    pub fn diff(&self, primary: &Answer, other: &Answer) -> BTreeMap<String, Difference> {
        let mut found = BTreeMap::new();
        if primary.status != other.status {
            self.note(
                &mut found,
                "status",
                primary.status.as_u16().to_string(),
                other.status.as_u16().to_string(),
            );
        }
        let types = (primary.media_type(), other.media_type());
        if !types.0.eq_ignore_ascii_case(types.1) {
            let short = |text: &str| text.chars().take(NAME_MAX).collect();
            let (a, b) = (short(types.0), short(types.1));
            self.note(&mut found, "content-type", a, b);
        }
        let size = |answer: &Answer| format!("{} bytes", answer.body.len());
        if primary.complete && other.broken {
            self.note(&mut found, "body", size(primary), "broken off".to_owned());
        } else if let Some(least) = other.larger_than(primary) {
            self.note(
                &mut found,
                "body",
                size(primary),
                format!("more than {least} bytes"),
            );
        } else if primary.complete && other.complete && primary.body != other.body {
            match (self.read(primary), self.read(other)) {
                (Some(a), Some(b)) => self.walk(&mut found, &mut Place::default(), &a, &b),
                _ => self.note(&mut found, "body", size(primary), size(other)),
            }
        }
        found
    }

    /// The body as a tree, if it is of a kind that can be read.
    fn read(&self, answer: &Answer) -> Option<Value> {
        #[cfg(feature = "protobuf")]
        if let Some(message) = &self.message
            && super::protobuf::is_protobuf(answer.media_type())
        {
            return super::protobuf::read(message, &answer.body);
        }
        serde_json::from_slice(&answer.body).ok()
    }

    /// Recursion ends at serde_json's own limit of 128, and at prost's of 100.
    fn walk(&self, found: &mut BTreeMap<String, Difference>, place: &mut Place, a: &Value, b: &Value) {
        match (a, b) {
            (Value::Object(a), Value::Object(b)) => {
                let only_b = b
                    .iter()
                    .filter(|(name, _)| !a.contains_key(*name))
                    .map(|(name, b)| (name, None, Some(b)));
                let fields = a
                    .iter()
                    .map(|(name, a)| (name, Some(a), b.get(name)))
                    .chain(only_b);
                for (name, a, b) in fields {
                    let before = place.name(name);
                    match (a, b) {
                        (Some(a), Some(b)) => self.walk(found, place, a, b),
                        (a, b) => self.note_at(found, place, kind(a), kind(b)),
                    }
                    place.back(before);
                }
            }
            (Value::Array(a_items), Value::Array(b_items)) => {
                if a_items.len() != b_items.len() {
                    self.note_at(found, place, kind(Some(a)), kind(Some(b)));
                }
                let (mut a_items, mut b_items): (Vec<_>, Vec<_>) =
                    (a_items.iter().collect(), b_items.iter().collect());
                let unordered = self.unordered.iter().any(|known| known == or_body(&place.path));
                let before = place.items();
                if unordered {
                    a_items.sort_by_cached_key(|item| self.text(&place.path, item));
                    b_items.sort_by_cached_key(|item| self.text(&place.path, item));
                }
                a_items
                    .into_iter()
                    .zip(b_items)
                    .for_each(|(a, b)| self.walk(found, place, a, b));
                place.back(before);
            }
            (Value::Number(a_number), Value::Number(b_number)) if self.near(a_number, b_number) => {}
            _ if a == b => {}
            _ => self.note_at(found, place, kind(Some(a)), kind(Some(b))),
        }
    }

    fn near(&self, a: &serde_json::Number, b: &serde_json::Number) -> bool {
        // Whole numbers above 2^53 are not what they look like as floats.
        if self.tolerance == 0.0
            && let (Some(x), Some(y)) = (whole(a), whole(b))
        {
            return x == y;
        }
        match (a.as_f64(), b.as_f64()) {
            (Some(x), Some(y)) => a == b || x == y || (x - y).abs() <= self.tolerance * x.abs().max(y.abs()),
            _ => a == b,
        }
    }

    /// What is not ignored of a value, as text.
    fn text(&self, path: &str, value: &Value) -> String {
        match value {
            _ if self.ignores(path) => String::new(),
            Value::Object(fields) => fields
                .iter()
                .map(|(name, value)| {
                    let below = format!("{path}.{name}");
                    format!("{name:?}:{},", self.text(&below, value))
                })
                .collect(),
            Value::Array(items) => items
                .iter()
                .map(|item| self.text(&format!("{path}[]"), item) + ",")
                .collect(),
            other => other.to_string(),
        }
    }

    fn ignores(&self, path: &str) -> bool {
        self.ignore.iter().any(|ignored| {
            path.strip_prefix(ignored.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    fn note_at(
        &self,
        found: &mut BTreeMap<String, Difference>,
        place: &Place,
        primary: String,
        other: String,
    ) {
        if !self.ignores(or_body(&place.path)) {
            let told = or_body(&place.told);
            // What is told is ASCII.
            tell(found, told.get(..PATH_MAX).unwrap_or(told), primary, other);
        }
    }

    fn note(&self, found: &mut BTreeMap<String, Difference>, name: &str, primary: String, other: String) {
        if !self.ignores(name) {
            tell(found, name, primary, other);
        }
    }
}

fn tell(found: &mut BTreeMap<String, Difference>, path: &str, primary: String, other: String) {
    if found.len() < FIELDS_MAX || found.contains_key(path) {
        found
            .entry(path.to_owned())
            .or_insert(Difference { primary, other });
    }
}

/// A body that is no object has no path.
fn or_body(path: &str) -> &str {
    if path.is_empty() { "body" } else { path }
}

/// Where a comparison is: the path as an operator writes it to have it ignored, and as it is told.
#[derive(Default)]
struct Place {
    path: String,
    told: String,
}

impl Place {
    /// Goes to a field; what [`Place::back`] takes.
    fn name(&mut self, name: &str) -> (usize, usize) {
        let before = (self.path.len(), self.told.len());
        for (path, name) in [(&mut self.path, name), (&mut self.told, shown(name))] {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(name);
        }
        before
    }

    fn items(&mut self) -> (usize, usize) {
        let before = (self.path.len(), self.told.len());
        self.path.push_str("[]");
        self.told.push_str("[]");
        before
    }

    fn back(&mut self, before: (usize, usize)) {
        self.path.truncate(before.0);
        self.told.truncate(before.1);
    }
}

/// A key as it is shown: names are told, data is not.
fn shown(key: &str) -> &str {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-$#".contains(&byte);
    let named = !key.is_empty() && key.len() <= NAME_MAX && key.bytes().all(plain);
    if named && !key.starts_with(|first: char| first.is_ascii_digit()) {
        key
    } else {
        "*"
    }
}

/// A whole number, exactly.
fn whole(number: &serde_json::Number) -> Option<i128> {
    let signed = number.as_i64().map(i128::from);
    signed.or_else(|| number.as_u64().map(i128::from))
}

/// What stands there, without the value.
fn kind(value: Option<&Value>) -> String {
    match value {
        None => "nothing".to_owned(),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Bool(_)) => "boolean".to_owned(),
        Some(Value::Number(_)) => "number".to_owned(),
        Some(Value::String(text)) => format!("string of {}", text.chars().count()),
        Some(Value::Array(items)) => format!("list of {}", items.len()),
        Some(Value::Object(fields)) => format!("object of {}", fields.len()),
    }
}

#[cfg(test)]
mod tests;
