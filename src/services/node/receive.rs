//! A piece frame on its way in: asked for or skipped, buffered, verified on a disk thread, written.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use crate::content::verify::{PieceProof, VerifiedBlock};
use crate::drivers::store::BlockBuf;
use crate::services::node::Inner;
use crate::services::node::handle::{ShareEvent, ShareHandle};
use crate::services::node::limits::{BLOCK_SLOW, BYTES_TO_WRITE_UNIT, FRAME_SILENCE};
use crate::services::node::link::Link;
use crate::services::node::session::SessionEnd;
use crate::swarm::event::{Event, Message, PeerKey, RejectReason, Scope, Supplier};
use crate::wire::limits::PIECE_FIXED_BYTES;
use crate::wire::{FrameHeader, PieceFixed, PieceHeader};

/// What a piece frame turned out to answer.
struct Owed {
    share: Arc<ShareHandle>,
    peer: PeerKey,
    piece: PieceIndex,
    asked: Instant,
}

/// Reads one piece frame to its end. Payload that nobody asked for is skipped unhashed and reported.
///
/// # Errors
/// The connection broke, or the frame contradicts the manifest's geometry.
pub(crate) async fn receive_piece<R: AsyncRead + Unpin>(
    node: &Arc<Inner>,
    link: &Arc<Link>,
    reader: &mut R,
    header: FrameHeader,
) -> Result<(), SessionEnd> {
    let mut fixed = [0; PIECE_FIXED_BYTES];
    reader.read_exact(&mut fixed).await?;
    let fixed = PieceFixed::decode(&fixed, header.length)?;
    let mut values = vec![0; fixed.chaining_value_bytes()];
    reader.read_exact(&mut values).await?;
    let piece = fixed.with_chaining_values(&values)?;
    link.bytes_received.fetch_add(u64::from(piece.payload_bytes), Ordering::Relaxed);
    match owed(link, &piece)? {
        Debt::Owed(owed) => {
            let outside = matches!(node.scope_of(link), Scope::Group | Scope::Internet);
            receive(node, outside, owed, reader, piece).await
        }
        Debt::Contradicts(Owed { share, peer, .. }) => {
            discard(reader, u64::from(piece.payload_bytes)).await?;
            share.post(ShareEvent::Contradicted { peer }).await;
            Ok(())
        }
        Debt::None => skip(link, reader, piece).await,
    }
}

/// Whether a piece frame was asked for.
enum Debt {
    /// Yes.
    Owed(Owed),
    /// Yes, and it has another length than a manifest says which nothing has proven yet.
    Contradicts(Owed),
    /// No.
    None,
}

/// Finds who asked for this; takes the debt off the slot.
fn owed(link: &Link, header: &PieceHeader) -> Result<Debt, SessionEnd> {
    let mut slots = link.slots();
    let Some(slot) = slots.by_handle.get_mut(&header.handle) else { return Ok(Debt::None) };
    let Some((first_block, asked)) = slot.owed.remove(&header.piece) else { return Ok(Debt::None) };
    let (Some(share), Some(peer)) = (slot.share.clone(), slot.peer) else { return Ok(Debt::None) };
    let piece = PieceIndex(slot.window.0.saturating_add(header.piece));
    let length = share.manifest().layout().piece_length(piece).unwrap_or(0);
    let expected = length.saturating_sub(u64::from(first_block.0).saturating_mul(BLOCK_BYTES));
    if first_block.0 != header.first_block || expected != u64::from(header.payload_bytes) {
        if share.is_unproven() {
            return Ok(Debt::Contradicts(Owed { share, peer, piece, asked }));
        }
        return Err(SessionEnd::Rule("a piece of another length than asked for"));
    }
    Ok(Debt::Owed(Owed { share, peer, piece, asked }))
}

async fn skip<R: AsyncRead + Unpin>(link: &Link, reader: &mut R, header: PieceHeader) -> Result<(), SessionEnd> {
    discard(reader, u64::from(header.payload_bytes)).await?;
    let told = {
        let slots = link.slots();
        slots.by_handle.get(&header.handle).and_then(|slot| slot.share.clone().zip(slot.peer))
    };
    match told {
        Some((share, peer)) => {
            share.post(ShareEvent::Unasked { peer, bytes: u64::from(header.payload_bytes) }).await;
            Ok(())
        }
        // The topic was closed while the piece was on its way, or never stood.
        None if header.payload_bytes <= 16 << 20 => Ok(()),
        None => Err(SessionEnd::Rule("a piece for no topic")),
    }
}

