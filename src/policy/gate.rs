//! What follows from the state of a machine: which gates are shut, and why; which rates hold at this hour.

use crate::content::layout::BLOCK_BYTES;
use crate::policy::network::{Network, stranger};
use crate::policy::settings::Policy;
use crate::policy::value::{GroupIdSource, Hours, Metered, MinBattery, Mode, is_group_id, show_bytes};

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
    /// Networks that default routes lead to; without any, all that the machine is on.
    pub networks: Vec<Network>,
    /// Domains that the machine was given by its networks.
    pub domains: Vec<String>,
    /// Option 234 of a DHCP lease.
    pub dhcp_group: Option<String>,
    /// The group's id as a file has it.
    pub file_group: Option<String>,
    /// Bytes sent to peers on the Internet in this calendar month, where somebody keeps books.
    pub sent_far: Option<u64>,
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
    /// Peers are asked, by downloads begun from now on.
    pub peers: bool,
    /// Peers may be met on this network at all: else no port is open, nobody is dialled and nothing is announced.
    pub trusted: bool,
    /// The group's id, in the modes group and internet.
    pub group: Option<String>,
    /// Bytes that may still be sent to peers on the Internet in this month; `None`: no limit.
    pub far_allowance: Option<u64>,
    /// Cache hosts are asked.
    pub cache_hosts: bool,
    /// Background downloads run.
    pub background: bool,
    /// Bytes a second of all uploads, foreground and background downloads; 0: no limit.
    pub rates: (u64, u64, u64),
}

/// Every gate's name, but `isolated`, which is the network's.
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

/// The gate of a network that isolates its machines.
pub const ISOLATED: &str = "isolated";

/// Judges a machine by its policies. What it does not say shuts no gate.
pub fn judge(policy: &Policy, facts: &Facts) -> Verdict {
    const SERVES: &str = "peers are not served";
    let mut verdict = Verdict {
        gates: Vec::new(),
        serves: true,
        duties: true,
        peers: true,
        trusted: true,
        group: match policy.download_mode {
            Mode::Group => group_id(policy, facts),
            // Whoever set one here means it; what a network hands out is none of the Internet's.
            Mode::Internet => policy.group_id.clone(),
            _ => None,
        },
        far_allowance: far_allowance(policy, facts),
        cache_hosts: true,
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
    verdict.cache_hosts = vpn.is_none() || policy.cache_host_on_vpn;
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
