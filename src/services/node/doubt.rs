//! Whether a manifest that nobody signed is to be believed, and whom to part with where it and a peer disagree.
//!
//! Whoever asks by a bare content id takes length and piece hashes from a peer, the *giver*. The hashes merge to the id;
//! the length within the last piece, and even how many pieces there are, is proven by the last piece alone. Until that
//! fits, a peer that contradicts the manifest may be the one that is right: it is left without blame. A giver that
//! contradicts its own manifest condemns it, and so does one that lets a contradicted manifest stall.

use std::time::Duration;

use libp2p::PeerId;

/// How long nothing may arrive under a contradicted manifest: a giver that could prove it would have.
const STALLED_MAX: Duration = Duration::from_secs(4);

/// What follows from a contradiction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The manifest is a lie; another is to be asked for.
    Condemn,
    /// The peer is asked no more under this manifest, and not blamed.
    Part,
}

/// The standing of one manifest.
#[derive(Debug)]
pub(crate) struct Doubt {
    giver: Option<PeerId>,
    contradicted: bool,
}

impl Doubt {
    /// Of a manifest from this peer.
    pub(crate) fn new(giver: Option<PeerId>) -> Self {
        Self { giver, contradicted: false }
    }

    /// A peer's piece or bitfield does not fit the manifest, which is not proven yet.
    pub(crate) fn contradicted_by(&mut self, peer: &PeerId) -> Verdict {
        if self.giver.as_ref() == Some(peer) {
            return Verdict::Condemn;
        }
        self.contradicted = true;
        Verdict::Part
    }

    /// Whether the manifest, still unproven, falls because nothing has arrived for so long.
    pub(crate) fn falls_after(&self, stalled: Duration) -> bool {
        self.contradicted && stalled >= STALLED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_giver_falls_by_its_own_contradiction_and_never_by_another_alone() {
        let (giver, other) = (PeerId::random(), PeerId::random());
        let mut doubt = Doubt::new(Some(giver));
        assert!(!doubt.falls_after(STALLED_MAX), "slow is no lie");
        assert_eq!(doubt.contradicted_by(&other), Verdict::Part);
        assert!(!doubt.falls_after(STALLED_MAX - Duration::from_millis(1)));
        assert!(doubt.falls_after(STALLED_MAX));
        assert_eq!(doubt.contradicted_by(&giver), Verdict::Condemn);
        assert_eq!(Doubt::new(None).contradicted_by(&giver), Verdict::Part);
    }
}
