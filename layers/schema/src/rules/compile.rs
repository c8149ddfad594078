//! From the options of a field or message to what is checked. Whatever is not understood is refused in words: a rule that
//! is silently skipped is a hole.

use super::{
    Check, Group, Rule,
    format::{is_header_name, is_header_value},
    pattern::Patterns,
    read::fields,
    text::{BytesRules, Format, Set, TextRules},
    types::{boolean, duration, enumeration, floats, format_of, integers, mask, timestamp, unknown, urls},
};
use crate::table::{Field, IGNORE_ALWAYS, Kind, Message, Presence, Shape, Table, WellKnown};

/// `buf.validate.Ignore.IGNORE_IF_ZERO_VALUE`.
const IGNORE_IF_ZERO_VALUE: i32 = 1;

/// The rules of one field.
#[derive(Debug, Default)]
pub(crate) struct Compiled {
    /// Of the value of a singular field, or of each element of a repeated one.
    pub(crate) value: Option<Rule>,
    pub(crate) keys: Option<Rule>,
    pub(crate) values: Option<Rule>,
    pub(crate) least: u64,
    pub(crate) most: Option<u64>,
    pub(crate) unique: bool,
    /// `IGNORE_IF_ZERO_VALUE`, said or implied.
    pub(crate) ignore_zero: bool,
}

/// Compiles the rules of one mapping.
#[derive(Debug, Default)]
pub(crate) struct Compiler {
    patterns: Patterns,
}

/// One `FieldRules`, its type's rules not read yet.
#[derive(Default)]
struct Rules {
    ignore: Option<i32>,
    /// The field number in the oneof `type`, and the message.
    kind: Option<(u32, Vec<u8>)>,
}

const CEL: &str = "has a rule in CEL, which is not available: use standard rules, or level \"required\"";

impl Compiler {
    /// The groups of `(buf.validate.message).oneof`.
    pub(crate) fn groups(message: &Message) -> Result<Vec<Group>, String> {
        let mut groups = Vec::new();
        for option in fields(&message.rules)? {
            match option.number {
                4 => groups.push(group(message, option.bytes)?),
                3 | 5 => return Err(CEL.to_owned()),
                other => return Err(unknown(other)),
            }
        }
        Ok(groups)
    }

    /// Whether the messages in the field are not checked: `IGNORE_ALWAYS` on the field, its items or its values. What
    /// cannot be read is refused elsewhere.
    pub(crate) fn leaves_alone(field: &Field) -> bool {
        let within = |bytes: &[u8], number: u32| -> Vec<u8> {
            let all = fields(bytes).unwrap_or_default();
            let parts = all.iter().filter(|option| option.number == number);
            parts.flat_map(|option| option.bytes).copied().collect()
        };
        let ignored = |bytes: &[u8]| {
            let all = fields(bytes).unwrap_or_default();
            let last = all.iter().rev().find(|option| option.number == 27);
            last.and_then(|option| option.number_of(Kind::Int32).ok()) == Some(i128::from(IGNORE_ALWAYS))
        };
        ignored(&field.rules)
            || match field.shape {
                Shape::Singular => false,
                Shape::Repeated => ignored(&within(&within(&field.rules, 18), 4)),
                Shape::Map => ignored(&within(&within(&field.rules, 19), 5)),
            }
    }

