//! Small files whole: read within a bound, made without overwriting, replaced at one stroke.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::cli::error::CliError;
use crate::content::code::Code;

/// Reads a file of at most `bytes_max` bytes; `-` is no special name.
///
/// # Errors
/// [`Code::InputMissing`], [`Code::Io`], or [`Code::BadInput`] for a longer file or a folder.
pub fn read_bytes(path: &Path, bytes_max: usize) -> Result<Vec<u8>, CliError> {
    let fault = |error| CliError::io("read it", path, error);
    // A pipe put in the place of a file would be waited for until somebody writes to it.
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path).map_err(fault)?;
    let metadata = file.metadata().map_err(fault)?;
    if !metadata.is_file() {
        return Err(CliError::new(Code::BadInput, "expected a file, found something else").path(path));
    }
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    file.take(bound.saturating_add(1)).read_to_end(&mut bytes).map_err(fault)?;
    if bytes.len() > bytes_max {
        let message = format!("at most {bytes_max} bytes are allowed, found more");
        return Err(CliError::new(Code::BadInput, message).path(path));
    }
    Ok(bytes)
}

/// Reads a text file of at most `bytes_max` bytes.
///
/// # Errors
/// As [`read_bytes`], and [`Code::BadInput`] for what is not UTF-8.
pub fn read_text(path: &Path, bytes_max: usize) -> Result<String, CliError> {
    let bytes = read_bytes(path, bytes_max)?;
    String::from_utf8(bytes).map_err(|_| CliError::new(Code::BadInput, "expected UTF-8 text").path(path))
}

/// Makes a file that was not there, with this mode, and syncs it.
///
/// # Errors
/// [`Code::DestinationExists`]; else as [`CliError::create`]. A file half written is removed again.
pub fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), CliError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            CliError::new(Code::DestinationExists, "the file exists, and is never overwritten")
                .path(path)
                .remedy("choose another name, or move the file away")
        }
        _ => CliError::create(path, error),
    })?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        CliError::io("write it", path, error)
    })
}

/// Replaces a file, or makes it, at one stroke: whoever looks sees the old bytes or the new ones, whatever happens.
///
/// # Errors
/// As [`CliError::create`]; the old file is as it was then.
pub fn replace(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), CliError> {
    let folder = folder_of(path);
    let temporary = temporary_beside(path);
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
    let mut file = opened.map_err(|error| CliError::create(path, error))?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, path)) {
        let _ = std::fs::remove_file(&temporary);
        return Err(CliError::io("write it", path, error));
    }
    let synced = File::open(&folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| CliError::io("write its folder", &folder, error))
}

/// Whether a file can be made here, asked before hours of work; leaves nothing behind.
///
/// # Errors
/// As [`CliError::create`], and [`Code::CannotCreate`] where a folder has the name.
pub fn check_writable(path: &Path) -> Result<(), CliError> {
    if path.is_dir() {
        return Err(CliError::new(Code::CannotCreate, "a folder has this name").path(path));
    }
    let temporary = temporary_beside(path);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary);
    opened.map_err(|error| CliError::create(path, error))?;
    let _ = std::fs::remove_file(&temporary);
    Ok(())
}

/// The folder a path lies in.
pub fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    // Never meets one of another process: its number is in it.
    name.push(format!(".{}.tmp", std::process::id()));
    folder_of(path).join(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_leaves_nothing_beside_it() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        for text in ["one", "two"] {
            replace(&path, 0o600, text.as_bytes()).expect("written");
            assert_eq!(read_text(&path, 3).expect("read"), text);
        }
        check_writable(&path).expect("writable");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).expect("there").count(), 1);
        assert_eq!(write_new(&path, 0o600, b"").map_err(|error| error.code()), Err(Code::DestinationExists));
        let below = path.join("below");
        assert_eq!(replace(&below, 0o600, b"").map_err(|error| error.code()), Err(Code::CannotCreate));
    }

    #[test]
    fn what_is_too_long_or_no_file_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"four").expect("written");
        let code = |path: &Path, max| read_bytes(path, max).map_err(|error| error.code());
        assert_eq!(code(&path, 4), Ok(b"four".to_vec()));
        assert_eq!(code(&path, 3), Err(Code::BadInput));
        assert_eq!(code(folder.path(), 3), Err(Code::BadInput));
        assert_eq!(code(&folder.path().join("none"), 3), Err(Code::InputMissing));
        std::fs::write(&path, b"\xff").expect("written");
        assert_eq!(read_text(&path, 9).map_err(|error| error.code()), Err(Code::BadInput));
    }
}
