//! Tokens made by hand, so that each can be wrong in one way. Foreign tokens: `tests/verification/edge_auth.py`.

use std::convert::Infallible;

use arqon_message::{Claims, Code, Rejection, TenantId};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{
    Request, Response,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

use super::{
    token::{Refused, Verified},
    *,
};
use crate::config::IssuerConfig;

const ISSUER: &str = "https://id.example";
const NOW: u64 = 1_800_000_000;
const SECRET: [u8; 32] = [7; 32];
const OTHER: [u8; 32] = [8; 32];

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn secret(kid: &str, secret: [u8; 32]) -> Value {
    json!({ "kty": "oct", "kid": kid, "k": b64(secret) })
}

fn issuer(keys: Value) -> IssuerConfig {
    IssuerConfig::of(ISSUER, "arqon", json!({ "keys": keys }).to_string())
}

fn layer_with(config: AuthConfig) -> JwtLayer {
    JwtLayer::new(&config).expect("valid")
}

fn layer() -> JwtLayer {
    layer_with(AuthConfig {
        issuers: vec![issuer(json!([secret("a", SECRET), secret("b", OTHER)]))],
        ..AuthConfig::default()
    })
}

fn claims() -> Value {
    json!({ "iss": ISSUER, "aud": "arqon", "exp": NOW + 60, "tenant_id": "acme", "sub": "u1" })
}

/// A token whose parts are as given, signed with HS256.
fn signed(header: &str, claims: &str, key: [u8; 32]) -> String {
    let signed = format!("{}.{}", b64(header), b64(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
    format!("{signed}.{}", b64(tag))
}

fn token(claims: &Value) -> String {
    signed(r#"{"alg":"HS256","kid":"a"}"#, &claims.to_string(), SECRET)
}

fn judge(token: &str) -> Result<Verified, Refused> {
    layer().0.judge(token, NOW)
}

fn with(change: impl FnOnce(&mut Value)) -> Result<Verified, Refused> {
    let mut claims = claims();
    change(&mut claims);
    judge(&token(&claims))
}

fn without(name: &str) -> Result<Verified, Refused> {
    with(|claims| {
        claims.as_object_mut().expect("claims").remove(name);
    })
}

#[test]
fn a_token_that_holds_says_who_and_for_how_long() {
    let verified = judge(&token(&claims())).expect("holds");
    assert_eq!(verified.tenant().as_str(), "acme");
    assert_eq!(verified.claims().get("sub"), Some(&json!("u1")));
    assert_eq!(verified.ends(), NOW + 60 + 10, "with the leeway");
}

#[test]
fn es256_and_eddsa_hold_and_no_key_takes_anothers_algorithm() {
    let random = SystemRandom::new();
    let ed = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("a key");
    let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &random).expect("a key");
    let (ed_public, ec_public) = (ed.public_key().as_ref(), ec.public_key().as_ref());
    let layer = layer_with(AuthConfig {
        issuers: vec![issuer(json!([
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": b64(ed_public) },
            { "kty": "EC", "crv": "P-256", "kid": "ec", "x": b64(&ec_public[1..33]), "y": b64(&ec_public[33..]) },
            secret("hs", SECRET),
        ]))],
        ..AuthConfig::default()
    });
    let claims = b64(claims().to_string());
    let made = |alg: &str, kid: &str, sign: &dyn Fn(&[u8]) -> Vec<u8>| {
        let signed = format!("{}.{claims}", b64(json!({ "alg": alg, "kid": kid }).to_string()));
        let signature = sign(signed.as_bytes());
        format!("{signed}.{}", b64(signature))
    };
    let by_ed = |message: &[u8]| ed.sign(message).as_ref().to_vec();
    let by_ec = |message: &[u8]| ec.sign(&random, message).expect("signed").as_ref().to_vec();
    let by = |key: &[u8]| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        move |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec()
    };
    let judge = |token: String| {
        layer
            .0
            .judge(&token, NOW)
            .map(|verified| verified.tenant().to_string())
    };

    assert_eq!(judge(made("EdDSA", "ed", &by_ed)), Ok("acme".to_owned()));
    assert_eq!(judge(made("ES256", "ec", &by_ec)), Ok("acme".to_owned()));
    assert_eq!(judge(made("HS256", "hs", &by(&SECRET))), Ok("acme".to_owned()));
    for (alg, kid, key) in [
        ("HS256", "ed", ed_public),
        ("HS256", "ec", ec_public),
        ("HS256", "ec", &ec_public[1..]),
        ("ES256", "ed", ed_public),
        ("EdDSA", "hs", &SECRET[..]),
        ("none", "ed", &[]),
        ("RS256", "ec", ec_public),
    ] {
        assert_eq!(
            judge(made(alg, kid, &by(key))),
            Err(Refused::Algorithm),
            "{alg} {kid}"
        );
    }
    // "Psychic" signatures, and a DER signature where the fixed form belongs.
    for signature in [
        vec![0; 64],
        vec![0; 63],
        Vec::new(),
        vec![0x30, 6, 2, 1, 0, 2, 1, 0],
    ] {
        assert_eq!(
            judge(made("ES256", "ec", &|_| signature.clone())),
            Err(Refused::Signature)
        );
        assert_eq!(
            judge(made("EdDSA", "ed", &|_| signature.clone())),
            Err(Refused::Signature)
        );
    }
    // Another key's genuine signature under this one's name.
    assert_eq!(judge(made("EdDSA", "ed", &by_ec)), Err(Refused::Signature));
}

#[test]
fn no_spelling_of_none_and_no_empty_signature_holds() {
    let claims = claims().to_string();
    for alg in [
        "none", "None", "NONE", "nOnE", "noNe", "", " ", "HS256 ", "hs256", "HS384", "HS512", "RS256",
        "PS256",
    ] {
        let header = json!({ "alg": alg, "kid": "a" }).to_string();
        assert_eq!(
            judge(&signed(&header, &claims, SECRET)).err(),
            Some(Refused::Algorithm),
            "{alg:?}"
        );
        let unsigned = format!("{}.{}.", b64(&header), b64(&claims));
        assert_eq!(judge(&unsigned).err(), Some(Refused::Algorithm), "{alg:?}");
    }
    let header = r#"{"alg":"HS256","kid":"a"}"#;
    assert_eq!(
        judge(&format!("{}.{}.", b64(header), b64(&claims))).err(),
        Some(Refused::Signature)
    );
}

#[test]
fn the_key_is_the_one_that_is_named_and_never_one_that_is_brought() {
    let claims = claims().to_string();
    for (header, expected) in [
        (r#"{"alg":"HS256","kid":"a"}"#, None),
        (r#"{"alg":"HS256","kid":"a","typ":"JWT"}"#, None),
        (r#"{"alg":"HS256","kid":"a","typ":"application/at+jwt"}"#, None),
        (
            r#"{"alg":"HS256","kid":"a","jku":"http://127.0.0.1:1/keys","x5u":"http://127.0.0.1:1/","x5t":"x"}"#,
            None,
        ),
        (r#"{"alg":"HS256","kid":"b"}"#, Some(Refused::Signature)),
        (r#"{"alg":"HS256","kid":"c"}"#, Some(Refused::Key)),
        (r#"{"alg":"HS256","kid":"A"}"#, Some(Refused::Key)),
        (r#"{"alg":"HS256","kid":"../../a"}"#, Some(Refused::Key)),
        (r#"{"alg":"HS256","kid":"a' OR '1'='1"}"#, Some(Refused::Key)),
        (r#"{"alg":"HS256","kid":"a\u0000"}"#, Some(Refused::Key)),
        (r#"{"alg":"HS256","kid":""}"#, Some(Refused::Key)),
        (r#"{"alg":"HS256"}"#, Some(Refused::Key)),
        (r#"{"alg":"HS256","kid":["a"]}"#, Some(Refused::Malformed)),
        (r#"{"alg":"HS256","kid":7}"#, Some(Refused::Malformed)),
        (r#"{"alg":["HS256"],"kid":"a"}"#, Some(Refused::Malformed)),
        (r#"{"kid":"a"}"#, Some(Refused::Malformed)),
        (
            r#"{"alg":"none","alg":"HS256","kid":"a"}"#,
            Some(Refused::Malformed),
        ),
        (r#"{"alg":"HS256","kid":"b","kid":"a"}"#, Some(Refused::Malformed)),
        (
            r#"{"alg":"HS256","kid":"a","crit":["exp"],"exp":1}"#,
            Some(Refused::Malformed),
        ),
        (r#"{"alg":"HS256","kid":"a","crit":[]}"#, Some(Refused::Malformed)),
        (
            r#"{"alg":"HS256","kid":"a","b64":false}"#,
            Some(Refused::Malformed),
        ),
        (
            r#"{"alg":"HS256","kid":"a","zip":"DEF"}"#,
            Some(Refused::Malformed),
        ),
        (
            r#"{"alg":"HS256","kid":"a","cty":"JWT"}"#,
            Some(Refused::Malformed),
        ),
        (
            r#"{"alg":"HS256","kid":"a","typ":"JOSE+JSON"}"#,
            Some(Refused::Malformed),
        ),
        (r#"{"alg":"HS256","kid":"a","typ":7}"#, Some(Refused::Malformed)),
        ("[]", Some(Refused::Malformed)),
        ("", Some(Refused::Malformed)),
        ("{\"alg\":\"HS256\",\"kid\":\"a\"", Some(Refused::Malformed)),
    ] {
        assert_eq!(
            judge(&signed(header, &claims, SECRET)).err(),
            expected,
            "{header}"
        );
    }
    let long = json!({ "alg": "HS256", "kid": "a".repeat(257) }).to_string();
    assert_eq!(
        judge(&signed(&long, &claims, SECRET)).err(),
        Some(Refused::Malformed)
    );
    // The attacker's own key in the header, and his signature.
    let brought = json!({ "alg": "HS256", "kid": "a", "jwk": secret("a", [9; 32]) }).to_string();
    assert_eq!(
        judge(&signed(&brought, &claims, [9; 32])).err(),
        Some(Refused::Signature)
    );
    // A key without a name is taken where there is no other.
    let sole = layer_with(AuthConfig {
        issuers: vec![issuer(json!([secret("a", SECRET)]))],
        ..AuthConfig::default()
    });
    assert!(
        sole.0
            .judge(&signed(r#"{"alg":"HS256"}"#, &claims, SECRET), NOW)
            .is_ok()
    );
}

#[test]
fn the_compact_form_and_nothing_else_is_a_token() {
    let good = token(&claims());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else {
        panic!("three parts");
    };
    for bad in [
        String::new(),
        ".".to_owned(),
        "..".to_owned(),
        format!("{header}.{payload}"),
        format!("{good}."),
        format!("{good}.{signature}"),
        format!("{header}.{payload}.{signature}="),
        format!("{header}=.{payload}.{signature}"),
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{header}.{payload}.{signature}").replace('.', ". "),
        format!("{header}..{signature}"),
        format!(".{payload}.{signature}"),
        format!("{header}.{}.{signature}", b64("[]")),
        format!("{header}.{}.{signature}", b64("{\"a\":1,\"a\":2}")),
        format!("{header}.{}.{signature}", b64([0xff, 0xfe])),
        json!({ "payload": payload, "protected": header, "signature": signature }).to_string(),
        // An encrypted one has five parts.
        format!("{header}.{payload}.{signature}.{signature}.{signature}"),
    ] {
        let refused = judge(&bad).expect_err(&bad);
        assert_eq!(refused, Refused::Malformed, "{bad:?}");
    }
    // The last character of 43 has two bits too many: other text, the same bytes.
    let last = signature.as_bytes()[42];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.iter().position(|byte| *byte == last).expect("base64url");
    let twin = format!(
        "{header}.{payload}.{}{}",
        &signature[..42],
        alphabet[at ^ 1] as char
    );
    assert_eq!(judge(&twin).err(), Some(Refused::Malformed));
    // One character of the signature after the other is changed.
    for at in 0..42 {
        let mut changed = signature.as_bytes().to_vec();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = format!(
            "{header}.{payload}.{}",
            String::from_utf8(changed).expect("ASCII")
        );
        assert_eq!(judge(&changed).err(), Some(Refused::Signature));
    }
}

#[test]
fn sizes_hold_at_their_borders() {
    let config = |token, claims| AuthConfig {
        token_bytes_max: token,
        claims_bytes_max: claims,
        issuers: vec![issuer(json!([secret("a", SECRET)]))],
        ..AuthConfig::default()
    };
    let mut claims = claims();
    claims["padding"] = json!("x".repeat(100));
    let text = claims.to_string();
    let token = token(&claims);
    assert!(
        layer_with(config(token.len(), text.len()))
            .0
            .judge(&token, NOW)
            .is_ok()
    );
    let refused = |config| layer_with(config).0.judge(&token, NOW).err();
    assert_eq!(
        refused(config(token.len() - 1, text.len())),
        Some(Refused::TooLarge)
    );
    assert_eq!(
        refused(config(token.len(), text.len() - 1)),
        Some(Refused::TooLarge)
    );
    assert_eq!(judge(&"a".repeat(1 << 20)).err(), Some(Refused::TooLarge));
}

#[test]
fn times_hold_at_their_borders_with_the_leeway() {
    for (exp, expected) in [
        (json!(NOW - 9), None),
        (json!(NOW - 10), Some(Refused::Expired)),
        (json!(0), Some(Refused::Expired)),
        (json!(NOW as f64 + 0.5), None),
        (json!(9_007_199_254_740_992_u64), None),
        (json!(9_007_199_254_740_993_u64), Some(Refused::Claims)),
        (json!(u64::MAX), Some(Refused::Claims)),
        (json!(1e300), Some(Refused::Claims)),
        (json!(-1), Some(Refused::Claims)),
        (json!(-0.5), Some(Refused::Claims)),
        (json!(NOW.to_string()), Some(Refused::Claims)),
        (json!(null), Some(Refused::Claims)),
        (json!([NOW + 60]), Some(Refused::Claims)),
        (json!(true), Some(Refused::Claims)),
    ] {
        assert_eq!(
            with(|claims| claims["exp"] = exp.clone()).err(),
            expected,
            "exp {exp}"
        );
    }
    for (nbf, expected) in [
        (json!(NOW + 10), None),
        (json!(NOW + 11), Some(Refused::NotYet)),
        (json!("soon"), Some(Refused::Claims)),
        (json!(null), Some(Refused::Claims)),
    ] {
        assert_eq!(
            with(|claims| claims["nbf"] = nbf.clone()).err(),
            expected,
            "nbf {nbf}"
        );
    }
    assert_eq!(
        with(|claims| claims["iat"] = json!("then")).err(),
        Some(Refused::Claims)
    );
    assert_eq!(without("exp").err(), Some(Refused::Claims));
    let huge = claims().to_string().replace(&(NOW + 60).to_string(), "1e400");
    assert_eq!(
        judge(&signed(r#"{"alg":"HS256","kid":"a"}"#, &huge, SECRET)).err(),
        Some(Refused::Malformed)
    );
}

#[test]
fn issuer_audience_tenant_and_what_is_required_are_checked() {
    for iss in [
        json!("https://id.example/"),
        json!("HTTPS://id.example"),
        json!(["https://id.example"]),
        json!(7),
    ] {
        assert_eq!(
            with(|claims| claims["iss"] = iss.clone()).err(),
            Some(Refused::Issuer),
            "{iss}"
        );
    }
    assert_eq!(without("iss").err(), Some(Refused::Issuer));
    for (aud, holds) in [
        (json!("arqon"), true),
        (json!(["x", "arqon"]), true),
        (json!("arqon "), false),
        (json!(""), false),
        (json!([]), false),
        (json!([["arqon"]]), false),
        (json!(["arqon", 7]), false),
        (json!({ "arqon": true }), false),
        (json!(null), false),
    ] {
        let judged = with(|claims| claims["aud"] = aud.clone()).err();
        assert_eq!(judged, (!holds).then_some(Refused::Audience), "{aud}");
    }
    assert_eq!(without("aud").err(), Some(Refused::Audience));
    for tenant in [
        json!(""),
        json!("a.b"),
        json!("*"),
        json!(">"),
        json!("a b"),
        json!("a\r\nPUB x 0"),
        json!("$SYS"),
        json!("ａ"),
        json!("a".repeat(65)),
        json!(7),
        json!(["acme"]),
        json!(null),
    ] {
        assert_eq!(
            with(|claims| claims["tenant_id"] = tenant.clone()).err(),
            Some(Refused::Tenant),
            "{tenant}"
        );
    }
    assert_eq!(without("tenant_id").err(), Some(Refused::Tenant));

    let strict = layer_with(AuthConfig {
        issuers: vec![IssuerConfig {
            require: vec!["nbf".to_owned(), "sub".to_owned()],
            ..issuer(json!([secret("a", SECRET)]))
        }],
        ..AuthConfig::default()
    });
    assert_eq!(
        strict.0.judge(&token(&claims()), NOW).err(),
        Some(Refused::Claims)
    );
    let mut full = claims();
    full["nbf"] = json!(NOW);
    assert!(strict.0.judge(&token(&full), NOW).is_ok());
    full["sub"] = json!(null);
    assert_eq!(strict.0.judge(&token(&full), NOW).err(), Some(Refused::Claims));
}

#[test]
fn one_issuers_key_signs_for_no_other() {
    let other =
        |name: &str, key| IssuerConfig::of(name, "arqon", json!({ "keys": [secret("a", key)] }).to_string());
    let layer = layer_with(AuthConfig {
        issuers: vec![other(ISSUER, SECRET), other("https://other.example", OTHER)],
        ..AuthConfig::default()
    });
    let header = r#"{"alg":"HS256","kid":"a"}"#;
    assert!(
        layer
            .0
            .judge(&signed(header, &claims().to_string(), SECRET), NOW)
            .is_ok()
    );
    let forged = layer.0.judge(&signed(header, &claims().to_string(), OTHER), NOW);
    assert_eq!(forged.err(), Some(Refused::Signature));
}

#[test]
fn a_remembered_token_ends_in_time_and_the_memory_is_bounded() {
    let layer = layer_with(AuthConfig {
        issuers: vec![issuer(json!([secret("a", SECRET)]))],
        cache_entries: 100,
        ..AuthConfig::default()
    });
    let first = token(&claims());
    assert!(layer.0.judge(&first, NOW).is_ok());
    assert!(layer.0.judge(&first, NOW + 69).is_ok());
    assert_eq!(layer.0.judge(&first, NOW + 70).err(), Some(Refused::Expired));
    for n in 0..1_000 {
        let mut claims = claims();
        claims["sub"] = json!(n);
        assert!(layer.0.judge(&token(&claims), NOW).is_ok());
        assert!(layer.0.remembered() <= 100, "{}", layer.0.remembered());
    }
    // What does not hold is not remembered.
    let before = layer.0.remembered();
    assert!(layer.0.judge(&format!("{first}x"), NOW).is_err());
    assert_eq!(layer.0.remembered(), before);
}

#[test]
fn bad_keys_and_settings_are_findings_with_their_key() {
    let keys_of = |issuer| {
        let error = JwtLayer::new(&AuthConfig {
            issuers: vec![issuer],
            ..AuthConfig::default()
        })
        .expect_err("refused");
        error.0.into_iter().map(|finding| finding.key).collect::<Vec<_>>()
    };
    assert_eq!(
        keys_of(IssuerConfig::of(ISSUER, "arqon", "not json")),
        ["auth.issuers[0].jwks"]
    );
    assert_eq!(
        keys_of(IssuerConfig::of(ISSUER, "arqon", r#"{"keys":[]}"#)),
        ["auth.issuers[0].jwks"]
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "{}").expect("written");
    let from_file = IssuerConfig {
        jwks: None,
        jwks_file: Some(file.path().into()),
        ..IssuerConfig::of(ISSUER, "arqon", "")
    };
    assert_eq!(keys_of(from_file), ["auth.issuers[0].jwks_file"]);
    let ca = IssuerConfig {
        jwks: None,
        jwks_url: Some("https://id.example/keys".to_owned()),
        ca_file: Some(file.path().into()),
        ..IssuerConfig::of(ISSUER, "arqon", "")
    };
    assert_eq!(keys_of(ca), ["auth.issuers[0].ca_file"]);
}

/// What the client gets, and what the inner service saw.
async fn ask(layer: &JwtLayer, request: Request<()>) -> Response<String> {
    let inner = service_fn(|request: Request<()>| async move {
        let extensions = request.extensions();
        let tenant = extensions.get::<TenantId>().map(ToString::to_string);
        assert!(extensions.get::<Claims>().is_some() && extensions.get::<Verified>().is_some());
        Ok::<_, Infallible>(Response::new(http_body_util::Full::<bytes::Bytes>::from(
            tenant.unwrap_or_default(),
        )))
    });
    let response = layer.layer(inner).oneshot(request).await.expect("answered");
    let (parts, body) = response.into_parts();
    let body = arqon_message::collect(body, 10_000).await.expect("whole").bytes;
    Response::from_parts(parts, String::from_utf8(body.to_vec()).expect("UTF-8"))
}

fn live_token(exp_from_now: i64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970");
    let mut claims = claims();
    claims["exp"] = json!(now.as_secs() as i64 + exp_from_now);
    token(&claims)
}

#[tokio::test]
async fn the_answers_are_401_and_403_in_words_that_tell_a_forger_nothing() {
    let layer = layer();
    let request = |value: &str| {
        Request::builder()
            .header(AUTHORIZATION, value)
            .body(())
            .expect("valid")
    };
    let good = live_token(60);
    for value in [
        format!("Bearer {good}"),
        format!("bearer {good}"),
        format!("BEARER   {good}"),
    ] {
        assert_eq!(ask(&layer, request(&value)).await.body(), "acme", "{value}");
    }
    let missing = ask(&layer, Request::new(())).await;
    assert_eq!(
        (missing.status().as_u16(), &missing.headers()[WWW_AUTHENTICATE]),
        (401, &"Bearer".parse().expect("value"))
    );
    assert!(missing.body().contains("auth.missing"));
    assert!(
        ask(&layer, request("Basic dTpw"))
            .await
            .body()
            .contains("auth.missing")
    );

    let mut bodies = Vec::new();
    let mut forged = good.clone();
    forged.truncate(good.len() - 2);
    let unknown_kid = signed(r#"{"alg":"HS256","kid":"zz"}"#, &claims().to_string(), SECRET);
    let none = signed(r#"{"alg":"none","kid":"a"}"#, &claims().to_string(), SECRET);
    for value in [
        "Bearer",
        "Bearer ",
        "Bearer x",
        &format!("Bearer {forged}"),
        &format!("Bearer {unknown_kid}"),
        &format!("Bearer {none}"),
    ] {
        let answer = ask(&layer, request(value)).await;
        assert_eq!(answer.status(), 401, "{value}");
        assert_eq!(
            answer.headers()[WWW_AUTHENTICATE],
            "Bearer error=\"invalid_token\""
        );
        bodies.push(answer.into_body());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert!(bodies[0].contains("auth.invalid"));

    let expired = ask(&layer, request(&format!("Bearer {}", live_token(-60)))).await;
    assert!(expired.body().contains("expired") && expired.status() == 401);
    let mut nobody = claims();
    nobody["tenant_id"] = json!("a.b");
    nobody["exp"] = json!(9_000_000_000_u64);
    let answer = ask(&layer, request(&format!("Bearer {}", token(&nobody)))).await;
    assert_eq!(
        (answer.status().as_u16(), answer.body().contains("tenant.invalid")),
        (403, true)
    );

    let twice = Request::builder()
        .header(AUTHORIZATION, format!("Bearer {good}"))
        .header(AUTHORIZATION, "Bearer x");
    let twice = ask(&layer, twice.body(()).expect("valid")).await;
    assert!(twice.body().contains("auth.invalid"));
}

#[tokio::test]
async fn a_session_is_held_to_its_tokens_time_and_needs_no_second_token() {
    let layer = layer();
    let verified = judge(&token(&claims())).expect("held at that time");
    let frame = |verified: Verified| Request::builder().extension(verified).body(()).expect("valid");
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    // NOW is in the year 2027: then the session is over or not, by the clock of this machine.
    let answer = ask(&layer, frame(verified.clone())).await;
    assert_eq!(answer.status() == 200, verified.holds_at(now));

    let over = layer.0.judge(&live_token(1), now).expect("holds now");
    assert_eq!(ask(&layer, frame(over)).await.body(), "acme");
    let mut past = claims();
    past["exp"] = json!(1_000);
    let past = layer.0.judge(&token(&past), 1_000).expect("held in 1970");
    let answer = ask(&layer, frame(past)).await;
    let rejection = answer.extensions().get::<Rejection>().expect("typed");
    assert_eq!(
        (rejection.problem().code, rejection.closes_session()),
        (Code::AuthInvalid, true)
    );
}

#[tokio::test]
async fn a_changed_key_file_is_taken_over_and_a_broken_one_is_not() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let write =
        |keys: Value| std::fs::write(file.path(), json!({ "keys": keys }).to_string()).expect("written");
    write(json!([secret("a", SECRET)]));
    let layer = layer_with(AuthConfig {
        issuers: vec![IssuerConfig {
            jwks: None,
            jwks_file: Some(file.path().into()),
            ..issuer(json!([]))
        }],
        ..AuthConfig::default()
    });
    let (old, new) = (
        token(&claims()),
        signed(r#"{"alg":"HS256","kid":"new"}"#, &claims().to_string(), OTHER),
    );
    assert!(layer.0.judge(&old, NOW).is_ok() && layer.0.judge(&new, NOW).is_err());
    let stop = tokio_util::sync::CancellationToken::new();
    let task = tokio::spawn(layer.refresh().run(stop.clone()));
    let becomes = async |holds: &dyn Fn() -> bool| {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
        while !holds() {
            assert!(tokio::time::Instant::now() < deadline, "in time");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    std::fs::write(file.path(), "{").expect("written");
    // A broken file first: when the good one behind it is in force, the broken one was passed over or seen, and the old
    // keys have held throughout.
    assert!(layer.0.judge(&old, NOW).is_ok());
    write(json!([secret("new", OTHER), secret("more", SECRET)]));
    becomes(&|| layer.0.judge(&new, NOW).is_ok()).await;
    assert_eq!(
        layer.0.judge(&old, NOW).err(),
        Some(Refused::Key),
        "remembered tokens go with their keys"
    );
    stop.cancel();
    assert_eq!(task.await.expect("ended"), Ok(()));
}

/// Answers each connection with what `answer` says now, and counts them.
async fn key_server(answer: Arc<std::sync::Mutex<String>>) -> (String, Arc<std::sync::atomic::AtomicUsize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("bound"));
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4_096];
            let _ = stream.read(&mut head).await;
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let text = answer.lock().expect("whole").clone();
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
    (url, asked)
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn fetched_keys_come_before_readiness_and_bad_answers_change_nothing() {
    let random = SystemRandom::new();
    let pair = Ed25519KeyPair::generate_pkcs8(&random).expect("a key");
    let pair = Ed25519KeyPair::from_pkcs8(pair.as_ref()).expect("a key");
    let set = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "1", "x": b64(pair.public_key().as_ref()) },
        secret("public-secret", SECRET),
    ] });
    let signed_by = |kid: &str| {
        let text = format!(
            "{}.{}",
            b64(json!({ "alg": "EdDSA", "kid": kid }).to_string()),
            b64(claims().to_string())
        );
        let signature = pair.sign(text.as_bytes());
        format!("{text}.{}", b64(signature.as_ref()))
    };
    let answer = Arc::new(std::sync::Mutex::new(
        "HTTP/1.1 503 Away\r\nContent-Length: 0\r\n\r\n".to_owned(),
    ));
    let (url, asked) = key_server(Arc::clone(&answer)).await;
    let layer = layer_with(AuthConfig {
        issuers: vec![IssuerConfig {
            jwks: None,
            jwks_url: Some(url),
            ..issuer(json!([]))
        }],
        ..AuthConfig::default()
    });
    assert_eq!(
        layer.ready(),
        Err(format!("the keys of {ISSUER} are not there yet"))
    );
    let stop = tokio_util::sync::CancellationToken::new();
    tokio::spawn(layer.refresh().run(stop.clone()));
    let deadline = || tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    let until = async |holds: &dyn Fn() -> bool| {
        let deadline = deadline();
        while !holds() {
            assert!(tokio::time::Instant::now() < deadline, "in time");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    until(&|| asked.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    assert!(layer.ready().is_err());
    // A redirect is not followed, and no set is taken from what is not 200.
    *answer.lock().expect("whole") = format!(
        "HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: {}\r\n\r\n{set}",
        set.to_string().len()
    );
    let before = asked.load(std::sync::atomic::Ordering::SeqCst);
    until(&|| asked.load(std::sync::atomic::Ordering::SeqCst) > before).await;
    assert!(layer.ready().is_err());
    *answer.lock().expect("whole") = ok(&set.to_string());
    until(&|| layer.ready().is_ok()).await;
    assert!(layer.0.judge(&signed_by("1"), NOW).is_ok());
    // A secret that everybody can read is no key.
    let forged = signed(
        r#"{"alg":"HS256","kid":"public-secret"}"#,
        &claims().to_string(),
        SECRET,
    );
    assert_eq!(layer.0.judge(&forged, NOW).err(), Some(Refused::Key));

    // A flood of unknown keys asks once in ten seconds at most; a bad answer then leaves the last good keys.
    *answer.lock().expect("whole") = ok("{\"keys\":[]}");
    let before = asked.load(std::sync::atomic::Ordering::SeqCst);
    for n in 0..10_000 {
        assert_eq!(
            layer.0.judge(&signed_by(&format!("unknown-{n}")), NOW).err(),
            Some(Refused::Key)
        );
    }
    until(&|| asked.load(std::sync::atomic::Ordering::SeqCst) > before).await;
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), before + 1);
    assert!(layer.ready().is_ok() && layer.0.judge(&signed_by("1"), NOW).is_ok());
    stop.cancel();
}
