//! TLS 1.3 as a stream of bytes, over rustls' unbuffered interface: one copy and one allocation a record, where the
//! buffered one copies the receiving side twice.
//!
//! What must hold, since rustls asks it of its caller:
//! - What it says may be discarded is taken from the front of `incoming`, before it is called again.
//! - It is never shown less of `incoming` than it has seen and not discarded (`presented`): it keeps offsets of
//!   handshake messages whose second half has not come.
//! - Whatever it wants to send goes to the back of `outgoing` at once, so that records leave in the order of their
//!   sequence numbers, handshake, alerts and key updates included.
//!
//! A stream that ends without TLS's own end is an error, `UnexpectedEof`: a cut must not look like an end.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::drivers::transport::limits::{BUFFERS_IDLE, READ_BYTES_HANDSHAKE, READ_BYTES_MAX, WRITE_BYTES_MAX};
use crate::drivers::transport::tls_buffers::{Incoming, NoRoom, Outgoing, Plain};

/// Plaintext of a full record.
const RECORD_PLAIN_BYTES: usize = 16_384;
/// Header, content type and tag: what a record adds to its plaintext.
const RECORD_EXTRA_BYTES: usize = 22;
/// Room beside the records of one write for a key update or an alert.
const CONTROL_BYTES: usize = 256;

/// TLS over any duplex stream. Reads decrypt straight into the caller's buffer, as many records as have arrived; writes
/// take up to 256 KiB at once. May be split between two tasks of one thread or of two.
pub struct TlsStream<S> {
    io: S,
    tls: Connection,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Decrypted bytes that the last reader had no room for.
    plain: Plain,
    /// Bytes of `incoming` that rustls has seen and not discarded.
    presented: usize,
    /// Whether rustls has asked for more than `presented`.
    blocked: bool,
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
    /// Bytes moved since `idle` was set.
    active: bool,
}

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// An error, kept so that every later call can tell it again.
#[derive(Clone)]
enum Failure {
    Tls(rustls::Error),
    Io(io::ErrorKind, &'static str),
}

impl From<NoRoom> for Failure {
    fn from(_: NoRoom) -> Self {
        OUT_OF_ORDER
    }
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Tls(cause) => io::Error::new(io::ErrorKind::InvalidData, cause),
            Failure::Io(kind, words) => io::Error::new(kind, words),
        }
    }
}

const CUT: Failure = Failure::Io(io::ErrorKind::UnexpectedEof, "the stream was cut before the end of TLS");
const TOO_LONG: Failure = Failure::Io(io::ErrorKind::InvalidData, "a TLS message is longer than it may be");
const OUT_OF_ORDER: Failure = Failure::Io(io::ErrorKind::InvalidData, "TLS is in a state where this cannot be");

/// What the caller of [`advance`] wants once rustls is ready for traffic.
#[derive(Clone, Copy)]
enum Want<'a> {
    Read,
    Encrypt(&'a [u8]),
    Close,
}

/// What one call of rustls came to.
enum Step {
    /// Something was done; call again.
    Again,
    /// A record's plaintext went to the sink.
    Record,
    /// Nothing more without more input.
    Blocked,
    /// What was wanted is in `outgoing`.
    Done,
    /// The peer's close_notify.
    PeerClosed,
    /// Both sides have closed.
    Closed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    /// The dialler's handshake. Returns the stream and the shortest wait for an answer: about one round trip.
    ///
    /// # Errors
    /// `InvalidData` with a [`rustls::Error`] inside for what TLS refuses, `UnexpectedEof` for a cut, else as the socket.
    pub async fn connect(io: S, config: Arc<ClientConfig>) -> io::Result<(Self, Duration)> {
        // An address as the name: nothing is checked against it, and no server name is sent.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let tls = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
        Self::handshake(Self::new(io, Connection::Client(tls))).await
    }

