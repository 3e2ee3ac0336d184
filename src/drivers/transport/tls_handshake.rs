//! The handshake of TLS 1.3, by rustls over its unbuffered interface; what it leaves is handed to `tls_records`.
//!
//! What must hold, since rustls asks it of its caller:
//! - What it says may be discarded is taken from the front of `incoming`, before it is called again.
//! - It is never shown less of `incoming` than it has seen and not discarded (`presented`): it keeps offsets of
//!   handshake messages whose second half has not come.
//! - Whatever it wants to send goes to the back of `outgoing` at once, so that records leave in the order of their
//!   sequence numbers.
//!
//! Beyond that it is shown one record at a time, so that not a byte behind the handshake's end is touched by it: those
//! are for the keys that it gives away then.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::kernel::KernelConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, ConnectionTrafficSecrets, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::drivers::transport::limits::READ_BYTES_HANDSHAKE;
use crate::drivers::transport::tls_buffers::{Incoming, NoRoom, Outgoing};
use crate::drivers::transport::tls_exporter::Exporter;
use crate::drivers::transport::tls_records::{HEADER_BYTES, Keys, NextSecrets, RecordError, Records, SEALED_BYTES_MAX};

/// Room for one message to begin with; rustls says when it needs more.
const MESSAGE_BYTES: usize = 256;

/// A connection whose handshake is over.
pub(crate) struct Secured {
    pub records: Records,
    /// The peer's certificates, as it sent them.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The protocol that both sides agreed on.
    pub protocol: Option<Vec<u8>>,
    /// What both ends, and they alone, can export: see `tls_exporter`.
    pub exported: Option<[u8; 32]>,
    /// What came behind the handshake.
    pub incoming: Incoming,
    pub outgoing: Outgoing,
    /// Shortest wait for an answer: about one round trip.
    pub round_trip: Duration,
}

/// Why there is no connection.
enum Failure {
    Tls(rustls::Error),
    Records(RecordError),
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
            Failure::Records(cause) => io::Error::new(io::ErrorKind::InvalidData, cause),
            Failure::Io(kind, words) => io::Error::new(kind, words),
        }
    }
}

const CUT: Failure = Failure::Io(io::ErrorKind::UnexpectedEof, "the stream was cut before the end of TLS");
const TOO_LONG: Failure = Failure::Io(io::ErrorKind::InvalidData, "a TLS message is longer than it may be");
const OUT_OF_ORDER: Failure = Failure::Io(io::ErrorKind::InvalidData, "TLS is in a state where this cannot be");

enum Connection {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What one call of rustls came to.
enum Step {
    /// Something was done; call again.
    Again,
    /// Nothing more without more input.
    Blocked,
}

/// The dialler's handshake.
///
/// # Errors
/// `InvalidData` with a [`rustls::Error`] inside for what TLS refuses, `UnexpectedEof` for a cut, else as the socket.
pub(crate) async fn connect<S>(io: &mut S, config: Arc<ClientConfig>) -> io::Result<Secured>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // An address as the name: nothing is checked against it, and no server name is sent.
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    let (config, exporter) = Exporter::of_client(&config);
    let tls = UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?;
    Handshake::new(io, Connection::Client(tls), exporter).run().await
}

/// The listener's handshake; otherwise as [`connect`].
///
/// # Errors
/// As there.
pub(crate) async fn accept<S>(io: &mut S, config: Arc<ServerConfig>) -> io::Result<Secured>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (config, exporter) = Exporter::of_server(&config);
    let tls = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
    Handshake::new(io, Connection::Server(tls), exporter).run().await
}

