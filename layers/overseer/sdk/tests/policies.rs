//! Policies written with the SDK, tested as its users would.

use arqon_policy::{
    add_header, claim_text, config_text, has_header, header, header_text, log, payload, payload_len,
    property_text, reject, remove_header, set_header, set_payload, testing::Host, Error, Level, Verdict,
};

#[test]
fn a_header_is_found_whatever_its_case_and_told_from_an_empty_one() {
    let outcome = Host::new()
        .header("X-Name", "value")
        .header("x-empty", "")
        .run(|| {
            let mut buffer = [0; 16];
            assert_eq!(header("x-NAME", &mut buffer), Ok(Some(&b"value"[..])));
            assert_eq!(header("x-empty", &mut buffer), Ok(Some(&b""[..])));
            assert_eq!(header("x-other", &mut buffer), Ok(None));
            assert_eq!(header("x other", &mut buffer), Err(Error::BadArgument));
            assert_eq!(
                header("x-name", &mut buffer[..4]),
                Err(Error::TooLong { needed: 5 })
            );
            assert_eq!(has_header("x-empty"), Ok(true));
            assert_eq!(has_header("x-other"), Ok(false));
            assert_eq!(has_header("x-empty "), Err(Error::BadArgument));
            Verdict::Allow
        });
    assert!(outcome.allowed());
}

#[test]
fn text_is_utf_8() {
    let outcome = Host::new().header("x-name", b"\xff").run(|| {
        assert_eq!(header_text("x-name", &mut [0; 4]), Err(Error::NotText));
        Verdict::Allow
    });
    assert!(outcome.allowed());
}

#[test]
fn claims_properties_and_configuration_are_read() {
    let outcome = Host::new()
        .claim("sub", "u1")
        .property("tenant", "acme")
        .header("content-type", "text/plain")
        .config("limit=3")
        .run(|| {
            let mut buffer = [0; 32];
            assert_eq!(claim_text("sub", &mut buffer), Ok(Some("u1")));
            assert_eq!(claim_text("role", &mut buffer), Ok(None));
            assert_eq!(property_text("tenant", &mut buffer), Ok(Some("acme")));
            assert_eq!(property_text("content_type", &mut buffer), Ok(Some("text/plain")));
            assert_eq!(property_text("nonsense", &mut buffer), Err(Error::BadArgument));
            assert_eq!(config_text(&mut buffer), Ok("limit=3"));
            Verdict::Allow
        });
    assert!(outcome.allowed());
}

#[test]
fn edits_are_kept_only_of_who_allows() {
    let policy = |verdict: Verdict| {
        Host::new()
            .header("x-role", "forged")
            .rewriting()
            .payload("secret")
            .run(move || {
                add_header("X-Role", "user").unwrap();
                set_header("x-a", "1").unwrap();
                remove_header("x-b").unwrap();
                assert_eq!(header("x-role", &mut [0; 8]), Ok(Some(&b"user"[..])));
                assert_eq!(add_header("host", "x"), Err(Error::Unavailable));
                assert_eq!(add_header("x-c", "a\r\nb"), Err(Error::BadArgument));
                assert_eq!(payload_len(), Ok(6));
                assert_eq!(payload(4, &mut [0; 10]), Ok(&b"et"[..]));
                set_payload(b"***").unwrap();
                log(Level::Info, "done");
                verdict
            })
    };
    let allowed = policy(Verdict::Allow);
    assert_eq!(allowed.headers.len(), 3);
    assert_eq!(
        allowed.headers[0],
        ("add".into(), "x-role".into(), Some("user".into()))
    );
    assert_eq!(allowed.payload.as_deref(), Some(&b"***"[..]));
    assert_eq!(allowed.logs, [(2, "done".into())]);
    let denied = policy(Verdict::Deny);
    assert_eq!(
        (denied.status, denied.headers.len(), denied.payload),
        (Some(403), 0, None)
    );
}

#[test]
fn a_rejection_stops_the_policy_wherever_it_is() {
    fn deep(depth: u32) -> Verdict {
        if depth == 0 {
            reject(429, "slow down")
        }
        deep(depth - 1)
    }
    let outcome = Host::new().run(|| deep(10));
    assert_eq!(
        (outcome.status, outcome.reason.as_str()),
        (Some(429), "slow down")
    );
    assert_eq!(Host::new().run(|| Verdict::reject(200, "odd")).status, Some(403));
}

#[test]
fn without_the_grant_the_payload_stays() {
    let outcome = Host::new().run(|| {
        assert_eq!(set_payload(b"x"), Err(Error::Unavailable));
        Verdict::Allow
    });
    assert_eq!(outcome.payload, None);
}

#[test]
#[should_panic(expected = "oh no")]
fn a_panic_of_the_policy_is_the_tests() {
    let _ = Host::new().run(|| panic!("oh no"));
}

#[test]
fn a_response_has_a_status_and_no_payload_and_keeps_the_handlers_headers() {
    let outcome = Host::response(404)
        .header("Server", "handler")
        .rewriting()
        .run(|| {
            let mut buffer = [0; 16];
            assert_eq!(property_text("status", &mut buffer), Ok(Some("404")));
            assert_eq!(payload_len(), Err(Error::Unavailable));
            assert_eq!(payload(0, &mut buffer), Err(Error::Unavailable));
            assert_eq!(set_payload(b"x"), Err(Error::Unavailable));
            add_header("server", "policy").unwrap();
            assert_eq!(header_text("server", &mut buffer), Ok(Some("handler")));
            set_header("server", "policy").unwrap();
            assert_eq!(header_text("server", &mut buffer), Ok(Some("policy")));
            Verdict::Allow
        });
    assert!(outcome.allowed());
    let outcome = Host::new().run(|| {
        assert_eq!(property_text("status", &mut [0; 4]), Err(Error::Unavailable));
        Verdict::Allow
    });
    assert!(outcome.allowed());
}
