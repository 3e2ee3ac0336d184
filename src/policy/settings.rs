//! [`Settings`]: the effective value of every policy, and who said so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::error::Error;
use crate::policy::key::Key;
use crate::policy::layer::{Layer, Provider, Raw};
use crate::policy::value::{
    Hours, Metered, MinBattery, Mode, Site, every_address, parse_bytes, parse_listen, show_bytes,
};

/// The port of Delivery Optimization, which firewalls know.
pub const DEFAULT_PORT: u16 = 7680;
/// Most addresses listened on.
pub const LISTEN_MAX: usize = 16;

/// Every policy's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which sources may be used.
    pub download_mode: Mode,
    /// Group of the mode group.
    pub group_id: Option<String>,
    /// File with the group's secret.
    pub group_secret_file: Option<PathBuf>,
    /// Bytes a second below which HTTP is blended into a background download.
    pub min_background_rate: u64,
    /// How long HTTP waits in a foreground download while peers are allowed.
    pub delay_foreground_http: Duration,
    /// How long HTTP waits in a background download while peers are allowed.
    pub delay_background_http: Duration,
    /// Peers that are sent to at one time.
    pub upload_slots: u32,
    /// Nodes of a site that fetch one content from the origin.
    pub origin_gateways: u32,
    /// Connections to one HTTP host.
    pub origin_connections: u32,
    /// Which machines share a line to the origin.
    pub site: Site,
    /// Bytes that stay free on a volume.
    pub min_free_disk: u64,
    /// Bytes that the cache may take; 0: no absolute limit.
    pub max_cache_size: u64,
    /// Per cent of the volume's free and the cache's own bytes.
    pub max_cache_percent: u32,
    /// How long after its last use a content is kept; zero: for ever.
    pub max_cache_age: Duration,
    /// Bytes a second of all foreground downloads; 0: no limit.
    pub max_foreground_rate: u64,
    /// Bytes a second of all background downloads; 0: no limit.
    pub max_background_rate: u64,
    /// Bytes a second to all peers; 0: no limit.
    pub max_upload_rate: u64,
    /// Per cents of `max_foreground_rate` over the day.
    pub foreground_hours: Option<Hours>,
    /// Per cents of `max_background_rate` over the day.
    pub background_hours: Option<Hours>,
    /// Bytes of memory below which the daemon serves nobody.
    pub min_ram_to_peer: u64,
    /// Bytes of the cache's volume below which it serves nobody.
    pub min_disk_to_peer: u64,
    /// Charge above which it serves on battery.
    pub min_battery_to_upload: MinBattery,
    /// Whether the link costs by the byte.
    pub metered: Metered,
    /// Peers are used over a VPN too.
    pub peer_on_vpn: bool,
    /// Beginnings of names and kinds of a VPN's interfaces.
    pub vpn_keywords: Vec<String>,
    /// Where the cache lies; `None`: the usual place of the system.
    pub cache_dir: Option<PathBuf>,
    /// Addresses on which peers are served.
    pub listen: Vec<SocketAddr>,
    /// Where metrics are served; `None`: nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Where the control API is served on TCP; `None`: nowhere.
    pub control_listen: Option<SocketAddr>,
    /// The token's file; `None`: in the state folder.
    pub control_token_file: Option<PathBuf>,
    /// Names that browsers may use for this daemon.
    pub control_hosts: Vec<String>,
    /// `appliance.folders`
    pub appliance_folders: Vec<PathBuf>,
    /// `appliance.prefetch`
    pub appliance_prefetch: Vec<String>,
    /// `appliance.prefetch_interval`
    pub appliance_prefetch_interval: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            download_mode: Mode::Lan,
            group_id: None,
            group_secret_file: None,
            min_background_rate: 500_000,
            delay_foreground_http: Duration::ZERO,
            delay_background_http: Duration::ZERO,
            upload_slots: 8,
            origin_gateways: 8,
            origin_connections: 4,
            site: Site::Auto,
            min_free_disk: 2 << 30,
            max_cache_size: 0,
            max_cache_percent: 20,
            max_cache_age: Duration::from_secs(259_200),
            max_foreground_rate: 0,
            max_background_rate: 0,
            max_upload_rate: 0,
            foreground_hours: None,
            background_hours: None,
            min_ram_to_peer: 1 << 30,
            min_disk_to_peer: 8 << 30,
            min_battery_to_upload: MinBattery::Never,
            metered: Metered::Auto,
            peer_on_vpn: false,
            vpn_keywords: ["wg", "tun", "tap", "ppp", "vpn", "tailscale", "zt"].map(str::to_owned).to_vec(),
            cache_dir: None,
            listen: every_address(DEFAULT_PORT),
            metrics_listen: None,
            control_listen: None,
            control_token_file: None,
            control_hosts: Vec::new(),
            appliance_folders: Vec::new(),
            appliance_prefetch: Vec::new(),
            appliance_prefetch_interval: Duration::from_secs(3600),
        }
    }
}

