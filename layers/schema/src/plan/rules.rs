//! What level `rules` adds to a node.

use std::collections::{BTreeMap, HashMap};

use super::{NONE, Plan, Requirement, Step};
use crate::{
    error::LoadError,
    rules::{Compiled, Compiler, FieldRules, Group, Rule, Value},
    table::{Field, Message, Presence, Shape},
};

/// Most fields of one message whose elements the fast pass counts.
pub(crate) const TALLIES_MAX: usize = 8;
/// No tally.
const NO_SLOT: u8 = u8::MAX;

/// The rules of one node.
#[derive(Debug)]
pub(crate) struct NodeRules {
    /// Per field of the message.
    pub(crate) fields: Vec<Option<FieldRules>>,
    pub(crate) groups: Vec<Group>,
    /// Per group: the bits of its fields.
    pub(crate) group_bits: Vec<u64>,
    /// Per step of the node.
    pub(crate) steps: Vec<StepRules>,
    /// Per slot: the field that is counted.
    pub(crate) tallies: Vec<u32>,
    /// Fields whose elements or keys have to differ.
    pub(crate) distinct: Vec<u32>,
    /// The fast pass cannot keep count of so many.
    pub(crate) crowded: bool,
}

/// The rules at one tag.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepRules {
    /// The rule of the value, or [`NONE`].
    pub(crate) rule: u32,
    /// The tally, or none.
    pub(crate) slot: u8,
    /// The bit of a message that may occur once.
    pub(crate) once: u64,
}

/// The rules of a message, on their way into a node.
#[derive(Debug, Default)]
pub(super) struct Ruled {
    fields: Vec<Option<FieldRules>>,
    groups: Vec<Group>,
    /// Maps whose keys or values have rules.
    pub(super) entries: BTreeMap<u32, (u32, u32)>,
}

impl NodeRules {
    /// Nothing to check of the node's own values.
    pub(super) fn nothing(steps: usize) -> Box<Self> {
        let none = StepRules {
            rule: NONE,
            slot: NO_SLOT,
            once: 0,
        };
        Box::new(Self {
            fields: Vec::new(),
            groups: Vec::new(),
            group_bits: Vec::new(),
            steps: vec![none; steps],
            tallies: Vec::new(),
            distinct: Vec::new(),
            crowded: false,
        })
    }

    /// The rules of a field.
    pub(crate) fn field(&self, at: u32) -> Option<&FieldRules> {
        self.fields.get(at as usize)?.as_ref()
    }
}

impl StepRules {
    /// Which tally counts, if one does.
    #[inline]
    pub(crate) fn tally(&self) -> Option<usize> {
        (self.slot != NO_SLOT).then_some(usize::from(self.slot))
    }
}

impl FieldRules {
    /// Whether that many elements or entries are right.
    #[inline]
    pub(crate) fn counts(&self, count: u64) -> bool {
        count == 0 && self.ignore_empty || count >= self.least && count <= self.most
    }
}

impl Plan {
    fn rule(&mut self, rule: Option<Rule>) -> u32 {
        let Some(rule) = rule else { return NONE };
        self.rules.push(rule);
        u32::try_from(self.rules.len() - 1).expect("paths and messages are capped")
    }

    /// The rules of a message's own fields.
    pub(super) fn message_rules(
        &mut self,
        message: &Message,
        compiler: &mut Compiler,
    ) -> Result<Ruled, LoadError> {
        let refuse = |element: &str, problem: String| LoadError::Rule {
            element: element.to_owned(),
            problem,
        };
        let groups = Compiler::groups(message).map_err(|problem| refuse(&message.name, problem))?;
        let mut ruled = Ruled {
            fields: vec![None; message.fields.len()],
            ..Ruled::default()
        };
        for (at, field) in (0_u32..).zip(&message.fields) {
            let grouped = groups.iter().any(|group| group.fields.contains(&at));
            if field.rules.is_empty() {
                continue;
            }
            let table = std::sync::Arc::clone(&self.table);
            let compiled = compiler
                .field(&table, field, grouped)
                .map_err(|problem| refuse(&format!("{}.{}", message.name, field.name), problem))?;
            if compiled.keys.is_some() || compiled.values.is_some() {
                // A map's entries are told by these alone.
                let (keys, values) = (self.rule(compiled.keys), self.rule(compiled.values));
                ruled.entries.insert(at, (keys, values));
                let rest = Compiled {
                    keys: None,
                    values: None,
                    value: None,
                    ..compiled
                };
                ruled.fields[at as usize] = self.field_rules(field, rest);
            } else {
                ruled.fields[at as usize] = self.field_rules(field, compiled);
            }
        }
        ruled.groups = groups;
        Ok(ruled)
    }

