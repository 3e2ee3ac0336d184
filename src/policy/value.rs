//! The kinds of value a policy can have, and how they are written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which sources may be used; the words and numbers of Delivery Optimization.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// HTTP sources only; pieces are verified all the same.
    HttpOnly,
    /// Peers of this LAN, found by DNS-SD or named, and HTTP.
    Lan,
    /// Peers of a named group, across subnets.
    Group,
    /// Peers anywhere.
    Internet,
    /// Named peers and sources only; no discovery.
    Simple,
    /// A plain download, checked as a whole; no peer, no cache.
    Bypass,
}

impl Mode {
    /// Every mode with its word and number.
    pub const ALL: [(Mode, &'static str, u8); 6] = [
        (Mode::HttpOnly, "http-only", 0),
        (Mode::Lan, "lan", 1),
        (Mode::Group, "group", 2),
        (Mode::Internet, "internet", 3),
        (Mode::Simple, "simple", 99),
        (Mode::Bypass, "bypass", 100),
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(mode, ..)| *mode == self).map_or("", |(_, word, _)| word)
    }

    /// Reads a word or number.
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            |(_, word, number): &&(Mode, &str, u8)| text.eq_ignore_ascii_case(word) || text == number.to_string();
        Self::ALL.iter().find(fits).map(|(mode, ..)| *mode)
    }

    /// Whether peers may be used at all.
    pub fn uses_peers(self) -> bool {
        !matches!(self, Mode::HttpOnly | Mode::Bypass)
    }

    /// Whether peers are looked for beyond those that were named.
    pub fn discovers(self) -> bool {
        matches!(self, Mode::Lan | Mode::Group | Mode::Internet)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Which machines share a line to the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Site {
    /// Told from links and addresses.
    Auto,
    /// All that carry this name.
    Named(String),
}

impl Site {
    /// Reads `auto` or a name of 1 to 64 printable characters.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "auto" => Some(Site::Auto),
            name if (1..=64).contains(&name.len()) && name.trim() == name && !name.chars().any(char::is_control) => {
                Some(Site::Named(name.to_owned()))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Site::Auto => f.write_str("auto"),
            Site::Named(name) => f.write_str(name),
        }
    }
}

/// Where the id of a group comes from while nobody sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupIdSource {
    /// Nowhere.
    None,
    /// The first domain that the network hands out.
    DnsSuffix,
    /// Option 234 of a DHCP lease.
    DhcpOption,
    /// The first line of `/etc/piecework/group-id`.
    File,
}

impl GroupIdSource {
    const ALL: [GroupIdSource; 4] = [Self::None, Self::DnsSuffix, Self::DhcpOption, Self::File];

    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::DnsSuffix => "dns-suffix",
            Self::DhcpOption => "dhcp-option",
            Self::File => "file",
        }
    }

    /// Reads a word, or a number of Delivery Optimization.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::None),
            "3" => Some(Self::DhcpOption),
            "4" => Some(Self::DnsSuffix),
            word => Self::ALL.into_iter().find(|source| source.word() == word),
        }
    }
}

/// Where cache hosts are known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheHostSource {
    /// `cache_host`, and where it names none what DNS-SD has told by then, on trusted networks.
    Auto,
    /// `cache_host` alone.
    Config,
    /// As [`CacheHostSource::Auto`], and a download waits a moment for the first answer.
    DnsSd,
    /// Option 235 of a DHCP lease, where `cache_host` names none.
    Dhcp,
    /// Option 235 of a DHCP lease, and `cache_host` where no lease has it.
    DhcpForce,
}

impl CacheHostSource {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Config => "config",
            Self::DnsSd => "dns-sd",
            Self::Dhcp => "dhcp",
            Self::DhcpForce => "dhcp-force",
        }
    }

    /// Reads a word, or a number of Delivery Optimization.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Self::Config),
            "1" => Some(Self::Dhcp),
            "2" => Some(Self::DhcpForce),
            word => [Self::Auto, Self::Config, Self::DnsSd, Self::Dhcp, Self::DhcpForce]
                .into_iter()
                .find(|source| source.word() == word),
        }
    }

    /// Which of two lists holds; what DNS-SD tells is in neither.
    pub(crate) fn of<'a>(self, config: &'a [String], dhcp: &'a [String]) -> &'a [String] {
        match self {
            Self::Auto | Self::Config | Self::DnsSd => config,
            Self::Dhcp if config.is_empty() => dhcp,
            Self::DhcpForce if !dhcp.is_empty() => dhcp,
            Self::Dhcp | Self::DhcpForce => config,
        }
    }
}

