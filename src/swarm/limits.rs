//! Every bound of the engine in one table, each with its reason.

use std::time::Duration;

const MIB: u64 = 1 << 20;

// -- peers --
/// Connected peers of one swarm. Thirty to sixty neighbours suffice for near-optimal spreading; the rest is room for a
/// seed that many ask at once.
pub(crate) const PEERS_MAX: usize = 1024;
/// Neighbours after which no more members are dialled.
pub(crate) const NEIGHBOURS_WANTED: usize = 48;
/// Identities whose offences are remembered after they left.
pub(crate) const RECORDS_MAX: usize = 1024;
/// Faults kept for the error message.
pub(crate) const FAULTS_MAX: usize = 16;

// -- requests we send --
/// Outstanding at a peer that has proven nothing yet: two pieces, so that a liar costs no more before it is banned.
pub(crate) const PIPELINE_START_BYTES: u64 = 2 * MIB;
/// Outstanding at one peer at most, in bytes: a gigabyte a second over 60 ms.
pub(crate) const PIPELINE_BYTES_MAX: u64 = 64 * MIB;
/// Outstanding at one peer at most, in pieces.
pub(crate) const PIPELINE_PIECES_MAX: usize = 32;
/// The same where the pieces are small, as those of small files are: so many may be outstanding while they are together no
/// more than [`PIPELINE_SMALL_BYTES`].
pub(crate) const PIPELINE_SMALL_MAX: usize = 256;
/// See [`PIPELINE_SMALL_MAX`].
pub(crate) const PIPELINE_SMALL_BYTES: u64 = 4 * MIB;
/// Outstanding at one peer at least, so that it never waits for the next request.
pub(crate) const PIPELINE_PIECES_MIN: usize = 2;
/// A piece that takes longer than this (and twenty round trips) is asked for when the one before is here. Shorter would
/// leave lines idle: a request waits behind the piece that is being written the other way on the same connection.
pub(crate) const PIECE_SLOW: Duration = Duration::from_secs(2);
/// What is kept outstanding beyond the round trip: hashing, writing and scheduling at both ends take their time.
pub(crate) const PIPELINE_SLACK: Duration = Duration::from_millis(100);
/// The same where more than two peers deliver: what waits in one's queue is not asked of another who has nothing to do. With
/// 300 MB/s and 60 machines 1.035 of the bound, 1.09 with 50 milliseconds, 1.38 with 100.
pub(crate) const PIPELINE_SLACK_SHARED: Duration = Duration::from_millis(20);
/// A peer never measured may take this long for its first block: a block a second, shared by eight, still passes.
pub(crate) const TIMEOUT_FIRST: Duration = Duration::from_secs(8);
/// Shortest timeout of a measured peer; shorter ones mistake a busy disk for a dead peer.
pub(crate) const TIMEOUT_MIN: Duration = Duration::from_secs(3);
/// Payload of an unfinished block that shows that a peer is alive: eight kilobytes a second over a first timeout.
pub(crate) const ALIVE_BYTES: u64 = 64 << 10;
/// Longest timeout.
pub(crate) const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// A block may take this many times what the measured rate says.
pub(crate) const TIMEOUT_FACTOR: u64 = 6;
/// Timeouts in a row, without one good block, after which a peer that unchoked us rests, or is sent away if neither it nor
/// anybody else delivered anything since it came.
pub(crate) const TIMEOUTS_MAX: u32 = 4;
/// Pause of a peer that is silent: an air interface that many share does that to honest ones. Doubles, up to ten minutes.
pub(crate) const SILENT_PAUSE: Duration = Duration::from_secs(20);
/// Pause of a peer that answered `Busy`.
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(500);
/// A piece refused by one peer is not asked of it again for this long.
pub(crate) const PUT_OFF: Duration = Duration::from_secs(5);
/// Pieces put off at one peer; past it the peer pauses.
pub(crate) const PUT_OFF_MAX: usize = 1024;
/// Pieces that a super-seeding peer offers us.
pub(crate) const OFFERS_KEPT_MAX: usize = 64;
/// Words of 64 pieces looked at from a random place on; where these hold nothing, candidates lie sparse, and all of them
/// are counted to draw one.
pub(crate) const PICK_WORDS_NEAR: usize = 16;
/// Started pieces looked at before others are picked.
pub(crate) const STARTED_STEPS_MAX: usize = 64;
/// Requests sent in one go to one peer.
pub(crate) const PUMP_MAX: usize = 64;
/// A piece is asked twice only if the first peer needs this much longer.
pub(crate) const HEDGE_AFTER: Duration = Duration::from_millis(500);
/// Pieces asked twice in one swarm: one in a hundred, and at least these few.
pub(crate) const HEDGES_MIN: u64 = 4;
/// Pieces next to a reader for which a hedge is made before the end.
pub(crate) const READER_URGENT: u32 = 2;
/// Ahead of a reader pieces are wanted in order as far as what arrives in so long.
pub(crate) const READER_AHEAD: Duration = Duration::from_secs(4);
/// The least and the most of that.
pub(crate) const READER_BYTES_MIN: u64 = 16 * MIB;
pub(crate) const READER_BYTES_MAX: u64 = 1024 * MIB;
/// A peer so many times slower than the fastest takes pieces from the second half of what a reader wants first.
pub(crate) const READER_SLOWER_MAX: u64 = 4;
/// Pieces of other suppliers looked at for a hedge.
pub(crate) const HEDGE_STEPS_MAX: usize = 256;

