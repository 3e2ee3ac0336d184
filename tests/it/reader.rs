//! `get -o -`: a file read while it comes. Only verified bytes, in order; a slow reader holds up nothing, and one that
//! leaves is no fault.

use std::io::Read;
use std::process::{Child, Stdio};

use crate::daemon::node;
use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{PATIENCE, Running, Site, bytes, command, n, same};

const MIB: usize = 1 << 20;

/// A site whose file `f` is at `urls`.
fn site_with(content: &[u8], urls: &[&str]) -> Site {
    let site = Site::new();
    site.file("f", content);
    site.publish("f", urls);
    site.trust("s");
    site
}

const OVER_HTTP: [&str; 8] = ["f.piecework", "-o", "-", "--mode", "http-only", "--state", "s", "--timeout=60"];

/// `get` with these arguments, its stdout in a pipe.
fn streaming(site: &Site, args: &[&str]) -> Child {
    let mut command = command();
    command.current_dir(site.path("")).arg("get").args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits for something that another process brings about.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
}

/// What a program left of a stream: nothing.
fn nothing_is_left(site: &Site) {
    let left = std::fs::read_dir(site.path("s")).expect("a state folder").filter_map(Result::ok);
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|it| it.to_string_lossy().contains("part")).collect();
    assert!(left.is_empty() && !site.path("-").exists(), "{left:?}");
}

#[test]
fn a_file_comes_out_of_the_pipe_as_it_is() {
    for length in [0, 1, MIB, 9 * MIB + 5] {
        let content = bytes(91, length);
        let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
        let site = site_with(&content, &[&origin.url("/file")]);
        let output = streaming(&site, &OVER_HTTP).wait_with_output().expect("our child");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == content, "{length} bytes");
        nothing_is_left(&site);
    }
}

#[test]
fn peers_deliver_to_a_reader_too() {
    let content = bytes(92, 20 * MIB + 3);
    let site = site_with(&content, &[]);
    let seeds = [site.seed("f", "one"), site.seed("f", "two")];
    let [one, two] = seeds.each_ref().map(|seed| seed.address());
    let by_manifest = ["f.piecework", "-o", "-", "--mode", "simple", "--listen", "127.0.0.1:0", "--state", "s"];
    let peers = ["--peer", &one, "--peer", &two];
    let output = streaming(&site, &[&by_manifest[..], &peers].concat()).wait_with_output().expect("our child");
    assert!(output.status.success() && output.stdout == content, "{}", String::from_utf8_lossy(&output.stderr));
    // By the content id alone, whose manifest is nobody's word until its last piece fits.
    let link = format!("piecework:{}", blake3::hash(&content).to_hex());
    let args = [&[link.as_str()], &by_manifest[1..], &peers[..]].concat();
    let output = streaming(&site, &args).wait_with_output().expect("our child");
    assert!(output.status.success() && output.stdout == content, "{}", String::from_utf8_lossy(&output.stderr));
    nothing_is_left(&site);
}

#[test]
fn bytes_are_handed_on_while_others_are_missing() {
    let content = bytes(93, 16 * MIB);
    // One source stops after its first pieces, the other is busy until the reader has seen them.
    let stops = TestOrigin::start(content.clone(), Behaviour::StallsAfter(3 * MIB as u64));
    let busy = Behaviour::Status { status: "503 Service Unavailable", retry_after: Some("1".into()), times: u64::MAX };
    let later = TestOrigin::start(content.clone(), busy);
    let site = site_with(&content, &[&stops.url("/file"), &later.url("/file")]);
    let mut get = streaming(&site, &OVER_HTTP);
    let mut stdout = get.stdout.take().expect("piped");
    let mut read = vec![0; MIB];
    stdout.read_exact(&mut read).expect("the first piece");
    assert!(stops.seen().body_bytes < content.len() as u64);
    later.behave(Behaviour::Normal);
    drop(stops);
    stdout.read_to_end(&mut read).expect("the rest");
    assert!(get.wait().expect("our child").success());
    assert!(read == content);
}

#[test]
fn a_slow_reader_holds_up_nothing() {
    let content = bytes(94, 24 * MIB);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = site_with(&content, &[&origin.url("/file")]);
    let mut get = streaming(&site, &OVER_HTTP);
    let mut stdout = get.stdout.take().expect("piped");
    let mut read = vec![0; 1000];
    stdout.read_exact(&mut read).expect("a beginning");
    until("all is fetched while the reader has read a little", || origin.seen().body_bytes == content.len() as u64);
    stdout.read_to_end(&mut read).expect("the rest");
    assert!(get.wait().expect("our child").success());
    assert!(read == content);
    nothing_is_left(&site);
}

