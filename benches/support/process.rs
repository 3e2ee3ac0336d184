//! Processes of the program under test, and what they use.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    /// As the program prints it.
    pub address: String,
    /// From the start of the process to its first address.
    pub ready: Duration,
}

impl Serving {
    pub fn start(args: &[&str]) -> Self {
        let began = Instant::now();
        let mut child =
            piecework(args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the program starts");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let address = lines.next().expect("a line").expect("text");
        let ready = began.elapsed();
        // The pipe stays open, so that later lines find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, ready }
    }

    pub fn usage(&self) -> Usage {
        Usage::of(self.child.id())
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How often each of its threads went to sleep by itself, by name.
    pub fn waits_by_thread(&self) -> Vec<(String, u64)> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let of = |thread: std::fs::DirEntry| {
            let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
            Some((name.trim().to_owned(), waits_of(&thread.path())?))
        };
        threads.filter_map(of).collect()
    }

    /// `HOST:PORT` of the address.
    pub fn socket(&self) -> std::net::SocketAddr {
        let mut parts = self.address.split('/').skip(2);
        let (ip, port) = (parts.next().expect("an address"), parts.nth(1).expect("a port"));
        std::net::SocketAddr::new(ip.parse().expect("an address"), port.parse().expect("a port"))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    pub cpu_seconds: f64,
    /// Of which in the kernel.
    pub system_seconds: f64,
    pub peak_resident: u64,
    /// Highest seen of the memory that no file stands behind; sampled every 10 ms.
    pub peak_anonymous: u64,
    pub anonymous: u64,
    pub resident: u64,
    /// How often its threads went to sleep by themselves, as far as they live.
    pub waits: u64,
    pub descriptors: usize,
}

impl Usage {
    /// So far, of a process that runs. Seconds are rounded to hundredths.
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
            system_seconds: ticks(12) as f64 / 100.0,
            peak_resident: kib("VmHWM:") * 1024,
            peak_anonymous: kib("RssAnon:") * 1024,
            anonymous: kib("RssAnon:") * 1024,
            resident: kib("VmRSS:") * 1024,
            waits: waits(pid),
            descriptors: std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
        }
    }
}

/// Voluntary switches of a process's threads.
fn waits(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| waits_of(&thread.path())).sum()
}

fn waits_of(thread: &std::path::Path) -> Option<u64> {
    let status = std::fs::read_to_string(thread.join("status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Time that a process's threads have run, nanoseconds, as far as they live.
pub fn ticking(pid: u32) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.filter_map(of).sum()
}

/// A number from the environment.
pub fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// As many descriptors as the system gives, for this process and those that it starts.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    // Root may go beyond the hard limit of before.
    let wish = Some(hard.unwrap_or(0).max(65_536));
    if setrlimit(Resource::Nofile, Rlimit { current: wish, maximum: wish }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard });
    }
}

/// A child whose end is waited for while its memory is sampled.
pub struct Watched {
    child: Child,
    began: Instant,
}

/// Starts a child to be watched; what it prints is dropped.
pub fn start(mut command: Command) -> Watched {
    let began = Instant::now();
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    Watched { child, began }
}

impl Watched {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end: seconds from start to end, what it used, and whether it succeeded.
    pub fn end(self) -> (f64, Usage, bool) {
        let pid = self.child.id();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sampler = scope.spawn(|| {
                let mut peak = 0;
                while !ended.load(Ordering::Relaxed) {
                    peak = peak.max(Usage::of(pid).anonymous);
                    std::thread::park_timeout(Duration::from_millis(10));
                }
                peak
            });
            let (took, mut usage, good) = wait(pid, self.began);
            ended.store(true, Ordering::Relaxed);
            sampler.thread().unpark();
            usage.peak_anonymous = sampler.join().expect("it samples");
            (took, usage, good)
        })
    }
}

/// The kernel's own account of a child that ends.
fn wait(pid: u32, began: Instant) -> (f64, Usage, bool) {
    let mut status = 0;
    // SAFETY: plain old data, filled by the kernel below.
    let mut used: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type.
    let waited = unsafe { libc::wait4(pid as libc::pid_t, &mut status, 0, &mut used) };
    assert_eq!(waited, pid as libc::pid_t, "our child");
    let took = began.elapsed().as_secs_f64();
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    let system_seconds = seconds(used.ru_stime);
    let usage = Usage {
        cpu_seconds: seconds(used.ru_utime) + system_seconds,
        system_seconds,
        peak_resident: used.ru_maxrss as u64 * 1024,
        ..Usage::default()
    };
    (took, usage, libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0)
}

/// Runs a child to its end.
pub fn watched(command: Command) -> (f64, Usage, bool) {
    start(command).end()
}
