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
fn a_tolerance_is_a_share_of_the_larger_number() {
    let differ = Differ::new().tolerance(0.01);
    for (a, b) in [("99", "100"), ("-100", "-99")] {
        assert!(paths(&differ, a, b).is_empty(), "{a} {b}");
        assert!(paths(&differ, b, a).is_empty(), "{b} {a}");
    }
    for (a, b) in [("98", "99"), ("-99", "-98"), ("1", "-1")] {
        assert_eq!(paths(&differ, a, b), ["body"], "{a} {b}");
    }
}

#[test]
fn whole_numbers_are_compared_exactly() {
    for (a, b) in [
        ("9007199254740993", "9007199254740992"),
        ("18446744073709551615", "18446744073709551000"),
        ("-9007199254740993", "-9007199254740992"),
    ] {
        assert_eq!(paths(&Differ::new(), a, b), ["body"]);
        assert!(paths(&Differ::new().tolerance(0.01), a, b).is_empty());
    }
}

#[test]
fn keys_that_are_data_and_long_paths_are_not_told() {
    let all = Differ::new();
    let (a, b) = (
        r#"{"by":{"alice@example.com":1,"4711":1,"a.b":1,"ok-1":1}}"#,
        r#"{"by":{"alice@example.com":2,"4711":2,"a.b":2,"ok-1":2}}"#,
    );
    assert_eq!(paths(&all, a, b), ["by.*", "by.ok-1"]);
    let long = "k".repeat(60_000);
    assert_eq!(paths(&all, &format!(r#"{{"{long}":1}}"#), "{}"), ["*"]);
    let deep = format!("{}1{}", r#"{"abcdefgh":"#.repeat(100), "}".repeat(100));
    assert_eq!(paths(&all, &deep, &deep.replace('1', "2"))[0].len(), PATH_MAX);
    // They are ignored by what they are called all the same.
    let ignored = Differ::new().ignore("@time").ignore("by.4711");
    let body = r#"{"@time":1,"by":{"4711":1,"12":1}}"#;
    assert_eq!(paths(&ignored, body, r#"{"by":{}}"#), ["by.*"]);
}

#[test]
fn a_body_that_broke_off_differs() {
    let broken = Answer {
        broken: true,
        ..Answer::of_status(StatusCode::OK)
    };
    let found = Differ::new().diff(&answer("{}"), &broken);
    assert_eq!(found["body"].other, "broken off");
    let unknown = Answer::of_status(StatusCode::OK);
    assert!(Differ::new().diff(&unknown, &broken).is_empty());
}

#[test]
fn a_body_that_is_known_to_be_larger_differs() {
    let cut = |most| Answer {
        cut_at: Some(most),
        ..Answer::of_status(StatusCode::OK)
    };
    let found = Differ::new().diff(&answer("{}"), &cut(2));
    assert_eq!(
        found["body"],
        Difference {
            primary: "2 bytes".into(),
            other: "more than 2 bytes".into()
        }
    );
    // It may be as large as the primary's, and what the primary's is may not be known.
    assert!(Differ::new().diff(&answer("{}"), &cut(1)).is_empty());
    assert!(Differ::new().diff(&cut(1), &cut(2)).is_empty());
}

#[test]
fn what_is_ignored_does_not_order_a_set() {
    let differ = Differ::new().unordered("tags").ignore("tags[].at");
    let (a, b) = (
        r#"{"tags":[{"at":1,"k":"a"},{"at":2,"k":"b"}]}"#,
        r#"{"tags":[{"at":9,"k":"a"},{"at":3,"k":"b"}]}"#,
    );
    assert!(paths(&differ, a, b).is_empty());
    assert!(paths(&Differ::new().unordered("body"), "[1,2]", "[2,1]").is_empty());
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
