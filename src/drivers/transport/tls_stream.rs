//! TLS 1.3 as a stream of bytes: the handshake of `tls_handshake`, the records of `tls_records`, and in between the
//! socket. Payload is sealed straight from the writer's bytes and opened straight into the reader's buffer.
//!
//! A stream that ends without TLS's own end is an error, `UnexpectedEof`: a cut must not look like an end.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::drivers::transport::limits::{BUFFERS_IDLE, READ_BYTES_MAX, SEND_BYTES_MIN, WRITE_BYTES_MAX};
use crate::drivers::transport::tls_buffers::{Incoming, Outgoing, Plain};
use crate::drivers::transport::tls_handshake::{self, Secured};
use crate::drivers::transport::tls_records::{HEADER_BYTES, Opened, RecordError, Records, room_to_open, sealed_length};

/// TLS over any duplex stream. Reads open records straight into the caller's buffer, as many as have arrived; writes
/// take up to 256 KiB at once, and small ones wait for the next write or flush. May be split between two tasks of one
/// thread or of two.
pub struct TlsStream<S> {
    io: S,
    records: Records,
    certificates: Vec<CertificateDer<'static>>,
    protocol: Option<Vec<u8>>,
    exported: Option<[u8; 32]>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Opened bytes that the last reader had no room for.
    plain: Plain,
    /// Set once: the peer's close_notify has come.
    read_ended: bool,
    /// Set once: our close_notify is in `outgoing` or sent.
    write_ended: bool,
    /// Set once: the connection is of no more use.
    failed: Option<Failure>,
    /// The last write or flush is waiting for the socket: its task is the one that the socket will wake.
    writer_waits: bool,
    idle: Option<Pin<Box<Sleep>>>,
    idle_after: Duration,
    /// How often it gave its buffers back.
    #[cfg(test)]
    releases: tokio::sync::watch::Sender<u64>,
    /// Bytes moved since `idle` was set.
    active: bool,
}

/// An error, kept so that every later call can tell it again.
#[derive(Clone)]
enum Failure {
    Record(RecordError),
    Io(io::ErrorKind, &'static str),
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Record(cause) => io::Error::new(io::ErrorKind::InvalidData, cause),
            Failure::Io(kind, words) => io::Error::new(kind, words),
        }
    }
}

