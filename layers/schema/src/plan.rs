//! A [`Plan`]: the table cut to one root message, one level and one mapping's required paths, ready to be walked.
//!
//! A mapping's `required` paths hold at one place in the message tree, not for a type. Where a path leads, the plan
//! has a node of its own for the type, so the walk itself knows nothing of paths. The same holds for the rules of a map's
//! keys and values, which are those of one field, and for messages that `IGNORE_ALWAYS` leaves alone.

mod quick;
mod rules;
mod steps;
mod want;

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

pub(crate) use self::{
    quick::{Plain, Quick},
    rules::{NodeRules, TALLIES_MAX},
};
use self::{
    rules::Ruled,
    steps::steps_of,
    want::{Wanted, want},
};
use crate::{
    config::Level,
    error::LoadError,
    rules::{Compiler, Rule},
    table::{Message, Presence, Shape, Table, WellKnown},
};

/// No child, no rule.
pub(crate) const NONE: u32 = u32::MAX;

/// The bit of a map entry's value, which the fast pass has to see where the empty message would not do.
const VALUE_BIT: u64 = 1 << 63;

/// What one mapping checks.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) table: Arc<Table>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) strict: bool,
    /// Level `rules`.
    pub(crate) ruled: bool,
    /// What values have to keep, referred to by number.
    pub(crate) rules: Vec<Rule>,
    /// The node of a message where no required path applies.
    shared: HashMap<(u32, Care), u32>,
}

/// One message type at one place (or at every place no required path leads to).
#[derive(Debug)]
pub(crate) struct Node {
    /// Index into the table's messages.
    pub(crate) message: u32,
    /// What to do at the tags of one byte.
    pub(crate) quick: [Quick; 128],
    /// Sorted by tag.
    pub(crate) steps: Vec<Step>,
    /// Per field of the message: its child node, or [`NONE`].
    pub(crate) children: Vec<u32>,
    pub(crate) required: Vec<Requirement>,
    /// The bits a complete message has set at its end.
    pub(crate) mask: u64,
    /// More requirements than bits: presence needs the slow path.
    pub(crate) crowded: bool,
    /// Something is required here or below, or has rules.
    pub(crate) needs: bool,
    /// What level `rules` adds.
    pub(crate) rules: Option<Box<NodeRules>>,
}

/// What has to be present in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Requirement {
    Field(u32),
    Oneof(u32),
}

/// What to do at one tag: one field in one of the wire types it may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) tag: u32,
    pub(crate) op: Op,
    /// Index of the field in the message.
    pub(crate) field: u32,
    /// A node for messages and groups, an enum for closed enums.
    pub(crate) child: u32,
    /// Bits this field sets when it counts as present.
    pub(crate) set: u64,
    /// Bits of the other members of its oneof.
    pub(crate) clear: u64,
    /// How a value that does not count as present looks.
    pub(crate) zero: Zero,
}

/// The form of a value on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Varint,
    /// A varint whose number must be declared by the enum `child`.
    Closed,
    Fixed64,
    Fixed32,
    Bytes,
    Text,
    Message,
    Group,
    PackedVarint,
    PackedClosed,
    PackedFixed64,
    PackedFixed32,
}

/// Which values leave a field unset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Zero {
    /// None: the field has explicit presence.
    Never,
    /// All bits zero, or no bytes.
    Full,
    /// The low 32 bits of a varint are zero: the parser drops the others.
    Low32,
}

/// How much of buf.validate holds somewhere, as far as the level has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Care {
    /// `IGNORE_ALWAYS`: nothing.
    Nothing,
    /// Inside an `Any`: what is required.
    Required,
    /// All of it.
    #[default]
    Rules,
}

/// Where a message stands.
#[derive(Debug, Default)]
struct Place {
    wanted: Option<Wanted>,
    care: Care,
    /// A map's entry: the rules of its key and of its value, or [`NONE`].
    entry: Option<(u32, u32)>,
}

type Queue = VecDeque<(u32, u32, Place)>;

