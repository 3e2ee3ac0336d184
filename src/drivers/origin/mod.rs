//! A small static file server: the plain HTTP origin of the demo, and of tests that want an honest one.
//!
//! GET and HEAD, single ranges, strong tags, keep-alive; one folder, or one file under its name. It counts what left it.
//! It is no public server: no TLS, no log, no compression, no listing. Read `serve.rs` first.

mod error;
mod file_body;
mod range;
mod serve;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use error::Error;
pub use range::{Asked, parse_range};

use crate::drivers::origin::file_body::Throttle;
use crate::drivers::origin::serve::{Root, respond};

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;
/// After a refused accept, if none of our own connections ends before: the descriptors are others' to give back, and trying
/// again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);
/// Longest time a client may take for the head of a request; also how long an idle connection is kept.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Paths counted by themselves; requests beyond are only in the totals.
const PATHS_MAX: usize = 100_000;

/// What to serve, and how fast.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The folder whose files are served, or one file.
    pub root: PathBuf,
    /// Bytes a second of all bodies together; `None`: as fast as it goes.
    pub rate_bytes_max: Option<u64>,
}

/// What left for one path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PathCount {
    /// Requests answered with the file or a part of it.
    pub requests: u64,
    /// Body bytes handed to the connection; a client that hangs up may have got somewhat less.
    pub body_bytes: u64,
}

/// What left the origin so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests of every kind.
    pub requests: u64,
    /// Bytes that the kernel took for sending, heads included.
    pub bytes_sent: u64,
    /// By request path, decoded, without the leading `/`.
    pub paths: BTreeMap<String, PathCount>,
}

/// Running totals, shared by the connections.
#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    bytes_sent: AtomicU64,
    paths: Mutex<BTreeMap<String, PathCount>>,
}

impl Tally {
    fn count_path(&self, path: &str, requests: u64, body_bytes: u64) {
        let mut paths = self.paths.lock().unwrap_or_else(PoisonError::into_inner);
        if paths.len() >= PATHS_MAX && !paths.contains_key(path) {
            return;
        }
        let count = paths.entry(path.to_owned()).or_default();
        count.requests = count.requests.saturating_add(requests);
        count.body_bytes = count.body_bytes.saturating_add(body_bytes);
    }
}

/// A running origin; dropping it ends its connections.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    tally: Arc<Tally>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Origin {
    /// Listens and serves on the current runtime.
    ///
    /// # Errors
    /// [`Error::Root`] where there is no such folder or file, [`Error::Listen`] where the port cannot be had.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let root = Root::open(&options.root).map_err(|cause| Error::Root { path: options.root.clone(), cause })?;
        let listen = |cause| Error::Listen { address: options.listen, cause };
        let listener = TcpListener::bind(options.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let tally = Arc::new(Tally::default());
        let throttle = Arc::new(Throttle::new(options.rate_bytes_max));
        let accepting = tokio::spawn(accept(listener, Arc::new(root), throttle, Arc::clone(&tally)));
        Ok(Self { address, tally, accepting })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What left it so far.
    pub fn counts(&self) -> Counts {
        Counts {
            requests: self.tally.requests.load(Ordering::Relaxed),
            bytes_sent: self.tally.bytes_sent.load(Ordering::Relaxed),
            paths: self.tally.paths.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, root: Arc<Root>, throttle: Arc<Throttle>, tally: Arc<Tally>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("this semaphore is never closed");
        while connections.try_join_next().is_some() {}
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "accept");
                // A client that left already, or descriptors are short; neither ends the origin.
                if error.kind() != std::io::ErrorKind::ConnectionAborted {
                    tokio::select! {
                        Some(_) = connections.join_next() => {}
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
                continue;
            }
        };
        let (root, throttle, tally) = (Arc::clone(&root), Arc::clone(&throttle), Arc::clone(&tally));
        connections.spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            let stream = TokioIo::new(Counted { stream, tally: Arc::clone(&tally) });
            let service = service_fn(move |request| {
                let (root, throttle, tally) = (Arc::clone(&root), Arc::clone(&throttle), Arc::clone(&tally));
                async move {
                    tally.requests.fetch_add(1, Ordering::Relaxed);
                    Ok::<_, std::convert::Infallible>(respond(&request, &root, throttle, tally).await)
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(stream, service)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended");
            }
        });
    }
}

/// A connection whose sent bytes are counted as the kernel takes them.
struct Counted {
    stream: TcpStream,
    tally: Arc<Tally>,
}

impl Counted {
    fn count(&self, written: &Poll<std::io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.tally.bytes_sent.fetch_add(u64::try_from(*bytes).unwrap_or(0), Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.count(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
