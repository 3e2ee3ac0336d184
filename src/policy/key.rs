//! [`Key`]: the closed list of policies that this build acts on.

macro_rules! keys {
    ($($(#[doc = $doc:literal])* $name:ident = $path:literal, $range:literal;)*) => {
        /// One policy.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Key { $($(#[doc = $doc])* $name,)* }

        impl Key {
            /// Every policy, in the order of the documentation.
            pub const ALL: &'static [Key] = &[$(Key::$name,)*];

            /// Table and key, as `policy.download_mode`.
            pub const fn path(self) -> &'static str {
                match self { $(Key::$name => $path,)* }
            }

            /// What is allowed, in words.
            pub const fn range(self) -> &'static str {
                match self { $(Key::$name => $range,)* }
            }

            /// What it does, in words.
            pub const fn meaning(self) -> &'static str {
                match self { $(Key::$name => concat!($($doc),*).trim_ascii(),)* }
            }
        }
    };
}

keys! {
    /// Which sources may be used.
    DownloadMode = "policy.download_mode", "http-only, lan, group, internet, simple or bypass";
    /// Group of the mode group: its members alone find contents with each other.
    GroupId = "policy.group_id", "1 to 128 printable characters";
    /// Where the group's id comes from while group_id is unset.
    GroupIdSource = "policy.group_id_source", "none, dns-suffix, dhcp-option or file";
    /// File with a secret that all of the group have besides.
    GroupSecretFile = "policy.group_secret_file", "an absolute path";
    /// Which peers count as near enough, those that are named on purpose excepted.
    RestrictPeersBy = "policy.restrict_peers_by", "auto, none, subnet or dns-sd";
    /// Networks on which peers are met; on all others nobody is, and nothing is announced.
    TrustedNetworks = "policy.trusted_networks", "0 to 64 addresses of gateways (MAC), domains, or prefixes as 10.1.0.0/16";
    /// Where a group meets besides, across subnets and without multicast: each is asked who else is of this node's group.
    Rendezvous = "policy.rendezvous", "0 to 8 times HOST or HOST:PORT";
    /// Below this rate HTTP is blended into a background download.
    MinBackgroundRate = "policy.min_background_rate", "0 B/s to 1 TB/s";
    /// How long HTTP waits in a foreground download while peers are allowed.
    DelayForegroundHttp = "policy.delay_foreground_http", "0 to 86400 seconds";
    /// How long HTTP waits in a background download while peers are allowed.
    DelayBackgroundHttp = "policy.delay_background_http", "0 to 86400 seconds";
    /// Hosts of Connected Cache that are asked for content of http URLs before their origins, in this order.
    CacheHost = "policy.cache_host", "0 to 16 times HOST or HOST:PORT";
    /// Where cache hosts are known from.
    CacheHostSource = "policy.cache_host_source", "auto, config, dns-sd, dhcp or dhcp-force";
    /// Seconds without a byte from a cache host after which a foreground download turns to the next, and then to the origin; -1: never.
    DelayForegroundCacheFallback = "policy.delay_foreground_cache_fallback", "-1 to 86400 seconds";
    /// The same for a background download.
    DelayBackgroundCacheFallback = "policy.delay_background_cache_fallback", "-1 to 86400 seconds";
    /// Whether cache hosts are asked while the way out is a VPN.
    CacheHostOnVpn = "policy.cache_host_on_vpn", "true or false";
    /// Bytes of a calendar month that the daemon may send to peers on the Internet; 0 is no limit.
    MonthlyUploadCap = "policy.monthly_upload_cap", "0 B to 1024 TiB";
    /// Bytes of content in a calendar month that this node carries, as a relay, between others that cannot reach each other.
    RelayDataBudget = "policy.relay_data_budget", "0 B to 1024 TiB";
    /// Peers that are sent to at one time.
    UploadSlots = "policy.upload_slots", "1 to 1024";
    /// Nodes of a site that fetch one content from the origin.
    OriginGateways = "policy.origin_gateways", "1 to 64";
    /// Connections to one HTTP host.
    OriginConnections = "policy.origin_connections", "1 to 16";
    /// Bytes a second that may come over a site's line, from origins and from peers of other sites together, for each content; 0 is no limit.
    LineBudget = "policy.line_budget", "0, or 10 KB/s to 1 TB/s";
    /// Which machines share a line to the origin.
    Site = "policy.site", "auto, or a name of 1 to 64 characters";
    /// Never fill a volume past this much free space.
    MinFreeDisk = "policy.min_free_disk", "0 B to 1024 TiB";
    /// Bytes that the cache may take; 0 is no absolute limit.
    MaxCacheSize = "policy.max_cache_size", "0 B to 1024 TiB";
    /// What the cache may take of its volume's free and its own bytes, where max_cache_size sets no limit.
    MaxCachePercent = "policy.max_cache_percent", "1 to 100";
    /// Seconds after its last use for which a content is kept; 0 is for ever.
    MaxCacheAge = "policy.max_cache_age", "0 to 315360000 seconds";
    /// Bytes a second of all foreground downloads together; 0 is no limit.
    MaxForegroundRate = "policy.max_foreground_rate", "0, or 10 KB/s to 1 TB/s";
    /// Bytes a second of all background downloads together; 0 is no limit.
    MaxBackgroundRate = "policy.max_background_rate", "0, or 10 KB/s to 1 TB/s";
    /// Per cent of the line that foreground downloads may take; peers of the site and cache hosts do not count; 0 is no limit.
    MaxForegroundPercent = "policy.max_foreground_percent", "0 to 100";
    /// Per cent of the line that background downloads may take; peers of the site and cache hosts do not count; 0 is no limit.
    MaxBackgroundPercent = "policy.max_background_percent", "0 to 100";
    /// Bytes a second to all peers together; 0 is no limit.
    MaxUploadRate = "policy.max_upload_rate", "0, or 10 KB/s to 1 TB/s";
    /// Per cent of max_foreground_rate within some hours of the day, and outside.
    ForegroundHours = "policy.foreground_hours", "HH:MM-HH:MM INSIDE OUTSIDE (1 to 100 per cent), with max_foreground_rate set";
    /// Per cent of max_background_rate within some hours of the day, and outside.
    BackgroundHours = "policy.background_hours", "HH:MM-HH:MM INSIDE OUTSIDE (1 to 100 per cent), with max_background_rate set";
    /// Memory of the machine below which the daemon serves nobody.
    MinRamToPeer = "policy.min_ram_to_peer", "0 B to 1024 TiB";
    /// Size of the cache's volume below which the daemon serves nobody.
    MinDiskToPeer = "policy.min_disk_to_peer", "0 B to 1024 TiB";
    /// Charge above which the daemon serves on battery.
    MinBatteryToUpload = "policy.min_battery_to_upload", "0 to 100 per cent, or never";
    /// Whether the link costs by the byte: no uploads, and background downloads wait.
    Metered = "policy.metered", "auto, yes or no";
    /// Whether peers are used while the way out is a VPN.
    PeerOnVpn = "policy.peer_on_vpn", "true or false";
    /// What names, and kinds, of network interfaces of VPNs begin with.
    VpnKeywords = "policy.vpn_keywords", "0 to 32 words of 1 to 16 letters";
    /// A lone file below it comes over HTTP, not from peers that nobody named.
    MinFileSizeToPeer = "policy.min_file_size_to_peer", "0 B to 1024 TiB";
    /// Seconds since it was made after which a manifest is not taken any more.
    MaxAgeOfManifest = "policy.max_age_of_manifest", "1 to 315360000 seconds";
    /// Bytes of the daemon's cache that contents of one user, and of one publisher, may take.
    UserQuota = "policy.user_quota", "1 MiB to 1024 TiB";
    /// Where the cache lies.
    CacheDir = "policy.cache_dir", "an absolute path";
    /// Addresses on which peers are served.
    Listen = "node.listen", "1 to 16 times IP:PORT, or PORT for all addresses";
    /// Nodes by which the mode internet finds others.
    Bootstrap = "node.bootstrap", "0 to 16 times /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT/p2p/ID";
    /// Whether this node carries the first words between others of the mode internet that cannot reach each other.
    Relay = "node.relay", "true or false";
    /// Where metrics are served; off by default.
    MetricsListen = "metrics.listen", "IP:PORT, or off";
    /// Where the control API and the dashboard are served on TCP, besides the socket; off by default.
    ControlListen = "control.listen", "IP:PORT, or off";
    /// File with the token for programs that ask over TCP; made where it is missing.
    ControlTokenFile = "control.token_file", "an absolute path";
    /// Names under which browsers reach the daemon over TCP, besides its addresses and localhost.
    ControlHosts = "control.hosts", "0 to 16 names of hosts, without ports";
    /// Folders that the role appliance watches: contents with their manifests are served as they appear.
    ApplianceFolders = "appliance.folders", "0 to 64 absolute paths";
    /// Manifests, URLs and links whose contents the role appliance has in its cache before anybody asks.
    AppliancePrefetch = "appliance.prefetch", "0 to 256 absolute paths, http or https URLs, or piecework links";
    /// Seconds after which manifests of files and URLs to prefetch are looked at again.
    AppliancePrefetchInterval = "appliance.prefetch_interval", "60 to 2592000 seconds";
    /// Buckets of S3-like object storage whose contents the role appliance offers, each as https://HOST/BUCKET/PREFIX.
    ApplianceObjects = "appliance.objects", "0 to 16 http or https URLs with a bucket";
    /// The region that requests to them are signed for.
    ApplianceObjectsRegion = "appliance.objects_region", "1 to 64 letters, digits and hyphens";
    /// File with the access key and, on a line of its own, the secret; without one, requests are not signed.
    ApplianceObjectsKeyFile = "appliance.objects_key_file", "an absolute path";
    /// Seconds within which the role appliance hashes all that it holds once again; 0 is never.
    ApplianceScrubInterval = "appliance.scrub_interval", "0, or 3600 to 31536000 seconds";
    /// Bytes a second that it reads for that; 0 is no limit.
    ApplianceScrubRate = "appliance.scrub_rate", "0, or 10 KB/s to 1 TB/s";
    /// Whether the role appliance keeps a rendezvous, at which the members of a group find each other across subnets.
    ApplianceRendezvous = "appliance.rendezvous", "true or false";
}

