//! A piece on its way out: read, framed, sealed and sent, a slice at a time.
//!
//! What lies in the page cache is read where it is needed, on the data thread, into a buffer that stays in the core's own
//! cache; a read that would have to wait, and every first check of a piece, goes to a disk thread. While the socket takes
//! nothing, a session holds its one slice and its one sealed copy, and nothing that others wait for.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::AsyncWrite;
use tokio::sync::mpsc;

use crate::content::layout::{BLOCK_BYTES, BlockIndex, PieceIndex};
use crate::drivers::store::ReadError;
use crate::services::node::Inner;
use crate::services::node::handle::ShareHandle;
use crate::services::node::limits::{DISK_SLICE_BYTES, SEND_SLICE_BYTES};
use crate::services::node::link::{Link, ServeOrder};
use crate::services::node::session::{SessionEnd, write};
use crate::services::node::slices::Slice;
use crate::swarm::event::{Event, Scope};
use crate::wire::{Frame, PieceHeader, RejectReason};

/// The serving side of one session.
pub(crate) struct Serving<'a> {
    node: &'a Arc<Inner>,
    link: &'a Arc<Link>,
    /// The peer is on the Internet.
    far: bool,
    orders: mpsc::UnboundedReceiver<ServeOrder>,
    /// The next one, taken from the queue to be made ready.
    waiting: Option<ServeOrder>,
}

/// Why a piece is not sent.
enum Unreadable {
    /// The bytes on disk are not the piece's any more.
    Rotten,
    /// The disk cannot give them just now, or the piece is not held any more.
    NotNow,
    /// The session is gone.
    Gone,
}

impl From<ReadError> for Unreadable {
    fn from(error: ReadError) -> Self {
        if error.lost().is_some() { Unreadable::Rotten } else { Unreadable::NotNow }
    }
}

impl<'a> Serving<'a> {
    pub(crate) fn new(node: &'a Arc<Inner>, link: &'a Arc<Link>, orders: mpsc::UnboundedReceiver<ServeOrder>) -> Self {
        let far = node.scope_of(link) == Scope::Internet;
        Self { node, link, far, orders, waiting: None }
    }

