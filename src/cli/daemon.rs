//! Where the daemon's control socket lies, and how commands ask it.

use std::path::PathBuf;

use serde_json::Value;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{config, setup};
use crate::content::code::Code;
use crate::surfaces::control::{Client, Error, SOCKET_NAME};

/// Where the machine's daemon has its socket.
const MACHINE_FOLDER: &str = "/run/piecework";

/// Where this process, as the daemon, makes its socket: in the folder that the service manager made for it, else below
/// the state folder, unless that is the default one and the system has a place for such files.
///
/// # Errors
/// The environment tells no place.
pub fn socket_to_make(context: &Context) -> Result<PathBuf, CliError> {
    if let Some(folder) = absolute("RUNTIME_DIRECTORY") {
        return Ok(folder.join(SOCKET_NAME));
    }
    let state = context.state_folder()?;
    if config::default_state_folder().is_ok_and(|default| default == state) {
        let folder = match rustix::process::geteuid().is_root() {
            true => Some(PathBuf::from(MACHINE_FOLDER)),
            false => absolute("XDG_RUNTIME_DIR").map(|folder| folder.join("piecework")),
        };
        if let Some(folder) = folder
            && made(&folder)
        {
            return Ok(folder.join(SOCKET_NAME));
        }
    }
    Ok(state.join(SOCKET_NAME))
}

/// Makes a folder that others may pass through; the socket's own mode says who may connect.
fn made(folder: &std::path::Path) -> bool {
    use std::os::unix::fs::DirBuilderExt;
    folder.is_dir() || std::fs::DirBuilder::new().mode(0o755).create(folder).is_ok()
}

/// `NAME`'s value, if it is an absolute path.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Where a daemon may answer, first choice first: with `--state`, that instance alone; else the user's own daemon, then
/// the machine's.
fn sockets_to_ask(context: &Context) -> Result<Vec<PathBuf>, CliError> {
    let state = context.state_folder()?;
    let mut sockets = vec![state.join(SOCKET_NAME)];
    if config::default_state_folder().is_ok_and(|default| default == state) {
        let own = absolute("XDG_RUNTIME_DIR").map(|folder| folder.join("piecework").join(SOCKET_NAME));
        sockets.extend(own);
        sockets.push(PathBuf::from(MACHINE_FOLDER).join(SOCKET_NAME));
    }
    Ok(sockets)
}

/// The daemon that answers.
///
/// # Errors
/// [`Code::NoDaemon`], or that the socket may not be opened.
pub fn find(context: &Context) -> Result<Client, CliError> {
    let sockets = sockets_to_ask(context)?;
    let mut refused = None;
    for socket in &sockets {
        match std::os::unix::net::UnixStream::connect(socket) {
            Ok(_) => return Ok(Client::new(socket)),
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => refused = Some(socket),
            Err(_) => {}
        }
    }
    if let Some(socket) = refused {
        return Err(CliError::new(Code::Policy, "this user may not speak to the daemon")
            .path(socket)
            .remedy("become a member of the socket's group, or run the command as the daemon's user or root"));
    }
    let tried: Vec<_> = sockets.iter().map(|socket| socket.display().to_string()).collect();
    Err(CliError::new(Code::NoDaemon, "no daemon answers").culprit(tried.join(", ")))
}

/// Runs one exchange with the daemon.
///
/// # Errors
/// As [`find`], and what the daemon refuses.
pub fn ask<F: Future<Output = Result<Value, Error>>>(
    context: &Context,
    exchange: impl FnOnce(Client) -> F,
) -> Result<Value, CliError> {
    let client = find(context)?;
    Ok(setup::runtime()?.block_on(exchange(client))?)
}

impl From<crate::surfaces::metrics::Error> for CliError {
    fn from(error: crate::surfaces::metrics::Error) -> Self {
        CliError::new(error.code(), error.to_string()).remedy("name another address in [metrics] listen")
    }
}

impl From<Error> for CliError {
    fn from(error: Error) -> Self {
        CliError::new(error.code(), error.to_string())
    }
}