// -- requests they send --
/// Requests of one peer that wait for their turn; twice what our own side ever has outstanding.
pub(crate) const UPLOAD_QUEUE_MAX: usize = 512;
/// Bytes handed to the sockets at a time, all peers together, where several are served: the product of the measured
/// rate and this delay, so that a thin uplink sends whole pieces to few peers. Connections share lines, and a peer to
/// which few happen to send at a moment gets little from each: with a quarter of this, eight peers took 1.20 of the bound
/// in real runs and under fair sharing, and filled their lines to 85 in 100.
pub(crate) const UPLOAD_WINDOW: Duration = Duration::from_secs(1);
/// The least of it, in pieces. With two, 99 machines around one seed were a little sooner (1.060 for 1.063 of the bound), and
/// strangers who give a little later (1.36 for 1.34).
pub(crate) const UPLOAD_WINDOW_PIECES_MIN: u64 = 3;
/// Pieces handed to the sockets at a time by a machine behind an access point, and peers it serves: what one sends keeps all
/// others off the air, its own receivers' answers included. With a second's worth, sixty machines behind three took 3.0 of
/// the bound, and a fifth of the bytes came after they had been given up.
pub(crate) const SHARED_AIR_PIECES: u64 = 1;
/// The window before any rate is known.
pub(crate) const UPLOAD_WINDOW_START: u64 = 8 * MIB;
/// A send older than this (or four times what the rate says) waits for its receiver, not for our line, and no longer
/// counts against the window.
pub(crate) const UPLOAD_STALLED: Duration = Duration::from_secs(3);
/// Slots are looked at this often.
pub(crate) const CHOKE_ROUND: Duration = Duration::from_millis(500);
/// Where more wait than there are slots, so many pieces are asked for, or turns dealt, ahead of the line.
pub(crate) const TURNS_AHEAD: u64 = 4;
/// On a thin line no more than passes in this time, though two pieces at least.
pub(crate) const TURNS_TIME: Duration = Duration::from_secs(1);
/// Where peers deal turns, pieces owed to us at a time: one more than each of them deals, so that turns are declined by
/// those who have plenty and taken by those who lack. Measured: 99 machines, 512 pieces, one seed: mean 1.053 of the
/// bound; 1.084 with two more, 1.23 with two less.
pub(crate) const TURNS_TAKEN: u64 = TURNS_AHEAD + 1;
/// Peers that hear, for each piece that we have room for, that we want a turn. If all heard it, all would deal one at the
/// same moment and hear at once that we want none: sixty machines with 48 neighbours each at 300 MB/s said so 140 times a
/// piece, and took 2.8 times the bound instead of 1.033.
pub(crate) const TURNS_ASKED: usize = 2;
/// What is owed for longer than this does not count there: its peer is slow or silent.
pub(crate) const TURN_SLOW: Duration = Duration::from_secs(4);
/// Where answers take long everywhere, so many times as long is slow, or silent: as behind an access point that many share.
pub(crate) const SLOW_ANSWERS: u32 = 4;
/// Both are more by what the line carries in this time.
pub(crate) const TURN_LEAD: Duration = Duration::from_millis(20);
/// A turn unused for this long and two round trips no longer counts, and may pass on to a peer that waits.
pub(crate) const TURN_WAITS: Duration = Duration::from_millis(30);
/// Draws for a turn; the first two that fit are compared.
pub(crate) const TURN_DRAWS: usize = 8;
/// On a thin line fewer peers are served: so many that each gets a piece in this time.
pub(crate) const SLOT_TURN: Duration = Duration::from_secs(2);
/// Peers served on the thinnest line.
pub(crate) const SLOTS_MIN: usize = 2;
/// Rounds after which somebody gives way although it uses its slot.
pub(crate) const ROTATION_ROUNDS: u64 = 10;
/// Pieces that a peer of the Internet may have been given beyond what it gave, and still count as a newcomer.
pub(crate) const CREDIT_PIECES: u64 = 2;
/// Rotations an optimistic slot lasts.
pub(crate) const OPTIMISTIC_ROUNDS: u64 = 3;

