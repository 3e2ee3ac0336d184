//! Hands and ears: disk, sockets, names. I/O without policy; each folder is a room of its own and imports none of its
//! neighbours.

pub mod discovery;
pub mod hashing;
pub mod machine;
pub mod origin;
pub mod sources;
pub mod store;
pub mod transport;
