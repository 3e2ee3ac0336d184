//! The three buffers of a TLS stream. They grow with the traffic, to a bound, and give everything back when asked.

use tokio::io::ReadBuf;

use crate::drivers::transport::limits::READ_BYTES_MIN;

/// Longest record on the wire, header included (RFC 8446, 5.2).
const RECORD_BYTES_MAX: usize = 5 + 16_384 + 256;

/// Writes in a row that need little of a long buffer, before it is given up.
const LOOSE_WRITES_MAX: u8 = 32;

/// The writer gave up.
#[derive(Debug)]
pub(crate) struct NoRoom;

/// Ciphertext that has come and has not been opened: `bytes[start..end]`.
#[derive(Default)]
pub(crate) struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all its room: more would have come.
    eager: bool,
}

impl Incoming {
    pub(crate) fn length(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    pub(crate) fn waiting(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn discard(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room behind what waits: for a whole record at least, unless that would pass `bytes_max`. `None` where the buffer
    /// is full, though it is as long as it may be.
    pub(crate) fn room(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        if self.bytes.len().saturating_sub(self.end) < RECORD_BYTES_MAX && self.start > 0 {
            // At most a record that is not whole yet.
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.length());
        }
        if self.bytes.is_empty() || self.end == self.bytes.len() || self.eager {
            let longer = self.bytes.len().saturating_mul(4).clamp(READ_BYTES_MIN, bytes_max);
            if longer > self.bytes.len() {
                self.bytes.resize(longer, 0);
            }
            self.eager = false;
        }
        self.bytes.get_mut(self.end..).filter(|room| !room.is_empty())
    }

    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end = self.end.saturating_add(bytes).min(self.bytes.len());
        self.eager = bytes > 0 && self.end == self.bytes.len();
    }

    pub(crate) fn allocated(&self) -> usize {
        self.bytes.capacity()
    }

    /// Frees all but what waits.
    pub(crate) fn release(&mut self) {
        self.bytes = self.waiting().to_vec();
        (self.start, self.end) = (0, self.bytes.len());
    }
}

/// Ciphertext that waits for the socket: `bytes[start..end]`.
#[derive(Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Writes in a row that needed less than a quarter of it.
    loose: u8,
}

impl Outgoing {
    /// Before a write of so many bytes: a buffer that has long been much longer than what is written is given up.
    pub(crate) fn fit(&mut self, bytes: usize) {
        // What is said between pieces is short and says nothing of the next piece.
        if !self.is_empty() || bytes < RECORD_BYTES_MAX {
            return;
        }
        self.loose = if self.bytes.len() / 4 > bytes { self.loose.saturating_add(1) } else { 0 };
        if self.loose >= LOOSE_WRITES_MAX {
            (self.bytes, self.loose) = (Vec::new(), 0);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    pub(crate) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.start = self.start.saturating_add(bytes).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    pub(crate) fn length(&self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Exactly `bytes` of room behind what waits.
    pub(crate) fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.start > self.length() {
            // Little is left of what was sent: it moves to the front, so that the buffer never outgrows two writes.
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.length());
        }
        let length = self.end.saturating_add(bytes);
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        self.bytes.get_mut(self.end..length).unwrap_or_default()
    }

    /// So much of the room was written.
    pub(crate) fn filled(&mut self, bytes: usize) {
        self.end = self.end.saturating_add(bytes).min(self.bytes.len());
    }

    /// Appends what `write` puts into a room of `hint` bytes, or of the size it then asks for: `Err(None)` gives up.
    pub(crate) fn append(
        &mut self,
        hint: usize,
        mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
    ) -> Result<(), NoRoom> {
        let mut needed = hint;
        for _ in 0..2 {
            match write(self.room(needed)) {
                Ok(written) => {
                    self.filled(written);
                    return Ok(());
                }
                Err(Some(more)) => needed = more,
                Err(None) => return Err(NoRoom),
            }
        }
        Err(NoRoom)
    }

    pub(crate) fn allocated(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn release(&mut self) {
        self.bytes = self.waiting().to_vec();
        (self.start, self.end) = (0, self.bytes.len());
    }
}

/// Plaintext that waits for a reader: `bytes[start..]`. Less than a record, but for what came with the handshake.
#[derive(Default)]
pub(crate) struct Plain {
    bytes: Vec<u8>,
    start: usize,
}

impl Plain {
    pub(crate) fn push(&mut self, more: &[u8]) {
        self.bytes.extend_from_slice(more);
    }

    pub(crate) fn pop(&mut self, into: &mut ReadBuf<'_>) {
        let waiting = self.bytes.get(self.start..).unwrap_or_default();
        let (now, later) = waiting.split_at(waiting.len().min(into.remaining()));
        into.put_slice(now);
        if later.is_empty() {
            self.bytes.clear();
            self.start = 0;
        } else {
            self.start = self.start.saturating_add(now.len());
        }
    }

    pub(crate) fn allocated(&self) -> usize {
        self.bytes.capacity()
    }

    pub(crate) fn release(&mut self) {
        self.bytes = self.bytes.get(self.start..).unwrap_or_default().to_vec();
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_stays_too_long_is_given_up_and_one_that_is_needed_stays() {
        let mut outgoing = Outgoing::default();
        let mut write = |bytes: usize| {
            outgoing.fit(bytes);
            outgoing.room(bytes);
            outgoing.filled(bytes);
            outgoing.sent(bytes);
            outgoing.allocated()
        };
        write(512 << 10);
        for _ in 0..1000 {
            // Messages between pieces change nothing.
            assert!(write(100) >= 512 << 10);
        }
        for _ in 0..LOOSE_WRITES_MAX - 1 {
            assert!(write(32 << 10) >= 512 << 10);
        }
        assert!(write(512 << 10) >= 512 << 10);
        let last = (0..LOOSE_WRITES_MAX).map(|_| write(32 << 10)).last();
        assert!(last.is_some_and(|bytes| bytes < 128 << 10), "{last:?}");
    }
}
