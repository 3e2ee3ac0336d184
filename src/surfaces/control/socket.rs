//! The socket file: made under another name, given its mode, then renamed, so that nobody ever sees it wide open.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::surfaces::control::Error;

/// Name of the socket in its folder.
pub const SOCKET_NAME: &str = "control.sock";
/// The daemon's user and its group may connect; members of the group by that alone.
const SOCKET_MODE: u32 = 0o660;
/// Connections at one time: a few dashboards and commands. More would cost descriptors that peers need.
const CONNECTIONS_MAX: usize = 64;

/// A socket that listens.
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    /// Listens at `path`. A file that a daemon left there when it died is replaced; must be called within a runtime.
    ///
    /// # Errors
    /// [`Error::Taken`] where a daemon answers there; [`Error::Bind`], also for a path longer than the system allows
    /// (107 bytes, `unix(7)`) and where another kind of file lies there.
    pub fn bind(path: &Path) -> Result<Self, Error> {
        let refuse = |source| Error::Bind { path: path.to_owned(), source };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::Taken { path: path.to_owned() });
        }
        if std::fs::symlink_metadata(path).is_ok_and(|found| !found.file_type().is_socket()) {
            return Err(refuse(std::io::Error::new(std::io::ErrorKind::AlreadyExists, "another file lies there")));
        }
        let unready = path.with_extension("new");
        match std::fs::remove_file(&unready) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(refuse(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&unready).map_err(refuse)?;
        std::fs::set_permissions(&unready, Permissions::from_mode(SOCKET_MODE)).map_err(refuse)?;
        std::fs::rename(&unready, path).map_err(refuse)?;
        Ok(Self { path: path.to_owned(), listener })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener, and what takes the file away when the daemon ends.
    pub(crate) fn split(self) -> (Bounded, Unlink) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        (Bounded { listener: self.listener, room }, Unlink(self.path))
    }
}

/// Accepts no more connections than there is room for; whoever comes later waits in the kernel's queue.
pub(crate) struct Bounded {
    listener: UnixListener,
    room: Arc<Semaphore>,
}

/// A connection, and its place.
pub(crate) struct Held {
    stream: UnixStream,
    _place: Option<OwnedSemaphorePermit>,
}

impl Held {
    /// The user at the other end, as the kernel had it when the connection was made (`unix(7)`, `SO_PEERCRED`).
    pub(crate) fn uid(&self) -> Option<u32> {
        self.stream.peer_cred().ok().map(|peer| peer.uid())
    }
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Held, Self::Addr) {
        // Nobody closes it; without a place the connection would merely go uncounted.
        let place = Arc::clone(&self.room).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Held { stream, _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Held {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Takes the socket's file away when dropped.
pub(crate) struct Unlink(PathBuf);

impl Drop for Unlink {
    fn drop(&mut self) {
        // Left behind it costs nothing: the next daemon replaces it.
        let _ = std::fs::remove_file(&self.0);
    }
}
