//! Tags of one byte: most fields have one, and most ask nothing of a value but its form.

use super::{Node, Op};

/// A tag of one byte.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Quick {
    /// How its value is read, where that is all there is to do.
    pub(crate) plain: Plain,
    /// 0, or 1 + the index of the step.
    pub(crate) place: u8,
}

/// A value that nothing but its form is asked of: neither presence nor rules nor what it means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Plain {
    /// More is asked, or nothing is known.
    #[default]
    No,
    Varint,
    Fixed64,
    Fixed32,
    Bytes,
    Text,
}

impl Node {
    /// Fills the table of short tags, once the steps are what they will be.
    pub(super) fn index(&mut self) {
        for (index, step) in self
            .steps
            .iter()
            .enumerate()
            .take_while(|(index, _)| *index < 255)
        {
            let Some(quick) = self.quick.get_mut(step.tag as usize) else {
                break;
            };
            quick.place = u8::try_from(index + 1).expect("taken below 255");
            if self.rules.is_none() && step.set | step.clear == 0 {
                quick.plain = step.op.plain();
            }
        }
    }

    /// Whether every sequence of its plain fields is a whole message.
    #[inline]
    pub(crate) fn asks_nothing(&self) -> bool {
        self.mask == 0 && !self.crowded && self.rules.is_none()
    }
}

impl Op {
    /// How a value of this form is read if nothing else is asked of it.
    const fn plain(self) -> Plain {
        match self {
            Self::Varint => Plain::Varint,
            Self::Fixed64 => Plain::Fixed64,
            Self::Fixed32 => Plain::Fixed32,
            Self::Bytes => Plain::Bytes,
            Self::Text => Plain::Text,
            Self::Closed
            | Self::Message
            | Self::Group
            | Self::PackedVarint
            | Self::PackedClosed
            | Self::PackedFixed64
            | Self::PackedFixed32 => Plain::No,
        }
    }
}
