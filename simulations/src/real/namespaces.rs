//! [`Lab`]: a switch and hosts, each a network namespace of this kernel, each on a shaped line of its own. Built with
//! `ip` and `tc`; gone when dropped. Nothing outside these namespaces is touched. Hosts that are near each other share a
//! bridge of the kernel; where any two are far from each other, a [`Relay`] switches, and frames take their time.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::real::Error;
use crate::real::port::Port;
use crate::real::relay::Relay;

/// A host's line to the switch, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// What the host may send, in bits a second of Ethernet frames.
    pub up_bits: u64,
    /// What it may receive.
    pub down_bits: u64,
    /// One way to the switch; two hosts are as far from each other as both together.
    pub latency: Duration,
}

/// What a line's queue holds at most, as time; a home router's is longer, a data centre's shorter.
const QUEUE_MILLISECONDS: u64 = 30;
/// What a shaper lets pass at once: about one large segment of TCP.
const BURST_BYTES: u64 = 65_536;
/// The kernel's name for the setting; hosts may have what `net.ipv4.tcp_allowed_congestion_control` of the machine lists.
const CONGESTION: &str = "net.ipv4.tcp_congestion_control";
/// One way between two hosts; what is less a bridge stands for.
const DISTANT: Duration = Duration::from_millis(1);

/// Hosts numbered from 0, all on one switch.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    host_count: usize,
    relay: Option<Relay>,
}