impl Policy {
    /// One value as a configuration file would have it.
    pub fn show(&self, key: Key) -> String {
        match key {
            Key::DownloadMode => format!("{:?}", self.download_mode.word()),
            Key::GroupId => show_text(self.group_id.as_deref()),
            Key::GroupSecretFile => show_text(self.group_secret_file.as_deref().and_then(std::path::Path::to_str)),
            Key::MinBackgroundRate => format!("\"{}/s\"", show_bytes(self.min_background_rate)),
            Key::DelayForegroundHttp => self.delay_foreground_http.as_secs().to_string(),
            Key::DelayBackgroundHttp => self.delay_background_http.as_secs().to_string(),
            Key::UploadSlots => self.upload_slots.to_string(),
            Key::OriginGateways => self.origin_gateways.to_string(),
            Key::OriginConnections => self.origin_connections.to_string(),
            Key::Site => format!("{:?}", self.site.to_string()),
            Key::MinFreeDisk => format!("\"{}\"", show_bytes(self.min_free_disk)),
            Key::MaxCacheSize => format!("\"{}\"", show_bytes(self.max_cache_size)),
            Key::MaxCachePercent => self.max_cache_percent.to_string(),
            Key::MaxCacheAge => self.max_cache_age.as_secs().to_string(),
            Key::MaxForegroundRate => format!("\"{}/s\"", show_bytes(self.max_foreground_rate)),
            Key::MaxBackgroundRate => format!("\"{}/s\"", show_bytes(self.max_background_rate)),
            Key::MaxUploadRate => format!("\"{}/s\"", show_bytes(self.max_upload_rate)),
            Key::ForegroundHours => show_hours(self.foreground_hours),
            Key::BackgroundHours => show_hours(self.background_hours),
            Key::MinRamToPeer => format!("\"{}\"", show_bytes(self.min_ram_to_peer)),
            Key::MinDiskToPeer => format!("\"{}\"", show_bytes(self.min_disk_to_peer)),
            Key::MinBatteryToUpload => match self.min_battery_to_upload {
                MinBattery::Never => "\"never\"".to_owned(),
                MinBattery::Above(percent) => percent.to_string(),
            },
            Key::Metered => format!("{:?}", self.metered.word()),
            Key::PeerOnVpn => self.peer_on_vpn.to_string(),
            Key::VpnKeywords => format!("{:?}", self.vpn_keywords),
            Key::CacheDir => match &self.cache_dir {
                Some(path) => format!("{:?}", path.display().to_string()),
                None => "unset".to_owned(),
            },
            Key::Listen => format!("{:?}", self.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>()),
            Key::MetricsListen => show_address(self.metrics_listen),
            Key::ControlListen => show_address(self.control_listen),
            Key::ControlTokenFile => show_text(self.control_token_file.as_deref().and_then(std::path::Path::to_str)),
            Key::ControlHosts => format!("{:?}", self.control_hosts),
            Key::ApplianceFolders => format!("{:?}", self.appliance_folders),
            Key::AppliancePrefetch => format!("{:?}", self.appliance_prefetch),
            Key::AppliancePrefetchInterval => self.appliance_prefetch_interval.as_secs().to_string(),
        }
    }

