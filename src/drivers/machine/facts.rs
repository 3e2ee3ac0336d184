//! What the system says of this machine: memory, power, lid, ways out, the time of day (`proc(5)`, the kernel's
//! `Documentation/ABI/testing/sysfs-class-power` and `sysfs-class-net`).
//!
//! Everything is read below a root, so that a folder can play a machine that is not at hand: `/`, or what a test names.

use std::io::Read;
use std::net::Ipv4Addr;
use std::path::Path;

use time::{Date, Month};

use crate::drivers::machine::leases::{CACHE_HOST_OPTION, GROUP_OPTION, RENDEZVOUS_OPTION, lease_hosts, lease_option};
use crate::drivers::machine::networks::{domains, networks};
use crate::policy::Facts;
use crate::policy::value::{minute, with_port};

/// Longest file that is read, bytes; the kernel's are of a few lines each.
const FILE_BYTES_MAX: u64 = 256 << 10;
/// Interfaces and power supplies that are looked at.
const ENTRIES_MAX: usize = 256;

/// Looks at the machine below `root` and at the volume of `cache`.
pub fn look(root: &Path, cache: &Path) -> Facts {
    let (ways_out, mobile) = ways_out(root);
    let played = root != Path::new("/");
    let disk = if played { text(&root.join("disk_bytes")).and_then(|text| text.trim().parse().ok()) } else { None };
    let clock = if played { text(&root.join("clock")).and_then(|text| minute(text.trim())) } else { None };
    Facts {
        ram_bytes: ram_bytes(root),
        disk_bytes: disk.or_else(|| volume_bytes(cache)),
        on_battery: on_battery(root),
        lid_closed: lid_closed(root),
        ways_out,
        mobile,
        minute: clock.or_else(local_minute),
        up_seconds: up_seconds(root),
        networks: networks(root),
        domains: domains(root),
        dhcp_group: lease_option(root, GROUP_OPTION),
        dhcp_cache_hosts: lease_hosts(root, CACHE_HOST_OPTION),
        dhcp_rendezvous: lease_hosts(root, RENDEZVOUS_OPTION).iter().map(|host| with_port(host)).collect(),
        file_group: text(&root.join("etc/piecework/group-id"))
            .and_then(|text| Some(text.lines().next()?.trim().to_owned())),
        // The books are not the machine's.
        sent_far: None,
        carried: None,
    }
}

pub(super) fn text(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The IPv4 gateway of the default route; `None` where there is none, or the way out needs no gateway.
pub fn gateway(root: &Path) -> Option<Ipv4Addr> {
    text(&root.join("proc/net/route"))?.lines().skip(1).take(ENTRIES_MAX).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        // The kernel prints the four bytes as a number of this machine's byte order.
        let address = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        (destination == "00000000" && !address.is_unspecified()).then_some(address)
    })
}

