//! From the table as written to rules, collecting every finding.

use std::fmt;

use arqon_message::{Fraction, SubjectPattern};
use http::{HeaderName, Method};

use super::{CompareConfig, Compiled, RuleConfig, ShadowConfig, Share, When};
use crate::{ConfigFinding, InvalidConfig, rule::Terms};

/// The most copies a queue may be told to hold.
const QUEUE_MESSAGES_MAX: usize = 1 << 20;
/// The largest body that may be mirrored: 64 MiB.
const BODY_BYTES_MAX: usize = 64 << 20;
/// The longest time a sink may be given, in milliseconds.
const TIMEOUT_MS_MAX: u64 = 60_000;
/// The longest recovery, in seconds.
const RECOVER_SECONDS_MAX: u64 = 3_600;

pub(super) fn compile(config: &ShadowConfig) -> Result<Compiled, InvalidConfig> {
    let mut findings = Vec::new();
    let terms: Vec<_> = config
        .rules
        .iter()
        .enumerate()
        .filter_map(|(n, given)| rule(config, n, given, &mut findings))
        .collect();
    range(
        "queue_messages",
        config.queue_messages,
        1,
        QUEUE_MESSAGES_MAX,
        &mut findings,
    );
    range(
        "queue_bytes",
        config.queue_bytes,
        1,
        usize::MAX / 2,
        &mut findings,
    );
    range("timeout_ms", config.timeout_ms, 1, TIMEOUT_MS_MAX, &mut findings);
    let high_water = share("high_water", Some(&config.high_water), &mut findings);
    if high_water == Some(Fraction::ZERO) {
        findings.push(ConfigFinding::new(
            "high_water",
            0,
            "would shed everything always",
            "write 0.5",
        ));
    }
    range(
        "recover_seconds",
        config.recover_seconds,
        1,
        RECOVER_SECONDS_MAX,
        &mut findings,
    );
    if let Some(compare) = &config.compare {
        compare.check(&mut findings);
        comparable(config, compare, &mut findings);
    }
    match high_water {
        Some(high_water) if findings.is_empty() => Ok(Compiled { terms, high_water }),
        _ => Err(InvalidConfig { findings }),
    }
}

/// Copies of a rule that compares go to the candidate alone, so what the candidate is not sent would be lost.
fn comparable(config: &ShadowConfig, compare: &CompareConfig, findings: &mut Vec<ConfigFinding>) {
    for (n, rule) in config.rules.iter().enumerate().filter(|(_, rule)| rule.compare) {
        let sent = compare.methods.join(", ");
        let (given, why) = match rule
            .methods
            .iter()
            .find(|method| !compare.methods.contains(method))
        {
            Some(method) => (
                method.as_str(),
                format!("is compared, but the candidate is sent {sent} only"),
            ),
            None if rule.methods.is_empty() => {
                ("", format!("means all, but the candidate is sent {sent} only"))
            }
            None => continue,
        };
        findings.push(ConfigFinding::new(
            format!("rules[{n}].methods"),
            Quoted(given),
            why,
            "list the rule's methods, all of which are in compare.methods",
        ));
    }
}

fn rule(
    config: &ShadowConfig,
    n: usize,
    given: &RuleConfig,
    findings: &mut Vec<ConfigFinding>,
) -> Option<Terms> {
    let key = |name: &str| format!("rules[{n}].{name}");
    let pattern = pattern(&key("prefix"), &given.prefix, findings);
    if let Some(first) = config.rules[..n]
        .iter()
        .position(|other| other.prefix == given.prefix)
    {
        findings.push(ConfigFinding::new(
            key("prefix"),
            Quoted(&given.prefix),
            format!("is also the pattern of rules[{first}], and identical patterns tie"),
            "remove one of the two",
        ));
    }
    let fraction = share(&key("percent"), given.percent.as_ref(), findings);
    range(
        &key("max_body_bytes"),
        given.max_body_bytes,
        1,
        BODY_BYTES_MAX,
        findings,
    );
    if given.max_body_bytes > config.queue_bytes {
        findings.push(ConfigFinding::new(
            key("max_body_bytes"),
            given.max_body_bytes,
            format!(
                "is above queue_bytes = {}, so such a body never fits",
                config.queue_bytes
            ),
            "lower it, or raise queue_bytes",
        ));
    }
    let methods = given
        .methods
        .iter()
        .enumerate()
        .filter_map(|(m, text)| method(&key(&format!("methods[{m}]")), text, findings))
        .collect();
    let strip = given
        .strip_headers
        .iter()
        .enumerate()
        .filter_map(|(h, text)| header(&key(&format!("strip_headers[{h}]")), text, findings))
        .collect();
    let when = match given.when.as_str() {
        "accepted" => When::Accepted,
        "arrival" => When::Arrival,
        other => {
            let fix = "write \"accepted\" (after the primary answered 2xx) or \"arrival\"";
            findings.push(ConfigFinding::new(
                key("when"),
                Quoted(other),
                "is not a time to mirror at",
                fix,
            ));
            When::Accepted
        }
    };
    Some(Terms {
        pattern: pattern?,
        fraction: fraction?,
        max_body_bytes: given.max_body_bytes,
        methods,
        strip,
        when,
        compare: given.compare,
    })
}