    /// Takes one value of other policies.
    fn copy(&mut self, from: &Policy, key: Key) {
        match key {
            Key::DownloadMode => self.download_mode = from.download_mode,
            Key::GroupId => self.group_id.clone_from(&from.group_id),
            Key::GroupSecretFile => self.group_secret_file.clone_from(&from.group_secret_file),
            Key::MinBackgroundRate => self.min_background_rate = from.min_background_rate,
            Key::DelayForegroundHttp => self.delay_foreground_http = from.delay_foreground_http,
            Key::DelayBackgroundHttp => self.delay_background_http = from.delay_background_http,
            Key::UploadSlots => self.upload_slots = from.upload_slots,
            Key::OriginGateways => self.origin_gateways = from.origin_gateways,
            Key::OriginConnections => self.origin_connections = from.origin_connections,
            Key::Site => self.site.clone_from(&from.site),
            Key::MinFreeDisk => self.min_free_disk = from.min_free_disk,
            Key::MaxCacheSize => self.max_cache_size = from.max_cache_size,
            Key::MaxCachePercent => self.max_cache_percent = from.max_cache_percent,
            Key::MaxCacheAge => self.max_cache_age = from.max_cache_age,
            Key::MaxForegroundRate => self.max_foreground_rate = from.max_foreground_rate,
            Key::MaxBackgroundRate => self.max_background_rate = from.max_background_rate,
            Key::MaxUploadRate => self.max_upload_rate = from.max_upload_rate,
            Key::ForegroundHours => self.foreground_hours = from.foreground_hours,
            Key::BackgroundHours => self.background_hours = from.background_hours,
            Key::MinRamToPeer => self.min_ram_to_peer = from.min_ram_to_peer,
            Key::MinDiskToPeer => self.min_disk_to_peer = from.min_disk_to_peer,
            Key::MinBatteryToUpload => self.min_battery_to_upload = from.min_battery_to_upload,
            Key::Metered => self.metered = from.metered,
            Key::PeerOnVpn => self.peer_on_vpn = from.peer_on_vpn,
            Key::VpnKeywords => self.vpn_keywords.clone_from(&from.vpn_keywords),
            Key::CacheDir => self.cache_dir.clone_from(&from.cache_dir),
            Key::Listen => self.listen.clone_from(&from.listen),
            Key::MetricsListen => self.metrics_listen = from.metrics_listen,
            Key::ControlListen => self.control_listen = from.control_listen,
            Key::ControlTokenFile => self.control_token_file.clone_from(&from.control_token_file),
            Key::ControlHosts => self.control_hosts.clone_from(&from.control_hosts),
            Key::ApplianceFolders => self.appliance_folders.clone_from(&from.appliance_folders),
            Key::AppliancePrefetch => self.appliance_prefetch.clone_from(&from.appliance_prefetch),
            Key::AppliancePrefetchInterval => self.appliance_prefetch_interval = from.appliance_prefetch_interval,
        }
    }

