//! [`BlockPool`]: the memory through which payload passes, a bounded number of 1 MiB buffers.

use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::content::layout::BLOCK_BYTES;
use crate::drivers::store::error::Error;
use crate::drivers::store::limits::IDLE_BUFFERS;
use crate::drivers::store::threads::lock;

const BUFFER_BYTES: usize = BLOCK_BYTES as usize;

/// Hands out buffers of one block each, never more than its bound at once; cloning shares it. Buffers are made when
/// first needed, used again, the warmest first, and given back to the system by [`BlockPool::tidy`] once a while has
/// passed in which they were not needed. Making one costs a MiB of page faults, so none is given back in between.
#[derive(Clone)]
pub struct BlockPool(Arc<Shared>);

struct Shared {
    room: Arc<Semaphore>,
    free: Mutex<Free>,
}

struct Free {
    buffers: Vec<Box<[u8]>>,
    in_use: usize,
    /// Fewest free ones since the last `tidy`: so many were not needed.
    spare: usize,
}

impl BlockPool {
    /// At most `bound` buffers (at least 1).
    pub fn new(bound: usize) -> Self {
        let room = Arc::new(Semaphore::new(bound.clamp(1, Semaphore::MAX_PERMITS)));
        Self(Arc::new(Shared { room, free: Mutex::new(Free { buffers: Vec::new(), in_use: 0, spare: 0 }) }))
    }

    /// The next free buffer, of length 0; waits while all are in use. Fair: first come, first served.
    ///
    /// # Errors
    /// [`Error::Stopped`] never in practice: the pool is not closed.
    pub async fn acquire(&self) -> Result<BlockBuf, Error> {
        let permit = Arc::clone(&self.0.room).acquire_owned().await.map_err(|_| Error::Stopped)?;
        Ok(self.hand_out(permit))
    }

    /// A free buffer now, or none.
    pub fn try_acquire(&self) -> Option<BlockBuf> {
        let permit = Arc::clone(&self.0.room).try_acquire_owned().ok()?;
        Some(self.hand_out(permit))
    }

    fn hand_out(&self, permit: OwnedSemaphorePermit) -> BlockBuf {
        let reused = {
            let mut free = lock(&self.0.free);
            free.in_use += 1;
            let reused = free.buffers.pop();
            free.spare = free.spare.min(free.buffers.len());
            reused
        };
        let bytes = reused.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice());
        BlockBuf { bytes, length: 0, pool: Arc::clone(&self.0), _permit: permit }
    }

    /// Whether the next one asked for has to be waited for.
    pub fn is_exhausted(&self) -> bool {
        self.0.room.available_permits() == 0
    }

    /// Gives back what was not needed since the last call, but for a few. To be called every few seconds.
    pub fn tidy(&self) {
        let released = {
            let mut free = lock(&self.0.free);
            let keep = free.buffers.len().saturating_sub(free.spare).max(IDLE_BUFFERS).min(free.buffers.len());
            let released = free.buffers.split_off(keep);
            free.spare = free.buffers.len();
            released
        };
        if !released.is_empty() {
            drop(released);
            give_back();
        }
    }

    /// Whether there is nothing that [`BlockPool::tidy`] might give back soon.
    pub fn is_at_rest(&self) -> bool {
        let free = lock(&self.0.free);
        free.in_use == 0 && free.buffers.len() <= IDLE_BUFFERS
    }

    /// Buffers in use and lying free.
    pub fn count(&self) -> (usize, usize) {
        let free = lock(&self.0.free);
        (free.in_use, free.buffers.len())
    }
}

/// One buffer of up to 1 MiB; goes back to its pool when dropped. What it held before may show through until written.
pub struct BlockBuf {
    bytes: Box<[u8]>,
    length: usize,
    pool: Arc<Shared>,
    /// Returned after the buffer: fields drop after `drop` has run.
    _permit: OwnedSemaphorePermit,
}

impl BlockBuf {
    /// Most bytes one holds.
    pub const CAPACITY: usize = BUFFER_BYTES;

    /// Sets the length (cut to 1 MiB) and gives the bytes to be filled.
    pub fn as_mut_slice(&mut self, length: usize) -> &mut [u8] {
        self.set_length(length);
        self.filled_mut()
    }

    /// Sets the length (cut to 1 MiB).
    pub fn set_length(&mut self, length: usize) {
        self.length = length.min(self.bytes.len());
    }

    /// The bytes up to the length.
    pub fn filled_mut(&mut self) -> &mut [u8] {
        // The length was cut when it was set.
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether the length is 0.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl AsRef<[u8]> for BlockBuf {
    fn as_ref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl std::fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockBuf({} bytes)", self.length)
    }
}

impl Drop for BlockBuf {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut free = lock(&self.pool.free);
        free.in_use = free.in_use.saturating_sub(1);
        free.buffers.push(bytes);
    }
}

/// Freed blocks of this size stay with the allocator, in between others; an idle node should not keep them.
fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_holds_and_buffers_are_used_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(async {
            let pool = BlockPool::new(3);
            let mut taken = Vec::new();
            for _ in 0..3 {
                taken.push(pool.acquire().await.expect("room"));
            }
            assert!(pool.try_acquire().is_none());
            let mut first = taken.remove(0);
            first.as_mut_slice(5).copy_from_slice(b"bytes");
            assert_eq!((first.as_ref(), first.len()), (&b"bytes"[..], 5));
            assert_eq!(first.as_mut_slice(usize::MAX).len(), BlockBuf::CAPACITY);
            let waiting = tokio::spawn({
                let pool = pool.clone();
                async move { pool.acquire().await.expect("room").len() }
            });
            drop(first);
            assert_eq!(waiting.await.expect("woken"), 0);
            assert_eq!(pool.count(), (2, 1));
        });
    }

    #[test]
    fn what_was_not_needed_for_a_while_is_given_back() {
        let pool = BlockPool::new(16);
        let take = |count| (0..count).filter_map(|_| pool.try_acquire()).collect::<Vec<_>>();
        let taken = take(16);
        assert!(pool.is_exhausted());
        drop(taken);
        assert_eq!(pool.count(), (0, 16));
        // All were needed since the last time.
        pool.tidy();
        assert_eq!(pool.count(), (0, 16));
        drop(take(5));
        pool.tidy();
        assert_eq!(pool.count(), (0, 5));
        let held = take(1);
        pool.tidy();
        pool.tidy();
        assert_eq!(pool.count(), (1, IDLE_BUFFERS));
        drop(held);
        pool.tidy();
        assert_eq!(pool.count(), (0, IDLE_BUFFERS));
    }
}
