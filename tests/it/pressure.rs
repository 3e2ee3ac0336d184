//! What slow and broken ends do to the others: nothing. A cut way is replaced by the next and loses nothing; a peer that
//! does not read, and a disk that does not write, hold up their own download alone, in bounded memory.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use crate::support::{PATIENCE, Running, Site, bytes, have, n, same};

const MIB: usize = 1 << 20;
/// What a node may keep resident while somebody does not take what it has.
const RESIDENT_MAX: u64 = 64 << 20;

/// First byte of a connection on the shared port: a TLS ClientHello.
const TLS: u8 = 0x16;

/// What a relay does to the connections that pass it.
#[derive(Clone, Copy)]
enum Fault {
    /// Cuts the first TLS connection after so many bytes from the listener, and every later one after its first byte.
    CutsTls(u64),
    /// Reads nothing more from the listener after so many bytes, until it is released.
    Stalls(u64),
}

/// Stands between a dialler and a listener on loopback.
struct Relay {
    address: SocketAddr,
    /// Connections that began with a ClientHello, and others.
    tls: Arc<AtomicU64>,
    streams: Arc<AtomicU64>,
    /// Said once the fault has struck.
    struck: mpsc::Receiver<()>,
    released: Arc<AtomicBool>,
}

impl Relay {
    fn start(to: SocketAddr, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let (tell, struck) = mpsc::channel();
        let [tls, streams] = [(); 2].map(|()| Arc::<AtomicU64>::default());
        let released = Arc::<AtomicBool>::default();
        let relay = Self { address, tls: tls.clone(), streams: streams.clone(), struck, released: released.clone() };
        std::thread::spawn(move || {
            for dialler in listener.incoming().map_while(Result::ok) {
                let mut first = [0];
                if dialler.peek(&mut first).unwrap_or(0) == 0 {
                    continue;
                }
                let is_tls = first[0] == TLS;
                let earlier = if is_tls { &tls } else { &streams }.fetch_add(1, Ordering::SeqCst);
                if matches!(fault, Fault::CutsTls(_)) && is_tls && earlier > 0 {
                    let _ = dialler.shutdown(Shutdown::Both);
                    continue;
                }
                let Ok(listener) = TcpStream::connect(to) else { continue };
                let (up, down) = (dialler.try_clone().expect("a socket"), listener.try_clone().expect("a socket"));
                std::thread::spawn(move || pass(up, down, |_| true));
                let (tell, released) = (tell.clone(), released.clone());
                std::thread::spawn(move || {
                    pass(listener, dialler, |total| match fault {
                        Fault::CutsTls(most) if is_tls && total >= most => {
                            let _ = tell.send(());
                            false
                        }
                        Fault::Stalls(most) if total >= most && !released.load(Ordering::SeqCst) => {
                            let _ = tell.send(());
                            while !released.load(Ordering::SeqCst) {
                                std::thread::park_timeout(std::time::Duration::from_millis(2));
                            }
                            true
                        }
                        _ => true,
                    });
                });
            }
        });
        relay
    }

    fn has_struck(&self) {
        self.struck.recv_timeout(PATIENCE).expect("so much passes");
    }

    fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }
}