// -- messages --
/// Tokens a peer may spend at once on messages; one message costs one, what invites abuse more.
pub(crate) const TOKENS_BASE: u64 = 8192;
/// Tokens that come back each second: four times the messages of a gigabyte a second.
pub(crate) const TOKENS_PER_SECOND: u64 = 4096;
/// What comes back for a piece that was sent: its request, and the word that it has arrived.
pub(crate) const TOKENS_PER_PIECE: u64 = 4;
/// What we have to say about held pieces is collected this long, so that fast downloads do not say each by itself.
pub(crate) const HAVE_BATCH: Duration = Duration::from_millis(4);
/// Pieces in one `Have`, well under a frame.
pub(crate) const HAVES_MAX: usize = 4096;

// -- members --
/// Members in one message.
pub(crate) const MEMBERS_PER_MESSAGE: usize = 32;
/// Of these, how many are told since they rank highest; the others are the newest.
pub(crate) const MEMBERS_RANKED: usize = 8;
/// Members that come within this time are told together: far less than [`QUIET`], in which others should hear of them.
pub(crate) const MEMBERS_BATCH: Duration = Duration::from_millis(10);
/// News about members that may be gateways at most this often.
pub(crate) const MEMBERS_GATEWAYS_INTERVAL: Duration = Duration::from_millis(250);
/// News about members to one peer at most this often.
pub(crate) const MEMBERS_INTERVAL: Duration = Duration::from_secs(3);
/// Candidates known from hearsay.
pub(crate) const CANDIDATES_MAX: usize = 512;
/// Candidates one peer may have told.
pub(crate) const CANDIDATES_PER_TELLER: usize = 128;
/// Dials under way at a time.
pub(crate) const DIALS_MAX: usize = 4;
/// The same where they may be gateways.
pub(crate) const DIALS_GATEWAYS_MAX: usize = 16;
/// A dial of which nothing was heard is given up.
pub(crate) const DIAL_GIVEN_UP: Duration = Duration::from_secs(15);
/// First back-off after a failed dial; doubles.
pub(crate) const DIAL_BACK_OFF: Duration = Duration::from_secs(10);
/// Longest back-off after failed dials.
pub(crate) const DIAL_BACK_OFF_MAX: Duration = Duration::from_secs(600);
/// Failed dials after which a candidate is forgotten.
pub(crate) const DIAL_FAILURES_MAX: u32 = 5;
/// Bytes of a binary peer id.
pub(crate) const PEER_ID_BYTES_MAX: usize = 64;

// -- client isolation (design section 4) --
/// Members seen from which on it tells something that none could be connected: fewer may just be switched off.
pub(crate) const ISOLATED_SEEN_MIN: u32 = 5;
/// How long none of them may be connected: a handshake takes milliseconds on a LAN, a lost SYN is sent again after a second.
pub(crate) const ISOLATED_AFTER: Duration = Duration::from_secs(3);

