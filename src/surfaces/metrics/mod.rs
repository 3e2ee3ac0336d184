//! Metrics for Prometheus: text, pulled, on a listener of their own that is off by default; and `/healthz` beside them.
//!
//! `text` writes the format, `collect` says what is measured, `listener` answers. Everything is read from snapshots when
//! somebody scrapes; nothing runs in between. Read `collect` first.

mod collect;
mod error;
mod listener;
mod text;

pub use crate::surfaces::metrics::collect::Subject;
pub use crate::surfaces::metrics::error::Error;
pub use crate::surfaces::metrics::listener::Listener;
