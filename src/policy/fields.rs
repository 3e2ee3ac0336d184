//! Each policy by its key: shown as a configuration file would have it, copied, and set from what was written.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::key::Key;
use crate::policy::layer::Raw;
use crate::policy::network::TrustedNetwork;
use crate::policy::settings::{LISTEN_MAX, Policy, RENDEZVOUS_MAX};
use crate::policy::value::{
    CacheHostSource, GroupIdSource, Hours, Metered, MinBattery, Mode, Restrict, Site, is_group_id, is_host,
    parse_bytes, parse_listen, show_bytes, with_port,
};

impl Policy {
    /// One value as a configuration file would have it.
    pub fn show(&self, key: Key) -> String {
        match key {
            Key::DownloadMode => format!("{:?}", self.download_mode.word()),
            Key::GroupId => show_text(self.group_id.as_deref()),
            Key::GroupIdSource => format!("{:?}", self.group_id_source.word()),
            Key::GroupSecretFile => show_text(self.group_secret_file.as_deref().and_then(std::path::Path::to_str)),
            Key::RestrictPeersBy => format!("{:?}", self.restrict_peers_by.word()),
            Key::TrustedNetworks => match &self.trusted_networks {
                Some(networks) => format!("{:?}", networks.iter().map(ToString::to_string).collect::<Vec<_>>()),
                None => "unset".to_owned(),
            },
            Key::MinBackgroundRate => format!("\"{}/s\"", show_bytes(self.min_background_rate)),
            Key::DelayForegroundHttp => self.delay_foreground_http.as_secs().to_string(),
            Key::DelayBackgroundHttp => self.delay_background_http.as_secs().to_string(),
            Key::Rendezvous => format!("{:?}", self.rendezvous),
            Key::CacheHost => format!("{:?}", self.cache_host),
            Key::CacheHostSource => format!("{:?}", self.cache_host_source.word()),
            Key::DelayForegroundCacheFallback => show_patience(self.delay_foreground_cache_fallback),
            Key::DelayBackgroundCacheFallback => show_patience(self.delay_background_cache_fallback),
            Key::CacheHostOnVpn => self.cache_host_on_vpn.to_string(),
            Key::MonthlyUploadCap => format!("\"{}\"", show_bytes(self.monthly_upload_cap)),
            Key::RelayDataBudget => format!("\"{}\"", show_bytes(self.relay_data_budget)),
            Key::UploadSlots => self.upload_slots.to_string(),
            Key::OriginGateways => self.origin_gateways.to_string(),
            Key::OriginConnections => self.origin_connections.to_string(),
            Key::LineBudget => format!("\"{}/s\"", show_bytes(self.line_budget)),
            Key::Site => format!("{:?}", self.site.to_string()),
            Key::MinFreeDisk => format!("\"{}\"", show_bytes(self.min_free_disk)),
            Key::MaxCacheSize => format!("\"{}\"", show_bytes(self.max_cache_size)),
            Key::MaxCachePercent => self.max_cache_percent.to_string(),
            Key::MaxCacheAge => self.max_cache_age.as_secs().to_string(),
            Key::MaxForegroundRate => format!("\"{}/s\"", show_bytes(self.max_foreground_rate)),
            Key::MaxBackgroundRate => format!("\"{}/s\"", show_bytes(self.max_background_rate)),
            Key::MaxForegroundPercent => self.max_foreground_percent.to_string(),
            Key::MaxBackgroundPercent => self.max_background_percent.to_string(),
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
            Key::MinFileSizeToPeer => format!("\"{}\"", show_bytes(self.min_file_size_to_peer)),
            Key::MaxAgeOfManifest => {
                self.max_age_of_manifest.map_or_else(|| "unset".to_owned(), |age| age.as_secs().to_string())
            }
            Key::UserQuota => {
                self.user_quota.map_or_else(|| "unset".to_owned(), |bytes| format!("\"{}\"", show_bytes(bytes)))
            }
            Key::CacheDir => match &self.cache_dir {
                Some(path) => format!("{:?}", path.display().to_string()),
                None => "unset".to_owned(),
            },
            Key::Listen => format!("{:?}", self.listen.iter().map(SocketAddr::to_string).collect::<Vec<_>>()),
            Key::Bootstrap => format!("{:?}", self.bootstrap),
            Key::Relay => self.relay.to_string(),
            Key::MetricsListen => show_address(self.metrics_listen),
            Key::ControlListen => show_address(self.control_listen),
            Key::ControlTokenFile => show_text(self.control_token_file.as_deref().and_then(std::path::Path::to_str)),
            Key::ControlHosts => format!("{:?}", self.control_hosts),
            Key::ApplianceFolders => format!("{:?}", self.appliance_folders),
            Key::AppliancePrefetch => format!("{:?}", self.appliance_prefetch),
            Key::AppliancePrefetchInterval => self.appliance_prefetch_interval.as_secs().to_string(),
            Key::ApplianceObjects => format!("{:?}", self.appliance_objects),
            Key::ApplianceObjectsRegion => format!("{:?}", self.appliance_objects_region),
            Key::ApplianceObjectsKeyFile => {
                show_text(self.appliance_objects_key_file.as_deref().and_then(std::path::Path::to_str))
            }
            Key::ApplianceScrubInterval => self.appliance_scrub_interval.as_secs().to_string(),
            Key::ApplianceScrubRate => format!("\"{}/s\"", show_bytes(self.appliance_scrub_rate)),
            Key::ApplianceRendezvous => self.appliance_rendezvous.to_string(),
        }
    }

