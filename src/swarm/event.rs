//! What enters a `Swarm` and what leaves it. A recorded log of both replays to the same actions.
//!
//! Payload bytes never enter; only events about them do, so a simulated terabyte costs no memory. All piece indices are
//! flat (see `content::layout::FlatLayout`); the node translates from and to what a connection's topic counts.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::content::bitfield::Bitfield;
use crate::content::layout::{BlockIndex, PieceIndex};

/// One connected peer, numbered by the node; never used again for another within one `Swarm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerKey(pub u64);

/// One HTTP source (a host's URLs for this manifest), numbered by the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceKey(pub u32);

/// One running HTTP range, numbered by the swarm; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FetchId(pub u64);

/// A node's identity as ranking and bans see it: BLAKE3 of its libp2p peer id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub [u8; 32]);

/// What counts as one address for duties and bans: the IPv4 address, the IPv6 /64; with the port where several nodes
/// share a host by design (loopback). Computed by the node, opaque here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AddressKey(pub [u8; 18]);

/// How near a peer is; cheaper first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Same machine.
    Host,
    /// Same link or site.
    Site,
    /// Same group, other site.
    Group,
    /// Anywhere.
    Internet,
}

/// An address at which a member may be dialled, as peers tell it. Hearsay: a candidate, never a fact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Member {
    /// libp2p peer id, binary, at most 64 bytes.
    pub peer_id: Vec<u8>,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    /// When it said so, by its own count: of two words of one member the larger holds. 0 where it is not known.
    pub sequence: u64,
    /// Its signed word, passed on as it is; checked before it comes here, and empty in simulations.
    pub record: Vec<u8>,
}

/// Who supplied some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Supplier {
    /// A peer, over the data protocol.
    Peer(PeerKey),
    /// An HTTP source.
    Source(SourceKey),
}

/// Why a request was refused, on the wire (`proto/peer.proto`, RejectReason).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RejectReason {
    /// The piece is not here.
    NotHeld,
    /// The asker is choked.
    Choked,
    /// The queue is full.
    Busy,
    /// Only first copies are given now; this piece has a holder elsewhere.
    SuperSeeding,
    /// The peer is going away.
    Stopping,
    /// No such piece.
    OutOfRange,
}

/// What is said between two peers about one manifest. `Request` and its answers included; payload excluded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Every piece the sender holds; first message of a session, flat indices, full length.
    Bitfield(Bitfield),
    /// More pieces held. Said again of pieces that the receiver knows of, it offers them: a super-seeding peer keeps
    /// their first copies for the receiver.
    Have(Vec<PieceIndex>),
    /// A piece no longer held.
    Lost(PieceIndex),
    /// Whether the sender wants what the receiver holds.
    Interested(bool),
    /// Whether the sender gives no uploads now.
    Choke(bool),
    /// Send this piece, from this block on.
    Request {
        /// Flat piece.
        piece: PieceIndex,
        /// First block still missing.
        first_block: BlockIndex,
    },
    /// The piece is no longer wanted.
    Cancel(PieceIndex),
    /// The request will not be served.
    Reject {
        /// Flat piece.
        piece: PieceIndex,
        /// Why.
        reason: RejectReason,
    },
    /// The sender fetches these pieces from the origin for this long; zero: no longer.
    Intent {
        /// Flat pieces.
        pieces: Vec<Range<u32>>,
        /// How long it holds without renewal.
        lease: Duration,
    },
    /// Other members of the swarm.
    Members(Vec<Member>),
    /// What the sender can bear now.
    Condition(Condition),
}

/// What a member can bear now, as it says of itself; who says nothing is as the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Condition {
    /// It takes no origin duty for others.
    pub off_duty: bool,
    /// It may be gone soon: on Wi-Fi, or switched on a short while ago.
    pub unstable: bool,
    /// Nobody waits for what it downloads.
    pub background: bool,
}

