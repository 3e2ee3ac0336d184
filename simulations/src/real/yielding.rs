//! [`Politeness`]: what a background download of the real node costs others on the same line.
//!
//! Hosts of a [`Lab`]. One holds a file and answers a prober and a foreground flow besides; the others, one or a whole
//! site, download in the background, and the first of them probes and takes the flow. Prober and flow are threads of this
//! process on those hosts.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::real::Error;
use crate::real::namespaces::{Lab, Line};
use crate::real::processes::{Running, Scratch, origin, seed};
use crate::real::setup::{Bed, Peer, Setup, Start};

/// What was measured in one run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Politeness {
    /// p95 of the round trip on the idle line.
    pub idle: Duration,
    /// The same beside the download.
    pub busy: Duration,
    /// Bits a second that left the holder then, headers included: the download, mostly.
    pub background_bits: u64,
    /// Payload of the foreground flow on the idle line, bits a second.
    pub alone_bits: u64,
    /// The same once more: what two such figures differ by is noise.
    pub again_bits: u64,
    /// The same beside the download.
    pub beside_bits: u64,
}

/// The line that all share, both ways: the holder's.
const LINE: Line = Line { up_bits: 100_000_000, down_bits: 100_000_000, latency: Duration::ZERO };
/// Those of a site's machines, which have room for what they pass on.
const INSIDE: Line = Line { up_bits: 1_000_000_000, down_bits: 1_000_000_000, latency: Duration::ZERO };
/// More than the line carries while it is measured.
const FILE_BYTES: u64 = 320 << 20;
const PROBED: Duration = Duration::from_secs(5);
/// Until the flow's own start is over, and how long it is measured then.
const FLOW_STARTS: Duration = Duration::from_secs(2);
const FLOW_MEASURED: Duration = Duration::from_secs(6);
/// Until the download's own start is over, from its first mebibyte.
const SETTLED: Duration = Duration::from_secs(3);
/// Not a divisor of anything that the pacer does.
const PROBE_EVERY: Duration = Duration::from_millis(7);
/// A probe that has not come back by then is lost, and counts as this long.
const PROBE_LOST: Duration = Duration::from_secs(1);
const PROBE_PORT: u16 = 9000;
const FLOW_PORT: u16 = 9001;
/// How often those who answer look whether the run is over.
const LOOK: Duration = Duration::from_millis(100);
const GIVEN_UP: Duration = Duration::from_secs(30);
const SERVER: usize = 0;
const CLIENT: usize = 1;

impl Politeness {
    /// One run with the program `piecework` on so many machines, in a folder of its own below `scratch`. The round trip that the download adds
    /// is [`busy`](Self::busy) less [`idle`](Self::idle).
    ///
    /// # Errors
    /// [`Error::Refused`] where the machine cannot, [`Error::Unfinished`] where the download ends too soon.
    pub fn measure(start: Start, machines: usize, bed: &Bed) -> Result<Self, Error> {
        let piecework = bed.piecework.as_path();
        let folder = Scratch::new(&bed.scratch)?;
        let line = if machines > 1 { INSIDE } else { LINE };
        let peer = Peer { line, starts: Duration::ZERO };
        let setup = Setup { file_bytes: FILE_BYTES, peers: vec![peer; machines], holder_line: LINE, start };
        let manifest = setup.publish(piecework, &folder)?;
        let mut lines = vec![line; machines + 1];
        lines[SERVER] = LINE;
        let lab = Lab::build(&lines, bed.congestion.as_deref())?;
        let holder = format!("{}:7680", Lab::address(SERVER));
        let _holder = match start {
            Start::Seed => seed(&lab, piecework, &folder, &manifest, &holder)?,
            Start::Origin => origin(&lab, &folder)?,
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&over);
            let (echo, flow) = (on(&lab, SERVER, bind_echo)?, on(&lab, SERVER, bind_flow)?);
            let over = &over;
            scope.spawn(move || answer(&echo, over));
            scope.spawn(move || pour(&flow, over));
            let mut seen =
                Self { idle: probed(&lab)?, alone_bits: flowed(&lab)?, again_bits: flowed(&lab)?, ..Self::default() };
            let before = lab.sent_bytes(SERVER)?;
            let gets: Result<Vec<Running>, Error> = (CLIENT..=machines)
                .map(|node| {
                    let mut command = lab.command(node, piecework);
                    command.arg("get").arg(&manifest).arg("-o").arg(folder.path.join(format!("out{node}")));
                    command.args(["--background", "--json", "--no-daemon", "--state"]).arg(folder.state(node));
                    command.args(["--listen", &format!("{}:7680", Lab::address(node))]);
                    match (start, machines) {
                        (Start::Seed, _) => command.args(["--mode", "simple", "--peer", &holder]),
                        (Start::Origin, 1) => command.args(["--mode", "http-only"]),
                        (Start::Origin, _) => command.args(["--mode", "lan"]),
                    };
                    let mut get = Running::spawn(command, &folder.log(node))?;
                    get.hush();
                    Ok(get)
                })
                .collect();
            let mut gets = gets?;
            let began = Instant::now();
            while lab.sent_bytes(SERVER)? < before + (1 << 20) && began.elapsed() < GIVEN_UP {
                std::thread::sleep(LOOK);
            }
            std::thread::sleep(SETTLED);
            let (before, since) = (lab.sent_bytes(SERVER)?, Instant::now());
            seen.busy = probed(&lab)?;
            seen.background_bits = rate(lab.sent_bytes(SERVER)? - before, since.elapsed());
            seen.beside_bits = flowed(&lab)?;
            if gets.iter_mut().all(Running::runs) {
                return Ok(seen);
            }
            let said = std::fs::read_to_string(folder.log(CLIENT)).unwrap_or_default();
            Err(Error::Unfinished { node: CLIENT, said: format!("one ended while it was measured {said}") })
        })
    }
}