struct Handshake<'a, S> {
    io: &'a mut S,
    tls: Connection,
    exporter: Arc<Exporter>,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Bytes of `incoming` that rustls has seen and not discarded.
    presented: usize,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Handshake<'a, S> {
    fn new(io: &'a mut S, tls: Connection, exporter: Arc<Exporter>) -> Self {
        Self { io, tls, exporter, incoming: Incoming::default(), outgoing: Outgoing::default(), presented: 0 }
    }

    async fn run(mut self) -> io::Result<Secured> {
        let mut round_trip = Duration::MAX;
        loop {
            let over = match self.advance() {
                Ok(over) => over,
                Err(cause) => {
                    // The alert, where there is one, says why.
                    self.queue_alert();
                    let _ = poll_fn(|cx| self.poll_flush(cx)).await;
                    return Err(cause.into());
                }
            };
            if over {
                poll_fn(|cx| self.poll_flush(cx)).await?;
                return Ok(self.secured(round_trip)?);
            }
            let asked = Instant::now();
            // Both at once: the other side may not read before we have read what it writes.
            let filled = poll_fn(|cx| match self.poll_flush(cx) {
                Poll::Ready(Err(cause)) => Poll::Ready(Err(cause)),
                Poll::Ready(Ok(())) | Poll::Pending => self.poll_fill(cx),
            });
            if filled.await? == 0 {
                return Err(CUT.into());
            }
            round_trip = round_trip.min(asked.elapsed());
        }
    }

    /// Takes the handshake as far as the input goes; whether it is over.
    fn advance(&mut self) -> Result<bool, Failure> {
        loop {
            if !matches!(self.step(self.presented)?, Step::Blocked) {
                continue;
            }
            if !self.is_handshaking() {
                // A message that reaches into the next keys is refused by rustls; nothing may be left of it here.
                return if self.presented == 0 { Ok(true) } else { Err(OUT_OF_ORDER) };
            }
            let Some(more) = next_record(self.incoming.waiting().get(self.presented..).unwrap_or_default()) else {
                return Ok(false);
            };
            self.step(self.presented.saturating_add(more))?;
        }
    }

    fn is_handshaking(&self) -> bool {
        match &self.tls {
            Connection::Client(tls) => tls.is_handshaking(),
            Connection::Server(tls) => tls.is_handshaking(),
        }
    }

    /// One call of rustls, which is shown the first `shown` bytes of the input.
    fn step(&mut self, shown: usize) -> Result<Step, Failure> {
        let waiting = self.incoming.waiting();
        let (shown, _) = waiting.split_at_mut(shown.min(waiting.len()));
        let length = shown.len();
        let (discard, step) = match &mut self.tls {
            Connection::Client(tls) => act(tls.process_tls_records(shown), &mut self.outgoing),
            Connection::Server(tls) => act(tls.process_tls_records(shown), &mut self.outgoing),
        };
        self.incoming.discard(discard);
        self.presented = length.saturating_sub(discard);
        step
    }

    /// After an error rustls may have an alert to send. It must not see input again: it would go on where it failed, and
    /// panics there. While it has something to send it looks at none.
    fn queue_alert(&mut self) {
        loop {
            let outgoing = &mut self.outgoing;
            let step = match &mut self.tls {
                Connection::Client(tls) if tls.wants_write() => act(tls.process_tls_records(&mut []), outgoing).1,
                Connection::Server(tls) if tls.wants_write() => act(tls.process_tls_records(&mut []), outgoing).1,
                _ => return,
            };
            if !matches!(step, Ok(Step::Again)) {
                return;
            }
        }
    }

    /// Takes the keys over.
    fn secured(self, round_trip: Duration) -> Result<Secured, Failure> {
        let (certificates, protocol, suite) = match &self.tls {
            Connection::Client(tls) => (tls.peer_certificates(), tls.alpn_protocol(), tls.negotiated_cipher_suite()),
            Connection::Server(tls) => (tls.peer_certificates(), tls.alpn_protocol(), tls.negotiated_cipher_suite()),
        };
        let certificates = certificates.unwrap_or_default().to_vec();
        let protocol = protocol.map(<[u8]>::to_vec);
        let suite = suite.and_then(|suite| suite.tls13()).ok_or(OUT_OF_ORDER)?;
        let (records_max, exported) = (suite.common.confidentiality_limit, self.exporter.export(suite));
        let is_client = matches!(self.tls, Connection::Client(_));
        let (secrets, next): (_, Box<dyn NextSecrets>) = match self.tls {
            Connection::Client(tls) => {
                let (secrets, next) = tls.dangerous_into_kernel_connection().map_err(Failure::Tls)?;
                (secrets, Box::new(OfClient(next)))
            }
            Connection::Server(tls) => {
                let (secrets, next) = tls.dangerous_into_kernel_connection().map_err(Failure::Tls)?;
                (secrets, Box::new(OfServer(next)))
            }
        };
        let keys = Keys { sending: secrets.tx, receiving: secrets.rx, next, records_max, is_client };
        let records = Records::new(keys).map_err(Failure::Records)?;
        let (incoming, outgoing) = (self.incoming, self.outgoing);
        Ok(Secured { records, certificates, protocol, exported, incoming, outgoing, round_trip })
    }

    /// Reads from the socket once. 0 is its end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(room) = self.incoming.room(READ_BYTES_HANDSHAKE) else { return Poll::Ready(Err(TOO_LONG.into())) };
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(&mut *self.io).poll_read(cx, &mut room))?;
        let filled = room.filled().len();
        self.incoming.filled(filled);
        Poll::Ready(Ok(filled))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.is_empty() {
            let sent = ready!(Pin::new(&mut *self.io).poll_write(cx, self.outgoing.waiting()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.sent(sent);
        }
        Pin::new(&mut *self.io).poll_flush(cx)
    }
}