    fn field_rules(&mut self, field: &Field, compiled: Compiled) -> Option<FieldRules> {
        let counted = compiled.least > 0 || compiled.most.is_some() || compiled.unique;
        if compiled.value.is_none() && !counted {
            return None;
        }
        let implicit = field.shape == Shape::Singular && field.presence == Presence::Implicit;
        let keeps = self.keeps_zero(field, compiled.value.as_ref());
        Some(FieldRules {
            value: self.rule(compiled.value),
            least: compiled.least,
            most: compiled.most.unwrap_or(u64::MAX),
            // Entries of one key are one.
            unique: compiled.unique || field.shape == Shape::Map && compiled.least > 1,
            ignore_empty: compiled.ignore_zero,
            zero_counts: implicit && !compiled.ignore_zero,
            zero_keeps: keeps,
        })
    }

    fn keeps_zero(&self, field: &Field, rule: Option<&Rule>) -> bool {
        let zero = Value::zero(field.kind).unwrap_or(Value::Message(&[]));
        rule.is_none_or(|rule| rule.keeps(&self.table, zero))
    }

    /// The rules of a map entry: what is not in it counts as zero.
    pub(super) fn entry_rules(&self, entry: &Message, (key, value): (u32, u32)) -> Ruled {
        let one = |at: usize, rule: u32| {
            (rule != NONE).then(|| FieldRules {
                value: rule,
                least: 0,
                most: u64::MAX,
                unique: false,
                ignore_empty: false,
                zero_counts: true,
                zero_keeps: self.keeps_zero(&entry.fields[at], self.rules.get(rule as usize)),
            })
        };
        Ruled {
            fields: vec![one(0, key), one(1, value)],
            ..Ruled::default()
        }
    }
}

impl Ruled {
    /// Fields whose zero breaks their rules: the fast pass has to see a value.
    pub(super) fn expected(&self, required: &[Requirement]) -> Vec<Requirement> {
        let fields = (0_u32..).zip(&self.fields);
        fields
            .filter(|(_, rules)| rules.is_some_and(|rules| rules.zero_counts && !rules.zero_keeps))
            .map(|(at, _)| Requirement::Field(at))
            .filter(|wish| !required.contains(wish))
            .collect()
    }

    /// Fields whose presence is counted, besides those that have a bit already.
    pub(super) fn grouped(&self, wishes: &[Requirement]) -> Vec<Requirement> {
        let mut found = Vec::new();
        for &field in self.groups.iter().flat_map(|group| &group.fields) {
            let wish = Requirement::Field(field);
            if !wishes.contains(&wish) && !found.contains(&wish) {
                found.push(wish);
            }
        }
        found
    }

    /// The node's rules, if it has any.
    pub(super) fn finish(self, steps: &[Step], bits: &HashMap<Requirement, u64>) -> Option<Box<NodeRules>> {
        let ruled = !self.groups.is_empty() || self.fields.iter().any(Option::is_some);
        if !ruled && self.entries.is_empty() {
            return None;
        }
        let mut rules = NodeRules::nothing(steps.len());
        for (at, field) in (0_u32..).zip(&self.fields) {
            let Some(field) = field else { continue };
            let counted = field.least > 0 || field.most < u64::MAX;
            let slot = counted.then(|| {
                rules.tallies.push(at);
                u8::try_from(rules.tallies.len() - 1).unwrap_or(NO_SLOT)
            });
            for (step, rules) in steps.iter().zip(&mut rules.steps) {
                if step.field == at {
                    rules.rule = field.value;
                    rules.slot = slot.unwrap_or(NO_SLOT);
                }
            }
            if field.unique {
                rules.distinct.push(at);
            }
        }
        rules.crowded = rules.tallies.len() > TALLIES_MAX;
        let bits_of = |group: &Group| {
            let fields = group.fields.iter();
            fields.fold(0, |all, &at| {
                all | bits.get(&Requirement::Field(at)).copied().unwrap_or(0)
            })
        };
        rules.group_bits = self.groups.iter().map(bits_of).collect();
        (rules.fields, rules.groups) = (self.fields, self.groups);
        Some(rules)
    }
}
