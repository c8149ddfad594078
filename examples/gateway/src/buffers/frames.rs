//! The frames of an HTTP/2 connection, as far as they tell what is held of a head and whether anything is asked for
//! (RFC 9113, 4.1 and 6).

use std::time::Duration;

use tokio::time::Instant;

use super::heads::HEAD_BYTES_MAX;

/// What a client says first.
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What stands before each frame's payload.
const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
/// What a list of headers that goes on in the next frame is counted with, in bytes: a byte may name a whole header, and the map
/// of a list of 64 KiB takes up to three times as much.
pub(super) const LIST_BYTES: usize = 3 * HEAD_BYTES_MAX;
/// How many frames may come in a row that ask for nothing and carry nothing.
pub(super) const ROW_MAX: u32 = 1_000;
/// What a row may not be faster than.
const ROW_TIME: Duration = Duration::from_secs(10);
/// How much written excuses one of them, in bytes: a window is opened for what was sent. To answer a ping takes 17.
const EXCUSE_BYTES: usize = 32;

/// Too many frames in a row asked for nothing, in too short a time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// Where in its frames a connection is.
pub(super) struct Frames {
    /// What has come of a frame's head.
    head: [u8; FRAME_HEAD_BYTES],
    headed: usize,
    kind: u8,
    ends_headers: bool,
    /// What has come of a frame's payload, and what is to come.
    had: usize,
    left: usize,
    /// Whether a list of headers goes on in the next frame.
    goes_on: bool,
    /// When what is no body and not whole began.
    begun: Option<Instant>,
    row: u32,
    /// When the row was looked at last.
    since: Instant,
    /// What was written during the row, in bytes.
    written: usize,
}

impl Frames {
    pub(super) fn new() -> Self {
        Self {
            head: [0; FRAME_HEAD_BYTES],
            headed: 0,
            kind: DATA,
            ends_headers: false,
            had: 0,
            left: 0,
            goes_on: false,
            begun: None,
            row: 0,
            since: Instant::now(),
            written: 0,
        }
    }

    /// What is held of what is no body and not whole, in bytes.
    pub(super) const fn unfinished(&self) -> usize {
        let list = if self.goes_on { LIST_BYTES } else { 0 };
        match self.kind {
            DATA => list,
            _ => list + self.had,
        }
    }

    /// When that began.
    pub(super) const fn begun(&self) -> Option<Instant> {
        self.begun
    }

    pub(super) const fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes);
    }

    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Flood> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let (came, rest) = bytes.split_at(bytes.len().min(FRAME_HEAD_BYTES - self.headed));
                self.head[self.headed..][..came.len()].copy_from_slice(came);
                self.headed += came.len();
                bytes = rest;
                if self.headed == FRAME_HEAD_BYTES {
                    self.begin()?;
                }
            } else {
                let came = bytes.len().min(self.left);
                (self.had, self.left) = (self.had + came, self.left - came);
                bytes = &bytes[came..];
            }
            if self.headed == FRAME_HEAD_BYTES && self.left == 0 {
                self.end();
            }
        }
        // The clock is looked at once for each head that does not come in one piece.
        let is_frame = self.headed == FRAME_HEAD_BYTES && self.kind != DATA;
        if (self.goes_on || is_frame) && self.begun.is_none() {
            self.begun = Some(Instant::now());
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Flood> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.left = u32::from_be_bytes([0, a, b, c]) as usize;
        self.kind = kind;
        self.ends_headers = flags & END_HEADERS != 0;
        match kind {
            HEADERS => self.asked(),
            DATA if self.left > 0 => self.asked(),
            // h2 bounds how many there may be.
            CONTINUATION => {}
            _ => self.idle()?,
        }
        Ok(())
    }

    fn end(&mut self) {
        if matches!(self.kind, HEADERS | CONTINUATION) {
            self.goes_on = !self.ends_headers;
        }
        if !self.goes_on {
            self.begun = None;
        }
        (self.headed, self.had) = (0, 0);
    }

    const fn asked(&mut self) {
        (self.row, self.written) = (0, 0);
    }

    /// One more that asks for nothing. The clock is looked at once in a whole row.
    fn idle(&mut self) -> Result<(), Flood> {
        self.row += 1;
        if self.row <= ROW_MAX {
            return Ok(());
        }
        let now = Instant::now();
        let is_slow = now.saturating_duration_since(self.since) >= ROW_TIME;
        if !is_slow && self.written < ROW_MAX as usize * EXCUSE_BYTES {
            return Err(Flood);
        }
        (self.row, self.since, self.written) = (1, now, 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