/// Bytes of the record that begins `bytes`, its header included, if it has come whole. One that is too long is shown
/// as it is: refusing it, with the right alert, is rustls' work.
fn next_record(bytes: &[u8]) -> Option<usize> {
    let ([.., high, low], _) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let sealed = usize::from(u16::from_be_bytes([*high, *low]));
    if sealed > SEALED_BYTES_MAX {
        return Some(bytes.len());
    }
    let whole = sealed.saturating_add(HEADER_BYTES);
    (bytes.len() >= whole).then_some(whole)
}

/// Does what one state of rustls asks for. Returns the bytes to discard, too.
fn act<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Outgoing) -> (usize, Result<Step, Failure>) {
    let UnbufferedStatus { discard, state } = status;
    let step = match state {
        Err(cause) => Err(Failure::Tls(cause)),
        Ok(ConnectionState::EncodeTlsData(mut data)) => outgoing
            .append(MESSAGE_BYTES, |room| match data.encode(room) {
                Err(EncodeError::InsufficientSize(more)) => Err(Some(more.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
                Ok(bytes) => Ok(bytes),
            })
            .map_err(Failure::from)
            .map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It lies in `outgoing`, ahead of all that comes later.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => Ok(Step::Blocked),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Err(CUT),
        // Payload before the handshake's end, early data: never offered, never shown.
        Ok(_) => Err(OUT_OF_ORDER),
    };
    (discard, step)
}

struct OfClient(KernelConnection<ClientConnectionData>);

impl NextSecrets for OfClient {
    fn next_sending(&mut self) -> Option<ConnectionTrafficSecrets> {
        self.0.update_tx_secret().ok().map(|(_, secrets)| secrets)
    }

    fn next_receiving(&mut self) -> Option<ConnectionTrafficSecrets> {
        self.0.update_rx_secret().ok().map(|(_, secrets)| secrets)
    }
}

struct OfServer(KernelConnection<ServerConnectionData>);

impl NextSecrets for OfServer {
    fn next_sending(&mut self) -> Option<ConnectionTrafficSecrets> {
        self.0.update_tx_secret().ok().map(|(_, secrets)| secrets)
    }

    fn next_receiving(&mut self) -> Option<ConnectionTrafficSecrets> {
        self.0.update_rx_secret().ok().map(|(_, secrets)| secrets)
    }
}