const CUT: Failure = Failure::Io(io::ErrorKind::UnexpectedEof, "the stream was cut before the end of TLS");
const NO_ROOM: Failure = Failure::Io(io::ErrorKind::InvalidData, "a TLS record is longer than it may be");

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// The dialler's handshake. Returns the stream and the shortest wait for an answer: about one round trip.
    ///
    /// # Errors
    /// `InvalidData` with a [`rustls::Error`] inside for what TLS refuses, `UnexpectedEof` for a cut, else as the socket.
    pub async fn connect(mut io: S, config: Arc<ClientConfig>) -> io::Result<(Self, Duration)> {
        let secured = tls_handshake::connect(&mut io, config).await?;
        Ok(Self::new(io, secured))
    }

    /// The listener's handshake; otherwise as [`TlsStream::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn accept(mut io: S, config: Arc<ServerConfig>) -> io::Result<(Self, Duration)> {
        let secured = tls_handshake::accept(&mut io, config).await?;
        Ok(Self::new(io, secured))
    }

    /// The peer's certificates, as it sent them.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The protocol that both sides agreed on.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.protocol.as_deref()
    }

    /// 32 bytes that both ends, and they alone, can export from this connection.
    pub fn exported(&self) -> Option<[u8; 32]> {
        self.exported
    }

    #[cfg(test)]
    pub(crate) fn set_idle_after(&mut self, quiet: Duration) {
        self.idle_after = quiet;
    }

    /// Renews the sending key after so many records, rather than after millions.
    #[cfg(test)]
    pub(crate) fn set_renew_after(&mut self, records: u64) {
        self.records.set_renew_after(records);
    }

    /// How often it gave its buffers back, as it changes.
    #[cfg(test)]
    pub(crate) fn releases(&self) -> tokio::sync::watch::Receiver<u64> {
        self.releases.subscribe()
    }

    /// Bytes of its buffers.
    #[cfg(test)]
    pub(crate) fn buffered_bytes(&self) -> usize {
        [self.incoming.allocated(), self.outgoing.allocated(), self.plain.allocated()].iter().sum()
    }

    fn new(io: S, secured: Secured) -> (Self, Duration) {
        let Secured { records, certificates, protocol, exported, incoming, outgoing, round_trip } = secured;
        let stream = Self {
            io,
            records,
            certificates,
            protocol,
            exported,
            incoming,
            outgoing,
            plain: Plain::default(),
            read_ended: false,
            write_ended: false,
            failed: None,
            writer_waits: false,
            idle: None,
            idle_after: BUFFERS_IDLE,
            #[cfg(test)]
            releases: tokio::sync::watch::Sender::new(0),
            active: false,
        };
        (stream, round_trip)
    }

    fn fail(&mut self, failure: Failure) -> io::Error {
        self.failed.get_or_insert(failure).clone().into()
    }

    /// The connection ends over what a record held; the alert says why.
    fn refuse(&mut self, cause: RecordError) -> io::Error {
        if let Some(alert) = cause.alert().filter(|_| !self.write_ended) {
            // Without a key there is no alert either: the end says enough then.
            let _ = self.records.seal_alert(alert, &mut self.outgoing);
        }
        self.fail(Failure::Record(cause))
    }

    /// Opens what has arrived, until `into` is full or more is needed.
    fn open(&mut self, into: &mut ReadBuf<'_>) -> Result<(), RecordError> {
        while into.remaining() > 0 && !self.read_ended {
            let waiting = self.incoming.waiting();
            let Some(sealed) = sealed_length(waiting)? else { return Ok(()) };
            let whole = sealed.saturating_add(HEADER_BYTES);
            let Some(record) = waiting.get_mut(..whole) else { return Ok(()) };
            let Some((header, record)) = record.split_first_chunk_mut::<HEADER_BYTES>() else { return Ok(()) };
            let room = room_to_open(sealed);
            if room <= into.remaining() {
                match self.records.open(*header, record, into.initialize_unfilled_to(room))? {
                    Opened::Payload(bytes) => into.advance(bytes),
                    Opened::Nothing => {}
                    Opened::Closed => self.read_ended = true,
                }
            } else {
                match self.records.open_in_place(*header, record)? {
                    Opened::Payload(bytes) => {
                        let payload = record.get(..bytes).unwrap_or_default();
                        let (now, later) = payload.split_at(bytes.min(into.remaining()).min(payload.len()));
                        into.put_slice(now);
                        self.plain.push(later);
                    }
                    Opened::Nothing => {}
                    Opened::Closed => self.read_ended = true,
                }
            }
            self.incoming.discard(whole);
        }
        Ok(())
    }

    /// Reads from the socket once. 0 is its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(room) = self.incoming.room(READ_BYTES_MAX) else { return Poll::Ready(Err(self.fail(NO_ROOM))) };
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut room))?;
        let filled = room.filled().len();
        self.incoming.filled(filled);
        self.active = true;
        Poll::Ready(Ok(filled))
    }

    /// Writes `outgoing` to the socket, until all has gone.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, self.outgoing.waiting()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.sent(sent);
            self.active = true;
        }
        Poll::Ready(Ok(()))
    }

    /// As [`Self::poll_send`], for a task that then waits for it.
    fn poll_send_waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.poll_send(cx);
        self.writer_waits = sent.is_pending();
        sent
    }

    /// Gives the buffers back after a quiet while. Called where a reader is about to wait, so the timer wakes it.
    fn poll_release(&mut self, cx: &mut Context<'_>) {
        if self.incoming.allocated() == 0 && self.outgoing.allocated() == 0 && self.plain.allocated() == 0 {
            self.idle = None;
            return;
        }
        let idle = self.idle.get_or_insert_with(|| {
            self.active = false;
            Box::pin(sleep(self.idle_after))
        });
        while idle.as_mut().poll(cx).is_ready() {
            if !self.active {
                self.incoming.release();
                self.outgoing.release();
                self.plain.release();
                self.idle = None;
                #[cfg(test)]
                self.releases.send_modify(|count| *count += 1);
                return;
            }
            self.active = false;
            idle.as_mut().reset(Instant::now().checked_add(self.idle_after).unwrap_or_else(Instant::now));
        }
    }

    fn poll_read_inner(&mut self, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.plain.pop(into);
            if into.remaining() == 0 || self.read_ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(failure) = self.failed.clone() {
                return Poll::Ready(Err(failure.into()));
            }
            if let Err(cause) = self.open(into) {
                let refused = self.refuse(cause);
                // The alert goes out from here, unless a writer is at it: the socket wakes only the last task that
                // asked.
                if !self.writer_waits {
                    let _unless_blocked = self.poll_send(cx);
                }
                return Poll::Ready(Err(refused));
            }
            if into.remaining() == 0 || self.read_ended {
                continue;
            }
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.fail(CUT))),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(cause)) => return Poll::Ready(Err(cause)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let before = into.filled().len();
        let polled = me.poll_read_inner(cx, into);
        // Bytes before an error or a wait are delivered first; both come again at the next call.
        match polled {
            Poll::Ready(Err(cause)) if into.filled().len() > before => {
                let kind = cause.kind();
                me.failed.get_or_insert(Failure::Io(kind, "the connection failed"));
                Poll::Ready(Ok(()))
            }
            Poll::Pending if into.filled().len() > before => Poll::Ready(Ok(())),
            Poll::Pending => {
                me.poll_release(cx);
                Poll::Pending
            }
            done => done,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        if let Some(failure) = me.failed.clone() {
            return Poll::Ready(Err(failure.into()));
        }
        if me.write_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if data.is_empty() {
            return Poll::Ready(Ok(0));
        }
        // What the socket has not taken yet comes first: a little more than one write's worth is all that ever waits.
        if me.outgoing.length() >= SEND_BYTES_MIN {
            ready!(me.poll_send_waiting(cx))?;
        }
        let (now, _) = data.split_at(data.len().min(WRITE_BYTES_MAX));
        if let Err(cause) = me.records.seal(now, &mut me.outgoing) {
            return Poll::Ready(Err(me.fail(Failure::Record(cause))));
        }
        if me.outgoing.length() < SEND_BYTES_MIN {
            return Poll::Ready(Ok(now.len()));
        }
        match me.poll_send(cx) {
            Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(now.len())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        ready!(me.poll_send_waiting(cx))?;
        Pin::new(&mut me.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if !me.write_ended && me.failed.is_none() {
            me.write_ended = true;
            if let Err(cause) = me.records.seal_close(&mut me.outgoing) {
                return Poll::Ready(Err(me.fail(Failure::Record(cause))));
            }
        }
        ready!(me.poll_send_waiting(cx))?;
        Pin::new(&mut me.io).poll_shutdown(cx)
    }
}
