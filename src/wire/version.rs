//! Protocol version and feature bits.
//!
//! One number for what both sides must agree on, and one bit for each thing that a side may do without. A new kind of
//! frame is sent only to a side that announced the bit for it; a change that an old reader would misread needs a new
//! version, which has an ALPN of its own.

/// Version spoken here; the first field of Hello.
pub const VERSION: u32 = 1;
/// ALPN of the data plane over TLS.
pub const ALPN: &[u8] = b"piecework/1";
/// Protocol name of the same frames over a libp2p stream.
pub const STREAM_PROTOCOL: &str = "/piecework/data/1";
/// Protocol name of the DHT; a group's own has a word behind it.
pub const DHT_PROTOCOL: &str = "/piecework/kad/1";
/// Protocol version in libp2p's identify.
pub const IDENTIFY_PROTOCOL: &str = "/piecework/1";

/// What a side can do beyond version 1. Unknown bits are kept, and mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(pub u64);

impl Features {
    /// Nothing beyond version 1.
    pub const NONE: Features = Features(0);
    /// Proofs of a group secret: knows the frame Proof and the reason GROUP of Goodbye.
    pub const GROUP: Features = Features(1);
    /// It understands `Condition`.
    pub const CONDITION: Features = Features(2);
    /// It keeps a rendezvous: answers `Meet`. Announced by those alone that do.
    pub const RENDEZVOUS: Features = Features(4);
    /// It understands `Sharing`.
    pub const SHARING: Features = Features(8);
    /// What every node of this build announces.
    pub const OURS: Features = Features(Self::GROUP.0 | Self::CONDITION.0 | Self::SHARING.0);

    /// Whether all of these bits are there.
    pub const fn has(self, wanted: Features) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// These and those.
    pub const fn with(self, more: Features) -> Features {
        Features(self.0 | more.0)
    }

    /// The features that both sides have.
    pub const fn common(self, theirs: Features) -> Features {
        Features(self.0 & theirs.0)
    }
}

/// Program and version, as Hello and identify tell it: `piecework/0.1.0`.
pub const AGENT: &str = concat!("piecework/", env!("CARGO_PKG_VERSION"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_fits_a_hello() {
        assert!(AGENT.len() <= crate::wire::limits::AGENT_BYTES_MAX);
        assert!(AGENT.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn unknown_features_are_not_shared() {
        assert_eq!(Features(0b110).common(Features(0b011)), Features(0b010));
        assert_eq!(Features(u64::MAX).common(Features::OURS), Features::OURS);
        assert!(Features(0b11).has(Features::GROUP) && !Features(0b10).has(Features::GROUP));
    }
}
