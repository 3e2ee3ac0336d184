//! The processes of the demo: this very program, run with the words a person would type.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use crate::cli::error::CliError;
use crate::content::code::Code;

/// How long a child may take to say its first line.
const START_TIMEOUT: Duration = Duration::from_secs(20);

fn broken(what: &str, why: &str) -> CliError {
    CliError::new(Code::Io, format!("{what}: {why}"))
        .remedy("run the demo again with -v; if it fails again, run the same command by hand")
}

fn program() -> Result<Command, CliError> {
    let path =
        std::env::current_exe().map_err(|error| broken("this program cannot find itself", &error.to_string()))?;
    let mut command = Command::new(path);
    command.env_remove("PIECEWORK_LOG");
    Ok(command)
}

/// Runs one command to its end.
pub(super) fn piecework(args: &[&str]) -> Result<String, CliError> {
    let what = format!("piecework {}", args.first().unwrap_or(&""));
    let output = program()?.args(args).stdin(Stdio::null()).output().map_err(|e| broken(&what, &e.to_string()))?;
    if !output.status.success() {
        return Err(broken(&what, String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A child that ends with its holder, asked first and killed then.
struct Held(Child);

impl Held {
    fn end(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            if let Ok(id) = i32::try_from(self.0.id())
                && let Some(id) = rustix::process::Pid::from_raw(id)
            {
                let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
            }
            let until = Instant::now() + Duration::from_secs(5);
            while Instant::now() < until {
                match self.0.try_wait() {
                    Ok(None) => std::thread::park_timeout(Duration::from_millis(5)),
                    _ => return,
                }
            }
            let _ = self.0.kill();
        }
        let _ = self.0.wait();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end();
    }
}

/// Lines of a child's stdout as they come.
fn lines(stdout: ChildStdout) -> mpsc::Receiver<String> {
    let (tell, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The plain HTTP origin.
pub(super) struct Origin {
    _child: Held,
    stdin: ChildStdin,
    lines: mpsc::Receiver<String>,
    /// HOST:PORT.
    pub(super) address: String,
}

impl Origin {
    pub(super) fn start(root: &Path) -> Result<Self, CliError> {
        let mut child = program()?
            .args(["demo", "--origin"])
            .arg(root)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| broken("the origin", &error.to_string()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let child = Held(child);
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else { return Err(broken("the origin", "no pipes")) };
        let lines = lines(stdout);
        let address = lines.recv_timeout(START_TIMEOUT).map_err(|_| broken("the origin", "it does not start"))?;
        Ok(Self { _child: child, stdin, lines, address })
    }

    /// Body bytes that have left the origin since it started.
    pub(super) fn bytes_sent(&mut self) -> Result<u64, CliError> {
        let lost = || broken("the origin", "it does not answer");
        self.stdin.write_all(b"bytes\n").and_then(|()| self.stdin.flush()).map_err(|_| lost())?;
        let line = self.lines.recv_timeout(START_TIMEOUT).map_err(|_| lost())?;
        line.trim().parse().map_err(|_| lost())
    }
}

/// The first holder.
pub(super) struct Seed {
    _child: Held,
    /// Full multiaddress.
    pub(super) address: String,
}

impl Seed {
    pub(super) fn start(file: &Path, manifest: &Path, state: &Path) -> Result<Self, CliError> {
        let mut child = program()?
            .arg("seed")
            .arg(file)
            .arg("--manifest")
            .arg(manifest)
            .args(["--listen", "127.0.0.1:0", "--mode", "simple", "--state"])
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| broken("the seed", &error.to_string()))?;
        let stdout = child.stdout.take();
        let child = Held(child);
        let lines = lines(stdout.ok_or_else(|| broken("the seed", "no pipe"))?);
        let address = lines.recv_timeout(START_TIMEOUT).map_err(|_| broken("the seed", "it does not start"))?;
        Ok(Self { _child: child, address })
    }
}

/// Final figures of one `get`, as its JSON says.
#[derive(Debug, Clone, serde::Deserialize, serde::Serialize)]
pub(super) struct Figures {
    pub(super) bytes_total: u64,
    pub(super) bytes_from_peers: u64,
    pub(super) bytes_from_http: u64,
    pub(super) bytes_already_held: u64,
    pub(super) bytes_wasted: u64,
    pub(super) seconds: f64,
    pub(super) verified: bool,
}

/// One downloading peer.
pub(super) struct Getter {
    child: Held,
    lines: mpsc::Receiver<String>,
    bar: ProgressBar,
    /// Where its copy goes.
    pub(super) out: PathBuf,
    log: PathBuf,
}

impl Getter {
    pub(super) fn start(
        manifest: &Path,
        out: &Path,
        state: &Path,
        peers: &[String],
        port: u16,
        bar: ProgressBar,
    ) -> Result<Self, CliError> {
        let log = out.with_extension("log");
        let stderr = std::fs::File::create(&log).map_err(|error| broken("a peer's log", &error.to_string()))?;
        let mut command = program()?;
        command.arg("get").arg(manifest).arg("-o").arg(out);
        for peer in peers {
            command.args(["--peer", peer]);
        }
        let mut child = command
            .args(["--listen", &format!("127.0.0.1:{port}"), "--mode", "simple", "--keep-seeding", "--json", "--state"])
            .arg(state)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|error| broken("a peer", &error.to_string()))?;
        let stdout = child.stdout.take();
        let child = Held(child);
        let lines = lines(stdout.ok_or_else(|| broken("a peer", "no pipe"))?);
        Ok(Self { child, lines, bar, out: out.to_owned(), log })
    }

    /// Moves the bar until the final object.
    pub(super) fn wait_complete(&mut self, until: Instant) -> Result<Figures, CliError> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = match self.lines.recv_timeout(left) {
                Ok(line) => line,
                Err(mpsc::RecvTimeoutError::Timeout) => return Err(broken("a peer", "it took too long")),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    return Err(broken("a peer ended early", log.trim()));
                }
            };
            let Ok(value) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if let Some(held) = value.get("bytes_held").and_then(serde_json::Value::as_u64) {
                self.bar.set_position(held);
            }
            if value.get("error").is_some_and(|error| !error.is_null()) {
                return Err(broken("a peer", &line));
            }
            if value.get("verified").is_some() {
                let figures: Figures =
                    serde_json::from_value(value).map_err(|error| broken("a peer's figures", &error.to_string()))?;
                self.bar.set_position(figures.bytes_total);
                self.bar.finish_with_message("verified");
                return Ok(figures);
            }
        }
    }

    /// Ends the process; what it wrote stays.
    pub(super) fn stop(mut self) -> Result<(), CliError> {
        self.child.end();
        Ok(())
    }
}
