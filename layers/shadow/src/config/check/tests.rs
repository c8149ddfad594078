use super::*;

fn parse(text: &str) -> ShadowConfig {
    toml::from_str(text).expect("config")
}

fn findings(text: &str) -> Vec<String> {
    parse(text).validate().iter().map(ToString::to_string).collect()
}

#[test]
fn the_source_config_is_read_as_it_stands() {
    let config = parse("enabled = true\nrules = [{ prefix = \"in.t.default.*\", percent = 0.10 }]");
    assert_eq!(
        config,
        ShadowConfig::default().rule(RuleConfig::new("in.t.default.*", 0.10))
    );
    let rule = &config.compile().expect("valid").terms[0];
    assert_eq!((rule.max_body_bytes, rule.when), (65_536, When::Accepted));
    assert_eq!(
        rule.strip.as_ref(),
        ["authorization", "cookie"].map(HeaderName::from_static)
    );
}

#[test]
fn subject_is_an_alias_and_a_share_may_be_text_or_a_whole_number() {
    for percent in ["1", "1.0", "\"100%\"", "\"1\""] {
        let config = parse(&format!(
            "rules = [{{ subject = \"in.>\", percent = {percent} }}]"
        ));
        assert_eq!(
            config.compile().expect("valid").terms[0].fraction,
            Fraction::ONE,
            "{percent}"
        );
    }
}

#[test]
fn everything_wrong_is_told_at_once_with_key_value_and_fix() {
    let told = findings(
        r#"
        queue_messages = 0
        queue_bytes = 1000
        timeout_ms = 0
        high_water = 0
        recover_seconds = 0
        [[rules]]
        prefix = "in.t."
        percent = 10
        methods = ["post", "G T"]
        strip_headers = ["so bad"]
        when = "accept"
        [[rules]]
        prefix = "in.t.*.>"
        max_body_bytes = 1001
        [[rules]]
        prefix = "in.t.*.>"
        percent = "ten"
        max_body_bytes = 0
        [[rules]]
        prefix = "shadow.>"
        percent = 0.5
        max_body_bytes = 10
        [[rules]]
        prefix = "a.>.b"
        percent = -0.1
        max_body_bytes = 10
        "#,
    );
    let starts = [
        "rules[0].prefix = \"in.t.\"",
        "rules[0].percent = 10: is not a share from 0.0 to 1.0; write 0.1 or \"10%\"",
        "rules[0].max_body_bytes = 65536: is above queue_bytes = 1000",
        "rules[0].methods[0] = \"post\": is not an HTTP method; write \"POST\"",
        "rules[0].methods[1] = \"G T\"",
        "rules[0].strip_headers[0] = \"so bad\"",
        "rules[0].when = \"accept\": is not a time to mirror at; write \"accepted\"",
        "rules[1].percent: is missing; write 0.10 or \"10%\"",
        "rules[1].max_body_bytes = 1001",
        "rules[2].prefix = \"in.t.*.>\": is also the pattern of rules[1]",
        "rules[2].percent = \"ten\"",
        "rules[2].max_body_bytes = 0: is out of range",
        "rules[3].prefix = \"shadow.>\"",
        "rules[4].prefix = \"a.>.b\"",
        "rules[4].percent = -0.1",
        "queue_messages = 0: is out of range; write a number from 1 to 1048576",
        "timeout_ms = 0",
        "high_water = 0",
        "recover_seconds = 0",
    ];
    assert_eq!(told.len(), starts.len(), "{told:#?}");
    for (line, start) in told.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}\n{start}");
    }
}

#[test]
fn no_number_but_a_share_is_taken() {
    for bad in ["nan", "inf", "-inf", "-0.1", "1.0001", "100.0001"] {
        let told = findings(&format!("rules = [{{ prefix = \"in.>\", percent = {bad} }}]"));
        assert_eq!(told.len(), 1, "{bad}");
        assert!(told[0].starts_with("rules[0].percent = "), "{told:?}");
    }
}

#[test]
fn a_config_survives_the_round_trip() {
    let config = ShadowConfig::default()
        .rule(RuleConfig::new("in.>", "10%").with_methods(["POST"]).at_arrival())
        .with_seed(7);
    assert_eq!(parse(&toml::to_string(&config).expect("toml")), config);
}

#[test]
fn what_is_wrong_with_a_comparison_is_named() {
    let config: ShadowConfig = toml::from_str(
        r#"
        [compare]
        candidate = "https://candidate"
        control = "control:80/?x"
        methods = ["POST", "get"]
        in_flight = 0
        tolerance = 1.5
        message = "a.B"
        "#,
    )
    .expect("types");
    let keys: Vec<_> = config.validate().into_iter().map(|found| found.key).collect();
    let expected = [
        "candidate",
        "control",
        "methods[1]",
        "in_flight",
        "tolerance",
        "message",
    ];
    assert_eq!(keys, expected.map(|key| format!("compare.{key}")));
    let good: ShadowConfig =
        toml::from_str("[compare]\ncandidate = \"http://candidate:80/v2\"").expect("types");
    assert!(good.validate().is_empty());
    assert_eq!(
        good.compare,
        Some(crate::CompareConfig::new("http://candidate:80/v2"))
    );
}

#[test]
fn a_rule_is_compared_in_what_the_candidate_is_sent() {
    let findings = |methods: &str, sent: &str| -> Vec<String> {
        let text = format!(
            "rules = [{{ prefix = \"in.>\", percent = 1.0, compare = true, methods = {methods} }}]\n\
             [compare]\ncandidate = \"http://candidate\"\n{sent}"
        );
        let config: ShadowConfig = toml::from_str(&text).expect("types");
        config.validate().iter().map(ToString::to_string).collect()
    };
    assert!(findings(r#"["GET"]"#, "").is_empty());
    assert!(findings(r#"["POST"]"#, r#"methods = ["GET", "POST"]"#).is_empty());
    for (methods, sent, why) in [
        ("[]", "", "means all, but the candidate is sent GET, HEAD only"),
        (
            r#"["GET", "POST"]"#,
            "",
            "\"POST\": is compared, but the candidate is sent GET, HEAD only",
        ),
    ] {
        let found = findings(methods, sent);
        assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
        assert!(found[0].contains("rules[0].methods"), "{found:?}");
    }
}
