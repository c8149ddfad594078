//! What loading a policy found: everything at once.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{abi::arqon_host_v1::visible, verdict::Cause};

/// Everything there is to say about a module: what keeps it from being loaded, what to mind, and its facts.
///
/// `arqon policy check` prints it; `PUT /v1/policies/{name}` answers with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// The policy's name.
    pub name: String,
    /// Where the module came from: a path, or whatever the caller said.
    pub source: String,
    /// Whether the module can be loaded: no finding is an error.
    pub ok: bool,
    /// Errors first, then warnings.
    pub findings: Vec<Finding>,
    /// What the module is and needs; absent when it cannot be read at all.
    pub facts: Option<Facts>,
}

/// One thing that is wrong or worth minding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Whether it keeps the module from being loaded.
    pub severity: Severity,
    /// A stable name such as `import.wasi`.
    pub code: String,
    /// What it is about: an import, an export, a limit.
    pub item: String,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    pub fix: String,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The module is not loaded.
    Error,
    /// The module is loaded.
    Warning,
}

/// What a module is and needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// SHA-256 of the file as it was given (what `sha256sum` prints), hex.
    pub sha256: String,
    /// Bytes of the binary module.
    pub wasm_bytes: usize,
    /// The ABI it speaks: `arqon_host_v1`.
    pub abi: String,
    /// The entry points it exports.
    pub entries: Vec<String>,
    /// The host functions it imports.
    pub imports: Vec<String>,
    /// Whether the layer collects the body for it.
    pub needs_body: bool,
    /// Whether it reads claims.
    pub needs_claims: bool,
    /// Whether it rewrites the payload.
    pub rewrites: bool,
    /// Whether it is called for responses too.
    pub sees_responses: bool,
    /// Initial memory in pages of 64 KiB, begun ones counted.
    pub pages: u64,
    /// Declared maximum of its memory in such pages.
    pub pages_max: Option<u64>,
    /// Functions it defines.
    pub functions: usize,
    /// Milliseconds to compile it for every shard; absent when it was not compiled.
    pub compile_ms: Option<f64>,
    /// How it answered an empty `GET /`; absent when it was not run.
    pub dry_run: Option<DryRun>,
}

/// How a module answered an empty `GET /` at load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DryRun {
    /// `allow`, `reject` or `failed`.
    pub verdict: String,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// Fuel it used, host calls included.
    pub fuel: u64,
}

/// On one line, and nothing in it that a terminal would obey: names in a module are its author's.
fn shown(text: &str) -> String {
    visible(text.as_bytes(), text.len())
}

impl LoadReport {
    pub(crate) fn new(name: &str, source: &str) -> Self {
        Self {
            name: shown(name),
            source: shown(source),
            ok: true,
            findings: Vec::new(),
            facts: None,
        }
    }

    pub(crate) fn error(
        &mut self,
        code: &str,
        item: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Severity::Error, code, item.into(), message.into(), fix.into());
    }

    pub(crate) fn warning(
        &mut self,
        code: &str,
        item: impl Into<String>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) {
        self.push(Severity::Warning, code, item.into(), message.into(), fix.into());
    }

    fn push(&mut self, severity: Severity, code: &str, item: String, message: String, fix: String) {
        self.ok &= severity != Severity::Error;
        self.findings.push(Finding {
            severity,
            code: code.to_owned(),
            item: shown(&item),
            message: shown(&message),
            fix: shown(&fix),
        });
        self.findings.sort_by_key(|finding| finding.severity);
    }

    /// The findings that keep the module from being loaded.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.ok { "ok" } else { "refused" };
        write!(f, "policy `{}` from {}: {verdict}", self.name, self.source)?;
        for finding in &self.findings {
            write!(f, "\n  {finding}")?;
        }
        let Some(facts) = &self.facts else { return Ok(()) };
        write!(
            f,
            "\n  facts: abi {}, entries {}, imports {}, {} pages, needs body: {}, needs claims: {}, sha256 {}",
            facts.abi,
            facts.entries.join(" "),
            if facts.imports.is_empty() {
                "none".to_owned()
            } else {
                facts.imports.join(" ")
            },
            facts.pages,
            if facts.needs_body { "yes" } else { "no" },
            if facts.needs_claims { "yes" } else { "no" },
            facts.sha256,
        )?;
        if let Some(run) = &facts.dry_run {
            write!(
                f,
                "\n  dry run of an empty GET /: {}, {} fuel",
                run.verdict, run.fuel
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(
            f,
            "{severity} {} ({}): {}; {}",
            self.code, self.item, self.message, self.fix
        )
    }
}

impl std::error::Error for LoadReport {}
