//! Which URLs a download may fetch from: the manifest's, if a trusted publisher signed it, through the publisher's
//! origins; or the ones a person named, which replace them.

use std::collections::BTreeSet;

use url::Url;

use crate::content::Trusted;
use crate::content::code::Code;
use crate::content::manifest::Manifest;
use crate::drivers::sources::{self, Client, Gate, Source, expand_base};
use crate::programs::peer::Failure;
use crate::services::node::{CachePatience, FetchSources, Node};

/// Hosts that are asked before origins, and how long they may bring nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CacheHosts {
    /// Host, and port where it has one, in the order in which they are asked.
    pub hosts: Vec<String>,
    /// How long each may bring nothing.
    pub patience: CachePatience,
}

impl CacheHosts {
    /// These, and where DNS-SD is asked for them (`finds`) those that it has told of; where that is wished (`awaits`) once its
    /// first answer is there. Nobody waits but a download with an `http` URL: no other is asked of a cache host.
    pub(crate) async fn with_found(&self, finds: bool, awaits: bool, manifest: &Manifest, node: &Node) -> Self {
        let plain = |url: &String| url.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"));
        if !finds || !self.hosts.is_empty() || !manifest.files().iter().any(|file| file.sources.iter().any(plain)) {
            return self.clone();
        }
        let patience = CachePatience { found: true, ..self.patience };
        // Peers that start together with this one would meet it later, and fetch what it is to bring.
        let hosts = if awaits { node.first_cache_hosts().await } else { node.cache_hosts() };
        Self { hosts, patience }
    }
}

/// The sources of one manifest. `named` URLs (exact, or a base ending in `/`) are the only ones where there are any;
/// they may lie anywhere, loopback included.
///
/// # Errors
/// A named URL that does not parse, or that is exact where the manifest has several files.
pub(crate) fn of(
    manifest: &Manifest,
    trusted: Option<&Trusted>,
    named: &[String],
    cache_hosts: &CacheHosts,
) -> Result<FetchSources, Failure> {
    let mut gate = trusted.map_or_else(Gate::default, |trusted| Gate::new(trusted.origins.clone()));
    let mut urls: Vec<(u32, String)> = Vec::new();
    for (number, file) in (0u32..).zip(manifest.files()) {
        if !named.is_empty() {
            for url in named {
                urls.push((number, expand(url, manifest, file.path.as_str())?));
            }
        } else if trusted.is_some() {
            urls.extend(file.sources.iter().map(|url| (number, url.clone())));
        }
    }
    let mut parsed = Vec::with_capacity(urls.len());
    for (number, url) in urls {
        match Source::new(&url) {
            Ok(source) => parsed.push((number, source)),
            Err(error) if named.is_empty() => tracing::warn!(%error, "a source of the manifest is left out"),
            Err(error) => return Err(bad_url(&url, &error.to_string())),
        }
    }
    if !named.is_empty() {
        for (_, source) in &parsed {
            gate.give(source.url());
        }
    }
    let mut cached = Vec::new();
    // Whom the publisher's origins forbid is not asked by way of another either.
    let allowed: Vec<_> = parsed.iter().filter(|(_, source)| gate.check(source.url()).is_ok()).collect();
    // URLs that a person names are the only ones.
    for host in cache_hosts.hosts.iter().filter(|_| named.is_empty()) {
        let mut files = BTreeSet::new();
        for (number, source) in &allowed {
            if let Some(source) = at_cache_host(host, source).filter(|_| files.insert(*number)) {
                gate.give(source.url());
                cached.push((host, *number, source));
            }
        }
    }
    let client = Client::new(sources::Options { gate, ..sources::Options::default() });
    let mut sources = FetchSources::new(client);
    sources.cache_patience(cache_hosts.patience);
    for (host, number, source) in cached {
        sources.add_cache_host(host, number, source);
    }
    for (number, source) in parsed {
        sources.add(number, source);
    }
    Ok(sources)
}

/// Where a cache host has what a URL names, by the addressing of Microsoft Connected Cache: its path, and the origin in the
/// query. `None` for https, whose path and query are nobody's on the way to see.
fn at_cache_host(cache_host: &str, source: &Source) -> Option<Source> {
    let origin = source.url();
    let host = origin.host_str().filter(|_| origin.scheme() == "http")?;
    let origin_host = origin.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
    let mut url = Url::parse(&format!("http://{cache_host}")).ok()?;
    url.set_path(origin.path());
    url.set_query(origin.query());
    url.query_pairs_mut().append_pair("cacheHostOrigin", &origin_host);
    Source::new(url.as_str()).ok()
}

fn expand(url: &str, manifest: &Manifest, path: &str) -> Result<String, Failure> {
    if url.ends_with('/') {
        return expand_base(url, path).map_err(|error| bad_url(url, &error.to_string()));
    }
    if manifest.files().len() > 1 {
        return Err(bad_url(url, "the manifest lists several files, so a source must be a base that ends in /"));
    }
    Ok(url.to_owned())
}

fn bad_url(url: &str, why: &str) -> Failure {
    Failure::new(Code::Usage, format!("the source cannot be used: {why}"))
        .culprit(url.chars().take(200).collect::<String>())
        .remedy("write it as http://HOST/PATH or https://HOST/PATH; a base for several files ends in /")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_host_is_asked_for_the_path_and_told_the_origin() {
        let at = |host, url| at_cache_host(host, &Source::new(url).expect("a URL")).map(|it| it.url().to_string());
        for (url, expected) in [
            ("http://cdn.test/a%20b/c", "http://cache:8080/a%20b/c?cacheHostOrigin=cdn.test"),
            ("http://cdn.test:81/a?x=1&y", "http://cache:8080/a?x=1&y&cacheHostOrigin=cdn.test%3A81"),
        ] {
            assert_eq!(at("cache:8080", url).as_deref(), Some(expected));
        }
        assert_eq!(at("cache", "https://cdn.test/a"), None);
        assert!(at("[fd00::1]:81", "http://cdn.test/").is_some());
    }
}
