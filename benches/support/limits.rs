//! What this machine can do at best, measured in the same run as what is compared with it. MB/s throughout.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::bare::{Incoming, pair};
use super::{GIB, MIB, megabytes, seconds};

/// Plain TCP over loopback, 256 KiB a system call.
pub fn loopback_rate(length: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    let sender = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("loopback");
        let buffer = vec![1; 256 << 10];
        let mut left = length;
        while left > 0 {
            stream.write_all(&buffer).expect("the receiver reads");
            left = left.saturating_sub(buffer.len() as u64);
        }
    });
    let (mut stream, _) = listener.accept().expect("loopback");
    let mut buffer = vec![0; 256 << 10];
    let took = seconds(|| while stream.read(&mut buffer).expect("the sender writes") > 0 {});
    sender.join().expect("the sender ends");
    megabytes(length) / took
}

/// Sealing and opening of TLS 1.3 records with AES-128-GCM by rustls, in memory, one thread each.
pub fn record_rates(length: u64) -> (f64, f64) {
    let (mut client, mut server) = pair();
    let plain = vec![7; 256 << 10];
    let mut sealed = vec![0; 300 << 10];
    let mut incoming = Incoming::default();
    let (mut sealing, mut opening) = (0.0, 0.0);
    let mut opened = 0;
    for _ in 0..length / plain.len() as u64 {
        let mut bytes = 0;
        sealing += seconds(|| bytes = server.encrypt(&plain, &mut sealed));
        incoming.put(&sealed[..bytes]);
        opening += seconds(|| client.open(&mut incoming, &mut |record| opened += record.len() as u64));
    }
    assert_eq!(opened, length / plain.len() as u64 * plain.len() as u64);
    (megabytes(opened) / sealing, megabytes(opened) / opening)
}

/// BLAKE3 over one MiB at a time, one thread.
pub fn blake3_rate(length: u64) -> f64 {
    let buffer = vec![3; MIB as usize];
    let took = seconds(|| {
        for _ in 0..length / MIB {
            std::hint::black_box(blake3::hash(&buffer));
        }
    });
    megabytes(length) / took
}

/// SHA-256 over one MiB at a time, one thread.
pub fn sha256_rate(length: u64) -> f64 {
    use sha2::Digest;
    let buffer = vec![9; MIB as usize];
    let took = seconds(|| {
        let mut hasher = sha2::Sha256::new();
        for _ in 0..length / MIB {
            hasher.update(&buffer);
        }
        std::hint::black_box(hasher.finalize());
    });
    megabytes(length) / took
}

/// How a file is made before it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// Written from nothing.
    Fresh,
    /// As long as it will be, sparse.
    Sparse,
    /// With its blocks allocated.
    Preallocated,
    /// Written before: its pages are in the cache.
    Again,
}

/// Writes into the page cache, a MiB a call; the file is removed afterwards.
pub fn page_cache_write_rate(path: &Path, length: u64, made: Made) -> f64 {
    let buffer = vec![5; MIB as usize];
    let file = File::create(path).expect("the file can be made");
    let write = || {
        for offset in (0..length).step_by(MIB as usize) {
            file.write_all_at(&buffer, offset).expect("there is room");
        }
    };
    let took = seconds(|| match made {
        Made::Fresh => write(),
        Made::Sparse => {
            file.set_len(length).expect("it can be extended");
            write();
        }
        Made::Preallocated => {
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).expect("there is room");
            write();
        }
        Made::Again => {}
    });
    let took = if made == Made::Again {
        write();
        seconds(write)
    } else {
        took
    };
    std::fs::remove_file(path).expect("it was made above");
    megabytes(length) / took
}

/// A file whose memory is given free just before the next one is written. On a virtual machine the first use of a page
/// costs the host a fault, and pages that lie free for seconds go back to it; that is no matter of the program measured.
pub struct Warm(std::path::PathBuf);

impl Warm {
    /// Writes it.
    pub fn new(path: std::path::PathBuf, length: u64) -> Self {
        let file = File::create(&path).expect("the file can be made");
        let buffer = vec![5; MIB as usize];
        for offset in (0..length).step_by(MIB as usize) {
            file.write_all_at(&buffer, offset).expect("there is room");
        }
        Self(path)
    }

    /// Gives its memory free; `next` takes its place for the run after the next.
    pub fn free_for(&mut self, next: &Path) {
        std::fs::remove_file(&self.0).expect("it is there");
        self.0 = next.to_owned();
    }
}

/// Prints the limits that a transfer of `length` bytes is up against. `folders` are where it is stored.
pub fn print(length: u64, folders: &[(&str, &Path)]) -> f64 {
    println!("limits of this machine in this run, MB/s:");
    let tcp = loopback_rate(2 * length);
    let (seal, open) = record_rates(length);
    println!("  plain TCP over loopback {tcp:.0}; TLS records, one thread: sealing {seal:.0}, opening {open:.0}");
    println!("  BLAKE3, one thread {:.0}", blake3_rate(length));
    for (name, folder) in folders {
        let rate = |made| page_cache_write_rate(&folder.join("limit"), length.min(GIB), made);
        println!(
            "  page-cache write, {name}: fresh file {:.0}, sparse {:.0}, preallocated {:.0}, again {:.0}",
            rate(Made::Fresh),
            rate(Made::Sparse),
            rate(Made::Preallocated),
            rate(Made::Again),
        );
    }
    tcp
}
