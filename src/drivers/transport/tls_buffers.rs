//! The three buffers of a TLS stream. They grow with the traffic, to a bound, and give everything back when asked.

use std::cell::RefCell;

use tokio::io::ReadBuf;

use crate::drivers::transport::limits::READ_BYTES_MIN;

/// Longest record on the wire, header included (RFC 8446, 5.2).
const RECORD_BYTES_MAX: usize = 5 + 16_384 + 256;

/// Buffers that a thread keeps for its next writes.
const SPARE_MAX: usize = 16;
/// Bytes of them together.
const SPARE_BYTES_MAX: usize = 2 << 20;

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

/// Ciphertext that waits for the socket: `bytes[start..end]`. It has a buffer only while something waits: of a thousand
/// streams most are between two pieces, and a buffer each would be a hundred megabytes.
#[derive(Default)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// Buffers of a thread's streams that wait for nothing, the warmest last.
#[derive(Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    allocated: usize,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

impl Spare {
    /// Nothing where the thread is at its end and keeps none any more.
    fn with<T: Default>(what: impl FnOnce(&mut Self) -> T) -> T {
        SPARE.try_with(|spare| what(&mut spare.borrow_mut())).unwrap_or_default()
    }

    fn take() -> Vec<u8> {
        Self::with(|spare| {
            let bytes = spare.buffers.pop().unwrap_or_default();
            spare.allocated = spare.allocated.saturating_sub(bytes.capacity());
            bytes
        })
    }

    fn keep(bytes: Vec<u8>) {
        Self::with(|spare| {
            let allocated = spare.allocated.saturating_add(bytes.capacity());
            if allocated <= SPARE_BYTES_MAX && spare.buffers.len() < SPARE_MAX {
                spare.allocated = allocated;
                spare.buffers.push(bytes);
            }
        });
    }

    fn clear() {
        Self::with(|spare| *spare = Self::default());
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // The last stream of a thread leaves nothing behind; others have theirs back with their next writes.
        Spare::clear();
    }
}

impl Outgoing {
    /// Before so many bytes are appended: room for exactly those, where a buffer that grows by itself doubles.
    pub(crate) fn expect(&mut self, bytes: usize) {
        if self.bytes.is_empty() {
            self.bytes = Spare::take();
        }
        let length = self.end.saturating_add(bytes);
        self.bytes.reserve_exact(length.saturating_sub(self.bytes.len()));
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
            Spare::keep(std::mem::take(&mut self.bytes));
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

    /// Frees all but what waits, and what the thread keeps for the next writes.
    pub(crate) fn release(&mut self) {
        self.bytes = self.waiting().to_vec();
        (self.start, self.end) = (0, self.bytes.len());
        Spare::clear();
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

    /// Bytes of its buffer while a write waits, and after it has gone.
    fn write(outgoing: &mut Outgoing, bytes: usize) -> (usize, usize) {
        outgoing.expect(bytes);
        (0..4).for_each(|_| {
            outgoing.room(bytes / 4);
            outgoing.filled(bytes / 4);
        });
        let waiting = outgoing.allocated();
        outgoing.sent(bytes);
        (waiting, outgoing.allocated())
    }

    #[test]
    fn a_stream_has_a_buffer_only_while_something_waits() {
        Spare::clear();
        let mut outgoing = Outgoing::default();
        let (mut next, bytes) = (Outgoing::default(), 200_000);
        assert_eq!(write(&mut outgoing, bytes), (bytes, 0));
        assert_eq!(write(&mut next, 100).0, bytes, "the next stream has the same one");
    }

    #[test]
    fn a_thread_keeps_a_bounded_number_of_buffers_and_gives_them_back() {
        Spare::clear();
        let mut blocked: Vec<Outgoing> = (0..100).map(|_| Outgoing::default()).collect();
        for outgoing in &mut blocked {
            outgoing.expect(128 << 10);
            outgoing.room(128 << 10);
            outgoing.filled(128 << 10);
        }
        blocked.iter_mut().for_each(|outgoing| outgoing.sent(128 << 10));
        let kept = || Spare::with(|spare| (spare.buffers.len(), spare.allocated));
        let (buffers, bytes) = kept();
        assert!((1..=SPARE_MAX).contains(&buffers) && bytes <= SPARE_BYTES_MAX, "{buffers}, {bytes}");
        drop(blocked);
        assert_eq!(kept(), (0, 0));
    }
}
