//! Every bound of this room in one table, each with its reason.

use std::time::Duration;

/// Deadline from accepting or connecting to a finished handshake, first byte included (security row 12).
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Deadline of one TCP connection attempt: a LAN answers in milliseconds, a lost SYN is repeated after 1 and 3 s.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Deadline of one name.
pub const RESOLVE: Duration = Duration::from_secs(5);
/// Addresses tried for one target.
pub const ADDRESSES_PER_TARGET_MAX: usize = 8;
/// Dials under way at once; more wait.
pub const DIALS_MAX: usize = 32;
/// Wait before the next accept after the system refused one: descriptors are short, and trying again at once would spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that the kernel keeps for us to accept.
pub const BACKLOG: u32 = 1024;
/// How long sessions may take to end when the endpoint shuts down.
pub const SHUTDOWN: Duration = Duration::from_secs(2);
/// Addresses remembered by the gate; those without a connection are forgotten first.
pub const ADDRESSES_REMEMBERED_MAX: usize = 4096;
/// Stands for a round trip that was not measured: far enough never to count as near.
pub const ROUND_TRIP_UNKNOWN: Duration = Duration::from_secs(1);
/// Descriptors kept for files and the rest of the process when the limit of connections is derived from theirs.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// Read buffer of a connection that just opened, in bytes.
pub const READ_BYTES_MIN: usize = 20 << 10;
/// Read buffer before the handshake ends: TLS allows 64 KiB of handshake message.
pub const READ_BYTES_HANDSHAKE: usize = 80 << 10;
/// Read buffer under load: 16 records a system call.
pub const READ_BYTES_MAX: usize = 256 << 10;
/// Plaintext taken by one write: 16 records a system call.
pub const WRITE_BYTES_MAX: usize = 256 << 10;
/// Sealed bytes that wait for more before they are sent, unless they are flushed: a frame's header goes with its payload,
/// and small pieces go together.
pub const SEND_BYTES_MIN: usize = 64 << 10;
/// Quiet time after which a connection gives its buffers back.
pub const BUFFERS_IDLE: Duration = Duration::from_secs(2);

/// Streams of one libp2p connection; ping, identify and one data stream need three.
pub const STREAMS_PER_CONNECTION_MAX: usize = 32;
/// libp2p connections of one peer: one each way.
pub const CONTROL_CONNECTIONS_PER_PEER_MAX: u32 = 2;
/// Resident memory beyond which libp2p takes no new connection.
pub const CONTROL_MEMORY_BYTES_MAX: usize = 1 << 30;
/// libp2p connections without a stream close after this.
pub const CONTROL_IDLE: Duration = Duration::from_secs(30);
/// Inbound sockets and streams that wait for the control plane to look at them.
pub const CONTROL_QUEUE_MAX: usize = 64;

/// The bounds that an operator may set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, both planes, both directions. Lowered to what the descriptors allow.
    pub connections_max: usize,
    /// Connections of one address (IPv4 address, IPv6 /64).
    pub connections_per_address_max: usize,
    /// Connections of one peer id: one each way, and room for a dead one that has not been noticed.
    pub connections_per_peer_max: usize,
    /// Handshakes under way in all. One more, and the oldest of the busiest address is dropped for it.
    pub handshakes_max: usize,
    /// Handshakes under way of one address. One more, and its oldest is dropped: an honest one takes milliseconds, so
    /// dribblers push each other out and starve nobody.
    pub handshakes_per_address_max: usize,
    /// Handshakes begun a second by one address; a key exchange and two signatures each.
    pub handshakes_per_second: u32,
    /// The same for loopback, which many instances share.
    pub handshakes_per_second_loopback: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            connections_per_address_max: 256,
            connections_per_peer_max: 4,
            handshakes_max: 512,
            handshakes_per_address_max: 256,
            handshakes_per_second: 64,
            handshakes_per_second_loopback: 2000,
        }
    }
}

/// Bytes of a connection that wait in the kernel and are not on their way. More would only make words of the moment (a
/// `Have`, a turn) queue behind payload, up to a second on a thin line, and let a piece count as sent that is not.
pub(crate) const UNSENT_BYTES_MAX: u32 = 256 << 10;
