//! Tokens made by hand, so that each can be wrong in one way. Foreign tokens: `tests/verification/edge_auth.py`.

mod live;
mod wycheproof;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

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