#[test]
fn a_reader_that_leaves_early_is_no_fault() {
    let content = bytes(95, 24 * MIB);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = site_with(&content, &[&origin.url("/file")]);
    let mut get = streaming(&site, &OVER_HTTP);
    let mut stdout = get.stdout.take().expect("piped");
    let mut read = vec![0; 100_000];
    stdout.read_exact(&mut read).expect("a beginning");
    drop(stdout);
    let output = get.wait_with_output().expect("our child");
    assert!(read == content[..100_000]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty(), "quietly: {}", String::from_utf8_lossy(&output.stderr));
    nothing_is_left(&site);
}

#[test]
fn nothing_unverified_reaches_the_reader() {
    let content = bytes(96, 8 * MIB);
    let bad = TestOrigin::start(content.clone(), Behaviour::OtherBytes);
    let good = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = site_with(&content, &[&bad.url("/file"), &good.url("/file")]);
    let output = streaming(&site, &OVER_HTTP).wait_with_output().expect("our child");
    assert!(output.status.success() && output.stdout == content, "{}", String::from_utf8_lossy(&output.stderr));
    let site = site_with(&content, &[&bad.url("/file")]);
    let output = streaming(&site, &OVER_HTTP).wait_with_output().expect("our child");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(65), 0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("[source_changed]"));
    nothing_is_left(&site);
}

#[test]
fn what_cannot_be_streamed_is_refused() {
    let site = Site::new();
    site.file("d/a", b"a");
    site.file("d/b", b"b");
    site.publish("d", &[]);
    site.trust("s");
    site.refused(&["get", "d.piecework", "-o", "-", "--state", "s"], 64, "usage");
    site.file("f", b"f");
    site.publish("f", &[]);
    for more in [&["--json"][..], &["--keep-seeding"], &["--check", "sha256"]] {
        let args = [&["get", "f.piecework", "-o", "-", "--state", "s"], more].concat();
        site.refused(&args, 64, "usage");
    }
}

/// A seed of `f` that sends a MB a second.
fn slow_seed(site: &Site, state: &str) -> Running {
    let mut seed = command();
    seed.current_dir(site.path("")).env("PIECEWORK_MAX_UPLOAD_RATE", "1 MB/s");
    seed.args(["seed", "f", "--manifest", "f.piecework", "--listen", "127.0.0.1:0", "--mode", "simple"]);
    seed.args(["--state", state]);
    Running::start(seed)
}

/// `get --background` of `f` from a seed that sends a MB a second, beside an origin; bytes from peers and over HTTP.
fn background(site: &Site, out: &str, more: &[&str]) -> (u64, u64) {
    let seed = slow_seed(site, &format!("{out}-seed"));
    let mut get = command();
    get.current_dir(site.path("")).env("PIECEWORK_MIN_BACKGROUND_RATE", "1 KB/s");
    get.args(["get", "f.piecework", "-o", out, "--mode", "simple", "--listen", "127.0.0.1:0", "--state", "s"]);
    get.args(["--background", "--json", "--peer", &seed.address()]).args(more);
    let result = Running::start(get).success();
    (n(&result, "bytes_from_peers"), n(&result, "bytes_from_http"))
}

#[test]
fn a_background_download_spends_the_origin_only_for_its_deadline() {
    let content = bytes(97, 12 * MIB);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = site_with(&content, &[&origin.url("/file")]);
    // Twelve seconds of the seed's: nobody asked for more, so the origin is left alone.
    let (peers, http) = background(&site, "patient", &[]);
    assert!(same(&site.path("patient"), &content));
    assert!(http <= MIB as u64 && peers >= 11 * MIB as u64, "{peers} from peers, {http} over HTTP");
    // Half of that time: what the seed will not have brought comes over HTTP.
    let (peers, http) = background(&site, "due", &["--by", "6s"]);
    assert!(same(&site.path("due"), &content));
    assert!(http >= 3 * MIB as u64 && peers >= MIB as u64, "{peers} from peers, {http} over HTTP");
    site.refused(&["get", "f.piecework", "-o", "late", "--by", "2001-01-01T00:00:00Z", "--state", "s"], 64, "usage");
    let unread = site.run(&["get", "f.piecework", "-o", "late", "--by", "soon", "--state", "s"]);
    assert_eq!(unread.status.code(), Some(64));
}

#[test]
fn the_daemon_spends_the_origin_for_a_deadline_too() {
    let content = bytes(98, 12 * MIB);
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    let site = site_with(&content, &[&origin.url("/file")]);
    let seed = slow_seed(&site, "seed-state");
    let address = seed.address();
    site.trust("n");
    let _node = node(&site, &["--peer", &address], |node| _ = node.env("PIECEWORK_MIN_BACKGROUND_RATE", "1 KB/s"));
    let get = site.get(&["f.piecework", "-o", "out", "--state", "n", "--background", "--by", "6s"]);
    let result = get.success();
    assert!(same(&site.path("out"), &content));
    assert_eq!(result["through_daemon"], true, "{result}");
    assert!(n(&result, "bytes_from_http") >= 3 * MIB as u64, "{result}");
}
