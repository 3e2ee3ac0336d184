//! What this room refuses: always with the place where the value was set.

use crate::content::code::Code;
use crate::policy::layer::Provider;

/// A configuration that cannot be taken as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not TOML.
    #[error("{provider} is not TOML: {reason}")]
    Syntax {
        /// Which file.
        provider: Provider,
        /// What is wrong, and where.
        reason: String,
    },
    /// A key or table that nobody knows.
    #[error("{provider} has the unknown key {key:?}; the nearest known one is {nearest:?}")]
    UnknownKey {
        /// Where it was set.
        provider: Provider,
        /// The key, with its table.
        key: String,
        /// What may have been meant.
        nearest: String,
    },
    /// A value of another kind, or outside its range.
    #[error("{key} is {value} in {provider}; allowed is {range}")]
    OutOfRange {
        /// The key, with its table.
        key: &'static str,
        /// The value as given, cut to 80 characters.
        value: String,
        /// What is allowed.
        range: &'static str,
        /// Where it was set.
        provider: Provider,
    },
    /// A value that is nothing without another policy.
    #[error("{key} is {value} in {provider}, which needs {needs} to be set")]
    Needs {
        /// The key, with its table.
        key: &'static str,
        /// The value.
        value: String,
        /// The key that is not set.
        needs: &'static str,
        /// Where it was set.
        provider: Provider,
    },
}

impl Error {
    /// The code word for people and scripts.
    pub fn code(&self) -> Code {
        match self {
            // What a flag says wrongly is wrong usage; everything else lies in a file or the environment.
            Error::OutOfRange { provider: Provider::Flag(_), .. } => Code::Usage,
            _ => Code::BadConfig,
        }
    }
}
