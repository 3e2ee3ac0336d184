//! The control API: HTTP and JSON on a unix socket, on TCP too where policy says so, and the client by which the command
//! line speaks to it.
//!
//! `socket` says where it lies and who may connect, `tcp` who comes in by the other door, with `keys`, `access` which
//! caller may do what, `routes` what there is to ask, `view` how the answers look, `holds` how somebody waits for a
//! download, `steer` how the mode is changed and `descriptor` how the result is passed on;
//! `openapi.json` describes them and a test keeps it true. Nothing here decides anything
//! about contents or peers. Read `routes` first.

mod access;
mod cached;
mod client;
mod descriptor;
mod error;
mod events;
mod holds;
mod keys;
mod routes;
mod socket;
mod steer;
mod tcp;
mod view;

pub use crate::surfaces::control::access::{Caller, Right};
pub use crate::surfaces::control::client::{Client, Events};
pub use crate::surfaces::control::error::Error;
pub use crate::surfaces::control::routes::{Api, OPENAPI, ROUTES, Route, serve};
pub use crate::surfaces::control::socket::{SOCKET_NAME, Socket};
pub use crate::surfaces::control::steer::Wish;
pub use crate::surfaces::control::tcp::Door;
