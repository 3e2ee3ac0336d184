//! What can be wrong with the arguments of a new swarm; after that, nothing a peer or source does is an error here.

/// A swarm that cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bitfield is not of this layout.
    #[error("the layout has {expected} pieces, the bitfield {found}")]
    BitfieldLength {
        /// Pieces of the layout.
        expected: u32,
        /// Pieces of the bitfield.
        found: u32,
    },
}
