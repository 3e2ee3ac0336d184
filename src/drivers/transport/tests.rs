//! Real sockets on loopback: both planes, wrong peers, half-open crowds.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use libp2p::PeerId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::drivers::transport::channel::LocalBoxFuture;
use crate::drivers::transport::tls_config::{TlsConfigs, proven_peer};
use crate::drivers::transport::tls_stream::TlsStream;
use crate::drivers::transport::*;

/// Echoes on inbound channels; on outbound ones sends a text, reads it back and reports.
struct Echo {
    reports: mpsc::UnboundedSender<Report>,
}

#[derive(Debug, PartialEq)]
struct Report {
    peer: PeerId,
    inbound: bool,
    path: Path,
    echoed: bool,
}

const TEXT_BYTES: usize = 300_000;

impl Sessions for Echo {
    fn run(&self, mut channel: Channel) -> LocalBoxFuture<()> {
        let reports = self.reports.clone();
        Box::pin(async move {
            let text: Vec<u8> = (0..TEXT_BYTES).map(|index| (index % 251) as u8).collect();
            let mut back = vec![0; TEXT_BYTES];
            let (mut reader, mut writer) = tokio::io::split(&mut channel.io);
            let echoed = if channel.inbound {
                let read = reader.read_exact(&mut back).await.is_ok();
                read && writer.write_all(&back).await.is_ok() && writer.flush().await.is_ok()
            } else {
                let send = async { writer.write_all(&text).await.is_ok() && writer.flush().await.is_ok() };
                let (sent, read) = tokio::join!(send, reader.read_exact(&mut back));
                sent && read.is_ok() && back == text
            };
            let Channel { peer, inbound, path, .. } = channel;
            assert!(channel.round_trip > Duration::ZERO);
            let _ = reports.send(Report { peer, inbound, path, echoed });
            // The dialler closes; the other waits for that, so that no answer is cut.
            if inbound {
                let _ = channel.io.read(&mut [0]).await;
            } else {
                let _ = channel.io.shutdown().await;
            }
        })
    }
}

struct Node {
    endpoint: Endpoint,
    reports: mpsc::UnboundedReceiver<Report>,
}

impl Node {
    fn start(seed: u8, change: impl FnOnce(&mut Options)) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        let mut options = Options::new(Identity::from_seed(&mut [seed; 32]));
        options.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        change(&mut options);
        let endpoint = Endpoint::start(options, Arc::new(Echo { reports: sender })).expect("loopback has ports");
        Self { endpoint, reports }
    }

    fn address(&self) -> SocketAddr {
        *self.endpoint.bound().first().expect("it listens")
    }

    async fn report(&mut self) -> Report {
        within(self.reports.recv()).await.expect("the endpoint lives")
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it does not take a minute")
}

fn target(node: &Node) -> Target {
    let listening = node.endpoint.listening();
    Target::try_from(listening.first().expect("it listens")).expect("our own multiaddress")
}

async fn both_talk(path_preference: PathPreference, path: Path) {
    let mut server = Node::start(1, |_| {});
    let mut client = Node::start(2, |options| options.path_preference = path_preference);
    let found = within(client.endpoint.dial(target(&server))).await.expect("it listens");
    assert_eq!(found, server.endpoint.peer_id());
    assert_eq!(client.report().await, Report { peer: found, inbound: false, path, echoed: true });
    let peer = client.endpoint.peer_id();
    assert_eq!(server.report().await, Report { peer, inbound: true, path, echoed: true });
    within(client.endpoint.shutdown()).await;
    within(server.endpoint.shutdown()).await;
    assert!(matches!(client.endpoint.dial(target(&server)).await, Err(Error::Closed)));
}

#[tokio::test]
async fn peers_talk_over_the_data_plane() {
    both_talk(PathPreference::Auto, Path::Direct).await;
}

