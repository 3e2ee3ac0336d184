//! Links with hundreds of nodes: only the first few by rank announce themselves there, the others listen, so that a newcomer's
//! question brings dozens of answers and not hundreds. Whoever is silent is told of by the first of those that speak.
//!
//! Ranks can be had by trying keys, and whoever answers for multicast DNS can take back what others have announced anyway: this
//! adds nothing to what a hostile machine on the link can do.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use libp2p::PeerId;

/// Nodes that announce themselves, at least, where there are so many.
pub const ANNOUNCED: usize = 32;
/// A node before which so many rank falls silent; a few more than that, so that one that comes or goes changes nothing.
const ANNOUNCED_MAX: usize = 36;
/// Of the first by rank so many are told where the silent ones are.
pub const KEEPERS: usize = 3;

/// A heard node, and where it is.
pub type Heard = (PeerId, Vec<SocketAddr>);

/// By which nodes of a link are ordered, alike for all of them.
pub fn rank(peer: &PeerId) -> [u8; 32] {
    *blake3::hash(&peer.to_bytes()).as_bytes()
}

/// Whether a node announces itself among those that it has heard, if it does now, or does not.
pub(super) fn speaks(now: bool, own: &PeerId, heard: &BTreeMap<PeerId, Vec<SocketAddr>>) -> bool {
    let own = rank(own);
    let before = heard.keys().filter(|peer| rank(peer) < own).count();
    before < if now { ANNOUNCED_MAX } else { ANNOUNCED }
}

/// The first by rank of those that were heard, where they are so many that others may be silent; else none.
pub(super) fn keepers(heard: &BTreeMap<PeerId, Vec<SocketAddr>>) -> Vec<Heard> {
    if heard.len().saturating_add(1) < ANNOUNCED {
        return Vec::new();
    }
    let mut all: Vec<_> = heard.iter().collect();
    all.sort_by_key(|(peer, _)| rank(peer));
    all.into_iter().take(KEEPERS).map(|(peer, addresses)| (*peer, addresses.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many nodes, by rank.
    fn link(count: usize) -> Vec<PeerId> {
        let mut nodes: Vec<_> = (0..count).map(|_| PeerId::random()).collect();
        nodes.sort_by_key(rank);
        nodes
    }

    fn but(nodes: &[PeerId], own: &PeerId) -> BTreeMap<PeerId, Vec<SocketAddr>> {
        nodes.iter().filter(|peer| *peer != own).map(|peer| (*peer, vec![])).collect()
    }

    #[test]
    fn of_three_hundred_on_a_link_a_few_dozen_speak_and_all_know_the_same_first() {
        let nodes = link(300);
        let mut speaking: Vec<bool> = vec![true; nodes.len()];
        // Each hears those that speak, again and again, as they fall silent.
        for _ in 0..3 {
            let spoken: Vec<PeerId> =
                nodes.iter().zip(&speaking).filter(|(_, speaks)| **speaks).map(|(peer, _)| *peer).collect();
            speaking = nodes.iter().zip(&speaking).map(|(peer, now)| speaks(*now, peer, &but(&spoken, peer))).collect();
            let count = speaking.iter().filter(|speaks| **speaks).count();
            assert_eq!(count, ANNOUNCED_MAX);
            for peer in nodes.iter().skip(KEEPERS) {
                let told: Vec<PeerId> = keepers(&but(&spoken, peer)).into_iter().map(|(peer, _)| peer).collect();
                assert_eq!(told, nodes[..KEEPERS]);
            }
        }
        // Of those that speak ten go: others take their places.
        let left = &nodes[10..];
        let heard = &left[..ANNOUNCED_MAX - 10];
        let speaking = left.iter().filter(|peer| speaks(heard.contains(peer), peer, &but(heard, peer))).count();
        assert!(speaking > ANNOUNCED, "{speaking}");
    }

    #[test]
    fn on_a_small_link_all_speak_and_nobody_keeps_anything() {
        let nodes = link(ANNOUNCED - 1);
        for peer in &nodes {
            assert!(speaks(true, peer, &but(&nodes, peer)) && speaks(false, peer, &but(&nodes, peer)));
            assert!(keepers(&but(&nodes, peer)).is_empty());
        }
    }
}
