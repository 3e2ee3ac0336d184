//! One connection, from Hello to Goodbye: a reader, a writer and a feeder on one data thread.
//!
//! The reader turns frames into events for shares and streams payload into pooled buffers, which the disk threads verify
//! and write. The writer sends control frames first and payload between them. The feeder reads ahead what is to be
//! served. None of them decides anything about the swarm; `share` and the engine do.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use crate::drivers::store::{BlockBuf, ReadError};
use crate::drivers::transport::Channel;
use crate::services::node::Inner;
use crate::services::node::limits::{
    FRAMES_BURST, FRAMES_PER_SECOND, HELLO_TIMEOUT, IDLE_TIMEOUT, READ_AHEAD_BLOCKS, WRITE_TIMEOUT,
};
use crate::services::node::link::{Birth, Link, Outgoing, ServeOrder};
use crate::services::node::receive::receive_piece;
use crate::services::node::talk;
use crate::swarm::event::{BanReason, Event};
use crate::wire::limits::HEADER_BYTES;
use crate::wire::{Frame, FrameHeader, GoodbyeReason, Kind, PieceHeader, RejectReason, version};

/// Why a session ended, for the log and for who dialled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionEnd {
    /// The connection broke, or a write took too long.
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    /// The peer broke the protocol.
    #[error("protocol broken: {0}")]
    Wire(#[from] crate::wire::Error),
    /// The peer broke a rule that frames alone do not show.
    #[error("protocol broken: {0}")]
    Rule(&'static str),
    /// More frames than any honest peer sends.
    #[error("too many frames")]
    Flood,
    /// The peer said goodbye.
    #[error("the peer said goodbye: {0:?}")]
    Goodbye(GoodbyeReason),
    /// We ended it.
    #[error("closed by this node")]
    Closed,
    /// This node does not want the peer: banned, or one connection too many.
    #[error("refused: {0:?}")]
    Refused(GoodbyeReason),
}

/// Drives one connection to its end.
pub(crate) async fn run(node: Arc<Inner>, channel: Channel) {
    let peer_id = channel.peer;
    let remote = channel.remote;
    let end = match session(&node, channel).await {
        Ok(()) => SessionEnd::Closed,
        Err(end) => end,
    };
    tracing::debug!(peer = %peer_id, %remote, reason = %end, "session ended");
    let ordinary = matches!(
        end,
        SessionEnd::Closed
            | SessionEnd::Refused(_)
            | SessionEnd::Goodbye(GoodbyeReason::Shutdown | GoodbyeReason::TooMany)
    );
    if !ordinary {
        node.trouble(format!("peer {peer_id} at {remote}: {end}"));
    }
}

async fn session(node: &Arc<Inner>, channel: Channel) -> Result<(), SessionEnd> {
    let (mut reader, mut writer) = tokio::io::split(channel.io);
    let mut scratch = Vec::new();
    node.hello().encode(&mut scratch);
    timeout(HELLO_TIMEOUT, async {
        writer.write_all(&scratch).await?;
        writer.flush().await
    })
    .await
    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let hello = timeout(HELLO_TIMEOUT, read_control(&mut reader, &mut scratch))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let Frame::Hello { version: theirs, agent, listen_port, site, .. } = hello else {
        return Err(SessionEnd::Rule("the first frame is not Hello"));
    };
    let birth = Birth {
        number: node.next_number(),
        peer_id: channel.peer,
        remote: channel.remote,
        inbound: channel.inbound,
        path: channel.path,
        round_trip: channel.round_trip,
        agent,
        listen_port,
        site,
    };
    let (link, frames, orders) = Link::new(birth);
    let refused = if theirs == version::VERSION { node.admit(&link).err() } else { Some(GoodbyeReason::Version) };
    if let Some(reason) = refused {
        scratch.clear();
        Frame::Goodbye { reason }.encode(&mut scratch);
        let _ = timeout(WRITE_TIMEOUT, async {
            writer.write_all(&scratch).await?;
            writer.flush().await?;
            writer.shutdown().await
        })
        .await;
        return Err(SessionEnd::Refused(reason));
    }
    node.link_up(&link);
    let (prepared, blocks) = mpsc::channel(READ_AHEAD_BLOCKS);
    let result = tokio::select! {
        end = read_frames(node, &link, &mut reader) => end,
        end = write_frames(&link, &mut writer, frames, blocks) => end,
        never = feed(node, &link, orders, prepared) => never,
        () = link.aborted() => Err(SessionEnd::Closed),
    };
    node.link_down(&link).await;
    if let Err(end @ (SessionEnd::Wire(_) | SessionEnd::Rule(_) | SessionEnd::Flood)) = &result {
        let reason = if matches!(end, SessionEnd::Flood) { BanReason::Flood } else { BanReason::Protocol };
        tracing::warn!(peer = %link.peer_id, reason = %end, "peer sent away");
        node.ban(&link, reason, Duration::from_secs(600));
    }
    let _ = timeout(Duration::from_secs(1), writer.shutdown()).await;
    result
}

/// Reads one control frame; a Piece frame here is an error of the caller's protocol state.
async fn read_control<R: AsyncRead + Unpin>(reader: &mut R, body: &mut Vec<u8>) -> Result<Frame, SessionEnd> {
    let mut head = [0; HEADER_BYTES];
    reader.read_exact(&mut head).await?;
    let header = FrameHeader::decode(head)?;
    if header.kind == Kind::Piece {
        return Err(SessionEnd::Rule("a piece before Hello"));
    }
    read_body(reader, header, body).await
}

async fn read_body<R: AsyncRead + Unpin>(
    reader: &mut R,
    header: FrameHeader,
    body: &mut Vec<u8>,
) -> Result<Frame, SessionEnd> {
    body.clear();
    // `decode` has bounded the length by the frame's kind.
    body.resize(header.length as usize, 0);
    reader.read_exact(body).await?;
    let frame = Frame::decode(header.kind, body)?;
    if body.capacity() > 64 << 10 {
        *body = Vec::new();
    }
    Ok(frame)
}

async fn read_frames<R: AsyncRead + Unpin>(
    node: &Arc<Inner>,
    link: &Arc<Link>,
    reader: &mut R,
) -> Result<(), SessionEnd> {
    let mut head = [0; HEADER_BYTES];
    let mut body = Vec::new();
    let mut allowance = Allowance::new();
    loop {
        // Only a link without a topic may be idle too long; a quiet one with a topic is a peer with nothing to say.
        match timeout(IDLE_TIMEOUT, reader.read_exact(&mut head)).await {
            Ok(read) => read?,
            Err(_) if link.slots().by_handle.is_empty() => {
                link.close(GoodbyeReason::Idle);
                reader.read_exact(&mut head).await?
            }
            Err(_) => reader.read_exact(&mut head).await?,
        };
        let header = FrameHeader::decode(head)?;
        if header.kind == Kind::Piece {
            receive_piece(node, link, reader, header).await?;
            continue;
        }
        if !allowance.take() {
            return Err(SessionEnd::Flood);
        }
        match read_body(reader, header, &mut body).await? {
            Frame::Goodbye { reason } => return Err(SessionEnd::Goodbye(reason)),
            frame => talk::hear(node, link, frame).await?,
        }
    }
}

/// Token bucket over control frames.
struct Allowance {
    tokens: u32,
    since: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { tokens: FRAMES_BURST, since: Instant::now() }
    }

    fn take(&mut self) -> bool {
        if self.tokens == 0 {
            let earned = self.since.elapsed().as_millis().saturating_mul(u128::from(FRAMES_PER_SECOND)) / 1000;
            self.tokens = u32::try_from(earned).unwrap_or(u32::MAX).min(FRAMES_BURST);
            self.since = Instant::now();
        }
        self.tokens.checked_sub(1).map(|left| self.tokens = left).is_some()
    }
}

