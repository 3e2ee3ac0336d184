//! The socket file: made under another name, given its mode, then renamed, so that nobody ever sees it wide open.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};

use crate::surfaces::control::Error;
use crate::surfaces::control::descriptor::Outgoing;

/// Name of the socket in its folder.
pub const SOCKET_NAME: &str = "control.sock";
/// The daemon's user and its group may connect; members of the group by that alone.
const SOCKET_MODE: u32 = 0o660;
/// Connections at one time: a few dashboards and commands. More would cost descriptors that peers need.
const CONNECTIONS_MAX: usize = 64;
/// Of these, those of all users but the daemon's and root, who can always look and steer.
const MEMBER_CONNECTIONS_MAX: usize = 48;
/// Of these, those of one user.
const USER_CONNECTIONS_MAX: usize = 16;
/// What is said to whoever comes when their places are taken.
const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\n\
    content-length: 99\r\n\r\n{\"code\":\"resource_refused\",\"message\":\"too many connections to the daemon; close some and ask anew\"}";

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
        let own = rustix::process::geteuid().as_raw();
        (Bounded { listener: self.listener, own, room: Room::default() }, Unlink(self.path))
    }
}

/// Accepts no more connections than there is room for, of each user and of all; whoever comes later is told so.
pub(crate) struct Bounded {
    listener: UnixListener,
    /// The daemon's user.
    own: u32,
    room: Room,
}

/// Who has how many connections.
#[derive(Clone, Default)]
struct Room(Arc<Mutex<BTreeMap<Option<u32>, usize>>>);

impl Room {
    /// A place for this user; `None` where none is free.
    fn place(&self, uid: Option<u32>, own: u32) -> Option<Place> {
        let owner = |uid: Option<u32>| uid == Some(own) || uid == Some(0);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let members: usize = taken.iter().filter(|(uid, _)| !owner(**uid)).map(|(_, count)| count).sum();
        let theirs = taken.get(&uid).copied().unwrap_or(0);
        let free = all < CONNECTIONS_MAX
            && (owner(uid) || (members < MEMBER_CONNECTIONS_MAX && theirs < USER_CONNECTIONS_MAX));
        if !free {
            return None;
        }
        taken.insert(uid, theirs.saturating_add(1));
        Some(Place { room: self.clone(), uid })
    }
}

/// One connection's place, free again when dropped.
struct Place {
    room: Room,
    uid: Option<u32>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get(&self.uid).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            taken.remove(&self.uid);
        } else {
            taken.insert(self.uid, left);
        }
    }
}

/// A connection, and its place.
pub(crate) struct Held {
    stream: UnixStream,
    outgoing: Outgoing,
    _place: Place,
}

impl Held {
    /// Where files wait that leave by it.
    pub(super) fn outgoing(&self) -> Outgoing {
        self.outgoing.clone()
    }

    /// The user at the other end, as the kernel had it when the connection was made (`unix(7)`, `SO_PEERCRED`).
    pub(crate) fn uid(&self) -> Option<u32> {
        self.stream.peer_cred().ok().map(|peer| peer.uid())
    }
}

impl Listener for Bounded {
    type Io = Held;
    type Addr = tokio::net::unix::SocketAddr;

    async fn accept(&mut self) -> (Held, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let uid = stream.peer_cred().ok().map(|peer| peer.uid());
            if let Some(place) = self.room.place(uid, self.own) {
                return (Held { stream, outgoing: Outgoing::default(), _place: place }, address);
            }
            // A fresh connection's buffer takes it at once, or its owner learns nothing but the end.
            let _ = stream.try_write(NO_ROOM);
        }
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
        let outgoing = self.outgoing.clone();
        outgoing.poll_write(&mut self.stream, context, bytes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_keep_the_others_and_all_members_cannot_keep_the_owner_from_asking() {
        let (room, own) = (Room::default(), 997);
        let mut held = Vec::new();
        for user in [1000, 1001, 1002] {
            held.extend((0..USER_CONNECTIONS_MAX).map(|_| room.place(Some(user), own).expect("room for each")));
            assert!(room.place(Some(user), own).is_none(), "no more of {user}");
        }
        assert!(room.place(Some(1003), own).is_none(), "the members' places are taken");
        let owners: Vec<_> = (0..16).map(|at| room.place(Some(if at == 0 { 0 } else { own }), own)).collect();
        assert!(owners.iter().all(Option::is_some) && room.place(Some(0), own).is_none());
        held.pop();
        drop(owners);
        assert!(room.place(Some(1003), own).is_some());
    }

    #[test]
    fn the_answer_where_there_is_no_room_is_whole() {
        let text = std::str::from_utf8(NO_ROOM).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
