//! What the benches share: files, processes and the machine's own limits. Figures are of this run, on this machine.

#![allow(dead_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// A temporary folder, removed at the end.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("piecework-bench-{name}-{}", std::process::id()));
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

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// MB/s of plain TCP over loopback, 256 KiB writes.
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
    length as f64 / 1e6 / took
}

/// MB/s of BLAKE3 over one MiB at a time, one thread.
pub fn blake3_rate(length: u64) -> f64 {
    let buffer = vec![3; MIB as usize];
    let took = seconds(|| {
        for _ in 0..length / MIB {
            std::hint::black_box(blake3::hash(&buffer));
        }
    });
    length as f64 / 1e6 / took
}

/// MB/s of writing fresh pages of a file, a MiB at a time.
pub fn page_cache_write_rate(path: &Path, length: u64) -> f64 {
    let buffer = vec![5; MIB as usize];
    let mut file = File::create(path).expect("the file can be made");
    let took = seconds(|| {
        for _ in 0..length / MIB {
            file.write_all(&buffer).expect("there is room");
        }
    });
    drop(file);
    std::fs::remove_file(path).expect("it was made above");
    length as f64 / 1e6 / took
}

/// The program under test.
pub fn piecework(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_piecework"));
    command.args(args);
    command
}

/// Runs it to success.
pub fn run(args: &[&str]) -> String {
    let output = piecework(args).output().expect("the program starts");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// A serving process and its address.
pub struct Serving {
    child: Child,
    pub address: String,
}

impl Serving {
    pub fn start(args: &[&str]) -> Self {
        let mut child =
            piecework(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = lines.next().expect("a line").expect("text");
        // The pipe stays open, so that later lines find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }

    pub fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    pub peak_resident: u64,
    pub resident: u64,
}

impl Usage {
    pub fn of(pid: u32) -> Self {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<_> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |index: usize| fields.get(index).and_then(|text: &&str| text.parse::<u64>().ok()).unwrap_or(0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let kib = |key: &str| {
            let line = status.lines().find(|line| line.starts_with(key));
            line.and_then(|line| line.split_whitespace().nth(1)).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0)
        };
        Self {
            cpu_seconds: (ticks(11) + ticks(12)) as f64 / 100.0,
            peak_resident: kib("VmHWM:") * 1024,
            resident: kib("VmRSS:") * 1024,
        }
    }
}

/// Runs a child to its end, sampling what it uses.
pub fn watched(mut command: Command) -> (f64, Usage, bool) {
    let began = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let mut usage = Usage::default();
    loop {
        let now = Usage::of(child.id());
        usage.cpu_seconds = usage.cpu_seconds.max(now.cpu_seconds);
        usage.peak_resident = usage.peak_resident.max(now.peak_resident);
        if let Some(status) = child.try_wait().expect("our child") {
            return (began.elapsed().as_secs_f64(), usage, status.success());
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}