impl Key {
    /// The table it stands in.
    pub fn table(self) -> &'static str {
        self.path().split('.').next().unwrap_or_default()
    }

    /// Its name within the table.
    pub fn name(self) -> &'static str {
        self.path().rsplit('.').next().unwrap_or_default()
    }

    /// Whether it takes several values; a variable has them between commas.
    pub(crate) fn is_list(self) -> bool {
        matches!(
            self,
            Key::Listen
                | Key::Rendezvous
                | Key::Bootstrap
                | Key::VpnKeywords
                | Key::TrustedNetworks
                | Key::CacheHost
                | Key::ControlHosts
                | Key::ApplianceFolders
                | Key::AppliancePrefetch
                | Key::ApplianceObjects
        )
    }

    /// The environment variable that sets it; unique over all tables.
    pub fn variable(self) -> String {
        let table = match self.table() {
            "policy" | "node" => String::new(),
            table => format!("{}_", table.to_ascii_uppercase()),
        };
        format!("PIECEWORK_{table}{}", self.name().to_ascii_uppercase())
    }

    /// The key of this path.
    pub fn find(path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|key| key.path() == path)
    }
}

/// The text of `known` with the fewest changes to `text`; the first of equals.
pub(crate) fn nearest<'a>(text: &str, known: impl IntoIterator<Item = &'a str>) -> &'a str {
    // A stranger's key may be long; its beginning tells enough.
    let text: Vec<char> = text.chars().take(64).collect();
    known.into_iter().min_by_key(|known| distance(&text, &known.chars().collect::<Vec<_>>())).unwrap_or_default()
}

