//! What people and machines touch: thin handlers over the handles of programs.

pub mod control;
pub mod dashboard;
pub mod metrics;

/// One file of a page, as it is served.
#[derive(Debug, Clone, Copy)]
pub struct Asset {
    /// Its path, with the slash in front.
    pub path: &'static str,
    /// Its content type.
    pub kind: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}