fn pattern(key: &str, text: &str, findings: &mut Vec<ConfigFinding>) -> Option<SubjectPattern> {
    match SubjectPattern::parse(text) {
        Ok(_) if text == "shadow" || text.starts_with("shadow.") => {
            let problem = "covers shadow subjects only, and a copy is never mirrored again";
            findings.push(ConfigFinding::new(
                key,
                Quoted(text),
                problem,
                "name the original's subject",
            ));
            None
        }
        Ok(pattern) => Some(pattern),
        Err(_) if text.ends_with('.') && SubjectPattern::parse(format!("{text}>")).is_ok() => {
            let problem = "a pattern's tokens are joined by single dots";
            let fix = format!("write \"{text}>\" for everything below it");
            findings.push(ConfigFinding::new(key, Quoted(text), problem, fix));
            None
        }
        Err(error) => {
            let fix = "write a subject pattern such as \"in.t.*.orders.>\"";
            findings.push(ConfigFinding::new(key, Quoted(text), error.to_string(), fix));
            None
        }
    }
}

fn share(key: &str, given: Option<&Share>, findings: &mut Vec<ConfigFinding>) -> Option<Fraction> {
    let Some(given) = given else {
        findings.push(ConfigFinding::new(key, "", "is missing", "write 0.10 or \"10%\""));
        return None;
    };
    let parsed = match given {
        Share::Number(number) => Fraction::new(*number).map_err(|_| percent_hint(*number)),
        Share::Text(text) => text.parse().map_err(|_| {
            text.trim()
                .parse()
                .map_or_else(|_| percent_hint(f64::NAN), percent_hint)
        }),
    };
    parsed
        .map_err(|fix| {
            findings.push(ConfigFinding::new(
                key,
                given,
                "is not a share from 0.0 to 1.0",
                fix,
            ))
        })
        .ok()
}

/// What to write instead of a number that is no share: above 1, percent was meant.
fn percent_hint(number: f64) -> String {
    if number > 1.0 && number <= 100.0 {
        format!("write {} or \"{number}%\"", number / 100.0)
    } else {
        "write 0.10 or \"10%\"".to_owned()
    }
}

fn method(key: &str, text: &str, findings: &mut Vec<ConfigFinding>) -> Option<Method> {
    // Methods are case-sensitive (RFC 9110, 9.1): `post` would silently match nothing.
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.bytes().any(|byte| byte.is_ascii_lowercase()) => Some(method),
        _ => {
            let upper = text.to_ascii_uppercase();
            let fix = match Method::from_bytes(upper.as_bytes()) {
                Ok(_) => format!("write \"{upper}\""),
                Err(_) => "write a method such as \"POST\"".to_owned(),
            };
            findings.push(ConfigFinding::new(
                key,
                Quoted(text),
                "is not an HTTP method",
                fix,
            ));
            None
        }
    }
}

fn header(key: &str, text: &str, findings: &mut Vec<ConfigFinding>) -> Option<HeaderName> {
    let name = HeaderName::try_from(text);
    if name.is_err() {
        let fix = "write a header name such as \"authorization\"";
        findings.push(ConfigFinding::new(key, Quoted(text), "is not a header name", fix));
    }
    name.ok()
}

fn range<N: PartialOrd + fmt::Display>(
    key: &str,
    value: N,
    min: N,
    max: N,
    findings: &mut Vec<ConfigFinding>,
) {
    if value < min || value > max {
        let fix = format!("write a number from {min} to {max}");
        findings.push(ConfigFinding::new(key, value, "is out of range", fix));
    }
}

/// Text as it stands in the config file.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => Quoted(text).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests;