// -- origin duty --
/// Discovery counts as settled after this long, whatever it says.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(1);
/// Of the whole, what may be fetched before discovery has settled: one part in this many.
pub(crate) const SETTLE_PART: u32 = 64;
/// Nothing is fetched before discovery has settled or this has passed: a peer on the LAN is found sooner, and may hold
/// everything; every newcomer's first range would leave the origin for nothing.
pub(crate) const SETTLE_EARLY: Duration = Duration::from_millis(200);
/// Contents smaller than this have one gateway, since dividing them saves nothing.
pub(crate) const ONE_GATEWAY_BYTES: u64 = 16 * MIB;
/// Members of a site, as their ranks let it be estimated, above which only stable ones have duties, and the others leave the
/// gateways' sessions to them: no gateway has room for more sessions than [`PEERS_MAX`].
pub(crate) const SITE_LARGE: u128 = 1_000;
/// Ranks by hearsay that tell how large a site is.
pub(crate) const RANKS_HEARD_MAX: usize = 64;
/// The same from one teller.
pub(crate) const RANKS_HEARD_PER_TELLER: u32 = 4;
/// Runs of pieces with one owner: a 64th of the content, within these bounds, so that shares are even and ranges long.
pub(crate) const RUN_PART: u64 = 64;
/// Shortest run.
pub(crate) const RUN_BYTES_MIN: u64 = 2 * MIB;
/// Longest run.
pub(crate) const RUN_BYTES_MAX: u64 = 16 * MIB;
/// A new peer's pieces and intents are awaited this long before anything is fetched that it might have.
pub(crate) const SYNC_GRACE: Duration = Duration::from_millis(500);
/// After a peer of the site came or went, nothing is fetched for this long: the others see it too, a moment later.
pub(crate) const QUIET: Duration = Duration::from_millis(40);
/// Waiting for quiet ends after this long, since members may come and go all the time.
pub(crate) const QUIET_WAIT_MAX: Duration = Duration::from_secs(1);
/// A dial under way keeps quiet away for this long.
pub(crate) const QUIET_DIAL: Duration = Duration::from_millis(300);
/// Shortest lease.
pub(crate) const LEASE_MIN: Duration = Duration::from_secs(8);
/// Lease on pieces of a source never measured: eight gateways and a few early ranges may share a thin line.
pub(crate) const LEASE_FIRST: Duration = Duration::from_secs(20);
/// Longest lease, ours or another's.
pub(crate) const LEASE_MAX: Duration = Duration::from_secs(60);
/// Renewals of a lease without one verified block in between.
pub(crate) const LEASE_UNPROVEN_MAX: u32 = 2;
/// Leases of one piece that may run out before a gateway that does not own it fetches it; twice as many, before anybody
/// does.
pub(crate) const LEASES_EXPIRED_MAX: u8 = 2;
/// Bytes one peer may claim: eight ranges of the longest kind.
pub(crate) const CLAIM_BYTES_MAX: u64 = 256 * MIB;
/// Bytes that the members of one address may claim for a whole lease before they have brought any: what an honest
/// newcomer begins with, four ranges of the shortest kind.
pub(crate) const CLAIM_UNPROVEN_BYTES: u64 = 16 * MIB;
/// Who claims more has a source that brings a range in two seconds, and shows a piece within this time.
pub(crate) const CLAIM_UNPROVEN_LASTS: Duration = Duration::from_secs(4);
/// Addresses of such members that are remembered.
pub(crate) const ADDRESSES_MAX: usize = 1024;
/// Doublings of the time for which an address is passed over: up to half an hour.
pub(crate) const STRIKES_MAX: u32 = 5;
/// Claimed pieces known at a time, all peers together.
pub(crate) const CLAIMS_MAX: usize = 65_536;
/// Ranges in one `Intent`.
pub(crate) const INTENT_RANGES_MAX: usize = 64;
/// An owner that has neither claimed nor delivered anything for this long is passed over.
pub(crate) const OWNER_SILENT: Duration = Duration::from_secs(4);
/// For how long an owner is passed over; progress ends it sooner.
pub(crate) const OWNER_SUSPECT: Duration = Duration::from_secs(60);
/// An idle gateway takes a run of an owner that needs this much longer for the rest of its duty.
pub(crate) const OWNER_SLOW: Duration = Duration::from_secs(5);
/// Runs looked at for one decision.
pub(crate) const RUN_STEPS_MAX: usize = 4096;

