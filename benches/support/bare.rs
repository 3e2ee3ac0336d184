//! The bare program: what an encrypted, verified and stored transfer costs with nothing around it. Two processes, as
//! with the real one: TLS 1.3 over rustls' unbuffered interface, BLAKE3 of each MiB, `pwrite`. No engine, no frames, no
//! record of what is held, no back-pressure beyond the socket's.
//!
//! A bench that calls [`role`] first thing becomes one of the two when it is started by [`Bare::measure`].

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use rustls::{CipherSuite, ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};

use super::{MIB, Usage, watched};

const ROLE: &str = "PIECEWORK_BENCH_ROLE";
/// Plaintext of one write: 16 records a system call, as the transport does it.
const WRITE_BYTES: usize = 256 << 10;

/// What one transfer took.
pub struct Bare {
    pub rate: f64,
    pub seconds: f64,
    pub send: Usage,
    pub receive: Usage,
}

impl Bare {
    /// Moves `file` to `out`, which stays. `threads` of the receiver: 1 does all in turn, 2 opens records on one and hashes and
    /// writes on the other.
    pub fn measure(file: &Path, out: &Path, threads: u32) -> Self {
        let length = std::fs::metadata(file).expect("the file is there").len();
        let program = std::env::current_exe().expect("this program");
        let mut sender = Command::new(&program)
            .env(ROLE, format!("send\n{}", file.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sender starts");
        let mut pipe = std::io::BufReader::new(sender.stdout.take().expect("piped"));
        let mut port = String::new();
        std::io::BufRead::read_line(&mut pipe, &mut port).expect("its port");
        let mut receiver = Command::new(&program);
        receiver.env(ROLE, format!("receive\n{}\n{}\n{threads}", port.trim(), out.display()));
        let (seconds, receive, good) = watched(receiver);
        assert!(good, "the bare receiver succeeds");
        // It waits for us, so that its usage can be read.
        let send = Usage::of(sender.id());
        drop(sender.kill());
        sender.wait().expect("our child");
        Self { rate: length as f64 / 1e6 / seconds, seconds, send, receive }
    }
}

/// Becomes sender or receiver where this process was started as one, and never returns then.
pub fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split('\n').collect();
    match words[..] {
        ["send", file] => send(Path::new(file)),
        ["receive", port, out, threads] => receive(port, Path::new(out), threads),
        _ => panic!("no such role"),
    }
    std::process::exit(0);
}

fn send(path: &Path) {
    let file = File::open(path).expect("the file is there");
    let length = file.metadata().expect("open").len();
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    println!("{}", listener.local_addr().expect("bound").port());
    let (mut socket, _) = listener.accept().expect("the receiver comes");
    socket.set_nodelay(true).expect("a socket");
    let mut tls = Tls::Server(UnbufferedServerConnection::new(server_config()).expect("a server"));
    let mut incoming = Incoming::default();
    handshake(&mut tls, &mut incoming, &mut socket);
    let mut block = vec![0; MIB as usize];
    let mut out = vec![0; WRITE_BYTES + 16 * 64];
    let mut offset = 0;
    while offset < length {
        let part = MIB.min(length - offset) as usize;
        file.read_exact_at(&mut block[..part], offset).expect("it stays");
        for plain in block[..part].chunks(WRITE_BYTES) {
            let sealed = tls.encrypt(plain, &mut out);
            socket.write_all(&out[..sealed]).expect("the receiver reads");
        }
        offset += part as u64;
    }
    drop(socket);
    // Stays until its usage has been read.
    std::thread::park_timeout(std::time::Duration::from_secs(60));
}

fn receive(port: &str, out: &Path, threads: &str) {
    let mut socket = TcpStream::connect(("127.0.0.1", port.parse().expect("a port"))).expect("loopback");
    socket.set_nodelay(true).expect("a socket");
    let file = File::create(out).expect("the file can be made");
    let mut tls = Tls::Client(
        UnbufferedClientConnection::new(client_config(), ServerName::try_from("bare").expect("a name"))
            .expect("a client"),
    );
    let mut incoming = Incoming::default();
    handshake(&mut tls, &mut incoming, &mut socket);
    if threads == "1" {
        let mut offset = 0;
        let mut block = Vec::with_capacity(MIB as usize + WRITE_BYTES);
        read_blocks(&mut tls, &mut incoming, &mut socket, &mut |plain| {
            fill(&mut block, plain, &mut |block| {
                store(&file, block, &mut offset);
                Vec::with_capacity(MIB as usize)
            });
        });
        store(&file, &block, &mut offset);
    } else {
        let (full, blocks) = std::sync::mpsc::sync_channel::<Vec<u8>>(4);
        let (empty, free) = std::sync::mpsc::channel::<Vec<u8>>();
        (0..6).for_each(|_| empty.send(Vec::with_capacity(MIB as usize)).expect("open"));
        let writer = std::thread::spawn(move || {
            let mut offset = 0;
            for mut block in blocks {
                store(&file, &block, &mut offset);
                block.clear();
                drop(empty.send(block));
            }
            file.sync_data().expect("it can be synced");
        });
        let mut block = free.recv().expect("made above");
        read_blocks(&mut tls, &mut incoming, &mut socket, &mut |plain| {
            fill(&mut block, plain, &mut |block| {
                full.send(std::mem::take(block)).expect("the writer lives");
                free.recv().expect("the writer lives")
            });
        });
        full.send(block).expect("the writer lives");
        drop(full);
        writer.join().expect("the writer ends");
        return;
    }
    file.sync_data().expect("it can be synced");
}

/// Appends to a block; full ones are handed on.
fn fill(block: &mut Vec<u8>, mut plain: &[u8], full: &mut dyn FnMut(&mut Vec<u8>) -> Vec<u8>) {
    while !plain.is_empty() {
        let (now, later) = plain.split_at(plain.len().min(MIB as usize - block.len()));
        block.extend_from_slice(now);
        plain = later;
        if block.len() == MIB as usize {
            *block = full(block);
        }
    }
}

fn store(file: &File, block: &[u8], offset: &mut u64) {
    std::hint::black_box(blake3::hash(block));
    file.write_all_at(block, *offset).expect("there is room");
    *offset += block.len() as u64;
}

fn read_blocks(tls: &mut Tls, incoming: &mut Incoming, socket: &mut TcpStream, sink: &mut dyn FnMut(&[u8])) {
    loop {
        tls.open(incoming, sink);
        if !incoming.fill(socket) {
            return;
        }
    }
}

/// Ciphertext that has come: `bytes[start..end]`.
#[derive(Default)]
pub struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn fill(&mut self, socket: &mut TcpStream) -> bool {
        self.bytes.resize(WRITE_BYTES + (20 << 10), 0);
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        match socket.read(&mut self.bytes[self.end..]) {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.end += read;
                true
            }
        }
    }

    /// For records that were sealed in memory.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }
}

