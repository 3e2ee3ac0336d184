//! Long-running jobs: each owns its tasks and drives what lies below.

pub mod node;