/// A piece read ahead: its frame header and first block; the other blocks follow one by one.
pub(crate) enum Prepared {
    /// A frame begins.
    Piece { order: ServeOrder, header: Vec<u8>, first: BlockBuf, blocks_after: u32 },
    /// The next block of the frame begun before.
    Block(BlockBuf),
    /// A later block cannot be read: the frame cannot be finished.
    Broken,
}

async fn write_frames<W: AsyncWrite + Unpin>(
    link: &Arc<Link>,
    writer: &mut W,
    mut frames: mpsc::Receiver<Outgoing>,
    mut blocks: mpsc::Receiver<Prepared>,
) -> Result<(), SessionEnd> {
    let mut out = Vec::with_capacity(4096);
    let mut written = Vec::new();
    loop {
        tokio::select! {
            biased;
            outgoing = frames.recv() => {
                let Some(mut outgoing) = outgoing else { return Ok(()) };
                loop {
                    match outgoing {
                        Outgoing::Frame(frame) => frame.encode(&mut out),
                        Outgoing::Manifest(frame, permit) => {
                            frame.encode(&mut out);
                            written.push(permit);
                        }
                        Outgoing::Close(reason) => {
                            Frame::Goodbye { reason }.encode(&mut out);
                            write(writer, &out).await?;
                            return Ok(());
                        }
                    }
                    if out.len() > 64 << 10 {
                        break;
                    }
                    let Ok(next) = frames.try_recv() else { break };
                    outgoing = next;
                }
                write(writer, &out).await?;
                written.clear();
                out.clear();
                out.shrink_to(64 << 10);
            }
            prepared = blocks.recv() => match prepared {
                Some(Prepared::Piece { order, header, first, blocks_after }) => {
                    send_piece(writer, order, &header, first, blocks_after, &mut blocks).await?;
                }
                Some(Prepared::Block(_) | Prepared::Broken) | None => return Err(SessionEnd::Closed),
            },
        }
        if link.slots().cancelled_serves.len() > 4096 {
            link.slots().cancelled_serves.clear();
        }
    }
}

