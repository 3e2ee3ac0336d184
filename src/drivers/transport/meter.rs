//! The bytes that this node carries between others that no hole comes about for, counted and bounded where they pass: in the
//! streams by which a relay reaches the far end of a circuit. libp2p bounds each circuit, and tells nobody how much it took.
//!
//! The first bytes of each circuit are free: a relay is there for what is said before a hole. What comes after them is
//! taken out of the budget before it moves, so that the budget is never passed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerEvent};
use libp2p::relay;

use crate::drivers::transport::limits::{RELAY_CIRCUIT_BYTES_MAX, RELAY_TAKE_BYTES_MAX};

/// Bytes in which a stream that we open has named its protocol: two short lines.
const NAMED_WITHIN_BYTES: usize = 128;

/// What may still be carried, and what was.
#[derive(Debug, Default)]
pub struct Meter {
    left: AtomicU64,
    carried: AtomicU64,
}

impl Meter {
    /// So many bytes more may be carried, whatever was left before.
    pub fn allow(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that may still be carried.
    pub fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Bytes carried out of budgets since the start; it never falls.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Takes up to so many bytes out of what is left.
    fn take(&self, wanted: u64) -> u64 {
        let less = |left: u64| Some(left.saturating_sub(wanted));
        let before = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_else(|left| left);
        before.min(wanted)
    }

    /// Of bytes that were taken, these moved and those did not.
    fn moved(&self, moved: u64, rest: u64) {
        self.carried.fetch_add(moved, Ordering::Relaxed);
        let more = |left: u64| Some(left.saturating_add(rest));
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

/// A connection in which circuits are counted.
pub(crate) struct Metered<M> {
    inner: M,
    meter: Arc<Meter>,
}

impl<M> Metered<M> {
    pub(crate) fn new(inner: M, meter: Arc<Meter>) -> Self {
        Self { inner, meter }
    }
}

impl<M> StreamMuxer for Metered<M>
where
    M: StreamMuxer + Unpin,
    M::Substream: Unpin,
{
    type Substream = MeteredStream<M::Substream>;
    type Error = M::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_inbound(cx))?;
        Poll::Ready(Ok(MeteredStream { inner: stream, meter: Arc::clone(&self.meter), kind: Kind::Other }))
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Self::Substream, M::Error>> {
        let stream = ready!(Pin::new(&mut self.inner).poll_outbound(cx))?;
        let kind = Kind::Unnamed(Vec::new());
        Poll::Ready(Ok(MeteredStream { inner: stream, meter: Arc::clone(&self.meter), kind }))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, M::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// What a stream is for.
enum Kind {
    /// We have opened it and not named its protocol yet; what was written so far.
    Unnamed(Vec<u8>),
    /// The far half of a circuit; so many bytes of it are still free.
    Circuit {
        free: u64,
    },
    Other,
}

/// A stream of such a connection.
pub(crate) struct MeteredStream<S> {
    inner: S,
    meter: Arc<Meter>,
    kind: Kind,
}

impl<S> MeteredStream<S> {
    /// Moves up to `wanted` bytes by `act`, which is told how many it may.
    fn within(
        &mut self,
        wanted: usize,
        act: impl FnOnce(&mut S, usize) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let Kind::Circuit { free } = &mut self.kind else { return act(&mut self.inner, wanted) };
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX).min(RELAY_TAKE_BYTES_MAX);
        let gratis = wanted.min(*free);
        let taken = self.meter.take(wanted.saturating_sub(gratis));
        let allowed = gratis.saturating_add(taken);
        if allowed == 0 && wanted > 0 {
            return Poll::Ready(Err(io::Error::other("what this relay may carry in a month is spent")));
        }
        let done = act(&mut self.inner, usize::try_from(allowed).unwrap_or(usize::MAX));
        let moved = match &done {
            Poll::Ready(Ok(moved)) => u64::try_from(*moved).unwrap_or(u64::MAX),
            _ => 0,
        };
        *free = free.saturating_sub(moved);
        let paid = moved.saturating_sub(gratis).min(taken);
        self.meter.moved(paid, taken.saturating_sub(paid));
        done
    }

    /// Learns from what was written whether this is a circuit.
    fn wrote(&mut self, bytes: &[u8]) {
        let Kind::Unnamed(seen) = &mut self.kind else { return };
        seen.extend_from_slice(bytes);
        let name = relay::STOP_PROTOCOL_NAME;
        if seen.windows(name.as_ref().len()).any(|part| part == name.as_ref().as_bytes()) {
            self.kind = Kind::Circuit { free: RELAY_CIRCUIT_BYTES_MAX };
        } else if seen.len() >= NAMED_WITHIN_BYTES {
            self.kind = Kind::Other;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for MeteredStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let wanted = buffer.len();
        self.within(wanted, |inner, allowed| {
            let (room, _) = buffer.split_at_mut(allowed.min(wanted));
            Pin::new(inner).poll_read(cx, room)
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MeteredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wanted = match &self.kind {
            // So that nothing passes before it is known what it is.
            Kind::Unnamed(seen) => bytes.len().min(NAMED_WITHIN_BYTES.saturating_sub(seen.len())),
            _ => bytes.len(),
        };
        let written = ready!(self.within(wanted, |inner, allowed| {
            let (part, _) = bytes.split_at(allowed.min(bytes.len()));
            Pin::new(inner).poll_write(cx, part)
        }))?;
        self.wrote(bytes.get(..written).unwrap_or(bytes));
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _, Cursor};

    use super::*;

    fn opened(meter: &Arc<Meter>, inner: Cursor<Vec<u8>>) -> MeteredStream<Cursor<Vec<u8>>> {
        MeteredStream { inner, meter: Arc::clone(meter), kind: Kind::Unnamed(Vec::new()) }
    }

    /// The first words of a stream of this protocol, as libp2p writes them.
    fn words(name: &str) -> Vec<u8> {
        let line = |text: &str| [&[u8::try_from(text.len() + 1).expect("short")], text.as_bytes(), b"\n"].concat();
        [line("/multistream/1.0.0"), line(name)].concat()
    }

    /// How many bytes of zeros a stream takes, until it fails.
    async fn takes(stream: &mut MeteredStream<Cursor<Vec<u8>>>, most: usize) -> usize {
        let mut written = 0;
        while written < most {
            match stream.write(&vec![0; (most - written).min(7000)]).await {
                Ok(more) => written += more,
                Err(_) => break,
            }
        }
        written
    }

    #[tokio::test]
    async fn a_circuit_takes_what_is_free_and_then_the_budget_and_not_a_byte_more() {
        let meter = Arc::new(Meter::default());
        meter.allow(100_000);
        let free = usize::try_from(RELAY_CIRCUIT_BYTES_MAX).expect("small");
        for (left, expected) in [(100_000, 100_000), (0, 0)] {
            assert_eq!(meter.left(), left);
            let mut stream = opened(&meter, Cursor::new(Vec::new()));
            // In pieces, as it may be written.
            for part in words(relay::STOP_PROTOCOL_NAME.as_ref()).chunks(9) {
                stream.write_all(part).await.expect("it is free");
            }
            assert_eq!(takes(&mut stream, usize::MAX).await, free + expected, "{left}");
        }
        assert_eq!((meter.left(), meter.carried()), (0, 100_000));
    }

    #[tokio::test]
    async fn what_comes_back_counts_as_well_and_what_did_not_move_does_not() {
        let meter = Arc::new(Meter::default());
        meter.allow(1_000_000);
        let stream = Cursor::new(vec![0; 200_000]);
        let mut stream =
            MeteredStream { inner: stream, meter: Arc::clone(&meter), kind: Kind::Circuit { free: 50_000 } };
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.expect("within the budget");
        assert_eq!((all.len(), meter.carried(), meter.left()), (200_000, 150_000, 850_000));
    }

    #[tokio::test]
    async fn other_streams_are_not_counted() {
        let meter = Arc::new(Meter::default());
        for name in ["/ipfs/ping/1.0.0", "/piecework/data/1", relay::HOP_PROTOCOL_NAME.as_ref()] {
            let mut stream = opened(&meter, Cursor::new(Vec::new()));
            stream.write_all(&words(name)).await.expect("free");
            assert_eq!(takes(&mut stream, 1 << 20).await, 1 << 20, "{name}");
        }
        assert_eq!(meter.carried(), 0);
    }
}
