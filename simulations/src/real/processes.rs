//! [`Setup::run`]: real processes in a [`Lab`], started together, timed to the last byte.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::real::Error;
use crate::real::namespaces::{Lab, run};
use crate::real::setup::{Bed, Setup, Start};

/// What came of one run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// From the start of each process until it had the whole file, ascending.
    pub completions: Vec<Duration>,
    /// Bytes that left the first holder: of a seed, frames with headers, acknowledgements and what TCP sent again; of an
    /// origin, bodies as its log has them.
    pub holder_sent_bytes: u64,
    /// Bytes that all nodes together took over HTTP.
    pub http_bytes: u64,
    /// Bytes that all nodes together received in vain.
    pub wasted_bytes: u64,
    /// Frames that the lab's own switch lost, of some hundred thousand: where there are any, the machine was too slow for
    /// this lab.
    pub lost_frames: u64,
    /// TCP's congestion control on the hosts.
    pub congestion: String,
}

/// Longer than any honest run of this size on these lines.
const GIVEN_UP: Duration = Duration::from_secs(300);
const NGINX: &str = "/usr/sbin/nginx";

impl Setup {
    /// Runs it with the bed's program, in a folder of its own below the bed's.
    ///
    /// # Errors
    /// [`Error::Refused`] where the machine cannot, [`Error::Unfinished`] where a node fails.
    pub fn run(&self, bed: &Bed) -> Result<Outcome, Error> {
        let piecework = bed.piecework.as_path();
        let folder = Scratch::new(&bed.scratch)?;
        let mut lines = vec![self.holder_line];
        lines.extend(self.peers.iter().map(|peer| peer.line));
        let manifest = self.publish(piecework, &folder)?;
        let lab = Lab::build(&lines, bed.congestion.as_deref())?;
        let mut running = Vec::new();
        let holder = format!("{}:7680", Lab::address(0));
        match self.start {
            Start::Seed => running.push(seed(&lab, piecework, &folder, &manifest, &holder)?),
            Start::Origin => running.push(origin(&lab, &folder)?),
        }
        let sent_before = lab.sent_bytes(0)?;
        let began = Instant::now();
        let (tell, told) = mpsc::channel();
        let mut order: Vec<usize> = (1..=self.peers.len()).collect();
        order.sort_by_key(|node| self.starts(*node));
        for node in order {
            std::thread::sleep(self.starts(node).saturating_sub(began.elapsed()));
            let peer = (self.start == Start::Seed).then_some(holder.as_str());
            running.push(get(&lab, piecework, &folder, &manifest, node, peer, tell.clone())?);
        }
        drop(tell);
        let (mut completions, mut http_bytes, mut wasted_bytes) = (Vec::new(), 0, 0);
        while completions.len() < self.peers.len() {
            let left = GIVEN_UP.saturating_sub(began.elapsed());
            let (node, ended) = told.recv_timeout(left).unwrap_or((0, Err("no node says anything".to_owned())));
            let complete = ended.map_err(|said| Error::Unfinished { node, said })?;
            completions.push(complete.at.saturating_duration_since(began + self.starts(node)));
            http_bytes += complete.http_bytes;
            wasted_bytes += complete.wasted_bytes;
        }
        let framed = lab.sent_bytes(0)?.saturating_sub(sent_before);
        let (lost_frames, congestion) = (lab.lost_frames(), lab.congestion()?);
        drop(running);
        let holder_sent_bytes = match self.start {
            Start::Seed => framed,
            Start::Origin => folder.logged_bytes()?,
        };
        completions.sort_unstable();
        Ok(Outcome { completions, holder_sent_bytes, http_bytes, wasted_bytes, lost_frames, congestion })
    }

    /// When a node starts; the holder first of all.
    fn starts(&self, node: usize) -> Duration {
        node.checked_sub(1).and_then(|peer| self.peers.get(peer)).map_or(Duration::ZERO, |peer| peer.starts)
    }

