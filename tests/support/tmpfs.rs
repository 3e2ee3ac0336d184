//! A small file system of its own, mounted for one story.

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
