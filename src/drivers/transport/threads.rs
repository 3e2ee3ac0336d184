//! Data threads: each a current-thread runtime, on which the connections given to it stay. Cheaper than work stealing,
//! where a record that is read on one core is hashed by another.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::LocalSet;

use crate::drivers::transport::channel::LocalBoxFuture;
use crate::drivers::transport::error::Error;
use crate::drivers::transport::limits::SHUTDOWN;

/// Made elsewhere, run on a data thread.
pub(crate) type Job = Box<dyn FnOnce() -> LocalBoxFuture<()> + Send>;

pub(crate) struct DataThreads {
    threads: Vec<DataThread>,
    closing: watch::Sender<bool>,
    joins: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

struct DataThread {
    jobs: mpsc::UnboundedSender<Job>,
    /// Jobs given and not finished.
    load: Arc<AtomicUsize>,
}

/// Counts one job as long as it lives, wherever it ends: done, dropped or in a panic.
struct Loaded(Arc<AtomicUsize>);

impl Loaded {
    fn new(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(load.clone())
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl DataThreads {
    /// Starts `count` threads, at least one.
    pub(crate) fn new(count: usize) -> Result<Self, Error> {
        let refused = |cause: io::Error| Error::Resource { resource: "a data thread", cause };
        let closing = watch::Sender::new(false);
        let (mut threads, mut joins) = (Vec::new(), Vec::new());
        for number in 0..count.max(1) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused)?;
            let (jobs, queue) = mpsc::unbounded_channel();
            let closed = closing.subscribe();
            let thread = std::thread::Builder::new()
                .name(format!("data-{number}"))
                .spawn(move || LocalSet::new().block_on(&runtime, work(queue, closed)))
                .map_err(refused)?;
            threads.push(DataThread { jobs, load: Arc::default() });
            joins.push(thread);
        }
        Ok(Self { threads, closing, joins: Mutex::new(joins) })
    }

    /// Gives a job to the thread that has least to do. After `close` it is dropped.
    pub(crate) fn spawn(&self, job: Job) {
        let Some(thread) = self.threads.iter().min_by_key(|thread| thread.load.load(Ordering::Relaxed)) else { return };
        let loaded = Loaded::new(&thread.load);
        let counted: Job = Box::new(move || {
            let running = job();
            Box::pin(async move {
                running.await;
                drop(loaded);
            })
        });
        // The queue is bounded by the gate: every job holds a place there.
        let _ = thread.jobs.send(counted);
    }

    /// Takes no more jobs, gives those under way a moment, then drops them. Blocks for as long.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
        let joins = std::mem::take(&mut *self.joins.lock().unwrap_or_else(PoisonError::into_inner));
        for join in joins {
            if join.join().is_err() {
                tracing::error!("a data thread had panicked");
            }
        }
    }
}

impl Drop for DataThreads {
    /// Without `close`, what is under way ends by itself or with the process.
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

async fn work(mut queue: mpsc::UnboundedReceiver<Job>, mut closing: watch::Receiver<bool>) {
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            job = queue.recv() => match job {
                Some(job) => { tasks.spawn_local(async move { job().await }); }
                None => break,
            },
            // Panics are tokio's to catch; this keeps the set from growing.
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            _ = closing.wait_for(|closing| *closing) => break,
        }
    }
    queue.close();
    let all_done = async { while tasks.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(SHUTDOWN, all_done).await;
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn jobs_spread_over_the_threads_and_a_panic_harms_no_other() {
        let threads = DataThreads::new(2).expect("two threads");
        let mut answers = Vec::new();
        threads.spawn(Box::new(|| Box::pin(async { panic!("on purpose") })));
        let held = Arc::new(tokio::sync::Notify::new());
        for _ in 0..4 {
            let (send, receive) = oneshot::channel();
            let held = held.clone();
            threads.spawn(Box::new(move || {
                Box::pin(async move {
                    let _ = send.send(std::thread::current().name().map(str::to_owned));
                    held.notified().await;
                })
            }));
            answers.push(receive);
        }
        let mut names: Vec<_> = answers.into_iter().map(|answer| answer.blocking_recv().expect("it ran")).collect();
        names.sort();
        names.dedup();
        assert_eq!(names, [Some("data-0".to_owned()), Some("data-1".to_owned())]);
        held.notify_waiters();
        threads.close();
    }

    #[test]
    fn closing_drops_what_does_not_end() {
        let threads = DataThreads::new(1).expect("a thread");
        let (send, receive) = oneshot::channel::<()>();
        threads.spawn(Box::new(|| {
            Box::pin(async move {
                let _send = send;
                std::future::pending::<()>().await;
            })
        }));
        let before = std::time::Instant::now();
        threads.close();
        assert!(receive.blocking_recv().is_err());
        assert!(before.elapsed() < SHUTDOWN + Duration::from_secs(5));
    }
}