    /// Takes one value; `None` where it is of another kind or out of range.
    fn set(&mut self, key: Key, raw: &Raw) -> Option<()> {
        match key {
            Key::DownloadMode => self.download_mode = Mode::parse(&text(raw)?)?,
            Key::GroupId => {
                let id = text(raw)?;
                let right = (1..=128).contains(&id.len()) && id.trim() == id && !id.chars().any(char::is_control);
                self.group_id = Some(Some(id).filter(|_| right)?);
            }
            Key::GroupSecretFile => {
                let path = PathBuf::from(text(raw)?);
                self.group_secret_file = Some(Some(path).filter(|path| path.is_absolute())?);
            }
            Key::MinBackgroundRate => self.min_background_rate = bytes(raw, 1_000_000_000_000)?,
            Key::DelayForegroundHttp => {
                self.delay_foreground_http = Duration::from_secs(number(raw, 0, 86_400)?.into())
            }
            Key::DelayBackgroundHttp => {
                self.delay_background_http = Duration::from_secs(number(raw, 0, 86_400)?.into())
            }
            Key::UploadSlots => self.upload_slots = number(raw, 1, 1024)?,
            Key::OriginGateways => self.origin_gateways = number(raw, 1, 64)?,
            Key::OriginConnections => self.origin_connections = number(raw, 1, 16)?,
            Key::Site => self.site = Site::parse(&text(raw)?)?,
            Key::MinFreeDisk => self.min_free_disk = bytes(raw, 1 << 50)?,
            Key::MaxCacheSize => self.max_cache_size = bytes(raw, 1 << 50)?,
            Key::MaxCachePercent => self.max_cache_percent = number(raw, 1, 100)?,
            Key::MaxCacheAge => self.max_cache_age = Duration::from_secs(number(raw, 0, 315_360_000)?.into()),
            Key::MaxForegroundRate => self.max_foreground_rate = rate(raw)?,
            Key::MaxBackgroundRate => self.max_background_rate = rate(raw)?,
            Key::MaxUploadRate => self.max_upload_rate = rate(raw)?,
            Key::ForegroundHours => self.foreground_hours = Some(Hours::parse(&text(raw)?)?),
            Key::BackgroundHours => self.background_hours = Some(Hours::parse(&text(raw)?)?),
            Key::MinRamToPeer => self.min_ram_to_peer = bytes(raw, 1 << 50)?,
            Key::MinDiskToPeer => self.min_disk_to_peer = bytes(raw, 1 << 50)?,
            Key::MinBatteryToUpload => self.min_battery_to_upload = MinBattery::parse(&text(raw)?)?,
            Key::Metered => self.metered = Metered::parse(&text(raw)?)?,
            Key::PeerOnVpn => self.peer_on_vpn = flag(raw)?,
            Key::VpnKeywords => self.vpn_keywords = words(raw)?,
            Key::CacheDir => {
                let path = PathBuf::from(text(raw)?);
                self.cache_dir = Some(Some(path).filter(|path| path.is_absolute())?);
            }
            Key::Listen => self.listen = listeners(raw)?,
            Key::MetricsListen => self.metrics_listen = address(raw)?,
            Key::ControlListen => self.control_listen = address(raw)?,
            Key::ControlTokenFile => {
                let path = PathBuf::from(text(raw)?);
                self.control_token_file = Some(Some(path).filter(|path| path.is_absolute())?);
            }
            Key::ControlHosts => {
                let of_hosts = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-' || letter == b'.';
                let right = |name: &String| (1..=253).contains(&name.len()) && name.bytes().all(of_hosts);
                self.control_hosts = Some(texts(raw, 16)?).filter(|names| names.iter().all(right))?;
            }
            Key::ApplianceFolders => {
                let right = |path: &PathBuf| path.is_absolute();
                let folders: Vec<PathBuf> = texts(raw, 64)?.into_iter().map(PathBuf::from).collect();
                self.appliance_folders = Some(folders).filter(|folders| folders.iter().all(right))?;
            }
            Key::AppliancePrefetch => {
                let right = |text: &String| {
                    text.len() <= 4096
                        && ["/", "http://", "https://", "piecework:"].iter().any(|with| text.starts_with(with))
                };
                self.appliance_prefetch = Some(texts(raw, 256)?).filter(|texts| texts.iter().all(right))?;
            }
            Key::AppliancePrefetchInterval => {
                self.appliance_prefetch_interval = Duration::from_secs(number(raw, 60, 2_592_000)?.into());
            }
        }
        Some(())
    }
}

