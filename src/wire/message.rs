//! The control messages, decoded and checked: what leaves [`Frame::decode`] is within every bound of `limits`.
//!
//! Indices and handles are only bounded here; whether a handle is open and a piece exists is known above.

use std::ops::Range;
use std::time::Duration;

use crate::content::bitfield::Bitfield;
use crate::content::hash::Topic;
use crate::wire::error::Error;
use crate::wire::frame::{FrameHeader, Kind};
use crate::wire::limits::*;
use crate::wire::meeting::{meet, met, met_message};
use crate::wire::member::{Member, check_record, member, member_message};
use crate::wire::schema;
use crate::wire::sharing::{SharingWord, sharing};

/// Why an Open, a Request or a GetManifest is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RejectReason {
    /// Neither the topic nor the piece is here.
    NotHeld,
    /// The asker is choked.
    Choked,
    /// The queue is full, or somebody else announced the piece while this request waited and may be asked for it.
    Busy,
    /// Only first copies are given now; this piece has a holder elsewhere.
    SuperSeeding,
    /// The sender is going away.
    Stopping,
    /// No such piece, or manifest bytes past the end.
    OutOfRange,
}

/// Why a side ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GoodbyeReason {
    /// The program ends.
    Shutdown,
    /// The other side speaks another protocol version.
    Version,
    /// The other side broke the protocol.
    ProtocolError,
    /// The other side is banned.
    Banned,
    /// More messages than any honest peer sends.
    Flood,
    /// Nothing to say for too long.
    Idle,
    /// Too many connections here.
    TooMany,
    /// The other side has not proven the group's secret.
    Group,
}