// -- the site's line --
/// What a budget of the site's line saves up for a node that asks for nothing.
pub(crate) const LINE_BURST: Duration = Duration::from_secs(2);
/// And at least this much, since nothing smaller than a piece can be asked for.
pub(crate) const LINE_BURST_BYTES: u64 = MIB;
/// A range has no more than a budget brings in this time, but for a single piece.
pub(crate) const LINE_RANGE: Duration = Duration::from_secs(1);
/// So long a new gateway waits for what its first piece costs, at most.
pub(crate) const LINE_FIRST: Duration = Duration::from_secs(4);
/// Bytes per second of a budget for which one gateway more is worth its while: some pieces in two seconds.
pub(crate) const LINE_PER_GATEWAY: u64 = 2_000_000;
/// A peer outside that is slower than one part in this many of the best supplier there is left alone: its thin uplink
/// is for its own site.
pub(crate) const OUTSIDE_SLOWER_MAX: u64 = 3;
/// What is asked of a peer outside waits so long at least: its thin uplink serves other sites too, and what it has handed to
/// its sockets crosses the line whether or not it is still wanted. Measured on twenty branches: 8 seconds 1.04 to 1.09 files over the
/// busiest line, 20 seconds 1.02 to 1.04, 40 seconds 1.01 to 1.03, 60 seconds the same.
pub(crate) const OUTSIDE_PATIENCE: Duration = Duration::from_secs(40);
/// Peers outside are told of pieces this often at most, while others on our site are told at once.
pub(crate) const HAVES_OUTSIDE: Duration = Duration::from_secs(2);
/// What is asked of peers outside at a time: what came from them in so long.
pub(crate) const OUTSIDE_AHEAD: Duration = Duration::from_secs(2);
/// What is asked of them is told the site together, this often at most: words without progress are few by right.
pub(crate) const OUTSIDE_TOLD: Duration = Duration::from_millis(500);
/// Neighbours outside after which a node that has some on its own site dials no more of them from hearsay.
pub(crate) const OUTSIDE_WANTED: usize = 8;

// -- doubt --
/// A peer that has delivered nothing yet and lets what it owes wait for this long is not counted on.
pub(crate) const DOUBT_SILENT: Duration = Duration::from_secs(3);
/// Nor is who says that it holds everything, where for this long nothing came into the site but by gateways: a seed on a
/// thin line sends a first piece sooner.
pub(crate) const DOUBT_UNVOUCHED: Duration = Duration::from_secs(3);
/// So many who say so, of whom none gave anybody anything, are doubted sooner: of as many seeds not all have thin lines.
pub(crate) const DOUBTED_CROWD: usize = 8;
/// After this time.
pub(crate) const DOUBT_CROWD: Duration = Duration::from_secs(2);

/// So many of a crowd try a peer that says that it holds everything, before there is a sign that such peers give anything.
pub(crate) const TRIALS: u64 = 8;
/// Addresses whose word for somebody is still to be borne out.
pub(crate) const PLEDGES_MAX: usize = 4096;
/// A crowd in that sense: members of the site that lack something.
pub(crate) const TRIED_FROM: u64 = 16;

