//! Why a frame is refused. Each of these ends the connection (`proto/peer.md`, "What ends a connection").

/// What was wrong with a frame. Closed: a frame is accepted, or refused for one of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kind that version 1 does not have.
    #[error("frame kind {found} is unknown")]
    UnknownKind {
        /// The first byte of the frame.
        found: u8,
    },
    /// A body longer than its kind may have; refused before anything is allocated.
    #[error("a {kind} frame has at most {limit} bytes, found {found}")]
    TooLong {
        /// Name of the kind.
        kind: &'static str,
        /// Longest body.
        limit: u32,
        /// Length claimed.
        found: u32,
    },
    /// A body that is no protobuf message of its kind.
    #[error("the body of a {kind} frame does not parse: {cause}")]
    Malformed {
        /// Name of the kind.
        kind: &'static str,
        /// The decoder's words.
        cause: String,
    },
    /// More entries than a frame may have, or none where at least one must be.
    #[error("{field} has 1 to {limit} entries, found {found}")]
    Count {
        /// Message and field.
        field: &'static str,
        /// Most entries.
        limit: usize,
        /// Entries found.
        found: usize,
    },
    /// A number outside its range.
    #[error("{field} is {minimum} to {maximum}, found {found}")]
    Range {
        /// Message and field.
        field: &'static str,
        /// Least value.
        minimum: u64,
        /// Greatest value.
        maximum: u64,
        /// Value found.
        found: u64,
    },
    /// A byte string of a length that its field cannot have.
    #[error("{field} has {expected} bytes, found {found}")]
    Length {
        /// Message and field.
        field: &'static str,
        /// Lengths allowed, in words.
        expected: &'static str,
        /// Bytes found.
        found: usize,
    },
    /// An agent with anything but printable ASCII.
    #[error("the agent is printable ASCII, found byte {found:#04x}")]
    UnprintableAgent {
        /// The first byte outside.
        found: u8,
    },
    /// A bitfield of another length than its piece count, or with a spare bit set.
    #[error(transparent)]
    Bitfield(#[from] crate::content::bitfield::BitfieldError),
    /// A bitfield that claims all pieces and lists some.
    #[error("a bitfield with `all` set carries no bits, found {found} bytes")]
    AllWithBits {
        /// Bytes found.
        found: usize,
    },
    /// A range of pieces that is empty, half given or runs past 32 bits.
    #[error("an intent's ranges are pairs of first piece and count, within 32 bits and not empty")]
    BadRange,
    /// A reject that is about a piece and about the manifest.
    #[error("a reject is about a topic, a piece or the manifest, not about two of them")]
    AmbiguousReject,
    /// A manifest part that runs past the manifest's end.
    #[error("manifest bytes {offset}+{length} run past the total of {total}")]
    PastManifestEnd {
        /// First byte of the part.
        offset: u64,
        /// Bytes of the part.
        length: usize,
        /// Bytes of the whole.
        total: u64,
    },
    /// A piece header whose parts contradict each other.
    #[error(
        "a piece frame from block {first_block} with {chaining_values} chaining values cannot carry {payload_bytes} bytes"
    )]
    PieceShape {
        /// First block sent.
        first_block: u32,
        /// Chaining values announced.
        chaining_values: u32,
        /// Payload bytes that the frame's length leaves.
        payload_bytes: u32,
    },
    /// Reserved bytes of a piece header that are not zero.
    #[error("reserved bytes of a piece header are zero, found {found:#06x}")]
    Reserved {
        /// What they held.
        found: u16,
    },
}