/// A control frame. `handle` is always the receiver's number for a topic, given to the sender by the receiver's Open
/// (in an Open itself: the sender's number, by which it wants to be addressed).
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// First frame of each side.
    Hello {
        /// Protocol version.
        version: u32,
        /// Feature bits (`version::Features`).
        features: u64,
        /// Program and version: printable ASCII, at most 64 bytes.
        agent: String,
        /// TCP port on which the sender accepts peers; 0: none.
        listen_port: u16,
        /// The site that policy put the sender into, hashed; see [`site_word`].
        site: Option<[u8; SITE_BYTES]>,
        /// What the sender signed of itself, to be read by `record`; at most 512 bytes, empty where it accepts nobody.
        record: Vec<u8>,
        /// Fresh and random where the sender has a group secret, and wants it proven.
        group_nonce: Option<[u8; PROOF_BYTES]>,
    },
    /// Asks for a topic, or answers with it.
    Open {
        /// Number by which the receiver shall address the sender about this topic.
        handle: u32,
        /// What it is about.
        topic: Topic,
        /// The sender has no layout yet and wants the manifest first.
        manifest_only: bool,
    },
    /// The session of this topic ends; its numbers are free again.
    Close {
        /// Topic.
        handle: u32,
    },
    /// Every piece held; the first frame of a session.
    Bitfield {
        /// Topic.
        handle: u32,
        /// At most 2^21 pieces; whether that is the topic's count is for the receiver to check.
        bitfield: Bitfield,
    },
    /// More pieces held.
    Have {
        /// Topic.
        handle: u32,
        /// 1 to 4096 pieces.
        pieces: Vec<u32>,
    },
    /// A piece no longer held.
    Lost {
        /// Topic.
        handle: u32,
        /// Piece.
        piece: u32,
    },
    /// Whether the sender wants what the receiver holds.
    Interested {
        /// Topic.
        handle: u32,
        /// Whether it does.
        interested: bool,
    },
    /// Whether the sender gives nothing now.
    Choke {
        /// Topic.
        handle: u32,
        /// Whether it gives nothing.
        choked: bool,
    },
    /// A piece wanted, or what is missing of it.
    Request {
        /// Topic.
        handle: u32,
        /// Piece.
        piece: u32,
        /// First block wanted; below 16.
        first_block: u32,
    },
    /// A piece no longer wanted.
    Cancel {
        /// Topic.
        handle: u32,
        /// Piece.
        piece: u32,
    },
    /// A refusal: of an Open where neither `piece` nor `manifest` is set.
    Reject {
        /// Topic; of a refused Open, the number which that Open gave.
        handle: u32,
        /// Why.
        reason: RejectReason,
        /// The request refused.
        piece: Option<u32>,
        /// A GetManifest is refused.
        manifest: bool,
    },
    /// The sender fetches these pieces from the origin.
    Intent {
        /// Topic.
        handle: u32,
        /// 1 to 1024 ranges of pieces, none empty.
        ranges: Vec<Range<u32>>,
        /// For how long without renewal, at most ten minutes; zero: no longer.
        lease: Duration,
    },
    /// Other members of the swarm.
    Members {
        /// Topic.
        handle: u32,
        /// 1 to 64 members.
        members: Vec<Member>,
    },
    /// A part of the envelope wanted.
    GetManifest {
        /// Topic.
        handle: u32,
        /// First byte; below 64 MiB.
        offset: u64,
        /// 1 to 256 Ki bytes.
        length: u32,
    },
    /// A part of the envelope.
    Manifest {
        /// Topic.
        handle: u32,
        /// Bytes of the whole envelope, at most 64 MiB.
        total: u64,
        /// First byte of this part.
        offset: u64,
        /// At least one byte, at most 256 KiB, none past the total.
        bytes: Vec<u8>,
    },
    /// That the sender knows the group's secret; second frame of each side where both sent a nonce.
    Proof {
        /// 1 or 2: by the current secret, and by the next.
        macs: Vec<[u8; PROOF_BYTES]>,
    },
    /// Last frame of a side.
    Goodbye {
        /// Why.
        reason: GoodbyeReason,
    },
    /// Who else is of a scope? And the sender is to be told to them.
    Meet {
        /// Which; see [`scope_word`](crate::wire::scope_word).
        scope: [u8; SCOPE_BYTES],
    },
    /// Answers Meet.
    Met {
        /// The scope that was asked for.
        scope: [u8; SCOPE_BYTES],
        /// For so long the asker is told to others, whole seconds, at most a day; zero: it is not.
        lease: Duration,
        /// 0 to 64 others.
        members: Vec<Member>,
    },
    /// The contents for which the sender takes a part of the budget of its site's line, in place of those it said before.
    Sharing {
        /// 0 to 4; see [`sharing_word`](crate::wire::sharing_word).
        contents: Vec<SharingWord>,
    },
    /// What the sender's machine can bear now.
    Condition {
        /// Topic.
        handle: u32,
        /// It takes no origin duty for others.
        off_duty: bool,
        /// Its machine may be gone soon: it is on Wi-Fi, or was switched on a short while ago.
        unstable: bool,
        /// Nobody waits for what it downloads.
        background: bool,
    },
}

