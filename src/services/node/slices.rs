//! Buffers for payload on its way out. Each send holds one while its socket takes nothing, and a sealed copy as large beside
//! it: a thousand slow receivers would hold a gigabyte. So slices are shorter the more sends there are, and a buffer goes
//! from one send to the next, on whatever session that is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::services::node::limits::{SENDING_BYTES_MAX, SLICE_BYTES_LEAST, SLICES_SPARE_MAX};

/// The buffers of one node.
#[derive(Default)]
pub(crate) struct Slices {
    sending: AtomicUsize,
    spare: Mutex<Spare>,
}

#[derive(Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
    /// The fewest there were since the last look: so many were not needed.
    fewest: usize,
}

impl Slices {
    fn spare(&self) -> std::sync::MutexGuard<'_, Spare> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A buffer for one send, empty.
    pub(crate) fn take(&self) -> Slice<'_> {
        self.sending.fetch_add(1, Ordering::Relaxed);
        let mut spare = self.spare();
        let bytes = spare.buffers.pop().unwrap_or_default();
        spare.fewest = spare.fewest.min(spare.buffers.len());
        Slice { of: self, bytes }
    }

    /// What a slice may be long now.
    fn longest(&self) -> usize {
        (SENDING_BYTES_MAX / self.sending.load(Ordering::Relaxed).max(1)).max(SLICE_BYTES_LEAST)
    }

    /// Gives back the buffers that were not needed since the last call.
    pub(crate) fn tidy(&self) {
        let mut spare = self.spare();
        let kept = spare.buffers.len().saturating_sub(spare.fewest);
        spare.buffers.truncate(kept);
        spare.fewest = kept;
    }

    /// Whether there is nothing to give back.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.spare().buffers.is_empty()
    }
}

/// A buffer while one piece is sent.
pub(crate) struct Slice<'a> {
    of: &'a Slices,
    /// Its bytes; may be moved out for a while.
    pub(crate) bytes: Vec<u8>,
}

impl Slice<'_> {
    /// Makes it so many bytes long, or as long as it may be now if that is less.
    pub(crate) fn resize(&mut self, wanted: usize) {
        let length = wanted.min(self.of.longest());
        if self.bytes.capacity() / 2 > self.of.longest() {
            self.bytes = Vec::new();
        }
        self.bytes.resize(length, 0);
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        let longest = self.of.longest();
        self.of.sending.fetch_sub(1, Ordering::Relaxed);
        let bytes = std::mem::take(&mut self.bytes);
        let mut spare = self.of.spare();
        if bytes.capacity() > 0 && bytes.capacity() / 2 <= longest && spare.buffers.len() < SLICES_SPARE_MAX {
            spare.buffers.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_sends_hold_no_more_than_the_bound() {
        let slices = Slices::default();
        let mut held: Vec<Slice> = (0..1000).map(|_| slices.take()).collect();
        held.iter_mut().for_each(|slice| slice.resize(512 << 10));
        let sum: usize = held.iter().map(|slice| slice.bytes.capacity()).sum();
        assert!(sum <= SENDING_BYTES_MAX.max(1000 * SLICE_BYTES_LEAST), "{sum}");
        drop(held);
        assert_eq!(slices.spare().buffers.len(), SLICES_SPARE_MAX);
        let mut alone = slices.take();
        alone.resize(512 << 10);
        assert_eq!(alone.bytes.len(), 512 << 10);
    }

    #[test]
    fn a_long_buffer_is_given_up_where_many_send() {
        let slices = Slices::default();
        let mut first = slices.take();
        first.resize(512 << 10);
        let others: Vec<Slice> = (0..1000).map(|_| slices.take()).collect();
        first.resize(512 << 10);
        assert!(first.bytes.capacity() <= 2 * slices.longest());
        drop((first, others));
        slices.tidy();
        slices.tidy();
        assert!(slices.is_at_rest());
        assert_eq!(slices.sending.load(Ordering::Relaxed), 0);
    }
}