/// Says that a run is over, however it ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs something on a host, in a thread of its own, since a thread stays where it went.
fn on<T: Send>(lab: &Lab, host: usize, what: impl FnOnce() -> std::io::Result<T> + Send) -> Result<T, Error> {
    let refused = |said: String| Error::Refused { what: "a socket on a host".to_owned(), said };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            lab.enter(host)?;
            what().map_err(|error| refused(error.to_string()))
        });
        thread.join().unwrap_or_else(|_| Err(refused("its thread panicked".to_owned())))
    })
}

fn bind_echo() -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Lab::address(SERVER), PROBE_PORT))?;
    socket.set_read_timeout(Some(LOOK))?;
    Ok(socket)
}

fn bind_flow() -> std::io::Result<TcpListener> {
    let listener = TcpListener::bind((Lab::address(SERVER), FLOW_PORT))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Sends every probe back.
fn answer(socket: &UdpSocket, over: &AtomicBool) {
    let mut probe = [0; 64];
    while !over.load(Ordering::Relaxed) {
        if let Ok((length, from)) = socket.recv_from(&mut probe) {
            let _ = socket.send_to(probe.get(..length).unwrap_or_default(), from);
        }
    }
}

/// Sends zeros to one client after the other, as fast as TCP takes them.
fn pour(listener: &TcpListener, over: &AtomicBool) {
    let zeros = vec![0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        let Ok((mut client, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        // A client that goes away ends it.
        let ready = client.set_nonblocking(false).and_then(|()| client.set_write_timeout(Some(PROBE_LOST)));
        while ready.is_ok() && client.write_all(&zeros).is_ok() {}
    }
}

/// p95 of the round trip from the client to the server.
fn probed(lab: &Lab) -> Result<Duration, Error> {
    on(lab, CLIENT, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Lab::address(SERVER), PROBE_PORT))?;
        socket.set_read_timeout(Some(PROBE_LOST))?;
        let (began, mut times) = (Instant::now(), Vec::new());
        let mut number = 0u64;
        while began.elapsed() < PROBED {
            number += 1;
            let sent = Instant::now();
            socket.send(&number.to_be_bytes())?;
            let mut back = [0; 8];
            // An answer to an earlier probe is not this one's.
            let came = loop {
                match socket.recv(&mut back) {
                    Ok(8) if back == number.to_be_bytes() => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            times.push(if came { sent.elapsed() } else { PROBE_LOST });
            std::thread::sleep(PROBE_EVERY);
        }
        times.sort_unstable();
        Ok(times.get(times.len() * 95 / 100).copied().unwrap_or(PROBE_LOST))
    })
}

/// Payload that a TCP flow brings to the client, bits a second, once it has started.
fn flowed(lab: &Lab) -> Result<u64, Error> {
    on(lab, CLIENT, || {
        let mut flow = TcpStream::connect((Lab::address(SERVER), FLOW_PORT))?;
        flow.set_read_timeout(Some(PROBE_LOST))?;
        let mut taken = vec![0; 1 << 18];
        let began = Instant::now();
        while began.elapsed() < FLOW_STARTS {
            let _ = flow.read(&mut taken)?;
        }
        let (since, mut bytes) = (Instant::now(), 0u64);
        while since.elapsed() < FLOW_MEASURED {
            bytes += u64::try_from(flow.read(&mut taken)?).unwrap_or(0);
        }
        Ok(rate(bytes, since.elapsed()))
    })
}

/// Bits a second.
fn rate(bytes: u64, time: Duration) -> u64 {
    let micros = time.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 8_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_bits_a_second() {
        assert_eq!(rate(12_500_000, Duration::from_secs(1)), 100_000_000);
        assert_eq!(rate(0, Duration::ZERO), 0);
    }
}
