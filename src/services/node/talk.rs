//! What a peer says about topics, turned into events of the share that the topic belongs to; and the reverse.
//!
//! On the wire a piece is counted within its topic; the engine counts within the manifest. Here, and in `receive` for
//! payload, is where one becomes the other; whatever lies outside the topic's window ends the session.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::content::bitfield::Bitfield;
use crate::content::hash::Topic;
use crate::content::layout::PieceIndex;
use crate::services::node::Inner;
use crate::services::node::handle::{ShareEvent, ShareHandle};
use crate::services::node::limits::MANIFEST_RANGE_BYTES;
use crate::services::node::link::{Link, Outgoing, Slot};
use crate::services::node::manifest_fetch::ManifestSink;
use crate::services::node::session::SessionEnd;
use crate::swarm::event::{Condition, Event, Member, Message, PeerKey, RejectReason as SwarmReject};
use crate::wire::limits::{HAVE_COUNT_MAX, INTENT_COUNT_MAX};
use crate::wire::{self, Frame, RejectReason};

/// Takes in one control frame.
///
/// # Errors
/// The frame breaks a rule; the session ends.
pub(crate) async fn hear(node: &Arc<Inner>, link: &Arc<Link>, frame: Frame) -> Result<(), SessionEnd> {
    match frame {
        Frame::Hello { .. } => Err(SessionEnd::Rule("a second Hello")),
        Frame::Proof { .. } => Err(SessionEnd::Rule("a Proof that nobody asked for")),
        Frame::Goodbye { reason } => Err(SessionEnd::Goodbye(reason)),
        Frame::Open { handle, topic, manifest_only } => hear_open(node, link, handle, topic, manifest_only).await,
        Frame::Close { handle } => {
            close_slot(link, handle).await;
            Ok(())
        }
        Frame::Bitfield { handle, bitfield } => hear_bitfield(node, link, handle, &bitfield).await,
        Frame::Have { handle, pieces } => {
            say(link, handle, |window| {
                let flat = pieces.iter().map(|piece| flat(window, *piece)).collect::<Option<Vec<_>>>()?;
                Some(Message::Have(flat))
            })
            .await
        }
        Frame::Lost { handle, piece } => say(link, handle, |window| Some(Message::Lost(flat(window, piece)?))).await,
        Frame::Interested { handle, interested } => say(link, handle, |_| Some(Message::Interested(interested))).await,
        Frame::Choke { handle, choked } => say(link, handle, |_| Some(Message::Choke(choked))).await,
        Frame::Request { handle, piece, first_block } => {
            let first_block = crate::content::layout::BlockIndex(first_block);
            say(link, handle, |window| Some(Message::Request { piece: flat(window, piece)?, first_block })).await
        }
        Frame::Cancel { handle, piece } => {
            say(link, handle, |window| Some(Message::Cancel(flat(window, piece)?))).await
        }
        Frame::Intent { handle, ranges, lease } => {
            say(link, handle, |window| {
                let pieces = ranges.iter().map(|range| flat_range(window, range)).collect::<Option<Vec<_>>>()?;
                Some(Message::Intent { pieces, lease })
            })
            .await
        }
        Frame::Members { handle, members } => {
            let members = members.into_iter().filter_map(|member| node.believe(link, member)).collect();
            say(link, handle, |_| Some(Message::Members(members))).await
        }
        Frame::Condition { handle, off_duty, unstable, background } => {
            let condition = Condition { off_duty, unstable, background };
            say(link, handle, |_| Some(Message::Condition(condition))).await
        }
        Frame::Meet { scope } => {
            node.hear_meet(link, scope);
            Ok(())
        }
        Frame::Sharing { contents } => {
            node.hear_sharing(link, contents);
            Ok(())
        }
        Frame::Met { scope, lease, members } => node.hear_met(link, &scope, lease, members),
        Frame::Reject { handle, reason, piece, manifest } => hear_reject(link, handle, reason, piece, manifest).await,
        Frame::GetManifest { handle, offset, length } => {
            hear_get_manifest(link, handle, offset, length).await;
            Ok(())
        }
        Frame::Manifest { handle, total, offset, bytes } => {
            hear_manifest(link, handle, total, offset, &bytes);
            Ok(())
        }
    }
}

fn flat(window: (u32, u32), piece: u32) -> Option<PieceIndex> {
    (piece < window.1).then(|| window.0.checked_add(piece).map(PieceIndex)).flatten()
}

fn flat_range(window: (u32, u32), range: &Range<u32>) -> Option<Range<u32>> {
    if range.start > range.end || range.end > window.1 {
        return None;
    }
    Some(window.0.checked_add(range.start)?..window.0.checked_add(range.end)?)
}