    /// The rules of a field; `grouped`: it is in a group, so that it is judged only when it is set.
    pub(crate) fn field(&mut self, table: &Table, field: &Field, grouped: bool) -> Result<Compiled, String> {
        let rules = read(&field.rules)?;
        let mut compiled = Compiled {
            ignore_zero: rules
                .ignore
                .map_or(grouped, |ignore| ignore == IGNORE_IF_ZERO_VALUE),
            ..Compiled::default()
        };
        let (Some((number, rules)), false) = (rules.kind, rules.ignore == Some(IGNORE_ALWAYS)) else {
            return Ok(Compiled::default());
        };
        match (number, field.shape) {
            (18, Shape::Repeated) => self.repeated(table, field.kind, &rules, &mut compiled)?,
            (19, Shape::Map) => self.map(table, field.kind, &rules, &mut compiled)?,
            (18 | 19, _) | (_, Shape::Repeated | Shape::Map) => return Err(misfit(number)),
            _ => {
                compiled.value = Some(Rule {
                    // Where presence is tracked, a zero that is set is a value.
                    ignore_zero: compiled.ignore_zero && field.presence == Presence::Implicit,
                    check: self.check(table, field.kind, number, &rules)?,
                });
            }
        }
        Ok(compiled)
    }

    fn repeated(
        &mut self,
        table: &Table,
        kind: Kind,
        rules: &[u8],
        compiled: &mut Compiled,
    ) -> Result<(), String> {
        let mut items = Vec::new();
        for option in fields(rules)? {
            match option.number {
                1 => compiled.least = option.count()?,
                2 => compiled.most = Some(option.count()?),
                3 => compiled.unique = option.flag()?,
                4 => items.extend_from_slice(option.bytes),
                other => return Err(unknown(other)),
            }
        }
        if compiled.unique && kind.message().is_some() {
            return Err("has the rule unique, which only scalars and enums can keep".to_owned());
        }
        compiled.value = self.element(table, kind, &items)?;
        Ok(())
    }

