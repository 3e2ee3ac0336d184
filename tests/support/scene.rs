//! Folders that go away, the real binary run in one, bytes from a fixed generator.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A folder for one story, with a state folder of its own; both go away with it.
pub struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    /// An empty folder.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the folder, as text.
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("temporary folders have plain names").to_owned()
    }

    /// Writes a file and the folders above it.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("below the scene")).expect("made");
        std::fs::write(&path, bytes).expect("written");
        path
    }

    /// The file's bytes.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        std::fs::symlink_metadata(self.path(name)).is_ok()
    }

    /// The binary in this folder, with nothing of the caller's environment that it would heed.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_piecework"));
        for (variable, _) in std::env::vars_os() {
            let name = variable.to_string_lossy().to_ascii_uppercase();
            if name.starts_with("PIECEWORK_") || name.starts_with("XDG_") || name.ends_with("_PROXY") {
                command.env_remove(variable);
            }
        }
        command.current_dir(self.root()).env("HOME", self.path("home")).env("XDG_STATE_HOME", self.path("state"));
        command.arg("--state").arg(self.path("state").join("piecework")).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    /// Runs the binary to its end.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Outcome {
        Outcome::of(self.command(arguments))
    }

    /// Starts the binary with both outputs in pipes; it is killed when the story ends, whatever happens.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(Some(command.spawn().expect("the binary starts")))
    }
}

/// A process that does not outlive its story.
pub struct Running(Option<Child>);

impl Running {
    /// The process.
    pub fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("taken only by `wait`")
    }

    /// Its number.
    pub fn id(&mut self) -> u32 {
        self.child().id()
    }

    /// Waits for its end and takes what is left of its outputs.
    pub fn wait(mut self) -> Outcome {
        let child = self.0.take().expect("taken only here");
        Outcome::from(child.wait_with_output().expect("a child of ours"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a process ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` for death by a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Outcome {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        Self::from(command.output().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Asserts exit code 0.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Asserts a failure with this code word and exit code, told on stderr with a remedy.
    #[track_caller]
    pub fn fails(self, word: &str, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        assert!(self.stderr.contains(&format!("[{word}]")), "no [{word}] in: {}", self.stderr);
        assert!(self.stderr.contains("do: "), "no remedy in: {}", self.stderr);
        self
    }

    /// The last line of stdout as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }
}

/// Bytes that look random and are the same on every run: SplitMix64 of the seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Whether a program can be run here; says so where it cannot, since the story is skipped then.
pub fn has_program(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()))
        || ["/usr/sbin", "/sbin"].iter().any(|folder| Path::new(folder).join(name).is_file());
    if !found {
        println!("skipped: no {name} on this machine");
    }
    found
}
