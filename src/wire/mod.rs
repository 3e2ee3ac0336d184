//! Frames and messages between peers.
