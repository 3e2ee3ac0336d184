//! Getting a manifest's bytes from a peer, a range at a time. What they mean is for the asker to judge.

use tokio::sync::oneshot;

use crate::services::node::limits::{ENVELOPE_BYTES_MAX, MANIFEST_RANGE_BYTES};
use crate::wire::Frame;

/// Gathers the envelope's bytes of one topic from one peer.
pub(crate) struct ManifestSink {
    bytes: Vec<u8>,
    total: Option<u64>,
    done: Option<oneshot::Sender<Option<Vec<u8>>>>,
}

impl ManifestSink {
    /// A sink and where its result arrives: `None` where the peer has nothing, or lies about its length.
    pub(crate) fn new() -> (Self, oneshot::Receiver<Option<Vec<u8>>>) {
        let (done, result) = oneshot::channel();
        (Self { bytes: Vec::new(), total: None, done: Some(done) }, result)
    }

    /// The first question, once the peer can be addressed.
    pub(crate) fn begin(&mut self, theirs: u32) -> Option<Frame> {
        self.total.is_none().then_some(Frame::GetManifest { handle: theirs, offset: 0, length: MANIFEST_RANGE_BYTES })
    }

    /// Takes one answer; returns the next question while bytes are missing. Memory follows what has arrived, not what
    /// was promised.
    pub(crate) fn take(&mut self, theirs: u32, total: u64, offset: u64, bytes: &[u8]) -> Option<Frame> {
        let held = self.bytes.len() as u64;
        let end = held.saturating_add(bytes.len() as u64);
        let consistent = total <= ENVELOPE_BYTES_MAX
            && self.total.is_none_or(|said| said == total)
            && offset == held
            && !bytes.is_empty()
            && end <= total;
        if !consistent {
            self.finish(None);
            return None;
        }
        self.total = Some(total);
        self.bytes.extend_from_slice(bytes);
        if end == total {
            let bytes = std::mem::take(&mut self.bytes);
            self.finish(Some(bytes));
            return None;
        }
        Some(Frame::GetManifest { handle: theirs, offset: end, length: MANIFEST_RANGE_BYTES })
    }

    /// The peer does not have it.
    pub(crate) fn refused(mut self) {
        self.finish(None);
    }

    fn finish(&mut self, result: Option<Vec<u8>>) {
        if let Some(done) = self.done.take() {
            // Nobody waits any more once another peer was quicker.
            let _ = done.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_gathered_in_order_and_lies_end_it() {
        let (mut sink, mut result) = ManifestSink::new();
        assert!(sink.begin(7).is_some());
        assert!(matches!(sink.take(7, 5, 0, b"abc"), Some(Frame::GetManifest { offset: 3, .. })));
        assert!(sink.take(7, 5, 3, b"de").is_none());
        assert_eq!(result.try_recv(), Ok(Some(b"abcde".to_vec())));
        for (total, offset, bytes) in [(u64::MAX, 0, &b"a"[..]), (5, 1, b"a"), (5, 0, b""), (5, 0, b"abcdef")] {
            let (mut sink, mut result) = ManifestSink::new();
            assert!(sink.take(7, total, offset, bytes).is_none());
            assert_eq!(result.try_recv(), Ok(None), "{total} {offset}");
        }
    }
}