    /// The listener's handshake; otherwise as [`TlsStream::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn accept(io: S, config: Arc<ServerConfig>) -> io::Result<(Self, Duration)> {
        let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        Self::handshake(Self::new(io, Connection::Server(tls))).await
    }

    /// The peer's certificates, as it sent them.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.tls {
            Connection::Client(tls) => tls.peer_certificates(),
            Connection::Server(tls) => tls.peer_certificates(),
        }
    }

    /// The protocol that both sides agreed on.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        match &self.tls {
            Connection::Client(tls) => tls.alpn_protocol(),
            Connection::Server(tls) => tls.alpn_protocol(),
        }
    }

    #[cfg(test)]
    pub(crate) fn set_idle_after(&mut self, quiet: Duration) {
        self.idle_after = quiet;
    }

    /// Bytes of its buffers.
    #[cfg(test)]
    pub(crate) fn buffered_bytes(&self) -> usize {
        [self.incoming.allocated(), self.outgoing.allocated(), self.plain.allocated()].iter().sum()
    }

    fn new(io: S, tls: Connection) -> Self {
        Self {
            io,
            tls,
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            plain: Plain::default(),
            presented: 0,
            blocked: false,
            read_ended: false,
            write_ended: false,
            failed: None,
            writer_waits: false,
            idle: None,
            idle_after: BUFFERS_IDLE,
            active: false,
        }
    }

    async fn handshake(mut self) -> io::Result<(Self, Duration)> {
        let mut round_trip = Duration::MAX;
        loop {
            let more = match self.advance_handshake() {
                Ok(more) => more,
                Err(cause) => {
                    // The alert, where there is one, says why.
                    let _ = poll_fn(|cx| self.poll_flush_out(cx)).await;
                    return Err(cause);
                }
            };
            if !more {
                poll_fn(|cx| self.poll_flush_out(cx)).await?;
                return Ok((self, round_trip));
            }
            let asked = Instant::now();
            // Both at once: the other side may not read before we have read what it writes.
            let filled = poll_fn(|cx| match self.poll_flush_out(cx) {
                Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
                Poll::Ready(Ok(())) | Poll::Pending => self.poll_fill(cx, READ_BYTES_HANDSHAKE),
            });
            if filled.await? == 0 {
                return Err(CUT.into());
            }
            round_trip = round_trip.min(asked.elapsed());
        }
    }

    /// Takes the handshake as far as the input goes; whether it needs more.
    fn advance_handshake(&mut self) -> io::Result<bool> {
        loop {
            match self.advance(Want::Read, None)? {
                // The peer's first words may come with the last of its handshake.
                Step::Again | Step::Record => {}
                Step::Blocked | Step::Done => return Ok(self.is_handshaking()),
                Step::PeerClosed | Step::Closed => return Err(self.fail(CUT)),
            }
        }
    }

    fn is_handshaking(&self) -> bool {
        match &self.tls {
            Connection::Client(tls) => tls.is_handshaking(),
            Connection::Server(tls) => tls.is_handshaking(),
        }
    }

    /// One call of rustls. Plaintext goes to `into`, and what does not fit there to `plain`.
    fn advance(&mut self, want: Want<'_>, mut into: Option<&mut ReadBuf<'_>>) -> io::Result<Step> {
        let plain = &mut self.plain;
        let mut sink = |record: &[u8]| {
            let fits = into.as_ref().map_or(0, |into| into.remaining().min(record.len()));
            let (now, later) = record.split_at(fits);
            if let Some(into) = into.as_mut() {
                into.put_slice(now);
            }
            plain.push(later);
        };
        let waiting = self.incoming.waiting();
        // Reading shows everything; writing only what has been seen, so that no record is opened by the way.
        let shown = match want {
            Want::Read => waiting.len(),
            Want::Encrypt(_) | Want::Close => self.presented.min(waiting.len()),
        };
        let (shown, _) = waiting.split_at_mut(shown);
        let length = shown.len();
        let (discard, step) = match &mut self.tls {
            Connection::Client(tls) => step(tls.process_tls_records(shown), &mut self.outgoing, want, &mut sink),
            Connection::Server(tls) => step(tls.process_tls_records(shown), &mut self.outgoing, want, &mut sink),
        };
        self.incoming.discard(discard);
        // After a record rustls keeps nothing of what follows it.
        self.presented = if matches!(step, Ok(Step::Record)) { 0 } else { length.saturating_sub(discard) };
        self.blocked = matches!(step, Ok(Step::Blocked));
        match step {
            Ok(Step::PeerClosed) => {
                self.read_ended = true;
                Ok(Step::PeerClosed)
            }
            Ok(step) => Ok(step),
            Err(failure) => {
                self.queue_alert();
                Err(self.fail(failure))
            }
        }
    }

    fn fail(&mut self, failure: Failure) -> io::Error {
        self.failed.get_or_insert(failure).clone().into()
    }

    /// After an error rustls may have an alert to send. It must not see input again: it would go on where it failed, and
    /// panics there. While it has something to send it looks at none.
    fn queue_alert(&mut self) {
        while self.has_alert() {
            let outgoing = &mut self.outgoing;
            let (_, step) = match &mut self.tls {
                Connection::Client(tls) => step(tls.process_tls_records(&mut []), outgoing, Want::Read, &mut |_| {}),
                Connection::Server(tls) => step(tls.process_tls_records(&mut []), outgoing, Want::Read, &mut |_| {}),
            };
            // A record that was decrypted before the error may come first; it is dropped with the connection.
            if !matches!(step, Ok(Step::Again | Step::Record)) {
                return;
            }
        }
    }

    fn has_alert(&self) -> bool {
        match &self.tls {
            Connection::Client(tls) => tls.wants_write(),
            Connection::Server(tls) => tls.wants_write(),
        }
    }

    /// Decrypts what has arrived, until `into` is full or more is needed.
    fn decrypt(&mut self, into: &mut ReadBuf<'_>) -> io::Result<()> {
        while into.remaining() > 0 && !self.read_ended {
            if self.blocked && self.presented == self.incoming.length() {
                return Ok(());
            }
            match self.advance(Want::Read, Some(into))? {
                Step::Again | Step::Record | Step::PeerClosed => {}
                Step::Blocked | Step::Done => return Ok(()),
                Step::Closed => self.read_ended = true,
            }
        }
        Ok(())
    }

    /// Puts `data` as records, or the end of TLS, into `outgoing`.
    fn put(&mut self, want: Want<'_>) -> io::Result<()> {
        loop {
            match self.advance(want, None)? {
                Step::Again | Step::Record | Step::PeerClosed => {}
                Step::Done => return Ok(()),
                Step::Blocked => return Err(self.fail(OUT_OF_ORDER)),
                Step::Closed => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    /// Reads from the socket once. 0 is its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, bytes_max: usize) -> Poll<io::Result<usize>> {
        let Some(room) = self.incoming.room(bytes_max) else { return Poll::Ready(Err(self.fail(TOO_LONG))) };
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

    fn poll_flush_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
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
            let decrypted = self.decrypt(into);
            // Alerts go out from here, unless a writer is at it: the socket wakes only the last task that asked.
            if !self.outgoing.is_empty() && !self.writer_waits {
                let _unless_blocked = self.poll_send(cx);
            }
            decrypted?;
            if into.remaining() == 0 || self.read_ended {
                continue;
            }
            match self.poll_fill(cx, READ_BYTES_MAX) {
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
        // What the socket has not taken yet comes first: one write's worth is all that ever waits here.
        ready!(me.poll_send_waiting(cx))?;
        let (now, _) = data.split_at(data.len().min(WRITE_BYTES_MAX));
        me.put(Want::Encrypt(now))?;
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
            match me.put(Want::Close) {
                // Closed on both sides already: nothing is left to say.
                Err(cause) if cause.kind() == io::ErrorKind::BrokenPipe => {}
                put => put?,
            }
        }
        ready!(me.poll_send_waiting(cx))?;
        Pin::new(&mut me.io).poll_shutdown(cx)
    }
}

/// Does what one state of rustls asks for. Returns the bytes to discard, too.
fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut Outgoing,
    want: Want<'_>,
    sink: &mut dyn FnMut(&[u8]),
) -> (usize, Result<Step, Failure>) {
    let UnbufferedStatus { mut discard, state } = status;
    let state = match state {
        Ok(state) => state,
        Err(cause) => return (discard, Err(Failure::Tls(cause))),
    };
    let step = match state {
        ConnectionState::ReadTraffic(mut traffic) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard = discard.saturating_add(record.discard);
                    sink(record.payload);
                }
                Some(Err(cause)) => break Err(Failure::Tls(cause)),
                None => break Ok(Step::Record),
            }
        },
        ConnectionState::EncodeTlsData(mut data) => outgoing
            .append(CONTROL_BYTES, |room| match data.encode(room) {
                Err(EncodeError::InsufficientSize(more)) => Err(Some(more.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
                Ok(bytes) => Ok(bytes),
            })
            .map_err(Failure::from)
            .map(|()| Step::Again),
        ConnectionState::TransmitTlsData(data) => {
            // It lies in `outgoing`, ahead of all that comes later.
            data.done();
            Ok(Step::Again)
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            let needs = |cause| match cause {
                EncryptError::InsufficientSize(more) => Some(more.required_size),
                EncryptError::EncryptExhausted => None,
            };
            match want {
                Want::Read => Ok(Step::Blocked),
                Want::Encrypt(data) => outgoing
                    .append(record_bytes(data.len()), |room| traffic.encrypt(data, room).map_err(needs))
                    .map_err(Failure::from)
                    .map(|()| Step::Done),
                Want::Close => outgoing
                    .append(CONTROL_BYTES, |room| traffic.queue_close_notify(room).map_err(needs))
                    .map_err(Failure::from)
                    .map(|()| Step::Done),
            }
        }
        ConnectionState::BlockedHandshake => Ok(Step::Blocked),
        ConnectionState::PeerClosed => Ok(Step::PeerClosed),
        ConnectionState::Closed => Ok(Step::Closed),
        // Early data is never offered; other states do not exist in this version.
        _ => Err(OUT_OF_ORDER),
    };
    (discard, step)
}

/// Bytes on the wire of so many bytes of plaintext.
fn record_bytes(plain: usize) -> usize {
    let extra = plain.div_ceil(RECORD_PLAIN_BYTES).saturating_mul(RECORD_EXTRA_BYTES);
    plain.saturating_add(extra).saturating_add(CONTROL_BYTES)
}
