//! A [`Plan`]: the table cut to one root message, one level and one mapping's required paths, ready to be walked.
//!
//! A mapping's `required` paths hold at one place in the message tree, not for a type. Where a path leads, the plan
//! has a node of its own for the type, so the walk itself knows nothing of paths.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use crate::{
    config::Level,
    error::LoadError,
    table::{Field, Kind, Message, Presence, Shape, Table, WellKnown},
    wire::read::{FIXED32, FIXED64, LEN, START_GROUP, VARINT},
};

/// No child.
pub(crate) const NONE: u32 = u32::MAX;

/// What one mapping checks.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) table: Arc<Table>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) strict: bool,
    /// The node of a message where no required path applies.
    pub(crate) plain: HashMap<u32, u32>,
}

/// One message type at one place (or at every place no required path leads to).
#[derive(Debug)]
pub(crate) struct Node {
    /// Index into the table's messages.
    pub(crate) message: u32,
    /// One-byte tags: 0, or 1 + the index of the step.
    pub(crate) quick: [u8; 128],
    /// Sorted by tag.
    pub(crate) steps: Vec<Step>,
    /// Per field of the message: its child node, or [`NONE`].
    pub(crate) children: Vec<u32>,
    pub(crate) required: Vec<Requirement>,
    /// The bits a complete message has set at its end.
    pub(crate) mask: u64,
    /// More requirements than bits: presence needs the slow path.
    pub(crate) crowded: bool,
    /// Something is required here or below.
    pub(crate) needs: bool,
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

/// Required paths as a tree: what is wanted of a message, and of the messages in its fields.
#[derive(Debug, Default)]
struct Wanted {
    here: Vec<Requirement>,
    below: BTreeMap<u32, Wanted>,
}

impl Plan {
    /// Compiles the plan of a root message (an index into the table).
    ///
    /// # Errors
    ///
    /// A required path does not exist in the message, the level is not available, or a message is a `MessageSet`.
    pub(crate) fn new(
        table: Arc<Table>,
        root: u32,
        level: Level,
        required: &[String],
    ) -> Result<Self, LoadError> {
        if level == Level::Rules {
            return Err(LoadError::Level);
        }
        let mut wanted = Wanted::default();
        for path in required {
            want(&table, root, path, &mut wanted)?;
        }
        let annotated = level >= Level::Required;
        let mut plan = Self {
            table,
            nodes: Vec::new(),
            strict: level >= Level::Strict,
            plain: HashMap::new(),
        };
        let mut queue = VecDeque::new();
        let special = !wanted.here.is_empty() || !wanted.below.is_empty();
        plan.place(root, special.then_some(wanted), &mut queue);
        let mut any = false;
        loop {
            while let Some((at, message, wanted)) = queue.pop_front() {
                plan.fill(at, message, wanted, annotated, &mut queue)?;
            }
            let meets_any = plan
                .nodes
                .iter()
                .any(|node| plan.well_known(node) == Some(WellKnown::Any));
            if any || !meets_any {
                break;
            }
            // An Any may hold whatever the set declares.
            any = true;
            for message in 0..plan.table.messages.len() {
                let message = u32::try_from(message).expect("the scan caps the messages");
                plan.place(message, None, &mut queue);
            }
        }
        plan.spread_needs();
        plan.expect_values();
        Ok(plan)
    }

    /// The message type of a node.
    pub(crate) fn message(&self, node: &Node) -> &Message {
        &self.table.messages[node.message as usize]
    }

    pub(crate) fn well_known(&self, node: &Node) -> Option<WellKnown> {
        self.message(node).well_known
    }

    /// The node of that message with those wishes, to be filled from the queue if it is new.
    fn place(
        &mut self,
        message: u32,
        wanted: Option<Wanted>,
        queue: &mut VecDeque<(u32, u32, Option<Wanted>)>,
    ) -> u32 {
        if let (None, Some(&at)) = (&wanted, self.plain.get(&message)) {
            return at;
        }
        let at = u32::try_from(self.nodes.len()).expect("paths and messages are capped");
        if wanted.is_none() {
            self.plain.insert(message, at);
        }
        self.nodes.push(Node {
            message,
            quick: [0; 128],
            steps: Vec::new(),
            children: Vec::new(),
            required: Vec::new(),
            mask: 0,
            crowded: false,
            needs: false,
        });
        queue.push_back((at, message, wanted));
        at
    }