async fn receive<R: AsyncRead + Unpin>(
    node: &Arc<Inner>,
    outside: bool,
    owed: Owed,
    reader: &mut R,
    header: PieceHeader,
) -> Result<(), SessionEnd> {
    let Owed { share, peer, piece, asked } = owed;
    let supplier = Supplier::Peer(peer);
    let manifest = share.manifest().clone();
    let block_count = manifest.layout().block_count(piece).unwrap_or(0);
    let proof = if block_count > 1 {
        match manifest.prove(piece, &header.chaining_values) {
            Ok(proof) => Some(Arc::new(proof)),
            Err(_) => {
                let (block, bytes) = (BlockIndex(header.first_block), u64::from(header.payload_bytes));
                share.post(ShareEvent::BadBlock { supplier, piece, block, bytes }).await;
                return discard(reader, bytes).await;
            }
        }
    } else {
        None
    };
    let mut left = u64::from(header.payload_bytes);
    for block in header.first_block..block_count {
        let block = BlockIndex(block);
        let length = manifest.layout().block_length(piece, block).unwrap_or(0);
        let mut buffer = node.receive_pool.acquire().await.map_err(|_| SessionEnd::Closed)?;
        buffer.set_length(usize::try_from(length).unwrap_or(0));
        let filled = read_block(node, reader, &share, supplier, outside, buffer.filled_mut()).await?;
        left = left.saturating_sub(filled as u64);
        if filled < buffer.len() {
            // Someone faster needs the memory. To the engine the peer has refused the piece for now.
            drop(buffer);
            share.post(ShareEvent::HttpWaste { bytes: filled as u64 }).await;
            let message = Message::Reject { piece, reason: RejectReason::Busy };
            share.tell(Event::Said { peer, message }).await;
            return discard(reader, left).await;
        }
        // Where the disk is slower than the line, this is what makes the sender wait.
        let room = room_to_write(node, &buffer).await.ok_or(SessionEnd::Closed)?;
        admit(node, &share, supplier, piece, block, proof.clone(), buffer, room, None);
    }
    node.latencies.piece.note(asked.elapsed());
    Ok(())
}

/// Reads one block; on a slow line the share hears of what has come so far, so that slow is not taken for dead. Returns
/// with less than the block where it is slow while others wait for a buffer.
async fn read_block<R: AsyncRead + Unpin>(
    node: &Inner,
    reader: &mut R,
    share: &ShareHandle,
    supplier: Supplier,
    outside: bool,
    target: &mut [u8],
) -> Result<usize, SessionEnd> {
    let began = Instant::now();
    let mut pulse = Pulse::new();
    let mut filled = 0;
    while let Some(left) = target.get_mut(filled..).filter(|left| !left.is_empty()) {
        let slice = node.pace_of(share).slice(left.len());
        let read = read_some(reader, left.get_mut(..slice).unwrap_or_default()).await?;
        node.came(share, read as u64).await;
        if outside {
            node.came_from_outside(share, read as u64).await;
        }
        filled += read;
        if let Some(bytes) = pulse.beat(filled) {
            share.tell(Event::Receiving { supplier, bytes }).await;
            if began.elapsed() >= BLOCK_SLOW && node.receive_pool.is_exhausted() {
                break;
            }
        }
    }
    Ok(filled)
}

/// Reads what there is, at least a byte; a peer that says nothing for long in the middle of a frame is gone.
async fn read_some<R: AsyncRead + Unpin>(reader: &mut R, target: &mut [u8]) -> Result<usize, SessionEnd> {
    let read = timeout(FRAME_SILENCE, reader.read(target)).await;
    match read.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?? {
        0 => Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into()),
        read => Ok(read),
    }
}

/// Tells when so much has come so slowly that it is worth a word (see [`Event::Receiving`]).
pub(crate) struct Pulse {
    since: Instant,
    told: u64,
}

