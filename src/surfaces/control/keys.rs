//! What opens the TCP door: a token in a file of the daemon's, for programs; and sessions of browsers, each begun by a code
//! that holds once. Secrets are compared in constant time and never shown.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use data_encoding::HEXLOWER;
use zeroize::Zeroizing;

use crate::surfaces::control::Error;

/// Lengths of a token, bytes: what is shorter could be guessed.
const TOKEN_BYTES: std::ops::RangeInclusive<usize> = 32..=256;
/// Random bytes of a secret that is made here.
const SECRET_BYTES: usize = 32;
/// How long a code waits for its browser.
const CODE_LASTS: Duration = Duration::from_secs(120);
/// How long a session lasts after its last request.
pub(super) const SESSION_LASTS: Duration = Duration::from_secs(12 * 3600);
/// Codes that wait at one time, and sessions; the oldest goes.
const CODES_MAX: usize = 8;
const SESSIONS_MAX: usize = 32;

type Secret = Zeroizing<String>;

/// The token, and the sessions that are open.
pub(super) struct Keys {
    token: Secret,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    codes: Vec<(Secret, Instant)>,
    sessions: Vec<(Secret, Instant)>,
}

fn same(one: &str, two: &str) -> bool {
    verify_slices_are_equal(one.as_bytes(), two.as_bytes()).is_ok()
}

fn secret() -> std::io::Result<Secret> {
    let mut bytes = Zeroizing::new([0; SECRET_BYTES]);
    getrandom::fill(&mut *bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(Zeroizing::new(HEXLOWER.encode(&*bytes)))
}

/// Puts a secret in, at the cost of the oldest.
fn put(list: &mut Vec<(Secret, Instant)>, max: usize, secret: &Secret, now: Instant) {
    if list.len() >= max {
        list.remove(0);
    }
    list.push((secret.clone(), now));
}

impl Keys {
    /// Reads the token, or makes the file (0600) with a fresh one.
    ///
    /// # Errors
    /// [`Error::Token`] for a file that others may read, of another user, or that holds no token.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Token { path: path.to_owned(), reason };
        let token = match read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let token = secret().map_err(|error| refuse(error.to_string()))?;
                make(path, &token).map_err(|error| refuse(error.to_string()))?;
                token
            }
            Err(error) => return Err(refuse(error.to_string())),
            Ok(token) => token,
        };
        Ok(Self { token, held: Mutex::default() })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this is the token.
    pub(super) fn is_token(&self, said: &str) -> bool {
        same(&self.token, said)
    }

    /// A code that begins one session; `None` where the system has no entropy.
    pub(super) fn code(&self, now: Instant) -> Option<Secret> {
        let code = secret().ok()?;
        put(&mut self.held().codes, CODES_MAX, &code, now);
        Some(code)
    }

    /// Takes a code for a session; it is spent then.
    pub(super) fn begin(&self, code: &str, now: Instant) -> Option<Secret> {
        let mut held = self.held();
        held.codes.retain(|(_, made)| now.saturating_duration_since(*made) < CODE_LASTS);
        let at = held.codes.iter().position(|(known, _)| same(known, code))?;
        held.codes.remove(at);
        let session = secret().ok()?;
        put(&mut held.sessions, SESSIONS_MAX, &session, now);
        Some(session)
    }

    /// Whether this session is open; it lasts longer then.
    pub(super) fn is_session(&self, said: &str, now: Instant) -> bool {
        let mut held = self.held();
        held.sessions.retain(|(_, used)| now.saturating_duration_since(*used) < SESSION_LASTS);
        let Some(found) = held.sessions.iter_mut().find(|(known, _)| same(known, said)) else { return false };
        found.1 = now;
        true
    }
}

fn read(path: &Path) -> std::io::Result<Secret> {
    let wrong = |reason: &str| std::io::Error::new(ErrorKind::InvalidData, reason.to_owned());
    // Not blocking, since somebody may have put a pipe there.
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let found = file.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    if !found.is_file() || (found.uid() != own && found.uid() != 0) {
        return Err(wrong("it is no file of the daemon's user or root"));
    }
    if found.mode() & 0o077 != 0 {
        return Err(wrong("others than its owner may open it: its mode is to be 0600"));
    }
    let mut text = Zeroizing::new(String::new());
    file.take(1024).read_to_string(&mut text)?;
    let token = text.trim();
    if !TOKEN_BYTES.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("a token is 32 to 256 visible letters, digits and signs"));
    }
    Ok(Zeroizing::new(token.to_owned()))
}

fn make(path: &Path, token: &Secret) -> std::io::Result<()> {
    let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)?;
    file.write_all(Zeroizing::new(format!("{}\n", token.as_str())).as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_token_file_is_made_once_and_refused_where_others_may_read_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let keys = Keys::open(&path).expect("made");
        let text = std::fs::read_to_string(&path).expect("written");
        assert_eq!(std::fs::metadata(&path).expect("there").mode() & 0o777, 0o600);
        assert!(keys.is_token(text.trim()) && !keys.is_token("") && !keys.is_token(&text));
        assert!(Keys::open(&path).expect("read").is_token(text.trim()), "it stays");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("changed");
        assert!(Keys::open(&path).is_err_and(|error| error.to_string().contains("0600")));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("changed");
        for wrong in ["", "short", &"x".repeat(257), &format!("{} {}", "x".repeat(20), "y".repeat(20))] {
            std::fs::write(&path, wrong).expect("written");
            assert!(Keys::open(&path).is_err(), "{wrong}");
        }
        std::os::unix::fs::symlink(&path, folder.path().join("link")).expect("linked");
        assert!(Keys::open(&folder.path().join("link")).is_err() && Keys::open(folder.path()).is_err());
    }

    #[test]
    fn a_code_begins_one_session_and_both_end() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = Keys::open(&folder.path().join("token")).expect("made");
        let now = Instant::now();
        let code = keys.code(now).expect("entropy");
        assert!(keys.begin("", now).is_none() && keys.begin("x", now).is_none());
        let session = keys.begin(&code, now).expect("begun");
        assert!(keys.begin(&code, now).is_none(), "it holds once");
        assert!(keys.is_session(&session, now) && !keys.is_session(&code, now) && !keys.is_token(&session));
        assert!(keys.is_session(&session, now + SESSION_LASTS / 2) && keys.is_session(&session, now + SESSION_LASTS));
        assert!(!keys.is_session(&session, now + SESSION_LASTS * 3));
        let late = keys.code(now).expect("entropy");
        assert!(keys.begin(&late, now + CODE_LASTS).is_none());
        let first = keys.code(now).expect("entropy");
        (0..CODES_MAX).for_each(|_| _ = keys.code(now));
        assert!(keys.begin(&first, now).is_none(), "the oldest goes");
    }
}