/// Passes a message on to the share of a standing slot; frames for slots just closed are dropped.
async fn say(link: &Link, handle: u32, message: impl FnOnce((u32, u32)) -> Option<Message>) -> Result<(), SessionEnd> {
    let target = {
        let slots = link.slots();
        let Some(slot) = slots.by_handle.get(&handle) else { return Ok(()) };
        slot.share.clone().zip(slot.peer).map(|(share, peer)| (share, peer, slot.window))
    };
    let Some((share, peer, window)) = target else { return Ok(()) };
    let message = message(window).ok_or(SessionEnd::Rule("a piece outside the topic"))?;
    share.tell(Event::Said { peer, message }).await;
    Ok(())
}

async fn hear_open(
    node: &Arc<Inner>,
    link: &Arc<Link>,
    theirs: u32,
    topic: Topic,
    manifest_only: bool,
) -> Result<(), SessionEnd> {
    let known = node.share_or_open(&topic).await;
    let mut answer = None;
    {
        let mut slots = link.slots();
        match slots.handle_of(&topic).and_then(|ours| slots.by_handle.get_mut(&ours)) {
            Some(slot) if slot.theirs.is_some() => return Err(SessionEnd::Rule("a topic opened twice")),
            Some(slot) => {
                slot.theirs = Some(theirs);
                slot.they_want_manifest_only = manifest_only;
            }
            None => {
                // Who opens it for more than the manifest has the manifest.
                let manifest_sink = if known.is_some() || manifest_only { None } else { node.seek_from(link, &topic) };
                let seeks = manifest_sink.is_some();
                let (share, window) = known.map_or((None, (0, 0)), |(share, window)| (Some(share), window));
                let slot = Slot {
                    topic,
                    theirs: Some(theirs),
                    share,
                    window,
                    peer: None,
                    they_want_manifest_only: manifest_only,
                    owed: BTreeMap::new(),
                    manifest_sink,
                };
                let opened = if slot.share.is_some() || seeks { slots.add(slot) } else { None };
                answer = Some(match opened {
                    Some(handle) => Frame::Open { handle, topic, manifest_only: seeks },
                    None => {
                        Frame::Reject { handle: theirs, reason: RejectReason::NotHeld, piece: None, manifest: false }
                    }
                });
            }
        }
    }
    if let Some(answer) = answer {
        link.send(answer);
    }
    stand(node, link, &topic).await;
    Ok(())
}

/// Brings a topic up for its share once both sides have opened it and both can count its pieces.
pub(crate) async fn stand(node: &Arc<Inner>, link: &Arc<Link>, topic: &Topic) {
    let mut ask = None;
    let up = {
        let mut slots = link.slots();
        let Some(ours) = slots.handle_of(topic) else { return };
        let Some(slot) = slots.by_handle.get_mut(&ours) else { return };
        let Some(theirs) = slot.theirs else { return };
        if let Some(sink) = slot.manifest_sink.as_mut().filter(|_| slot.share.is_none()) {
            ask = sink.begin(theirs);
        }
        match &slot.share {
            Some(share) if slot.peer.is_none() && !slot.they_want_manifest_only => {
                let peer = PeerKey(node.next_number());
                slot.peer = Some(peer);
                Some((Arc::clone(share), PeerLink { link: Arc::clone(link), ours, theirs, window: slot.window }, peer))
            }
            _ => None,
        }
    };
    if let Some(frame) = ask {
        link.send(frame);
    }
    if let Some((share, peer_link, peer)) = up {
        share.post(ShareEvent::PeerUp { peer, link: peer_link }).await;
    }
}

async fn hear_bitfield(
    node: &Arc<Inner>,
    link: &Arc<Link>,
    handle: u32,
    bitfield: &Bitfield,
) -> Result<(), SessionEnd> {
    // The sender knows the layout by now; whoever opened for the manifest alone starts its session so.
    let topic = {
        let mut slots = link.slots();
        let Some(slot) = slots.by_handle.get_mut(&handle) else { return Ok(()) };
        slot.they_want_manifest_only = false;
        slot.topic
    };
    stand(node, link, &topic).await;
    let target = {
        let slots = link.slots();
        let Some(slot) = slots.by_handle.get(&handle) else { return Ok(()) };
        slot.share.clone().zip(slot.peer).map(|(share, peer)| (share, peer, slot.window))
    };
    let Some((share, peer, window)) = target else { return Ok(()) };
    if bitfield.piece_count() != window.1 {
        if !share.is_unproven() {
            return Err(SessionEnd::Rule("a bitfield of another length than the topic"));
        }
        // Nobody knows yet who counts right. What else it says of the topic is dropped; the share parts with it.
        link.slots().by_handle.remove(&handle);
        share.post(ShareEvent::Contradicted { peer }).await;
        return Ok(());
    }
    let mut all = Bitfield::none(share.manifest().layout().piece_count());
    if window == (0, all.piece_count()) {
        all = bitfield.clone();
    } else {
        for piece in bitfield.iter_held() {
            all.set(PieceIndex(window.0.saturating_add(piece.0)));
        }
    }
    share.tell(Event::Said { peer, message: Message::Bitfield(all) }).await;
    Ok(())
}

