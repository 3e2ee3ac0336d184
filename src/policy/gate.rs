//! What follows from the state of a machine: which gates are shut, and why; which rates hold at this hour.

use crate::content::layout::BLOCK_BYTES;
use crate::policy::network::{Network, stranger};
use crate::policy::settings::{Policy, RENDEZVOUS_MAX};
use crate::policy::value::{CacheHostSource, GroupIdSource, Hours, Metered, MinBattery, Mode, is_group_id, show_bytes};

/// What a machine says of itself; `None` where it does not say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// Memory, bytes.
    pub ram_bytes: Option<u64>,
    /// Size of the cache's volume, bytes.
    pub disk_bytes: Option<u64>,
    /// Charge in per cent, while it runs on battery.
    pub on_battery: Option<u32>,
    /// Its lid is closed.
    pub lid_closed: bool,
    /// Names and kinds of the interfaces that lead outside.
    pub ways_out: Vec<String>,
    /// One of these is a modem's for mobile data.
    pub mobile: bool,
    /// Minute of the local day.
    pub minute: Option<u16>,
    /// Since the system started, seconds.
    pub up_seconds: Option<u64>,
    /// Networks that default routes lead to; without any, all that the machine is on.
    pub networks: Vec<Network>,
    /// Domains that the machine was given by its networks.
    pub domains: Vec<String>,
    /// Option 234 of a DHCP lease.
    pub dhcp_group: Option<String>,
    /// Cache hosts, as option 235 of a DHCP lease names them.
    pub dhcp_cache_hosts: Vec<String>,
    /// Rendezvous, `HOST:PORT` each, as option 236 of a DHCP lease names them.
    pub dhcp_rendezvous: Vec<String>,
    /// The group's id as a file has it.
    pub file_group: Option<String>,
    /// Bytes sent to peers on the Internet in this calendar month, where somebody keeps books.
    pub sent_far: Option<u64>,
    /// Bytes of content carried between others in this calendar month; as `sent_far`.
    pub carried: Option<u64>,
}

/// A reason for not doing what is done otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gate {
    /// One word, for status and metrics.
    pub name: &'static str,
    /// What does not happen.
    pub effect: &'static str,
    /// Why: what was found, and the policy.
    pub reason: String,
}

/// What holds for a machine now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Every gate that is shut.
    pub gates: Vec<Gate>,
    /// Peers are served.
    pub serves: bool,
    /// Pieces are fetched from web servers for others of the site.
    pub duties: bool,
    /// It is likely to stay: one of those that a site gives a duty to which only one of it has.
    pub stable: bool,
    /// It is behind an access point, where one sends at a time.
    pub wireless: bool,
    /// Peers are asked, by downloads begun from now on.
    pub peers: bool,
    /// Peers may be met on this network at all: else no port is open, nobody is dialled and nothing is announced.
    pub trusted: bool,
    /// The group's id, in the modes group and internet.
    pub group: Option<String>,
    /// Bytes that may still be sent to peers on the Internet in this month; `None`: no limit.
    pub far_allowance: Option<u64>,
    /// Bytes that may still be carried between others in this month; without books none.
    pub carry_allowance: u64,
    /// Cache hosts that are asked, in this order.
    pub cache_hosts: Vec<String>,
    /// Those that DNS-SD tells of are asked; then `cache_hosts` names none.
    pub finds_cache_hosts: bool,
    /// A download waits a moment for the first that DNS-SD tells of.
    pub awaits_cache_hosts: bool,
    /// Where the group meets besides: those that policy names, and then a DHCP lease.
    pub rendezvous: Vec<String>,
    /// Background downloads run.
    pub background: bool,
    /// Bytes a second of all uploads, foreground and background downloads; 0: no limit.
    pub rates: (u64, u64, u64),
}

/// Every gate's name, but those of [`NODE_GATES`].
pub const GATES: [&str; 9] = [
    "little_memory",
    "small_disk",
    "battery",
    "metered",
    "monthly_cap",
    "vpn",
    "no_duties",
    "untrusted_network",
    "group_unknown",
];

/// Gates that a node finds out by itself: a network that isolates its machines, and a machine that is about to sleep.
pub const NODE_GATES: [&str; 2] = ["isolated", "asleep"];