/// One end of a connection.
pub enum Tls {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

enum Progress {
    Again,
    Wrote(usize),
    Ready,
    Blocked,
}

impl Tls {
    fn step(
        &mut self,
        incoming: &mut Incoming,
        encrypt: Option<&[u8]>,
        out: &mut [u8],
        sink: &mut dyn FnMut(&[u8]),
    ) -> Progress {
        let shown = if encrypt.is_some() { &mut [][..] } else { &mut incoming.bytes[incoming.start..incoming.end] };
        let (discard, progress) = match self {
            Tls::Client(tls) => act(tls.process_tls_records(shown), encrypt, out, sink),
            Tls::Server(tls) => act(tls.process_tls_records(shown), encrypt, out, sink),
        };
        incoming.start += discard;
        progress
    }

    /// Seals `plain` into `out`; bytes of the records.
    pub fn encrypt(&mut self, plain: &[u8], out: &mut [u8]) -> usize {
        match self.step(&mut Incoming::default(), Some(plain), out, &mut |_| {}) {
            Progress::Wrote(bytes) => bytes,
            _ => panic!("the handshake is over"),
        }
    }

    /// Opens every whole record.
    pub fn open(&mut self, incoming: &mut Incoming, sink: &mut dyn FnMut(&[u8])) {
        while !matches!(self.step(incoming, None, &mut [], sink), Progress::Ready | Progress::Blocked) {}
    }
}

fn act<D>(
    status: UnbufferedStatus<'_, '_, D>,
    encrypt: Option<&[u8]>,
    out: &mut [u8],
    sink: &mut dyn FnMut(&[u8]),
) -> (usize, Progress) {
    let UnbufferedStatus { mut discard, state } = status;
    let progress = match state.expect("both ends are ours") {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                let record = record.expect("both ends are ours");
                discard += record.discard;
                sink(record.payload);
            }
            Progress::Again
        }
        ConnectionState::EncodeTlsData(mut data) => Progress::Wrote(data.encode(out).expect("there is room")),
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Progress::Again
        }
        ConnectionState::WriteTraffic(mut traffic) => match encrypt {
            Some(plain) => Progress::Wrote(traffic.encrypt(plain, out).expect("there is room")),
            None => Progress::Ready,
        },
        ConnectionState::BlockedHandshake => Progress::Blocked,
        _ => Progress::Ready,
    };
    (discard, progress)
}

fn handshake(tls: &mut Tls, incoming: &mut Incoming, socket: &mut TcpStream) {
    let mut out = vec![0; 16 << 10];
    loop {
        match tls.step(incoming, None, &mut out, &mut |_| panic!("nothing is sent before the end")) {
            Progress::Again => {}
            Progress::Wrote(bytes) => socket.write_all(&out[..bytes]).expect("the other end reads"),
            Progress::Ready => return,
            Progress::Blocked => assert!(incoming.fill(socket), "the other end goes on"),
        }
    }
}

/// A client and a server whose handshake is done, in one process.
pub fn pair() -> (Tls, Tls) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the client comes");
        let mut tls = Tls::Server(UnbufferedServerConnection::new(server_config()).expect("a server"));
        handshake(&mut tls, &mut Incoming::default(), &mut socket);
        tls
    });
    let mut socket = TcpStream::connect(address).expect("loopback");
    let name = ServerName::try_from("bare").expect("a name");
    let mut tls = Tls::Client(UnbufferedClientConnection::new(client_config(), name).expect("a client"));
    handshake(&mut tls, &mut Incoming::default(), &mut socket);
    (tls, server.join().expect("the server ends"))
}

pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

fn server_config() -> Arc<ServerConfig> {
    let keypair = libp2p::identity::Keypair::generate_ed25519();
    let (certificate, key) = libp2p_tls::certificate::generate(&keypair).expect("a certificate");
    let key = provider().key_provider.load_private_key(key).expect("its key");
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(OneCertificate(Arc::new(CertifiedKey::new(vec![certificate], key)))));
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

fn client_config() -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Both ends are this bench: nothing is proven to anybody.
#[derive(Debug)]
pub struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }
}