    /// Whether nothing is left to be sent for now.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_none() && self.orders.is_empty()
    }

    /// The next piece to be sent; none once the link is gone. May be given up and called again.
    pub(crate) async fn next(&mut self) -> Option<ServeOrder> {
        match self.waiting.take() {
            Some(order) => Some(order),
            None => self.orders.recv().await,
        }
    }

    /// Sends one piece, and has the one behind it made ready meanwhile.
    ///
    /// # Errors
    /// The connection broke, or a frame begun cannot be finished.
    pub(crate) async fn serve<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        order: ServeOrder,
    ) -> Result<(), SessionEnd> {
        if self.waiting.is_none()
            && let Ok(next) = self.orders.try_recv()
        {
            make_ready(self.node, &next);
            self.waiting = Some(next);
        }
        let (share, peer, piece) = (Arc::clone(&order.share), order.peer, order.piece);
        let cancelled = self.link.slots().cancelled_serves.remove(&(peer, piece));
        let node = self.node;
        let mut slice = node.slices.take();
        let begun = if cancelled { Ok(None) } else { self.begin(&order, &mut slice).await.map(Some) };
        let (bytes, complete) = match begun {
            Ok(Some((_, payload))) if self.far && !self.node.take_far(payload) => {
                self.reject(&order, RejectReason::Choked);
                (0, false)
            }
            Ok(Some((header, payload))) => {
                write(writer, &header).await?;
                self.send(writer, &order, payload, &mut slice).await?;
                (payload, true)
            }
            Ok(None) => (0, false),
            Err(Unreadable::Gone) => return Err(SessionEnd::Closed),
            Err(why) => {
                self.refuse(&order, &why).await;
                (0, false)
            }
        };
        drop(slice);
        if complete {
            self.link.pieces_sent.fetch_add(1, Ordering::Relaxed);
        }
        self.link.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
        share.tell(Event::Served { peer, piece, bytes, complete }).await;
        Ok(())
    }

    fn reject(&self, order: &ServeOrder, reason: RejectReason) {
        self.link.send(Frame::Reject { handle: order.handle, reason, piece: Some(order.wire_piece), manifest: false });
    }

    async fn refuse(&self, order: &ServeOrder, why: &Unreadable) {
        self.reject(order, RejectReason::NotHeld);
        if matches!(why, Unreadable::Rotten) {
            let (content, piece) = (order.share.name(), order.piece);
            tracing::warn!(%content, piece = piece.0, "a piece on disk is not what it was: dropped");
            order.share.tell(Event::LocalLost { piece }).await;
        }
    }

    /// The header of a piece's frame and the bytes of payload that follow it. The first slice has been read then, so
    /// that a piece that cannot be had is refused before its frame begins.
    async fn begin(&self, order: &ServeOrder, slice: &mut Slice<'_>) -> Result<(Vec<u8>, u64), Unreadable> {
        let (share, piece, first_block) = (&order.share, order.piece, order.first_block);
        let layout = share.manifest().layout();
        let (Some(block_count), Some(length)) = (layout.block_count(piece), layout.piece_length(piece)) else {
            return Err(Unreadable::NotNow);
        };
        let chaining_values = if block_count > 1 {
            let store = Arc::clone(share.store());
            let proof = self.node.disk.run(move || store.piece_proof(piece)).await;
            proof.map_err(|_| Unreadable::Gone)??.to_vec()
        } else {
            Vec::new()
        };
        let skipped = u64::from(first_block.0).saturating_mul(BLOCK_BYTES);
        let payload = length.checked_sub(skipped).filter(|left| *left > 0).ok_or(Unreadable::NotNow)?;
        let header = PieceHeader {
            handle: order.handle,
            piece: order.wire_piece,
            first_block: first_block.0,
            chaining_values,
            payload_bytes: u32::try_from(payload).map_err(|_| Unreadable::NotNow)?,
        };
        let mut bytes = Vec::new();
        header.encode(&mut bytes).map_err(|_| Unreadable::NotNow)?;
        self.read(share, piece, skipped..payload.saturating_add(skipped), slice).await?;
        Ok((bytes, payload))
    }

    /// Sends a piece's payload, whose first slice has been read.
    async fn send<W: AsyncWrite + Unpin>(
        &self,
        writer: &mut W,
        order: &ServeOrder,
        payload: u64,
        slice: &mut Slice<'_>,
    ) -> Result<(), SessionEnd> {
        let mut at = u64::from(order.first_block.0).saturating_mul(BLOCK_BYTES);
        let mut left = payload;
        loop {
            let bytes = slice.bytes.len() as u64;
            self.node.paces.upload.take(bytes).await;
            write(writer, &slice.bytes).await?;
            at = at.saturating_add(bytes);
            left = left.saturating_sub(bytes);
            if left == 0 {
                return Ok(());
            }
            // The frame's length is said already: only ending the connection is honest.
            self.read(&order.share, order.piece, at..at.saturating_add(left), slice)
                .await
                .map_err(|_| SessionEnd::Closed)?;
        }
    }

    /// Reads the next slice of those bytes of a piece.
    async fn read(
        &self,
        share: &Arc<ShareHandle>,
        piece: PieceIndex,
        wanted: Range<u64>,
        slice: &mut Slice<'_>,
    ) -> Result<(), Unreadable> {
        let (at, left) = (wanted.start, wanted.end.saturating_sub(wanted.start));
        let block = BlockIndex(u32::try_from(at / BLOCK_BYTES).map_err(|_| Unreadable::NotNow)?);
        let within = at % BLOCK_BYTES;
        let length = usize::try_from(left.min(BLOCK_BYTES.saturating_sub(within))).unwrap_or(usize::MAX);
        let slow = &self.node.paces.upload;
        slice.resize(slow.slice(length.min(SEND_SLICE_BYTES)));
        if share.store().read_cached(piece, block, within, &mut slice.bytes) {
            return Ok(());
        }
        slice.resize(slow.slice(length.min(DISK_SLICE_BYTES)));
        let store = Arc::clone(share.store());
        let mut bytes = std::mem::take(&mut slice.bytes);
        let read = move || store.read(piece, block, within, &mut bytes).map(|()| bytes);
        slice.bytes = self.node.disk.run(read).await.map_err(|_| Unreadable::Gone)??;
        Ok(())
    }
}

/// Has a piece checked and read into the page cache by a disk thread, unless it can be sent as it is.
fn make_ready(node: &Inner, order: &ServeOrder) {
    let block = order.first_block;
    if order.share.store().read_cached(order.piece, block, 0, &mut [0]) {
        return;
    }
    let (store, piece) = (Arc::clone(order.share.store()), order.piece);
    node.disk.spawn(move || {
        // The proof is of no matter here; whoever sends the piece hears of errors.
        let _ = store.piece_proof(piece);
    });
}
