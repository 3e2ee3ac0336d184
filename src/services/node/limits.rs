//! Every bound of the node service, each with its reason.

use std::time::Duration;

/// Frames queued towards one peer; a peer that reads at all empties this in milliseconds.
pub(crate) const OUTBOX_FRAMES_MAX: usize = 4096;
/// Topics a link carries; a node asks for a few dozen contents at once, a stranger has no need of more.
pub(crate) const TOPICS_PER_LINK_MAX: usize = 1024;
/// Events queued towards one share; a full queue makes readers wait, and so their peers.
pub(crate) const SHARE_EVENTS_MAX: usize = 1024;
/// MiB buffers for what arrives: one being filled for each of so many peers that deliver at once. A single fast peer
/// takes few, since what waits for the disk is bounded by [`BYTES_TO_WRITE_MAX`].
pub(crate) const RECEIVE_BUFFERS_MAX: usize = 64;
/// Bytes that have arrived as whole blocks and wait to be verified and written; more make their reader wait, and so its
/// peer.
pub(crate) const BYTES_TO_WRITE_MAX: usize = 6 << 20;
/// The least that a block counts for of that: small ones are handed over by dozens, and are bounded by their buffers.
pub(crate) const BYTES_TO_WRITE_UNIT: usize = 64 << 10;
/// Events that a share takes in one after the other before it looks at the clock and lets others run.
pub(crate) const SHARE_EVENTS_AT_ONCE: usize = 64;
/// MiB buffers for pieces of several blocks that are assembled before anything is proven: the largest (16), and some
/// into which the next begins to arrive.
pub(crate) const LARGE_PIECE_BUFFERS_MAX: usize = 18;
/// A block that takes longer to arrive gives its buffer up once all are taken: slow peers may not starve fast ones.
pub(crate) const BLOCK_SLOW: Duration = Duration::from_secs(10);
/// Silence within a frame after which a peer counts as dead.
pub(crate) const FRAME_SILENCE: Duration = Duration::from_secs(30);
/// Payload read, sealed and sent at a time: with its sealed copy it fits the nearer caches.
pub(crate) const SEND_SLICE_BYTES: usize = 128 << 10;
/// The same where a disk thread reads it: each reading costs a wait.
pub(crate) const DISK_SLICE_BYTES: usize = 512 << 10;
/// Payload in the slices of all sends together; their sealed copies are as much again.
pub(crate) const SENDING_BYTES_MAX: usize = 32 << 20;
/// However many send, no slice is shorter: each costs two system calls.
pub(crate) const SLICE_BYTES_LEAST: usize = 32 << 10;
/// Slices that are kept for the next sends.
pub(crate) const SLICES_SPARE_MAX: usize = 64;
/// How often buffers that were not needed are given back to the system.
pub(crate) const TIDY_EVERY: Duration = Duration::from_secs(2);
/// The same while there are none, and no content is open: each look wakes an idle machine.
pub(crate) const TIDY_AT_REST: Duration = Duration::from_secs(20);
/// After so many looks at rest in a row the code that start-up ran is given back.
pub(crate) const CODE_AT_REST: u32 = 3;
/// And again each time after so many more.
pub(crate) const CODE_AGAIN: u32 = 30;
/// Paths whose round trip without a queue is remembered for background work.
pub(crate) const YIELD_PATHS_MAX: usize = 64;
/// A path that carried none for so long is measured anew.
pub(crate) const YIELD_PATH_LASTS: Duration = Duration::from_secs(600);
/// A content that was opened for a peer is closed when no peer has had a session for it for so long.
pub(crate) const ASLEEP_AFTER: Duration = Duration::from_secs(60);
/// A content that could not be opened is not tried again for so long, however often peers ask.
pub(crate) const REOPEN_AFTER: Duration = Duration::from_secs(30);
/// So long a peer's question waits for a content that lies elsewhere: its manifest may have to come from there. Nothing else
/// is read from that peer meanwhile; what opens later is told to it.
pub(crate) const OPEN_REMOTE_MAX: Duration = Duration::from_secs(5);
/// From connection to the peer's Hello.
pub(crate) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// One write of at most [`SEND_SLICE_BYTES`]; slower than 4 KB/s is no peer worth a slot.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// A link that carries no topic for so long is closed.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// Control frames a peer may send in a burst, and per second after that: a swarm's Haves come in batches, a thousand
/// pieces a second from the fastest peer.
pub(crate) const FRAMES_BURST: u32 = 16_384;
pub(crate) const FRAMES_PER_SECOND: u32 = 4_096;
/// Frames that a piece sent to the peer entitles it to beyond that: to ask for it, and to say that it has it. Thousands
/// of small files go faster than the rest would allow.
pub(crate) const FRAMES_PER_PIECE: u32 = 3;
/// Signatures of members' records that one link may have checked in a burst, and per second after that: what an honest
/// peer tells is told once, and a check costs some 60 microseconds of a data thread.
pub(crate) const RECORDS_BURST: u32 = 64;
pub(crate) const RECORDS_PER_SECOND: u32 = 16;
/// Members whose newest record is remembered; some 150 bytes each.
pub(crate) const RECORDS_KEPT_MAX: usize = 4096;
/// Contents of which it is remembered that a neighbour holds them whole.
pub(crate) const ELSEWHERE_KEPT_MAX: usize = 16_384;
/// For so long it counts that a neighbour held something: sessions end a minute after the last use, caches hold for days.
pub(crate) const ELSEWHERE_FRESH: Duration = Duration::from_secs(24 * 3600);
/// Entries of a rendezvous that this node keeps: some 400 bytes each.
pub(crate) const MEETINGS_MAX: usize = 16_384;
/// Of these of one scope, the whole of a large site; who asks is told some, and members tell on.
pub(crate) const MEETING_PER_SCOPE_MAX: usize = 4096;
/// Scopes of it: a company has few groups.
pub(crate) const MEETING_SCOPES_MAX: usize = 512;
/// Entries of one address, or one IPv6 /64, which may be a link with many machines.
pub(crate) const MEETING_PER_ADDRESS_MAX: usize = 256;
/// Members told in one answer; as many neighbours are enough.
pub(crate) const MEETING_ANSWER_MAX: usize = 32;
/// How long an entry holds that is not renewed.
pub(crate) const MEETING_LEASE: Duration = Duration::from_secs(600);
/// Questions that one link may put in a burst, and per second after that; an honest peer asks every two seconds at most.
pub(crate) const MEETINGS_BURST: u32 = 8;
pub(crate) const MEETINGS_PER_SECOND: u32 = 1;
/// How long an answer is waited for.
pub(crate) const MEETING_ANSWER: Duration = Duration::from_secs(10);
/// Questions that one rendezvous may leave open.
pub(crate) const MEETING_ASKED_MAX: usize = 8;
/// Between two questions while something is wanted, doubling.
pub(crate) const MEETING_PAUSE_MIN: Duration = Duration::from_secs(2);
pub(crate) const MEETING_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Between two questions while nothing is wanted, at most, whatever lease was given.
pub(crate) const MEETING_RENEW_MAX: Duration = Duration::from_secs(3600);
/// Peers that may be dialled, besides those that DNS-SD tells of.
pub(crate) const CANDIDATES_MAX: usize = 1024;
/// Addresses of one of them.
pub(crate) const CANDIDATE_ADDRESSES_MAX: usize = 4;
/// Of these so many are dialled at one time: a few of the dials that a node has.
pub(crate) const CANDIDATES_DIALLED_AT_ONCE: usize = 8;
/// Who did not answer is not dialled again for so long.
pub(crate) const CANDIDATE_REDIAL: Duration = Duration::from_secs(15);
/// For so long who was told at a rendezvous is a candidate at least.
pub(crate) const CANDIDATE_LASTS_MIN: Duration = Duration::from_secs(60);
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
/// Between attempts where the network isolates its machines.
pub(crate) const REDIAL_ISOLATED: Duration = Duration::from_secs(60);
/// Refused attempts after which a named peer counts as absent. Peers that are started together refuse each other at first,
/// and each would begin the file alone.
pub(crate) const REFUSALS_SETTLE: u32 = 3;
/// Discovery counts as settled after this, whatever is still open (design section 4).
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(1);
/// From the wish to HTTP for all of it, where nobody can be met; holes are tried for longer, meanwhile.
const HTTP_WITHIN: Duration = Duration::from_secs(3);
const _: () = {
    // All that a download waits for one after another before its sources are asked.
    let waits = SETTLE_MAX.as_millis().saturating_add(crate::drivers::discovery::cache_hosts::PATIENCE.as_millis());
    assert!(waits < HTTP_WITHIN.as_millis());
};
/// What a stopping node waits for its goodbyes to leave.
pub(crate) const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a connection is read from after our goodbye, until its peer has ended it too; within the time above.
pub(crate) const DRAIN_MAX: Duration = Duration::from_millis(400);
/// How often it is looked at what is to be asked of the DHT, and told to it, in the mode internet.
pub(crate) const FAR_LOOK_EVERY: Duration = Duration::from_secs(2);
/// What is wanted is asked for again after this, doubling: others may have come.
pub(crate) const SEEK_AGAIN_MIN: Duration = Duration::from_secs(2);
pub(crate) const SEEK_AGAIN_MAX: Duration = Duration::from_secs(120);
/// Peers dialled at once because they came through a relay and said where they are.
pub(crate) const CALLBACKS_AT_ONCE: usize = 8;
/// Those of them that wait to be looked at.
pub(crate) const CALLBACKS_QUEUED_MAX: usize = 32;
/// A peer in a private network whose handshake took no longer than this shares our line to the origin (design section 4).
pub(crate) const SITE_ROUND_TRIP_MAX: Duration = Duration::from_millis(10);
/// Peers of a share whose distance is remembered; beyond it those that have left are forgotten.
pub(crate) const SCOPES_KEPT_MAX: usize = 4096;
/// What shares the line's budget is told again this often, which also keeps the connections of those that share nothing else.
pub(crate) const SHARING_RENEW: Duration = Duration::from_secs(30);
/// And counts for so long after it was told last.
pub(crate) const SHARING_LASTS: Duration = Duration::from_secs(100);
// A renewal that is late or lost ends nothing.
const _: () = assert!(SHARING_LASTS.as_secs() > 2 * SHARING_RENEW.as_secs());
/// What is told within this time is counted together.
pub(crate) const SHARING_COUNTED: Duration = Duration::from_millis(50);
/// Between two tellings at least.
pub(crate) const SHARING_PAUSE: Duration = Duration::from_millis(250);
/// How often the clocks are compared for sleep.
pub(crate) const SLEEP_CHECK: Duration = Duration::from_secs(4);
/// The same while there is neither a connection nor an open content.
pub(crate) const SLEEP_CHECK_AT_REST: Duration = Duration::from_secs(16);
/// Standing still for so long voids connections and leases; shorter than the shortest lease (8 s), longer than a busy
/// machine keeps a process waiting.
pub(crate) const SLEPT_MIN: Duration = Duration::from_secs(6);
/// An announced sleep that has not come after so long is given up, as when the system could not be suspended: whoever
/// announces it suspends within seconds.
pub(crate) const ASLEEP_MAX: Duration = Duration::from_secs(30);
/// How often background connections are looked at while there are any.
pub(crate) const YIELD_EVERY: Duration = Duration::from_millis(10);
/// A round trip measured longer ago says nothing about the queue of now.
pub(crate) const YIELD_FRESH: Duration = Duration::from_millis(50);