    fn map(
        &mut self,
        table: &Table,
        kind: Kind,
        rules: &[u8],
        compiled: &mut Compiled,
    ) -> Result<(), String> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for option in fields(rules)? {
            match option.number {
                1 => compiled.least = option.count()?,
                2 => compiled.most = Some(option.count()?),
                4 => keys.extend_from_slice(option.bytes),
                5 => values.extend_from_slice(option.bytes),
                other => return Err(unknown(other)),
            }
        }
        let entry = kind.message().and_then(|at| table.messages.get(at as usize));
        let [key, value] = entry.map_or(&[][..], |entry| &entry.fields[..]) else {
            return Err(misfit(19));
        };
        compiled.keys = self.element(table, key.kind, &keys)?;
        compiled.values = self.element(table, value.kind, &values)?;
        Ok(())
    }

    /// The rules of items, keys or values.
    fn element(&mut self, table: &Table, kind: Kind, rules: &[u8]) -> Result<Option<Rule>, String> {
        let rules = read(rules)?;
        let (Some((number, own)), false) = (rules.kind, rules.ignore == Some(IGNORE_ALWAYS)) else {
            return Ok(None);
        };
        Ok(Some(Rule {
            ignore_zero: rules.ignore == Some(IGNORE_IF_ZERO_VALUE),
            check: self.check(table, kind, number, &own)?,
        }))
    }

    /// The rules of one type, which have to be those of the kind.
    fn check(&mut self, table: &Table, kind: Kind, number: u32, rules: &[u8]) -> Result<Check, String> {
        if let Some(at) = kind.message() {
            let message = &table.messages[at as usize];
            return Ok(match (message.well_known, number) {
                (Some(WellKnown::Wrapper), _) => {
                    let Some(value) = message.fields.first() else {
                        return Err(misfit(number));
                    };
                    Check::Wrapped(
                        value.kind,
                        Box::new(self.check(table, value.kind, number, rules)?),
                    )
                }
                (Some(WellKnown::Any), 20) => Check::Any(Box::new(urls(rules)?)),
                (Some(WellKnown::Duration), 21) => Check::Duration(Box::new(duration(rules)?)),
                (Some(WellKnown::Timestamp), 22) => Check::Timestamp(Box::new(timestamp(rules)?)),
                (Some(WellKnown::FieldMask), 28) => Check::Mask(Box::new(mask(rules)?)),
                _ => return Err(misfit(number)),
            });
        }
        let names: [(&'static str, Kind); 12] = [
            ("float", Kind::Float),
            ("double", Kind::Double),
            ("int32", Kind::Int32),
            ("int64", Kind::Int64),
            ("uint32", Kind::Uint32),
            ("uint64", Kind::Uint64),
            ("sint32", Kind::Sint32),
            ("sint64", Kind::Sint64),
            ("fixed32", Kind::Fixed32),
            ("fixed64", Kind::Fixed64),
            ("sfixed32", Kind::Sfixed32),
            ("sfixed64", Kind::Sfixed64),
        ];
        Ok(match (number, kind) {
            (1..=12, _) => {
                let (name, of) = names[number as usize - 1];
                if of != kind {
                    return Err(misfit(number));
                }
                if number <= 2 {
                    let (range, finite) = floats(kind, rules)?;
                    Check::Float(name, Box::new(range), finite)
                } else {
                    Check::Integer(name, Box::new(integers(kind, rules)?))
                }
            }
            (13, Kind::Bool) => Check::Bool(boolean(rules)?),
            (14, Kind::String) => Check::Text(Box::new(self.text(rules)?)),
            (15, Kind::Bytes) => Check::Bytes(Box::new(self.bytes(rules)?)),
            (16, Kind::Enum(at)) => {
                let (range, defined) = enumeration(rules)?;
                Check::Enum(Box::new(range), defined.then_some(at))
            }
            _ => return Err(misfit(number)),
        })
    }

    fn text(&mut self, rules: &[u8]) -> Result<TextRules, String> {
        let mut out = TextRules::default();
        let mut header = (0, true);
        for option in fields(rules)? {
            match option.number {
                1 => out.constant = Some(option.text()?.into()),
                2 => out.min_len = Some(option.count()?),
                3 => out.max_len = Some(option.count()?),
                4 => out.min_bytes = Some(option.count()?),
                5 => out.max_bytes = Some(option.count()?),
                6 => {
                    let pattern = option.text()?;
                    out.pattern = Some((pattern.into(), self.patterns.compile(pattern)?));
                }
                7 => out.prefix = Some(option.text()?.into()),
                8 => out.suffix = Some(option.text()?.into()),
                9 => out.contains = Some(option.text()?.into()),
                10 => add(&mut out.among, option.text()?.into()),
                11 => add(&mut out.not_among, option.text()?.into()),
                19 => out.len = Some(option.count()?),
                20 => out.len_bytes = Some(option.count()?),
                23 => out.not_contains = Some(option.text()?.into()),
                24 => header.0 = option.count()?,
                25 => header.1 = option.flag()?,
                34 => {}
                number => {
                    let format = format_of(number).ok_or_else(|| unknown(number))?;
                    out.format = option.flag()?.then_some(format);
                }
            }
        }
        let named = |id, what, empty, fits| {
            Some(Format {
                id,
                what,
                empty,
                fits,
            })
        };
        match header {
            (0, _) => {}
            (1, strict) => {
                let fits = if strict {
                    |text: &str| is_header_name(text, true)
                } else {
                    |text: &str| is_header_name(text, false)
                };
                let what = "HTTP header name";
                out.format = named("well_known_regex.header_name", what, Some(what), fits);
            }
            (2, strict) => {
                let fits = if strict {
                    |text: &str| is_header_value(text, true)
                } else {
                    |text: &str| is_header_value(text, false)
                };
                out.format = named("well_known_regex.header_value", "HTTP header value", None, fits);
            }
            (other, _) => {
                return Err(format!(
                    "names the well-known pattern {other}, which is not known"
                ));
            }
        }
        Ok(out)
    }

    fn bytes(&mut self, rules: &[u8]) -> Result<BytesRules, String> {
        let mut out = BytesRules::default();
        for option in fields(rules)? {
            match option.number {
                1 => out.constant = Some(option.bytes.into()),
                2 => out.min_len = Some(option.count()?),
                3 => out.max_len = Some(option.count()?),
                4 => {
                    let pattern = option.text()?;
                    out.pattern = Some((pattern.into(), self.patterns.compile(pattern)?));
                }
                5 => out.prefix = Some(option.bytes.into()),
                6 => out.suffix = Some(option.bytes.into()),
                7 => out.contains = Some(option.bytes.into()),
                8 => add(&mut out.among, option.bytes.into()),
                9 => add(&mut out.not_among, option.bytes.into()),
                10 => out.format = option.flag()?.then_some(("ip", "IP address", &[4, 16])),
                11 => out.format = option.flag()?.then_some(("ipv4", "IPv4 address", &[4])),
                12 => out.format = option.flag()?.then_some(("ipv6", "IPv6 address", &[16])),
                13 => out.len = Some(option.count()?),
                14 => {}
                15 => out.format = option.flag()?.then_some(("uuid", "UUID", &[16])),
                other => return Err(unknown(other)),
            }
        }
        Ok(out)
    }
}

