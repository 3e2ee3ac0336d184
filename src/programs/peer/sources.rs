//! Which URLs a download may fetch from: the manifest's, if a trusted publisher signed it, through the publisher's
//! origins; or the ones a person named, which replace them.

use crate::content::Trusted;
use crate::content::code::Code;
use crate::content::manifest::Manifest;
use crate::drivers::sources::{self, Client, Gate, Source, expand_base};
use crate::programs::peer::Failure;
use crate::services::node::FetchSources;

/// The sources of one manifest. `named` URLs (exact, or a base ending in `/`) are the only ones where there are any;
/// they may lie anywhere, loopback included.
///
/// # Errors
/// A named URL that does not parse, or that is exact where the manifest has several files.
pub(crate) fn of(manifest: &Manifest, trusted: Option<&Trusted>, named: &[String]) -> Result<FetchSources, Failure> {
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
    let client = Client::new(sources::Options { gate, ..sources::Options::default() });
    let mut sources = FetchSources::new(client);
    for (number, source) in parsed {
        sources.add(number, source);
    }
    Ok(sources)
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
