//! Hosts in several subnets with a router between them, each a network namespace of this kernel. Nothing outside of them is
//! touched.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The hosts, by subnet and number within it; gone when dropped.
pub struct Subnets {
    prefix: String,
    hosts: Vec<(u8, u8)>,
}

impl Subnets {
    /// Builds a switch for each subnet, hosts on them (`hosts`: subnet, number from 1), and a router. `None`, with a printed
    /// reason, where the kernel or a missing program forbids it.
    pub fn build(hosts: &[(u8, u8)]) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("pt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { prefix, hosts: hosts.to_vec() };
        match lab.make() {
            Ok(()) => Some(lab),
            Err(why) => {
                eprintln!("skipped: no network namespaces can be made here ({why})");
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let router = self.router();
        ip(&["netns", "add", &router])?;
        ip(&["netns", "exec", &router, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        for subnet in 1..=self.hosts.iter().map(|(subnet, _)| *subnet).max().unwrap_or(0) {
            let switch = format!("s{subnet}");
            let gateway = format!("{}/24", Self::address(subnet, 254));
            ip(&[
                "-n",
                &router,
                "link",
                "add",
                &switch,
                "type",
                "bridge",
                "mcast_snooping",
                "0",
                "forward_delay",
                "0",
            ])?;
            ip(&["-n", &router, "addr", "add", &gateway, "dev", &switch])?;
            ip(&["-n", &router, "link", "set", &switch, "up"])?;
        }
        for (subnet, number) in &self.hosts {
            let (host, port, switch) =
                (self.host(*subnet, *number), format!("p{subnet}-{number}"), format!("s{subnet}"));
            let (address, gateway) = (format!("{}/24", Self::address(*subnet, *number)), Self::address(*subnet, 254));
            ip(&["netns", "add", &host])?;
            ip(&["-n", &router, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
            ip(&["-n", &router, "link", "set", &port, "master", &switch, "up"])?;
            ip(&["-n", &host, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &host, "link", "set", "lo", "up"])?;
            ip(&["-n", &host, "link", "set", "eth0", "up"])?;
            ip(&["-n", &host, "route", "add", "default", "via", &gateway.to_string()])?;
        }
        Ok(())
    }

    /// The address of a host; the router is number 254.
    pub fn address(subnet: u8, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 88, subnet, number)
    }

    /// A command as it runs on a host: this one, in the host's namespace.
    pub fn on(&self, subnet: u8, number: u8, command: &Command) -> Command {
        let mut on = Command::new("ip");
        on.args(["netns", "exec", &self.host(subnet, number)]).arg(command.get_program()).args(command.get_args());
        for (variable, value) in command.get_envs() {
            match value {
                Some(value) => on.env(variable, value),
                None => on.env_remove(variable),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            on.current_dir(folder);
        }
        on.stdin(Stdio::null());
        on
    }

    /// What a program says on a host.
    pub fn said(&self, subnet: u8, number: u8, words: &[&str]) -> String {
        ip(&[&["netns", "exec", &self.host(subnet, number)][..], words].concat()).expect("it runs")
    }

    fn host(&self, subnet: u8, number: u8) -> String {
        format!("{}-{subnet}-{number}", self.prefix)
    }

    fn router(&self) -> String {
        format!("{}-r", self.prefix)
    }
}

impl Drop for Subnets {
    fn drop(&mut self) {
        for (subnet, number) in &self.hosts {
            let _ = ip(&["netns", "del", &self.host(*subnet, *number)]);
        }
        let _ = ip(&["netns", "del", &self.router()]);
    }
}

fn ip(words: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}