impl Frame {
    /// Which kind this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Hello { .. } => Kind::Hello,
            Self::Open { .. } => Kind::Open,
            Self::Close { .. } => Kind::Close,
            Self::Bitfield { .. } => Kind::Bitfield,
            Self::Have { .. } => Kind::Have,
            Self::Lost { .. } => Kind::Lost,
            Self::Interested { .. } => Kind::Interested,
            Self::Choke { .. } => Kind::Choke,
            Self::Request { .. } => Kind::Request,
            Self::Cancel { .. } => Kind::Cancel,
            Self::Reject { .. } => Kind::Reject,
            Self::Intent { .. } => Kind::Intent,
            Self::Members { .. } => Kind::Members,
            Self::GetManifest { .. } => Kind::GetManifest,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Goodbye { .. } => Kind::Goodbye,
            Self::Proof { .. } => Kind::Proof,
            Self::Condition { .. } => Kind::Condition,
            Self::Meet { .. } => Kind::Meet,
            Self::Met { .. } => Kind::Met,
            Self::Sharing { .. } => Kind::Sharing,
        }
    }

    /// Reads the body of a control frame, whole.
    ///
    /// # Errors
    /// Any [`Error`] of the body; [`Error::UnknownKind`] for [`Kind::Piece`], which is read by `piece`.
    pub fn decode(kind: Kind, body: &[u8]) -> Result<Self, Error> {
        let found = u32::try_from(body.len()).unwrap_or(u32::MAX);
        if found > kind.body_bytes_max() {
            return Err(Error::TooLong { kind: kind.name(), limit: kind.body_bytes_max(), found });
        }
        Ok(match kind {
            Kind::Hello => hello(parse(kind, body)?)?,
            Kind::Open => open(parse(kind, body)?)?,
            Kind::Close => Self::Close { handle: parse::<schema::Close>(kind, body)?.handle },
            Kind::Bitfield => bitfield(parse(kind, body)?)?,
            Kind::Have => have(parse(kind, body)?)?,
            Kind::Lost => {
                let schema::Lost { handle, piece } = parse(kind, body)?;
                Self::Lost { handle, piece }
            }
            Kind::Interested => {
                let schema::Interested { handle, interested } = parse(kind, body)?;
                Self::Interested { handle, interested }
            }
            Kind::Choke => {
                let schema::Choke { handle, choked } = parse(kind, body)?;
                Self::Choke { handle, choked }
            }
            Kind::Request => request(parse(kind, body)?)?,
            Kind::Cancel => {
                let schema::Cancel { handle, piece } = parse(kind, body)?;
                Self::Cancel { handle, piece }
            }
            Kind::Reject => reject(parse(kind, body)?)?,
            Kind::Intent => intent(parse(kind, body)?)?,
            Kind::Members => members(parse(kind, body)?)?,
            Kind::GetManifest => manifest_wanted(parse(kind, body)?)?,
            Kind::Manifest => manifest_part(parse(kind, body)?)?,
            Kind::Goodbye => goodbye(parse(kind, body)?)?,
            Kind::Proof => proof(parse(kind, body)?)?,
            Kind::Condition => {
                let schema::Condition { handle, off_duty, unstable, background } = parse(kind, body)?;
                Self::Condition { handle, off_duty, unstable, background }
            }
            Kind::Meet => meet(parse(kind, body)?)?,
            Kind::Met => met(parse(kind, body)?)?,
            Kind::Sharing => sharing(parse(kind, body)?)?,
            Kind::Piece => return Err(Error::UnknownKind { found: kind as u8 }),
        })
    }

    /// Appends header and body. A frame beyond the limits of `limits` goes out as it is, and the other side ends the
    /// connection: callers cut long lists before.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let kind = self.kind();
        match self.clone() {
            Self::Hello { version, features, agent, listen_port, site, record, group_nonce } => {
                let site = site.map_or(Vec::new(), |site| site.to_vec());
                let group_nonce = group_nonce.map_or(Vec::new(), |nonce| nonce.to_vec());
                let listen_port = u32::from(listen_port);
                append(kind, &schema::Hello { version, features, agent, listen_port, site, record, group_nonce }, out);
            }
            Self::Open { handle, topic, manifest_only } => {
                append(kind, &schema::Open { handle, topic: topic.as_bytes().to_vec(), manifest_only }, out);
            }
            Self::Close { handle } => append(kind, &schema::Close { handle }, out),
            Self::Bitfield { handle, bitfield } => append(kind, &bitfield_message(handle, &bitfield), out),
            Self::Have { handle, pieces } => append(kind, &schema::Have { handle, pieces }, out),
            Self::Lost { handle, piece } => append(kind, &schema::Lost { handle, piece }, out),
            Self::Interested { handle, interested } => append(kind, &schema::Interested { handle, interested }, out),
            Self::Choke { handle, choked } => append(kind, &schema::Choke { handle, choked }, out),
            Self::Condition { handle, off_duty, unstable, background } => {
                append(kind, &schema::Condition { handle, off_duty, unstable, background }, out);
            }
            Self::Request { handle, piece, first_block } => {
                append(kind, &schema::Request { handle, piece, first_block }, out);
            }
            Self::Cancel { handle, piece } => append(kind, &schema::Cancel { handle, piece }, out),
            Self::Reject { handle, reason, piece, manifest } => {
                append(kind, &schema::Reject { handle, reason: reject_number(reason), piece, manifest }, out);
            }
            Self::Intent { handle, ranges, lease } => {
                let ranges = ranges.iter().flat_map(|range| [range.start, range.end.saturating_sub(range.start)]);
                let lease_ms = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX).min(LEASE_MS_MAX);
                append(kind, &schema::Intent { handle, ranges: ranges.collect(), lease_ms }, out);
            }
            Self::Members { handle, members } => {
                let members = members.into_iter().map(member_message).collect();
                append(kind, &schema::Members { handle, members }, out);
            }
            Self::GetManifest { handle, offset, length } => {
                append(kind, &schema::GetManifest { handle, offset, length }, out);
            }
            Self::Manifest { handle, total, offset, bytes } => {
                append(kind, &schema::Manifest { handle, total, offset, bytes }, out);
            }
            Self::Goodbye { reason } => append(kind, &schema::Goodbye { reason: goodbye_number(reason) }, out),
            Self::Meet { scope } => append(kind, &schema::Meet { scope: scope.to_vec() }, out),
            Self::Met { scope, lease, members } => append(kind, &met_message(&scope, lease, members), out),
            Self::Sharing { contents } => {
                let contents = contents.iter().map(|word| word.to_vec()).collect();
                append(kind, &schema::Sharing { contents }, out);
            }
            Self::Proof { macs } => {
                append(kind, &schema::Proof { macs: macs.iter().map(|mac| mac.to_vec()).collect() }, out);
            }
        }
    }
}

