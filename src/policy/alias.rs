//! The names, units and inversions of Delivery Optimization, so that its policy sets can be brought along (its reference:
//! learn.microsoft.com, "Delivery Optimization reference").

use crate::policy::key::Key;
use crate::policy::layer::Raw;

/// How a value of theirs becomes one of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// As it is.
    Same,
    /// Megabytes.
    Megabytes,
    /// Gigabytes.
    Gigabytes,
    /// Kilobytes a second; 0 is no limit for both.
    KilobytesASecond,
    /// Per cent, of which 0 means never.
    ZeroIsNever,
    /// 0 or 1.
    Switch,
    /// 0 or 1, and ours says the opposite.
    Opposite,
    /// Words between commas.
    Words,
}

/// Their names without `DO`, our keys, and the turn between them.
const ALIASES: &[(&str, &str, Turn)] = &[
    ("DownloadMode", "policy.download_mode", Turn::Same),
    ("GroupId", "policy.group_id", Turn::Same),
    ("GroupIdSource", "policy.group_id_source", Turn::Same),
    ("RestrictPeerSelectionBy", "policy.restrict_peers_by", Turn::Same),
    ("MinRAMAllowedToPeer", "policy.min_ram_to_peer", Turn::Gigabytes),
    ("MinDiskSizeAllowedToPeer", "policy.min_disk_to_peer", Turn::Gigabytes),
    ("MinFileSizeToCache", "policy.min_file_size_to_peer", Turn::Megabytes),
    ("ModifyCacheDrive", "policy.cache_dir", Turn::Same),
    ("AbsoluteMaxCacheSize", "policy.max_cache_size", Turn::Gigabytes),
    ("MaxCacheSize", "policy.max_cache_percent", Turn::Same),
    ("MaxCacheAge", "policy.max_cache_age", Turn::Same),
    ("MinBackgroundQos", "policy.min_background_rate", Turn::KilobytesASecond),
    ("MaxForegroundDownloadBandwidth", "policy.max_foreground_rate", Turn::KilobytesASecond),
    ("MaxBackgroundDownloadBandwidth", "policy.max_background_rate", Turn::KilobytesASecond),
    ("MaxUploadBandwidth", "policy.max_upload_rate", Turn::KilobytesASecond),
    ("PercentageMaxForegroundBandwidth", "policy.max_foreground_percent", Turn::Same),
    ("PercentageMaxBackgroundBandwidth", "policy.max_background_percent", Turn::Same),
    ("MonthlyUploadDataCap", "policy.monthly_upload_cap", Turn::Gigabytes),
    ("DelayForegroundDownloadFromHttp", "policy.delay_foreground_http", Turn::Same),
    ("DelayBackgroundDownloadFromHttp", "policy.delay_background_http", Turn::Same),
    ("CacheHost", "policy.cache_host", Turn::Words),
    ("CacheHostSource", "policy.cache_host_source", Turn::Same),
    ("DelayCacheServerFallbackForeground", "policy.delay_foreground_cache_fallback", Turn::Same),
    ("DelayCacheServerFallbackBackground", "policy.delay_background_cache_fallback", Turn::Same),
    ("DisallowCacheServerDownloadsOnVPN", "policy.cache_host_on_vpn", Turn::Opposite),
    ("AllowVPNPeerCaching", "policy.peer_on_vpn", Turn::Switch),
    ("VpnKeywords", "policy.vpn_keywords", Turn::Words),
    ("MinBatteryPercentageAllowedToUpload", "policy.min_battery_to_upload", Turn::ZeroIsNever),
    ("SetHoursToLimitForegroundDownloadBandwidth", "policy.foreground_hours", Turn::Same),
    ("SetHoursToLimitBackgroundDownloadBandwidth", "policy.background_hours", Turn::Same),
];

/// What a name and value of theirs come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Alias {
    /// Our key and value.
    Is(Key, Raw),
    /// A value that cannot be theirs; our key.
    Wrong(Key),
}

/// Looks a name up, `DO` in front; `None` where it is not theirs.
pub(crate) fn find(name: &str, raw: &Raw) -> Option<Alias> {
    let name = name.strip_prefix("DO")?;
    let (_, path, turn) = ALIASES.iter().find(|(alias, ..)| *alias == name)?;
    let key = Key::find(path)?;
    Some(turned(*turn, raw).map_or(Alias::Wrong(key), |raw| Alias::Is(key, raw)))
}