/// What is wrong with an HTTP source, as the drivers found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceFault {
    /// No connection, no name, TLS failed; worth another try.
    Unreachable,
    /// Too slow or silent; worth another try.
    TimedOut,
    /// 429 or 503, or a server error; another try after the delay.
    Busy,
    /// The body ended early; another try.
    Truncated,
    /// 4xx, a refused address, a redirect too many: nothing more is to be expected.
    Refused,
    /// Another length or another file than the manifest describes: condemned.
    Changed,
}

/// Why a peer is sent away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BanReason {
    /// Two MiBs whose hash was wrong.
    BadBytes,
    /// It broke the protocol: pieces outside the layout, a bitfield of another length.
    Protocol,
    /// It sent what nobody asked for.
    Unasked,
    /// More messages or requests than any honest peer sends.
    Flood,
    /// It claims pieces and never delivers them.
    NeverDelivers,
}

/// What happened. `handle` one, drain all actions, then the next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A session with a peer stands in both directions.
    PeerUp {
        /// Its number.
        peer: PeerKey,
        /// Its proven identity.
        id: NodeId,
        /// Its address for ranking and bans.
        address: AddressKey,
        /// Where others may dial it, if it accepts.
        member: Option<Member>,
        /// How near it is.
        scope: Scope,
        /// Round trip of the handshake.
        round_trip: Duration,
    },
    /// The session ended.
    PeerDown {
        /// Its number.
        peer: PeerKey,
    },
    /// A peer said something.
    Said {
        /// Who.
        peer: PeerKey,
        /// What, already translated to flat indices and bounded by the codec.
        message: Message,
    },
    /// A block was verified and written (or sits in page cache: durable comes later).
    BlockStored {
        /// Whose bytes they were.
        supplier: Supplier,
        /// Flat piece.
        piece: PieceIndex,
        /// Block within it.
        block: BlockIndex,
    },
    /// A block's bytes, or its chaining values, did not match.
    BlockBad {
        /// Whose bytes they were.
        supplier: Supplier,
        /// Flat piece.
        piece: PieceIndex,
        /// Block within it.
        block: BlockIndex,
    },
    /// Payload is arriving whose block is not whole yet. Worth reporting on lines that take seconds for a block (say,
    /// each 64 KiB that took longer than half a second), so that a slow supplier is not taken for a dead one.
    Receiving {
        /// Whose bytes they are.
        supplier: Supplier,
        /// Payload bytes since the last such event or block.
        bytes: u64,
    },
    /// A peer sent a piece frame that nobody had asked for (or asked for no longer); its payload was skipped.
    Unasked {
        /// Who.
        peer: PeerKey,
        /// Payload bytes skipped.
        bytes: u64,
    },
    /// All payload of a `Serve` was handed to the socket, or the serving ended before that.
    Served {
        /// Whom.
        peer: PeerKey,
        /// Flat piece.
        piece: PieceIndex,
        /// Payload bytes sent.
        bytes: u64,
        /// Whether the piece went out whole.
        complete: bool,
    },
    /// A piece on disk turned out rotten or unreadable: no longer held.
    LocalLost {
        /// Flat piece.
        piece: PieceIndex,
    },
    /// An HTTP source may be used.
    SourceUp {
        /// Its number.
        source: SourceKey,
        /// The flat pieces it can deliver, in order, without overlap.
        pieces: Vec<Range<u32>>,
    },
    /// The node asks a source no more; what was under way from it is taken back.
    SourceDown {
        /// Its number.
        source: SourceKey,
    },
    /// The source answers with whole files: this fetch now streams the pieces of its file from the first on, and its
    /// host serves no range. One such stream at a time is worth having.
    SourceWithoutRanges {
        /// Which.
        source: SourceKey,
        /// The fetch that found out, and goes on.
        fetch: FetchId,
        /// Flat pieces it will deliver, in order: all of the file.
        pieces: Range<u32>,
    },
    /// A fetch ended: complete, cancelled, or with a fault.
    FetchEnded {
        /// Which.
        fetch: FetchId,
        /// What went wrong; `None` where every block was delivered or the swarm cancelled it.
        fault: Option<SourceFault>,
        /// The server's wish, from Retry-After.
        retry_after: Option<Duration>,
    },
    /// Whether peers may be sent anything from now on; they may until this says otherwise.
    UploadsAllowed(bool),
    /// The same for peers on the Internet alone.
    FarUploadsAllowed(bool),
    /// Whether this node takes origin duty for others from now on; it does until this says otherwise. A machine on battery
    /// does not. Alone, or where nobody else of its site would, it fetches all the same.
    DutiesAllowed(bool),
    /// Whether this machine is likely to stay: it is until this says otherwise. See [`Condition::unstable`].
    Stable(bool),
    /// Whether this machine is behind an access point now, where one sends at a time; it is not until this says otherwise.
    SharedAir(bool),
    /// Whether nobody waits for the download from now on; as [`Options::background`](crate::swarm::Options) until this says
    /// otherwise.
    Background(bool),
    /// Discovery has settled: named peers answered or refused, first answers of the LAN are in.
    DiscoverySettled,
    /// A dial that `Connect` asked for failed.
    ConnectFailed {
        /// Whom.
        member: Member,
    },
    /// Members on this node's network, for whatever content; worth saying whenever it changes, while something is missing.
    Neighbours {
        /// Members seen and not connected: found by discovery, or named at an address of a link of ours.
        seen: u32,
        /// Whether any is connected.
        connected: bool,
    },
    /// So many contents want something over the site's line, this one among them, here or elsewhere on the site: its budget is
    /// divided by that. One until this says otherwise.
    LineShared {
        /// How many; 0 counts as one.
        by: u32,
    },
    /// The machine is about to sleep: leases are given back and peers sent away, so that others take over at once. Nothing is
    /// begun until [`Event::Woke`].
    Sleeping,
    /// The machine slept, or this process was stopped: connections may be dead without a word, leases have run out, and
    /// no silence counts against anybody.
    Woke,
    /// Nothing happened but time.
    Tick,
    /// Somebody reads the pieces in order, and this is the next: it and those that follow are wanted first.
    ReaderAt {
        /// Flat piece; past the last one, nothing is wanted before the rest.
        piece: PieceIndex,
    },
}

