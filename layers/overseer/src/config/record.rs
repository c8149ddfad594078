//! What is written down of live requests.

use http::HeaderName;

use super::{
    RecordConfig,
    findings::{Findings, quoted},
};
use crate::recorder::RecordSettings;

impl RecordConfig {
    pub(super) fn parse(&self, findings: &mut Findings) -> Option<RecordSettings> {
        let before = findings.0.len();
        if self.path.as_os_str().is_empty() {
            let fix = "write the path of a file that only you can read";
            findings.add("record.path", "\"\"", "there is nowhere to record to", fix);
        }
        findings.within("record.requests_max", self.requests_max, 1, 1_000_000);
        let mut masked = Vec::new();
        for (at, text) in self.masked_headers.iter().enumerate() {
            match HeaderName::from_bytes(text.as_bytes()) {
                Ok(name) => masked.push(name),
                Err(_) => findings.add(
                    &format!("record.masked_headers[{at}]"),
                    quoted(text),
                    "this is no header name",
                    "write a name such as x-api-key",
                ),
            }
        }
        (findings.0.len() == before).then(|| RecordSettings {
            path: self.path.clone(),
            requests_max: self.requests_max,
            bodies: self.bodies,
            masked: masked.into(),
        })
    }
}
