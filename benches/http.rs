//! Is a download over HTTP alone, verified, as fast as `curl`, which verifies nothing?
//!
//! nginx on loopback, 1 GiB from its page cache, to the disk; `curl -o` to the same disk in the same run is the limit.
//! Hashing and writing run beside the socket on a second core, so expected at least 0.95 of it. Then the same where each
//! connection is held to 50 MB/s by the server: several ranges in flight must pass one stream by far.
//! `PIECEWORK_BENCH_GIB` sets the size (1). Skipped where nginx or curl is missing.

// A bench reads the clock; that is its work.
#![allow(clippy::disallowed_methods)]

mod support;

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::limits::Warm;
use support::scene::Scene;
use support::{Folder, gib_from_environment, median, megabytes, piecework, random_file, text, watched};

fn main() {
    support::bare::role();
    let length = gib_from_environment(1.0);
    let folder = Folder::new("http");
    let content = folder.join("content");
    random_file(&content, length);
    let Some(fast) = Nginx::start(&folder, "fast", "") else { return };
    let Some(slow) = Nginx::start(&folder, "slow", "limit_rate 50m;") else { return };
    let mut warm = Warm::new(folder.join("warm"), length);
    let urls = [format!("http://{}/content", fast.address), format!("http://{}/content", slow.address)];
    let scene = Scene::publish(folder, content, length, &["--url", &urls[0]]);
    let state = scene.folder.join("state");
    let mut ratios = Vec::new();
    for round in 0..5 {
        let out = scene.folder.join(&format!("curl-{round}"));
        warm.free_for(&out);
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", text(&out), &urls[0]]);
        let (curl, curl_usage, good) = watched(curl);
        assert!(good, "curl succeeds");
        let out = scene.folder.join(&format!("get-{round}"));
        warm.free_for(&out);
        let (get, usage, good) = watched(get(&scene, &out, &state, &urls[0]));
        assert!(good, "get succeeds");
        println!(
            "round {round}: get {:.0} MB/s, curl {:.0} MB/s, ratio {:.2}; CPU s: get {:.2}, curl {:.2}; get {} MiB resident",
            megabytes(length) / get,
            megabytes(length) / curl,
            curl / get,
            usage.cpu_seconds,
            curl_usage.cpu_seconds,
            usage.peak_resident >> 20,
        );
        ratios.push(curl / get);
    }
    println!("get --mode http-only: {:.2} of curl's rate (median of 5; to reach: 0.95)", median(ratios));
    let out = scene.folder.join("slow");
    warm.free_for(&out);
    let (took, _, good) = watched(get(&scene, &out, &state, &urls[1]));
    assert!(good, "get succeeds");
    let rate = megabytes(length) / took;
    println!("where a connection is held to 52 MB/s: {rate:.0} MB/s = {:.1} connections' worth", rate / 52.4);
}

fn get(scene: &Scene, out: &Path, state: &Path, url: &str) -> Command {
    piecework(&[
        "get",
        text(&scene.manifest),
        "-o",
        text(out),
        "--mode",
        "http-only",
        "--source",
        url,
        "--state",
        text(state),
        "-q",
    ])
}

/// nginx in the foreground, with a folder of its own.
struct Nginx {
    child: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(root: &Folder, name: &str, directives: &str) -> Option<Self> {
        for program in ["nginx", "curl"] {
            if Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
                println!("skipped: there is no {program}");
                return None;
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let address = listener.local_addr().expect("bound");
        let prefix = root.join(name);
        std::fs::create_dir_all(&prefix).expect("a folder of ours");
        let path = prefix.join("nginx.conf");
        let mut file = std::fs::File::create(&path).expect("a folder of ours");
        write!(
            file,
            "daemon off; pid {name}.pid; worker_processes 1; error_log error.log; {user}\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; sendfile on; tcp_nopush on; server {{ listen {address}; root {root}; {directives} }} }}\n",
            user = if rustix::process::geteuid().is_root() { "user root;" } else { "" },
            root = root.0.display(),
        )
        .expect("there is room");
        // Inherited as nginx passes sockets to its successor: bound before it starts, so that nobody waits or races.
        let child = Command::new("nginx")
            .args(["-p", text(&prefix), "-c", text(&path), "-e", "error.log"])
            .env("NGINX", "0;")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)))
            .spawn()
            .expect("nginx starts");
        Some(Self { child, address })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master ends its worker when asked, not when killed.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