async fn hear_reject(
    link: &Arc<Link>,
    handle: u32,
    reason: RejectReason,
    piece: Option<u32>,
    manifest: bool,
) -> Result<(), SessionEnd> {
    match piece {
        Some(piece) => {
            if let Some(slot) = link.slots().by_handle.get_mut(&handle) {
                slot.owed.remove(&piece);
            }
            let reason = match reason {
                RejectReason::NotHeld => SwarmReject::NotHeld,
                RejectReason::Choked => SwarmReject::Choked,
                RejectReason::Busy => SwarmReject::Busy,
                RejectReason::SuperSeeding => SwarmReject::SuperSeeding,
                RejectReason::Stopping => SwarmReject::Stopping,
                RejectReason::OutOfRange => SwarmReject::OutOfRange,
            };
            say(link, handle, |window| Some(Message::Reject { piece: flat(window, piece)?, reason })).await
        }
        None => {
            let slot = if manifest { None } else { link.slots().by_handle.remove(&handle) };
            if let Some(Slot { share, manifest_sink, .. }) = slot {
                if let Some(sink) = manifest_sink {
                    sink.refused();
                }
                if let Some(share) = share {
                    share.post(ShareEvent::NotHeldBy { link: link.number }).await;
                }
            } else if manifest && let Some(slot) = link.slots().by_handle.get_mut(&handle) {
                slot.manifest_sink.take().into_iter().for_each(ManifestSink::refused);
            }
            Ok(())
        }
    }
}

async fn hear_get_manifest(link: &Link, handle: u32, offset: u64, length: u32) {
    let asked = {
        let slots = link.slots();
        slots.by_handle.get(&handle).and_then(|slot| slot.share.clone().zip(slot.theirs))
    };
    let Some((share, theirs)) = asked else { return };
    let envelope = share.envelope();
    let range = usize::try_from(offset).ok().and_then(|start| {
        let end = start.checked_add(length.min(MANIFEST_RANGE_BYTES) as usize)?.min(envelope.len());
        envelope.get(start..end).filter(|bytes| !bytes.is_empty())
    });
    let total = envelope.len() as u64;
    match range {
        Some(bytes) => {
            link.send_manifest(Frame::Manifest { handle: theirs, total, offset, bytes: bytes.to_vec() }).await;
        }
        None => {
            let reason = RejectReason::OutOfRange;
            link.send(Frame::Reject { handle: theirs, reason, piece: None, manifest: true });
        }
    }
}

fn hear_manifest(link: &Link, handle: u32, total: u64, offset: u64, bytes: &[u8]) {
    let mut slots = link.slots();
    let Some(slot) = slots.by_handle.get_mut(&handle) else { return };
    let Some(theirs) = slot.theirs else { return };
    let Some(sink) = slot.manifest_sink.as_mut() else { return };
    let next = sink.take(theirs, total, offset, bytes);
    drop(slots);
    if let Some(frame) = next {
        link.send(frame);
    }
}

async fn close_slot(link: &Link, handle: u32) {
    let slot = link.slots().by_handle.remove(&handle);
    if let Some(Slot { share: Some(share), peer: Some(peer), .. }) = slot {
        share.tell(Event::PeerDown { peer }).await;
    }
}

/// A peer as one share addresses it.
#[derive(Clone)]
pub(crate) struct PeerLink {
    pub(crate) link: Arc<Link>,
    pub(crate) ours: u32,
    pub(crate) theirs: u32,
    pub(crate) window: (u32, u32),
}

impl PeerLink {
    fn wire(&self, piece: PieceIndex) -> Option<u32> {
        piece.0.checked_sub(self.window.0).filter(|piece| *piece < self.window.1)
    }