/// Names in a folder, sorted.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().take(ENTRIES_MAX).map_while(Result::ok);
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn ram_bytes(root: &Path) -> Option<u64> {
    let text = text(&root.join("proc/meminfo"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib: u64| kib.saturating_mul(1024))
}

fn volume_bytes(path: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(path).ok()?;
    Some(space.f_blocks.saturating_mul(space.f_frsize))
}

/// Whole seconds since the start (`proc_uptime(5)`).
fn up_seconds(root: &Path) -> Option<u64> {
    text(&root.join("proc/uptime"))?.split(['.', ' ']).next()?.parse().ok()
}

/// The lowest charge of the machine's batteries, while one of them is drawn from and no mains is there.
fn on_battery(root: &Path) -> Option<u32> {
    let supplies = root.join("sys/class/power_supply");
    let mut lowest = None;
    for name in names(&supplies) {
        let read = |file: &str| text(&supplies.join(&name).join(file)).map(|text| text.trim().to_owned());
        match read("type").as_deref() {
            Some("Mains" | "USB") if read("online").as_deref() == Some("1") => return None,
            // A mouse has one too, and says so.
            Some("Battery")
                if read("scope").as_deref() != Some("Device") && read("status").as_deref() == Some("Discharging") =>
            {
                let charge = read("capacity").and_then(|text| text.parse::<u32>().ok()).unwrap_or(0).min(100);
                lowest = Some(lowest.map_or(charge, |lowest: u32| lowest.min(charge)));
            }
            _ => {}
        }
    }
    lowest
}

/// Whether any lid is closed (the kernel's ACPI button driver: `state:      closed`).
fn lid_closed(root: &Path) -> bool {
    let lids = root.join("proc/acpi/button/lid");
    let state = |name: &String| text(&lids.join(name).join("state"));
    names(&lids).iter().filter_map(state).any(|state| state.split_whitespace().nth(1) == Some("closed"))
}

/// Interfaces that a default route leads to, or one of the halves that VPNs set in its place, with their kinds; whether
/// one is a modem for mobile data.
fn ways_out(root: &Path) -> (Vec<String>, bool) {
    let mut ways: Vec<String> = Vec::new();
    for line in text(&root.join("proc/net/route")).unwrap_or_default().lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Little-endian hexadecimal: 0.0.0.0/0, 0.0.0.0/1, 128.0.0.0/1.
        if let [interface, destination, .., mask, _, _, _] = fields.as_slice()
            && matches!((*destination, *mask), ("00000000", "00000000" | "00000080") | ("00000080", "00000080"))
        {
            ways.push((*interface).to_owned());
        }
    }
    for line in text(&root.join("proc/net/ipv6_route")).unwrap_or_default().lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if let [destination, length, .., interface] = fields.as_slice()
            && destination.len() == 32
            && destination.get(1..).is_some_and(|rest| rest.bytes().all(|digit| digit == b'0'))
            && matches!((destination.get(..1), *length), (Some("0"), "00" | "01") | (Some("8"), "01"))
            && *interface != "lo"
        {
            ways.push((*interface).to_owned());
        }
    }
    ways.sort();
    ways.dedup();
    ways.truncate(ENTRIES_MAX);
    let kinds: Vec<String> = ways.iter().flat_map(|way| kinds(root, way)).collect();
    let mobile = kinds.iter().any(|kind| kind == "wwan") || ways.iter().any(|way| way.starts_with("ww"));
    ways.extend(kinds);
    (ways, mobile)
}

/// Of what kind an interface is, as its driver says.
fn kinds(root: &Path, interface: &str) -> Vec<String> {
    if interface.contains('/') || interface.starts_with('.') {
        return Vec::new();
    }
    let folder = root.join("sys/class/net").join(interface);
    let uevent = text(&folder.join("uevent")).unwrap_or_default();
    let mut kinds: Vec<String> =
        uevent.lines().find_map(|line| line.strip_prefix("DEVTYPE=")).map(str::to_owned).into_iter().collect();
    if folder.join("tun_flags").exists() {
        kinds.push("tun".to_owned());
    }
    // The word that people use for it.
    if kinds.iter().any(|kind| kind == "wireguard") {
        kinds.push("wg".to_owned());
    }
    kinds
}

/// Today's date, by the system's time zone; where `root` plays a machine, `DIR/date` (`YYYY-MM-DD`) may say another.
pub fn today(root: &Path) -> Option<Date> {
    let played = if root == Path::new("/") { None } else { text(&root.join("date")) };
    played.and_then(|text| date(text.trim())).or_else(|| {
        let local = local_time()?;
        let month = Month::try_from(u8::try_from(local.tm_mon.checked_add(1)?).ok()?).ok()?;
        Date::from_calendar_date(local.tm_year.checked_add(1900)?, month, u8::try_from(local.tm_mday).ok()?).ok()
    })
}

/// A date as `YYYY-MM-DD`, digits alone, and nothing around it; the years 1970 to 9999.
pub fn date(text: &str) -> Option<Date> {
    let [year, month, day] = <[&str; 3]>::try_from(text.split('-').collect::<Vec<_>>()).ok()?;
    let digits = |text: &str, count: usize| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if !(digits(year, 4) && digits(month, 2) && digits(day, 2)) {
        return None;
    }
    let year = year.parse().ok().filter(|year| *year >= 1970)?;
    Date::from_calendar_date(year, Month::try_from(month.parse::<u8>().ok()?).ok()?, day.parse().ok()?).ok()
}

/// Minute of the local day, by the system's time zone.
fn local_minute() -> Option<u16> {
    let local = local_time()?;
    u16::try_from(local.tm_hour.checked_mul(60)?.checked_add(local.tm_min)?).ok()
}

