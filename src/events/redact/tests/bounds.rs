//! How long it takes, what of a long text is kept, and what of a rollout.

use super::*;

/// Each would take minutes where the work grows with the square: a run of signs, of words, of parts of a key.
#[test]
fn the_work_is_linear_in_the_length_of_a_line() {
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        clean_hostile_lines();
        done.send(())
    });
    // It takes seconds; this is only to end where it would not.
    ended
        .recv_timeout(std::time::Duration::from_secs(120))
        .expect("linear, and no line is longer than it may be");
}

fn clean_hostile_lines() {
    const LONG: usize = 64 * 1024;
    const SHORT: usize = 8 * 1024;
    let hostile = ["=", ": ", "@", "AKIA", "user a:b "];
    let others = [
        "a=",
        "a_-=",
        "\"a\",",
        "{ ",
        "> ",
        "( ",
        "::",
        "-",
        "_",
        "%25",
        "%2525",
        "&amp;",
        "\\",
        "\\u003d",
        "'",
        "\"x ",
        "https://a/ ",
        "eyJ",
        "S",
        "-u ",
        "key ",
        "basic",
        "x|",
        "é= ",
        "\u{301}",
    ];
    let texts = hostile
        .iter()
        .map(|part| (part, LONG))
        .chain(others.iter().map(|part| (part, SHORT)));
    for (part, bytes) in texts {
        let line = part.repeat(bytes / part.len());
        for use_for in [For::Reason, For::Log, For::Rollout] {
            let (shown, _) = clean(&line, use_for);
            assert!(shown.len() <= 6 * line.len() + GONE.len(), "{part:?}");
        }
    }
}

#[test]
fn a_long_text_for_the_log_is_cut_and_a_key_at_the_cut_is_not_shown() {
    for part in ["=", "word ", "é", "a\n"] {
        let shown = without_credentials(&part.repeat(64 * 1024 / part.len()));
        assert!(shown.len() <= LOG_BYTES_MAX + CUT.len(), "{part:?}");
        let kept = shown.strip_suffix(CUT).expect("it says so");
        assert!(
            kept.len() >= LOG_BYTES_MAX - LOG_BYTES_UNSURE - 8,
            "{part:?}: {}",
            kept.len()
        );
    }
    let most = "a".repeat(LOG_BYTES_MAX);
    assert_eq!(without_credentials(&most), most);

    let seed = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    for of_it in 1..seed.len() {
        let text = "a".repeat(LOG_BYTES_MAX - of_it - 1) + " " + seed + " and more";
        let shown = without_credentials(&text);
        let kept = shown.strip_suffix(CUT).expect("it says so");
        let kept = kept.strip_suffix(GONE).unwrap_or(kept).trim_end();
        assert!(
            kept.bytes().all(|b| b == b'a'),
            "{of_it} of its characters are within the bound"
        );
    }
    let text = format!("login password={}", "x".repeat(LOG_BYTES_MAX));
    assert_eq!(without_credentials(&text), "login [redacted] [cut]");
}

#[test]
fn a_tenant_that_is_called_as_a_scheme_keeps_its_scope() {
    for name in [
        "basic v1.events.>",
        "acme-basic v1.events.>",
        "digest",
        "digest v1.a",
        "acme v1.events.>",
    ] {
        assert_eq!(redacted_rollout(name), name);
    }
    for (name, shown) in [
        ("acme password=hunter2", "acme [redacted]"),
        ("password =hunter2", "[redacted]"),
        ("acme nats://user:pw@host", "acme [redacted]"),
        ("acme AKIAIOSFODNN7EXAMPLE", "acme [redacted]"),
    ] {
        assert_eq!(redacted_rollout(name), shown);
    }
    assert_eq!(redacted_name("basic dXNlcjpwdw=="), "basic [redacted]");
}
