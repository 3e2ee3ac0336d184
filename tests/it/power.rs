//! Machines on battery, on Wi-Fi or just switched on, played by folders, and downloads for which nobody waits: others of
//! the site fetch what the origin has to send.

use std::process::Command;

use serde_json::Value;

use crate::support::origin::{Behaviour, TestOrigin};
use crate::support::{Running, Site, bytes, command, free_ports, n, same};

const MIB: usize = 1 << 20;
/// From this size on several machines fetch from the origin.
const SIZE: usize = 24 * MIB;

/// A machine with mains or without, and its lid.
fn machine(site: &Site, name: &str, on_battery: bool, lid: &str) {
    let supply = |file: &str, text: &str| {
        site.file(&format!("{name}/sys/class/power_supply/BAT0/{file}"), text.as_bytes());
    };
    supply("type", "Battery\n");
    supply("capacity", "80\n");
    supply("status", if on_battery { "Discharging\n" } else { "Full\n" });
    site.file(&format!("{name}/proc/acpi/button/lid/LID0/state"), format!("state:      {lid}\n").as_bytes());
}

/// A download on such a machine, at so slow a rate that others join it.
fn get(site: &Site, machine: &str, args: &[&str]) -> Running {
    let mut get: Command = command();
    get.current_dir(site.path("")).args(["get", "f.piecework", "--mode", "simple", "--json", "--no-daemon"]);
    get.args(["--keep-seeding", "--state", machine, "-o", &format!("out-{machine}")]).args(args);
    get.env("PIECEWORK_MACHINE", site.text(machine)).env("PIECEWORK_MAX_FOREGROUND_RATE", "4 MB/s");
    get.env("PIECEWORK_MAX_BACKGROUND_RATE", "4 MB/s");
    site.trust(machine);
    Running::start(get)
}

fn holds(get: &Running, bytes: usize) {
    loop {
        let line = get.line().unwrap_or_else(|| panic!("it ended: {}", get.stderr()));
        let json: Value = serde_json::from_str(&line).expect("JSON");
        if json.get("bytes_held").and_then(Value::as_u64) >= Some(bytes as u64) {
            return;
        }
    }
}

fn scene() -> (Site, Vec<u8>, TestOrigin) {
    scene_of(SIZE)
}

fn scene_of(size: usize) -> (Site, Vec<u8>, TestOrigin) {
    let (site, content) = (Site::new(), bytes(81, size));
    let origin = TestOrigin::start(content.clone(), Behaviour::Normal);
    site.file("f", &content);
    site.publish("f", &[&origin.url("/file")]);
    (site, content, origin)
}

#[test]
fn a_machine_on_battery_or_with_its_lid_closed_fetches_nothing_for_others() {
    for (on_battery, lid) in [(true, "open"), (false, "closed")] {
        let (site, content, _origin) = scene();
        machine(&site, "mains", false, "open");
        machine(&site, "laptop", on_battery, lid);
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let mains = get(&site, "mains", &["--listen", &address]);
        holds(&mains, 2 * MIB);
        let laptop = get(&site, "laptop", &["--listen", "127.0.0.1:0", "--peer", &address]);
        let (mains, laptop) = (mains.success(), laptop.success());
        println!("mains {mains}\nlaptop {laptop}");
        // What it may fetch before it knows who is there is a piece or two.
        assert!(n(&laptop, "bytes_from_http") <= 2 * MIB as u64, "{laptop}");
        assert!(n(&mains, "bytes_from_http") >= (SIZE - 2 * MIB) as u64, "{mains}");
        assert!(same(&site.path("out-laptop"), &content) && same(&site.path("out-mains"), &content));
    }
}

#[test]
fn alone_or_among_others_on_battery_a_machine_fetches_all_the_same() {
    let (site, content, origin) = scene();
    machine(&site, "one", true, "open");
    machine(&site, "other", true, "closed");
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let one = get(&site, "one", &["--listen", &address]);
    holds(&one, 2 * MIB);
    let other = get(&site, "other", &["--listen", "127.0.0.1:0", "--peer", &address]);
    let (one, other) = (one.success(), other.success());
    println!("one {one}\nother {other}");
    assert!(same(&site.path("out-one"), &content) && same(&site.path("out-other"), &content));
    let left = origin.seen().body_bytes;
    assert!(left <= (SIZE + SIZE / 4) as u64, "they share the work: {left} bytes left the origin");
}

#[test]
fn who_waits_for_nothing_leaves_the_origin_to_those_who_wait() {
    let (site, content, _origin) = scene();
    let [port] = free_ports();
    let address = format!("127.0.0.1:{port}");
    let waits = get(&site, "waits", &["--listen", &address]);
    holds(&waits, 2 * MIB);
    let other = get(&site, "other", &["--listen", "127.0.0.1:0", "--peer", &address, "--background"]);
    let (waits, other) = (waits.success(), other.success());
    println!("waits {waits}\nother {other}");
    assert!(n(&other, "bytes_from_http") <= 2 * MIB as u64, "{other}");
    assert!(same(&site.path("out-waits"), &content) && same(&site.path("out-other"), &content));
}

#[test]
fn a_duty_that_only_one_has_is_a_stable_machines() {
    // Too small to be divided.
    const SMALL: usize = 12 * MIB;
    for wireless in [false, true] {
        let (site, content, _origin) = scene_of(SMALL);
        site.file("desk/proc/uptime", b"86400.50 170000.00\n");
        site.file("guest/proc/uptime", if wireless { b"86400.50 170000.00\n" } else { b"59.99 100.00\n" });
        if wireless {
            let routes = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
                          wlp3s0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n";
            site.file("guest/proc/net/route", routes.as_bytes());
        }
        let [port] = free_ports();
        let address = format!("127.0.0.1:{port}");
        let desk = get(&site, "desk", &["--listen", &address]);
        holds(&desk, 2 * MIB);
        let guest = get(&site, "guest", &["--listen", "127.0.0.1:0", "--peer", &address]);
        let (desk, guest) = (desk.success(), guest.success());
        println!("desk {desk}\nguest {guest}");
        assert!(n(&guest, "bytes_from_http") <= MIB as u64, "{guest}");
        assert!(same(&site.path("out-desk"), &content) && same(&site.path("out-guest"), &content));
    }
}
