//! The Protobuf JSON mapping, checked without building a message.
//!
//! One pass, and definitive: duplicates are refused, so nothing merges. Stricter than most parsers where they disagree:
//! duplicate names and map keys, both spellings of one field and two members of one oneof are refused at every level,
//! because a payload that two consumers read differently is an attack.

mod any;
mod field_set;
mod free;
mod lexer;
mod object;
mod output;
mod scalar;
mod value;
mod well_known;

use self::{
    lexer::{Lexer, Syntax},
    object::Pass,
    output::{Encoder, Form, Output, Slot},
};
use crate::{
    path::Path,
    plan::Plan,
    violation::{Findings, rule},
    wire::DEPTH_MAX,
};

/// How many times the document's length may be read ahead of its turn, in all: an `Any` is known by its `@type`, which may
/// stand last, and `Any`s may be nested a hundred deep.
const AHEAD: usize = 2;

/// Collects what is wrong with the document.
pub(crate) fn check(plan: &Plan, payload: &[u8], found: &mut Findings) {
    run(plan, payload, found, ());
}

/// Checks the document and writes the same message in the binary format. The bytes mean something only when nothing is
/// found, or nothing but what is missing.
pub(crate) fn transcode(plan: &Plan, payload: &[u8], found: &mut Findings) -> Vec<u8> {
    run(plan, payload, found, Encoder::default()).map_or_else(Vec::new, Encoder::finish)
}

fn run<O: Output>(plan: &Plan, payload: &[u8], found: &mut Findings, out: O) -> Option<O> {
    let Ok(text) = simdutf8::basic::from_utf8(payload) else {
        found.push(&Path::Root, rule::JSON_SYNTAX, "JSON must be valid UTF-8");
        return None;
    };
    let mut pass = Pass {
        plan,
        lexer: Lexer::new(text),
        ahead_left: AHEAD * text.len(),
        found,
        out,
        slot: Slot {
            number: 0,
            form: Form::Tagged,
        },
    };
    let whole = pass
        .message(0, &Path::Root, DEPTH_MAX)
        .and_then(|()| pass.lexer.end().map_err(|error| pass.syntax(error, &Path::Root)));
    debug_assert!(whole.is_ok() || !pass.found.is_empty(), "a stopped pass says why");
    whole.is_ok().then_some(pass.out)
}

/// The pass ended early; the reason is among the findings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stop;

impl Syntax {
    /// What to tell, without quoting the payload.
    fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::End => (rule::JSON_SYNTAX, "the JSON document ends too early"),
            Self::Unexpected => (rule::JSON_SYNTAX, "not JSON: unexpected character"),
            Self::Trailing => (rule::JSON_SYNTAX, "something follows the JSON document"),
            Self::Escape => (rule::JSON_SYNTAX, "illegal escape in a JSON string"),
            Self::Surrogate => (rule::JSON_SYNTAX, "lone surrogate in a JSON string"),
            Self::Control => (rule::JSON_SYNTAX, "unescaped control character in a JSON string"),
            Self::Number => (rule::JSON_SYNTAX, "illegal JSON number"),
            Self::Depth => (rule::JSON_DEPTH, "nested deeper than 100 levels"),
        }
    }
}
