//! [`CliError`]: what failed, on what, why, and what to do; for people on stderr, for scripts as JSON on stdout.

use std::error::Error as StdError;
use std::fmt::Write;
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::output;
use crate::content::code::Code;

/// The end of a command that did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    code: Code,
    message: String,
    culprit: Option<String>,
    remedy: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    reported: bool,
}

impl CliError {
    /// What failed, in one sentence without an end stop.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), culprit: None, remedy: None, source: None, reported: false }
    }

    /// What it failed on: a path, a URL, a peer.
    pub fn culprit(mut self, culprit: impl Into<String>) -> Self {
        self.culprit = Some(culprit.into());
        self
    }

    /// What it failed on, if that is a file.
    pub fn path(self, path: &Path) -> Self {
        self.culprit(path.display().to_string())
    }

    /// What to do about it; where nothing better is known, the code's usual remedy is shown.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Why it failed, if somebody below said more than the message does.
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Marks it as told already, as by a final JSON object that embeds it: only the exit code is left to say.
    pub fn reported(mut self) -> Self {
        self.reported = true;
        self
    }

    /// A failed system call on a file, by its code word: missing, full, not allowed, or plain I/O.
    pub fn io(doing: &str, path: &Path, error: io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Code::InputMissing,
            io::ErrorKind::PermissionDenied if doing.contains("read") => Code::InputMissing,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Code::CannotCreate,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Code::DiskFull,
            io::ErrorKind::OutOfMemory => Code::ResourceRefused,
            _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::EAGAIN)) => {
                Code::ResourceRefused
            }
            _ => Code::Io,
        };
        Self::new(code, format!("cannot {doing}: {}", plain_io(&error))).path(path)
    }

    /// As [`CliError::io`], for a file that was to be made: what is missing then is not the input but a place for it.
    pub fn create(path: &Path, error: io::Error) -> Self {
        let missing = error.kind() == io::ErrorKind::NotFound;
        let mut made = Self::io("create it", path, error);
        if matches!(made.code, Code::InputMissing) {
            made.code = Code::CannotCreate;
        }
        if missing { made.remedy("create the folder it should lie in") } else { made }
    }

    /// The same trouble under another code word, where the caller knows better what it means.
    pub fn recoded(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// The code word.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whether somebody told it already.
    pub fn is_reported(&self) -> bool {
        self.reported
    }

    /// The form for scripts: `code`, `message`, `culprit`, `remedy`.
    pub fn to_json(&self) -> Value {
        json!({
            "code": self.code.word(),
            "message": self.with_reasons(),
            "culprit": self.culprit,
            "remedy": self.remedy.as_deref().unwrap_or(usual_remedy(self.code)),
        })
    }

    /// The message, and each reason that adds something.
    fn with_reasons(&self) -> String {
        let mut text = self.message.clone();
        let mut reason = self.source.as_deref().map(|source| source as &dyn StdError);
        while let Some(source) = reason {
            let said = source.to_string();
            if !text.contains(&said) {
                let _ = write!(text, ": {said}");
            }
            reason = source.source();
        }
        text
    }

    /// Tells it, unless that was done already.
    pub fn report(&self, json: bool) {
        if self.reported {
            return;
        }
        if json {
            // If stdout is gone as well, the exit code still says it.
            let _ = output::json(&self.to_json());
            return;
        }
        eprint!("{}", self.for_people(output::stderr_is_colourful()));
    }

    /// The form for people.
    fn for_people(&self, colour: bool) -> String {
        let (red, bold, off) = if colour { ("\x1b[31;1m", "\x1b[1m", "\x1b[0m") } else { ("", "", "") };
        let mut text = format!("{red}error{off} [{}]: {}\n", self.code.word(), output::plain(&self.with_reasons()));
        if let Some(culprit) = &self.culprit {
            let _ = writeln!(text, "    {bold}on{off}: {}", output::plain(culprit));
        }
        let remedy = self.remedy.as_deref().unwrap_or(usual_remedy(self.code));
        for (position, line) in remedy.lines().enumerate() {
            let label = if position == 0 { format!("    {bold}do{off}: ") } else { "        ".to_owned() };
            let _ = writeln!(text, "{label}{}", output::plain(line));
        }
        text
    }
}