    pub(super) fn publish(&self, piecework: &Path, folder: &Scratch) -> Result<PathBuf, Error> {
        let path = folder.path.join("file");
        write_noise(&path, self.file_bytes).map_err(|source| Error::File { path: path.clone(), source })?;
        let (key, manifest) = (folder.path.join("key"), folder.path.join("file.piecework"));
        let program = piecework.to_string_lossy().into_owned();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        run(&program, &["key", "new", &text(&key)])?;
        let (file, key, out) = (text(&path), text(&key), text(&manifest));
        let url = format!("http://{}:8000/file", Lab::address(0));
        let mut words = vec!["publish", &file, "--key", &key, "--name", "lab/file", "-o", &out];
        if self.start == Start::Origin {
            words.extend(["--url", &url]);
        }
        run(&program, &words)?;
        for node in 1..=self.peers.len() {
            let state = text(&folder.state(node));
            let public = format!("{key}.pub");
            run(&program, &["trust", "add", &public, "--publisher", "lab", "--names", "lab/*", "--state", &state])?;
        }
        Ok(manifest)
    }
}

/// Bytes that no layer can make shorter; the same in every run.
fn write_noise(path: &Path, bytes: u64) -> std::io::Result<()> {
    let mut reader = std::io::Read::take(blake3::Hasher::new().update(b"piecework lab").finalize_xof(), bytes);
    let mut file = std::fs::File::create(path)?;
    std::io::copy(&mut reader, &mut file).map(|_| ())
}

pub(super) fn seed(
    lab: &Lab,
    piecework: &Path,
    folder: &Scratch,
    manifest: &Path,
    listen: &str,
) -> Result<Running, Error> {
    let mut command = lab.command(0, piecework);
    command.arg("seed").arg(folder.path.join("file")).arg("--manifest").arg(manifest);
    command.args(["--listen", listen, "--mode", "lan", "--state"]).arg(folder.state(0));
    let mut running = Running::spawn(command, &folder.log(0))?;
    // The first line is its address: it listens.
    let mut line = String::new();
    let read = running.stdout.as_mut().map(|stdout| stdout.read_line(&mut line));
    match read {
        Some(Ok(length)) if length > 0 => Ok(running),
        _ => Err(Error::Unfinished { node: 0, said: "the seed does not start".to_owned() }),
    }
}

pub(super) fn origin(lab: &Lab, folder: &Scratch) -> Result<Running, Error> {
    let path = folder.path.join("nginx.conf");
    let root = folder.path.display();
    // The folder of a run is its owner's alone, so the server's workers stay who they are.
    let text = format!(
        "daemon off; user root; worker_processes 1; pid {root}/nginx.pid; error_log {root}/nginx.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ log_format sent '$body_bytes_sent'; access_log {root}/sent.log sent; sendfile on; server {{ listen {}:8000; root {root}; }} }}\n",
        Lab::address(0)
    );
    std::fs::write(&path, text).map_err(|source| Error::File { path: path.clone(), source })?;
    let mut command = lab.command(0, Path::new(NGINX));
    command.arg("-p").arg(&folder.path).arg("-c").arg(&path);
    let running = Running::spawn(command, &folder.log(0))?;
    let until = Instant::now() + Duration::from_secs(10);
    let probe = format!("exec 3<>/dev/tcp/{}/8000", Lab::address(0));
    while Instant::now() < until {
        let tried = lab.command(0, Path::new("bash")).args(["-c", &probe]).stderr(Stdio::null()).status();
        if tried.is_ok_and(|status| status.success()) {
            return Ok(running);
        }
    }
    Err(Error::Refused { what: NGINX.to_owned(), said: "it does not listen".to_owned() })
}

type Ended = (usize, Result<Complete, String>);

/// A node's last word.
struct Complete {
    at: Instant,
    http_bytes: u64,
    wasted_bytes: u64,
}

