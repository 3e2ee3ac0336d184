//! What can go wrong with real runs.

/// Why a real run gives no figure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel or a program refuses what a lab is built of.
    #[error("{what}: {said}; real runs need root, network namespaces, iproute2, and nginx where an origin serves")]
    Refused {
        /// The command.
        what: String,
        /// What it answered.
        said: String,
    },
    /// A file of the run cannot be made or read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A node ended without the file.
    #[error("node {node} ended without the whole file: {said}")]
    Unfinished {
        /// Which, from 1; 0 is the first holder.
        node: usize,
        /// Its last words.
        said: String,
    },
}
