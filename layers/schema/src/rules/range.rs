//! `const`, `lt`, `lte`, `gt`, `gte`, `in` and `not_in`: the same for every ordered type.

use std::fmt::Write as _;

use super::Report;

/// Bounds and sets of one ordered type. Durations and timestamps are nanoseconds.
#[derive(Debug)]
pub(crate) struct Range<T> {
    pub(super) constant: Option<T>,
    pub(super) below: Option<Bound<T>>,
    pub(super) above: Option<Bound<T>>,
    pub(super) among: Vec<T>,
    pub(super) not_among: Vec<T>,
    /// How the type is written in a message.
    pub(super) write: fn(T) -> String,
}

/// One end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound<T> {
    pub(super) at: T,
    pub(super) inclusive: bool,
}

impl<T: Copy + PartialOrd> Range<T> {
    pub(super) fn new(write: fn(T) -> String) -> Self {
        Self {
            constant: None,
            below: None,
            above: None,
            among: Vec::new(),
            not_among: Vec::new(),
            write,
        }
    }

    /// Ids start with the type's name.
    pub(super) fn check(&self, name: &'static str, value: T, report: &mut impl Report) {
        let write = self.write;
        if let Some(constant) = self.constant
            && value != constant
            && !report.broken(format!("{name}.const"), || {
                format!("must equal {}", write(constant))
            })
        {
            return;
        }
        if !self.within(value) && !report.broken(self.id(name), || self.words()) {
            return;
        }
        if !self.among.is_empty()
            && !self.among.contains(&value)
            && !report.broken(format!("{name}.in"), || {
                format!(
                    "must be in list {}",
                    list(self.among.iter().map(|one| write(*one)))
                )
            })
        {
            return;
        }
        if self.not_among.contains(&value) {
            report.broken(format!("{name}.not_in"), || {
                let all = list(self.not_among.iter().map(|one| write(*one)));
                format!("must not be in list {all}")
            });
        }
    }

    /// NaN is within no bound.
    fn within(&self, value: T) -> bool {
        let under = |bound: &Bound<T>| value < bound.at || bound.inclusive && value == bound.at;
        let over = |bound: &Bound<T>| value > bound.at || bound.inclusive && value == bound.at;
        match (&self.below, &self.above) {
            (None, None) => true,
            (Some(below), None) => under(below),
            (None, Some(above)) => over(above),
            (Some(below), Some(above)) if below.at >= above.at => under(below) && over(above),
            // The bounds exclude what is between them.
            (Some(below), Some(above)) => under(below) || over(above),
        }
    }

    fn id(&self, name: &str) -> String {
        let below = self.below.map(|bound| if bound.inclusive { "lte" } else { "lt" });
        let above = self.above.map(|bound| if bound.inclusive { "gte" } else { "gt" });
        match (above, below) {
            (Some(above), Some(below)) => {
                let exclusive = match (self.below, self.above) {
                    (Some(below), Some(above)) if below.at < above.at => "_exclusive",
                    _ => "",
                };
                format!("{name}.{above}_{below}{exclusive}")
            }
            (one, other) => format!("{name}.{}", one.or(other).unwrap_or_default()),
        }
    }

    fn words(&self) -> String {
        let words = |bound: Bound<T>, than: &str| {
            let or_equal = if bound.inclusive { " or equal to" } else { "" };
            format!("{than} than{or_equal} {}", (self.write)(bound.at))
        };
        match (self.above, self.below) {
            (Some(above), Some(below)) => {
                let joint = if below.at < above.at { "or" } else { "and" };
                format!(
                    "must be {} {joint} {}",
                    words(above, "greater"),
                    words(below, "less")
                )
            }
            (Some(above), None) => format!("must be {}", words(above, "greater")),
            (None, Some(below)) => format!("must be {}", words(below, "less")),
            (None, None) => String::new(),
        }
    }
}

/// Longest list a message writes out, in bytes.
const LIST_BYTES_MAX: usize = 512;

/// `[a, b]`, cut when it is long.
pub(super) fn list(items: impl Iterator<Item = String>) -> String {
    let mut text = "[".to_owned();
    for (at, item) in items.enumerate() {
        if text.len() + item.len() > LIST_BYTES_MAX {
            text.push_str(", …");
            break;
        }
        let _ = write!(text, "{}{item}", if at == 0 { "" } else { ", " });
    }
    text.push(']');
    text
}