/// The word of a site's name in Hello: names stay at home.
pub fn site_word(name: &str) -> [u8; SITE_BYTES] {
    let mut word = [0; SITE_BYTES];
    let mut hasher = blake3::Hasher::new_derive_key("piecework site v1");
    hasher.update(name.as_bytes());
    hasher.finalize_xof().fill(&mut word);
    word
}

fn parse<M: prost::Message + Default>(kind: Kind, body: &[u8]) -> Result<M, Error> {
    M::decode(body).map_err(|cause| Error::Malformed { kind: kind.name(), cause: cause.to_string() })
}

fn append(kind: Kind, message: &impl prost::Message, out: &mut Vec<u8>) {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    out.reserve(HEADER_BYTES.saturating_add(length as usize));
    out.extend_from_slice(&FrameHeader { kind, length }.encode());
    message.encode_raw(out);
}

pub(crate) fn check_range(field: &'static str, found: u64, minimum: u64, maximum: u64) -> Result<(), Error> {
    if (minimum..=maximum).contains(&found) { Ok(()) } else { Err(Error::Range { field, minimum, maximum, found }) }
}

pub(crate) fn check_count(field: &'static str, found: usize, limit: usize) -> Result<(), Error> {
    if (1..=limit).contains(&found) { Ok(()) } else { Err(Error::Count { field, limit, found }) }
}

pub(crate) fn port(field: &'static str, found: u32, minimum: u16) -> Result<u16, Error> {
    check_range(field, u64::from(found), u64::from(minimum), u64::from(u16::MAX))?;
    Ok(u16::try_from(found).unwrap_or(u16::MAX))
}

fn hello(message: schema::Hello) -> Result<Frame, Error> {
    let schema::Hello { version, features, agent, listen_port, site, record, group_nonce } = message;
    if agent.len() > AGENT_BYTES_MAX {
        return Err(Error::Length { field: "Hello.agent", expected: "at most 64", found: agent.len() });
    }
    if let Some(found) = agent.bytes().find(|byte| !(b' '..=b'~').contains(byte)) {
        return Err(Error::UnprintableAgent { found });
    }
    let found = site.len();
    let site = match <[u8; SITE_BYTES]>::try_from(site) {
        Ok(site) => Some(site),
        Err(_) if found == 0 => None,
        Err(_) => return Err(Error::Length { field: "Hello.site", expected: "0 or 16", found }),
    };
    check_record("Hello.record", &record)?;
    let found = group_nonce.len();
    let group_nonce = match <[u8; PROOF_BYTES]>::try_from(group_nonce) {
        Ok(nonce) => Some(nonce),
        Err(_) if found == 0 => None,
        Err(_) => return Err(Error::Length { field: "Hello.group_nonce", expected: "0 or 32", found }),
    };
    let listen_port = port("Hello.listen_port", listen_port, 0)?;
    Ok(Frame::Hello { version, features, agent, listen_port, site, record, group_nonce })
}