#[tokio::test]
async fn peers_talk_over_a_libp2p_stream() {
    both_talk(PathPreference::Stream, Path::Stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_planes_share_one_port_at_once() {
    let mut server = Node::start(1, |options| options.data_threads = 2);
    let mut direct = Node::start(2, |options| options.path_preference = PathPreference::Direct);
    let mut stream = Node::start(3, |options| options.path_preference = PathPreference::Stream);
    let (one, other) =
        within(async { tokio::join!(direct.endpoint.dial(target(&server)), stream.endpoint.dial(target(&server))) })
            .await;
    assert!(one.is_ok() && other.is_ok());
    assert!(direct.report().await.echoed && stream.report().await.echoed);
    let mut paths = [server.report().await, server.report().await].map(|report| report.path == Path::Direct);
    paths.sort_unstable();
    assert_eq!(paths, [false, true]);
}

#[tokio::test]
async fn a_dial_by_name_without_an_identity_finds_out_who_is_there() {
    let server = Node::start(1, |_| {});
    let mut client = Node::start(2, |_| {});
    let named: Target = format!("localhost:{}", server.address().port()).parse().expect("a target");
    assert_eq!(within(client.endpoint.dial(named)).await.ok(), Some(server.endpoint.peer_id()));
    assert!(client.report().await.echoed);
}

#[tokio::test]
async fn the_wrong_peer_is_refused_on_both_planes() {
    let server = Node::start(1, |_| {});
    for path_preference in [PathPreference::Auto, PathPreference::Direct, PathPreference::Stream] {
        let client = Node::start(2, |options| options.path_preference = path_preference);
        let expected = Identity::from_seed(&mut [9; 32]).peer_id();
        let dialled = within(client.endpoint.dial(Target::socket(server.address(), Some(expected)))).await;
        let Err(Error::WrongPeer { expected: wanted, found, .. }) = dialled else { panic!("{dialled:?}") };
        assert_eq!((*wanted, *found), (expected, server.endpoint.peer_id()));
    }
}

#[tokio::test]
async fn a_node_does_not_talk_to_itself() {
    for path_preference in [PathPreference::Auto, PathPreference::Stream] {
        let node = Node::start(1, |options| options.path_preference = path_preference);
        for peer in [None, Some(node.endpoint.peer_id())] {
            let dialled = within(node.endpoint.dial(Target::socket(node.address(), peer))).await;
            assert!(matches!(dialled, Err(Error::SelfDial { .. })), "{dialled:?}");
        }
    }
}

#[tokio::test]
async fn nobody_there_and_strangers_are_told_apart() {
    let client = Node::start(2, |_| {});
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let dialled = within(client.endpoint.dial(Target::socket(closed.expect("a port"), None))).await;
    assert!(matches!(dialled, Err(Error::Unreachable { .. })), "{dialled:?}");

    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = stranger.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = stranger.accept().await {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let dialled = within(client.endpoint.dial(Target::socket(address, None))).await;
    assert!(matches!(dialled, Err(Error::Handshake { .. })), "{dialled:?}");
}

#[tokio::test]
async fn a_taken_port_is_an_error_or_another_port() {
    let first = Node::start(1, |_| {});
    let mut options = Options::new(Identity::from_seed(&mut [2; 32]));
    options.listen = vec![first.address()];
    let (reports, _keep) = mpsc::unbounded_channel();
    let sessions = Arc::new(Echo { reports });
    let refused = Endpoint::start(options.clone(), sessions.clone());
    assert!(matches!(refused, Err(Error::PortTaken { address }) if address == first.address()));
    options.any_port_if_taken = true;
    let second = Endpoint::start(options, sessions).expect("any port will do");
    assert_ne!(second.bound(), first.endpoint.bound());
}

/// libp2p as anybody may write it: the protocol on a stream, nothing else on the port.
#[tokio::test]
async fn a_peer_that_speaks_only_libp2p_is_reached_by_a_stream() {
    use futures_util::StreamExt as _;
    use libp2p::swarm::SwarmEvent;
    let keypair = libp2p::identity::Keypair::generate_ed25519();
    let expected = keypair.public().to_peer_id();
    let mut swarm = libp2p::SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_tcp(libp2p::tcp::Config::default(), libp2p::noise::Config::new, libp2p::yamux::Config::default)
        .expect("noise")
        .with_behaviour(|_| libp2p_stream::Behaviour::new())
        .expect("a behaviour")
        .build();
    let mut streams = swarm
        .behaviour()
        .new_control()
        .accept(libp2p::StreamProtocol::new(crate::wire::version::STREAM_PROTOCOL))
        .expect("once");
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().expect("valid")).expect("loopback");
    let (send, listening) = tokio::sync::oneshot::channel();
    let mut send = Some(send);
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = swarm.select_next_some().await
                && let Some(send) = send.take()
            {
                let _ = send.send(address);
            }
        }
    });
    tokio::spawn(async move {
        while let Some((_, stream)) = streams.next().await {
            let (mut reader, mut writer) = tokio::io::split(futures_io::FromFutures(stream));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
    });
    let address = within(listening).await.expect("it listens");
    let mut client = Node::start(2, |_| {});
    let found = within(client.endpoint.dial(Target::try_from(&address).expect("TCP"))).await.expect("by a stream");
    assert_eq!(client.report().await, Report { peer: found, inbound: false, path: Path::Stream, echoed: true });
    assert_eq!(found, expected);
}

