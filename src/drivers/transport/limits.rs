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

/// libp2p connections of one peer in the mode internet: one each way over TCP and QUIC, relayed ones, and those that AutoNAT
/// makes to try us.
pub const FAR_CONNECTIONS_PER_PEER_MAX: u32 = 8;
/// Handshakes of inbound libp2p connections under way in that mode: those over TCP, which the gate bounds, those over QUIC, and
/// those through relays, which are in no other table.
pub const FAR_PENDING_INBOUND_MAX: u32 = 1088;
/// Those over QUIC. One more, and the oldest of the busiest address is dropped for it.
pub const QUIC_HANDSHAKES_MAX: usize = 512;
/// Those of one address (IPv4 address, IPv6 /64): of an office that comes at once.
pub const QUIC_HANDSHAKES_PER_ADDRESS_MAX: usize = 32;
/// Addresses that somebody here has named or judged, and that libp2p may dial though they are not public.
pub const NAMED_ADDRESSES_MAX: usize = 256;
/// What a QUIC peer may send on a stream that nobody has read yet, bytes: a fast far line times its round trip (1 Gbit/s
/// and 50 ms).
pub const QUIC_STREAM_BYTES_MAX: u32 = 6 << 20;
/// The same over a connection.
pub const QUIC_CONNECTION_BYTES_MAX: u32 = 8 << 20;
/// How long one question to the DHT may take.
pub const DHT_QUERY: Duration = Duration::from_secs(20);
/// How long it is remembered who provides something.
pub const DHT_RECORD_LIVES: Duration = Duration::from_secs(30 * 60);
/// How often it is told again what is provided here.
pub const DHT_TELL_EVERY: Duration = Duration::from_secs(10 * 60);
/// Keys that are told at once; each asks some twenty nodes.
pub const DHT_TELLS_AT_ONCE: usize = 8;
/// Keys that this node provides; what it holds beyond that, others of the Internet do not find with it.
pub const DHT_KEYS_OWN_MAX: usize = 1024;
/// Providers remembered for one key, about as many as an answer has room for (16 KiB): members tell of members.
pub const DHT_PROVIDERS_PER_KEY_MAX: usize = 20;
/// Records of others in all; each takes less than a KiB.
pub const DHT_RECORDS_MAX: usize = 16_384;
/// Records of one provider among them.
pub const DHT_RECORDS_PER_PROVIDER_MAX: usize = 1024;
/// Addresses of one provider, or of one node of the DHT, that are kept.
pub const DHT_ADDRESSES_MAX: usize = 4;
/// Longest multiaddress that is kept, bytes: one through a relay has some 120.
pub const MULTIADDR_BYTES_MAX: usize = 256;
/// Questions who provides something that are under way at once.
pub const FINDS_MAX: usize = 64;
/// Providers taken from one.
pub const FOUND_PER_FIND_MAX: usize = 40;
/// Addresses of ours that others say they see, as long as the node lives; an honest network shows two or three.
pub const CANDIDATES_MAX: usize = 16;
/// Candidates that AutoNAT has tried at once.
pub const PROBES_AT_ONCE: usize = 4;
/// How often it looks for one that was not tried.
pub const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long a node with a public address waits for somebody to prove that it can be reached, before it asks a relay.
pub const PROOF_PATIENCE: Duration = Duration::from_secs(5);
/// Nodes that offer to relay and are remembered.
pub const RELAYS_KNOWN_MAX: usize = 16;
/// Relays that keep a place for a node that cannot be reached.
pub const RESERVATIONS_MAX: usize = 2;
/// From the first word through a relay to a direct connection: three attempts of hole punching fit.
pub const PUNCH: Duration = Duration::from_secs(8);
/// How long a hole is not used yet where the peer may call over TCP instead: some round trips, and a busy machine.
pub const CALL_PATIENCE: Duration = Duration::from_millis(1500);
/// How long a punch waits for somebody to have seen our address over UDP.
pub const SEEN_PATIENCE: Duration = Duration::from_millis(1500);
/// Holes being punched at once.
pub const PUNCHES_MAX: usize = 32;
/// How long libp2p's task rests where it ended by itself, doubled each time: what made it fall may still be there.
pub const FALLEN_REST_MIN: Duration = Duration::from_secs(1);
/// The longest of these rests.
pub const FALLEN_REST_MAX: Duration = Duration::from_secs(5 * 60);
/// A fall after so long is the first again.
pub const FALLEN_FORGOTTEN: Duration = Duration::from_secs(15 * 60);
/// Nodes that have a place at this relay.
pub const RELAY_RESERVATIONS_MAX: usize = 256;
/// Places of one peer: one is being renewed.
pub const RELAY_RESERVATIONS_PER_PEER_MAX: usize = 2;
/// Circuits through this relay at once.
pub const RELAY_CIRCUITS_MAX: usize = 64;
/// Circuits of one peer.
pub const RELAY_CIRCUITS_PER_PEER_MAX: usize = 4;
/// How long a circuit lives: long enough to agree on a hole, three times over.
pub const RELAY_CIRCUIT_LIVES: Duration = Duration::from_secs(60);
/// Bytes that a circuit carries: enough for that, and not for one piece.
pub const RELAY_CIRCUIT_BYTES_MAX: u64 = 128 << 10;
/// The same of a circuit where a budget lets content through: it is made again for what takes longer.
pub const RELAY_DATA_CIRCUIT_LIVES: Duration = Duration::from_secs(15 * 60);
/// What is left of a budget has to be so much, bytes, for content to be let through: less is a few pieces of one file.
pub const RELAY_DATA_BYTES_MIN: u64 = 16 << 20;
/// Bytes taken out of a budget at once.
pub const RELAY_TAKE_BYTES_MAX: u64 = 64 << 10;
/// How long a hole is tried for before content goes through a relay that lets it: two of three attempts.
pub const CARRY_PATIENCE: Duration = Duration::from_secs(5);
/// Relays, and peers that came through one, of which it is remembered whether content may go that way.
pub const CARRIERS_MAX: usize = 256;
/// How often nodes to begin with are looked at while none is connected.
pub const BOOTSTRAP_SOON: Duration = Duration::from_secs(5);
/// The same once one is.
pub const BOOTSTRAP_LATER: Duration = Duration::from_secs(60);

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