/// What to do. The node carries each out; none blocks.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Say something to a peer.
    Send {
        /// To whom.
        peer: PeerKey,
        /// What.
        message: Message,
    },
    /// Send a piece's payload from this block on; answered by `Event::Served`.
    Serve {
        /// To whom.
        peer: PeerKey,
        /// Flat piece.
        piece: PieceIndex,
        /// First block wanted.
        first_block: BlockIndex,
    },
    /// Stop a `Serve` that has not gone out yet; answered by `Event::Served` too.
    CancelServe {
        /// To whom.
        peer: PeerKey,
        /// Flat piece.
        piece: PieceIndex,
    },
    /// Fetch adjacent pieces of one file as one range; answered by blocks and one `Event::FetchEnded`.
    Fetch {
        /// Its number.
        fetch: FetchId,
        /// From where.
        source: SourceKey,
        /// Flat pieces, within one file.
        pieces: Range<u32>,
    },
    /// Stop a fetch; blocks under way may still be stored; answered by `Event::FetchEnded`.
    CancelFetch {
        /// Which.
        fetch: FetchId,
    },
    /// Dial a member; at most a few are asked for at once.
    Connect {
        /// Whom.
        member: Member,
    },
    /// End the session and refuse the identity (and unless shared, the address) for a while.
    Ban {
        /// Whom.
        peer: PeerKey,
        /// Why.
        reason: BanReason,
        /// For how long.
        lasts: Duration,
    },
    /// End the session, without offence.
    Disconnect {
        /// Whom.
        peer: PeerKey,
    },
    /// A source is out for this download.
    DropSource {
        /// Which.
        source: SourceKey,
        /// Its last fault.
        fault: SourceFault,
    },
    /// Every piece is held. Emitted once; the swarm goes on as a seed.
    Complete,
}
