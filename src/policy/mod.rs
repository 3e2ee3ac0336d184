//! What the operator wants: every policy with its default and range, and the merge of the places it can be set in.
//!
//! Pure: texts are handed in by `cli/config`, which reads files and the environment. Read `key` for the list, then
//! `settings` for the merge, `fields` for each value, and `gate` for what follows from a machine's state.
//! `alias` has Delivery Optimization's names and units. A policy stands here once something acts on it, not before.

mod alias;
pub mod error;
mod fields;
pub mod gate;
pub mod import;
pub mod key;
pub mod layer;
pub mod network;
pub mod settings;
pub mod value;

pub use crate::policy::error::Error;
pub use crate::policy::gate::{Facts, Gate, Verdict, is_stable, is_wireless, judge, of_line, off_duty};
pub use crate::policy::key::Key;
pub use crate::policy::layer::{Layer, Provider, Raw};
pub use crate::policy::network::{Network, TrustedNetwork};
pub use crate::policy::settings::{Policy, Settings};
pub use crate::policy::value::{GroupIdSource, Hours, Metered, MinBattery, Mode, Restrict, Site};
