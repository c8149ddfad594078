//! A body as it passes.

use bytes::Bytes;

/// What was seen of a body. One frame is kept as it is: a reference count. A frame holds on to all of the buffer that a
/// server read it into, so those of a body of several are copied as they come (ADR 0049).
#[derive(Debug, Default)]
pub(crate) enum Frames {
    #[default]
    None,
    One(Bytes),
    Own(Vec<u8>),
}

/// The least that is taken for the bytes to come, when a second frame comes.
const OWN_MIN: usize = 1_024;

impl Frames {
    /// A body of which each frame is copied.
    pub(crate) const fn own() -> Self {
        Self::Own(Vec::new())
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(frame) => frame.len(),
            Self::Own(bytes) => bytes.len(),
        }
    }

    /// How many bytes more are held when a frame of `bytes` comes to a body of at most `most`.
    pub(crate) fn growth(&self, bytes: usize, most: usize) -> usize {
        match self {
            Self::None => bytes,
            Self::One(frame) => room(frame.len(), frame.len() + bytes, most) - frame.len(),
            Self::Own(own) => room(own.capacity(), own.len() + bytes, most) - own.capacity(),
        }
    }

    /// Adds a frame to a body of at most `most` bytes.
    pub(crate) fn push(&mut self, frame: &Bytes, most: usize) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(frame.clone()),
            Self::One(first) => {
                let mut own = Vec::with_capacity(room(first.len(), first.len() + frame.len(), most));
                own.extend_from_slice(&first);
                own.extend_from_slice(frame);
                Self::Own(own)
            }
            Self::Own(mut own) => {
                own.reserve_exact(room(own.capacity(), own.len() + frame.len(), most) - own.len());
                own.extend_from_slice(frame);
                Self::Own(own)
            }
        };
    }

    /// Whether it holds on to a buffer that is not its own.
    pub(crate) const fn is_pinning(&self) -> bool {
        matches!(self, Self::One(_))
    }

    /// The same bytes in a buffer of their own.
    pub(crate) fn unpin(&mut self) {
        if let Self::One(frame) = self {
            *self = Self::Own(frame.to_vec());
        }
    }

    pub(crate) fn join(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(frame) => frame,
            Self::Own(bytes) => bytes.into(),
        }
    }
}

/// The room to have for `needed` bytes where there is room for `now`: twice as much, if a body of `most` may need that.
fn room(now: usize, needed: usize, most: usize) -> usize {
    if needed <= now {
        now
    } else {
        now.saturating_mul(2).max(OWN_MIN).min(most).max(needed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are held, beside what is not its own.
    fn held(frames: &Frames) -> usize {
        match frames {
            Frames::Own(own) => own.capacity(),
            other => other.len(),
        }
    }

    #[test]
    fn what_is_held_is_what_was_told_whatever_the_frames() {
        const MOST: usize = 5_000;
        for first in [Frames::None, Frames::own()] {
            let (mut frames, mut told, mut sent) = (first, 0, Vec::new());
            for size in [1, 700, 1, 1, 321, 2_000, 0, 976, 1_000] {
                let frame = Bytes::from(vec![size as u8; size]);
                told += frames.growth(size, MOST);
                frames.push(&frame, MOST);
                sent.extend_from_slice(&frame);
                assert_eq!((frames.len(), held(&frames)), (sent.len(), told), "{size}");
            }
            assert_eq!(told, MOST);
            assert_eq!(frames.join(), sent);
        }
    }

    #[test]
    fn one_frame_is_a_reference_until_it_is_unpinned_and_several_never_are() {
        let read = Bytes::from(vec![7; 100]);
        let mut frames = Frames::None;
        frames.push(&read.slice(..10), 100);
        assert!(frames.is_pinning() && !read.is_unique());
        frames.unpin();
        assert!(!frames.is_pinning() && read.is_unique());
        let mut frames = Frames::None;
        frames.push(&read.slice(..10), 100);
        frames.push(&read.slice(10..20), 100);
        assert!(!frames.is_pinning() && read.is_unique());
        assert_eq!(frames.join(), read.slice(..20));
    }
}
