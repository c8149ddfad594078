//! Level `rules` on the wire: what the fast pass counts, and what the slow one reports of a merged message.

use std::{borrow::Cow, collections::HashSet};

use super::{DEPTH_MAX, explain::entry_key, read, walk::enum_number};
use crate::{
    path::{Key, Path},
    plan::{NONE, Node, NodeRules, Op, Plan, Step, TALLIES_MAX},
    rules::{FieldRules, Report, Value, element, scalar},
    table::{Field, Kind, Message, Shape},
    violation::Findings,
};

/// What the fast pass has counted of one occurrence of a message.
#[derive(Default)]
pub(super) struct Tally {
    counts: [u32; TALLIES_MAX],
    once: u64,
}

/// Whether the value of the step at that place, its length in front if it has one, keeps its rules.
pub(super) fn keeps(
    plan: &Plan,
    node: &Node,
    rules: &NodeRules,
    at: usize,
    bytes: &[u8],
    tally: &mut Tally,
) -> bool {
    let (own, step) = (&rules.steps[at], &node.steps[at]);
    if tally.once & own.once != 0 {
        return false;
    }
    tally.once |= own.once;
    if own.rule == NONE && own.tally().is_none() {
        return true;
    }
    let kind = plan.message(node).fields[step.field as usize].kind;
    let rule = plan.rules.get(own.rule as usize);
    let fits = |value: Option<Value<'_>>| match (rule, value) {
        (Some(rule), Some(value)) => rule.keeps(&plan.table, value),
        (rule, _) => rule.is_none(),
    };
    let content = || read::delimited(bytes).map_or(&b""[..], |(content, _)| content);
    let mut count = 1;
    let kept = match step.op {
        Op::PackedVarint | Op::PackedClosed | Op::PackedFixed64 | Op::PackedFixed32 => {
            count = 0;
            let mut rest = content();
            loop {
                let Some((one, after)) = element(kind, rest) else {
                    break rest.is_empty();
                };
                count += 1;
                rest = after;
                if !fits(scalar(kind, one)) {
                    break false;
                }
                if rest.is_empty() {
                    break true;
                }
            }
        }
        Op::Message => fits(Some(Value::Message(&[content()]))),
        Op::Group => fits(Some(Value::Message(&[bytes]))),
        Op::Text | Op::Bytes => fits(Some(Value::Bytes(content()))),
        Op::Varint | Op::Closed | Op::Fixed64 | Op::Fixed32 => fits(scalar(kind, bytes)),
    };
    if let Some(slot) = own.tally()
        && let Some(tallied) = tally.counts.get_mut(slot)
    {
        *tallied = tallied.saturating_add(count);
    }
    kept
}

/// Whether an occurrence of a message with these bytes and bits keeps the rules that concern more than one value.
pub(super) fn complete(
    plan: &Plan,
    node: &Node,
    rules: &NodeRules,
    seen: u64,
    tally: &Tally,
    body: &[u8],
) -> bool {
    let counted = rules.tallies.iter().zip(&tally.counts).all(|(field, count)| {
        rules
            .field(*field)
            .is_none_or(|rules| rules.counts(u64::from(*count)))
    });
    let grouped = rules.groups.iter().zip(&rules.group_bits).all(|(group, bits)| {
        let set = (seen & bits).count_ones();
        set == 1 || set == 0 && !group.required
    });
    !rules.crowded
        && counted
        && grouped
        && rules.distinct.iter().all(|&field| {
            let values = values(plan, node, field, &[body]);
            let field = &plan.message(node).fields[field as usize];
            match field.shape {
                Shape::Map => entries(plan, field, &values) == values.len(),
                _ => differ(field.kind, &values),
            }
        })
}

/// The values of one field in these slices, those of packed fields one by one.
fn values<'a>(plan: &Plan, node: &Node, field: u32, slices: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let kind = plan.message(node).fields[field as usize].kind;
    let mut found = Vec::new();
    for slice in slices {
        let mut rest = *slice;
        while let Ok((tag, after)) = read::tag(rest) {
            let Ok((value, after)) = read::skip(tag, after, DEPTH_MAX) else {
                break;
            };
            rest = after;
            if let Some(step) = node.step(tag).filter(|step| step.field == field) {
                unpack(step, kind, value, &mut found);
            }
        }
    }
    found
}

/// Adds a value, or the elements of a packed field.
pub(super) fn unpack<'a>(step: &Step, kind: Kind, value: &'a [u8], found: &mut Vec<&'a [u8]>) {
    if !matches!(
        step.op,
        Op::PackedVarint | Op::PackedClosed | Op::PackedFixed64 | Op::PackedFixed32
    ) {
        found.push(value);
        return;
    }
    let mut rest = value;
    while let Some((one, after)) = element(kind, rest) {
        found.push(one);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
}

/// How many different keys the entries have.
fn entries(plan: &Plan, field: &Field, values: &[&[u8]]) -> usize {
    let Some(entry) = field.kind.message() else {
        return 0;
    };
    let entry = &plan.table.messages[entry as usize];
    let keys: HashSet<Key<'_>> = values.iter().map(|bytes| entry_key(entry, bytes)).collect();
    keys.len()
}

