//! What a folder holds, in an order that is the same everywhere.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::content::path::SafePath;
use crate::content::rules::FILES_MAX;
use crate::drivers::hashing::error::Error;

/// One file below a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where it lies.
    pub file: PathBuf,
    /// Its path below the folder.
    pub path: SafePath,
    /// Bytes, when it was looked at.
    pub length: u64,
    /// The owner may execute it.
    pub executable: bool,
}

/// A folder's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walked {
    /// Every file, hidden ones too, by path in order of bytes.
    pub files: Vec<Listed>,
    /// Folders without any file below: a manifest has no place for them.
    pub empty_folders: Vec<PathBuf>,
}

/// Lists every file below a folder.
///
/// # Errors
/// [`Error`] for the first entry that cannot be published: symbolic links, devices, pipes and sockets, and names that
/// are not safe everywhere.
pub fn walk(folder: &Path) -> Result<Walked, Error> {
    let mut walked = Walked::default();
    // Depth is bounded by the rules for paths: a deeper entry is refused before its folder is entered.
    let mut folders = vec![(folder.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let read = |source| Error::Read { path: folder.clone(), source };
        let mut entries = 0usize;
        for entry in fs::read_dir(&folder).map_err(read)? {
            let entry = entry.map_err(read)?;
            entries = entries.saturating_add(1);
            let file = entry.path();
            let name = entry.file_name().into_string().map_err(|_| Error::NotText { path: file.clone() })?;
            let path = SafePath::new(&format!("{prefix}{name}"));
            let path = path.map_err(|fault| Error::Name { path: file.clone(), fault })?;
            let metadata = entry.metadata().map_err(|source| Error::Read { path: file.clone(), source })?;
            if metadata.is_dir() {
                folders.push((file, format!("{path}/")));
            } else {
                check_plain(&file, &metadata)?;
                if walked.files.len() >= FILES_MAX {
                    return Err(Error::TooMany { path: folder, max: FILES_MAX });
                }
                let executable = metadata.mode() & 0o100 != 0;
                walked.files.push(Listed { file, path, length: metadata.len(), executable });
            }
        }
        if entries == 0 {
            walked.empty_folders.push(folder);
        }
    }
    walked.files.sort_by(|one, two| one.path.cmp(&two.path));
    walked.empty_folders.sort();
    Ok(walked)
}

/// Refuses everything but a regular file.
pub(crate) fn check_plain(path: &Path, metadata: &fs::Metadata) -> Result<(), Error> {
    let found = metadata.file_type();
    let kind = match () {
        () if found.is_file() => return Ok(()),
        () if found.is_symlink() => "symbolic link",
        () if found.is_fifo() => "pipe",
        () if found.is_socket() => "socket",
        () if found.is_dir() => "folder",
        () => "device",
    };
    Err(Error::Special { path: path.to_path_buf(), kind })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn files_come_in_order_of_their_paths_hidden_ones_too() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = folder.path();
        fs::create_dir_all(root.join("b/deep")).expect("made");
        fs::create_dir_all(root.join("empty")).expect("made");
        for name in ["b/deep/z", "b.txt", ".hidden", "a", "b/a"] {
            fs::write(root.join(name), name).expect("written");
        }
        fs::set_permissions(root.join("a"), fs::Permissions::from_mode(0o755)).expect("ours");
        let walked = walk(root).expect("plain files");
        let paths: Vec<_> = walked.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(paths, [".hidden", "a", "b.txt", "b/a", "b/deep/z"]);
        let executable: Vec<_> =
            walked.files.iter().filter(|file| file.executable).map(|file| file.path.as_str()).collect();
        assert_eq!(executable, ["a"]);
        assert_eq!(walked.empty_folders, [root.join("empty")]);
    }

    #[test]
    fn links_pipes_and_unsafe_names_are_refused_by_name() {
        let special = |make: &dyn Fn(&Path)| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            make(folder.path());
            walk(folder.path()).expect_err("not publishable")
        };
        let link = special(&|root| symlink("/etc/passwd", root.join("link")).expect("made"));
        assert!(matches!(link, Error::Special { kind: "symbolic link", .. }), "{link:?}");
        let socket = special(&|root| drop(std::os::unix::net::UnixListener::bind(root.join("s")).expect("bound")));
        assert!(matches!(socket, Error::Special { kind: "socket", .. }), "{socket:?}");
        for name in ["a\\b", "nul", "x ", "a\nb"] {
            let fault = special(&|root| fs::write(root.join(name), "").expect("written"));
            assert!(matches!(fault, Error::Name { .. }), "{name:?}: {fault:?}");
        }
        use std::os::unix::ffi::OsStrExt;
        let name = std::ffi::OsStr::from_bytes(b"\xff");
        let fault = special(&|root| fs::write(root.join(name), "").expect("written"));
        assert!(matches!(fault, Error::NotText { .. }), "{fault:?}");
    }
}