fn open(message: schema::Open) -> Result<Frame, Error> {
    let found = message.topic.len();
    let topic =
        Topic::from_slice(&message.topic).ok_or(Error::Length { field: "Open.topic", expected: "32", found })?;
    Ok(Frame::Open { handle: message.handle, topic, manifest_only: message.manifest_only })
}

fn bitfield(message: schema::Bitfield) -> Result<Frame, Error> {
    let schema::Bitfield { handle, piece_count, bits, all } = message;
    check_range("Bitfield.piece_count", u64::from(piece_count), 0, u64::from(PIECE_COUNT_MAX))?;
    let bitfield = match (all, bits.as_slice()) {
        (true, []) => Bitfield::all(piece_count),
        (true, bits) => return Err(Error::AllWithBits { found: bits.len() }),
        (false, []) => Bitfield::none(piece_count),
        (false, bits) => Bitfield::from_bytes(piece_count, bits)?,
    };
    Ok(Frame::Bitfield { handle, bitfield })
}

fn bitfield_message(handle: u32, bitfield: &Bitfield) -> schema::Bitfield {
    let piece_count = bitfield.piece_count();
    // A seed's bitfield is the commonest and needs no bits; an empty one neither. No piece at all counts as none.
    let all = piece_count > 0 && bitfield.is_complete();
    let bits = if all || bitfield.held_count() == 0 { Vec::new() } else { bitfield.to_bytes() };
    schema::Bitfield { handle, piece_count, bits, all }
}

fn have(message: schema::Have) -> Result<Frame, Error> {
    check_count("Have.pieces", message.pieces.len(), HAVE_COUNT_MAX)?;
    Ok(Frame::Have { handle: message.handle, pieces: message.pieces })
}

fn request(message: schema::Request) -> Result<Frame, Error> {
    let schema::Request { handle, piece, first_block } = message;
    check_range("Request.first_block", u64::from(first_block), 0, u64::from(BLOCK_COUNT_MAX) - 1)?;
    Ok(Frame::Request { handle, piece, first_block })
}

fn reject(message: schema::Reject) -> Result<Frame, Error> {
    let schema::Reject { handle, reason, piece, manifest } = message;
    if manifest && piece.is_some() {
        return Err(Error::AmbiguousReject);
    }
    Ok(Frame::Reject { handle, reason: reject_reason(reason)?, piece, manifest })
}

fn intent(message: schema::Intent) -> Result<Frame, Error> {
    let schema::Intent { handle, ranges, lease_ms } = message;
    check_range("Intent.lease_ms", u64::from(lease_ms), 0, u64::from(LEASE_MS_MAX))?;
    let (pairs, []) = ranges.as_chunks::<2>() else { return Err(Error::BadRange) };
    check_count("Intent.ranges", pairs.len(), INTENT_COUNT_MAX)?;
    let range = |[first, count]: &[u32; 2]| match first.checked_add(*count) {
        Some(end) if *count > 0 => Ok(*first..end),
        _ => Err(Error::BadRange),
    };
    let ranges = pairs.iter().map(range).collect::<Result<_, _>>()?;
    Ok(Frame::Intent { handle, ranges, lease: Duration::from_millis(u64::from(lease_ms)) })
}

fn members(message: schema::Members) -> Result<Frame, Error> {
    let schema::Members { handle, members } = message;
    check_count("Members.members", members.len(), MEMBERS_COUNT_MAX)?;
    Ok(Frame::Members { handle, members: members.into_iter().map(member).collect::<Result<_, _>>()? })
}

fn manifest_wanted(message: schema::GetManifest) -> Result<Frame, Error> {
    let schema::GetManifest { handle, offset, length } = message;
    check_range("GetManifest.offset", offset, 0, MANIFEST_BYTES_MAX - 1)?;
    check_range("GetManifest.length", u64::from(length), 1, u64::from(MANIFEST_PART_BYTES_MAX))?;
    Ok(Frame::GetManifest { handle, offset, length })
}