/// Whether no two values are equal; NaN equals nothing.
fn differ(kind: Kind, values: &[&[u8]]) -> bool {
    #[derive(PartialEq, Eq, PartialOrd, Ord)]
    enum One<'a> {
        Number(i128),
        Bytes(&'a [u8]),
    }
    let mut all: Vec<One<'_>> = values
        .iter()
        .filter_map(|bytes| match scalar(kind, bytes)? {
            Value::Integer(number) => Some(One::Number(number)),
            Value::Bool(truth) => Some(One::Number(i128::from(truth))),
            Value::Float(number) if number.is_nan() => None,
            // Minus zero equals zero.
            Value::Float(number) => Some(One::Number(i128::from((number + 0.0).to_bits()))),
            Value::Bytes(bytes) => Some(One::Bytes(bytes)),
            Value::Message(_) => None,
        })
        .collect();
    all.sort_unstable();
    all.windows(2).all(|pair| pair[0] != pair[1])
}

/// Puts broken rules among the findings.
struct Found<'f, 'p>(&'f mut Findings, &'p Path<'p>);

impl Report for Found<'_, '_> {
    fn broken(&mut self, rule: impl Into<Cow<'static, str>>, message: impl FnOnce() -> String) -> bool {
        if !self.0.full() {
            self.0.push(self.1, rule, message());
        }
        !self.0.full()
    }
}

/// Reports what the values of one field break. `values`: all occurrences, the last one last.
pub(super) fn judge_field(
    plan: &Plan,
    field: &Field,
    rules: &FieldRules,
    values: &[&[u8]],
    path: &Path<'_>,
    found: &mut Findings,
) {
    let rule = plan.rules.get(rules.value as usize);
    match field.shape {
        Shape::Singular => judge_value(plan, field.kind, rule, values, rules.zero_counts, path, found),
        Shape::Repeated => {
            judge_count(rules, values.len(), "repeated", path, found);
            if rules.unique && !differ(field.kind, values) {
                let text = "repeated value must contain unique items";
                Found(found, path).broken("repeated.unique", || text.to_owned());
            }
            for (index, value) in values.iter().enumerate() {
                if rule.is_none() || found.full() {
                    return;
                }
                judge_value(
                    plan,
                    field.kind,
                    rule,
                    &[value],
                    false,
                    &Path::Index(path, index),
                    found,
                );
            }
        }
        Shape::Map => judge_count(rules, entries(plan, field, values), "map", path, found),
    }
}

fn judge_count(rules: &FieldRules, count: usize, what: &str, path: &Path<'_>, found: &mut Findings) {
    let count = count as u64;
    if rules.counts(count) {
        return;
    }
    let (less, more, least, most) = match what {
        "map" => (
            "min_pairs",
            "max_pairs",
            "map must be at least",
            "map must be at most",
        ),
        _ => (
            "min_items",
            "max_items",
            "must contain at least",
            "must contain no more than",
        ),
    };
    let unit = if what == "map" { "entries" } else { "item(s)" };
    let mut found = Found(found, path);
    if count < rules.least {
        found.broken(format!("{what}.{less}"), || {
            format!("{least} {} {unit}", rules.least)
        });
    }
    if count > rules.most {
        found.broken(format!("{what}.{more}"), || {
            format!("{most} {} {unit}", rules.most)
        });
    }
}

fn judge_value(
    plan: &Plan,
    kind: Kind,
    rule: Option<&crate::rules::Rule>,
    values: &[&[u8]],
    zero_counts: bool,
    path: &Path<'_>,
    found: &mut Findings,
) {
    let value = match values.last() {
        Some(_) if kind.message().is_some() => Some(Value::Message(values)),
        Some(last) => scalar(kind, last),
        None if zero_counts => Some(Value::zero(kind).unwrap_or(Value::Message(&[]))),
        None => None,
    };
    if let (Some(rule), Some(value)) = (rule, value) {
        rule.check(&plan.table, value, &mut Found(found, path));
    }
}

/// Reports groups of which too many fields are set, or none.
pub(super) fn judge_groups(
    rules: &NodeRules,
    present: impl Fn(u32) -> bool,
    path: &Path<'_>,
    found: &mut Findings,
) {
    for group in &rules.groups {
        let set = group.fields.iter().filter(|&&field| present(field)).count();
        let text = match set {
            0 if group.required => format!("one of {} must be set", group.names),
            0 | 1 => continue,
            _ => format!("only one of {} can be set", group.names),
        };
        Found(found, path).broken("message.oneof", || text);
    }
}

/// Reports what the key and the value of an entry break; `values`: the occurrences of its value.
pub(super) fn judge_entry(
    plan: &Plan,
    entry: &Message,
    rules: &NodeRules,
    key: &Key<'_>,
    values: &[&[u8]],
    path: &Path<'_>,
    found: &mut Findings,
) {
    let rule = |at| {
        rules
            .field(at)
            .and_then(|rules| plan.rules.get(rules.value as usize))
    };
    if let Some(rule) = rule(0) {
        let value = match key {
            Key::Text(text) => Value::Bytes(text.as_bytes()),
            Key::Signed(number) => Value::Integer(i128::from(*number)),
            Key::Unsigned(number) => Value::Integer(i128::from(*number)),
            Key::Bool(truth) => Value::Bool(*truth),
        };
        rule.check(&plan.table, value, &mut Found(found, path));
    }
    if let (Some(rule), Some(value)) = (rule(1), entry.fields.get(1)) {
        judge_value(plan, value.kind, Some(rule), values, true, path, found);
    }
}

/// Whether a value of a closed enum is one that a parser keeps.
pub(super) fn is_kept(plan: &Plan, kind: Kind, value: &[u8]) -> bool {
    let Kind::Enum(at) = kind else { return true };
    let declared = &plan.table.enums[at as usize];
    !declared.closed || read::varint(value).is_ok_and(|(number, _)| declared.knows(enum_number(number)))
}
