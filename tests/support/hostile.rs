//! A peer that speaks the real protocol over the real transport, and breaks it in one chosen way.
//!
//! It lives in the test's process as an endpoint of its own; its victim is the real program. It knows the publication,
//! says that it holds all of it, and counts what it got away with.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use piecework::content::PieceIndex;
use piecework::content::bitfield::Bitfield;
use piecework::content::hash::Topic;
use piecework::drivers::transport::channel::LocalBoxFuture;
use piecework::drivers::transport::{Channel, Endpoint, Identity, Options, Sessions, Target};
use piecework::wire::{Claim, Frame, FrameHeader, GoodbyeReason, Kind, Member, PieceHeader, RejectReason};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::support::PATIENCE;
pub use crate::support::publication::Publication;

/// The number by which victims address a hostile peer.
const OURS: u32 = 5;
/// Bytes of a block, and of every piece of a small file.
const MIB: u32 = 1 << 20;

/// The one rule that is broken.
#[derive(Debug, Clone, PartialEq)]
pub enum Malice {
    /// One bit of every piece is wrong.
    WrongBytes,
    /// Every piece is this many bytes longer than its place.
    WrongLength(i32),
    /// The answer to a request is the header of a frame: its kind, and a length that the kind forbids.
    FrameTooLong(u8, u32),
    /// Half a piece, and not a byte more.
    StallsMidPiece,
    /// Unchokes, and answers nothing.
    NeverDelivers,
    /// Refuses every request for a piece that its bitfield claims.
    DeniesWhatItClaims,
    /// A bitfield of so many pieces.
    BitfieldOf(u32),
    /// TLS, then silence.
    SilentAfterHandshake,
    /// Hello, then silence.
    SilentAfterHello,
    /// Right pieces, over and over, that nobody asked for.
    Unasked,
    /// The same small frame without end.
    Floods,
    /// A frame about a piece that the topic does not have, as the answer to a request.
    Outside(Stray),
    /// Chaining values that do not merge to the piece hash, or for a piece that has none.
    WrongChainingValues,
    /// The first piece of chaining values right, and every block behind them wrong.
    WrongBlocks,
    /// Gives this envelope out as the manifest; pieces are right bytes where it has them.
    GivesManifest(Vec<u8>),
    /// Asks for pieces so many times, and never reads an answer.
    AsksWithoutReading(u32),
    /// Asks for the manifest so many times, and never reads an answer.
    AsksForManifests(u32),
    /// An honest seed for so many pieces, then silent.
    StopsAfter(u64),
    /// None: asks for the topic by itself, holds nothing, and remembers what it is told to be lost.
    Watches,
    /// Holds nothing, and names these members.
    TellsMembers(Vec<Member>),
}

/// What speaks of a piece outside the topic.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Stray {
    Have,
    Lost,
    Request,
    Cancel,
    Reject,
    Intent,
    Piece,
}

/// What a hostile peer got away with.
#[derive(Debug, Default)]
pub struct Log {
    /// Sessions begun: handshakes that stood.
    pub sessions: AtomicU64,
    /// Pieces asked of it.
    pub requests: AtomicU64,
    /// Parts of the manifest asked of it.
    pub manifests: AtomicU64,
    /// Payload sent that was wrong or not asked for, in bytes.
    pub bad_bytes: AtomicU64,
    /// Frames sent.
    pub frames: AtomicU64,
    /// Last words of victims.
    goodbyes: Mutex<Vec<GoodbyeReason>>,
    /// Pieces that victims said they have lost.
    lost: Mutex<Vec<u32>>,
    /// Sessions that the victim ended.
    ended: AtomicU64,
}

/// A hostile peer that listens on loopback; gone when dropped.
pub struct Hostile {
    pub log: Arc<Log>,
    identity: Identity,
    endpoint: Endpoint,
    runtime: tokio::runtime::Runtime,
}