/// A host, and a port where there is one, as URLs have them; an IPv6 address in brackets.
pub fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let named = |host: &str| {
        (1..=253).contains(&host.len())
            && host.bytes().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'.' | b'_'))
    };
    let right = address.map_or_else(|| named(host), |address| address.parse::<std::net::Ipv6Addr>().is_ok());
    right && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// A host that [`is_host`], with the usual port of peers where it has none.
pub fn with_port(host: &str) -> String {
    match host.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => host.to_owned(),
        _ => format!("{host}:{}", crate::policy::settings::DEFAULT_PORT),
    }
}

/// Whether a text may be a group's id: 1 to 128 printable characters.
pub fn is_group_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.trim() == id && !id.chars().any(char::is_control)
}

/// Which peers count as near enough to be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restrict {
    /// As the mode has it: by DNS-SD in the mode lan, not at all in others.
    Auto,
    /// Whoever may be met at all.
    None,
    /// Those on a link of this machine, whoever dials.
    Subnet,
    /// Of those that this node dials by itself: whom DNS-SD has told, or who are on a link of this machine.
    DnsSd,
}

impl Restrict {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Restrict::Auto => "auto",
            Restrict::None => "none",
            Restrict::Subnet => "subnet",
            Restrict::DnsSd => "dns-sd",
        }
    }

    /// Reads a word, or a number of Delivery Optimization.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Restrict::None),
            "1" => Some(Restrict::Subnet),
            "2" => Some(Restrict::DnsSd),
            word => [Restrict::Auto, Restrict::None, Restrict::Subnet, Restrict::DnsSd]
                .into_iter()
                .find(|restrict| restrict.word() == word),
        }
    }

    /// What it comes to in a mode; never [`Restrict::Auto`].
    pub fn within(self, mode: Mode) -> Self {
        match (self, mode) {
            (Restrict::Auto, Mode::Lan) => Restrict::DnsSd,
            (Restrict::Auto, _) => Restrict::None,
            (other, _) => other,
        }
    }
}

/// The charge above which peers are served on battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MinBattery {
    /// None is enough.
    Never,
    /// Above so many per cent.
    Above(u32),
}

impl MinBattery {
    /// Reads `never` or a number up to 100.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "never" => Some(MinBattery::Never),
            number => number.parse().ok().filter(|percent| *percent <= 100).map(MinBattery::Above),
        }
    }
}

/// Whether the link costs by the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metered {
    /// Told from the machine.
    Auto,
    /// It does.
    Yes,
    /// It does not.
    No,
}

impl Metered {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Metered::Auto => "auto",
            Metered::Yes => "yes",
            Metered::No => "no",
        }
    }

    /// Reads a word.
    pub fn parse(text: &str) -> Option<Self> {
        [Metered::Auto, Metered::Yes, Metered::No].into_iter().find(|metered| metered.word() == text)
    }
}

/// Hours of the day, every day, and per cents of a rate within and outside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hours {
    /// First minute of the day within.
    from: u16,
    /// First minute no longer within; not after `from`: on the next day.
    until: u16,
    /// Per cent within.
    inside: u32,
    /// Per cent outside.
    outside: u32,
}

impl Hours {
    /// Reads `08:00-17:30 20 90`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let (from, until) = parts.next()?.split_once('-')?;
        let mut percent = || parts.next()?.parse().ok().filter(|percent| (1..=100).contains(percent));
        let hours = Self { from: minute(from)?, until: minute(until)?, inside: percent()?, outside: percent()? };
        parts.next().is_none().then_some(hours)
    }

    /// The lower per cent.
    pub(crate) fn least(&self) -> u32 {
        self.inside.min(self.outside)
    }

    /// The per cent that holds at a minute of the day.
    pub fn percent(&self, minute: u16) -> u32 {
        let within = match self.from < self.until {
            true => (self.from..self.until).contains(&minute),
            false => minute >= self.from || minute < self.until,
        };
        if within { self.inside } else { self.outside }
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, until, inside, outside } = self;
        write!(f, "{:02}:{:02}-{:02}:{:02} {inside} {outside}", from / 60, from % 60, until / 60, until % 60)
    }
}