fn turned(turn: Turn, raw: &Raw) -> Option<Raw> {
    let text = match raw {
        Raw::Integer(number) => number.to_string(),
        Raw::Text(text) | Raw::Other(text) => text.clone(),
        Raw::List(_) if turn == Turn::Words => return Some(raw.clone()),
        Raw::List(_) => return None,
    };
    let number = || text.trim().parse::<u32>().ok();
    match turn {
        Turn::Same => Some(raw.clone()),
        Turn::Megabytes => Some(Raw::Text(format!("{} MiB", number()?))),
        Turn::Gigabytes => Some(Raw::Text(format!("{} GiB", number()?))),
        Turn::KilobytesASecond => Some(Raw::Text(format!("{} KB/s", number()?))),
        Turn::ZeroIsNever => Some(match number()? {
            0 => Raw::Text("never".to_owned()),
            percent => Raw::Integer(percent.into()),
        }),
        Turn::Switch => match text.trim() {
            "0" | "false" => Some(Raw::Other("false".to_owned())),
            "1" | "true" => Some(Raw::Other("true".to_owned())),
            _ => None,
        },
        Turn::Opposite => match text.trim() {
            "0" | "false" => Some(Raw::Other("true".to_owned())),
            "1" | "true" => Some(Raw::Other("false".to_owned())),
            _ => None,
        },
        Turn::Words => Some(Raw::List(text.split(',').map(|word| word.trim().to_ascii_lowercase()).collect())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Layer, Provider, Settings};

    #[test]
    fn every_alias_is_of_a_policy() {
        for (name, path, _) in ALIASES {
            assert!(Key::find(path).is_some(), "{name}: {path}");
        }
    }

    #[test]
    fn their_units_numbers_and_inversions_become_ours() {
        for (theirs, key, ours) in [
            ("DODownloadMode = 0", Key::DownloadMode, "\"http-only\""),
            ("DODownloadMode = 99", Key::DownloadMode, "\"simple\""),
            ("DODownloadMode = 100", Key::DownloadMode, "\"bypass\""),
            ("DOMinRAMAllowedToPeer = 4", Key::MinRamToPeer, "\"4 GiB\""),
            ("DOMinDiskSizeAllowedToPeer = 32", Key::MinDiskToPeer, "\"32 GiB\""),
            ("DOAbsoluteMaxCacheSize = 20", Key::MaxCacheSize, "\"20 GiB\""),
            ("DOMaxCacheSize = 30", Key::MaxCachePercent, "30"),
            ("DOMaxCacheAge = 604800", Key::MaxCacheAge, "604800"),
            ("DOMinBackgroundQos = 500", Key::MinBackgroundRate, "\"500 KB/s\""),
            ("DOMaxForegroundDownloadBandwidth = 0", Key::MaxForegroundRate, "\"0 B/s\""),
            ("DOMaxBackgroundDownloadBandwidth = 2000", Key::MaxBackgroundRate, "\"2 MB/s\""),
            ("DOMaxUploadBandwidth = \"64\"", Key::MaxUploadRate, "\"64 KB/s\""),
            ("DODelayBackgroundDownloadFromHttp = 3600", Key::DelayBackgroundHttp, "3600"),
            ("DOMinBatteryPercentageAllowedToUpload = 0", Key::MinBatteryToUpload, "\"never\""),
            ("DOMinBatteryPercentageAllowedToUpload = 40", Key::MinBatteryToUpload, "40"),
            ("DOAllowVPNPeerCaching = 1", Key::PeerOnVpn, "true"),
            ("DOVpnKeywords = \"VPN, Secure\"", Key::VpnKeywords, "[\"vpn\", \"secure\"]"),
            ("DOMinFileSizeToCache = 50", Key::MinFileSizeToPeer, "\"50 MiB\""),
            ("DOGroupIdSource = 4", Key::GroupIdSource, "\"dns-suffix\""),
            ("DOCacheHostSource = 1", Key::CacheHostSource, "\"dhcp\""),
            ("DOCacheHostSource = 2", Key::CacheHostSource, "\"dhcp-force\""),
            ("DOPercentageMaxBackgroundBandwidth = 40", Key::MaxBackgroundPercent, "40"),
            ("DORestrictPeerSelectionBy = 1", Key::RestrictPeersBy, "\"subnet\""),
            ("DOCacheHost = \"cache.example,10.0.0.5:8080\"", Key::CacheHost, "[\"cache.example\", \"10.0.0.5:8080\"]"),
            ("DODelayCacheServerFallbackForeground = 12", Key::DelayForegroundCacheFallback, "12"),
            ("DODisallowCacheServerDownloadsOnVPN = 1", Key::CacheHostOnVpn, "false"),
            ("DOMonthlyUploadDataCap = 5", Key::MonthlyUploadCap, "\"5 GiB\""),
            ("DOModifyCacheDrive = \"/srv/cache\"", Key::CacheDir, "\"/srv/cache\""),
        ] {
            let layer =
                Layer::from_toml(&format!("[policy]\n{theirs}"), &Provider::SiteFile("x".into())).expect(theirs);
            let settings = Settings::merge([layer]).expect(theirs);
            assert_eq!(settings.policy.show(key), ours, "{theirs}");
            assert_eq!(settings.provider(key), &Provider::SiteFile("x".into()));
        }
    }

    #[test]
    fn what_cannot_be_taken_is_refused_by_name() {
        let refused = |text: &str| {
            let layer = Layer::from_toml(&format!("[policy]\n{text}"), &Provider::SiteFile("x".into()));
            layer.and_then(|layer| Settings::merge([layer])).expect_err(text).to_string()
        };
        assert!(refused("DOGroupIdSource = 1").contains("policy.group_id_source"));
        assert!(refused("DOMinRAMAllowedToPeer = \"much\"").contains("policy.min_ram_to_peer"));
        assert!(refused("DOAllowVPNPeerCaching = 2").contains("policy.peer_on_vpn"));
        assert!(refused("DOMaxUploadBandwidth = 4").contains("10 KB/s"));
        assert!(refused("DOMaxCachSize = 4").contains("unknown key"));
        let twice = refused("DOMaxCacheSize = 30\nmax_cache_percent = 30");
        assert!(twice.contains("twice"), "{twice}");
    }
}
