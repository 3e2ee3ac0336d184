//! An Internet of a few machines: a router between networks with public addresses, and behind some of them a NAT. Each is a
//! network namespace of this kernel, gone when dropped; nothing outside of them is touched.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// How a machine is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// A public address, and everybody may connect.
    Public,
    /// A public address behind a firewall that lets nothing in but answers.
    Firewalled,
    /// A NAT that passes on what comes to port 7680, from whomever.
    FullCone,
    /// A NAT that keeps ports and lets in only answers: address and port must be those that were sent to.
    Restricted,
    /// A NAT that sends each connection from a port of its own choice, and lets in only answers.
    Symmetric,
}

impl Line {
    /// Every kind with its word.
    pub const ALL: [(Line, &'static str); 5] = [
        (Line::Public, "public"),
        (Line::Firewalled, "firewalled"),
        (Line::FullCone, "full cone"),
        (Line::Restricted, "restricted"),
        (Line::Symmetric, "symmetric"),
    ];

    fn has_nat(self) -> bool {
        !matches!(self, Self::Public | Self::Firewalled)
    }
}

/// Machines, numbered from 0.
pub struct Internet {
    prefix: String,
    lines: Vec<Line>,
    /// Nobody has an IPv4 address.
    ipv6: bool,
}

impl Internet {
    /// Connects a machine for each line. `None`, with a printed reason, where the kernel or a missing program forbids it.
    pub fn build(lines: &[Line]) -> Option<Self> {
        Self::build_of(lines, false)
    }

    /// The same of IPv6 alone, for machines without NAT.
    pub fn build_ipv6(lines: &[Line]) -> Option<Self> {
        assert!(lines.iter().all(|line| !line.has_nat()), "nobody translates IPv6");
        Self::build_of(lines, true)
    }

    fn build_of(lines: &[Line], ipv6: bool) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("pi{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let internet = Self { prefix, lines: lines.to_vec(), ipv6 };
        match internet.make() {
            Ok(()) => Some(internet),
            Err(why) => {
                eprintln!("skipped: no network namespaces with NAT can be made here ({why})");
                None
            }
        }
    }