/// The system's own words, without the number.
fn plain_io(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// What usually helps; `docs/refusals.md` says the same, and a test keeps the two equal.
pub fn usual_remedy(code: Code) -> &'static str {
    match code {
        Code::Usage => "see `piecework --help`, or `--help` after the command",
        Code::BadManifest => "fetch the manifest again from its publisher",
        Code::BadSignature => "do not use it; fetch the manifest again from its publisher",
        Code::WrongLength | Code::ContentMismatch => "fetch the file again with `piecework get`",
        Code::SourceChanged => "ask the publisher for a manifest of what is served now",
        Code::UnsafePath => "do not use it; ask the publisher for plain relative paths",
        Code::BadInput => "mend or replace the file that is named",
        Code::StoreDamaged => "run the download again: damaged pieces are fetched anew",
        Code::InputMissing => "check the path and its permissions",
        Code::NoDaemon => "start the daemon with `piecework node`, or name its --state folder",
        Code::NoSource => "name a peer with --peer or a URL with --source, or wait until one is up",
        Code::PortTaken => "stop the program that holds the port, or choose another with --listen",
        Code::ResourceRefused => "raise the limit of open files and threads, or stop other programs",
        Code::DestinationExists => "choose another destination, or replace it with --force",
        Code::CannotCreate => "choose a folder that exists and that you may write to",
        Code::Io => "check the disk and the system log",
        Code::DiskFull => "free some space and run the command again: what was verified is kept",
        Code::Locked => "wait for the other process, or use another --state folder",
        Code::Interrupted => "run the command again: what was verified is kept",
        Code::Protocol => "update both ends to the same release",
        Code::UnknownPublisher => "if you know the publisher's key, add it with `piecework trust add`",
        Code::ThresholdNotMet => "ask the publisher for the missing signatures (`piecework sign`)",
        Code::NameNotAllowed => "if the publisher should sign this name, widen it with `piecework trust add --names`",
        Code::Expired => "ask the publisher for a newer manifest, and check this machine's clock",
        Code::Rollback => "use the newest manifest of this name",
        Code::OriginNotAllowed => "if the host is right, allow it with `piecework trust add --origins`",
        Code::Policy => "change the policy that is named, or ask the administrator",
        Code::BadConfig => "mend the configuration that is named",
    }
}

impl From<crate::content::Error> for CliError {
    fn from(error: crate::content::Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<crate::content::Refusal> for CliError {
    fn from(refusal: crate::content::Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

impl From<crate::policy::Error> for CliError {
    fn from(error: crate::policy::Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_on_what_why_and_what_to_do() {
        let error = CliError::new(Code::Io, "cannot read it").path(Path::new("a\x1b[31mb")).because("the disk is gone");
        let told = error.for_people(false);
        for part in ["error [io]: cannot read it: the disk is gone", "on: a\\u{1b}[31mb", "do: check the disk"] {
            assert!(told.contains(part), "{told}");
        }
        let json = error.to_json();
        assert_eq!(json["code"], "io");
        assert_eq!(json["message"], "cannot read it: the disk is gone");
    }

    #[test]
    fn a_full_disk_is_told_from_other_trouble() {
        let code = |number| CliError::io("write it", Path::new("x"), io::Error::from_raw_os_error(number)).code();
        assert_eq!(code(libc::ENOSPC), Code::DiskFull);
        assert_eq!(code(libc::EDQUOT), Code::DiskFull);
        assert_eq!(code(libc::EFBIG), Code::DiskFull);
        assert_eq!(code(libc::EIO), Code::Io);
        assert_eq!(code(libc::EMFILE), Code::ResourceRefused);
        assert_eq!(code(libc::EACCES), Code::CannotCreate);
        assert_eq!(code(libc::ENOENT), Code::InputMissing);
    }
}