impl Hostile {
    /// A fresh identity of the given malice.
    pub fn start(publication: &Publication, malice: Malice) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let log = Arc::<Log>::default();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        seed[8..12].copy_from_slice(&std::process::id().to_le_bytes());
        let identity = Identity::from_seed(&mut seed);
        let mut options = Options::new(identity.clone());
        options.listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let evil = Evil { publication: publication.clone(), malice, log: Arc::clone(&log) };
        let endpoint = {
            let _inside = runtime.enter();
            Endpoint::start(options, Arc::new(evil)).expect("loopback has ports")
        };
        Self { log, identity, endpoint, runtime }
    }

    /// `HOST:PORT`, as a person would name it and an error message should.
    pub fn address(&self) -> String {
        self.endpoint.bound().first().expect("it listens").to_string()
    }

    /// Its peer id, as an error message may name it.
    pub fn peer_id(&self) -> String {
        self.endpoint.peer_id().to_string()
    }

    /// As another peer may name it to others, with its signed record.
    pub fn member(&self) -> Member {
        signed_member(&self.identity, *self.endpoint.bound().first().expect("it listens"))
    }

    /// Whether a text names it.
    pub fn is_named_in(&self, text: &str) -> bool {
        text.contains(&self.address()) || text.contains(&self.peer_id())
    }

    /// Dials a victim by its multiaddress; the session runs on.
    pub fn attack(&self, victim: &str) {
        let target: Target = victim.parse().expect("a multiaddress");
        self.runtime.block_on(self.endpoint.dial(target)).expect("the victim listens");
    }

    /// Waits until the log says so.
    pub fn wait_for(&self, what: impl Fn(&Log) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !what(&self.log) {
            assert!(Instant::now() < until, "it never came to that: {:?}", self.log);
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Waits until some victim has asked it for a piece, or at least met it.
    pub fn wait_for_victim(&self) {
        self.wait_for(|log| log.sessions.load(Ordering::Relaxed) > 0);
    }
}

impl Log {
    pub fn bad_mib(&self) -> u64 {
        self.bad_bytes.load(Ordering::Relaxed).div_ceil(u64::from(MIB))
    }

    pub fn count(&self, counter: impl Fn(&Self) -> &AtomicU64) -> u64 {
        counter(self).load(Ordering::Relaxed)
    }

    /// Sessions that victims ended.
    pub fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Pieces that victims said they have lost.
    pub fn lost(&self) -> Vec<u32> {
        self.lost.lock().expect("not poisoned").clone()
    }

    pub fn goodbyes(&self) -> Vec<GoodbyeReason> {
        self.goodbyes.lock().expect("not poisoned").clone()
    }
}

/// A member that has signed that it is at this address.
pub fn signed_member(identity: &Identity, address: SocketAddr) -> Member {
    let claim = Claim { port: address.port(), ips: vec![address.ip()], sequence: 1 };
    let record = claim.signed(|message| identity.sign(message)).expect("signed");
    Member { peer_id: identity.peer_id().to_bytes(), address, record }
}

/// The sessions of one hostile peer.
struct Evil {
    publication: Publication,
    malice: Malice,
    log: Arc<Log>,
}

impl Sessions for Evil {
    fn run(&self, channel: Channel) -> LocalBoxFuture<()> {
        let (publication, malice, log) = (self.publication.clone(), self.malice.clone(), Arc::clone(&self.log));
        Box::pin(async move {
            log.sessions.fetch_add(1, Ordering::Relaxed);
            let (mut reader, writer) = tokio::io::split(channel.io);
            let mut session = Session { publication, malice, log: Arc::clone(&log), writer, theirs: 0 };
            // Every end of it is the victim's doing.
            let _ = session.speak(&mut reader).await;
            log.ended.fetch_add(1, Ordering::Relaxed);
        })
    }
}

struct Session<W> {
    publication: Publication,
    malice: Malice,
    log: Arc<Log>,
    writer: W,
    /// The number by which the victim is addressed.
    theirs: u32,
}

impl<W: AsyncWrite + Unpin> Session<W> {
    async fn speak<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> io::Result<()> {
        if self.malice == Malice::SilentAfterHandshake {
            return drain(reader).await;
        }
        let (agent, record) = ("hostile".into(), Vec::new());
        self.say(Frame::Hello {
            version: 1,
            features: 0,
            agent,
            listen_port: 0,
            site: None,
            record,
            group_nonce: None,
        })
        .await?;
        if self.malice == Malice::SilentAfterHello {
            return drain(reader).await;
        }
        if let Malice::AsksWithoutReading(_) | Malice::AsksForManifests(_) | Malice::Watches = self.malice {
            let topic = Topic::of_manifest(&self.publication.manifest().id(), b"");
            self.say(Frame::Open { handle: OURS, topic, manifest_only: false }).await?;
        }
        loop {
            let mut head = [0; 5];
            reader.read_exact(&mut head).await?;
            let header = FrameHeader::decode(head).map_err(io::Error::other)?;
            let mut body = vec![0; header.length as usize];
            reader.read_exact(&mut body).await?;
            if header.kind == Kind::Piece {
                continue;
            }
            match Frame::decode(header.kind, &body).map_err(io::Error::other)? {
                Frame::Open { handle, topic, .. } if self.publication.has(&topic) => {
                    self.opened(handle, topic).await?;
                }
                Frame::Open { handle, .. } => {
                    let reason = RejectReason::NotHeld;
                    self.say(Frame::Reject { handle, reason, piece: None, manifest: false }).await?;
                }
                Frame::Request { piece, first_block, .. } => {
                    self.log.requests.fetch_add(1, Ordering::Relaxed);
                    self.answer(piece, first_block, reader).await?;
                }
                Frame::GetManifest { offset, length, .. } => self.give_manifest(offset, length).await?,
                Frame::Lost { piece, .. } => self.log.lost.lock().expect("not poisoned").push(piece),
                Frame::Goodbye { reason } => {
                    self.log.goodbyes.lock().expect("not poisoned").push(reason);
                    return Ok(());
                }
                _ => {}
            }
        }
    }

    /// The topic stands: what a seed says first, and what this one does at once.
    async fn opened(&mut self, theirs: u32, topic: Topic) -> io::Result<()> {
        self.theirs = theirs;
        match self.malice {
            Malice::Watches => {
                let none = Bitfield::none(self.publication.manifest().layout().piece_count());
                return self.say(Frame::Bitfield { handle: theirs, bitfield: none }).await;
            }
            Malice::AsksWithoutReading(times) => return self.ask_without_reading(times).await,
            Malice::AsksForManifests(times) => {
                let (handle, length) = (theirs, 256 << 10);
                for _ in 0..times {
                    self.say(Frame::GetManifest { handle, offset: 0, length }).await?;
                }
                return std::future::pending().await;
            }
            _ => {}
        }
        self.say(Frame::Open { handle: OURS, topic, manifest_only: false }).await?;
        let piece_count = match self.malice {
            Malice::BitfieldOf(count) => count,
            _ => self.publication.manifest().layout().piece_count(),
        };
        let mut bitfield = Bitfield::all(piece_count);
        if let Malice::TellsMembers(members) = &self.malice {
            let members = members.clone();
            self.say(Frame::Bitfield { handle: theirs, bitfield: Bitfield::none(piece_count) }).await?;
            return self.say(Frame::Members { handle: theirs, members }).await;
        }
        if self.malice == Malice::WrongBlocks {
            // It can give right chaining values only of what it has.
            bitfield = Bitfield::none(piece_count);
            bitfield.set(PieceIndex(0));
        }
        self.say(Frame::Bitfield { handle: theirs, bitfield }).await?;
        self.say(Frame::Choke { handle: theirs, choked: false }).await?;
        match self.malice {
            // Never reads again: a victim that sends Goodbye must not wait for it to be heard.
            Malice::Floods => loop {
                self.say(Frame::Have { handle: theirs, pieces: vec![0] }).await?;
            },
            Malice::Unasked => loop {
                for piece in 0..self.publication.manifest().layout().piece_count() {
                    let right = self.publication.piece(piece).unwrap_or_default().to_vec();
                    self.send_piece(piece, 0, &[], &right, true).await?;
                }
            },
            _ => Ok(()),
        }
    }

    async fn ask_without_reading(&mut self, times: u32) -> io::Result<()> {
        let (handle, piece_count) = (self.theirs, self.publication.manifest().layout().piece_count());
        self.say(Frame::Bitfield { handle, bitfield: Bitfield::none(piece_count) }).await?;
        self.say(Frame::Interested { handle, interested: true }).await?;
        for time in 0..times {
            self.say(Frame::Request { handle, piece: time % piece_count, first_block: 0 }).await?;
        }
        // Asked enough; still nothing is read, until the victim has had enough of it.
        loop {
            self.say(Frame::Interested { handle, interested: true }).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn answer<R: AsyncRead + Unpin>(&mut self, piece: u32, first_block: u32, reader: &mut R) -> io::Result<()> {
        let handle = self.theirs;
        let right = self.publication.piece(piece).unwrap_or_default().to_vec();
        match self.malice.clone() {
            Malice::WrongBytes => {
                let mut wrong = right;
                let middle = wrong.len() / 2;
                wrong[middle] ^= 0x10;
                self.send_piece(piece, first_block, &[], &wrong, true).await
            }
            Malice::WrongLength(more) => {
                let length = right.len().saturating_add_signed(more as isize).max(1);
                let mut wrong = right;
                wrong.resize(length, 7);
                let mut header = Vec::new();
                // Written by hand: the library's encoder refuses shapes that cannot be.
                header.extend_from_slice(&FrameHeader { kind: Kind::Piece, length: 12 + length as u32 }.encode());
                header.extend_from_slice(&handle.to_be_bytes());
                header.extend_from_slice(&piece.to_be_bytes());
                header.extend_from_slice(&[0, 0, 0, 0]);
                self.raw(&header).await?;
                self.payload(&wrong, true).await
            }
            Malice::FrameTooLong(kind, length) => {
                let [a, b, c, d] = length.to_be_bytes();
                self.raw(&[kind, a, b, c, d]).await?;
                // As much as is taken, in case somebody makes room for it.
                for _ in 0..64 {
                    self.payload(&vec![0; MIB as usize], true).await?;
                }
                drain(reader).await
            }
            Malice::StallsMidPiece => {
                let header = self.header(piece, first_block, &[], right.len())?;
                self.raw(&header).await?;
                self.payload(&right[..right.len() / 2], false).await?;
                drain(reader).await
            }
            Malice::DeniesWhatItClaims => {
                let reason = RejectReason::NotHeld;
                self.say(Frame::Reject { handle, reason, piece: Some(piece), manifest: false }).await
            }
            Malice::Outside(stray) => self.stray(stray).await,
            Malice::WrongChainingValues => {
                let length = self.publication.manifest().layout().piece_length(PieceIndex(piece)).unwrap_or(0);
                let wrong = vec![7; usize::try_from(length).unwrap_or(0).max(MIB as usize + 1)];
                self.send_piece(piece, first_block, &[[7; 32], [8; 32]], &wrong, true).await
            }
            Malice::WrongBlocks => {
                let values = self.chaining_values(piece);
                self.send_piece(piece, first_block, &values, &vec![9; right.len()], true).await
            }
            Malice::StopsAfter(count) if self.log.requests.load(Ordering::Relaxed) > count => Ok(()),
            Malice::GivesManifest(_) | Malice::StopsAfter(_) if !right.is_empty() => {
                self.send_piece(piece, first_block, &[], &right, false).await
            }
            _ => Ok(()),
        }
    }

    async fn stray(&mut self, stray: Stray) -> io::Result<()> {
        let (handle, piece) = (self.theirs, u32::MAX - 1);
        match stray {
            Stray::Have => self.say(Frame::Have { handle, pieces: vec![0, piece] }).await,
            Stray::Lost => self.say(Frame::Lost { handle, piece }).await,
            Stray::Request => self.say(Frame::Request { handle, piece, first_block: 0 }).await,
            Stray::Cancel => self.say(Frame::Cancel { handle, piece }).await,
            Stray::Reject => {
                let reason = RejectReason::Busy;
                self.say(Frame::Reject { handle, reason, piece: Some(piece), manifest: false }).await
            }
            Stray::Intent => {
                let lease = Duration::from_secs(60);
                let ranges = std::iter::once(piece..piece + 1).collect();
                self.say(Frame::Intent { handle, ranges, lease }).await
            }
            Stray::Piece => self.send_piece(piece, 0, &[], &[7; MIB as usize], true).await,
        }
    }

    async fn give_manifest(&mut self, offset: u64, length: u32) -> io::Result<()> {
        self.log.manifests.fetch_add(1, Ordering::Relaxed);
        let envelope = match &self.malice {
            Malice::GivesManifest(other) => other.as_slice().into(),
            _ => Arc::clone(&self.publication.envelope),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(envelope.len());
        let end = start.saturating_add(length as usize).min(envelope.len());
        let (handle, total, bytes) = (self.theirs, envelope.len() as u64, envelope[start..end].to_vec());
        self.say(Frame::Manifest { handle, total, offset, bytes }).await
    }

    /// The chaining values of a piece's blocks, as an honest holder sends them.
    fn chaining_values(&self, piece: u32) -> Vec<[u8; 32]> {
        let Some((place, within)) = self.publication.manifest().layout().locate(PieceIndex(piece)) else {
            return vec![];
        };
        let blocks = place.layout.block_count(within).unwrap_or(0);
        let content = &self.publication.content;
        (0..blocks)
            .filter_map(|block| {
                let block = piecework::content::BlockIndex(block);
                let range = place.layout.block(within, block)?;
                let bytes = content.get(usize::try_from(range.offset).ok()?..usize::try_from(range.end()).ok()?)?;
                piecework::content::tree::hash_block(&place.layout, within, block, bytes)
            })
            .collect()
    }

    fn header(&self, piece: u32, first_block: u32, values: &[[u8; 32]], payload: usize) -> io::Result<Vec<u8>> {
        let payload_bytes = u32::try_from(payload).map_err(io::Error::other)?;
        let header =
            PieceHeader { handle: self.theirs, piece, first_block, chaining_values: values.to_vec(), payload_bytes };
        let mut out = Vec::new();
        header.encode(&mut out).map_err(io::Error::other)?;
        Ok(out)
    }

    async fn send_piece(
        &mut self,
        piece: u32,
        first_block: u32,
        values: &[[u8; 32]],
        payload: &[u8],
        bad: bool,
    ) -> io::Result<()> {
        let header = self.header(piece, first_block, values, payload.len())?;
        self.raw(&header).await?;
        self.payload(payload, bad).await
    }

    async fn payload(&mut self, bytes: &[u8], bad: bool) -> io::Result<()> {
        self.raw(bytes).await?;
        if bad {
            self.log.bad_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }

    async fn say(&mut self, frame: Frame) -> io::Result<()> {
        let mut out = Vec::new();
        frame.encode(&mut out);
        self.raw(&out).await?;
        self.log.frames.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes).await?;
        self.writer.flush().await
    }
}

/// Reads and forgets until the other side has had enough.
async fn drain<R: AsyncRead + Unpin>(reader: &mut R) -> io::Result<()> {
    let mut sink = vec![0; 1 << 16];
    while reader.read(&mut sink).await? > 0 {}
    Ok(())
}
