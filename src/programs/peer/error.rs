//! Why a job of this program ended without success: always a code word, what failed, and what to do.

use std::path::Path;

use crate::content::code::Code;
use crate::services::node::progress::Outcome;

/// A failure as people and scripts are told.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Stable code word.
    pub code: Code,
    /// What failed, and why.
    pub message: String,
    /// On what: a path, a URL, a peer, a key.
    pub culprit: Option<String>,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Failure {
    /// A failure without culprit and remedy.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), culprit: None, remedy: None }
    }

    /// Names the culprit.
    pub fn culprit(mut self, culprit: impl Into<String>) -> Self {
        self.culprit = Some(culprit.into());
        self
    }

    /// Names the remedy.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// A file named by the user that cannot be read.
    pub fn input(path: &Path, error: &std::io::Error) -> Self {
        Self::new(Code::InputMissing, format!("cannot read {}: {error}", path.display()))
            .culprit(path.display().to_string())
            .remedy("check the path and its permissions")
    }
}

impl From<crate::services::node::Error> for Failure {
    fn from(error: crate::services::node::Error) -> Self {
        let failure = Self::new(error.code(), error.to_string());
        match error.code() {
            Code::PortTaken => {
                failure.remedy("stop the program that has the port, or choose another with --listen IP:PORT")
            }
            Code::Usage => failure.remedy("write peers as HOST:PORT or /ip4/.../tcp/PORT/p2p/ID"),
            _ => failure,
        }
    }
}

impl From<crate::drivers::transport::Error> for Failure {
    fn from(error: crate::drivers::transport::Error) -> Self {
        crate::services::node::Error::from(error).into()
    }
}

impl From<crate::drivers::store::Error> for Failure {
    fn from(error: crate::drivers::store::Error) -> Self {
        Self {
            code: error.code(),
            message: error.to_string(),
            culprit: error.path().map(|path| path.display().to_string()),
            remedy: Some(error.remedy()),
        }
    }
}

impl From<crate::drivers::sources::Error> for Failure {
    fn from(error: crate::drivers::sources::Error) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<Outcome> for Failure {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Failed { code, message, culprit, remedy } => Self { code, message, culprit, remedy },
            Outcome::Condemned => Self::new(Code::BadManifest, "the manifest that a peer gave is not of this content")
                .remedy("name another peer with --peer, or get the manifest from its publisher"),
        }
    }
}