impl Plan {
    /// Compiles the plan of a root message (an index into the table).
    ///
    /// # Errors
    ///
    /// A required path does not exist in the message, a rule cannot be checked, or a message is a `MessageSet`.
    pub(crate) fn new(
        table: Arc<Table>,
        root: u32,
        level: Level,
        required: &[String],
    ) -> Result<Self, LoadError> {
        let mut wanted = Wanted::default();
        for path in required {
            want(&table, root, path, &mut wanted)?;
        }
        let mut plan = Self {
            table,
            nodes: Vec::new(),
            strict: level >= Level::Strict,
            ruled: level == Level::Rules,
            rules: Vec::new(),
            shared: HashMap::new(),
        };
        let mut queue = VecDeque::new();
        let special = !wanted.here.is_empty() || !wanted.below.is_empty();
        let place = Place {
            wanted: special.then_some(wanted),
            ..Place::default()
        };
        plan.place(root, place, &mut queue);
        let mut compiler = Compiler::default();
        let mut any = false;
        loop {
            while let Some((at, message, place)) = queue.pop_front() {
                plan.fill(at, message, place, level, &mut compiler, &mut queue)?;
            }
            let meets_any = plan
                .nodes
                .iter()
                .any(|node| plan.well_known(node) == Some(WellKnown::Any));
            if any || !meets_any {
                break;
            }
            // An Any may hold whatever the set declares. Rules end at its border, as in protovalidate.
            any = true;
            for message in 0..plan.table.messages.len() {
                let message = u32::try_from(message).expect("the scan caps the messages");
                if plan.anywhere(message).is_none() {
                    let care = if plan.ruled { Care::Required } else { Care::Rules };
                    let place = Place {
                        care,
                        ..Place::default()
                    };
                    plan.place(message, place, &mut queue);
                }
            }
        }
        plan.spread_needs();
        plan.expect_values();
        if plan.ruled {
            plan.judge_once();
        }
        for node in &mut plan.nodes {
            node.index();
        }
        Ok(plan)
    }

    /// The message type of a node.
    pub(crate) fn message(&self, node: &Node) -> &Message {
        &self.table.messages[node.message as usize]
    }

    pub(crate) fn well_known(&self, node: &Node) -> Option<WellKnown> {
        self.message(node).well_known
    }

    /// The node of a message that may be anywhere, such as in an `Any`.
    pub(crate) fn anywhere(&self, message: u32) -> Option<u32> {
        let found = self.shared.get(&(message, Care::Rules));
        found
            .or_else(|| self.shared.get(&(message, Care::Required)))
            .copied()
    }

    /// The node of that message at that place, to be filled from the queue if it is new.
    fn place(&mut self, message: u32, place: Place, queue: &mut Queue) -> u32 {
        let shared = place.wanted.is_none() && place.entry.is_none();
        if let (true, Some(&at)) = (shared, self.shared.get(&(message, place.care))) {
            return at;
        }
        let at = u32::try_from(self.nodes.len()).expect("paths and messages are capped");
        if shared {
            self.shared.insert((message, place.care), at);
        }
        self.nodes.push(Node {
            message,
            quick: [Quick::default(); 128],
            steps: Vec::new(),
            children: Vec::new(),
            required: Vec::new(),
            mask: 0,
            crowded: false,
            needs: false,
            rules: None,
        });
        queue.push_back((at, message, place));
        at
    }

    fn fill(
        &mut self,
        at: u32,
        message: u32,
        place: Place,
        level: Level,
        compiler: &mut Compiler,
        queue: &mut Queue,
    ) -> Result<(), LoadError> {
        let table = Arc::clone(&self.table);
        let message = &table.messages[message as usize];
        if message.message_set {
            return Err(LoadError::Invalid {
                element: message.name.to_string(),
                problem: "uses message_set_wire_format, which is not supported".to_owned(),
            });
        }
        let mut wanted = place.wanted.unwrap_or_default();
        let mut required = std::mem::take(&mut wanted.here);
        if level >= Level::Required {
            required.extend(annotations(message, place.care));
        }
        let mut seen = Vec::with_capacity(required.len());
        required.retain(|wish| {
            !seen.contains(wish) && {
                seen.push(*wish);
                true
            }
        });

        let mut ruled = Ruled::default();
        if self.ruled {
            ruled = match place.entry {
                Some(rules) => self.entry_rules(message, rules),
                None if place.care == Care::Rules => self.message_rules(message, compiler)?,
                None => Ruled::default(),
            };
        }
        let mut children = Vec::with_capacity(message.fields.len());
        for (index, field) in (0_u32..).zip(&message.fields) {
            let Some(child) = field.kind.message() else {
                children.push(NONE);
                continue;
            };
            let below = Place {
                wanted: wanted.below.remove(&index),
                care: if level >= Level::Required && Compiler::leaves_alone(field) {
                    Care::Nothing
                } else {
                    place.care
                },
                entry: ruled.entries.get(&index).copied(),
            };
            children.push(self.place(child, below, queue));
        }
        let reserved = if message.map_entry { 63 } else { 64 };
        let wishes: Vec<Requirement> = required
            .iter()
            .copied()
            .chain(ruled.expected(&required))
            .collect();
        let others = ruled.grouped(&wishes);
        let bits: HashMap<Requirement, u64> = (wishes.iter().chain(&others))
            .take(reserved)
            .enumerate()
            .map(|(bit, &wish)| (wish, 1 << bit))
            .collect();
        let mut steps = Vec::with_capacity(message.fields.len());
        for (index, field) in (0_u32..).zip(&message.fields) {
            steps.extend(steps_of(
                &table,
                message,
                index,
                field,
                children[index as usize],
                &bits,
                self.strict,
            ));
        }
        steps.sort_by_key(|step| step.tag);
        let mask = (wishes.iter().filter_map(|wish| bits.get(wish))).fold(0, |mask, bit| mask | bit);
        let rules = ruled.finish(&steps, &bits);
        let node = &mut self.nodes[at as usize];
        node.mask = mask;
        node.crowded = wishes.len() + others.len() > reserved;
        node.needs = !required.is_empty() || rules.is_some();
        node.rules = rules;
        (node.steps, node.children, node.required) = (steps, children, required);
        Ok(())
    }