fn local_time() -> Option<libc::tm> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    let seconds = libc::time_t::try_from(now.as_secs()).ok()?;
    // SAFETY: `tm` is a plain structure for which zeros are valid, and both pointers outlive the call, which writes to
    // nothing else (`localtime_r(3)`).
    unsafe {
        let mut local: libc::tm = std::mem::zeroed();
        (!libc::localtime_r(&raw const seconds, &raw mut local).is_null()).then_some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        folder
    }

    fn look_at(files: &[(&str, &str)]) -> Facts {
        let folder = machine(files);
        look(folder.path(), folder.path())
    }

    #[test]
    fn this_machine_says_something() {
        let facts = look(Path::new("/"), Path::new("/"));
        assert!(facts.ram_bytes.is_some_and(|bytes| bytes > 0) && facts.disk_bytes.is_some_and(|bytes| bytes > 0));
        assert!(facts.minute.is_some_and(|minute| minute < 24 * 60));
    }

    #[test]
    fn a_folder_plays_a_machine() {
        let facts = look_at(&[
            ("proc/meminfo", "MemTotal:  2048 kB\nMemFree: 1 kB\n"),
            ("disk_bytes", "77\n"),
            ("clock", "08:30"),
        ]);
        assert_eq!((facts.ram_bytes, facts.disk_bytes, facts.minute), (Some(2 << 20), Some(77), Some(510)));
        assert_eq!((facts.on_battery, facts.ways_out.is_empty(), facts.mobile), (None, true, false));
        assert!(!facts.lid_closed);
        assert_eq!(look_at(&[("proc/meminfo", "MemTotal: lots\n")]).ram_bytes, None);
    }

    #[test]
    fn dates_are_read_strictly_and_today_is_one() {
        assert_eq!(date("2024-02-29").map(|date| date.to_string()), Some("2024-02-29".to_owned()));
        for wrong in
            ["2023-02-29", "1969-12-31", "2024-2-29", "+024-02-29", "2024-02-29 ", "2024-13-01", "", "--", "a-b-c"]
        {
            assert_eq!(date(wrong), None, "{wrong}");
        }
        assert!(today(Path::new("/")).is_some());
        assert_eq!(today(machine(&[("date", "2026-01-31\n")]).path()), date("2026-01-31"));
    }

    #[test]
    fn a_battery_counts_while_it_is_drawn_from_and_no_mains_is_there() {
        let battery = |status, charge, online| {
            look_at(&[
                ("sys/class/power_supply/BAT0/type", "Battery\n"),
                ("sys/class/power_supply/BAT0/status", status),
                ("sys/class/power_supply/BAT0/capacity", charge),
                ("sys/class/power_supply/AC/type", "Mains\n"),
                ("sys/class/power_supply/AC/online", online),
                ("sys/class/power_supply/mouse/type", "Battery\n"),
                ("sys/class/power_supply/mouse/scope", "Device\n"),
                ("sys/class/power_supply/mouse/status", "Discharging\n"),
                ("sys/class/power_supply/mouse/capacity", "3\n"),
            ])
            .on_battery
        };
        assert_eq!(battery("Discharging\n", "41\n", "0\n"), Some(41));
        assert_eq!(battery("Discharging\n", "41\n", "1\n"), None);
        assert_eq!(battery("Charging\n", "41\n", "0\n"), None);
        assert_eq!(battery("Discharging\n", "?\n", "0\n"), Some(0), "what cannot be read is no charge");
    }

    #[test]
    fn a_lid_is_closed_where_the_kernel_says_so() {
        for (says, closed) in
            [("state:      closed\n", true), ("state:      open\n", false), ("closed", false), ("", false)]
        {
            assert_eq!(look_at(&[("proc/acpi/button/lid/LID0/state", says)]).lid_closed, closed, "{says:?}");
        }
    }

    #[test]
    fn ways_out_are_told_with_their_kinds() {
        const HEAD: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n";
        let v4 = format!(
            "{HEAD}eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\nwork0\t00000080\t0\t1\t0\t0\t0\t00000080\t0\t0\t0\n"
        );
        let zeros = "0".repeat(32);
        let v6 = format!(
            "{zeros} 00 {zeros} 00 {zeros} 00000400 1 0 00000003 wwan0\n{zeros} 00 {zeros} 00 {zeros} ffffffff 1 0 00200200 lo\n"
        );
        let facts = look_at(&[
            ("proc/net/route", &v4),
            ("proc/net/ipv6_route", &v6),
            ("sys/class/net/work0/uevent", "DEVTYPE=wireguard\nINTERFACE=work0\n"),
        ]);
        assert_eq!(facts.ways_out, ["work0", "wwan0", "wireguard", "wg"]);
        assert!(facts.mobile);
    }
}