impl Lab {
    /// Builds the switch and one host a line; `congestion` names TCP's congestion control on all of them, where it is not
    /// to be the machine's own.
    ///
    /// # Errors
    /// [`Error::Refused`] where the kernel, or a missing program, forbids it: nobody but root may.
    pub fn build(lines: &[Line], congestion: Option<&str>) -> Result<Self, Error> {
        let mut lab = Self { prefix: format!("pw{}", std::process::id()), host_count: lines.len(), relay: None };
        let switch = lab.switch();
        run("ip", &["netns", "add", &switch])?;
        let distant = is_distant(lines);
        if !distant {
            let bridge = ["link", "add", "sw", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0"];
            // The switch forwards multicast as a plain one does, without learning who listens.
            run("ip", &[&["-n", &switch][..], &bridge].concat())?;
            run("ip", &["-n", &switch, "link", "set", "sw", "up"])?;
        }
        for (number, line) in lines.iter().enumerate() {
            lab.plug(number, *line, distant)?;
            if let Some(name) = congestion {
                let setting = format!("{CONGESTION}={name}");
                run("ip", &["netns", "exec", &lab.host(number), "sysctl", "-qw", &setting])?;
            }
        }
        if distant {
            lab.relay = Some(lab.relay(lines)?);
        }
        Ok(lab)
    }

    fn plug(&self, number: usize, line: Line, distant: bool) -> Result<(), Error> {
        let (host, switch, port) = (self.host(number), self.switch(), format!("p{number}"));
        let address = format!("{}/16", Self::address(number));
        run("ip", &["netns", "add", &host])?;
        run("ip", &["-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &host])?;
        // A port of a relay is no host: it gives itself no address, and says nothing.
        let plugged = if distant { ["addrgenmode", "none"] } else { ["master", "sw"] };
        run("ip", &[&["-n", &switch, "link", "set", &port][..], &plugged].concat())?;
        run("ip", &["-n", &switch, "link", "set", &port, "up"])?;
        run("ip", &["-n", &host, "addr", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", &host, "link", "set", "lo", "up"])?;
        run("ip", &["-n", &host, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", &host, "route", "add", "default", "dev", "eth0"])?;
        shape(&host, "eth0", line.up_bits)?;
        shape(&switch, &port, line.down_bits)
    }

    /// Opened by a thread that moves into the switch's namespace, since a thread stays where it went.
    fn relay(&self, lines: &[Line]) -> Result<Relay, Error> {
        let refused = |said: String| Error::Refused { what: "a packet socket on a port".to_owned(), said };
        let open = || {
            enter(&self.switch())?;
            let port = |(number, line): (usize, &Line)| Ok((Port::open(&format!("p{number}"))?, line.latency));
            let ports = lines.iter().enumerate().map(port).collect::<std::io::Result<Vec<_>>>();
            ports.and_then(Relay::start).map_err(|error| refused(error.to_string()))
        };
        let opened = std::thread::scope(|scope| scope.spawn(open).join());
        opened.unwrap_or_else(|_| Err(refused("its thread panicked".to_owned())))
    }

    /// TCP's congestion control on its hosts.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn congestion(&self) -> Result<String, Error> {
        let name = run("ip", &["netns", "exec", &self.host(0), "sysctl", "-n", CONGESTION])?;
        Ok(name.trim().to_owned())
    }

    /// Frames that the lab's own switch has lost, and no line's queue: where it is not 0, the machine was too slow.
    pub fn lost_frames(&self) -> u64 {
        self.relay.as_ref().map_or(0, Relay::lost)
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
        enter(&self.host(host))
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
        self.relay = None;
        for number in 0..self.host_count {
            let _ = run("ip", &["netns", "del", &self.host(number)]);
        }
        let _ = run("ip", &["netns", "del", &self.switch()]);
    }
}

/// Whether frames between any two of these hosts have to be held up.
fn is_distant(lines: &[Line]) -> bool {
    let mut latencies: Vec<Duration> = lines.iter().map(|line| line.latency).collect();
    latencies.sort_unstable();
    latencies.iter().rev().take(2).sum::<Duration>() >= DISTANT
}

/// Moves the calling thread into a namespace.
fn enter(namespace: &str) -> Result<(), Error> {
    use std::os::fd::AsFd;
    let path = Path::new("/run/netns").join(namespace);
    let namespace = std::fs::File::open(&path).map_err(|source| Error::File { path, source })?;
    let moved = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
    moved.map_err(|error| Error::Refused { what: "setns".to_owned(), said: error.to_string() })
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
    use std::io::Read;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Instant;

    use super::*;

    const BITS: u64 = 200_000_000;
    const FLOW_BYTES: u64 = 8 << 20;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Answers probes until one is empty, then sends noise to who connects.
    fn serve(udp: &UdpSocket, tcp: &TcpListener) -> std::io::Result<()> {
        let mut probe = [0; 8];
        loop {
            let (length, from) = udp.recv_from(&mut probe)?;
            if length == 0 {
                break;
            }
            udp.send_to(&probe[..length], from)?;
        }
        let mut noise = noise();
        std::io::copy(&mut noise, &mut tcp.accept()?.0).map(|_| ())
    }

    fn noise() -> impl Read {
        Read::take(blake3::Hasher::new().update(b"a flow").finalize_xof(), FLOW_BYTES)
    }

    /// The shortest round trip of twenty probes, and how long the flow took.
    fn measure(udp: &UdpSocket) -> std::io::Result<(Duration, Duration)> {
        let mut trips = Vec::new();
        for number in 0u64..20 {
            let (sent, mut back) = (Instant::now(), [0; 8]);
            udp.send(&number.to_be_bytes())?;
            assert_eq!(udp.recv(&mut back)?, back.len());
            assert_eq!(back, number.to_be_bytes());
            trips.push(sent.elapsed());
        }
        udp.send(&[])?;
        let (began, mut came, mut sent) = (Instant::now(), Vec::new(), Vec::new());
        let mut flow = TcpStream::connect((Lab::address(0), 9001))?;
        flow.set_read_timeout(Some(PATIENCE))?;
        flow.read_to_end(&mut came)?;
        let took = began.elapsed();
        noise().read_to_end(&mut sent)?;
        assert!(came == sent, "large segments and checksums pass unharmed");
        Ok((trips.into_iter().min().unwrap_or_default(), took))
    }

    #[test]
    fn a_ping_takes_its_paths_round_trip_and_a_flow_comes_through_whole() {
        let line = |latency: u64| {
            let latency = Duration::from_millis(latency);
            Line { up_bits: BITS, down_bits: BITS, latency }
        };
        let lab = match Lab::build(&[line(4), line(6)], None) {
            Ok(lab) => lab,
            Err(error) => return eprintln!("skipped: {error}"),
        };
        let socket = &|host: usize, port: u16| {
            lab.enter(host).expect("it was built");
            let socket = UdpSocket::bind((Lab::address(host), port)).expect("a port");
            socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
            socket
        };
        let (trip, took) = std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            scope.spawn(move || {
                let udp = socket(0, 9000);
                let tcp = TcpListener::bind((Lab::address(0), 9001)).expect("a port");
                tell.send(()).expect("somebody waits");
                serve(&udp, &tcp).expect("it serves");
            });
            told.recv().expect("it listens");
            let client = scope.spawn(|| {
                let udp = socket(1, 0);
                udp.connect((Lab::address(0), 9000)).expect("a socket");
                measure(&udp).expect("it measures")
            });
            client.join().expect("no panic")
        });
        eprintln!("round trip of 20 ms: {trip:?} at least; 8 MiB at 200 Mbit/s: {took:?}");
        assert!(trip >= Duration::from_millis(20), "{trip:?}");
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert_eq!(lab.lost_frames(), 0);
    }

    #[test]
    fn every_host_has_an_address_of_its_own() {
        assert_eq!(Lab::address(0), Ipv4Addr::new(10, 77, 1, 1));
        assert_eq!(Lab::address(255), Ipv4Addr::new(10, 77, 2, 0));
    }
}