    /// Takes one value of other policies.
    pub(crate) fn copy(&mut self, from: &Policy, key: Key) {
        match key {
            Key::DownloadMode => self.download_mode = from.download_mode,
            Key::GroupId => self.group_id.clone_from(&from.group_id),
            Key::GroupIdSource => self.group_id_source = from.group_id_source,
            Key::GroupSecretFile => self.group_secret_file.clone_from(&from.group_secret_file),
            Key::RestrictPeersBy => self.restrict_peers_by = from.restrict_peers_by,
            Key::TrustedNetworks => self.trusted_networks.clone_from(&from.trusted_networks),
            Key::MinBackgroundRate => self.min_background_rate = from.min_background_rate,
            Key::DelayForegroundHttp => self.delay_foreground_http = from.delay_foreground_http,
            Key::DelayBackgroundHttp => self.delay_background_http = from.delay_background_http,
            Key::CacheHost => self.cache_host.clone_from(&from.cache_host),
            Key::Rendezvous => self.rendezvous.clone_from(&from.rendezvous),
            Key::CacheHostSource => self.cache_host_source = from.cache_host_source,
            Key::DelayForegroundCacheFallback => {
                self.delay_foreground_cache_fallback = from.delay_foreground_cache_fallback
            }
            Key::DelayBackgroundCacheFallback => {
                self.delay_background_cache_fallback = from.delay_background_cache_fallback
            }
            Key::CacheHostOnVpn => self.cache_host_on_vpn = from.cache_host_on_vpn,
            Key::MonthlyUploadCap => self.monthly_upload_cap = from.monthly_upload_cap,
            Key::RelayDataBudget => self.relay_data_budget = from.relay_data_budget,
            Key::UploadSlots => self.upload_slots = from.upload_slots,
            Key::OriginGateways => self.origin_gateways = from.origin_gateways,
            Key::OriginConnections => self.origin_connections = from.origin_connections,
            Key::LineBudget => self.line_budget = from.line_budget,
            Key::Site => self.site.clone_from(&from.site),
            Key::MinFreeDisk => self.min_free_disk = from.min_free_disk,
            Key::MaxCacheSize => self.max_cache_size = from.max_cache_size,
            Key::MaxCachePercent => self.max_cache_percent = from.max_cache_percent,
            Key::MaxCacheAge => self.max_cache_age = from.max_cache_age,
            Key::MaxForegroundRate => self.max_foreground_rate = from.max_foreground_rate,
            Key::MaxBackgroundRate => self.max_background_rate = from.max_background_rate,
            Key::MaxForegroundPercent => self.max_foreground_percent = from.max_foreground_percent,
            Key::MaxBackgroundPercent => self.max_background_percent = from.max_background_percent,
            Key::MaxUploadRate => self.max_upload_rate = from.max_upload_rate,
            Key::ForegroundHours => self.foreground_hours = from.foreground_hours,
            Key::BackgroundHours => self.background_hours = from.background_hours,
            Key::MinRamToPeer => self.min_ram_to_peer = from.min_ram_to_peer,
            Key::MinDiskToPeer => self.min_disk_to_peer = from.min_disk_to_peer,
            Key::MinBatteryToUpload => self.min_battery_to_upload = from.min_battery_to_upload,
            Key::Metered => self.metered = from.metered,
            Key::PeerOnVpn => self.peer_on_vpn = from.peer_on_vpn,
            Key::VpnKeywords => self.vpn_keywords.clone_from(&from.vpn_keywords),
            Key::MinFileSizeToPeer => self.min_file_size_to_peer = from.min_file_size_to_peer,
            Key::MaxAgeOfManifest => self.max_age_of_manifest = from.max_age_of_manifest,
            Key::UserQuota => self.user_quota = from.user_quota,
            Key::CacheDir => self.cache_dir.clone_from(&from.cache_dir),
            Key::Listen => self.listen.clone_from(&from.listen),
            Key::Bootstrap => self.bootstrap.clone_from(&from.bootstrap),
            Key::Relay => self.relay = from.relay,
            Key::MetricsListen => self.metrics_listen = from.metrics_listen,
            Key::ControlListen => self.control_listen = from.control_listen,
            Key::ControlTokenFile => self.control_token_file.clone_from(&from.control_token_file),
            Key::ControlHosts => self.control_hosts.clone_from(&from.control_hosts),
            Key::ApplianceFolders => self.appliance_folders.clone_from(&from.appliance_folders),
            Key::AppliancePrefetch => self.appliance_prefetch.clone_from(&from.appliance_prefetch),
            Key::AppliancePrefetchInterval => self.appliance_prefetch_interval = from.appliance_prefetch_interval,
            Key::ApplianceObjects => self.appliance_objects.clone_from(&from.appliance_objects),
            Key::ApplianceObjectsRegion => self.appliance_objects_region.clone_from(&from.appliance_objects_region),
            Key::ApplianceObjectsKeyFile => {
                self.appliance_objects_key_file.clone_from(&from.appliance_objects_key_file)
            }
            Key::ApplianceScrubInterval => self.appliance_scrub_interval = from.appliance_scrub_interval,
            Key::ApplianceScrubRate => self.appliance_scrub_rate = from.appliance_scrub_rate,
            Key::ApplianceRendezvous => self.appliance_rendezvous = from.appliance_rendezvous,
        }
    }

