//! The engine: events in, actions out. See `event` for both.

pub mod event;