// -- sources --
/// Sources of one swarm.
pub(crate) const SOURCES_MAX: usize = 64;
/// Ranges under way, all sources together.
pub(crate) const FETCHES_MAX: usize = 8;
/// Shortest range of a node alone.
pub(crate) const FETCH_BYTES_MIN: u64 = 4 * MIB;
/// Where a site's gateways share a line, one more range at a time for each so many bytes a second that a node gets.
pub(crate) const CONNECTION_RATE: u64 = MIB;
/// Longest range.
pub(crate) const FETCH_BYTES_MAX: u64 = 32 * MIB;
/// A range is made long enough to take this long.
pub(crate) const FETCH_TIME: Duration = Duration::from_secs(2);
/// A range without a block for this long is given up (longer where the measured rate says so).
pub(crate) const FETCH_SILENT: Duration = Duration::from_secs(20);
/// First back-off of a source; doubles.
pub(crate) const SOURCE_BACK_OFF: Duration = Duration::from_millis(500);
/// Longest back-off, and the longest Retry-After that is honoured.
pub(crate) const SOURCE_BACK_OFF_MAX: Duration = Duration::from_secs(60);
/// A range silent for this long may be asked of an idle source too.
pub(crate) const SOURCE_LATE: Duration = Duration::from_secs(2);
/// Files of a source that may fail for good before the source is out.
pub(crate) const SOURCE_FILES_FAILED_MAX: u32 = 3;
/// A source whose share of bandwidth is less than one part in this many of the best one's is not used beside it.
pub(crate) const SOURCE_SLOWER_MAX: u64 = 10;
/// Held pieces ahead of a range's stream that are let through rather than cancelling and asking anew.
pub(crate) const STREAM_OVER_BYTES: u64 = 4 * MIB;

// -- fallback --
/// Peers that hold what we lack may be slower than asked for this long before HTTP helps.
pub(crate) const FALLBACK_GRACE: Duration = Duration::from_secs(4);
/// What is asked of peers is divided by the members of the site that lack something too, up to this many: the line to
/// the source is theirs as well, and if each helped itself nobody would be helped.
pub(crate) const FALLBACK_SHARE_MAX: u64 = 64;
/// Where others of the site lack something too, only its gateways help for this long, each with its own pieces: a crowd
/// of which each helped itself would fetch a copy each, over one line.
pub(crate) const FALLBACK_CROWD: Duration = Duration::from_secs(30);
/// After this much more without one byte from peers, HTTP is used as if they had nothing.
pub(crate) const FALLBACK_FULL: Duration = Duration::from_secs(4);

// -- super-seeding --
/// First copies promised to one peer ahead of its requests.
pub(crate) const OFFERS_AHEAD: usize = 8;
/// A promise not taken up is void after this long.
pub(crate) const OFFER_LASTS: Duration = Duration::from_secs(5);
/// A first copy that was sent and is not announced after this long may be sent to another.
pub(crate) const FIRST_COPY_LASTS: Duration = Duration::from_secs(15);
/// After a refusal for super-seeding, only what a peer offers is asked of it for this long.
pub(crate) const SUPER_SEEDING_LASTS: Duration = Duration::from_millis(40);
/// Pieces looked at for one offer.
pub(crate) const OFFER_STEPS_MAX: usize = 4096;

// -- scoring --
/// Good bytes that make up for one bad block.
pub(crate) const FORGIVEN_AFTER_BYTES: u64 = 256 * MIB;
/// Time that makes up for one bad block.
pub(crate) const FORGIVEN_AFTER: Duration = Duration::from_secs(1800);
/// Bad blocks after which a peer is banned.
pub(crate) const BAD_BLOCKS_MAX: u32 = 2;
/// Unasked payload forgiven once, in frames beyond what was cancelled.
pub(crate) const UNASKED_MAX: u32 = 2;
/// How long a peer that sent bad bytes is refused.
pub(crate) const BAN_BAD_BYTES: Duration = Duration::from_secs(3600);
/// How long a peer is refused for other offences.
pub(crate) const BAN_OTHER: Duration = Duration::from_secs(600);

/// How often timeouts, leases and back-offs are looked at while something is missing.
pub(crate) const HOUSEKEEPING: Duration = Duration::from_millis(100);
/// The same while everybody who could deliver something does: no timeout is shorter than six of these.
pub(crate) const HOUSEKEEPING_CALM: Duration = Duration::from_millis(500);
/// Intents of one peer in a row that bring nothing; ranges start a few at a time, so a few are normal.
pub(crate) const INTENTS_UNPROVEN_MAX: u32 = 16;
