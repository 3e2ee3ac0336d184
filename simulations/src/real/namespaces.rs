//! [`Lab`]: a switch and hosts, each a network namespace of this kernel, each on a shaped line of its own. Built with
//! `ip` and `tc`; gone when dropped. Nothing outside these namespaces is touched.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::real::Error;

/// A host's line to the switch, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// What the host may send, in bits a second of Ethernet frames.
    pub up_bits: u64,
    /// What it may receive.
    pub down_bits: u64,
}

/// What a line's queue holds at most, as time; a home router's is longer, a data centre's shorter.
const QUEUE_MILLISECONDS: u64 = 30;
/// What a shaper lets pass at once: about one large segment of TCP.
const BURST_BYTES: u64 = 65_536;

/// Hosts numbered from 0, all on one switch.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    host_count: usize,
}

impl Lab {
    /// Builds the switch and one host a line.
    ///
    /// # Errors
    /// [`Error::Refused`] where the kernel, or a missing program, forbids it: nobody but root may.
    pub fn build(lines: &[Line]) -> Result<Self, Error> {
        let lab = Self { prefix: format!("pw{}", std::process::id()), host_count: lines.len() };
        let switch = lab.switch();
        run("ip", &["netns", "add", &switch])?;
        // The switch forwards multicast as a plain one does, without learning who listens.
        run(
            "ip",
            &["-n", &switch, "link", "add", "sw", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0"],
        )?;
        run("ip", &["-n", &switch, "link", "set", "sw", "up"])?;
        for (number, line) in lines.iter().enumerate() {
            lab.plug(number, *line)?;
        }
        Ok(lab)
    }

    fn plug(&self, number: usize, line: Line) -> Result<(), Error> {
        let (host, switch, port) = (self.host(number), self.switch(), format!("p{number}"));
        let address = format!("{}/16", Self::address(number));
        run("ip", &["netns", "add", &host])?;
        run("ip", &["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
        run("ip", &["-n", &switch, "link", "set", &port, "master", "sw", "up"])?;
        run("ip", &["-n", &host, "addr", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", &host, "link", "set", "lo", "up"])?;
        run("ip", &["-n", &host, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", &host, "route", "add", "default", "dev", "eth0"])?;
        shape(&host, "eth0", line.up_bits)?;
        shape(&switch, &port, line.down_bits)
    }

    /// The address of a host.
    pub fn address(number: usize) -> Ipv4Addr {
        let number = u16::try_from(number).unwrap_or(u16::MAX).saturating_add(257);
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, 77, high, low)
    }

    /// A command that will run on a host.
    pub fn command(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.host(host)]).arg(program).stdin(Stdio::null());
        command
    }

    /// Bytes that a host has sent since the lab was built, as its device counts them: of segments that are cut later the
    /// headers but once.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn sent_bytes(&self, host: usize) -> Result<u64, Error> {
        let text = run("ip", &["netns", "exec", &self.host(host), "cat", "/sys/class/net/eth0/statistics/tx_bytes"])?;
        text.trim().parse().map_err(|_| Error::Refused { what: "the count of sent bytes".into(), said: text })
    }

    /// Moves the calling thread onto a host: sockets that it opens from now on are that host's.
    ///
    /// # Errors
    /// [`Error::Refused`] where the kernel forbids it.
    pub fn enter(&self, host: usize) -> Result<(), Error> {
        use std::os::fd::AsFd;
        let path = Path::new("/run/netns").join(self.host(host));
        let namespace = std::fs::File::open(&path).map_err(|source| Error::File { path, source })?;
        let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
        moved.map_err(|error| Error::Refused { what: "setns".to_owned(), said: error.to_string() })
    }

    /// Bytes that a host has received since the lab was built, headers included.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn received_bytes(&self, host: usize) -> Result<u64, Error> {
        let text = run("ip", &["netns", "exec", &self.host(host), "cat", "/sys/class/net/eth0/statistics/rx_bytes"])?;
        text.trim().parse().map_err(|_| Error::Refused { what: "the count of received bytes".into(), said: text })
    }

    fn host(&self, number: usize) -> String {
        format!("{}-h{number}", self.prefix)
    }

    fn switch(&self) -> String {
        format!("{}-sw", self.prefix)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for number in 0..self.host_count {
            let _ = run("ip", &["netns", "del", &self.host(number)]);
        }
        let _ = run("ip", &["netns", "del", &self.switch()]);
    }
}

/// A token bucket at the sending end of one direction.
fn shape(namespace: &str, device: &str, bits: u64) -> Result<(), Error> {
    let (rate, burst) = (format!("{bits}bit"), BURST_BYTES.to_string());
    let latency = format!("{QUEUE_MILLISECONDS}ms");
    let words = ["qdisc", "add", "dev", device, "root", "tbf", "rate", &rate, "burst", &burst, "latency", &latency];
    run("tc", &[&["-n", namespace][..], &words].concat()).map(|_| ())
}

/// Runs a program to its end; its stdout, or what it said against it.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String, Error> {
    let what = || format!("{program} {}", arguments.join(" "));
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| Error::Refused { what: what(), said: error.to_string() })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Refused { what: what(), said: String::from_utf8_lossy(&output.stderr).trim().to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_an_address_of_its_own() {
        assert_eq!(Lab::address(0), Ipv4Addr::new(10, 77, 1, 1));
        assert_eq!(Lab::address(255), Ipv4Addr::new(10, 77, 2, 0));
    }
}