#[tokio::test]
async fn garbage_is_closed_and_harms_nobody() {
    let mut server = Node::start(1, |_| {});
    let http = b"GET / HTTP/1.1\r\n\r\n".as_slice();
    let tls = [0x16, 3, 1, 0xff, 0xff, 0, 0].as_slice();
    let records: Vec<u8> = [0x16, 3, 3, 0x40, 0].into_iter().chain([1; 200_000]).collect();
    let libp2p = [0x13].into_iter().chain(*b"/multistream/9.9.9\n").collect::<Vec<u8>>();
    for garbage in [http, &[0], &[0xff; 4096], tls, &records, &libp2p, &[0x13, 0xff, 0xff, 0xff, 0xff]] {
        let mut socket = TcpStream::connect(server.address()).await.expect("it listens");
        let _ = socket.write_all(garbage).await;
        let _ = socket.shutdown().await;
        // Closed by the other side, with or without a last word.
        let _ = within(socket.read_to_end(&mut Vec::new())).await;
    }
    let mut client = Node::start(2, |_| {});
    within(client.endpoint.dial(target(&server))).await.expect("still there");
    assert!(client.report().await.echoed && server.report().await.echoed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_half_open_connections_starves_nobody() {
    let mut server = Node::start(1, |options| {
        options.limits.handshakes_per_address_max = 64;
        options.limits.handshakes_max = 128;
    });
    let mut crowd = Vec::new();
    for number in 0..400u32 {
        let mut socket = TcpStream::connect(server.address()).await.expect("it listens");
        // A third says nothing, a third begins TLS, a third libp2p.
        if number % 3 != 0 {
            let byte = if number % 3 == 1 { 0x16 } else { 0x13 };
            let _ = socket.write_all(&[byte]).await;
        }
        crowd.push(socket);
    }
    for seed in 2..6 {
        for path_preference in [PathPreference::Direct, PathPreference::Stream] {
            let mut client = Node::start(seed, |options| options.path_preference = path_preference);
            within(client.endpoint.dial(target(&server))).await.expect("an honest peer gets in");
            assert!(client.report().await.echoed && server.report().await.echoed);
        }
    }
    drop(crowd);
}

#[tokio::test]
async fn connections_of_one_peer_are_capped() {
    let server = Node::start(1, |options| options.limits.connections_per_peer_max = 1);
    let client = Node::start(2, |options| options.limits.connections_per_peer_max = 1);
    let silent = Arc::new(Silent);
    let options = Options::new(Identity::from_seed(&mut [3; 32]));
    let endpoint = Endpoint::start(options, silent).expect("it listens nowhere");
    within(endpoint.dial(target(&server))).await.expect("the first");
    // The second may be refused here or there; here the cap is the default, so the server closes it.
    let _ = within(endpoint.dial(target(&server))).await;
    within(client.endpoint.dial(target(&server))).await.expect("another peer");
}

/// Holds its channels until they are closed.
struct Silent;

impl Sessions for Silent {
    fn run(&self, mut channel: Channel) -> LocalBoxFuture<()> {
        Box::pin(async move {
            let _ = channel.io.read(&mut [0]).await;
        })
    }
}

fn configs(seed: u8) -> (PeerId, TlsConfigs) {
    let identity = Identity::from_seed(&mut [seed; 32]);
    (identity.peer_id(), TlsConfigs::new(&identity).expect("a certificate"))
}

async fn tls_pair(pipe_bytes: usize) -> (TlsStream<DuplexStream>, TlsStream<DuplexStream>) {
    let ((server_id, server), (client_id, client)) = (configs(1), configs(2));
    let (near, far) = tokio::io::duplex(pipe_bytes);
    let client = client.client(Some(server_id)).expect("a configuration");
    let handshakes = async { tokio::join!(TlsStream::connect(near, client), TlsStream::accept(far, server.server())) };
    let (near, far) = within(handshakes).await;
    let ((near, _), (far, _)) = (near.expect("a handshake"), far.expect("a handshake"));
    assert_eq!(proven_peer(near.peer_certificates()), Some(server_id));
    assert_eq!(proven_peer(far.peer_certificates()), Some(client_id));
    (near, far)
}

/// xorshift: chunk sizes that differ, the same each run.
fn next(state: &AtomicU64) -> usize {
    let mut value = state.load(Ordering::Relaxed);
    value ^= value << 13;
    value ^= value >> 7;
    value ^= value << 17;
    state.store(value, Ordering::Relaxed);
    value as usize
}

#[tokio::test]
async fn random_chunks_arrive_whole_in_both_directions_at_once() {
    for (pipe_bytes, total) in [(1, 3000), (37, 200_000), (5000, 2 << 20), (64 << 10, 8 << 20), (1 << 20, 16 << 20)] {
        let (mut near, far) = tls_pair(pipe_bytes).await;
        // One side renews its key all the time, under the other's feet.
        near.set_renew_after(5);
        let sizes = AtomicU64::new(0x9e37_79b9 + pipe_bytes as u64);
        let direction = |stream: TlsStream<DuplexStream>, first: usize, sizes: &AtomicU64| {
            let (mut reader, mut writer) = tokio::io::split(stream);
            let sizes = (AtomicU64::new(next(sizes) as u64 | 1), AtomicU64::new(next(sizes) as u64 | 1));
            async move {
                let write = async {
                    let mut sent = 0;
                    while sent < total {
                        let count = (next(&sizes.0) % 400_000).clamp(1, total - sent);
                        let chunk: Vec<u8> = (sent..sent + count).map(|at| ((at + first) % 253) as u8).collect();
                        writer.write_all(&chunk).await.expect("the other side reads");
                        sent += count;
                    }
                    writer.shutdown().await.expect("nothing is broken");
                };
                let read = async {
                    let mut received = 0;
                    loop {
                        let mut chunk = vec![0; 1 + next(&sizes.1) % 300_000];
                        let count = reader.read(&mut chunk).await.expect("the other side writes");
                        if count == 0 {
                            break;
                        }
                        let expected = |(at, byte): (usize, &u8)| *byte == ((received + at + 7 - first) % 253) as u8;
                        assert!(chunk[..count].iter().enumerate().all(expected), "from byte {received}");
                        received += count;
                    }
                    assert_eq!(received, total);
                };
                tokio::join!(write, read);
            }
        };
        let (one, other) = (direction(near, 0, &sizes), direction(far, 7, &sizes));
        within(async { tokio::join!(one, other) }).await;
    }
}

#[tokio::test]
async fn a_cut_is_an_error_and_an_end_is_none() {
    let (mut near, mut far) = tls_pair(1 << 16).await;
    near.write_all(b"all of it").await.expect("room");
    near.shutdown().await.expect("room");
    let mut read = Vec::new();
    far.read_to_end(&mut read).await.expect("a proper end");
    assert_eq!(read, b"all of it");
    // The other half still works after that.
    far.write_all(b"an answer").await.expect("room");
    far.flush().await.expect("room");
    let mut answer = [0; 9];
    near.read_exact(&mut answer).await.expect("an answer");

    let (mut near, mut far) = tls_pair(1 << 16).await;
    near.write_all(b"half of").await.expect("room");
    near.flush().await.expect("room");
    drop(near);
    let cut = far.read_to_end(&mut Vec::new()).await.expect_err("the end is missing");
    assert_eq!(cut.kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(far.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn a_changed_byte_is_noticed() {
    let ((_, server), (_, client)) = (configs(1), configs(2));
    let (near, mut wire_near) = tokio::io::duplex(1 << 16);
    let (mut wire_far, far) = tokio::io::duplex(1 << 16);
    let relay = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        let mut back = vec![0; 1 << 16];
        let mut spoilt = false;
        loop {
            tokio::select! {
                read = wire_near.read(&mut buffer) => {
                    let Ok(count @ 1..) = read else { break };
                    // Only application data of 10,000 bytes is that long from this side.
                    if count > 9000 && !spoilt {
                        buffer[count / 2] ^= 1;
                        spoilt = true;
                    }
                    if wire_far.write_all(&buffer[..count]).await.is_err() { break }
                }
                read = wire_far.read(&mut back) => {
                    let Ok(count @ 1..) = read else { break };
                    if wire_near.write_all(&back[..count]).await.is_err() { break }
                }
            }
        }
    });
    let client = client.client(None).expect("a configuration");
    let (near, far) = tokio::join!(TlsStream::connect(near, client), TlsStream::accept(far, server.server()));
    let ((mut near, _), (mut far, _)) = (near.expect("a handshake"), far.expect("a handshake"));
    near.write_all(&[5; 10_000]).await.expect("room");
    near.flush().await.expect("room");
    let spoilt = within(far.read(&mut [0; 10_000])).await.expect_err("the tag does not fit");
    assert_eq!(spoilt.kind(), std::io::ErrorKind::InvalidData);
    assert!(within(near.read(&mut [0])).await.is_err(), "the alert arrives");
    drop((near, far));
    let _ = within(relay).await;
}

#[tokio::test]
async fn an_idle_stream_gives_its_buffers_back() {
    const QUIET: Duration = Duration::from_millis(20);
    let (mut near, mut far) = tls_pair(1 << 20).await;
    near.set_idle_after(QUIET);
    let mut releases = near.releases();
    let (mut reader, mut writer) = tokio::io::split(near);
    let waiting = tokio::spawn(async move {
        let mut byte = [0; 4];
        let read = reader.read_exact(&mut byte).await.map(|_| byte);
        (read, reader)
    });
    writer.write_all(&[1; 500_000]).await.expect("room");
    writer.flush().await.expect("room");
    // All is sent, and nothing else has run since.
    let before = *releases.borrow();
    far.read_exact(&mut vec![0; 500_000]).await.expect("all of it");
    within(releases.wait_for(|count| *count > before)).await.expect("the stream lives");
    far.write_all(b"back").await.expect("room");
    far.flush().await.expect("room");
    let (read, reader) = waiting.await.expect("no panic");
    assert_eq!(read.ok(), Some(*b"back"));
    let near = reader.unsplit(writer);
    assert!(near.buffered_bytes() < 64 << 10, "{}", near.buffered_bytes());
}

#[tokio::test]
async fn what_falls_of_libp2p_is_told_and_begins_again_with_all_that_it_was_told() {
    let mut server = Node::start(1, |_| {});
    let far = Far { bootstrap: vec![target(&server)], ..Far::default() };
    server.endpoint.meet_far(Some(Far::default())).expect("it runs");
    let mut client = Node::start(2, |options| options.path_preference = PathPreference::Stream);
    client.endpoint.meet_far(Some(far)).expect("it runs");
    let keys = std::collections::BTreeSet::from([[7; 32]]);
    client.endpoint.provide(keys).await.expect("it runs");
    let control = client.endpoint.control();
    let mut reports = control.reports();
    for fall in 0..2 {
        within(reports.wait_for(|report| report.bootstraps == 1)).await.expect("it begins");
        control.fall().await.expect("it runs");
        within(reports.wait_for(|report| report.reach == Reach::Fallen)).await.expect("it is told");
        let asked = client.endpoint.dial(target(&server)).await;
        assert!(matches!(asked, Err(Error::Fallen)), "{fall}: {asked:?}");
    }
    within(reports.wait_for(|report| report.bootstraps == 1)).await.expect("it begins again");
    let found = within(client.endpoint.dial(target(&server))).await.expect("it runs again");
    assert_eq!(client.report().await, Report { peer: found, inbound: false, path: Path::Stream, echoed: true });
    // Ended on purpose it stays ended.
    client.endpoint.meet_far(None).expect("it may");
    client.endpoint.shutdown().await;
    assert!(matches!(client.endpoint.control().fall().await, Err(Error::Closed)));
    server.report().await;
}

#[test]
fn wildcards_are_listed_with_their_interfaces() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let node = Node::start(1, |options| options.listen = vec![SocketAddr::new(any, 0)]);
        let listening = node.endpoint.listening();
        assert!(listening.iter().all(|address| !address.to_string().contains("/0.0.0.0/")));
        assert!(listening.iter().any(|address| address.to_string().starts_with("/ip4/127.0.0.1/tcp/")));
    });
}

