//! Both ends of a rendezvous by hand, over the real transport: somebody who asks, and somebody who answers as it likes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use piecework::drivers::transport::channel::LocalBoxFuture;
use piecework::drivers::transport::{Channel, Endpoint, Identity, Options, Sessions, Target};
use piecework::wire::version::{Features, VERSION};
use piecework::wire::{Frame, FrameHeader, GoodbyeReason, Member};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::support::PATIENCE;
use crate::support::hostile::signed_member;

/// What one side says after its Hello.
#[derive(Clone)]
pub enum Script {
    /// These frames at once.
    Says(Vec<Frame>),
    /// To each Meet a Met with these members.
    Answers(Vec<Member>),
    /// To each Meet a Met with all that have asked before, here or at others that share the list.
    Keeps(Arc<Mutex<Vec<Member>>>),
}

/// What it has heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// Somebody asks for a scope.
    Meet([u8; 32]),
    /// Somebody answers, for so long, with these.
    Met(Duration, Vec<Member>),
    /// The other side has ended it so.
    Goodbye(GoodbyeReason),
    /// The connection is gone.
    Gone,
}

/// A node on loopback that says what it is told to; gone when dropped.
pub struct Meeter {
    identity: Identity,
    endpoint: Endpoint,
    runtime: tokio::runtime::Runtime,
    heard: mpsc::Receiver<Heard>,
}

impl Meeter {
    /// A fresh identity, told from others by its seed, that announces these features.
    pub fn start(seed: u8, features: Features, script: Script) -> Self {
        Self::start_at([127, 0, 0, 1].into(), [seed; 32], features, script)
    }

    /// The same at another address, with all of its seed.
    pub fn start_at(ip: IpAddr, mut seed: [u8; 32], features: Features, script: Script) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let identity = Identity::from_seed(&mut seed);
        let mut options = Options::new(identity.clone());
        options.listen = vec![SocketAddr::new(ip, 0)];
        let (tell, heard) = mpsc::channel();
        let one = One { identity: identity.clone(), features, script, ip, port: Arc::default(), tell };
        let port = Arc::clone(&one.port);
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::start(options, Arc::new(one)).expect("it has ports")
        };
        *port.lock().expect("not poisoned") = endpoint.bound().first().expect("it listens").port();
        Self { identity, endpoint, runtime, heard }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        *self.endpoint.bound().first().expect("it listens")
    }

    /// What it has signed of itself.
    pub fn member(&self) -> Member {
        signed_member(&self.identity, self.address())
    }

    /// Dials a node by its multiaddress; the session runs on.
    pub fn dial(&self, target: &str) {
        let target: Target = target.parse().expect("a multiaddress");
        self.runtime.block_on(self.endpoint.dial(target)).expect("it listens");
    }

    /// What it hears within a time, if anything.
    pub fn heard_within(&self, time: Duration) -> Option<Heard> {
        self.heard.recv_timeout(time).ok()
    }

    /// What it hears next.
    pub fn hears(&self) -> Heard {
        self.heard.recv_timeout(PATIENCE).expect("something is heard")
    }
}

struct One {
    identity: Identity,
    features: Features,
    script: Script,
    ip: IpAddr,
    port: Arc<Mutex<u16>>,
    tell: mpsc::Sender<Heard>,
}

impl Sessions for One {
    fn run(&self, channel: Channel) -> LocalBoxFuture<()> {
        let (script, tell, features) = (self.script.clone(), self.tell.clone(), self.features);
        let listen_port = *self.port.lock().expect("not poisoned");
        let record = signed_member(&self.identity, SocketAddr::new(self.ip, listen_port)).record;
        Box::pin(async move {
            let hello = Frame::Hello {
                version: VERSION,
                features: features.0,
                agent: "by hand".to_owned(),
                listen_port,
                site: None,
                record,
                group_nonce: None,
            };
            // Every end is the other side's doing.
            let _ = converse(channel, hello, script, &tell).await;
            let _ = tell.send(Heard::Gone);
        })
    }
}

async fn converse(channel: Channel, hello: Frame, script: Script, tell: &mpsc::Sender<Heard>) -> io::Result<()> {
    let (peer_id, ip) = (channel.peer.to_bytes(), channel.remote.ip());
    let (mut reader, mut writer) = tokio::io::split(channel.io);
    let (mut out, mut member) = (Vec::new(), None);
    hello.encode(&mut out);
    if let Script::Says(frames) = &script {
        frames.iter().for_each(|frame| frame.encode(&mut out));
    }
    loop {
        writer.write_all(&out).await?;
        writer.flush().await?;
        out.clear();
        let heard = match next(&mut reader).await? {
            Frame::Hello { listen_port: port @ 1.., record, .. } => {
                member = Some(Member { peer_id: peer_id.clone(), address: SocketAddr::new(ip, port), record });
                continue;
            }
            Frame::Meet { scope } => {
                let answer = match &script {
                    Script::Answers(members) => Some(members.clone()),
                    Script::Keeps(list) => {
                        let mut list = list.lock().expect("not poisoned");
                        let before = list.iter().filter(|held| held.peer_id != peer_id).cloned().collect();
                        list.extend(member.take());
                        Some(before)
                    }
                    Script::Says(_) => None,
                };
                if let Some(members) = answer {
                    Frame::Met { scope, lease: Duration::from_secs(60), members }.encode(&mut out);
                }
                Heard::Meet(scope)
            }
            Frame::Met { lease, members, .. } => Heard::Met(lease, members),
            Frame::Goodbye { reason } => Heard::Goodbye(reason),
            _ => continue,
        };
        if tell.send(heard).is_err() {
            return Ok(());
        }
    }
}

async fn next<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<Frame> {
    let mut head = [0; 5];
    reader.read_exact(&mut head).await?;
    let header = FrameHeader::decode(head).map_err(io::Error::other)?;
    let mut body = vec![0; header.length as usize];
    reader.read_exact(&mut body).await?;
    Frame::decode(header.kind, &body).map_err(io::Error::other)
}