    /// A node needs presence when one of its descendants does.
    fn spread_needs(&mut self) {
        let mut parents: Vec<Vec<u32>> = vec![Vec::new(); self.nodes.len()];
        for (at, node) in (0_u32..).zip(&self.nodes) {
            for &child in node.children.iter().filter(|&&child| child != NONE) {
                parents[child as usize].push(at);
            }
        }
        let mut queue: Vec<usize> = (0..self.nodes.len()).filter(|&at| self.nodes[at].needs).collect();
        while let Some(at) = queue.pop() {
            for &parent in &parents[at] {
                let parent = parent as usize;
                if !self.nodes[parent].needs {
                    self.nodes[parent].needs = true;
                    queue.push(parent);
                }
            }
        }
    }

    /// A map entry without a value holds the empty message. Where that may miss something, the fast pass must see a
    /// value before it says yes.
    fn expect_values(&mut self) {
        for at in 0..self.nodes.len() {
            let value = self.nodes[at].children.get(1).copied().unwrap_or(NONE);
            if !self.message(&self.nodes[at]).map_entry || value == NONE || !self.nodes[value as usize].needs
            {
                continue;
            }
            let node = &mut self.nodes[at];
            node.mask |= VALUE_BIT;
            node.steps
                .iter_mut()
                .filter(|step| step.child == value)
                .for_each(|step| step.set |= VALUE_BIT);
        }
    }

    /// Occurrences of a message merge, and what each keeps by itself the merged one need not keep. So the fast pass says
    /// yes only to one occurrence.
    fn judge_once(&mut self) {
        for at in 0..self.nodes.len() {
            let (node, table) = (&self.nodes[at], &self.table);
            let fields = &table.messages[node.message as usize].fields;
            let single = |step: &Step| {
                let child = node.children[step.field as usize];
                fields[step.field as usize].shape == Shape::Singular
                    && child != NONE
                    && self.nodes[child as usize].needs
            };
            let places: Vec<usize> = (0..)
                .zip(&node.steps)
                .filter(|(_, step)| single(step))
                .map(|(at, _)| at)
                .collect();
            if places.is_empty() {
                continue;
            }
            let count = node.steps.len();
            let node = &mut self.nodes[at];
            node.crowded |= places.len() > 64;
            let rules = node.rules.get_or_insert_with(|| NodeRules::nothing(count));
            for (bit, place) in places.into_iter().take(64).enumerate() {
                rules.steps[place].once = 1 << bit;
            }
        }
    }
}

impl Node {
    /// The place of the step at a tag.
    #[inline]
    pub(crate) fn place(&self, tag: u32) -> Option<usize> {
        self.steps.binary_search_by_key(&tag, |step| step.tag).ok()
    }

    /// The step at a tag.
    #[inline]
    pub(crate) fn step(&self, tag: u32) -> Option<&Step> {
        self.place(tag).map(|at| &self.steps[at])
    }
}

/// What the descriptor set itself requires of a message.
fn annotations(message: &Message, care: Care) -> impl Iterator<Item = Requirement> {
    let fields = (0_u32..).zip(&message.fields);
    let fields = fields
        .filter(move |(_, field)| {
            field.presence == Presence::Required || care > Care::Nothing && field.validate_required
        })
        .map(|(at, _)| Requirement::Field(at));
    let oneofs = (0_u32..).zip(&message.oneofs);
    fields.chain(
        oneofs
            .filter(move |(_, oneof)| care > Care::Nothing && oneof.validate_required)
            .map(|(at, _)| Requirement::Oneof(at)),
    )
}