/// Changes one byte of what is read through it.
struct Flip {
    inner: DuplexStream,
    /// Bytes still to pass before the change.
    before: usize,
}

impl tokio::io::AsyncRead for Flip {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let filled = into.filled().len();
        std::task::ready!(std::pin::Pin::new(&mut self.inner).poll_read(cx, into))?;
        let new = &mut into.filled_mut()[filled..];
        if let Some(byte) = new.get_mut(self.before) {
            *byte ^= 0x41;
        }
        self.before = self.before.checked_sub(new.len()).unwrap_or(usize::MAX);
        std::task::Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Flip {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        data: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.inner).poll_write(cx, data)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn one_changed_byte_anywhere_ends_the_connection_and_nothing_else() {
    let ((_, server), (_, client)) = (configs(1), configs(2));
    for at in (0..6000).step_by(19) {
        for (client_flips, pipe_bytes) in [(at, usize::MAX), (usize::MAX, at)].into_iter().zip([50, 1 << 16]) {
            let (near, far) = tokio::io::duplex(pipe_bytes);
            let near = Flip { inner: near, before: client_flips.0 };
            let far = Flip { inner: far, before: client_flips.1 };
            let client = client.client(None).expect("a configuration");
            let talk = |stream: std::io::Result<(TlsStream<Flip>, Duration)>| async move {
                let (stream, _) = stream?;
                let (mut reader, mut writer) = tokio::io::split(stream);
                let send = async {
                    writer.write_all(&[9; 4000]).await?;
                    writer.flush().await
                };
                let mut read = vec![0; 4000];
                let (sent, received) = tokio::join!(send, reader.read_exact(&mut read));
                received.and(sent)?;
                assert!(read.iter().all(|byte| *byte == 9), "a changed byte got through");
                writer.shutdown().await
            };
            let near = async { talk(TlsStream::connect(near, client).await).await };
            let far = async { talk(TlsStream::accept(far, server.server()).await).await };
            let (near, far) = within(async { tokio::join!(near, far) }).await;
            assert!(at > 4800 || near.is_err() || far.is_err(), "byte {at}");
        }
    }
}