    fn make(&self) -> Result<(), String> {
        let core = self.core();
        ip(&["netns", "add", &core])?;
        ip(&["-n", &core, "link", "set", "lo", "up"])?;
        forwards(&core)?;
        if self.ipv6 {
            ip(&["netns", "exec", &core, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"])?;
        }
        for (number, line) in self.lines.iter().enumerate() {
            let (edge, host, port) = (self.edge(number), self.host(number), format!("c{number}"));
            ip(&["netns", "add", &edge])?;
            ip(&["-n", &core, "link", "add", &port, "type", "veth", "peer", "name", "wan", "netns", &edge])?;
            let gateway = self.gateway(number);
            address(&core, &port, gateway)?;
            address(&edge, "wan", self.at(number))?;
            ip(&["-n", &edge, "link", "set", "lo", "up"])?;
            ip(&["-n", &edge, "route", "add", "default", "via", &gateway.to_string()])?;
            if line.has_nat() {
                ip(&["netns", "add", &host])?;
                forwards(&edge)?;
                ip(&["-n", &edge, "link", "add", "lan", "type", "veth", "peer", "name", "eth0", "netns", &host])?;
                address(&edge, "lan", inside(number, 1).into())?;
                address(&host, "eth0", inside(number, 2).into())?;
                ip(&["-n", &host, "link", "set", "lo", "up"])?;
                ip(&["-n", &host, "route", "add", "default", "via", &inside(number, 1).to_string()])?;
            }
            nft(&edge, &rules(*line, inside(number, 2)))?;
        }
        Ok(())
    }

    /// The address at which the Internet sees a machine of this one.
    pub fn at(&self, number: usize) -> IpAddr {
        if self.ipv6 { ipv6(number, 2).into() } else { Self::public(number).into() }
    }

    /// Networks of their own, so that no two machines are on one link.
    fn gateway(&self, number: usize) -> IpAddr {
        let [a, b, c, _] = Self::public(number).octets();
        if self.ipv6 { ipv6(number, 1).into() } else { Ipv4Addr::new(a, b, c, 1).into() }
    }

    /// The IPv4 address at which the Internet sees a machine.
    pub fn public(number: usize) -> Ipv4Addr {
        Ipv4Addr::new(20, 77, u8::try_from(number + 1).expect("few machines"), 2)
    }

    /// A command as it runs on a machine.
    pub fn on(&self, number: usize, command: &Command) -> Command {
        let mut on = Command::new("ip");
        on.args(["netns", "exec", &self.host(number)]).arg(command.get_program()).args(command.get_args());
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

    /// Does something on a machine, on a thread of its own: sockets that it opens are that machine's.
    pub fn within<T: Send>(&self, number: usize, work: impl FnOnce() -> T + Send) -> T {
        use std::os::fd::AsFd;
        let path = PathBuf::from("/run/netns").join(self.host(number));
        let thread = || {
            let namespace = std::fs::File::open(&path).expect("a namespace");
            let network = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(namespace.as_fd(), network).expect("root may");
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().expect("it does not panic"))
    }

    fn core(&self) -> String {
        format!("{}-c", self.prefix)
    }

    /// What has the public address: the NAT, or the machine itself.
    fn edge(&self, number: usize) -> String {
        format!("{}-e{number}", self.prefix)
    }

    fn host(&self, number: usize) -> String {
        match self.lines.get(number).is_some_and(|line| line.has_nat()) {
            true => format!("{}-h{number}", self.prefix),
            false => self.edge(number),
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for number in 0..self.lines.len() {
            let _ = ip(&["netns", "del", &self.host(number)]);
            let _ = ip(&["netns", "del", &self.edge(number)]);
        }
        let _ = ip(&["netns", "del", &self.core()]);
    }
}

fn ipv6(number: usize, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2a01, 0x77, u16::try_from(number + 1).expect("few machines"), 0, 0, 0, 0, host)
}

fn inside(number: usize, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, u8::try_from(number + 1).expect("few machines"), host)
}

fn rules(line: Line, inside: Ipv4Addr) -> String {
    let answers = "ct state established,related accept\n";
    let no_more = "iifname wan drop\n";
    let nat = |how: &str, into: &str| {
        format!(
            "table ip piecework {{\n\
             chain away {{ type nat hook postrouting priority 100;\noifname wan masquerade {how}\n}}\n\
             chain into {{ type nat hook prerouting priority -100;\n{into}\n}}\n\
             chain through {{ type filter hook forward priority 0;\n{answers}ct status dnat accept\n{no_more}}}\n\
             chain here {{ type filter hook input priority 0;\n{answers}{no_more}}}\n}}\n"
        )
    };
    match line {
        Line::Public => String::new(),
        Line::Firewalled => format!(
            "table inet piecework {{\nchain here {{ type filter hook input priority 0;\n\
             icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept\n{answers}{no_more}}}\n}}\n"
        ),
        Line::FullCone => nat(
            "",
            &format!("iifname wan tcp dport 7680 dnat to {inside}\niifname wan udp dport 7680 dnat to {inside}"),
        ),
        Line::Restricted => nat("", ""),
        Line::Symmetric => nat("random,fully-random", ""),
    }
}

fn address(namespace: &str, device: &str, address: IpAddr) -> Result<(), String> {
    // Nobody else has it: it may be used at once.
    let (length, more) = if address.is_ipv6() { (64, &["nodad"][..]) } else { (24, &[][..]) };
    ip(&[&["-n", namespace, "addr", "add", &format!("{address}/{length}"), "dev", device][..], more].concat())?;
    ip(&["-n", namespace, "link", "set", device, "up"])
}

fn forwards(namespace: &str) -> Result<(), String> {
    ip(&["netns", "exec", namespace, "sysctl", "-qw", "net.ipv4.ip_forward=1"])
}

fn nft(namespace: &str, rules: &str) -> Result<(), String> {
    let mut nft = Command::new("ip");
    nft.args(["netns", "exec", namespace, "nft", "-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut nft = nft.spawn().map_err(|error| error.to_string())?;
    nft.stdin.take().expect("piped").write_all(rules.as_bytes()).map_err(|error| error.to_string())?;
    let ended = nft.wait_with_output().map_err(|error| error.to_string())?;
    let said = || format!("nft: {}", String::from_utf8_lossy(&ended.stderr).trim());
    if ended.status.success() { Ok(()) } else { Err(said()) }
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output =
        Command::new("ip").args(words).stdin(Stdio::null()).output().map_err(|error| format!("ip: {error}"))?;
    let said = || format!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(said()) }
}