    /// Takes one value; `None` where it is of another kind or out of range.
    pub(crate) fn set(&mut self, key: Key, raw: &Raw) -> Option<()> {
        match key {
            Key::DownloadMode => self.download_mode = Mode::parse(&text(raw)?)?,
            Key::GroupId => {
                let id = text(raw)?;
                self.group_id = Some(Some(id).filter(|id| is_group_id(id))?);
            }
            Key::GroupIdSource => self.group_id_source = GroupIdSource::parse(&text(raw)?)?,
            Key::GroupSecretFile => {
                let path = PathBuf::from(text(raw)?);
                self.group_secret_file = Some(Some(path).filter(|path| path.is_absolute())?);
            }
            Key::RestrictPeersBy => self.restrict_peers_by = Restrict::parse(&text(raw)?)?,
            Key::TrustedNetworks => {
                let read = |text: &String| TrustedNetwork::parse(text);
                self.trusted_networks = Some(texts(raw, 64)?.iter().map(read).collect::<Option<_>>()?);
            }
            Key::MinBackgroundRate => self.min_background_rate = bytes(raw, 1_000_000_000_000)?,
            Key::DelayForegroundHttp => {
                self.delay_foreground_http = Duration::from_secs(number(raw, 0, 86_400)?.into())
            }
            Key::DelayBackgroundHttp => {
                self.delay_background_http = Duration::from_secs(number(raw, 0, 86_400)?.into())
            }
            Key::CacheHost => {
                self.cache_host = Some(texts(raw, 16)?).filter(|hosts| hosts.iter().all(|host| is_host(host)))?
            }
            Key::CacheHostSource => self.cache_host_source = CacheHostSource::parse(&text(raw)?)?,
            Key::Rendezvous => {
                let hosts = Some(texts(raw, RENDEZVOUS_MAX)?).filter(|hosts| hosts.iter().all(|host| is_host(host)))?;
                self.rendezvous = hosts.iter().map(|host| with_port(host)).collect();
            }
            Key::DelayForegroundCacheFallback => self.delay_foreground_cache_fallback = patience(raw)?,
            Key::DelayBackgroundCacheFallback => self.delay_background_cache_fallback = patience(raw)?,
            Key::CacheHostOnVpn => self.cache_host_on_vpn = flag(raw)?,
            Key::MonthlyUploadCap => self.monthly_upload_cap = bytes(raw, 1 << 50)?,
            Key::RelayDataBudget => self.relay_data_budget = bytes(raw, 1 << 50)?,
            Key::UploadSlots => self.upload_slots = number(raw, 1, 1024)?,
            Key::OriginGateways => self.origin_gateways = number(raw, 1, 64)?,
            Key::OriginConnections => self.origin_connections = number(raw, 1, 16)?,
            Key::LineBudget => self.line_budget = rate(raw)?,
            Key::Site => self.site = Site::parse(&text(raw)?)?,
            Key::MinFreeDisk => self.min_free_disk = bytes(raw, 1 << 50)?,
            Key::MaxCacheSize => self.max_cache_size = bytes(raw, 1 << 50)?,
            Key::MaxCachePercent => self.max_cache_percent = number(raw, 1, 100)?,
            Key::MaxCacheAge => self.max_cache_age = Duration::from_secs(number(raw, 0, 315_360_000)?.into()),
            Key::MaxForegroundRate => self.max_foreground_rate = rate(raw)?,
            Key::MaxBackgroundRate => self.max_background_rate = rate(raw)?,
            Key::MaxForegroundPercent => self.max_foreground_percent = number(raw, 0, 100)?,
            Key::MaxBackgroundPercent => self.max_background_percent = number(raw, 0, 100)?,
            Key::MaxUploadRate => self.max_upload_rate = rate(raw)?,
            Key::ForegroundHours => self.foreground_hours = Some(Hours::parse(&text(raw)?)?),
            Key::BackgroundHours => self.background_hours = Some(Hours::parse(&text(raw)?)?),
            Key::MinRamToPeer => self.min_ram_to_peer = bytes(raw, 1 << 50)?,
            Key::MinDiskToPeer => self.min_disk_to_peer = bytes(raw, 1 << 50)?,
            Key::MinBatteryToUpload => self.min_battery_to_upload = MinBattery::parse(&text(raw)?)?,
            Key::Metered => self.metered = Metered::parse(&text(raw)?)?,
            Key::PeerOnVpn => self.peer_on_vpn = flag(raw)?,
            Key::VpnKeywords => self.vpn_keywords = words(raw)?,
            Key::MinFileSizeToPeer => self.min_file_size_to_peer = bytes(raw, 1 << 50)?,
            Key::MaxAgeOfManifest => {
                self.max_age_of_manifest = Some(Duration::from_secs(number(raw, 1, 315_360_000)?.into()));
            }
            Key::UserQuota => self.user_quota = Some(bytes(raw, 1 << 50).filter(|bytes| *bytes >= 1 << 20)?),
            Key::CacheDir => {
                let path = PathBuf::from(text(raw)?);
                self.cache_dir = Some(Some(path).filter(|path| path.is_absolute())?);
            }
            Key::Listen => self.listen = listeners(raw)?,
            Key::Bootstrap => {
                self.bootstrap = Some(texts(raw, 16)?).filter(|nodes| nodes.iter().all(|node| is_node(node)))?;
            }
            Key::Relay => self.relay = flag(raw)?,
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
            Key::ApplianceObjects => {
                let right = |text: &String| {
                    let bucket = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
                    let bucket = bucket.and_then(|rest| rest.split_once('/')?.1.split_once('/'));
                    text.len() <= 2048 && bucket.is_some_and(|(bucket, _)| !bucket.is_empty())
                };
                self.appliance_objects = Some(texts(raw, 16)?).filter(|texts| texts.iter().all(right))?;
            }
            Key::ApplianceObjectsRegion => {
                let of_regions = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-';
                let right = |text: &String| (1..=64).contains(&text.len()) && text.bytes().all(of_regions);
                self.appliance_objects_region = Some(text(raw)?).filter(right)?;
            }
            Key::ApplianceObjectsKeyFile => {
                let path = PathBuf::from(text(raw)?);
                self.appliance_objects_key_file = Some(Some(path).filter(|path| path.is_absolute())?);
            }
            Key::ApplianceScrubInterval => {
                let seconds = number(raw, 0, 31_536_000).filter(|seconds| *seconds == 0 || *seconds >= 3600)?;
                self.appliance_scrub_interval = Duration::from_secs(seconds.into());
            }
            Key::ApplianceScrubRate => self.appliance_scrub_rate = rate(raw)?,
            Key::ApplianceRendezvous => self.appliance_rendezvous = flag(raw)?,
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

/// Seconds; -1 is for ever.
fn patience(raw: &Raw) -> Option<Option<Duration>> {
    match text(raw)?.as_str() {
        "-1" => Some(None),
        _ => Some(Some(Duration::from_secs(number(raw, 0, 86_400)?.into()))),
    }
}

fn show_patience(patience: Option<Duration>) -> String {
    patience.map_or_else(|| "-1".to_owned(), |patience| patience.as_secs().to_string())
}

/// A node that can be dialled by its multiaddress, and who it must be.
fn is_node(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let ["", kind, host, "tcp", port, "p2p", id] = parts.as_slice() else { return false };
    let named = match *kind {
        "ip4" => host.parse::<std::net::Ipv4Addr>().is_ok(),
        "ip6" => host.parse::<std::net::Ipv6Addr>().is_ok(),
        "dns" | "dns4" | "dns6" => !host.contains([':', '[']) && is_host(host),
        _ => false,
    };
    let right_port = port.parse::<u16>().is_ok_and(|port| port > 0);
    // Whether it is a key's is seen when it is used.
    named && right_port && (32..=64).contains(&id.len()) && id.bytes().all(|letter| letter.is_ascii_alphanumeric())
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