async fn send_piece<W: AsyncWrite + Unpin>(
    writer: &mut W,
    order: ServeOrder,
    header: &[u8],
    first: BlockBuf,
    blocks_after: u32,
    blocks: &mut mpsc::Receiver<Prepared>,
) -> Result<(), SessionEnd> {
    timeout(WRITE_TIMEOUT, writer.write_all(header)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut sent = first.as_ref().len() as u64;
    write(writer, first.as_ref()).await?;
    drop(first);
    for _ in 0..blocks_after {
        match blocks.recv().await {
            Some(Prepared::Block(block)) => {
                write(writer, block.as_ref()).await?;
                sent = sent.saturating_add(block.as_ref().len() as u64);
            }
            // The frame's length is said already: only ending the connection is honest.
            _ => return Err(SessionEnd::Closed),
        }
    }
    let served = Event::Served { peer: order.peer, piece: order.piece, bytes: sent, complete: true };
    order.share.tell(served).await;
    Ok(())
}

async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> Result<(), SessionEnd> {
    timeout(WRITE_TIMEOUT, async {
        writer.write_all(bytes).await?;
        writer.flush().await
    })
    .await
    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(())
}

/// Reads ahead what the share wants served; ends only with the session.
async fn feed(
    node: &Arc<Inner>,
    link: &Arc<Link>,
    mut orders: mpsc::UnboundedReceiver<ServeOrder>,
    prepared: mpsc::Sender<Prepared>,
) -> Result<(), SessionEnd> {
    while let Some(order) = orders.recv().await {
        let (share, peer, piece) = (Arc::clone(&order.share), order.peer, order.piece);
        if link.slots().cancelled_serves.remove(&(peer, piece)) {
            share.tell(Event::Served { peer, piece, bytes: 0, complete: false }).await;
            continue;
        }
        let handle = order.handle;
        let wire_piece = order.wire_piece;
        match prepare(node, order, &prepared).await {
            Ok(()) => {}
            Err(Unreadable::Gone) => return Err(SessionEnd::Closed),
            Err(why) => {
                link.send(Frame::Reject {
                    handle,
                    reason: RejectReason::NotHeld,
                    piece: Some(wire_piece),
                    manifest: false,
                });
                share.tell(Event::Served { peer, piece, bytes: 0, complete: false }).await;
                if matches!(why, Unreadable::Rotten) {
                    tracing::warn!(content = %share.name(), piece = piece.0, "a piece on disk is not what it was: dropped");
                    share.tell(Event::LocalLost { piece }).await;
                }
            }
        }
    }
    // The link itself holds the sending side, so this is reached only when it is gone.
    Err(SessionEnd::Closed)
}

enum Unreadable {
    /// The bytes on disk are not the piece's any more.
    Rotten,
    /// The disk cannot give them just now, or the piece is not held any more.
    NotNow,
    /// The session is gone.
    Gone,
}

/// Reads one piece block by block into `prepared`.
async fn prepare(node: &Arc<Inner>, order: ServeOrder, prepared: &mpsc::Sender<Prepared>) -> Result<(), Unreadable> {
    let (share, piece, first_block) = (Arc::clone(&order.share), order.piece, order.first_block);
    let layout = share.manifest().layout();
    let (Some(block_count), Some(length)) = (layout.block_count(piece), layout.piece_length(piece)) else {
        return Err(Unreadable::Rotten);
    };
    let chaining_values = if block_count > 1 {
        let store = Arc::clone(share.store());
        let proof = node.disk.run(move || store.piece_proof(piece)).await.map_err(|_| Unreadable::Gone)?;
        proof.map_err(|error| unreadable(&error))?.to_vec()
    } else {
        Vec::new()
    };
    let skipped = u64::from(first_block.0).saturating_mul(BLOCK_BYTES);
    let payload = length.checked_sub(skipped).filter(|left| *left > 0).ok_or(Unreadable::Rotten)?;
    let header = PieceHeader {
        handle: order.handle,
        piece: order.wire_piece,
        first_block: first_block.0,
        chaining_values,
        payload_bytes: u32::try_from(payload).map_err(|_| Unreadable::Rotten)?,
    };
    let mut bytes = Vec::new();
    header.encode(&mut bytes).map_err(|_| Unreadable::Rotten)?;
    let mut begun = Some((order, bytes));
    for block in first_block.0..block_count {
        let read = read_block(node, &share, piece, BlockIndex(block)).await;
        let message = match (begun.take(), read) {
            (Some((order, header)), Ok(first)) => {
                Prepared::Piece { order, header, first, blocks_after: block_count - 1 - block }
            }
            (None, Ok(block)) => Prepared::Block(block),
            (Some(_), Err(reason)) => return Err(reason),
            (None, Err(_)) => Prepared::Broken,
        };
        prepared.send(message).await.map_err(|_| Unreadable::Gone)?;
    }
    Ok(())
}

async fn read_block(
    node: &Arc<Inner>,
    share: &Arc<crate::services::node::share::ShareHandle>,
    piece: PieceIndex,
    block: BlockIndex,
) -> Result<BlockBuf, Unreadable> {
    let length = share.manifest().layout().block_length(piece, block).ok_or(Unreadable::Rotten)?;
    let length = usize::try_from(length).map_err(|_| Unreadable::Rotten)?;
    let mut buffer = node.send_pool.acquire().await.map_err(|_| Unreadable::Gone)?;
    let store = Arc::clone(share.store());
    let read = node
        .disk
        .run(move || {
            buffer.set_length(length);
            store.read_block(piece, block, buffer.filled_mut()).map(|()| buffer)
        })
        .await;
    match read {
        Ok(Ok(buffer)) => Ok(buffer),
        Ok(Err(error)) => Err(unreadable(&error)),
        Err(_) => Err(Unreadable::Gone),
    }
}

fn unreadable(error: &ReadError) -> Unreadable {
    match error.lost() {
        Some(_) => Unreadable::Rotten,
        None => Unreadable::NotNow,
    }
}