/// A minute of the day, from `HH:MM`.
pub fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let digits = |text: &str, max: u16| {
        let right = text.len() == 2 && text.bytes().all(|digit| digit.is_ascii_digit());
        text.parse::<u16>().ok().filter(|number| right && *number <= max)
    };
    digits(hour, 23)?.checked_mul(60)?.checked_add(digits(minute, 59)?)
}

/// Reads an address to listen on: `IP:PORT`, or `PORT` alone for every address of both families.
pub fn parse_listen(text: &str) -> Option<Vec<SocketAddr>> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(vec![address]);
    }
    let port = text.parse::<u16>().ok()?;
    Some(every_address(port))
}

/// A port on every address of both families.
pub(crate) fn every_address(port: u16) -> Vec<SocketAddr> {
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)]
        .map(|address| SocketAddr::new(address, port))
        .to_vec()
}

/// Reads a number of bytes: digits, then optionally a unit (`KB` is 1000, `KiB` 1024), then optionally `/s`.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.strip_suffix("/s").unwrap_or(text).trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// A number of bytes in the largest unit that divides it, as [`parse_bytes`] reads it back.
pub fn show_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 8] = [
        (1 << 40, "TiB"),
        (1_000_000_000_000, "TB"),
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1000, "KB"),
    ];
    match UNITS.iter().find(|(factor, _)| bytes > 0 && bytes.is_multiple_of(*factor)) {
        Some((factor, unit)) => format!("{} {unit}", bytes / factor),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_has_a_word_and_a_number() {
        for (mode, word, number) in Mode::ALL {
            assert_eq!(Mode::parse(word), Some(mode));
            assert_eq!(Mode::parse(&number.to_string()), Some(mode));
            assert_eq!(mode.to_string(), word);
        }
        for text in ["", "4", "lan ", "peers", "01"] {
            assert_eq!(Mode::parse(text), None, "{text}");
        }
    }

    #[test]
    fn bytes_have_units_of_both_families() {
        for (text, bytes) in [("0", 0), ("17", 17), ("2 GiB", 2 << 30), ("500 KB/s", 500_000), ("1MiB", 1 << 20)] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
            assert_eq!(parse_bytes(&show_bytes(bytes)), Some(bytes), "{text}");
        }
        for text in ["", "-1", "1.5 GiB", "1 XB", "MiB", "99999999999999999999", "99999999 TiB", "١"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn a_listener_is_an_address_with_a_port_or_a_port() {
        assert_eq!(parse_listen("127.0.0.1:7680"), Some(vec![([127, 0, 0, 1], 7680).into()]));
        assert_eq!(parse_listen("[::1]:0").map(|list| list.len()), Some(1));
        assert_eq!(parse_listen("7681"), Some(every_address(7681)));
        for text in ["", "localhost:1", "1.2.3.4", "65536", "1.2.3.4:99999", "::1:80"] {
            assert_eq!(parse_listen(text), None, "{text}");
        }
    }

    #[test]
    fn hours_hold_within_and_outside_and_over_midnight() {
        let day = Hours::parse("08:00-17:30 20 90").expect("hours");
        for (at, percent) in [("07:59", 90), ("08:00", 20), ("17:29", 20), ("17:30", 90), ("00:00", 90)] {
            assert_eq!(day.percent(minute(at).expect("a time")), percent, "{at}");
        }
        let night = Hours::parse("22:00-06:00 100 1").expect("hours");
        for (at, percent) in [("21:59", 1), ("22:00", 100), ("23:59", 100), ("05:59", 100), ("06:00", 1)] {
            assert_eq!(night.percent(minute(at).expect("a time")), percent, "{at}");
        }
        assert_eq!(day.to_string(), "08:00-17:30 20 90");
        for text in [
            "",
            "08:00-17:30",
            "08:00-17:30 0 9",
            "08:00-17:30 101 9",
            "8:00-17:00 1 1",
            "08:00-24:00 1 1",
            "08:00-17:30 1 1 1",
            "08:00 17:30 1 1",
            "+8:00-09:00 1 1",
        ] {
            assert_eq!(Hours::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_site_is_auto_or_a_plain_name() {
        assert_eq!(Site::parse("auto"), Some(Site::Auto));
        assert_eq!(Site::parse("Lyon 2"), Some(Site::Named("Lyon 2".into())));
        for text in ["", " x", "a\nb", &"x".repeat(65)] {
            assert_eq!(Site::parse(text), None, "{text}");
        }
    }
}