/// The parts of a `FieldRules`. Several occurrences of a type's rules are one message.
fn read(bytes: &[u8]) -> Result<Rules, String> {
    let mut rules = Rules::default();
    for option in fields(bytes)? {
        match option.number {
            25 => {}
            27 => {
                let ignore = i32::try_from(option.number_of(Kind::Int32)?).unwrap_or(-1);
                if ![0, IGNORE_IF_ZERO_VALUE, IGNORE_ALWAYS].contains(&ignore) {
                    return Err(format!("has ignore = {ignore}, which is not known"));
                }
                rules.ignore = Some(ignore);
            }
            23 | 29 => return Err(CEL.to_owned()),
            number @ (1..=16 | 18..=22 | 28) => match &mut rules.kind {
                Some((known, merged)) if *known == number => merged.extend_from_slice(option.bytes),
                Some(_) => return Err("has the rules of two types".to_owned()),
                none => *none = Some((number, option.bytes.to_vec())),
            },
            other => return Err(unknown(other)),
        }
    }
    Ok(rules)
}

fn group(message: &Message, bytes: &[u8]) -> Result<Group, String> {
    let mut group = Group {
        fields: Vec::new(),
        required: false,
        names: String::new(),
    };
    let mut names = Vec::new();
    for option in fields(bytes)? {
        match option.number {
            1 => {
                let name = option.text()?;
                let at = message.fields.iter().position(|field| *field.name == *name);
                let at = at.and_then(|at| u32::try_from(at).ok());
                let at =
                    at.ok_or_else(|| format!("names {name:?} in a oneof rule, which is no field of it"))?;
                if group.fields.contains(&at) {
                    return Err(format!("names {name:?} twice in a oneof rule"));
                }
                group.fields.push(at);
                names.push(name);
            }
            2 => group.required = option.flag()?,
            other => return Err(unknown(other)),
        }
    }
    if group.fields.is_empty() {
        return Err("has a oneof rule without fields".to_owned());
    }
    group.names = names.join(", ");
    Ok(group)
}

fn misfit(number: u32) -> String {
    const NAMES: [&str; 29] = [
        "?",
        "float",
        "double",
        "int32",
        "int64",
        "uint32",
        "uint64",
        "sint32",
        "sint64",
        "fixed32",
        "fixed64",
        "sfixed32",
        "sfixed64",
        "bool",
        "string",
        "bytes",
        "enum",
        "?",
        "repeated",
        "map",
        "any",
        "duration",
        "timestamp",
        "?",
        "?",
        "?",
        "?",
        "?",
        "field_mask",
    ];
    let name = NAMES.get(number as usize).unwrap_or(&"?");
    format!("has {name} rules, which its type cannot keep")
}

fn add<T: Clone + Eq + std::hash::Hash>(set: &mut Set<T>, value: T) {
    set.0.push(value.clone());
    set.1.insert(value);
}
