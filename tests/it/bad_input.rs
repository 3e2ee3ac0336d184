//! Bad input on the command line: a clear message, a code word, an exit code, and nothing under the final name.

use crate::support::{Site, bytes};

const MIB: usize = 1 << 20;

fn published() -> Site {
    let site = Site::new();
    site.file("f", &bytes(21, 2 * MIB));
    site.publish("f", &[]);
    site
}

#[test]
fn an_unknown_publisher_is_refused_with_the_command_that_would_trust_it() {
    let site = published();
    let said = site.refused(&["get", "f.piecework", "-o", "out", "--state", "s"], 77, "unknown_publisher");
    assert!(said.contains("piecework trust add --from f.piecework --key-id"), "{said}");
    assert!(said.contains("compare"), "{said}");
    assert!(!site.path("out").exists() && !site.path("out.part").exists());
}

#[test]
fn an_expired_manifest_is_refused() {
    let site = Site::new();
    site.file("f", b"x");
    site.ok(&[
        "publish",
        "f",
        "--key",
        "key",
        "--name",
        "demo/f",
        "--expires",
        "2001-01-01T00:00:00Z",
        "-o",
        "f.piecework",
    ]);
    site.trust("s");
    let said = site.refused(&["get", "f.piecework", "-o", "out", "--state", "s"], 77, "expired");
    assert!(said.contains("2001-01-01"), "{said}");
}

#[test]
fn a_tampered_manifest_is_refused() {
    let site = published();
    site.trust("s");
    let mut manifest = std::fs::read(site.path("f.piecework")).expect("published");
    let middle = manifest.len() / 4;
    manifest[middle] ^= 1;
    site.file("bad.piecework", &manifest);
    site.refused(&["get", "bad.piecework", "-o", "out", "--state", "s"], 65, "bad_signature");
    site.file("cut.piecework", &manifest[..manifest.len() / 2]);
    site.refused(&["get", "cut.piecework", "-o", "out", "--state", "s"], 65, "bad_manifest");
}

#[test]
fn an_older_publication_is_refused() {
    let site = Site::new();
    site.trust("s");
    for (sequence, name) in [("2", "new"), ("1", "old")] {
        site.file("f", name.as_bytes());
        let out = format!("{name}.piecework");
        site.ok(&["publish", "f", "--key", "key", "--name", "demo/f", "--sequence", sequence, "-o", &out]);
    }
    // Seen is seen, though nobody delivers it here.
    site.refused(
        &["get", "new.piecework", "-o", "out", "--state", "s", "--mode", "http-only", "--timeout", "1"],
        69,
        "no_source",
    );
    site.refused(&["get", "old.piecework", "-o", "out", "--state", "s", "--mode", "http-only"], 77, "rollback");
}

#[test]
fn a_name_outside_the_publishers_scope_is_refused() {
    let site = Site::new();
    site.file("f", b"x");
    site.ok(&["publish", "f", "--key", "key", "--name", "other/f", "-o", "f.piecework"]);
    site.trust("s");
    site.refused(&["get", "f.piecework", "-o", "out", "--state", "s"], 77, "name_not_allowed");
}

#[test]
fn no_source_at_all_fails_after_the_timeout() {
    let site = published();
    site.trust("s");
    let args = ["get", "f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--timeout", "1"];
    let said = site.refused(&args, 69, "no_source");
    assert!(said.contains("--peer"), "{said}");
    assert!(!site.path("out").exists());
}

#[test]
fn missing_truncated_and_wrong_files_are_told_apart() {
    let site = published();
    site.refused(&["get", "nothing.piecework", "-o", "out", "--state", "s"], 66, "input_missing");
    site.refused(&["seed", "nothing", "--manifest", "f.piecework", "--state", "s"], 66, "input_missing");
    site.file("short", &bytes(21, MIB));
    let seed = ["seed", "short", "--manifest", "f.piecework", "--state", "s", "--listen", "127.0.0.1:0"];
    site.refused(&seed, 65, "wrong_length");
    site.refused(&["verify", "short", "f.piecework", "--key", "key.pub"], 65, "wrong_length");
    site.file("wrong", &bytes(22, 2 * MIB));
    site.refused(&["verify", "wrong", "f.piecework", "--key", "key.pub"], 65, "content_mismatch");
}

#[test]
fn a_destination_that_exists_is_kept_unless_forced() {
    let site = published();
    site.trust("s");
    site.file("out", b"mine");
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let args = ["get", "f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--peer", &peer];
    let said = site.refused(&args, 73, "destination_exists");
    assert!(said.contains("--force"), "{said}");
    assert_eq!(std::fs::read(site.path("out")).expect("still there"), b"mine");
    // A .part that is not ours is never touched, not even then.
    site.file("out.part", b"somebody's");
    let mut forced = args.to_vec();
    forced.push("--force");
    site.refused(&forced, 73, "destination_exists");
    assert_eq!(std::fs::read(site.path("out.part")).expect("still there"), b"somebody's");
    std::fs::remove_file(site.path("out.part")).expect("ours");
    site.ok(&forced);
    assert_eq!(std::fs::read(site.path("out")).expect("replaced"), bytes(21, 2 * MIB));
}

#[test]
fn a_port_in_use_is_said() {
    let site = published();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let listen = taken.local_addr().expect("bound").to_string();
    let args = ["seed", "f", "--manifest", "f.piecework", "--state", "s", "--listen", &listen];
    let said = site.refused(&args, 71, "port_taken");
    assert!(said.contains(&listen) && said.contains("--listen"), "{said}");
}

#[test]
fn a_folder_that_is_not_there_is_said() {
    let site = published();
    site.trust("s");
    let args = ["get", "f.piecework", "-o", "no/such/folder/out", "--state", "s", "--mode", "simple"];
    site.refused(&args, 73, "cannot_create");
}

#[test]
fn wrong_usage_and_bad_links_are_told_apart() {
    let site = published();
    assert_eq!(site.run(&["get"]).status.code(), Some(64));
    assert_eq!(site.run(&["get", "f.piecework", "--no-such-flag"]).status.code(), Some(64));
    site.refused(&["get", "piecework:12", "--state", "s"], 65, "bad_input");
    site.refused(&["get", "f.piecework", "--peer", "nowhere", "--state", "s"], 64, "usage");
}

#[test]
fn a_full_disk_is_said_and_nothing_is_lost() {
    let site = published();
    site.trust("s");
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    // A file size limit answers as a full disk does, at the first byte past it.
    let script = format!(
        "ulimit -f 1024; exec {} get f.piecework -o out --state s --mode simple --peer {peer} --json",
        env!("CARGO_BIN_EXE_piecework")
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &format!("trap '' XFSZ; {script}")])
        .current_dir(site.path(""))
        .output()
        .expect("bash runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(74), "{said}");
    assert!(said.contains("\"disk_full\""), "{said}");
    assert!(!site.path("out").exists());
    // With room again it goes on.
    site.get(&["f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--peer", &peer]).success();
}