    fn fill(
        &mut self,
        at: u32,
        message: u32,
        wanted: Option<Wanted>,
        annotated: bool,
        queue: &mut VecDeque<(u32, u32, Option<Wanted>)>,
    ) -> Result<(), LoadError> {
        let table = Arc::clone(&self.table);
        let message = &table.messages[message as usize];
        if message.message_set {
            return Err(LoadError::Invalid {
                element: message.name.to_string(),
                problem: "uses message_set_wire_format, which is not supported".to_owned(),
            });
        }
        let mut wanted = wanted.unwrap_or_default();
        let mut required = std::mem::take(&mut wanted.here);
        if annotated {
            required.extend(annotations(message));
        }
        let mut seen = Vec::with_capacity(required.len());
        required.retain(|wish| {
            !seen.contains(wish) && {
                seen.push(*wish);
                true
            }
        });

        let mut children = Vec::with_capacity(message.fields.len());
        for (index, field) in (0_u32..).zip(&message.fields) {
            children.push(match field.kind.message() {
                Some(child) => self.place(child, wanted.below.remove(&index), queue),
                None => NONE,
            });
        }
        let bits: HashMap<Requirement, u64> = required
            .iter()
            .take(64)
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
        let mut quick = [0; 128];
        for (index, step) in steps.iter().enumerate().take_while(|(index, _)| *index < 255) {
            if let Some(slot) = quick.get_mut(step.tag as usize) {
                *slot = u8::try_from(index + 1).expect("taken below 255");
            }
        }
        let node = &mut self.nodes[at as usize];
        node.mask = bits.values().fold(0, |mask, bit| mask | bit);
        node.crowded = required.len() > 64;
        node.needs = !required.is_empty();
        (node.quick, node.steps, node.children, node.required) = (quick, steps, children, required);
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
}

impl Plan {
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
            node.mask = 1;
            node.steps
                .iter_mut()
                .filter(|step| step.child == value)
                .for_each(|step| step.set = 1);
        }
    }
}

impl Node {
    /// The step at a tag.
    #[inline]
    pub(crate) fn step(&self, tag: u32) -> Option<&Step> {
        self.steps
            .binary_search_by_key(&tag, |step| step.tag)
            .ok()
            .map(|at| &self.steps[at])
    }
}

/// What the descriptor set itself requires of a message.
fn annotations(message: &Message) -> impl Iterator<Item = Requirement> {
    let fields = (0_u32..).zip(&message.fields);
    let fields = fields
        .filter(|(_, field)| field.presence == Presence::Required || field.validate_required)
        .map(|(at, _)| Requirement::Field(at));
    let oneofs = (0_u32..).zip(&message.oneofs);
    fields.chain(
        oneofs
            .filter(|(_, oneof)| oneof.validate_required)
            .map(|(at, _)| Requirement::Oneof(at)),
    )
}

fn steps_of(
    table: &Table,
    message: &Message,
    index: u32,
    field: &Field,
    child: u32,
    bits: &HashMap<Requirement, u64>,
    strict: bool,
) -> impl Iterator<Item = Step> {
    let bit = |wish| bits.get(&wish).copied().unwrap_or(0);
    let mut set = bit(Requirement::Field(index));
    let mut clear = 0;
    if let Some(oneof) = field.oneof {
        set |= bit(Requirement::Oneof(oneof));
        for (other, _) in (0_u32..)
            .zip(&message.fields)
            .filter(|(at, other)| *at != index && other.oneof == Some(oneof))
        {
            clear |= bit(Requirement::Field(other));
        }
    }
    let (wire, op, packed) = forms(field.kind);
    let closed = match field.kind {
        Kind::Enum(at) if table.enums[at as usize].closed && (strict || set | clear != 0) => Some(at),
        _ => None,
    };
    let implicit = field.shape == Shape::Singular && field.presence == Presence::Implicit;
    let zero = match field.kind {
        _ if !implicit => Zero::Never,
        Kind::Int32 | Kind::Uint32 | Kind::Sint32 | Kind::Enum(_) => Zero::Low32,
        _ => Zero::Full,
    };
    let one = Step {
        tag: field.number << 3 | wire,
        op: if closed.is_some() { Op::Closed } else { op },
        field: index,
        child: closed.unwrap_or(child),
        set,
        clear,
        zero,
    };
    let many = (field.shape == Shape::Repeated && field.kind.packable()).then(|| Step {
        tag: field.number << 3 | LEN,
        op: if closed.is_some() {
            Op::PackedClosed
        } else {
            packed
        },
        // An empty packed field adds no element.
        zero: Zero::Full,
        ..one
    });
    std::iter::once(one).chain(many)
}

