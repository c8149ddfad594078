//! What goes, what stays; and that a planted secret never shows, however it is dressed.

use proptest::prelude::*;

use super::*;

mod bounds;

#[test]
fn a_crash_reason_keeps_no_secret() {
    for (reason, shown) in [
        ("index out of bounds\nstack: ...", "index out of bounds"),
        ("connect nats://user:pw@host failed", "connect [redacted] failed"),
        ("get https://h/x?a=abc failed", "get [redacted] failed"),
        ("get https://h/x?sig=abc failed", "get [redacted]"),
        ("password=hunter2 refused", "[redacted]"),
        ("login with password: hunter2", "login with [redacted]"),
        ("login with password = hunter2", "login with [redacted]"),
        (r#"bad body {"api_key":"k1 k2"}"#, "bad body [redacted]"),
        ("bad header Bearer abc.def", "bad header Bearer [redacted]"),
        ("Authorization: Basic dXNlcjpwdw==", "[redacted]"),
        ("cookie: a=b; c=d", "[redacted]"),
        ("key c2VjcmV0c2VjcmV0c2VjcmV0 refused", "key [redacted] refused"),
        ("key AKIAIOSFODNN7EXAMPLE refused", "key [redacted] refused"),
        (
            "seed SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY",
            "seed [redacted]",
        ),
        (
            "key ab/cdefgHIJ/klmnop/9qrstuv/wxyz refused",
            "key [redacted] refused",
        ),
        ("a\u{1b}[31mred", "a[31mred"),
        ("é=é 漢: ü", "é=é 漢: ü"),
        ("pass\u{0}word=x", "[redacted]"),
    ] {
        assert_eq!(redacted(reason), shown, "{reason}");
    }
    assert_eq!(redacted(&"ab ".repeat(100)).chars().count(), REASON_CHARS_MAX);
    assert_eq!(redacted(""), "");
}

/// Spellings of one credential, `hunter2`: not one of these may show. There are others: redaction is best effort.
const SPELLINGS: &[&str] = &[
    // Names and signs.
    "passphrase: hunter2",
    "pass=hunter2",
    "Password(hunter2)",
    r#"Password("hunter2")"#,
    "session=hunter2",
    "PASSWORD = hunter2",
    "passwords: hunter2",
    "secrets=a,hunter2",
    "tokens: [a, hunter2]",
    "DB_PASS=hunter2",
    "dbPass: hunter2",
    "userPw=hunter2",
    "MYSQL_PWD=hunter2",
    "pin: hunter2",
    "otp=hunter2",
    "sid=hunter2",
    "auth: hunter2",
    "creds = hunter2",
    "dsn: hunter2",
    "Api Key: hunter2",
    "api key hunter2",
    "api.key=hunter2",
    "x-api-key: hunter2",
    "API_KEY => hunter2",
    "api-key -> hunter2",
    "p.a.s.s.w.o.r.d: hunter2",
    "password:hunter2",
    "password:=hunter2",
    "password == hunter2",
    "password=: hunter2",
    "password is hunter2",
    "password was hunter2",
    "password for bob: hunter2",
    "password for bob is hunter2",
    "token hunter2",
    "the secret \"hunter2\" is bad",
    "password|hunter2",
    "--password hunter2",
    "--password=hunter2",
    "-p hunter2",
    "curl -u admin:hunter2 http://h",
    "key=hunter2",
    "aws_secret_access_key=hunter2",
    "accessKeyId=hunter2",
    "AccountKey=hunter2;EndpointSuffix=x",
    "connection string: hunter2",
    "private key: hunter2",
    "signing_key hunter2: secret_key hunter2",
    "client_secret=hunter2&x=1",
    "sig=hunter2",
    "assertion=hunter2",
    "csrf: hunter2",
    "refresh_token\t=\thunter2",
    // JSON, Debug, XML, YAML, pairs, maps.
    r#"{"password": "hunter2"}"#,
    r#"{"user":"a","pass":"hunter2"}"#,
    r#"{\"password\":\"hunter2\"}"#,
    r#"{'password': 'hunter2'}"#,
    r#"{"password" : null, "x": "hunter2"}"#,
    r#"Config { password: Some("hunter2") }"#,
    r#"Secret { inner: "hunter2" }"#,
    r#"("password", "hunter2")"#,
    r#"[("authorization", "hunter2")]"#,
    "<password>hunter2</password>",
    "<Token value='hunter2'/>",
    "password: |hunter2",
    r#"headers["authorization"] = hunter2"#,
    r#"secret["a"]: hunter2"#,
    "`password`: hunter2",
    // Encoded.
    "password%3Dhunter2",
    "password%3D%22hunter2%22",
    "pass%77ord=hunter2",
    "%70%61%73%73%77%6f%72%64=hunter2",
    "password%253Dhunter2",
    r"password\u003dhunter2",
    r"password\x3dhunter2",
    r"password\u{3d}hunter2",
    "password&#61;hunter2",
    "password&#x3d;hunter2",
    "&quot;password&quot;:&quot;hunter2&quot;",
    "{%22token%22:%22hunter2%22}",
    "token%20hunter2",
    "Bearer%20hunter2",
    "ｐａｓｓｗｏｒｄ＝hunter2",
    "pass\u{200b}word=hunter2",
    "pass\u{ad}word=hunter2",
    "Authorization%3A%20Bearer%20hunter2",
    // Schemes and headers.
    "Authorization: Bearer hunter2",
    "authorization=Bearer hunter2",
    "AUTHORIZATION: BASIC hunter2",
    "Bearer: hunter2",
    "bearer=hunter2",
    "header=Bearer hunter2",
    r#""Bearer hunter2""#,
    "Bearer\thunter2",
    "Proxy-Authorization: Digest hunter2",
    "Negotiate hunter2",
    "NTLM hunter2",
    "ApiKey hunter2",
    "AWS4-HMAC-SHA256 Credential=a/b, Signature=hunter2",
    "Set-Cookie: id=hunter2; HttpOnly",
    "Cookie: a=1; b=hunter2",
    "JSESSIONID=hunter2",
    "connect.sid=hunter2",
    "PHPSESSID: hunter2",
    "X-Auth-Token: hunter2",
    "X-CSRF-Token hunter2",
    // URLs.
    "nats://user:hunter2@host",
    "nats://hunter2@host:4222",
    "NATS://u:hunter2@h",
    "//user:hunter2@host/x",
    "user:hunter2@host",
    "postgres://u:hunter2@h/db",
    "https://h/x?token=hunter2",
    "https://h/x?a=1&hunter2",
    "https://h/cb#access_token=hunter2",
    "(https://u:hunter2@h)",
    "url=\"https://u:hunter2@h\"",
    "https://u:hun ter2 hunter2@h",
    "https%3A%2F%2Fu%3Ahunter2%40h",
    "amqp://u:hunter2%40x@h",
    "redis://:hunter2@h:6379/0",
    "jdbc:postgresql://h/db?user=u&password=hunter2",
    // Blocks.
    "-----BEGIN PRIVATE KEY----- hunter2 -----END PRIVATE KEY-----",
    r"-----BEGIN NATS USER JWT-----\nhunter2\n------END NATS USER JWT------",
    "key: -----BEGIN%20RSA%20PRIVATE%20KEY-----hunter2",
    // What is wrong with it stands between.
    "password incorrect: hunter2",
    "password invalid: hunter2",
    "token rejected: hunter2",
    "password rejected (hunter2)",
    "invalid token, got hunter2XYZ",
    "invalid token; got hunter2",
    "password is not valid [hunter2]",
    // The name goes on.
    "password1=hunter2",
    "token_v2=hunter2",
    "secretValue: hunter2",
    r#"{"newPassword1":"hunter2"}"#,
    r#"{"pwd_new":"hunter2"}"#,
    "passwordHash: hunter2",
    "api_key_prod=hunter2",
    "psk=hunter2",
    "passkey=hunter2",
    "passkey hunter2",
    // Short names without a sign.
    "DB_PASS hunter2",
    "pass hunter2",
    "pin hunter2",
    "key hunter2",
    // Options.
    "--db-pass hunter2",
    "mysql -phunter2",
    "curl -uadmin:hunter2",
    "redis-cli -a hunter2",
    // The value before the name, or none.
    "invalid value \"hunter2\" for key `password`",
    "`hunter2` is no token",
    "invalid type: string \"hunter2\", expected u16",
    "unknown variant `hunter2`, expected `a` or `b`",
    "login failed for admin:hunter2",
    "auth failed for user admin:hunter2,",
    "hunter2 is not a valid password",
    "password should be hunter2",
    "token expired hunter2",
    // Disguises.
    "pass\u{fe0f}word=hunter2",
    "pass\u{34f}word=hunter2",
    "pass\u{3164}word=hunter2",
    "pass\u{180e}word=hunter2",
    "password\u{fe66}hunter2",
    "password\u{fe55} hunter2",
    r"password\075hunter2",
    "p\u{430}ssword=hunter2",
];

#[test]
fn none_of_these_spellings_of_a_credential_gets_through() {
    for spelling in SPELLINGS {
        for text in [
            (*spelling).to_owned(),
            format!("task failed: {spelling}"),
            format!("{spelling} refused (os error 5)"),
        ] {
            let shown = redacted(&text);
            assert!(
                !shown.contains("hunter2") && shown.contains(GONE),
                "{text} -> {shown}"
            );
        }
    }
}

#[test]
fn keys_are_known_by_their_form_in_reasons_and_in_logs() {
    for key in [
        "eyJhbGciOiJub25lIn0.e30.",
        "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNNEXAMPLES",
        "SUAOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOO",
        "PAOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOOO",
        "ghp_abcdefghijklmnopqrst",
        "glpat-abcdefghijklmn",
        "xoxb-abcdefghij",
        "sk_live_abcdefghij",
        "AIzaabcdefghijklmnopqrstuvwxyzabcdefghi",
    ] {
        for text in [
            format!("bad key {key} given"),
            format!("bad `{key}`"),
            format!("a,{key};b"),
            format!("<{key}>"),
            format!("x/{key}"),
        ] {
            for shown in [redacted(&text), without_credentials(&text)] {
                assert!(!shown.contains(key) && shown.contains(GONE), "{text} -> {shown}");
            }
        }
    }
}

#[test]
fn a_log_text_keeps_its_lines_and_ids_and_loses_its_credentials() {
    for (text, shown) in [
        (
            "trace 0af7651916cd43dd8448eb211c80319c",
            "trace 0af7651916cd43dd8448eb211c80319c",
        ),
        ("one\ntwo Bearer abc.def", "one\ntwo Bearer [redacted]"),
        ("nats://user:pw@host gone", "[redacted] gone"),
        (
            "session 7 opened, key=a, (pass 2)",
            "session 7 opened, key=a, (pass 2)",
        ),
        ("password%3Dhunter2", "[redacted]"),
        ("sent password1=hunter2", "sent [redacted]"),
        ("sent token_v2=hunter2", "sent [redacted]"),
        (
            "token_count=3, passwordPolicy: strict",
            "token_count=3, passwordPolicy: strict",
        ),
        ("pa\u{301}ssword=hunter2", "[redacted]"),
        ("login pa\\u0301ssword=hunter2", "login [redacted]"),
        ("cafe\u{301} opens", "cafe\u{301} opens"),
        ("password:\nhunter2\nnext", "[redacted]\n[redacted]\nnext"),
        (
            "read\n-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\ndone",
            "read\n[redacted]\n[redacted]\n[redacted]\ndone",
        ),
    ] {
        assert_eq!(without_credentials(text), shown);
    }
}

#[test]
fn what_helps_an_operator_stays() {
    for reason in [
        "panicked: index out of bounds: the len is 3 but the index is 7",
        "unexpected token `}` at line 3",
        "arqon_overseer::token::parse failed",
        "token expired 3 s ago",
        "password incorrect",
        "nats: authorization violation",
        "the secret is missing",
        "secret file not found",
        "/var/lib/arqon/schemas/v1.events.user_created.proto: No such file or directory (os error 2)",
        "nats://127.0.0.1:4222: connection refused",
        "nats://[::1]:4222 refused, http://gateway:8080/v1/state answered 503",
        "called `Result::unwrap()` on an `Err` value: Elapsed(())",
        "100% of 5 tasks: \\ is no path, a & b; x < y",
        "turkey: banana, inside: yes, passing: 3",
        "gateway.control_token_file: No such file or directory (os error 2)",
        "key missing, pass failed, login refused by 10.0.0.1:4222",
        "field `b` at line 3 column 7: expected `,` or `}`",
    ] {
        // "is missing": what is said of a secret's state goes as a value would.
        let shown = reason.replace("the secret is missing", "the secret [redacted]");
        assert_eq!(redacted(reason), shown);
    }
}

#[test]
fn a_reason_is_one_short_line_whatever_it_was() {
    let long = "x1".repeat(5_000_000);
    assert_eq!(redacted(&long), GONE);
    assert_eq!(redacted(&format!("\n\n  told {long}")), format!("told {GONE}"));
    let secret_far = format!("{} password=hunter2", "ab ".repeat(2_000));
    assert!(!redacted(&secret_far).contains("hunter2"));
    assert_eq!(redacted("a\tb\u{200b}c"), "a bc");
}

/// Each character in the case that its bit says.
fn cased(text: &str, bits: u64) -> String {
    let one = |(i, c): (usize, char)| {
        if bits >> (i % 64) & 1 == 1 {
            c.to_ascii_uppercase()
        } else {
            c
        }
    };
    text.chars().enumerate().map(one).collect()
}

fn encoded(text: &str, bits: u64) -> String {
    let one = |(i, c): (usize, char)| match c {
        c if c.is_ascii() && bits >> (i % 64) & 1 == 1 => format!("%{:02X}", u32::from(c)),
        c => c.to_string(),
    };
    text.chars().enumerate().map(one).collect()
}

const PLANTS: &[&str] = &[
    "{n}={s}",
    "{n}: {s}",
    "{n} = {s}",
    "{n} => {s}",
    "{n}:{s}",
    "\"{n}\":\"{s}\"",
    "{{\"a\":1,\"{n}\": \"{s}\"}}",
    "'{n}' : '{s}'",
    "{n}({s})",
    "{n}(\"{s}\")",
    "{n} {s}",
    "--{n} {s}",
    "--{n}={s}",
    "<{n}>{s}</{n}>",
    "(\"{n}\", \"{s}\")",
    "my_{n}={s}",
    "My-{n}: {s}",
    "{n}s: {s}",
    "\\\"{n}\\\":\\\"{s}\\\"",
    "{n} is {s}",
    "https://h/x?{n}={s}",
];
const NAMED: &[&str] = &[
    "password",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "api-key",
    "api key",
    "apikey",
    "credential",
    "nkey",
    "seed",
];
const OTHERS: &[&str] = &[
    "nats://u:{s}@h",
    "https://{s}@h/x",
    "u:{s}@h",
    "//u:{s}@h",
    "Bearer {s}",
    "bAsIc {s}",
    "Authorization: Digest {s}",
    "cookie: a=b; c={s}",
    "Set-Cookie: {s}",
    "https://h/?{s}",
    "https://h/?a=b&c={s}",
    "-----BEGIN X----- {s}",
    "eyJ{s}.{s}.x",
    "-u u:{s}",
    "sid={s}",
];

#[test]
fn a_word_that_reads_as_nothing_is_a_word_and_the_next_one_is_read() {
    assert_eq!(redacted("\u{300} 0"), "\u{300} 0");
    assert_eq!(redacted("\u{300} \u{301} x"), "\u{300} \u{301} x");
    let shown = redacted("\u{300} password=hunter2");
    assert!(!shown.contains("hunter2"), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    #[test]
    fn a_planted_secret_never_shows(
        secret in "[A-Za-z0-9_-]{0,6}[A-Z][a-z]{3}[0-9]{2}[A-Za-z0-9]{2,30}",
        name in 0..NAMED.len(),
        plant in 0..PLANTS.len() + OTHERS.len(),
        case in any::<u64>(),
        escape in any::<u64>(),
        escaped in any::<bool>(),
        before in "([a-z]{1,9} ){0,6}",
        after in "( [a-z]{1,9}){0,6}",
    ) {
        let form = PLANTS.iter().chain(OTHERS).nth(plant).expect("in range").replace("{{", "{").replace("}}", "}");
        let (head, tail) = form.split_once("{s}").expect("a place for the secret");
        let named = |text: &str| text.replace("{n}", &cased(NAMED[name], case));
        // A blank stays, as it parts words: an encoded one would be another test.
        let head = if escaped && !form.contains("://") {
            named(head).split(' ').map(|word| encoded(word, escape)).collect::<Vec<_>>().join(" ")
        } else {
            named(head)
        };
        let text = format!("{before}{head}{secret}{}{after}", named(tail).replace("{s}", &secret));
        let shown = redacted(&text);
        prop_assert!(!shown.contains(&secret), "{text} -> {shown}");
        prop_assert!(shown.chars().count() <= REASON_CHARS_MAX);
        prop_assert_eq!(redacted(&shown), shown.clone(), "a second time changes nothing");
    }

    #[test]
    fn any_text_at_all_is_a_line_of_at_most_120_characters(text in any::<String>(), log in "\\PC*") {
        let shown = redacted(&text);
        prop_assert!(shown.chars().count() <= REASON_CHARS_MAX && !shown.contains(char::is_control));
        prop_assert_eq!(redacted(&shown), shown.clone());
        let _never_panics = without_credentials(&log);
        let _nor_on_this = without_credentials(&text);
    }
}