fn manifest_part(message: schema::Manifest) -> Result<Frame, Error> {
    let schema::Manifest { handle, total, offset, bytes } = message;
    check_range("Manifest.total", total, 1, MANIFEST_BYTES_MAX)?;
    if bytes.is_empty() || bytes.len() > MANIFEST_PART_BYTES_MAX as usize {
        return Err(Error::Length { field: "Manifest.bytes", expected: "1 to 262144", found: bytes.len() });
    }
    match offset.checked_add(bytes.len() as u64) {
        Some(end) if end <= total => Ok(Frame::Manifest { handle, total, offset, bytes }),
        _ => Err(Error::PastManifestEnd { offset, length: bytes.len(), total }),
    }
}

fn proof(message: schema::Proof) -> Result<Frame, Error> {
    check_count("Proof.macs", message.macs.len(), PROOFS_MAX)?;
    let mac = |mac: Vec<u8>| {
        let found = mac.len();
        mac.try_into().map_err(|_| Error::Length { field: "Proof.macs", expected: "32", found })
    };
    Ok(Frame::Proof { macs: message.macs.into_iter().map(mac).collect::<Result<_, _>>()? })
}

fn goodbye(message: schema::Goodbye) -> Result<Frame, Error> {
    use schema::GoodbyeReason as Wire;
    let reason = match Wire::try_from(message.reason) {
        Ok(Wire::Shutdown) => GoodbyeReason::Shutdown,
        Ok(Wire::Version) => GoodbyeReason::Version,
        Ok(Wire::ProtocolError) => GoodbyeReason::ProtocolError,
        Ok(Wire::Banned) => GoodbyeReason::Banned,
        Ok(Wire::Flood) => GoodbyeReason::Flood,
        Ok(Wire::Idle) => GoodbyeReason::Idle,
        Ok(Wire::TooMany) => GoodbyeReason::TooMany,
        Ok(Wire::Group) => GoodbyeReason::Group,
        Ok(Wire::GoodbyeUnspecified) | Err(_) => return Err(bad_enum("Goodbye.reason", message.reason, 8)),
    };
    Ok(Frame::Goodbye { reason })
}

fn goodbye_number(reason: GoodbyeReason) -> i32 {
    use schema::GoodbyeReason as Wire;
    (match reason {
        GoodbyeReason::Shutdown => Wire::Shutdown,
        GoodbyeReason::Version => Wire::Version,
        GoodbyeReason::ProtocolError => Wire::ProtocolError,
        GoodbyeReason::Banned => Wire::Banned,
        GoodbyeReason::Flood => Wire::Flood,
        GoodbyeReason::Idle => Wire::Idle,
        GoodbyeReason::TooMany => Wire::TooMany,
        GoodbyeReason::Group => Wire::Group,
    }) as i32
}

fn reject_reason(number: i32) -> Result<RejectReason, Error> {
    use schema::RejectReason as Wire;
    Ok(match Wire::try_from(number) {
        Ok(Wire::NotHeld) => RejectReason::NotHeld,
        Ok(Wire::Choked) => RejectReason::Choked,
        Ok(Wire::Busy) => RejectReason::Busy,
        Ok(Wire::SuperSeeding) => RejectReason::SuperSeeding,
        Ok(Wire::Stopping) => RejectReason::Stopping,
        Ok(Wire::OutOfRange) => RejectReason::OutOfRange,
        Ok(Wire::RejectUnspecified) | Err(_) => return Err(bad_enum("Reject.reason", number, 6)),
    })
}

fn reject_number(reason: RejectReason) -> i32 {
    use schema::RejectReason as Wire;
    (match reason {
        RejectReason::NotHeld => Wire::NotHeld,
        RejectReason::Choked => Wire::Choked,
        RejectReason::Busy => Wire::Busy,
        RejectReason::SuperSeeding => Wire::SuperSeeding,
        RejectReason::Stopping => Wire::Stopping,
        RejectReason::OutOfRange => Wire::OutOfRange,
    }) as i32
}

/// A number of no meaning, 0 among them. Negative ones show as the 64 bits they came in.
fn bad_enum(field: &'static str, found: i32, maximum: u64) -> Error {
    Error::Range { field, minimum: 1, maximum, found: i64::from(found).cast_unsigned() }
}
