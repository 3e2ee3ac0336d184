//! Small file systems, mounted for one story.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs; unmounted when dropped.
pub struct Tmpfs {
    path: PathBuf,
}

impl Tmpfs {
    /// Mounts one of this size at a new folder. `None`, with a printed reason, where mounting is not allowed.
    pub fn mount(path: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(path).expect("folders can be made");
        let options = format!("size={size},mode=700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned() }),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                eprintln!("skipped: no file system can be mounted here ({said})");
                None
            }
            Err(error) => {
                eprintln!("skipped: no file system can be mounted here (mount: {error})");
                None
            }
        }
    }

    /// Mounts one whose files can share blocks, of this size in bytes, kept in the file `image`; skips in the same way.
    pub fn mount_sharing(path: &Path, image: &Path, size: u64) -> Option<Self> {
        std::fs::create_dir_all(path).expect("folders can be made");
        std::fs::File::create(image).and_then(|file| file.set_len(size)).expect("a sparse file");
        for (program, options) in [("mkfs.xfs", &["-q", "-m", "reflink=1"][..]), ("mkfs.btrfs", &["-q"])] {
            let made = Command::new(program).args(options).arg(image).output();
            if !made.is_ok_and(|output| output.status.success()) {
                continue;
            }
            let mounted = Command::new("mount").args(["-o", "loop"]).args([image, path]).output();
            if mounted.is_ok_and(|output| output.status.success()) {
                return Some(Self { path: path.to_owned() });
            }
        }
        eprintln!("skipped: no file system whose files share blocks can be made and mounted here");
        None
    }

    /// Bytes in use, once everything is written.
    pub fn used(&self) -> u64 {
        let folder = std::fs::File::open(&self.path).expect("mounted");
        rustix::fs::syncfs(&folder).expect("it can be synced");
        let space = rustix::fs::fstatvfs(&folder).expect("mounted");
        (space.f_blocks - space.f_bfree) * space.f_frsize
    }

    /// A path inside, as text.
    pub fn text(&self, name: &str) -> String {
        self.path.join(name).to_str().expect("temporary paths are UTF-8").to_owned()
    }

    /// Writes zeros to a file until the file system is full.
    pub fn fill(&self, name: &str) {
        let mut file = std::fs::File::create(self.path.join(name)).expect("room for a name");
        let zeros = vec![0; 64 << 10];
        loop {
            match file.write(&zeros) {
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path.join(name)).expect("it is there");
    }

    /// How many files and folders lie at its root.
    pub fn entries(&self) -> usize {
        std::fs::read_dir(&self.path).expect("mounted").count()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process of the story may still be ending in there.
        let _ = Command::new("umount").arg("-l").arg(&self.path).status();
    }
}