    /// Says something, counted as the topic counts; what lies outside its window is left unsaid.
    pub(crate) fn say(&self, message: Message) {
        let handle = self.theirs;
        let frame = match message {
            Message::Bitfield(bitfield) => Some(Frame::Bitfield { handle, bitfield: self.cut(bitfield) }),
            Message::Have(pieces) => {
                let pieces: Vec<_> = pieces.into_iter().filter_map(|piece| self.wire(piece)).collect();
                for chunk in pieces.chunks(HAVE_COUNT_MAX) {
                    self.link.send(Frame::Have { handle, pieces: chunk.to_vec() });
                }
                None
            }
            Message::Lost(piece) => self.wire(piece).map(|piece| Frame::Lost { handle, piece }),
            Message::Interested(interested) => Some(Frame::Interested { handle, interested }),
            Message::Choke(choked) => Some(Frame::Choke { handle, choked }),
            Message::Request { piece, first_block } => self.wire(piece).map(|wire| {
                if let Some(slot) = self.link.slots().by_handle.get_mut(&self.ours) {
                    slot.owed.insert(wire, (first_block, std::time::Instant::now()));
                }
                Frame::Request { handle, piece: wire, first_block: first_block.0 }
            }),
            Message::Cancel(piece) => self.wire(piece).map(|piece| {
                if let Some(slot) = self.link.slots().by_handle.get_mut(&self.ours) {
                    slot.owed.remove(&piece);
                }
                Frame::Cancel { handle, piece }
            }),
            Message::Reject { piece, reason } => self.wire(piece).map(|piece| Frame::Reject {
                handle,
                reason: match reason {
                    SwarmReject::NotHeld => RejectReason::NotHeld,
                    SwarmReject::Choked => RejectReason::Choked,
                    SwarmReject::Busy => RejectReason::Busy,
                    SwarmReject::SuperSeeding => RejectReason::SuperSeeding,
                    SwarmReject::Stopping => RejectReason::Stopping,
                    SwarmReject::OutOfRange => RejectReason::OutOfRange,
                },
                piece: Some(piece),
                manifest: false,
            }),
            Message::Intent { pieces, lease } => {
                let ranges = pieces
                    .into_iter()
                    .filter_map(|range| {
                        let start = range.start.max(self.window.0) - self.window.0;
                        let end = range.end.saturating_sub(self.window.0).min(self.window.1);
                        (start < end).then_some(start..end)
                    })
                    .take(INTENT_COUNT_MAX)
                    .collect::<Vec<_>>();
                (!ranges.is_empty()).then_some(Frame::Intent { handle, ranges, lease })
            }
            Message::Members(members) => {
                let told = |Member { peer_id, address, record, .. }| wire::Member { peer_id, address, record };
                for members in wire::Member::in_frames(members.into_iter().map(told).collect()) {
                    self.link.send(Frame::Members { handle, members });
                }
                None
            }
            // Who does not know of it ranks us until we are silent for long, as before there was this message.
            Message::Condition(Condition { off_duty, unstable, background }) => self
                .link
                .features
                .has(wire::version::Features::CONDITION)
                .then_some(Frame::Condition { handle, off_duty, unstable, background }),
        };
        if let Some(frame) = frame {
            self.link.send(frame);
        }
    }

    fn cut(&self, bitfield: Bitfield) -> Bitfield {
        if self.window == (0, bitfield.piece_count()) {
            return bitfield;
        }
        let mut cut = Bitfield::none(self.window.1);
        for piece in bitfield.iter_held() {
            if let Some(wire) = self.wire(piece) {
                cut.set(PieceIndex(wire));
            }
        }
        cut
    }

    /// Queues a piece to be sent.
    pub(crate) fn serve(
        &self,
        share: &Arc<ShareHandle>,
        peer: PeerKey,
        piece: PieceIndex,
        first_block: crate::content::layout::BlockIndex,
    ) {
        let Some(wire_piece) = self.wire(piece) else { return };
        self.link.slots().cancelled_serves.remove(&(peer, piece));
        // A closed link answers with PeerDown, which ends every serve.
        let _ = self.link.serves.send(crate::services::node::link::ServeOrder {
            share: Arc::clone(share),
            peer,
            handle: self.theirs,
            piece,
            wire_piece,
            first_block,
        });
    }

    /// Takes back a piece that has not gone out yet.
    pub(crate) fn cancel_serve(&self, peer: PeerKey, piece: PieceIndex) {
        self.link.slots().cancelled_serves.insert((peer, piece));
    }

    /// Leaves the topic; the link stays for others.
    pub(crate) fn leave(&self) {
        self.link.slots().by_handle.remove(&self.ours);
        let _ = self.link.outbox.try_send(Outgoing::Frame(Frame::Close { handle: self.theirs }));
    }
}