fn get(
    lab: &Lab,
    piecework: &Path,
    folder: &Scratch,
    manifest: &Path,
    node: usize,
    peer: Option<&str>,
    tell: mpsc::Sender<Ended>,
) -> Result<Running, Error> {
    let mut command = lab.command(node, piecework);
    command.arg("get").arg(manifest).arg("-o").arg(folder.path.join(format!("out{node}")));
    command.args(["--mode", "lan", "--keep-seeding", "--json", "--state"]).arg(folder.state(node));
    command.args(["--listen", &format!("{}:7680", Lab::address(node))]);
    if let Some(peer) = peer {
        command.args(["--peer", peer]);
    }
    let mut running = Running::spawn(command, &folder.log(node))?;
    if let Some(stdout) = running.stdout.take() {
        std::thread::spawn(move || {
            let ended = wait_for_the_end(stdout);
            // Nobody listens any more once another node has failed.
            let _ = tell.send((node, ended));
        });
    }
    Ok(running)
}

/// Reads progress until the object that ends it, which alone says `verified`. Stdout is read on, so that the node never
/// waits for us.
fn wait_for_the_end(mut stdout: BufReader<std::process::ChildStdout>) -> Result<Complete, String> {
    let mut line = String::new();
    let last = loop {
        line.clear();
        match stdout.read_line(&mut line) {
            Ok(0) => return Err("it said nothing more".to_owned()),
            Err(error) => return Err(error.to_string()),
            Ok(_) => {}
        }
        let said: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        match said.get("verified").and_then(serde_json::Value::as_bool) {
            Some(true) => break said,
            Some(false) => return Err(said.get("error").map(ToString::to_string).unwrap_or_default()),
            None => {}
        }
    };
    let at = Instant::now();
    let count = |name: &str| last.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
    let (http_bytes, wasted_bytes) = (count("bytes_from_http"), count("bytes_wasted"));
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    Ok(Complete { at, http_bytes, wasted_bytes })
}

/// A child that ends with its holder.
pub(super) struct Running {
    child: Child,
    stdout: Option<BufReader<std::process::ChildStdout>>,
}

impl Running {
    pub(super) fn spawn(mut command: Command, log: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { path: log.to_owned(), source };
        let stderr = std::fs::File::create(log).map_err(failed)?;
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().map_err(failed)?;
        let stdout = child.stdout.take().map(BufReader::new);
        Ok(Self { child, stdout })
    }
}

impl Running {
    /// Reads and forgets what it says, so that it never waits for us.
    pub(super) fn hush(&mut self) {
        if let Some(mut stdout) = self.stdout.take() {
            std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        }
    }

    /// Whether it has not ended.
    pub(super) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    /// Asked to end, and killed if it does not: a server's log and its workers want the former.
    fn drop(&mut self) {
        let id = self.child.id().to_string();
        let asked = run("kill", &["-TERM", &id]).is_ok();
        let until = Instant::now() + Duration::from_secs(5);
        while asked && Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The folder of one run; gone when dropped.
pub(super) struct Scratch {
    pub(super) path: PathBuf,
}

impl Scratch {
    pub(super) fn new(below: &Path) -> Result<Self, Error> {
        let path = below.join(format!("piecework-lab-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(Self { path })
    }

    pub(super) fn state(&self, node: usize) -> PathBuf {
        self.path.join(format!("state{node}"))
    }

    /// Bytes of bodies in the origin's log, which is whole once the server has ended.
    fn logged_bytes(&self) -> Result<u64, Error> {
        let path = self.path.join("sent.log");
        let text = std::fs::read_to_string(&path).map_err(|source| Error::File { path, source })?;
        Ok(text.lines().filter_map(|line| line.parse::<u64>().ok()).sum())
    }

    pub(super) fn log(&self, node: usize) -> PathBuf {
        self.path.join(format!("log{node}"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
