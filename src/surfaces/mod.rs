//! What people and machines touch: thin handlers over the handles of programs.

pub mod control;
pub mod metrics;