/// Judges a machine by its policies. What it does not say shuts no gate.
pub fn judge(policy: &Policy, facts: &Facts) -> Verdict {
    const SERVES: &str = "peers are not served";
    let mut verdict = Verdict {
        gates: Vec::new(),
        serves: true,
        duties: true,
        stable: is_stable(facts),
        wireless: is_wireless(facts),
        peers: true,
        trusted: true,
        group: match policy.download_mode {
            Mode::Group => group_id(policy, facts),
            // Whoever set one here means it; what a network hands out is none of the Internet's.
            Mode::Internet => policy.group_id.clone(),
            _ => None,
        },
        far_allowance: far_allowance(policy, facts),
        carry_allowance: facts.carried.map_or(0, |carried| policy.relay_data_budget.saturating_sub(carried)),
        cache_hosts: policy.cache_host_source.of(&policy.cache_host, &facts.dhcp_cache_hosts).to_vec(),
        awaits_cache_hosts: policy.cache_host_source == CacheHostSource::DnsSd,
        finds_cache_hosts: matches!(policy.cache_host_source, CacheHostSource::Auto | CacheHostSource::DnsSd)
            && policy.cache_host.is_empty()
            && policy.download_mode.discovers(),
        rendezvous: rendezvous(policy, facts),
        background: true,
        rates: (
            policy.max_upload_rate,
            at_hour(policy.max_foreground_rate, policy.foreground_hours, facts.minute),
            at_hour(policy.max_background_rate, policy.background_hours, facts.minute),
        ),
    };
    let mut shut = |name, effect, reason| verdict.gates.push(Gate { name, effect, reason });
    if let Some(found) = facts.ram_bytes.filter(|found| *found < policy.min_ram_to_peer) {
        let reason =
            format!("{} of memory, min_ram_to_peer is {}", show_bytes(found), show_bytes(policy.min_ram_to_peer));
        shut("little_memory", SERVES, reason);
        verdict.serves = false;
    }
    if let Some(found) = facts.disk_bytes.filter(|found| *found < policy.min_disk_to_peer) {
        let least = show_bytes(policy.min_disk_to_peer);
        let reason = format!("the cache's volume has {}, min_disk_to_peer is {least}", show_bytes(found));
        shut("small_disk", SERVES, reason);
        verdict.serves = false;
    }
    if let Some(charge) = facts.on_battery {
        let wanted = match policy.min_battery_to_upload {
            MinBattery::Never => Some("never".to_owned()),
            MinBattery::Above(least) => (charge <= least).then(|| least.to_string()),
        };
        if let Some(wanted) = wanted {
            shut("battery", SERVES, format!("on battery, {charge} % left, min_battery_to_upload is {wanted}"));
            verdict.serves = false;
        }
    }
    if policy.metered == Metered::Yes || (policy.metered == Metered::Auto && facts.mobile) {
        let why = if policy.metered == Metered::Yes { "metered is \"yes\"" } else { "the way out is mobile data" };
        shut("metered", "peers are not served, background downloads wait", why.to_owned());
        (verdict.serves, verdict.background) = (false, false);
    }
    if verdict.far_allowance == Some(0) && policy.download_mode == Mode::Internet {
        let cap = show_bytes(policy.monthly_upload_cap);
        let reason = format!("monthly_upload_cap is {cap}, and so much was sent in this month");
        shut("monthly_cap", "peers on the Internet are not served", reason);
    }
    let is_vpn = |way: &&String| policy.vpn_keywords.iter().any(|word| way.starts_with(word.as_str()));
    let vpn = facts.ways_out.iter().find(is_vpn);
    if vpn.is_some() && !policy.cache_host_on_vpn {
        verdict.cache_hosts.clear();
        verdict.finds_cache_hosts = false;
    }
    if let Some(way) = vpn.filter(|_| !policy.peer_on_vpn) {
        let reason = format!("the way out is {way}, peer_on_vpn is false");
        shut("vpn", "no peers: nobody is served, and downloads that begin now use HTTP", reason);
        (verdict.serves, verdict.peers) = (false, false);
    }
    if let Some(reason) = off_duty(facts) {
        shut("no_duties", "nothing is fetched from web servers for others", reason.to_owned());
        verdict.duties = false;
    }
    let strange = policy.trusted_networks.as_ref().and_then(|it| stranger(it, &facts.networks, &facts.domains));
    if let Some(found) = strange {
        let reason = format!("{found}; not among trusted_networks");
        shut(
            "untrusted_network",
            "no peers: no port is open, nobody is dialled, nothing is announced; HTTP is used",
            reason,
        );
        (verdict.serves, verdict.peers, verdict.trusted) = (false, false, false);
    }
    if policy.download_mode == Mode::Group && verdict.group.is_none() {
        let reason = format!("group_id_source {} gives no id", policy.group_id_source.word());
        shut("group_unknown", "no peers: whose contents are shared is not known; HTTP is used", reason);
        (verdict.serves, verdict.peers, verdict.trusted) = (false, false, false);
    }
    // Multicast is spoken nowhere else.
    verdict.finds_cache_hosts &= verdict.trusted;
    // Who serves nobody fetches for nobody: what it brought would not be passed on.
    verdict.duties &= verdict.serves;
    verdict
}

