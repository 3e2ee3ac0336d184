//! The node's key as the transport uses it.

use libp2p::PeerId;
use libp2p::identity::{Keypair, ed25519};

/// An Ed25519 key that proves the node's peer id on both planes.
#[derive(Clone)]
pub struct Identity {
    keypair: Keypair,
    peer_id: PeerId,
}

impl Identity {
    /// The identity of a 32-byte seed. The same seed gives the same peer id. The seed is overwritten with zeros.
    pub fn from_seed(seed: &mut [u8; 32]) -> Self {
        let secret = ed25519::SecretKey::try_from_bytes(seed.as_mut_slice()).expect("any 32 bytes are an Ed25519 seed");
        let keypair = Keypair::from(ed25519::Keypair::from(secret));
        Self { peer_id: keypair.public().to_peer_id(), keypair }
    }

    /// The peer id that the key proves.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The key's signature of a message; 64 bytes. `None` never, but for a fault of the library.
    pub fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        self.keypair.sign(message).ok()?.try_into().ok()
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }
}

/// Never shows the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.peer_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_is_one_peer_and_the_seed_is_wiped() {
        let (mut first, mut second) = ([7; 32], [7; 32]);
        assert_eq!(Identity::from_seed(&mut first).peer_id(), Identity::from_seed(&mut second).peer_id());
        assert_eq!(first, [0; 32]);
        assert_ne!(Identity::from_seed(&mut [8; 32]).peer_id(), Identity::from_seed(&mut [9; 32]).peer_id());
        assert_eq!(Identity::from_seed(&mut [8; 32]).peer_id().to_base58().len(), 52);
    }
}
