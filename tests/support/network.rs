//! Machines on one switch, each a network namespace of this kernel, gone when dropped.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Hosts numbered from 0.
pub struct Network {
    prefix: String,
    hosts: usize,
    family: Family,
}

/// Which addresses the hosts have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 alone, so that who hears whom is told by what follows.
    V4,
    /// IPv6 alone: a link-local address, as every interface has, and one of a private network.
    V6,
    /// IPv6 alone, and nothing but the link-local address.
    LinkLocal,
}

impl Network {
    /// A switch and so many hosts. `None`, with a printed reason, where the kernel or a missing program forbids it.
    pub fn build(hosts: usize) -> Option<Self> {
        Self::of(Family::V4, hosts)
    }

    /// The same with these addresses.
    pub fn of(family: Family, hosts: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Self { prefix: format!("pwt{}x{number}", std::process::id()), hosts, family };
        match network.wire() {
            Ok(()) => Some(network),
            Err(said) => {
                eprintln!("skipped: no network namespaces can be made here ({said})");
                None
            }
        }
    }

    fn wire(&self) -> Result<(), String> {
        let switch = self.name("sw");
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "sw", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0"])?;
        ip(&["-n", &switch, "link", "set", "sw", "up"])?;
        for number in 0..self.hosts {
            let (host, port) = (self.host(number), format!("p{number}"));
            ip(&["netns", "add", &host])?;
            let peer = ["type", "veth", "peer", "name", "eth0", "address", &mac(number), "netns", &host];
            ip(&[&["-n", &switch, "link", "add", &port][..], &peer].concat())?;
            ip(&["-n", &switch, "link", "set", &port, "master", "sw", "up"])?;
            if self.family == Family::V4 {
                ip(&["-n", &host, "link", "set", "eth0", "addrgenmode", "none"])?;
                ip(&["-n", &host, "addr", "add", &format!("{}/24", Self::address(number)), "dev", "eth0"])?;
            } else {
                // An address is in use at once, not after a second of asking whether it is another's.
                ip(&["netns", "exec", &host, "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=0"])?;
            }
            if self.family == Family::V6 {
                let address = format!("{}/64", Self::address_v6(number));
                ip(&["-n", &host, "addr", "add", &address, "dev", "eth0", "nodad"])?;
            }
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            if self.family == Family::V4 {
                let first = Self::address(0).to_string();
                ip(&["-n", &host, "route", "add", "default", "via", &first, "dev", "eth0"])?;
            }
        }
        Ok(())
    }

    /// Isolates all hosts but host 0 from each other, as an access point does it that lets multicast through: what one
    /// sends to another goes to a device that nobody has.
    pub fn isolate(&self) {
        for from in 1..self.hosts {
            for to in (1..self.hosts).filter(|to| *to != from) {
                let (host, address) = (self.host(from), Self::address(to).to_string());
                let nowhere = ["lladdr", "02:00:00:00:ff:ff", "nud", "permanent", "dev", "eth0"];
                ip(&[&["-n", &host, "neigh", "replace", &address][..], &nowhere].concat()).expect("its own table");
            }
        }
    }

    /// The address of a host.
    pub fn address(number: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 78, 1, u8::try_from(number + 1).expect("few hosts"))
    }

    /// The address of a host in the private network of IPv6.
    pub fn address_v6(number: usize) -> Ipv6Addr {
        Ipv6Addr::new(0xfd78, 0, 0, 1, 0, 0, 0, u16::try_from(number + 1).expect("few hosts"))
    }

    /// Multicast DNS reaches no host any more, as where a switch or an access point drops it. Needs `nft`.
    pub fn drop_multicast(&self) {
        for number in 0..self.hosts {
            let host = self.host(number);
            let nft = |words: &str| ip(&["netns", "exec", &host, "nft", words]).expect("its own tables");
            nft("add table inet quiet");
            for chain in ["input", "output"] {
                nft(&format!("add chain inet quiet {chain} {{ type filter hook {chain} priority 0 ; }}"));
                nft(&format!("add rule inet quiet {chain} udp dport 5353 drop"));
            }
        }
    }

    /// A command that will run on a host.
    pub fn command(&self, host: usize, command: &Command) -> Command {
        let mut within = Command::new("ip");
        within.args(["netns", "exec", &self.host(host)]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            within.current_dir(folder);
        }
        within.stdin(std::process::Stdio::null());
        within
    }

    /// Does something on a host, on a thread of its own: sockets that it opens are that host's.
    pub fn on<T: Send>(&self, host: usize, work: impl FnOnce() -> T + Send) -> T {
        use std::os::fd::AsFd;
        let path = Path::new("/run/netns").join(self.host(host));
        let thread = || {
            let namespace = std::fs::File::open(&path).expect("a namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().expect("it does not panic"))
    }

    fn host(&self, number: usize) -> String {
        self.name(&format!("h{number}"))
    }

    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for number in 0..self.hosts {
            let _ = ip(&["netns", "del", &self.host(number)]);
        }
        let _ = ip(&["netns", "del", &self.name("sw")]);
    }
}

fn mac(number: usize) -> String {
    format!("02:00:00:00:01:{number:02x}")
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| format!("ip: {error}"))?;
    let said = || format!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(said()) }
}
