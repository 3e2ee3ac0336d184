//! `get` through the daemon: one download for all who want a content, the file checked again and written by whoever asked.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::daemon::{asked, cached_copy, node, signal, status_when};
use crate::support::tmpfs::Tmpfs;
use crate::support::{PATIENCE, Running, Site, bytes, command, n, same};

const MIB: usize = 1 << 20;

/// A site whose `n` trusts the publisher of `f`, a file of these bytes that a seed serves.
fn site_with_seed(content: &[u8]) -> (Site, Running) {
    let site = Site::new();
    site.file("f", content);
    site.publish("f", &[]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    (site, seed)
}

#[test]
fn two_gets_of_one_content_share_one_download() {
    let content = bytes(71, 9 * MIB + 5);
    let (site, seed) = site_with_seed(&content);
    let address = seed.address();
    let _node = node(&site, &["--peer", &address], |_| ());
    asked(&site, &["pause"]);
    let mut one = site.get(&["f.piecework", "-o", "one", "--state", "n"]);
    let mut two = site.get(&["f.piecework", "-o", "two", "--state", "n", "--background"]);
    let status = status_when(&site, |status| status["downloads"][0]["claims"] == 2);
    let download = &status["downloads"][0];
    assert_eq!((&download["status"], &download["priority"]), (&json!("paused"), &json!("foreground")), "{status}");
    asked(&site, &["resume"]);
    for get in [&one, &two] {
        let result = get.success();
        assert_eq!(result["through_daemon"], true, "{result}");
        assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{result}");
    }
    assert_eq!((one.wait(), two.wait()), (Some(0), Some(0)));
    assert!(same(&site.path("one"), &content) && same(&site.path("two"), &content));
    assert!(!site.path("one.part").exists() && !site.path("two.part").exists());
    let status = status_when(&site, |status| status["downloads"] == json!([]));
    assert_eq!(n(&status["totals"], "bytes_from_peers"), content.len() as u64, "once: {status}");
    let again = site.get(&["f.piecework", "-o", "three", "--state", "n", "--check", "sha256"]).success();
    assert_eq!(n(&again, "bytes_already_held"), content.len() as u64, "{again}");
    let there = site.get(&["f.piecework", "-o", "three", "--state", "n"]).success();
    assert_eq!(n(&there, "bytes_already_held"), content.len() as u64, "{there}");
    let own = site.get(&["f.piecework", "-o", "four", "--state", "n", "--no-daemon", "--peer", &address]).success();
    assert_eq!(own["through_daemon"], false, "{own}");
}

#[test]
fn a_file_leaves_the_cache_without_a_second_copy_where_blocks_can_be_shared() {
    let content = bytes(79, 48 * MIB + 5);
    let site = Site::new();
    let Some(volume) = Tmpfs::mount_sharing(&site.path("n"), &site.path("image"), 8 << 30) else { return };
    std::fs::set_permissions(site.path("n"), std::fs::Permissions::from_mode(0o700)).expect("ours");
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("n");
    let seed = site.seed("f", "seed-state");
    let _node = node(&site, &["--peer", &seed.address()], |_| ());
    let before = volume.used();
    site.get(&["f.piecework", "-o", "n/one", "--state", "n"]).success();
    let after = volume.used();
    assert!(same(&site.path("n/one"), &content));
    let length = content.len() as u64;
    assert!(after - before < length + length / 2, "{} bytes for {length}", after - before);
    // What is not what the manifest says is not handed over, shared or not.
    let mut rotten = content.clone();
    rotten[7 * MIB] ^= 1;
    std::fs::write(cached_copy(&site), &rotten).expect("ours");
    site.get(&["f.piecework", "-o", "n/two", "--state", "n"]).success();
    assert!(same(&site.path("n/two"), &content));
}

#[test]
fn a_copy_of_the_daemons_that_was_changed_after_its_download_is_mended_by_the_next() {
    let content = bytes(80, 4 * MIB + 5);
    let (site, seed) = site_with_seed(&content);
    let _node = node(&site, &["--peer", &seed.address()], |_| ());
    site.get(&["f.piecework", "-o", "one", "--state", "n"]).success();
    let mut rotten = content.clone();
    rotten[2 * MIB + 17] ^= 1;
    std::fs::write(cached_copy(&site), &rotten).expect("written");
    let result = site.get(&["f.piecework", "-o", "two", "--state", "n", "--timeout", "20"]).success();
    let figures = (n(&result, "bytes_from_peers"), n(&result, "bytes_already_held"), &result["through_daemon"]);
    assert_eq!(figures, (MIB as u64, 3 * MIB as u64 + 5, &json!(true)), "that piece alone: {result}");
    assert!(same(&site.path("two"), &content) && same(&cached_copy(&site), &content));
}

#[test]
fn a_file_that_another_manifest_brought_is_served_after_that_one_is_gone_and_fetched_over_its_link() {
    let content = bytes(81, 3 * MIB + 5);
    let (site, seed) = site_with_seed(&content);
    let address = seed.address();
    let _node = node(&site, &["--peer", &address], |_| ());
    // The same file under a second manifest, over the connection on which the first one's topic stands.
    site.ok(&["publish", "f", "--key", "key", "--name", "demo/g", "-o", "g.piecework", "-q", "--sequence", "7"]);
    for (name, out) in [("f", "one"), ("g", "two")] {
        site.get(&[&format!("{name}.piecework"), "-o", out, "--state", "n"]).success();
        status_when(&site, |status| status["downloads"] == json!([]));
    }
    site.ok(&["cache", "remove", "demo/f", "--state", "n"]);
    drop(seed);
    site.trust("other");
    let inspected: Value = serde_json::from_str(&site.ok(&["inspect", "g.piecework", "--json"])).expect("JSON");
    let link = format!("piecework:{}", inspected["files"][0]["content_id"].as_str().expect("an id"));
    let status = asked(&site, &["status"]);
    let from = status["listening"][0].as_str().expect("an address").to_owned();
    let result = site.get(&[&link, "-o", "three", "--state", "other", "--no-daemon", "--peer", &from]).success();
    assert_eq!(n(&result, "bytes_from_peers"), content.len() as u64, "{result}");
}

#[test]
fn a_directory_by_its_link_comes_through_the_daemon_where_both_trust_it() {
    let site = Site::new();
    let (a, b) = (bytes(72, 3 * MIB), bytes(73, 100));
    site.file("d/a", &a);
    site.file("d/sub/b", &b);
    site.file("d/empty", b"");
    site.publish("d", &[]);
    site.trust("n");
    let seed = site.seed("d", "seed-state");
    let _node = node(&site, &["--peer", &seed.address()], |_| ());
    let inspected: Value = serde_json::from_str(&site.ok(&["inspect", "d.piecework", "--json"])).expect("JSON");
    let link = format!("piecework:manifest:{}", inspected["manifest_id"].as_str().expect("an id"));
    let result = site.get(&[&link, "-o", "out", "--state", "n"]).success();
    assert_eq!(result["through_daemon"], true, "{result}");
    assert!(same(&site.path("out/a"), &a) && same(&site.path("out/sub/b"), &b) && same(&site.path("out/empty"), b""));
    let content = inspected["files"][0]["content_id"].as_str().expect("an id");
    let result = site.get(&[&format!("piecework:{content}"), "-o", "bare", "--state", "n"]).success();
    assert_eq!((n(&result, "bytes_total"), &result["through_daemon"]), (3 * MIB as u64, &json!(true)), "{result}");
    assert!(same(&site.path("bare"), &a));
}

#[test]
fn an_interrupted_get_lets_go_of_the_download_and_others_keep_it() {
    let content = bytes(74, 5 * MIB);
    let (site, seed) = site_with_seed(&content);
    let _node = node(&site, &["--peer", &seed.address()], |_| ());
    asked(&site, &["pause"]);
    let mut alone = site.get(&["f.piecework", "-o", "alone", "--state", "n"]);
    status_when(&site, |status| status["downloads"][0]["claims"] == 1);
    signal(&alone, "-INT");
    assert_eq!(alone.result()["error"]["code"], "interrupted");
    assert_eq!(alone.wait(), Some(75));
    status_when(&site, |status| status["downloads"] == json!([]));
    let mut killed = site.get(&["f.piecework", "-o", "killed", "--state", "n"]);
    let kept = site.get(&["f.piecework", "-o", "kept", "--state", "n"]);
    status_when(&site, |status| status["downloads"][0]["claims"] == 2);
    killed.kill();
    status_when(&site, |status| status["downloads"][0]["claims"] == 1);
    asked(&site, &["resume"]);
    assert_eq!(kept.success()["through_daemon"], true);
    assert!(same(&site.path("kept"), &content) && !site.path("killed").exists());
}

#[test]
fn a_pause_outlives_the_daemon() {
    let (site, _seed) = site_with_seed(&bytes(75, MIB));
    let mut first = node(&site, &[], |_| ());
    asked(&site, &["pause"]);
    assert_eq!(first.terminate(), Some(0));
    let mut second = node(&site, &[], |_| ());
    assert_eq!(asked(&site, &["status"])["paused"], true);
    asked(&site, &["resume"]);
    assert_eq!(second.terminate(), Some(0));
    let _third = node(&site, &[], |_| ());
    assert_eq!(asked(&site, &["status"])["paused"], false);
}

#[test]
fn a_copy_of_the_daemons_that_has_rotten_is_not_handed_over() {
    let content = bytes(76, 4 * MIB);
    let (site, seed) = site_with_seed(&content);
    let _node = node(&site, &["--peer", &seed.address(), "--fetch", "f.piecework"], |_| ());
    status_when(&site, |status| status["downloads"][0]["status"] == "complete");
    let copy = cached_copy(&site);
    let mut rotten = content.clone();
    rotten[2 * MIB + 17] ^= 1;
    std::fs::write(&copy, &rotten).expect("written");
    let said = site.refused(&["get", "f.piecework", "-o", "out", "--state", "n"], 65, "content_mismatch");
    assert!(said.contains("piece 2"), "{said}");
    assert!(!site.path("out").exists());
}

#[test]
fn who_is_not_trusted_by_the_daemon_is_fetched_without_it_and_by_nobody_else_not_at_all() {
    let content = bytes(77, MIB);
    let (site, seed) = site_with_seed(&content);
    let runtime = site.path("run/piecework");
    std::fs::create_dir_all(&runtime).expect("made");
    let _node = node(&site, &[], |node| _ = node.env("RUNTIME_DIRECTORY", &runtime));
    let get = |home: &str, args: &[&str]| {
        let mut command = command();
        command.current_dir(site.path("")).env("HOME", site.path(home)).env("XDG_RUNTIME_DIR", site.path("run"));
        command.env("XDG_STATE_HOME", site.path(home)).arg("get").args(args).arg("--json");
        Running::start(command)
    };
    // Who trusts nobody is told so before the daemon is asked, though that would.
    let mut stranger = get("home-a", &["f.piecework", "-o", "out"]);
    assert_eq!(stranger.result()["error"]["code"], "unknown_publisher");
    assert_eq!(stranger.wait(), Some(77));
    site.ok(&["key", "new", "other"]);
    site.file("g", &content);
    site.ok(&["publish", "g", "--key", "other", "--name", "other/g", "-o", "g.piecework", "-q"]);
    let state = if rustix::process::geteuid().is_root() { return } else { site.text("home-a/piecework") };
    site.ok(&["trust", "add", "other.pub", "--publisher", "other", "--names", "other/*", "--state", &state]);
    let seed_of_g = site.seed("g", "seed-g");
    let result = get("home-a", &["g.piecework", "-o", "g-out", "--peer", &seed_of_g.address()]).success();
    assert_eq!(result["through_daemon"], false, "{result}");
    drop(seed);
}

#[test]
fn another_user_of_the_group_gets_through_the_daemon_and_ends_nothing_of_others() {
    let content = bytes(78, 2 * MIB);
    let (site, seed) = site_with_seed(&content);
    if std::fs::metadata(site.path("")).expect("it is there").uid() != 0 {
        println!("skipped: only root can act as a second user");
        return;
    }
    let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("changed");
    std::fs::create_dir_all(site.path("run/piecework")).expect("made");
    std::fs::create_dir_all(site.path("theirs")).expect("made");
    ["", "run", "run/piecework", "f.piecework", "key.pub"].iter().for_each(|name| mode(&site.path(name), 0o755));
    mode(&site.path("theirs"), 0o777);
    let program = site.path("piecework");
    std::fs::copy(env!("CARGO_BIN_EXE_piecework"), &program).expect("copied");
    let runtime = site.path("run/piecework");
    let _node = node(&site, &["--peer", &seed.address()], |node| _ = node.env("RUNTIME_DIRECTORY", &runtime));
    let gid = std::fs::metadata(runtime.join("control.sock")).expect("it is there").gid();
    let theirs = |args: &[&str]| {
        let mut command = Command::new(&program);
        command.env_clear().env("HOME", site.path("theirs")).env("XDG_RUNTIME_DIR", site.path("run"));
        command.current_dir(site.path("theirs")).uid(65534).gid(gid).args(args);
        Running::start(command)
    };
    let key = site.text("key.pub");
    assert_eq!(theirs(&["trust", "add", &key, "--publisher", "demo", "--names", "demo/*"]).wait(), Some(0));
    let result = theirs(&["get", &site.text("f.piecework"), "-o", "out", "--json"]).success();
    assert_eq!(result["through_daemon"], true, "{result}");
    assert!(same(&site.path("theirs/out"), &content));
    assert_eq!(std::fs::metadata(site.path("theirs/out")).expect("it is there").uid(), 65534);
    // The machine's own download, which a member may neither end nor have the contents of.
    let wanted = json!({ "wanted": "piecework:0000000000000000000000000000000000000000000000000000000000000001" });
    let runtime_of = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = piecework::surfaces::control::Client::new(&runtime.join("control.sock"));
    let number = runtime_of.block_on(client.post("/v1/downloads", Some(&wanted))).expect("begun");
    let number = n(&number, "number");
    for (method, path) in
        [("DELETE", format!("/v1/downloads/{number}")), ("GET", format!("/v1/downloads/{number}/manifest"))]
    {
        let answer = raw_as(65534, gid, &runtime.join("control.sock"), method, &path);
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("another user's download"), "{answer}");
    }
    let answer = raw_as(65534, gid, &runtime.join("control.sock"), "GET", "/v1/downloads/x");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("\"code\":\"usage\""), "{answer}");
    // As many connections as one user may have: that user waits, the owner does not.
    let mut hog = Command::new("python3");
    let script = "import socket,sys,time\ns=[]\nfor i in range(20):\n c=socket.socket(socket.AF_UNIX);c.connect(sys.argv[1]);s.append(c)\n\
        print(s[-1].recv(4096).decode().split()[1],flush=True)\ntime.sleep(60)\n";
    hog.args(["-c", script]).arg(runtime.join("control.sock")).uid(65534).gid(gid);
    if crate::support::have("python3") {
        let hog = Running::start(hog);
        assert_eq!(hog.line_within(PATIENCE).as_deref(), Some("503"), "{}", hog.stderr());
        let status = runtime_of.block_on(client.get("/v1/status")).expect("the owner is answered");
        assert_eq!(n(&status["downloads"][0], "number"), number, "it goes on: {status}");
    }
}

/// One raw request as another user; the answer as text.
fn raw_as(uid: u32, gid: u32, socket: &Path, method: &str, path: &str) -> String {
    let script = "import socket,sys\nc=socket.socket(socket.AF_UNIX);c.connect(sys.argv[1])\n\
        c.sendall(f'{sys.argv[2]} {sys.argv[3]} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n\\r\\n'.encode())\n\
        print(b''.join(iter(lambda: c.recv(65536), b'')).decode())\n";
    let mut python = Command::new("python3");
    python.args(["-c", script]).arg(socket).args([method, path]).uid(uid).gid(gid);
    let output = python.output().expect("python3 starts");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
