//! What a service manager is told: `sd_notify(3)`, by its wire protocol, which is one datagram of lines.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells the service manager that started this process; tells nobody where none did.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Whoever `NOTIFY_SOCKET` names: a path, or with `@` an abstract name.
    pub fn from_environment() -> Self {
        let address = std::env::var("NOTIFY_SOCKET").ok().and_then(|name| match name.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(&name).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let ours = match std::env::var("WATCHDOG_PID") {
            Ok(pid) => pid == std::process::id().to_string(),
            Err(_) => true,
        };
        let micros = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse::<u64>().ok());
        let watchdog = micros.filter(|micros| ours && *micros > 0).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// How often the service manager wants to hear that this process lives: half of what it waits for, as
    /// `sd_watchdog_enabled(3)` has it. `None`: not at all.
    pub fn watchdog_every(&self) -> Option<Duration> {
        self.socket.as_ref()?;
        self.watchdog.map(|limit| (limit / 2).max(Duration::from_millis(1)))
    }

    /// It serves.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// It reads its configuration again; ends with [`Notifier::ready`].
    pub fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = Duration::try_from(now).map_or(0, |now| now.as_micros());
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// It says goodbye to its peers.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// It lives.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, lines: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(lines.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}
