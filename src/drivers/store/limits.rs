//! Every bound of the store, with its reason.

use std::time::Duration;

/// A commit is due after so many written bytes: what a crash may cost at most.
pub const COMMIT_BYTES: u64 = 64 << 20;
/// A commit is due when a written block has waited so long.
pub const COMMIT_AFTER: Duration = Duration::from_secs(5);
/// The kernel is asked to begin writing after so many bytes, so that a commit finds little left to wait for.
pub const WRITE_BACK_BYTES: u64 = 8 << 20;
/// Files of one content that are kept open, beside those with unsynced bytes.
pub const OPEN_FILES_MAX: usize = 64;
/// Up to so many unsynced files are synced one by one; more are synced with their file system, in one call.
pub const SYNC_FILES_MAX: usize = 64;
/// Longest state or sequence file: a million files' stamps and bits fit.
pub const STATE_BYTES_MAX: usize = 128 << 20;
/// Longest stored manifest: an envelope and its frame.
pub const CLAIM_BYTES_MAX: usize = 80 << 20;
/// Publication names whose highest sequence is remembered.
pub const NAMES_MAX: usize = 100_000;
/// Longest publication name with its publisher, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;
/// Pieces whose blocks' chaining values are kept for serving: 512 bytes each.
pub const PROOFS_MAX: usize = 64;
/// Jobs that wait for a disk thread before `run` waits itself.
pub const JOBS_MAX: usize = 256;
/// Most disk threads.
pub const THREADS_MAX: usize = 64;
/// Buffers kept while no block is under way.
pub const IDLE_BUFFERS: usize = 2;
/// Times a block is written again because a failed sync threw the file away under it.
pub const WRITE_TRIES: u32 = 4;
/// Two changes of a file within this time may leave it with the same time: the kernel's tick, with some room.
pub const FILE_TIME_STEP: Duration = Duration::from_millis(100);
