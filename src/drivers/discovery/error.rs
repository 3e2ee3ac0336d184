//! Why there is no discovery.

/// Discovery that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No multicast socket, or an announcement that the library refuses.
    #[error("multicast DNS is not available: {0}")]
    Unavailable(#[from] mdns_sd::Error),
}
