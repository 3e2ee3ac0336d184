//! Small file systems, mounted for one story.

use std::io::Write;
use std::os::unix::fs::FileExt;
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

    /// Mounts one of this size in bytes that trusts its medium, kept in the file `image`; skips in the same way.
    pub fn mount_trusting(path: &Path, image: &Path, size: u64) -> Option<Self> {
        std::fs::create_dir_all(path).expect("folders can be made");
        std::fs::File::create(image).and_then(|file| file.set_len(size)).expect("a sparse file");
        let made = Command::new("mkfs.ext4").args(["-q", "-b", "4096"]).arg(image).output();
        let mounted = || Command::new("mount").args(["-o", "loop"]).args([image, path]).output();
        let is_done = |output: std::io::Result<std::process::Output>| output.is_ok_and(|it| it.status.success());
        if is_done(made) && is_done(mounted()) {
            return Some(Self { path: path.to_owned() });
        }
        eprintln!("skipped: no file system in a file can be made and mounted here");
        None
    }

    /// Changes a byte of a file of such a file system on its medium, as rot does: no stamp of the file changes.
    pub fn rot(image: &Path, file: &Path, at: usize) {
        let open = std::fs::File::open(file).expect("it is there");
        open.sync_all().expect("it can be synced");
        let held = std::fs::read(file).expect("it can be read");
        let medium = std::fs::read(image).expect("it can be read");
        // A block, from its beginning on: noise is found nowhere else.
        let block = held.get(at / 4096 * 4096..).and_then(|rest| rest.get(..4096)).expect("a whole block");
        let place = medium.chunks(4096).position(|chunk| chunk == block).expect("on the medium");
        let place = u64::try_from(place * 4096 + at % 4096).expect("small");
        let raw = std::fs::File::options().write(true).open(image).expect("it can be written");
        raw.write_all_at(&[held[at] ^ 1], place).expect("written");
        raw.sync_all().expect("it can be synced");
        // What the system has read before is forgotten.
        rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
        assert_ne!(std::fs::read(file).expect("it can be read"), held, "it has rotted");
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
