//! The table `[platform.mirroring.compare]`.

use http::{Method, Uri, uri::Scheme};
use serde::{Deserialize, Serialize};

use crate::ConfigFinding;

/// Where answers are compared, and how: `[platform.mirroring.compare]`. Copies of rules with `compare = true` go to the
/// candidate instead of `shadow.<subject>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "json-schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CompareConfig {
    /// The service that is tried out: `http://host:port`, and a prefix for every path if it has one.
    pub candidate: String,
    /// A second copy of the primary's own version: what it answers differently is noise. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// Which methods are sent. Default `GET` and `HEAD`: a copied `POST` runs the effects of a service that does not know the
    /// mark.
    #[serde(default = "methods")]
    pub methods: Vec<String>,
    /// How many requests may be under way at once. Default 100.
    #[serde(default = "in_flight")]
    pub in_flight: usize,
    /// Fields that are passed over, with all below them: `sequence`, `items[].etag`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore: Vec<String>,
    /// Lists whose items have no order: `tags`. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unordered: Vec<String>,
    /// Numbers are equal when they differ by at most this share of the larger one. Default 0.
    #[serde(default)]
    pub tolerance: f64,
    /// A file with a compiled `FileDescriptorSet`, for answers in Protobuf. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub descriptors: Option<String>,
    /// The message in `descriptors` that Protobuf answers are, such as `shop.v1.Receipt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

fn methods() -> Vec<String> {
    ["GET", "HEAD"].map(str::to_owned).into()
}

const fn in_flight() -> usize {
    100
}

impl CompareConfig {
    /// Compares with `candidate`; the rest is the default.
    #[must_use]
    pub fn new(candidate: impl Into<String>) -> Self {
        Self {
            candidate: candidate.into(),
            control: None,
            methods: methods(),
            in_flight: in_flight(),
            ignore: Vec::new(),
            unordered: Vec::new(),
            tolerance: 0.0,
            descriptors: None,
            message: None,
        }
    }

    /// Everything that is wrong with it.
    pub(super) fn check(&self, findings: &mut Vec<ConfigFinding>) {
        let targets = [
            ("candidate", Some(&self.candidate)),
            ("control", self.control.as_ref()),
        ];
        for (name, given) in targets {
            let Some(given) = given else { continue };
            let fits = given.parse::<Uri>().is_ok_and(|uri| {
                uri.scheme() == Some(&Scheme::HTTP) && uri.authority().is_some() && uri.query().is_none()
            });
            if !fits {
                findings.push(ConfigFinding::new(
                    format!("compare.{name}"),
                    format!("{given:?}"),
                    "is no target for copies",
                    "write \"http://host:port\"",
                ));
            }
        }
        for (at, given) in self.methods.iter().enumerate() {
            let upper = !given.bytes().any(|byte| byte.is_ascii_lowercase());
            if !upper || Method::from_bytes(given.as_bytes()).is_err() {
                findings.push(ConfigFinding::new(
                    format!("compare.methods[{at}]"),
                    format!("{given:?}"),
                    "is not an HTTP method",
                    "write a method such as \"POST\"",
                ));
            }
        }
        if !(1..=10_000).contains(&self.in_flight) {
            let fix = "write a number from 1 to 10000";
            findings.push(ConfigFinding::new(
                "compare.in_flight",
                self.in_flight,
                "is out of range",
                fix,
            ));
        }
        if !(0.0..=1.0).contains(&self.tolerance) {
            let fix = "write 0.01 for one percent";
            findings.push(ConfigFinding::new(
                "compare.tolerance",
                self.tolerance,
                "is not a share from 0.0 to 1.0",
                fix,
            ));
        }
        if self.descriptors.is_some() != self.message.is_some() {
            findings.push(ConfigFinding::new(
                "compare.message",
                "",
                "goes with `descriptors`, and `descriptors` with it",
                "write both or neither",
            ));
        }
    }
}
