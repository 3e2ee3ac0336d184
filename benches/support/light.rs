//! Peers that cost little: they speak the real handshake and the real frames over real sockets, thousands from one process,
//! each with a key of its own, and keep nothing of what they are sent.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use piecework::content::bitfield::Bitfield;
use piecework::content::hash::{ContentId, Topic};
use piecework::wire::{Frame, FrameHeader, Kind};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, SignatureScheme};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use super::bare::{Anybody, provider};

/// The number by which the node addresses a light peer.
const OURS: u32 = 1;
/// Bytes of a frame's header.
const HEAD: usize = 5;

/// An address of loopback for each of many peers: a node bounds what one address may have.
pub fn address(number: usize) -> Ipv4Addr {
    let [.., a, b] = u32::try_from(number + 300).expect("few").to_be_bytes();
    Ipv4Addr::new(127, 1, a, b)
}

/// The certificate that proves who a peer is; its critical extension is of libp2p, so rustls must not read it.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// One connection that has said Hello.
pub struct Light {
    stream: TcpStream,
    tls: Box<ClientConnection>,
    /// What was read and not yet taken.
    plain: Vec<u8>,
}

/// What a node says.
#[derive(Debug)]
pub enum Heard {
    Frame(Frame),
    /// A whole piece, of so many bytes on the wire.
    Piece(u64),
}

impl Light {
    /// Dials and greets, with a fresh identity.
    pub async fn connect(to: SocketAddr, from: Ipv4Addr) -> io::Result<Self> {
        let keypair = libp2p::identity::Keypair::generate_ed25519();
        let (certificate, key) = libp2p_tls::certificate::generate(&keypair).map_err(io::Error::other)?;
        let provider = provider();
        let key = provider.key_provider.load_private_key(key).map_err(io::Error::other)?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody))
            .with_client_cert_resolver(Arc::new(Own(Arc::new(CertifiedKey::new(vec![certificate], key)))));
        config.alpn_protocols = vec![b"piecework/1".to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddrV4::new(from, 0).into())?;
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("peer").map_err(io::Error::other)?;
        let tls = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        let mut light = Self { stream, tls: Box::new(tls), plain: Vec::new() };
        while light.tls.is_handshaking() {
            light.flush().await?;
            if light.tls.is_handshaking() {
                light.fill().await?;
            }
        }
        let (agent, record) = ("light".to_owned(), Vec::new());
        let hello =
            Frame::Hello { version: 1, features: 0, agent, listen_port: 0, site: None, record, group_nonce: None };
        light.say(&hello).await?;
        match light.hear().await? {
            Heard::Frame(Frame::Hello { .. }) => Ok(light),
            other => Err(io::Error::other(format!("no Hello but {other:?}"))),
        }
    }

    /// Opens a content's topic, with nothing of it held; returns the number by which the node is addressed.
    pub async fn open(&mut self, content: &ContentId, piece_count: u32) -> io::Result<u32> {
        self.say(&Frame::Open { handle: OURS, topic: Topic::of_content(content, b""), manifest_only: false }).await?;
        loop {
            match self.hear().await? {
                Heard::Frame(Frame::Open { handle, .. }) => {
                    self.say(&Frame::Bitfield { handle, bitfield: Bitfield::none(piece_count) }).await?;
                    return Ok(handle);
                }
                Heard::Frame(Frame::Reject { .. } | Frame::Goodbye { .. }) => return Err(io::Error::other("refused")),
                _ => {}
            }
        }
    }

    pub async fn say(&mut self, frame: &Frame) -> io::Result<()> {
        let mut out = Vec::new();
        frame.encode(&mut out);
        self.tls.writer().write_all(&out)?;
        self.flush().await
    }

    /// The next frame; may not be given up half-way.
    pub async fn hear(&mut self) -> io::Result<Heard> {
        let head: [u8; HEAD] = self.take(HEAD).await?.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        let header = FrameHeader::decode(head).map_err(io::Error::other)?;
        if header.kind != Kind::Piece {
            let body = self.take(header.length as usize).await?;
            return Ok(Heard::Frame(Frame::decode(header.kind, &body).map_err(io::Error::other)?));
        }
        let mut left = header.length as usize;
        while left > 0 {
            let now = left.min(self.plain.len());
            self.plain.drain(..now);
            left -= now;
            if left > 0 {
                self.fill().await?;
            }
        }
        Ok(Heard::Piece(u64::from(header.length)))
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.plain.len() < length {
            self.fill().await?;
        }
        Ok(self.plain.drain(..length).collect())
    }

    async fn flush(&mut self) -> io::Result<()> {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out)?;
        }
        self.stream.write_all(&out).await
    }

    async fn fill(&mut self) -> io::Result<()> {
        // Lent for the moment: thousands of them wait most of the time.
        self.stream.readable().await?;
        let mut bytes = [0; 16 << 10];
        let read = match self.stream.try_read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut left = &bytes[..read];
        while !left.is_empty() {
            self.tls.read_tls(&mut left)?;
            let state = self.tls.process_new_packets().map_err(io::Error::other)?;
            let before = self.plain.len();
            self.plain.resize(before + state.plaintext_bytes_to_read(), 0);
            self.tls.reader().read_exact(&mut self.plain[before..])?;
        }
        Ok(())
    }

    /// Waits for the node to say anything, which an idle peer need not hear.
    pub async fn idle(mut self) -> io::Error {
        loop {
            if let Err(error) = self.fill().await {
                return error;
            }
            self.plain.clear();
        }
    }
}
