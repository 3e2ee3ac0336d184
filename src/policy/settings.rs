//! [`Settings`]: the effective value of every policy, and who said so.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::error::Error;
use crate::policy::key::Key;
use crate::policy::layer::{Layer, Provider};
use crate::policy::network::TrustedNetwork;
use crate::policy::value::{
    CacheHostSource, GroupIdSource, Hours, Metered, MinBattery, Mode, Restrict, Site, every_address,
};

/// The port of Delivery Optimization, which firewalls know.
pub const DEFAULT_PORT: u16 = 7680;
/// Most addresses listened on.
pub const LISTEN_MAX: usize = 16;

/// Most places where a group meets.
pub const RENDEZVOUS_MAX: usize = 8;

/// Every policy's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Which sources may be used.
    pub download_mode: Mode,
    /// Group of the mode group.
    pub group_id: Option<String>,
    /// Where the group's id comes from while it is unset.
    pub group_id_source: GroupIdSource,
    /// File with the group's secret.
    pub group_secret_file: Option<PathBuf>,
    /// Which peers count as near enough.
    pub restrict_peers_by: Restrict,
    /// Networks on which peers are met; `None`: on every one.
    pub trusted_networks: Option<Vec<TrustedNetwork>>,
    /// Where the group meets besides: `HOST:PORT`.
    pub rendezvous: Vec<String>,
    /// Bytes a second below which HTTP is blended into a background download.
    pub min_background_rate: u64,
    /// How long HTTP waits in a foreground download while peers are allowed.
    pub delay_foreground_http: Duration,
    /// How long HTTP waits in a background download while peers are allowed.
    pub delay_background_http: Duration,
    /// Cache hosts, asked in this order: host, and port where it has one.
    pub cache_host: Vec<String>,
    /// Where cache hosts are known from.
    pub cache_host_source: CacheHostSource,
    /// How long a cache host may bring nothing to a foreground download; `None`: for ever.
    pub delay_foreground_cache_fallback: Option<Duration>,
    /// The same for a background download.
    pub delay_background_cache_fallback: Option<Duration>,
    /// Cache hosts are asked over a VPN too.
    pub cache_host_on_vpn: bool,
    /// Bytes of a calendar month that peers on the Internet may be sent; 0: no limit.
    pub monthly_upload_cap: u64,
    /// Bytes of a calendar month that this node carries as a relay between others; 0: none, only what is said before a hole.
    pub relay_data_budget: u64,
    /// Peers that are sent to at one time.
    pub upload_slots: u32,
    /// Nodes of a site that fetch one content from the origin.
    pub origin_gateways: u32,
    /// Connections to one HTTP host.
    pub origin_connections: u32,
    /// Bytes a second over the site's line for each content; 0: no limit.
    pub line_budget: u64,
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
    /// Per cent of the line for foreground downloads; 0: no limit.
    pub max_foreground_percent: u32,
    /// Per cent of the line for background downloads; 0: no limit.
    pub max_background_percent: u32,
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
    /// Bytes below which a lone file comes over HTTP.
    pub min_file_size_to_peer: u64,
    /// How old a manifest may be.
    pub max_age_of_manifest: Option<Duration>,
    /// Bytes of the cache for one user, and for one publisher.
    pub user_quota: Option<u64>,
    /// Addresses on which peers are served.
    pub listen: Vec<SocketAddr>,
    /// Nodes by which others are found in the mode internet, as multiaddresses with peer ids.
    pub bootstrap: Vec<String>,
    /// Others that cannot reach each other exchange their first words through this node, in the mode internet.
    pub relay: bool,
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
    /// `appliance.objects`
    pub appliance_objects: Vec<String>,
    /// `appliance.objects_region`
    pub appliance_objects_region: String,
    /// `appliance.objects_key_file`
    pub appliance_objects_key_file: Option<PathBuf>,
    /// `appliance.scrub_interval`; zero: never.
    pub appliance_scrub_interval: Duration,
    /// `appliance.scrub_rate`, bytes a second; 0: no limit.
    pub appliance_scrub_rate: u64,
    /// `appliance.rendezvous`
    pub appliance_rendezvous: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            download_mode: Mode::Lan,
            group_id: None,
            group_id_source: GroupIdSource::None,
            group_secret_file: None,
            restrict_peers_by: Restrict::Auto,
            trusted_networks: None,
            rendezvous: Vec::new(),
            min_background_rate: 500_000,
            delay_foreground_http: Duration::ZERO,
            delay_background_http: Duration::ZERO,
            cache_host: Vec::new(),
            cache_host_source: CacheHostSource::Auto,
            delay_foreground_cache_fallback: Some(Duration::from_secs(30)),
            delay_background_cache_fallback: Some(Duration::from_secs(60)),
            cache_host_on_vpn: true,
            monthly_upload_cap: 20_000_000_000,
            relay_data_budget: 0,
            upload_slots: 8,
            origin_gateways: 8,
            origin_connections: 4,
            line_budget: 0,
            site: Site::Auto,
            min_free_disk: 2 << 30,
            max_cache_size: 0,
            max_cache_percent: 20,
            max_cache_age: Duration::from_secs(259_200),
            max_foreground_rate: 0,
            max_background_rate: 0,
            max_foreground_percent: 0,
            max_background_percent: 0,
            max_upload_rate: 0,
            foreground_hours: None,
            background_hours: None,
            min_ram_to_peer: 1 << 30,
            min_disk_to_peer: 8 << 30,
            min_battery_to_upload: MinBattery::Never,
            metered: Metered::Auto,
            peer_on_vpn: false,
            vpn_keywords: ["wg", "tun", "tap", "ppp", "vpn", "tailscale", "zt"].map(str::to_owned).to_vec(),
            min_file_size_to_peer: 1 << 20,
            max_age_of_manifest: None,
            user_quota: None,
            cache_dir: None,
            listen: every_address(DEFAULT_PORT),
            bootstrap: Vec::new(),
            relay: false,
            metrics_listen: None,
            control_listen: None,
            control_token_file: None,
            control_hosts: Vec::new(),
            appliance_folders: Vec::new(),
            appliance_prefetch: Vec::new(),
            appliance_prefetch_interval: Duration::from_secs(3600),
            appliance_objects: Vec::new(),
            appliance_objects_region: "us-east-1".to_owned(),
            appliance_objects_key_file: None,
            appliance_scrub_interval: Duration::from_secs(2_592_000),
            appliance_scrub_rate: 20_000_000,
            appliance_rendezvous: true,
        }
    }
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
    /// [`Error::OutOfRange`] for the first value that may not be; [`Error::Needs`] for one that needs another.
    pub fn merge(layers: impl IntoIterator<Item = Layer>) -> Result<Self, Error> {
        Self::default().over(layers)
    }

    /// These settings with layers over them.
    ///
    /// # Errors
    /// As [`Settings::merge`].
    pub fn over(mut self, layers: impl IntoIterator<Item = Layer>) -> Result<Self, Error> {
        let values = layers.into_iter().flat_map(|Layer { values, lines }| {
            values.into_iter().map(move |(key, value)| (key, value, lines.get(&key).copied()))
        });
        for (key, (raw, provider), line) in values {
            if self.policy.set(key, &raw).is_none() {
                return Err(Error::OutOfRange {
                    key: key.path(),
                    value: raw.to_string(),
                    range: key.range(),
                    provider: provider.at(line),
                });
            }
            self.providers.insert(key, provider);
        }
        if self.policy.download_mode == Mode::Group
            && self.policy.group_id.is_none()
            && self.policy.group_id_source == GroupIdSource::None
        {
            let (key, provider) = (Key::DownloadMode, self.provider(Key::DownloadMode).clone());
            let (value, needs) = (self.policy.show(key), Key::GroupId.path());
            return Err(Error::Needs { key: key.path(), value, needs, provider });
        }
        // Without an id there is nobody to prove the secret to, and everybody would be met.
        if self.policy.download_mode == Mode::Internet
            && self.policy.group_secret_file.is_some()
            && self.policy.group_id.is_none()
        {
            let (key, provider) = (Key::GroupSecretFile, self.provider(Key::GroupSecretFile).clone());
            let (value, needs) = (self.policy.show(key), Key::GroupId.path());
            return Err(Error::Needs { key: key.path(), value, needs, provider });
        }
        for (key, needs) in [
            (Key::ForegroundHours, self.policy.max_foreground_rate),
            (Key::BackgroundHours, self.policy.max_background_rate),
        ] {
            let provider = self.provider(key).clone();
            if provider != Provider::Default && needs == 0 {
                let value = self.policy.show(key);
                return Err(Error::OutOfRange { key: key.path(), value, range: key.range(), provider });
            }
        }
        Ok(self)
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
    use crate::policy::layer::Raw;

    const BAD_BOOTSTRAP: [&str; 5] = [
        "[node]\nbootstrap = [\"198.51.100.1:7680\"]",
        "[node]\nbootstrap = [\"/ip4/198.51.100.1/tcp/7680\"]",
        "[node]\nbootstrap = [\"/ip4/198.51.100.1/udp/7680/p2p/12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf\"]",
        "[node]\nbootstrap = [\"/ip4/198.51.100/tcp/7680/p2p/12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf\"]",
        "[node]\nbootstrap = [\"/ip4/198.51.100.1/tcp/0/p2p/12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf\"]",
    ];

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
            "rendezvous = [\"a b\"]",
            "rendezvous = [\"host:0\"]",
            "rendezvous = [\"a\", \"b\", \"c\", \"d\", \"e\", \"f\", \"g\", \"h\", \"i\"]",
            "cache_host_source = \"mdns\"",
            "monthly_upload_cap = \"much\"",
        ] {
            let fault = Settings::merge([file(&format!("[policy]\n{text}"))]).expect_err(text);
            let (key, _) = text.split_once(" =").expect("an assignment");
            let said = fault.to_string();
            assert_eq!(fault.code(), Code::BadConfig, "{text}");
            assert!(said.contains(key) && said.contains("site.toml, line 2") && said.contains("allowed is"), "{said}");
        }
        let many = format!("[node]\nlisten = {:?}", vec!["1.2.3.4:5"; LISTEN_MAX + 1]);
        for text in ["[node]\nlisten = []", "[node]\nlisten = [\"nowhere\"]", "[node]\nlisten = [[]]", &many]
            .into_iter()
            .chain(BAD_BOOTSTRAP.iter().map(|text| &**text))
        {
            assert!(Settings::merge([file(text)]).is_err(), "{text}");
        }
    }

    #[test]
    fn nodes_to_begin_with_are_named_with_who_they_must_be() {
        let id = "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf";
        let nodes = [format!("/ip6/2001:db8::1/tcp/7680/p2p/{id}"), format!("/dns4/seed.example/tcp/1/p2p/{id}")];
        let held = Settings::merge([file(&format!("[node]\nbootstrap = {nodes:?}"))]).expect("in range");
        assert_eq!(held.policy.bootstrap, nodes);
    }

    #[test]
    fn the_mode_group_needs_a_group() {
        let fault = Settings::merge([file("[policy]\ndownload_mode = \"group\"")]).expect_err("no group").to_string();
        assert!(fault.contains("policy.group_id") && fault.contains("site.toml"), "{fault}");
        let held = Settings::merge([file("[policy]\ndownload_mode = \"group\"\ngroup_id = \"lab 4\"")]);
        assert_eq!(held.map(|settings| settings.policy.show(Key::GroupId)), Ok("\"lab 4\"".to_owned()));
        let secret = "[policy]\ndownload_mode = \"internet\"\ngroup_secret_file = \"/s\"";
        let fault = Settings::merge([file(secret)]).expect_err("no group").to_string();
        assert!(fault.contains("policy.group_secret_file") && fault.contains("policy.group_id to be set"), "{fault}");
        assert!(Settings::merge([file(&format!("{secret}\ngroup_id = \"lab 4\""))]).is_ok());
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
        for text in [
            "folders = [\"srv\"]",
            "prefetch = [\"ftp://x/y\"]",
            "prefetch_interval = 59",
            "scrub_interval = 60",
            "scrub_rate = 9",
            "objects = [\"https://s3.test/b\"]",
            "objects = [\"ftp://s3.test/b/\"]",
            "objects_region = \"a/b\"",
            "objects_key_file = \"relative\"",
        ] {
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
        let shown = &mut settings.policy;
        for path in [&mut shown.cache_dir, &mut shown.control_token_file, &mut shown.appliance_objects_key_file] {
            assert!(path.take().is_some());
        }
        assert_eq!(settings.policy, Policy::default());
    }
}
