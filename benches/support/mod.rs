//! What the benches share: files, processes, the machine's own limits and the bare program. Figures are of this run, on
//! this machine.

#![allow(dead_code, unused_imports)]

pub mod bare;
pub mod contents;
pub mod light;
pub mod limits;
pub mod process;
pub mod scene;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub use process::{Serving, Usage, piecework, run, start, watched};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A temporary folder, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    /// On the disk that temporary files go to.
    pub fn new(name: &str) -> Self {
        Self::below(&std::env::temp_dir(), name)
    }

    /// In memory, where there is a tmpfs: the page cache without a disk behind it.
    pub fn in_memory(name: &str) -> Self {
        let shared = Path::new("/dev/shm");
        if shared.is_dir() { Self::below(shared, name) } else { Self::new(name) }
    }

    fn below(parent: &Path, name: &str) -> Self {
        let path = parent.join(format!("piecework-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder can be made");
        Self(path)
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Bytes that nothing can compress, in the page cache afterwards.
pub fn random_file(path: &Path, length: u64) {
    let mut stream = blake3::Hasher::new_keyed(&[7; 32]).finalize_xof();
    let mut file = File::create(path).expect("the file can be made");
    let mut buffer = vec![0; MIB as usize];
    let mut left = length;
    while left > 0 {
        stream.fill(&mut buffer);
        let part = buffer.len().min(left as usize);
        file.write_all(&buffer[..part]).expect("there is room");
        left -= part as u64;
    }
}

/// Seconds that `work` takes.
pub fn seconds(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_secs_f64()
}

/// Bytes in the unit of rates.
pub fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A size from the environment, in GiB.
pub fn gib_from_environment(default: f64) -> u64 {
    let set = std::env::var("PIECEWORK_BENCH_GIB").ok().and_then(|text| text.parse::<f64>().ok());
    ((set.unwrap_or(default) * 1024.0).round() as u64).max(1) * MIB
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