/// Levenshtein's distance, one row at a time.
fn distance(one: &[char], two: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (above, from) in one.iter().enumerate() {
        let mut diagonal = above;
        let mut left = above.saturating_add(1);
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, to) in row.iter_mut().skip(1).zip(two) {
            let kept = diagonal.saturating_add(usize::from(from != to));
            diagonal = *cell;
            left = kept.min(diagonal.saturating_add(1)).min(left.saturating_add(1));
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        let mut names: Vec<_> = Key::ALL.iter().map(|key| key.variable()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Key::ALL.len());
        for key in Key::ALL {
            assert_eq!(Key::find(key.path()), Some(*key));
            assert!(!key.meaning().is_empty());
        }
        assert_eq!(Key::UploadSlots.variable(), "PIECEWORK_UPLOAD_SLOTS");
        assert_eq!(Key::MetricsListen.variable(), "PIECEWORK_METRICS_LISTEN");
    }

    #[test]
    fn a_slip_of_the_pen_finds_its_key() {
        let near = |text| nearest(text, Key::ALL.iter().map(|key| key.name()));
        assert_eq!(near("upload_slot"), "upload_slots");
        assert_eq!(near("donwload_mode"), "download_mode");
        assert_eq!(near("listn"), "listen");
        for (one, two, expected) in [("", "", 0), ("", "ab", 2), ("ab", "", 2), ("kitten", "sitting", 3), ("a", "b", 1)]
        {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            assert_eq!(distance(&chars(one), &chars(two)), expected, "{one} {two}");
        }
    }
}