/// Copies until the end, or until `goes_on` of the bytes so far says no.
fn pass(mut from: TcpStream, mut to: TcpStream, mut goes_on: impl FnMut(u64) -> bool) {
    let mut buffer = vec![0; 16 << 10];
    let mut total = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        total += read as u64;
        if !goes_on(total) || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// One file, published, trusted and seeded.
fn scene(seed: u8, length: usize) -> (Site, Vec<u8>, Running, SocketAddr) {
    let site = Site::new();
    let content = bytes(seed, length);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    site.trust("s2");
    let serving = site.seed("f", "seed-state");
    let address = serving.address();
    let mut parts = address.split('/').skip(2);
    let (ip, port) = (parts.next().expect("an address"), parts.nth(1).expect("a port"));
    let socket = SocketAddr::new(ip.parse().expect("an address"), port.parse().expect("a port"));
    (site, content, serving, socket)
}

fn get(site: &Site, out: &str, state: &str, peer: &str) -> Running {
    site.get(&["f.piecework", "-o", out, "--peer", peer, "--mode", "simple", "--state", state])
}

#[test]
fn a_way_that_is_cut_in_the_middle_is_replaced_by_the_other_and_nothing_is_lost() {
    let (site, content, _seed, socket) = scene(71, 24 * MIB + 5);
    let relay = Relay::start(socket, Fault::CutsTls(8 << 20));
    let get = get(&site, "out", "s", &relay.address.to_string());
    relay.has_struck();
    let result = get.success();
    assert!(same(&site.path("out"), &content));
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{result}");
    assert_eq!(n(&result, "bytes_wasted"), 0, "{result}");
    assert!(relay.tls.load(Ordering::SeqCst) >= 2, "the direct way was tried again");
    assert!(relay.streams.load(Ordering::SeqCst) >= 1, "and the stream was taken");
}

#[test]
fn a_peer_that_reads_nothing_holds_up_nobody_else() {
    let (site, content, seed, socket) = scene(72, 48 * MIB);
    let relay = Relay::start(socket, Fault::Stalls(2 << 20));
    let slow = get(&site, "slow", "s", &relay.address.to_string());
    relay.has_struck();
    get(&site, "quick", "s2", &socket.to_string()).success();
    assert!(same(&site.path("quick"), &content));
    // The held one may have what it lacks from the quick one by now: they hear of each other.
    assert!(seed.peak_resident() < RESIDENT_MAX, "{} MiB", seed.peak_resident() >> 20);
    relay.release();
    slow.success();
    assert!(same(&site.path("slow"), &content));
}

#[test]
fn a_disk_that_does_not_write_holds_up_its_own_download_alone() {
    if !have("gcc") {
        return;
    }
    let (site, content, seed, socket) = scene(73, 96 * MIB);
    let shim = site.file(
        "slow.c",
        b"#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <fcntl.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
          static ssize_t (*real)(int, const void *, size_t, off_t);\n\
          ssize_t pwrite64(int fd, const void *b, size_t n, off_t o) {\n\
            if (!real) real = dlsym(RTLD_NEXT, \"pwrite64\");\n\
            if (n >= 65536) {\n\
              close(open(getenv(\"DISK_WAITS\"), O_CREAT | O_WRONLY, 0600));\n\
              while (access(getenv(\"DISK_GOES_ON\"), F_OK)) usleep(2000);\n\
            }\n\
            return real(fd, b, n, o);\n}\n\
          ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { return pwrite64(fd, b, n, o); }\n",
    );
    let library = site.text("slow.so");
    let built = Command::new("gcc").args(["-shared", "-fPIC", "-o", &library]).arg(&shim).arg("-ldl").status();
    assert!(built.expect("gcc runs").success());
    let mut command = crate::support::command();
    command.current_dir(site.path("")).env("LD_PRELOAD", &library);
    command.env("DISK_WAITS", site.path("waits")).env("DISK_GOES_ON", site.path("goes-on"));
    command.args(["get", "f.piecework", "-o", "slow", "--peer", &socket.to_string()]);
    command.args(["--mode", "simple", "--state", "s", "--json"]);
    let slow = Running::start(command);
    let until = std::time::Instant::now() + PATIENCE;
    while !site.path("waits").exists() {
        assert!(std::time::Instant::now() < until, "{}", slow.stderr());
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
    get(&site, "quick", "s2", &socket.to_string()).success();
    assert!(same(&site.path("quick"), &content));
    assert!(!site.path("slow").exists(), "the slow one waits still");
    for (name, process) in [("seed", &seed), ("get", &slow)] {
        assert!(process.peak_resident() < RESIDENT_MAX, "{name}: {} MiB", process.peak_resident() >> 20);
    }
    site.file("goes-on", b"");
    slow.success();
    assert!(same(&site.path("slow"), &content));
}
