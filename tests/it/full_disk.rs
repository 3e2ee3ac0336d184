//! A disk that is really full: said, nothing half-written under the final name, and nothing verified fetched again.

use crate::support::hostile::{Hostile, Malice, Publication};
use crate::support::tmpfs::Tmpfs;
use crate::support::{Site, bytes, free_ports, n, same};

const MIB: usize = 1 << 20;

#[test]
fn a_file_larger_than_the_free_space_is_refused_before_the_first_byte() {
    let site = Site::new();
    let Some(disk) = Tmpfs::mount(&site.path("small"), "4m") else { return };
    let content = bytes(81, 8 * MIB);
    site.file("f", &content);
    site.publish("f", &[]);
    site.trust("s");
    let seed = site.seed("f", "seed-state");
    let peer = seed.address();
    let out = disk.text("out");
    let args = ["get", "f.piecework", "-o", &out, "--peer", &peer, "--mode", "simple", "--state", "s"];
    let said = site.refused(&args, 74, "disk_full");
    assert!(said.contains("free space") && said.contains(&out), "{said}");
    assert_eq!(disk.entries(), 0, "nothing is left behind");
}

/// Fills the disk once three pieces have come, so that a later one meets its end in the middle of a write.
#[test]
fn a_disk_that_fills_up_on_the_way_keeps_what_was_verified() {
    let site = Site::new();
    let Some(disk) = Tmpfs::mount(&site.path("small"), "12m") else { return };
    let content = bytes(82, 8 * MIB);
    site.file("f", &content);
    let manifest = site.publish("f", &[]);
    site.trust("s");
    let publication = Publication::new(std::fs::read(manifest).expect("published"), &content);
    let stopping = Hostile::start(&publication, Malice::StopsAfter(3));
    let [port] = free_ports::<1>();
    let honest = format!("127.0.0.1:{port}");
    let out = disk.text("out");
    let stops = stopping.address();
    let args = ["f.piecework", "-o", &out, "--peer", &stops, "--peer", &honest, "--mode", "simple", "--state", "s"];
    let mut get = site.get(&args);
    loop {
        let line = get.line().expect("it waits for the rest");
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert!(json.get("verified").is_none(), "{json}");
        if n(&json, "bytes_held") == 3 * MIB as u64 {
            break;
        }
    }
    disk.fill("ballast");
    let seed = site.seed_at("f", "seed-state", &honest);
    let result = get.result();
    assert_eq!(result["error"]["code"], "disk_full", "{result}");
    assert!(result["error"]["culprit"].as_str().unwrap_or_default().contains(&out), "{result}");
    assert!(result["error"]["remedy"].as_str().unwrap_or_default().contains("free space"), "{result}");
    assert_eq!(get.wait(), Some(74));
    assert!(!std::path::Path::new(&out).exists());
    let durable = n(&site.store_check("s"), "durable_bytes");
    assert!(durable >= 3 * MIB as u64, "{durable} bytes were kept");
    // Once more against the full disk: refused, and nothing lost.
    let again = site.get(&args).result();
    assert_eq!(again["error"]["code"], "disk_full", "{again}");
    assert_eq!(n(&site.store_check("s"), "durable_bytes"), durable);
    disk.remove("ballast");
    let result = site.get(&args).success();
    assert!(same(std::path::Path::new(&out), &content));
    assert_eq!(n(&result, "bytes_already_held"), durable, "{result}");
    drop(seed);
}
