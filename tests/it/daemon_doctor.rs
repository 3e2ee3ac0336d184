//! `doctor`: what is wrong, and why there are no peers, from the real daemon.

use piecework::surfaces::control::OPENAPI;
use serde_json::Value;

use crate::daemon::{asked, fits, node};
use crate::support::{Site, bytes};

#[test]
fn the_doctor_says_in_one_line_why_there_are_no_peers_and_what_is_bad() {
    let site = Site::new();
    let content = bytes(51, 1 << 20);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    site.refused(&["doctor", "--state", "n"], 69, "no_daemon");
    let document: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let verdict = |diagnosis: &Value| diagnosis["verdict"].as_str().expect("a line").to_owned();
    let finding = |diagnosis: &Value, check: &str| {
        let mut rows = diagnosis["findings"].as_array().expect("findings").iter();
        rows.find(|row| row["check"] == check).unwrap_or_else(|| panic!("{check} in {diagnosis}")).clone()
    };
    {
        let _node = node(&site, &["--serve", "f=f.piecework"], |node| _ = node.env("PIECEWORK_MIN_FREE_DISK", "0"));
        let mut diagnosis = asked(&site, &["doctor"]);
        assert!(verdict(&diagnosis).starts_with("no peers: the mode simple looks for nobody"), "{diagnosis}");
        assert_eq!(finding(&diagnosis, "port")["state"], "note", "{diagnosis}");
        diagnosis.as_object_mut().expect("an object").remove("unexpected");
        fits(&diagnosis, &document["components"]["schemas"]["Diagnosis"], &document).expect("as described");
        let status = asked(&site, &["status"]);
        let address = status["listening"][0].as_str().expect("an address").to_owned();
        site.get(&["f.piecework", "-o", "out", "--state", "s", "--mode", "simple", "--no-daemon", "--peer", &address])
            .success();
        let diagnosis = asked(&site, &["doctor"]);
        assert_eq!(finding(&diagnosis, "port")["state"], "good", "{diagnosis}");
        let said = site.ok(&["doctor", "--state", "n"]);
        assert!(said.trim_end().lines().last().is_some_and(|line| line.starts_with("no peers: ")), "{said}");
        // What a fleet expects.
        site.file("right.toml", b"[policy]\nupload_slots = 8\n");
        site.ok(&["doctor", "--state", "n", "--expect", "right.toml"]);
        site.file("wrong.toml", b"[policy]\nupload_slots = 9\nmax_upload_rate = \"1 MB/s\"\n");
        let output = site.run(&["doctor", "--state", "n", "--expect", "wrong.toml"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(78), "{said}");
        for key in ["policy.upload_slots is 8", "expected is 9", "policy.max_upload_rate"] {
            assert!(said.contains(key), "{key}: {said}");
        }
    }
    let _node = node(&site, &[], |node| _ = node.env("PIECEWORK_MIN_FREE_DISK", "1024 TiB"));
    let output = site.run(&["doctor", "--state", "n"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(71), "{said}");
    assert!(said.trim_end().lines().last().is_some_and(|line| line.starts_with("disk: ")), "{said}");
}

#[test]
fn the_doctor_lists_what_a_firewall_must_let_through() {
    let site = Site::new();
    site.file("c.toml", b"[policy]\ndownload_mode = \"lan\"\n[node]\nlisten = [\"7681\"]\n");
    let listed = site.ok(&["doctor", "endpoints", "--json", "--config", "c.toml"]);
    let listed: Value = serde_json::from_str(listed.trim()).expect("JSON");
    let ports: Vec<&str> =
        listed.as_array().expect("rows").iter().map(|row| row["port"].as_str().expect("a port")).collect();
    assert_eq!(ports, ["7681", "5353", "443", "80"], "{listed}");
    let rules = site.ok(&["doctor", "endpoints", "--nft", "--config", "c.toml"]);
    assert!(rules.contains("tcp dport 7681 accept") && rules.contains("hook input"), "{rules}");
    if crate::support::have("nft") {
        let file = site.file("rules.nft", rules.as_bytes());
        let checked = std::process::Command::new("nft").arg("-c").arg("-f").arg(file).output().expect("nft starts");
        // Without the right to ask the kernel it says so; a syntax error is another message.
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert!(checked.status.success() || !said.contains("syntax error"), "{said}");
    }
}
