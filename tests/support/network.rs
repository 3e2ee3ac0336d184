//! Machines on one switch, each a network namespace of this kernel, gone when dropped.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Hosts numbered from 0.
pub struct Network {
    prefix: String,
    hosts: usize,
}

impl Network {
    /// A switch and so many hosts. `None`, with a printed reason, where the kernel or a missing program forbids it.
    pub fn build(hosts: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let network = Self { prefix: format!("pwt{}x{number}", std::process::id()), hosts };
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
            // IPv4 alone, so that who hears whom is told by what follows.
            ip(&["-n", &host, "link", "set", "eth0", "addrgenmode", "none"])?;
            ip(&["-n", &host, "addr", "add", &format!("{}/24", Self::address(number)), "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "route", "add", "default", "via", &Self::address(0).to_string(), "dev", "eth0"])?;
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
