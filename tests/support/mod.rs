//! What the scenarios share: a folder, files of known bytes, and the real program run as a person would.

#![allow(dead_code)]

pub mod browser;
pub mod bucket;
pub mod hostile;
pub mod internet;
pub mod meeting;
pub mod network;
pub mod nginx;
pub mod origin;
pub mod publication;
pub mod scene;
pub mod spy;
pub mod subnets;
pub mod tmpfs;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything in a scenario may take before it counts as hung.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Bytes that differ everywhere, the same for the same seed.
pub fn bytes(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// The program.
pub fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_piecework"));
    for variable in ["PIECEWORK_LOG", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        command.env_remove(variable);
    }
    command.stdin(Stdio::null());
    command
}

/// A folder with a publisher's key, and whatever a scenario puts beside it.
pub struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    /// A fresh folder with `key` and `key.pub`.
    pub fn new() -> Self {
        let site = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        site.ok(&["key", "new", &site.text("key")]);
        site
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("temporary paths are UTF-8").to_owned()
    }

    /// Writes a file; returns its path.
    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("below the folder")).expect("folders can be made");
        std::fs::write(&path, bytes).expect("files can be written");
        path
    }

    /// Runs to the end.
    pub fn run(&self, args: &[&str]) -> Output {
        command().current_dir(self.folder.path()).args(args).output().expect("the program starts")
    }

    /// Runs to success; returns stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    /// Runs to this failure; returns stderr.
    pub fn refused(&self, args: &[&str], exit: i32, code: &str) -> String {
        let output = self.run(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {out}{err}");
        assert!(err.contains(&format!("[{code}]")) || out.contains(&format!("\"{code}\"")), "{args:?}: {out}{err}");
        err.into_owned()
    }

    /// Publishes `name` (a file or folder here) as `demo/NAME` to `NAME.piecework`, with these sources.
    pub fn publish(&self, name: &str, urls: &[&str]) -> PathBuf {
        let out = format!("{name}.piecework");
        let publication = format!("demo/{name}");
        let mut args = vec!["publish", name, "--key", "key", "--name", &publication, "-o", &out, "-q"];
        for url in urls {
            args.extend(["--url", url]);
        }
        self.ok(&args);
        self.path(&out)
    }

    /// Trusts the publisher, loopback sources included, in a state folder.
    pub fn trust(&self, state: &str) {
        self.ok(&[
            "trust",
            "add",
            "key.pub",
            "--publisher",
            "demo",
            "--names",
            "demo/*",
            "--origins",
            "127.0.0.1:*",
            "--state",
            state,
        ]);
    }

    /// Serves a publication on a free port.
    pub fn seed(&self, name: &str, state: &str) -> Running {
        let manifest = format!("{name}.piecework");
        let mut command = command();
        command.current_dir(self.folder.path());
        command.args(["seed", name, "--manifest", &manifest, "--listen", "127.0.0.1:0", "--mode", "simple"]);
        command.args(["--state", state]);
        Running::start(command)
    }

    /// Serves a publication at this address, so that it can be named before it is there.
    pub fn seed_at(&self, name: &str, state: &str, listen: &str) -> Running {
        let manifest = format!("{name}.piecework");
        let mut command = command();
        command.current_dir(self.folder.path());
        command.args(["seed", name, "--manifest", &manifest, "--listen", listen, "--mode", "simple"]);
        command.args(["--state", state]);
        let seed = Running::start(command);
        seed.address();
        seed
    }

    /// Verifies a state folder offline; returns the report.
    pub fn store_check(&self, state: &str) -> Value {
        serde_json::from_str(self.ok(&["store", "check", state, "--json"]).trim()).expect("JSON")
    }

    /// `get` as a child that prints JSON lines.
    pub fn get(&self, args: &[&str]) -> Running {
        let mut command = command();
        command.current_dir(self.folder.path()).arg("get").args(args).arg("--json");
        Running::start(command)
    }
}

/// A child process whose stdout is read line by line. Killed when dropped.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    stderr: Arc<Mutex<String>>,
    /// Ends with stderr.
    said_all: mpsc::Receiver<()>,
    /// Peak resident memory in bytes, as of the last line of stdout.
    peak: Arc<AtomicU64>,
}