/// Wire type, form and packed form of a kind.
fn forms(kind: Kind) -> (u32, Op, Op) {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => (FIXED64, Op::Fixed64, Op::PackedFixed64),
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => (FIXED32, Op::Fixed32, Op::PackedFixed32),
        Kind::String => (LEN, Op::Text, Op::Text),
        Kind::Bytes => (LEN, Op::Bytes, Op::Bytes),
        Kind::Message(_) => (LEN, Op::Message, Op::Message),
        Kind::Group(_) => (START_GROUP, Op::Group, Op::Group),
        Kind::Int64
        | Kind::Uint64
        | Kind::Int32
        | Kind::Bool
        | Kind::Uint32
        | Kind::Sint32
        | Kind::Sint64
        | Kind::Enum(_) => (VARINT, Op::Varint, Op::PackedVarint),
    }
}

/// Adds one required path, such as `items[].sku`, to the tree.
fn want(table: &Table, root: u32, path: &str, wanted: &mut Wanted) -> Result<(), LoadError> {
    let refuse = |problem: String| LoadError::Required {
        path: path.to_owned(),
        problem,
    };
    let (mut message, mut wanted) = (root, wanted);
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let owner = &table.messages[message as usize];
        if owner.well_known.is_some() {
            return Err(refuse(format!(
                "{} has a form of its own; require the field that holds it",
                owner.name
            )));
        }
        let (name, each) = part.strip_suffix("[]").map_or((part, false), |name| (name, true));
        let Some(index) = owner.fields.iter().position(|field| *field.name == *name) else {
            let oneof = owner.oneofs.iter().position(|oneof| *oneof.name == *name);
            let last = parts.peek().is_none() && !each;
            let Some(oneof) = oneof.filter(|_| last).and_then(|at| u32::try_from(at).ok()) else {
                return Err(refuse(format!(
                    "{} has no field '{name}'{}",
                    owner.name,
                    hint(owner, name)
                )));
            };
            wanted.here.push(Requirement::Oneof(oneof));
            return Ok(());
        };
        let field = &owner.fields[index];
        let index = u32::try_from(index).expect("the scan caps the fields");
        if parts.peek().is_none() {
            if each {
                return Err(refuse(format!(
                    "ends in '{part}': name the list itself, or a field of its elements"
                )));
            }
            wanted.here.push(Requirement::Field(index));
            return Ok(());
        }
        if each == (field.shape == Shape::Singular) {
            return Err(refuse(match field.shape {
                Shape::Singular => format!("'{name}' is not repeated: write '{name}'"),
                Shape::Repeated | Shape::Map => format!("'{name}' is repeated: write '{name}[]'"),
            }));
        }
        let not_message = || {
            refuse(format!(
                "'{name}' holds no messages, so nothing can be required of them"
            ))
        };
        message = field.kind.message().ok_or_else(not_message)?;
        wanted = wanted.below.entry(index).or_default();
        if field.shape == Shape::Map {
            let entry = &table.messages[message as usize];
            let value = entry.by_number(2).ok_or_else(not_message)?;
            message = entry.fields[value].kind.message().ok_or_else(not_message)?;
            wanted = wanted
                .below
                .entry(u32::try_from(value).expect("an entry has two fields"))
                .or_default();
        }
    }
    Ok(())
}

/// A field that was probably meant: the same name in its other spelling.
fn hint(message: &Message, name: &str) -> String {
    let meant = message
        .json
        .get(name)
        .map(|&at| &message.fields[at as usize].name);
    meant.map_or_else(String::new, |meant| format!(": write '{meant}'"))
}
