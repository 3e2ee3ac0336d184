//! Every bound of the node service, each with its reason.

use std::time::Duration;

/// Frames queued towards one peer; a peer that reads at all empties this in milliseconds.
pub(crate) const OUTBOX_FRAMES_MAX: usize = 4096;
/// Topics a link carries; a node asks for a few dozen contents at once, a stranger has no need of more.
pub(crate) const TOPICS_PER_LINK_MAX: usize = 1024;
/// Events queued towards one share; a full queue makes readers wait, and so their peers.
pub(crate) const SHARE_EVENTS_MAX: usize = 1024;
/// MiB buffers for what arrives; the largest piece (16) must fit with room for others beside it.
pub(crate) const RECEIVE_BUFFERS_MAX: usize = 28;
/// MiB buffers for what is read ahead of the sockets.
pub(crate) const SEND_BUFFERS_MAX: usize = 10;
/// Blocks read ahead of one socket.
pub(crate) const READ_AHEAD_BLOCKS: usize = 2;
/// From connection to the peer's Hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// One write of at most a MiB; slower than 35 KB/s is no peer worth a buffer.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A link that carries no topic for so long is closed.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Control frames a peer may send in a burst, and per second after that: a swarm's Haves come in batches, a thousand
/// pieces a second from the fastest peer.
pub(crate) const FRAMES_BURST: u32 = 16_384;
pub(crate) const FRAMES_PER_SECOND: u32 = 4_096;
/// Peers connected at once.
pub(crate) const LINKS_MAX: usize = 1024;
/// Identities remembered as banned; the oldest go first.
pub(crate) const BANS_MAX: usize = 4096;
/// Banned identities at one address before the address itself is refused, named peers excepted: one relay or NAT is
/// many honest machines.
pub(crate) const BANS_PER_ADDRESS: u32 = 3;
/// Range of manifest bytes asked for at once; what one Manifest frame carries.
pub(crate) const MANIFEST_RANGE_BYTES: u32 = 256 << 10;
/// Such parts queued towards one peer; it asks for the next when it has one.
pub(crate) const MANIFEST_PARTS_QUEUED_MAX: usize = 2;
/// Longest envelope accepted from a peer: the manifest's bound and room for signatures.
pub(crate) const ENVELOPE_BYTES_MAX: u64 = (64 << 20) + (64 << 10);
/// Pause between two dials of an address that refuses, doubling.
pub(crate) const REDIAL_MIN: Duration = Duration::from_millis(200);
pub(crate) const REDIAL_MAX: Duration = Duration::from_secs(10);
/// Refused attempts after which a named peer counts as absent. Peers that are started together refuse each other at first,
/// and each would begin the file alone.
pub(crate) const REFUSALS_SETTLE: u32 = 3;
/// Discovery counts as settled after this, whatever is still open (design section 4).
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(1);
/// What a stopping node waits for its goodbyes to leave.
pub(crate) const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// A peer in a private network whose handshake took no longer than this shares our line to the origin (design section 4).
pub(crate) const SITE_ROUND_TRIP_MAX: Duration = Duration::from_millis(10);
