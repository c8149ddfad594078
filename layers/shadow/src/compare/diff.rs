//! Where two answers differ: a pure function.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::Answer;

/// The most fields that one comparison reports.
const FIELDS_MAX: usize = 64;

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
/// Protobuf they are the names in the schema; a field that the schema does not know is `#<number>`.
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

    /// The items of this list are a set: they are compared in an order of their own.
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

    /// The fields that differ, at most 64. Bodies are compared only when both are complete.
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
            let (a, b) = (types.0.to_owned(), types.1.to_owned());
            self.note(&mut found, "content-type", a, b);
        }
        if primary.complete && other.complete && primary.body != other.body {
            match (self.read(primary), self.read(other)) {
                (Some(a), Some(b)) => self.walk(&mut found, &mut String::new(), &a, &b),
                _ => {
                    let size = |answer: &Answer| format!("{} bytes", answer.body.len());
                    self.note(&mut found, "body", size(primary), size(other));
                }
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
    fn walk(&self, found: &mut BTreeMap<String, Difference>, path: &mut String, a: &Value, b: &Value) {
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
                    let before = path.len();
                    if before > 0 {
                        path.push('.');
                    }
                    path.push_str(name);
                    match (a, b) {
                        (Some(a), Some(b)) => self.walk(found, path, a, b),
                        (a, b) => self.note(found, path, kind(a), kind(b)),
                    }
                    path.truncate(before);
                }
            }
            (Value::Array(a_items), Value::Array(b_items)) => {
                if a_items.len() != b_items.len() {
                    self.note(
                        found,
                        if path.is_empty() { "body" } else { path },
                        kind(Some(a)),
                        kind(Some(b)),
                    );
                }
                let (mut a_items, mut b_items): (Vec<_>, Vec<_>) =
                    (a_items.iter().collect(), b_items.iter().collect());
                if self.unordered.iter().any(|known| known == path) {
                    a_items.sort_by_cached_key(ToString::to_string);
                    b_items.sort_by_cached_key(ToString::to_string);
                }
                let before = path.len();
                path.push_str("[]");
                a_items
                    .into_iter()
                    .zip(b_items)
                    .for_each(|(a, b)| self.walk(found, path, a, b));
                path.truncate(before);
            }
            (Value::Number(a_number), Value::Number(b_number)) if self.near(a_number, b_number) => {}
            _ if a == b => {}
            _ => self.note(
                found,
                if path.is_empty() { "body" } else { path },
                kind(Some(a)),
                kind(Some(b)),
            ),
        }
    }

    fn near(&self, a: &serde_json::Number, b: &serde_json::Number) -> bool {
        match (a.as_f64(), b.as_f64()) {
            (Some(x), Some(y)) => a == b || x == y || (x - y).abs() <= self.tolerance * x.abs().max(y.abs()),
            _ => a == b,
        }
    }

    fn note(&self, found: &mut BTreeMap<String, Difference>, path: &str, primary: String, other: String) {
        let ignored = self.ignore.iter().any(|ignored| {
            path.strip_prefix(ignored.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        });
        if !ignored && (found.len() < FIELDS_MAX || found.contains_key(path)) {
            found
                .entry(path.to_owned())
                .or_insert(Difference { primary, other });
        }
    }
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
mod tests {
    use http::StatusCode;
    use proptest::prelude::*;

    use super::*;

    fn answer(body: &str) -> Answer {
        Answer::new(StatusCode::OK, body.to_owned())
    }

    fn paths(differ: &Differ, a: &str, b: &str) -> Vec<String> {
        differ.diff(&answer(a), &answer(b)).into_keys().collect()
    }

    #[test]
    fn differences_are_named_by_path() {
        let all = Differ::new();
        for (a, b, expected) in [
            (r#"{"a":1,"b":2}"#, r#"{ "b":2, "a":1 }"#, &[][..]),
            (r#"{"a":1}"#, r#"{"a":1.0}"#, &[]),
            (
                r#"{"a":{"b":[{"c":1},{"c":2}]}}"#,
                r#"{"a":{"b":[{"c":1},{"c":3}]}}"#,
                &["a.b[].c"],
            ),
            (r#"{"a":[1,2]}"#, r#"{"a":[1]}"#, &["a"]),
            (r#"{"a":1}"#, r#"{"b":1}"#, &["a", "b"]),
            (r#"{"a":null}"#, r#"{}"#, &["a"]),
            ("[1]", "[2]", &["[]"]),
            ("1", "\"1\"", &["body"]),
            ("not json", "not json either", &["body"]),
        ] {
            assert_eq!(paths(&all, a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn ignored_fields_and_near_numbers_do_not_count() {
        let differ = Differ::new()
            .ignore("meta")
            .ignore("items[].etag")
            .tolerance(0.01);
        assert!(
            paths(
                &differ,
                r#"{"meta":{"id":1},"n":100}"#,
                r#"{"meta":{"id":2},"n":100.9}"#
            )
            .is_empty()
        );
        assert_eq!(
            paths(&differ, r#"{"metadata":1,"n":100}"#, r#"{"metadata":2,"n":102}"#),
            ["metadata", "n"]
        );
        assert!(
            paths(
                &differ,
                r#"{"items":[{"etag":"a"}]}"#,
                r#"{"items":[{"etag":"b"}]}"#
            )
            .is_empty()
        );
    }

    #[test]
    fn a_set_has_no_order_and_a_list_has() {
        let (a, b) = (
            r#"{"tags":[{"k":1},{"k":2}],"at":[1,2]}"#,
            r#"{"tags":[{"k":2},{"k":1}],"at":[2,1]}"#,
        );
        assert_eq!(paths(&Differ::new(), a, b), ["at[]", "tags[].k"]);
        assert_eq!(paths(&Differ::new().unordered("tags"), a, b), ["at[]"]);
    }

    #[test]
    fn the_type_counts_without_its_parameters() {
        let typed = |text: &'static str| {
            let headers = [(http::header::CONTENT_TYPE, http::HeaderValue::from_static(text))];
            answer("{}").typed(&headers.into_iter().collect())
        };
        let differ = Differ::new();
        assert!(
            differ
                .diff(
                    &typed("application/json"),
                    &typed("Application/JSON; charset=utf-8")
                )
                .is_empty()
        );
        let found = differ.diff(&typed("application/json"), &typed("text/plain"));
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["content-type"]);
    }

    #[test]
    fn the_status_counts_and_incomplete_bodies_do_not() {
        let gone = Answer::of_status(StatusCode::GONE);
        let found = Differ::new().diff(&answer("{}"), &gone);
        assert_eq!(
            found["status"],
            Difference {
                primary: "200".into(),
                other: "410".into()
            }
        );
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn no_value_is_reported() {
        let found = Differ::new().diff(
            &answer(r#"{"card":"4111111111111111"}"#),
            &answer(r#"{"card":["x"]}"#),
        );
        assert_eq!(
            found["card"],
            Difference {
                primary: "string of 16".into(),
                other: "list of 1".into()
            }
        );
    }

    proptest! {
        #[test]
        fn what_equals_itself_does_not_differ(text in "[\\[\\]{}\",:a-c0-9]{0,40}") {
            prop_assert!(paths(&Differ::new(), &text, &text).is_empty());
        }
    }
}