impl Running {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let (tell, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        let (peak, pid) = (Arc::<AtomicU64>::default(), child.id());
        let seen = Arc::clone(&peak);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                seen.fetch_max(peak_resident(pid).unwrap_or(0), Ordering::Relaxed);
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let stderr = Arc::<Mutex<String>>::default();
        let (said, pipe) = (Arc::clone(&stderr), child.stderr.take().expect("piped"));
        let (says, said_all) = mpsc::channel();
        std::thread::spawn(move || {
            let _says: mpsc::Sender<()> = says;
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                let mut said = said.lock().expect("not poisoned");
                said.push_str(&line);
                said.push('\n');
            }
        });
        Self { child, lines, stderr, said_all, peak }
    }

    /// Peak resident memory so far, in bytes. The kernel keeps it as long as the process lives; afterwards it is what
    /// it was at the last line of stdout, which `get --json` writes ten times a second and at its end.
    pub fn peak_resident(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).max(peak_resident(self.pid()).unwrap_or(0))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().expect("not poisoned").clone()
    }

    /// The next line of stdout; `None` at its end.
    pub fn line(&self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing said for {PATIENCE:?}; stderr: {}", self.stderr()),
        }
    }

    /// The next line within a time, if any.
    pub fn line_within(&self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    /// The first line: a full multiaddress.
    pub fn address(&self) -> String {
        let Some(line) = self.line() else {
            // What it said last is being read by another thread.
            std::thread::sleep(Duration::from_millis(200));
            panic!("it ended early: {}", self.stderr())
        };
        let json = serde_json::from_str::<Value>(&line).ok();
        json.and_then(|json| Some(json.get("listening")?.as_str()?.to_owned())).unwrap_or(line)
    }

    /// The final object of `get --json`.
    pub fn result(&self) -> Value {
        loop {
            let line = self.line().unwrap_or_else(|| panic!("no final object; stderr: {}", self.stderr()));
            let json: Value = serde_json::from_str(&line).expect("a JSON object a line");
            if json.get("verified").is_some() {
                return json;
            }
        }
    }

    /// The final object of a download that succeeds, its books closed.
    pub fn success(&self) -> Value {
        let result = self.result();
        assert!(result["error"].is_null(), "{result}; stderr: {}", self.stderr());
        assert_eq!(result["verified"], true);
        let sum = n(&result, "bytes_from_peers") + n(&result, "bytes_from_http") + n(&result, "bytes_already_held");
        assert_eq!(sum, n(&result, "bytes_total"), "the books close: {result}");
        result
    }

    /// Ends it as the kernel would at a power cut.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM; returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        self.wait()
    }

    /// Waits for the end; returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                // What it said last is being read by another thread; a child of its own may hold the pipe for longer.
                let _ = self.said_all.recv_timeout(Duration::from_secs(2));
                return status.code();
            }
            assert!(Instant::now() < until, "it does not end; stderr: {}", self.stderr());
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Peak resident memory of a process that lives, in bytes.
fn peak_resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// A number of a JSON object.
pub fn n(json: &Value, key: &str) -> u64 {
    json.get(key).and_then(Value::as_u64).unwrap_or_else(|| panic!("{key} in {json}"))
}

/// Ports that are free now, for listeners that must be named before they are there. Below those that the kernel hands
/// out, so that nobody's outgoing connection takes one in between.
pub fn free_ports<const N: usize>() -> [u16; N] {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    const FIRST: u64 = 10_240;
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ephemeral = range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768u64);
    let width = ephemeral.saturating_sub(FIRST).max(1024);
    let held: [std::net::TcpListener; N] = std::array::from_fn(|_| {
        let mut listeners = (0..width).filter_map(|_| {
            let turn = NEXT.fetch_add(1, Ordering::Relaxed) + u64::from(std::process::id()) * 127;
            std::net::TcpListener::bind(("127.0.0.1", u16::try_from(FIRST + turn % width).ok()?)).ok()
        });
        listeners.next().expect("a port is free")
    });
    held.map(|listener| listener.local_addr().expect("bound").port())
}

/// Whether a program is there; prints that its test is skipped where not.
pub fn have(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let found = found.is_ok_and(|output| output.status.success());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// The two files are equal, compared without keeping either in memory twice.
pub fn same(path: &Path, bytes: &[u8]) -> bool {
    std::fs::read(path).is_ok_and(|read| read == bytes)
}
