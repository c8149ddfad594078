use proptest::prelude::*;

use super::*;
use crate::SubjectPattern;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("tenant")
}

#[test]
fn a_tenants_subject_is_canonical() {
    let subject = Subject::for_tenant(&tenant("acme"), "users.created").expect("subject");
    assert_eq!(subject.as_str(), "in.t.acme.users.created");
    assert_eq!(
        (subject.tenant(), subject.suffix()),
        (Some("acme"), Some("users.created"))
    );
    assert_eq!(subject.shadow().as_str(), "shadow.in.t.acme.users.created");
    assert_eq!(subject.shadow().shadow(), subject.shadow());
    assert_eq!(subject.shadow().tenant(), None);
}

#[test]
fn a_tenants_subject_may_have_any_length_up_to_the_border() {
    let tenant = tenant("acme");
    let before = "in.t.acme.".len();
    for length in [SHORT_BYTES - 1, SHORT_BYTES, SHORT_BYTES + 1, SUBJECT_BYTES_MAX] {
        let suffix = "s".repeat(length - before);
        let subject = Subject::for_tenant(&tenant, &suffix).expect("subject");
        assert_eq!(subject.as_str(), format!("in.t.acme.{suffix}"));
        assert_eq!(subject.as_str().len(), length);
    }
    let over = "s".repeat(SUBJECT_BYTES_MAX + 1 - before);
    assert!(Subject::for_tenant(&tenant, over).is_err());
    // A character of two bytes across the border of what is put together on the stack.
    let suffix = "\u{e4}".repeat((SHORT_BYTES - before) / 2);
    let subject = Subject::for_tenant(&tenant, format!("{suffix}\u{e4}")).expect("subject");
    assert_eq!(subject.suffix(), Some(format!("{suffix}\u{e4}").as_str()));
}

#[test]
fn what_nats_would_read_otherwise_is_refused() {
    for bad in [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "a b",
        "a\tb",
        "a\r\nPUB x",
        "a.*",
        "a.>",
        "*",
        ">",
        "a\0",
        "a\u{a0}b",
        "a\u{202e}b",
        "\u{200b}",
        "a>b",
    ] {
        let error = Subject::for_tenant(&tenant("t"), bad).expect_err(bad);
        assert!(error.to_string().starts_with("subject "), "{error}");
        assert_eq!(Problem::from(error).code, Code::SubjectInvalid);
    }
}

#[test]
fn a_subject_of_1024_bytes_is_taken_and_one_more_is_not() {
    assert!(Subject::parse("a".repeat(SUBJECT_BYTES_MAX)).is_ok());
    assert!(
        Subject::parse("a".repeat(SUBJECT_BYTES_MAX + 1))
            .expect_err("long")
            .to_string()
            .contains("1024 bytes")
    );
}

proptest! {
    #[test]
    fn the_builder_is_injective(
        a in ("[A-Za-z0-9_-]{1,8}", "[a-z-]{1,3}(\\.[a-z_]{1,3}){0,3}"),
        b in ("[A-Za-z0-9_-]{1,8}", "[a-z-]{1,3}(\\.[a-z_]{1,3}){0,3}"),
    ) {
        let build = |(t, s): &(String, String)| Subject::for_tenant(&tenant(t), s).expect("subject");
        prop_assert_eq!(build(&a) == build(&b), a == b);
        let built = build(&a);
        prop_assert_eq!((built.tenant(), built.suffix()), (Some(a.0.as_str()), Some(a.1.as_str())));
    }

    #[test]
    fn no_built_subject_matches_another_tenants_filter(
        own in "[A-Za-z0-9_-]{1,8}",
        other in "[A-Za-z0-9_-]{1,8}",
        suffix in "\\PC{1,24}",
        filter in "(\\*|[a-z]{1,2})(\\.(\\*|[a-z]{1,2})){0,2}(\\.>)?|>",
    ) {
        prop_assume!(own != other);
        let filter = SubjectPattern::for_tenant(&tenant(&other), &filter).expect("pattern");
        if let Ok(subject) = Subject::for_tenant(&tenant(&own), &suffix) {
            prop_assert!(!filter.matches(&subject));
        }
    }

    #[test]
    fn any_text_is_a_subject_or_an_error(text in "\\PC{0,40}") {
        if let Ok(subject) = Subject::parse(&text) {
            prop_assert_eq!(subject.as_str(), text.as_str());
            prop_assert!(!text.contains(['*', '>', ' ']));
        }
    }
}
