//! The socket file: made under another name, given its mode, then renamed, so that nobody ever sees it wide open.

use std::fs::Permissions;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

use crate::surfaces::control::Error;

/// Name of the socket in its folder.
pub const SOCKET_NAME: &str = "control.sock";
/// The daemon's user and its group may connect; members of the group by that alone.
const SOCKET_MODE: u32 = 0o660;

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
    pub(crate) fn split(self) -> (UnixListener, Unlink) {
        (self.listener, Unlink(self.path))
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
