//! Power cuts and failing disks: what was verified and synced is never fetched again, what is not verified never handed
//! over.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::{Running, Site, bytes, have, n, same};

const MIB: usize = 1 << 20;

fn check(site: &Site, state: &str) -> Value {
    let output = site.run(&["store", "check", state, "--json"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(said.lines().next().expect("a report")).expect("JSON")
}

/// Bytes that the state says are durable.
fn durable(report: &Value) -> u64 {
    n(report, "durable_bytes")
}

#[test]
fn a_hundred_kills_lose_nothing_that_was_synced() {
    let site = Site::new();
    let content = bytes(31, 160 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let args = ["f.piecework", "-o", "out", "--peer", &peer, "--mode", "simple", "--state", "s", "--force"];
    let (mut kills, mut resumed, mut held_before) = (0u32, 0u32, 0);
    let mut random = blake3::Hasher::new_keyed(&[31; 32]).finalize_xof();
    while kills < 100 {
        let mut get = site.get(&args);
        let mut die = [0; 2];
        random.fill(&mut die);
        // A random moment: so long after the first word of progress.
        let moment = Duration::from_micros(u64::from(u16::from_le_bytes(die)) * 4);
        let mut first: Option<Value> = None;
        let until = std::time::Instant::now() + moment;
        let mut finished = false;
        while let Some(line) = get.line_within(until.saturating_duration_since(std::time::Instant::now())) {
            let json: Value = serde_json::from_str(&line).expect("JSON");
            finished |= json.get("verified").is_some();
            first.get_or_insert(json);
        }
        get.kill();
        kills += 1;
        if let Some(first) = first {
            let already = n(&first, "bytes_already_held");
            assert!(already >= held_before || held_before == content.len() as u64, "{already} of {held_before}");
            resumed += u32::from(already > 0);
        }
        let report = check(&site, "s");
        held_before = durable(&report);
        if finished || site.path("out").exists() {
            assert!(same(&site.path("out"), &content), "what stands under the final name is right");
            std::fs::remove_file(site.path("out")).expect("it is there");
            held_before = 0;
        }
    }
    site.get(&args).success();
    assert!(same(&site.path("out"), &content));
    assert!(resumed > 0, "no run found anything that an earlier one had kept");
    eprintln!("{kills} kills, {resumed} runs went on from kept pieces");
}

/// Runs a small download under strace with one system call failing; returns how many such calls there were until the
/// fault was not reached any more.
fn each_call_fails(call: &str, error: &str) -> u32 {
    let site = Site::new();
    let content = bytes(32, 3 * MIB + 9);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s0");
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    for k in 1..200 {
        let (state, out) = (format!("s{k}"), format!("out{k}"));
        site.trust(&state);
        let trace = site.text("trace");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", &trace, "-e", &format!("trace={call}"), "-e"])
            .arg(format!("inject={call}:error={error}:when={k}"))
            .arg(env!("CARGO_BIN_EXE_piecework"))
            .args(["get", "f.piecework", "-o", &out, "--peer", &peer, "--mode", "simple", "--state", &state])
            .args(["--disk-threads", "1", "--json", "--timeout", "20"])
            .current_dir(site.path(""))
            .output()
            .expect("strace runs");
        let injected = std::fs::read_to_string(&trace).is_ok_and(|trace| trace.contains("INJECTED"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        check(&site, &state);
        if output.status.success() {
            assert!(same(&site.path(&out), &content), "{call} {error} at {k}: {said}");
        } else {
            assert!(output.status.code().is_some_and(|code| (64..=78).contains(&code)), "{call} at {k}: {output:?}");
            assert!(!site.path(&out).exists() || same(&site.path(&out), &content), "{call} {error} at {k}");
            // The disk is well again: the next run succeeds.
            let args = ["f.piecework", "-o", &out, "--peer", &peer, "--mode", "simple", "--state", &state];
            site.get(&args).success();
            assert!(same(&site.path(&out), &content), "{call} {error} at {k}, second run");
        }
        if !injected {
            return k - 1;
        }
    }
    panic!("{call} is called without end");
}

/// Whether strace may trace here.
fn strace_works() -> bool {
    have("strace")
        && Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| {
            if !status.success() {
                eprintln!("skipped: strace may not trace here");
            }
            status.success()
        })
}

#[test]
fn every_write_may_fail() {
    if strace_works() {
        for error in ["EIO", "ENOSPC"] {
            assert!(each_call_fails("pwrite64", error) >= 4);
        }
    }
}

#[test]
fn room_may_be_refused() {
    if strace_works() {
        each_call_fails("fallocate", "ENOSPC");
        // A file system that cannot: the file is sparse then, and the download succeeds.
        each_call_fails("fallocate", "EOPNOTSUPP");
    }
}

#[test]
fn every_sync_may_fail() {
    if strace_works() {
        let count = each_call_fails("fdatasync", "EIO") + each_call_fails("fsync", "EIO");
        assert!(count >= 4, "{count}");
        each_call_fails("fsync", "ENOSPC");
    }
}

#[test]
fn every_rename_may_fail() {
    if strace_works() {
        let count = each_call_fails("rename", "EIO")
            + each_call_fails("renameat2", "EIO")
            + each_call_fails("renameat", "ENOSPC");
        assert!(count >= 2, "{count}");
    }
}

#[test]
fn short_writes_are_continued() {
    if !have("gcc") {
        return;
    }
    let site = Site::new();
    let shim = site.file(
        "short.c",
        b"#define _GNU_SOURCE\n#include <dlfcn.h>\n#include <unistd.h>\n\
          static ssize_t (*real)(int, const void *, size_t, off_t);\n\
          static unsigned calls;\n\
          ssize_t pwrite64(int fd, const void *b, size_t n, off_t o) {\n\
            if (!real) real = dlsym(RTLD_NEXT, \"pwrite64\");\n\
            if (n > 1 && __sync_add_and_fetch(&calls, 1) % 3 == 0) n = n / 3 + 1;\n\
            return real(fd, b, n, o);\n}\n\
          ssize_t pwrite(int fd, const void *b, size_t n, off_t o) { return pwrite64(fd, b, n, o); }\n",
    );
    let library = site.text("short.so");
    let built = Command::new("gcc").args(["-shared", "-fPIC", "-o", &library]).arg(&shim).arg("-ldl").status();
    assert!(built.expect("gcc runs").success());
    let content = bytes(33, 9 * MIB + 1);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let seed = site.seed("f", "seed-state");
    let mut command = crate::support::command();
    command.current_dir(site.path("")).env("LD_PRELOAD", &library);
    command.args(["get", "f.piecework", "-o", "out", "--peer", &seed.address(), "--mode", "simple", "--state", "s"]);
    command.args(["--disk-threads", "1", "--json"]);
    Running::start(command).success();
    assert!(same(&site.path("out"), &content));
    check(&site, "s");
}

#[test]
fn rot_in_a_seeds_file_is_found_before_it_is_sent() {
    let site = Site::new();
    let content = bytes(34, 6 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let mut rotten = content.clone();
    rotten[3 * MIB + 77] ^= 0x10;
    site.file("f", &rotten);
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let get =
        site.get(&["f.piecework", "-o", "out", "--peer", &peer, "--mode", "simple", "--state", "s", "--timeout", "3"]);
    let result = get.result();
    assert_eq!(result["error"]["code"], "no_source", "{result}; {}", get.stderr());
    assert!(!site.path("out").exists());
    // Five of six pieces came, none was wasted; the sixth comes from another holder.
    site.file("good/f", &content);
    std::fs::write(site.path("f"), &content).expect("ours");
    let healthy = site.seed("f", "seed-state-2");
    let peer = healthy.address();
    let get = site.get(&["f.piecework", "-o", "out", "--peer", &peer, "--mode", "simple", "--state", "s"]);
    let result = get.success();
    assert_eq!(n(&result, "bytes_already_held"), 5 * MIB as u64, "{result}");
}