impl Pulse {
    const BYTES: u64 = 64 << 10;
    const TIME: Duration = Duration::from_millis(500);

    pub(crate) fn new() -> Self {
        Self { since: Instant::now(), told: 0 }
    }

    /// Takes how many bytes there are in all; returns those since the last word once they are worth one.
    pub(crate) fn beat(&mut self, total: usize) -> Option<u64> {
        let new = (total as u64).saturating_sub(self.told);
        if new < Self::BYTES || self.since.elapsed() < Self::TIME {
            return None;
        }
        (self.since, self.told) = (Instant::now(), total as u64);
        Some(new)
    }
}

/// Reads bytes that are of no use.
async fn discard<R: AsyncRead + Unpin>(reader: &mut R, bytes: u64) -> Result<(), SessionEnd> {
    let mut sink = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(usize::MAX).min(sink.len());
        let read = read_some(reader, sink.get_mut(..want).unwrap_or_default()).await?;
        left = left.saturating_sub(read as u64);
    }
    Ok(())
}

/// Waits until a block may be handed to the disk threads; none once the node is gone.
pub(crate) async fn room_to_write(node: &Inner, block: &BlockBuf) -> Option<OwnedSemaphorePermit> {
    let units = u32::try_from(block.len().div_ceil(BYTES_TO_WRITE_UNIT)).unwrap_or(u32::MAX).max(1);
    Arc::clone(&node.write_room).acquire_many_owned(units).await.ok()
}

/// Verifies and writes one block on a disk thread, and tells the share how it went. `room` is held until the buffer is
/// free again, `pending` until the share has been told.
#[allow(clippy::too_many_arguments)]
pub(crate) fn admit(
    node: &Arc<Inner>,
    share: &Arc<ShareHandle>,
    supplier: Supplier,
    piece: PieceIndex,
    block: BlockIndex,
    proof: Option<Arc<PieceProof>>,
    buffer: BlockBuf,
    room: OwnedSemaphorePermit,
    pending: Option<mpsc::Sender<()>>,
) {
    let (share, home) = (Arc::clone(share), Arc::clone(node));
    node.disk.spawn(move || {
        let began = Instant::now();
        let bytes = buffer.as_ref().len() as u64;
        let event = match share.manifest().verify(piece, block, proof.as_deref(), buffer) {
            Ok(verified) => put(&share, supplier, piece, block, bytes, verified),
            Err(_) => ShareEvent::BadBlock { supplier, piece, block, bytes },
        };
        drop(room);
        home.latencies.disk.note(began.elapsed());
        share.tell_blocking(event);
        drop(pending);
    });
}

/// The same for a whole piece of several blocks whose source carries no chaining values.
pub(crate) fn admit_piece(
    node: &Arc<Inner>,
    share: &Arc<ShareHandle>,
    supplier: Supplier,
    piece: PieceIndex,
    blocks: Vec<BlockBuf>,
    pending: mpsc::Sender<()>,
) {
    let share = Arc::clone(share);
    node.disk.spawn(move || {
        let lengths: Vec<_> = blocks.iter().map(|block| block.as_ref().len() as u64).collect();
        match share.manifest().verify_piece(piece, blocks) {
            Ok(verified) => {
                for (verified, bytes) in verified.into_iter().zip(lengths) {
                    let block = verified.block();
                    let event = put(&share, supplier, piece, block, bytes, verified);
                    share.tell_blocking(event);
                }
            }
            Err(_) => {
                let bytes = lengths.iter().sum();
                share.tell_blocking(ShareEvent::BadBlock { supplier, piece, block: BlockIndex(0), bytes });
            }
        }
        drop(pending);
    });
}

fn put(
    share: &ShareHandle,
    supplier: Supplier,
    piece: PieceIndex,
    block: BlockIndex,
    bytes: u64,
    verified: VerifiedBlock<BlockBuf>,
) -> ShareEvent {
    match share.store().put(verified) {
        Ok(outcome) => ShareEvent::Block { supplier, piece, block, bytes, outcome },
        Err(error) => ShareEvent::DiskFailed(error),
    }
}