/// What is left of the month's bytes to peers on the Internet; without books there is no limit. What would not do for the
/// smallest piece is nothing.
fn far_allowance(policy: &Policy, facts: &Facts) -> Option<u64> {
    let cap = Some(policy.monthly_upload_cap).filter(|cap| *cap > 0)?;
    let left = cap.saturating_sub(facts.sent_far?);
    Some(if left < BLOCK_BYTES { 0 } else { left })
}

/// Why a machine takes no origin duty for others, whatever policy says; `None` where it may.
pub fn off_duty(facts: &Facts) -> Option<&'static str> {
    match (facts.on_battery, facts.lid_closed) {
        (Some(_), _) => Some("on battery"),
        (None, true) => Some("the lid is closed"),
        (None, false) => None,
    }
}

/// A machine that has been up for less may be one that somebody switched on for a moment.
const LONG_UP_SECONDS: u64 = 3600;

/// Whether a machine is likely to stay: wired, and up for an hour. What it does not say speaks for it.
pub fn is_stable(facts: &Facts) -> bool {
    !is_wireless(facts) && facts.up_seconds.is_none_or(|seconds| seconds >= LONG_UP_SECONDS)
}

/// Whether its way out is Wi-Fi, by the kind of the interface or the name that systemd gives it.
pub fn is_wireless(facts: &Facts) -> bool {
    facts.ways_out.iter().any(|way| way == "wlan" || way.starts_with("wl"))
}

/// The id of the group: as it is set, else from where policy says.
fn group_id(policy: &Policy, facts: &Facts) -> Option<String> {
    let found = || match policy.group_id_source {
        GroupIdSource::None => None,
        GroupIdSource::DnsSuffix => facts.domains.first().cloned(),
        GroupIdSource::DhcpOption => facts.dhcp_group.clone(),
        GroupIdSource::File => facts.file_group.clone(),
    };
    policy.group_id.clone().or_else(found).filter(|id| is_group_id(id))
}

/// Where the group meets besides: as policy names it, then as a lease does, each once.
fn rendezvous(policy: &Policy, facts: &Facts) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    if policy.download_mode.discovers() {
        for host in policy.rendezvous.iter().chain(&facts.dhcp_rendezvous).take(RENDEZVOUS_MAX) {
            if !hosts.contains(host) {
                hosts.push(host.clone());
            }
        }
    }
    hosts
}

/// A per cent of a line that carries so many bytes a second; 0, no limit, where either is not known.
pub fn of_line(percent: u32, line_rate: u64) -> u64 {
    match percent {
        0 => 0,
        percent => (line_rate.saturating_mul(percent.into()) / 100).max(u64::from(line_rate > 0)),
    }
}