fn text(raw: &Raw) -> Option<String> {
    match raw {
        Raw::Text(text) => Some(text.clone()),
        Raw::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

fn number(raw: &Raw, min: u32, max: u32) -> Option<u32> {
    text(raw)?.parse().ok().filter(|number| (min..=max).contains(number))
}

fn bytes(raw: &Raw, max: u64) -> Option<u64> {
    parse_bytes(&text(raw)?).filter(|bytes| *bytes <= max)
}

/// A rate that is none, or one at which connections stay alive.
fn rate(raw: &Raw) -> Option<u64> {
    bytes(raw, 1_000_000_000_000).filter(|rate| *rate == 0 || *rate >= 10_000)
}

fn flag(raw: &Raw) -> Option<bool> {
    match raw {
        Raw::Text(text) | Raw::Other(text) => text.parse().ok(),
        _ => None,
    }
}

fn words(raw: &Raw) -> Option<Vec<String>> {
    let list = match raw {
        Raw::List(list) => list.clone(),
        other => vec![text(other)?],
    };
    let right = |word: &String| {
        (1..=16).contains(&word.len()) && word.bytes().all(|letter| letter.is_ascii_alphanumeric() || letter == b'-')
    };
    Some(list).filter(|list| list.len() <= 32 && list.iter().all(right))
}

/// At most so many texts.
fn texts(raw: &Raw, max: usize) -> Option<Vec<String>> {
    let list = match raw {
        Raw::List(list) => list.clone(),
        other => vec![text(other)?],
    };
    Some(list).filter(|list| list.len() <= max)
}

/// An address, or that there is none.
fn address(raw: &Raw) -> Option<Option<SocketAddr>> {
    match text(raw)?.as_str() {
        "off" => Some(None),
        address => Some(Some(address.parse().ok()?)),
    }
}

fn show_address(address: Option<SocketAddr>) -> String {
    address.map_or_else(|| "\"off\"".to_owned(), |address| format!("{:?}", address.to_string()))
}

fn show_text(text: Option<&str>) -> String {
    text.map_or_else(|| "unset".to_owned(), |text| format!("{text:?}"))
}

fn show_hours(hours: Option<Hours>) -> String {
    hours.map_or_else(|| "unset".to_owned(), |hours| format!("{:?}", hours.to_string()))
}

fn listeners(raw: &Raw) -> Option<Vec<SocketAddr>> {
    let list = match raw {
        Raw::List(list) => list.clone(),
        other => vec![text(other)?],
    };
    let found: Vec<_> = list.iter().map(|text| parse_listen(text)).collect::<Option<Vec<_>>>()?.concat();
    Some(found).filter(|found| (1..=LISTEN_MAX).contains(&found.len()))
}

/// Every policy's value with its provider.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The values.
    pub policy: Policy,
    /// What is not listed has its default.
    providers: BTreeMap<Key, Provider>,
}

impl Settings {
    /// Merges layers, weakest first: a later one wins, key by key. A value that is overridden must be right all the same.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for the first value that may not be; [`Error::NotAvailable`] for a mode that holds in the end
    /// and that this build does not serve.
    pub fn merge(layers: impl IntoIterator<Item = Layer>) -> Result<Self, Error> {
        let mut settings = Self::default();
        let values = layers.into_iter().flat_map(|Layer { values, lines }| {
            values.into_iter().map(move |(key, value)| (key, value, lines.get(&key).copied()))
        });
        for (key, (raw, provider), line) in values {
            if settings.policy.set(key, &raw).is_none() {
                return Err(Error::OutOfRange {
                    key: key.path(),
                    value: raw.to_string(),
                    range: key.range(),
                    provider: provider.at(line),
                });
            }
            settings.providers.insert(key, provider);
        }
        if !settings.policy.download_mode.is_available() {
            return Err(Error::NotAvailable {
                key: Key::DownloadMode.path(),
                value: settings.policy.download_mode.word(),
                provider: settings.provider(Key::DownloadMode).clone(),
            });
        }
        if settings.policy.download_mode == Mode::Group && settings.policy.group_id.is_none() {
            let (key, provider) = (Key::DownloadMode, settings.provider(Key::DownloadMode).clone());
            let (value, needs) = (settings.policy.show(key), Key::GroupId.path());
            return Err(Error::Needs { key: key.path(), value, needs, provider });
        }
        for (key, needs) in [
            (Key::ForegroundHours, settings.policy.max_foreground_rate),
            (Key::BackgroundHours, settings.policy.max_background_rate),
        ] {
            let provider = settings.provider(key).clone();
            if provider != Provider::Default && needs == 0 {
                let value = settings.policy.show(key);
                return Err(Error::OutOfRange { key: key.path(), value, range: key.range(), provider });
            }
        }
        Ok(settings)
    }

    /// What nobody has set is as a seeding appliance has it: no limit of age, and 64 slots for uploads.
    pub fn as_appliance(&mut self) {
        for key in [Key::MaxCacheAge, Key::UploadSlots] {
            if self.providers.contains_key(&key) {
                continue;
            }
            match key {
                Key::MaxCacheAge => self.policy.max_cache_age = Duration::ZERO,
                _ => self.policy.upload_slots = 64,
            }
            self.providers.insert(key, Provider::Role("appliance"));
        }
    }

    /// Takes these policies over from other settings, with who set them; all else stays as it is.
    pub fn take_over(&mut self, from: &Settings, keys: &[Key]) {
        let before = std::mem::replace(self, from.clone());
        for key in Key::ALL.iter().filter(|key| !keys.contains(key)) {
            self.policy.copy(&before.policy, *key);
            match before.providers.get(key) {
                Some(provider) => self.providers.insert(*key, provider.clone()),
                None => self.providers.remove(key),
            };
        }
    }

    /// Who set a value.
    pub fn provider(&self, key: Key) -> &Provider {
        self.providers.get(&key).unwrap_or(&Provider::Default)
    }

    /// Every key with its value, as a configuration file would have it, and its provider.
    pub fn rows(&self) -> impl Iterator<Item = (Key, String, &Provider)> + '_ {
        Key::ALL.iter().map(|key| (*key, self.policy.show(*key), self.provider(*key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::code::Code;

    fn file(text: &str) -> Layer {
        Layer::from_toml(text, &Provider::SiteFile("site.toml".into())).expect("known keys")
    }

    #[test]
    fn a_later_layer_wins_and_leaves_its_name() {
        let user = Layer::from_toml("[policy]\nupload_slots = 5", &Provider::UserFile("user.toml".into()));
        let flags = Layer::default().flag(Key::DownloadMode, "--mode", Some(Raw::Text("simple".into())));
        let layers = [file("[policy]\nupload_slots = 4\norigin_gateways = 2"), user.expect("known keys"), flags];
        let settings = Settings::merge(layers).expect("in range");
        assert_eq!((settings.policy.upload_slots, settings.policy.origin_gateways), (5, 2));
        assert_eq!(settings.policy.download_mode, Mode::Simple);
        assert_eq!(settings.provider(Key::UploadSlots), &Provider::UserFile("user.toml".into()));
        assert_eq!(settings.provider(Key::OriginGateways), &Provider::SiteFile("site.toml".into()));
        assert_eq!(settings.provider(Key::Site), &Provider::Default);
    }

    #[test]
    fn values_out_of_range_are_refused_with_key_value_range_and_provider() {
        for text in [
            "upload_slots = 0",
            "upload_slots = 1025",
            "upload_slots = -1",
            "upload_slots = \"many\"",
            "upload_slots = 1.5",
            "upload_slots = [4]",
            "origin_gateways = 65",
            "origin_connections = 17",
            "delay_foreground_http = 86401",
            "download_mode = \"fast\"",
            "min_free_disk = \"2 gigs\"",
            "min_background_rate = \"2 TB/s\"",
            "max_cache_size = \"2048 TiB\"",
            "max_cache_percent = 0",
            "max_cache_age = \"a week\"",
            "site = \"\"",
            "cache_dir = \"relative\"",
            "max_upload_rate = \"9 KB/s\"",
            "background_hours = \"all day\"",
            "min_battery_to_upload = 101",
            "metered = \"maybe\"",
            "peer_on_vpn = 1",
            "vpn_keywords = [\"a b\"]",
        ] {
            let fault = Settings::merge([file(&format!("[policy]\n{text}"))]).expect_err(text);
            let (key, _) = text.split_once(" =").expect("an assignment");
            let said = fault.to_string();
            assert_eq!(fault.code(), Code::BadConfig, "{text}");
            assert!(said.contains(key) && said.contains("site.toml, line 2") && said.contains("allowed is"), "{said}");
        }
        let many = format!("[node]\nlisten = {:?}", vec!["1.2.3.4:5"; LISTEN_MAX + 1]);
        for text in ["[node]\nlisten = []", "[node]\nlisten = [\"nowhere\"]", "[node]\nlisten = [[]]", &many] {
            assert!(Settings::merge([file(text)]).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_of_later_builds_are_refused_by_name_unless_overridden() {
        for mode in ["internet", "3"] {
            let layer = || file(&format!("[policy]\ndownload_mode = \"{mode}\""));
            let fault = Settings::merge([layer()]).expect_err(mode);
            assert_eq!(fault.code(), Code::Policy);
            let flag = Layer::default().flag(Key::DownloadMode, "--mode", Some(Raw::Text("lan".into())));
            assert!(Settings::merge([layer(), flag]).is_ok());
        }
    }

    #[test]
    fn the_mode_group_needs_a_group() {
        let fault = Settings::merge([file("[policy]\ndownload_mode = \"group\"")]).expect_err("no group").to_string();
        assert!(fault.contains("policy.group_id") && fault.contains("site.toml"), "{fault}");
        let held = Settings::merge([file("[policy]\ndownload_mode = \"group\"\ngroup_id = \"lab 4\"")]);
        assert_eq!(held.map(|settings| settings.policy.show(Key::GroupId)), Ok("\"lab 4\"".to_owned()));
    }

    #[test]
    fn numbers_may_stand_in_text_since_variables_have_nothing_else() {
        let layer = Layer::from_environment([("PIECEWORK_UPLOAD_SLOTS".to_owned(), "12".to_owned())]);
        assert_eq!(Settings::merge([layer]).map(|settings| settings.policy.upload_slots), Ok(12));
    }

    #[test]
    fn an_appliance_has_defaults_of_its_own_and_hears_whoever_sets_something() {
        let mut settings = Settings::merge([file("[policy]\nupload_slots = 4")]).expect("in range");
        settings.as_appliance();
        assert_eq!((settings.policy.upload_slots, settings.policy.max_cache_age), (4, Duration::ZERO));
        assert_eq!(settings.provider(Key::MaxCacheAge).to_string(), "the role appliance");
        for text in ["folders = [\"srv\"]", "prefetch = [\"ftp://x/y\"]", "prefetch_interval = 59"] {
            assert!(Settings::merge([file(&format!("[appliance]\n{text}"))]).is_err(), "{text}");
        }
    }

    #[test]
    fn the_packaged_file_shows_every_default() {
        let text = include_str!("../../packaging/piecework.toml");
        assert_eq!(Settings::merge([file(text)]), Ok(Settings::default()), "as it is, it changes nothing");
        let assignment = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
        let lines = text.lines().map(|line| line.strip_prefix('#').filter(|line| assignment(line)).unwrap_or(line));
        let shown = lines.clone().map(|line| format!("{line}\n")).collect::<String>();
        for (key, value, _) in Settings::default().rows().filter(|(_, value, _)| value != "unset") {
            let line = format!("{} = {value}", key.name());
            assert!(lines.clone().any(|found| found == line), "{line} is missing");
        }
        let mut settings = Settings::merge([file(&shown)]).expect("every line in range");
        assert!(settings.policy.cache_dir.take().is_some() && settings.policy.control_token_file.take().is_some());
        assert_eq!(settings.policy, Policy::default());
    }
}
