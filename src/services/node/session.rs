//! One connection, from Hello to Goodbye: a reader and a writer on one data thread.
//!
//! The reader turns frames into events for shares and streams payload into pooled buffers, which the disk threads verify
//! and write (`receive`). The writer sends control frames first and payload between them (`send`). Neither decides
//! anything about the swarm; `share` and the engine do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::drivers::transport::Channel;
use crate::services::node::Inner;
use crate::services::node::greeting::{Ends, Greeting, greet, part};
use crate::services::node::limits::{
    DRAIN_MAX, FRAMES_BURST, FRAMES_PER_PIECE, FRAMES_PER_SECOND, IDLE_TIMEOUT, WRITE_TIMEOUT,
};
use crate::services::node::link::{Birth, Link, Outgoing, ServeOrder};
use crate::services::node::parting::{Parting, drain};
use crate::services::node::receive::receive_piece;
use crate::services::node::send::Serving;
use crate::services::node::talk;
use crate::swarm::event::BanReason;
use crate::wire::limits::HEADER_BYTES;
use crate::wire::{Frame, FrameHeader, GoodbyeReason, Kind};

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
    /// One side has not proven the other's group secret, or has none.
    #[error("wrong group secret")]
    OtherGroup,
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
    if matches!(end, SessionEnd::OtherGroup) {
        node.met_stranger();
    }
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
    let Channel { peer: peer_id, remote, local, inbound, path, round_trip, exported, io } = channel;
    let (mut reader, mut writer) = tokio::io::split(io);
    let ends = Ends { peer: peer_id, local, we_dialled: !inbound, exported };
    let Greeting { agent, listen_port, site, record, group, group_key, features } =
        greet(node, ends, &mut reader, &mut writer).await?;
    // Where others may dial it, as far as is seen from here.
    let dialable = match (listen_port, inbound) {
        (0, true) => None,
        (0, false) => Some(remote),
        (port, _) => Some(SocketAddr::new(remote.ip(), port)),
    };
    let member = dialable.and_then(|address| node.member_of(&peer_id, address, &record));
    let number = node.next_number();
    let birth = Birth {
        number,
        peer_id,
        local,
        remote,
        inbound,
        path,
        round_trip,
        agent,
        dialable,
        member,
        site,
        group,
        group_key,
        features,
    };
    let (link, frames, orders) = Link::new(birth);
    if let Err(reason) = node.admit(&link) {
        part(&mut writer, reason).await;
        return Err(SessionEnd::Refused(reason));
    }
    node.link_up(&link);
    if let Some(address) = dialable {
        node.remember(&link, address);
    }
    let result = tokio::select! {
        end = read_frames(node, &link, &mut reader) => end,
        end = write_frames(node, &link, &mut writer, frames, orders) => end,
        () = link.aborted() => Err(SessionEnd::Closed),
    };
    // Of all ends only our own goodbye is no error.
    let parting = result.is_ok().then(|| Parting::new(node));
    node.link_down(&link).await;
    if matches!(result, Err(SessionEnd::Goodbye(GoodbyeReason::Shutdown))) {
        node.has_ended(&link.peer_id);
    }
    if let Err(end @ (SessionEnd::Wire(_) | SessionEnd::Rule(_) | SessionEnd::Flood)) = &result {
        let reason = if matches!(end, SessionEnd::Flood) { BanReason::Flood } else { BanReason::Protocol };
        tracing::warn!(peer = %link.peer_id, reason = %end, "peer sent away");
        node.ban(&link, reason, Duration::from_secs(600));
    }
    let _ = timeout(Duration::from_secs(1), writer.shutdown()).await;
    if parting.is_some() {
        drain(&mut reader, DRAIN_MAX).await;
    }
    result
}

/// Reads the rest of a frame that is no Piece.
pub(crate) async fn read_body<R: AsyncRead + Unpin>(
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
        if !allowance.take(link) {
            return Err(SessionEnd::Flood);
        }
        match read_body(reader, header, &mut body).await? {
            Frame::Goodbye { reason: GoodbyeReason::Group } => return Err(SessionEnd::OtherGroup),
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

    fn take(&mut self, link: &Link) -> bool {
        if self.tokens == 0 {
            let earned = self.since.elapsed().as_millis().saturating_mul(u128::from(FRAMES_PER_SECOND)) / 1000;
            let for_pieces = link.pieces_sent.swap(0, Ordering::Relaxed).saturating_mul(FRAMES_PER_PIECE);
            let earned = u32::try_from(earned).unwrap_or(u32::MAX).saturating_add(for_pieces);
            self.tokens = earned.min(FRAMES_BURST);
            self.since = Instant::now();
        }
        self.tokens.checked_sub(1).map(|left| self.tokens = left).is_some()
    }
}

async fn write_frames<W: AsyncWrite + Unpin>(
    node: &Arc<Inner>,
    link: &Arc<Link>,
    writer: &mut W,
    mut frames: mpsc::Receiver<Outgoing>,
    orders: mpsc::UnboundedReceiver<ServeOrder>,
) -> Result<(), SessionEnd> {
    let mut out = Vec::with_capacity(4096);
    let mut serving = Serving::new(node, link, orders);
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
                            return flush(writer).await;
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
            order = serving.next() => match order {
                Some(order) => serving.serve(writer, order).await?,
                // The link itself holds the sending side, so this is reached only when it is gone.
                None => return Err(SessionEnd::Closed),
            },
        }
        if frames.is_empty() && serving.is_idle() {
            flush(writer).await?;
        }
        if link.slots().cancelled_serves.len() > 4096 {
            link.slots().cancelled_serves.clear();
        }
    }
}

/// Hands bytes to the stream, which may keep a few of them until the next [`flush`].
pub(crate) async fn write<W: AsyncWrite + Unpin>(writer: &mut W, bytes: &[u8]) -> Result<(), SessionEnd> {
    timeout(WRITE_TIMEOUT, writer.write_all(bytes)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(())
}

async fn flush<W: AsyncWrite + Unpin>(writer: &mut W) -> Result<(), SessionEnd> {
    timeout(WRITE_TIMEOUT, writer.flush()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    Ok(())
}