/// A rate at a minute of the day; where nobody knows the time, the lower of the two.
fn at_hour(rate: u64, hours: Option<Hours>, minute: Option<u16>) -> u64 {
    let Some(hours) = hours.filter(|_| rate > 0) else { return rate };
    let percent = minute.map_or_else(|| hours.least(), |minute| hours.percent(minute));
    // Not 0, which would be no limit.
    (rate.saturating_mul(percent.into()) / 100).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Layer, Provider, Settings};

    fn policy(text: &str) -> Policy {
        let layer = Layer::from_toml(&format!("[policy]\n{text}"), &Provider::SiteFile("x".into()));
        Settings::merge([layer.expect("known keys")]).expect("in range").policy
    }

    fn names(policy: &Policy, facts: &Facts) -> Vec<&'static str> {
        judge(policy, facts).gates.iter().map(|gate| gate.name).collect()
    }

    #[test]
    fn who_is_wired_and_long_up_is_stable() {
        let up = |seconds| Facts { up_seconds: Some(seconds), ..Facts::default() };
        assert!(is_stable(&Facts::default()) && is_stable(&up(LONG_UP_SECONDS)) && !is_stable(&up(59)));
        for (ways, stable) in [(&["eth0"][..], true), (&["wlp3s0"], false), (&["wifi0", "wlan"], false)] {
            let ways_out = ways.iter().map(|way| (*way).to_owned()).collect();
            assert_eq!(is_stable(&Facts { ways_out, ..up(LONG_UP_SECONDS) }), stable, "{ways:?}");
        }
    }

    #[test]
    fn what_a_machine_does_not_say_shuts_no_gate() {
        let verdict = judge(&Policy::default(), &Facts::default());
        assert!(verdict.gates.is_empty() && verdict.serves && verdict.peers && verdict.background && verdict.duties);
        assert_eq!(verdict.rates, (0, 0, 0));
    }

    #[test]
    fn each_gate_shuts_by_its_own_fact_and_says_why() {
        let small = Facts { ram_bytes: Some((1 << 30) - 1), disk_bytes: Some(1 << 30), ..Facts::default() };
        assert_eq!(names(&Policy::default(), &small), ["little_memory", "small_disk"]);
        assert!(names(&policy("min_ram_to_peer = 0\nmin_disk_to_peer = \"1 GiB\""), &small).is_empty());
        let battery = |charge| Facts { on_battery: Some(charge), ..Facts::default() };
        assert_eq!(names(&Policy::default(), &battery(100)), ["battery", "no_duties"], "never");
        let some = policy("min_battery_to_upload = 40");
        assert_eq!(names(&some, &battery(40)), ["battery", "no_duties"]);
        assert_eq!(names(&some, &battery(41)), ["no_duties"]);
        let lid = Facts { lid_closed: true, ..Facts::default() };
        let verdict = judge(&Policy::default(), &lid);
        assert!(verdict.serves && !verdict.duties && verdict.gates.iter().all(|gate| gate.name == "no_duties"));
        assert!(!judge(&Policy::default(), &small).duties, "who serves nobody fetches for nobody");
        let mobile = Facts { mobile: true, ..Facts::default() };
        let verdict = judge(&Policy::default(), &mobile);
        assert!(!verdict.serves && !verdict.background && verdict.peers, "{verdict:?}");
        assert!(names(&policy("metered = \"no\""), &mobile).is_empty());
        assert_eq!(names(&policy("metered = \"yes\""), &Facts::default()), ["metered"]);
        let vpn = Facts { ways_out: vec!["eth0".into(), "wg0".into()], ..Facts::default() };
        let verdict = judge(&Policy::default(), &vpn);
        assert!(!verdict.peers && verdict.gates.iter().any(|gate| gate.reason.contains("wg0")), "{verdict:?}");
        assert!(names(&policy("peer_on_vpn = true"), &vpn).is_empty());
        assert!(names(&policy("vpn_keywords = []"), &vpn).is_empty());
        let office = policy("trusted_networks = [\"office.example\"]");
        let verdict = judge(&office, &Facts::default());
        assert!(!verdict.trusted && !verdict.peers && !verdict.duties && verdict.background, "{verdict:?}");
        for gate in
            [small, battery(0), lid, mobile, vpn].iter().flat_map(|facts| judge(&Policy::default(), facts).gates)
        {
            assert!(GATES.contains(&gate.name) && !gate.reason.is_empty());
        }
    }

    #[test]
    fn the_group_comes_from_where_policy_says_and_a_set_one_wins() {
        let facts = Facts {
            domains: vec!["office.example".into()],
            dhcp_group: Some("dhcp".into()),
            file_group: Some("file".into()),
            ..Facts::default()
        };
        let group =
            |text: &str, facts: &Facts| judge(&policy(&format!("download_mode = \"group\"\n{text}")), facts).group;
        for (source, expected) in [("dns-suffix", "office.example"), ("dhcp-option", "dhcp"), ("file", "file")] {
            let text = format!("group_id_source = {source:?}");
            assert_eq!(group(&text, &facts).as_deref(), Some(expected));
            assert_eq!(group(&format!("{text}\ngroup_id = \"set\""), &facts).as_deref(), Some("set"));
            let verdict = judge(&policy(&format!("download_mode = \"group\"\n{text}")), &Facts::default());
            assert!(!verdict.trusted && verdict.gates.iter().any(|gate| gate.name == "group_unknown"));
        }
    }

    #[test]
    fn a_lease_names_cache_hosts_where_policy_says_so_and_rendezvous_beside_it() {
        let hosts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let facts = Facts {
            dhcp_cache_hosts: hosts(&["lease"]),
            dhcp_rendezvous: hosts(&["lease:7680", "b:1"]),
            ..Facts::default()
        };
        for (text, with, without) in [
            ("", vec![], vec![]),
            ("cache_host_source = \"dhcp\"", vec!["lease"], vec![]),
            ("cache_host = [\"set\"]", vec!["set"], vec!["set"]),
            ("cache_host = [\"set\"]\ncache_host_source = \"dhcp\"", vec!["set"], vec!["set"]),
            ("cache_host = [\"set\"]\ncache_host_source = \"dhcp-force\"", vec!["lease"], vec!["set"]),
        ] {
            assert_eq!(judge(&policy(text), &facts).cache_hosts, with, "{text}");
            assert_eq!(judge(&policy(text), &Facts::default()).cache_hosts, without, "{text}");
        }
        let finds = |text: &str| judge(&policy(text), &facts).finds_cache_hosts;
        let awaits = |text: &str| judge(&policy(text), &facts).awaits_cache_hosts;
        assert!(awaits("cache_host_source = \"dns-sd\"") && !awaits("") && !awaits("cache_host_source = \"config\""));
        assert!(finds("") && finds("cache_host_source = \"dns-sd\"\ndownload_mode = \"internet\""));
        for text in [
            "cache_host = [\"set\"]",
            "cache_host_source = \"config\"",
            "cache_host_source = \"dhcp\"",
            "download_mode = \"simple\"",
            "trusted_networks = [\"home.example\"]",
        ] {
            assert!(!finds(text), "{text}");
        }
        let away = Facts { ways_out: vec!["wg0".into()], ..facts.clone() };
        let text = "cache_host_source = \"dhcp\"\ncache_host_on_vpn = false";
        assert!(judge(&policy(text), &away).cache_hosts.is_empty());
        assert!(!judge(&policy("cache_host_on_vpn = false"), &away).finds_cache_hosts);
        let meets = |text: &str| judge(&policy(text), &facts).rendezvous;
        assert_eq!(meets("rendezvous = [\"a\", \"b:1\"]"), ["a:7680", "b:1", "lease:7680"]);
        assert!(meets("download_mode = \"simple\"\nrendezvous = [\"a\"]").is_empty(), "nobody is looked for");
    }

    #[test]
    fn a_month_has_so_many_bytes_for_the_internet_and_no_more() {
        let held = policy("download_mode = \"internet\"\nmonthly_upload_cap = \"1 GB\"");
        let left = |sent_far| judge(&held, &Facts { sent_far, ..Facts::default() }).far_allowance;
        assert_eq!((left(None), left(Some(1)), left(Some(u64::MAX))), (None, Some(999_999_999), Some(0)));
        let spent = Facts { sent_far: Some(999_000_001), ..Facts::default() };
        let verdict = judge(&held, &spent);
        assert!(verdict.serves && verdict.gates.iter().all(|gate| gate.name == "monthly_cap"), "{verdict:?}");
        assert_eq!(names(&held, &spent).len(), 1);
        assert!(names(&policy("monthly_upload_cap = 1"), &spent).is_empty(), "in other modes nobody is far");
        assert_eq!(judge(&policy("monthly_upload_cap = 0"), &spent).far_allowance, None);
        let carries =
            |text: &str, carried| judge(&policy(text), &Facts { carried, ..Facts::default() }).carry_allowance;
        assert_eq!((carries("", Some(0)), carries("relay_data_budget = 9", None)), (0, 0), "no budget, and no books");
        assert_eq!((carries("relay_data_budget = 9", Some(2)), carries("relay_data_budget = 9", Some(10))), (7, 0));
    }

    #[test]
    fn rates_follow_the_hours() {
        let held = policy(
            "max_background_rate = \"1 MB/s\"\nbackground_hours = \"08:00-17:00 20 90\"\nmax_upload_rate = \"2 MB/s\"",
        );
        let at = |minute| judge(&held, &Facts { minute, ..Facts::default() }).rates;
        assert_eq!((at(Some(600)), at(Some(60))), ((2_000_000, 0, 200_000), (2_000_000, 0, 900_000)));
        assert_eq!(at(None), (2_000_000, 0, 200_000), "who does not know the time keeps to the less");
    }
}
