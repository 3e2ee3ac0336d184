//! A process that stands still, as during sleep, and goes on.

use std::time::Duration;

use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{Site, bytes, n, same};

const MIB: usize = 1 << 20;
