//! [`DiskThreads`]: the only threads that write. With one of them, every write, sync and rename of a process comes from
//! one thread, in order, so that the k-th can be made to fail.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{Semaphore, oneshot};

use crate::drivers::store::error::Error;
use crate::drivers::store::limits::{JOBS_MAX, THREADS_MAX};

type Job = Box<dyn FnOnce() + Send>;

/// A few named threads and their queue; cloning shares them. When the last handle goes, what is queued is still done.
#[derive(Clone)]
pub struct DiskThreads(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// Bounds the jobs of `run` that wait or work.
    room: Semaphore,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    panics: AtomicU64,
}

struct Queue {
    jobs: VecDeque<Job>,
    open: bool,
}

impl DiskThreads {
    /// Starts `count` threads (at least 1, at most 64).
    ///
    /// # Errors
    /// [`Error::ResourceRefused`] where the system gives no thread.
    pub fn new(count: usize) -> Result<Self, Error> {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), open: true });
        let shared = Arc::new(Shared { queue, wake: Condvar::new(), panics: AtomicU64::new(0) });
        let handle = Handle { shared, room: Semaphore::new(JOBS_MAX), threads: Mutex::default() };
        for index in 0..count.clamp(1, THREADS_MAX) {
            let shared = Arc::clone(&handle.shared);
            let builder = std::thread::Builder::new().name(format!("disk-{index}"));
            let thread = builder.spawn(move || work(&shared)).map_err(|source| Error::ResourceRefused {
                doing: "start",
                path: format!("disk thread {index}").into(),
                source,
            })?;
            lock(&handle.threads).push(thread);
        }
        Ok(Self(Arc::new(handle)))
    }

    /// Does one job on a disk thread and waits for it without blocking the caller's thread. Once queued, a job is done
    /// even if nobody waits any more.
    ///
    /// # Errors
    /// [`Error::JobPanicked`], [`Error::Stopped`].
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let room = self.0.room.acquire().await.map_err(|_| Error::Stopped)?;
        let (done, result) = oneshot::channel();
        self.spawn(move || {
            // A dropped receiver means that nobody waits any more.
            let _ = done.send(catch_unwind(AssertUnwindSafe(job)));
        });
        let result = result.await;
        drop(room);
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(panic)) => {
                self.0.shared.panics.fetch_add(1, Ordering::Relaxed);
                Err(Error::JobPanicked(panic_text(&*panic)))
            }
            Err(_) => Err(Error::Stopped),
        }
    }

    /// Queues one job that nobody waits for. Unlike [`DiskThreads::run`] this never waits: for callers that bound
    /// their own jobs.
    pub fn spawn(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = lock(&self.0.shared.queue);
        if queue.open {
            queue.jobs.push_back(Box::new(job));
            drop(queue);
            self.0.shared.wake.notify_one();
        }
    }

    /// Jobs that panicked so far.
    pub fn panic_count(&self) -> u64 {
        self.0.shared.panics.load(Ordering::Relaxed)
    }

    /// Takes no more jobs, does those queued, and waits for the threads to end. Not for the threads themselves.
    pub fn stop(&self) {
        self.0.close();
        let threads = std::mem::take(&mut *lock(&self.0.threads));
        for thread in threads {
            // Jobs are caught, so a thread ends only by returning.
            let _ = thread.join();
        }
    }
}

impl Handle {
    fn close(&self) {
        lock(&self.shared.queue).open = false;
        self.shared.wake.notify_all();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

fn work(shared: &Shared) {
    hold_back_size_signal();
    loop {
        let mut queue = lock(&shared.queue);
        let job = loop {
            if let Some(job) = queue.jobs.pop_front() {
                break job;
            }
            if !queue.open {
                return;
            }
            queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        };
        drop(queue);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
            shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!(reason = panic_text(&*panic), "a disk job panicked");
        }
    }
}

/// Past the file size limit the kernel kills the process by SIGXFSZ unless the writing thread holds the signal back;
/// then the write fails with EFBIG, which is an error like any other.
fn hold_back_size_signal() {
    let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set before the others read it, and the calls change nothing but this
    // thread's signal mask.
    unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), std::ptr::null_mut());
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panic without text").chars().take(200).collect()
}

/// A lock whose holder panicked is taken as it is: every holder here leaves its data in order at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().expect("runtime").block_on(future)
    }

    #[test]
    fn one_thread_does_every_job_in_order() {
        let disk = DiskThreads::new(1).expect("a thread");
        let seen = Arc::new(Mutex::new((Vec::new(), BTreeSet::new())));
        block_on(async {
            for number in 0..50 {
                let seen = Arc::clone(&seen);
                let job = move || {
                    let mut seen = lock(&seen);
                    seen.0.push(number);
                    seen.1.insert(format!("{:?}", std::thread::current().id()));
                };
                if number % 2 == 0 { disk.spawn(job) } else { disk.run(job).await.expect("done") }
            }
        });
        let seen = lock(&seen);
        assert_eq!(seen.0, (0..50).collect::<Vec<_>>());
        assert_eq!(seen.1.len(), 1);
    }

    #[test]
    fn a_panic_is_an_error_and_the_thread_goes_on() {
        let disk = DiskThreads::new(1).expect("a thread");
        let failed = block_on(disk.run(|| panic!("by design")));
        assert!(matches!(failed, Err(Error::JobPanicked(text)) if text == "by design"));
        disk.spawn(|| panic!("unseen"));
        assert_eq!(block_on(disk.run(|| 7)).expect("alive"), 7);
        assert_eq!(disk.panic_count(), 2);
    }

    #[test]
    fn stopping_does_what_is_queued_and_takes_no_more() {
        let disk = DiskThreads::new(2).expect("threads");
        let done = Arc::new(AtomicU64::new(0));
        for _ in 0..100 {
            let done = Arc::clone(&done);
            disk.spawn(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        disk.stop();
        assert_eq!(done.load(Ordering::Relaxed), 100);
        assert!(matches!(block_on(disk.run(|| ())), Err(Error::Stopped)));
    }
}
