//! Certificates of peers: one that proves a peer id proves the same one however often it is read.

use piecework::drivers::transport::peer_of_certificate;

pub fn run(data: &[u8]) {
    if let Some(peer) = peer_of_certificate(data) {
        assert_eq!(peer_of_certificate(data), Some(peer));
        assert_eq!(peer.to_string().parse().ok(), Some(peer));
    }
}
