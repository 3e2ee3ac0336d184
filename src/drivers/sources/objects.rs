//! A bucket of object storage: which objects lie below a prefix, asked for page by page, and the URL of each.

use std::collections::BTreeSet;

use percent_encoding::{percent_decode_str, utf8_percent_encode};
use url::Url;

use crate::drivers::sources::client::Client;
use crate::drivers::sources::error::Error;
use crate::drivers::sources::listing::{Object, read_page};
use crate::drivers::sources::source::{COMPONENT, parse_url};

/// Longest page that is read; a thousand keys of a KiB each, and what belongs to them.
const PAGE_BYTES_MAX: u64 = 4 << 20;
/// Pages of one listing; a million objects at a thousand a page.
const PAGES_MAX: usize = 1000;
/// Objects of one listing that are kept.
const OBJECTS_MAX: usize = 20_000;

/// What lies below a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Those whose key ends as it was asked for.
    pub objects: Vec<Object>,
    /// Objects whose key cannot be a URL's path, or without a tag.
    pub left_out: usize,
    /// There are more than are looked at.
    pub cut: bool,
}

/// A bucket and a prefix within it, by a URL `https://HOST/BUCKET/PREFIX`, where the prefix may be empty.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// `https://HOST/BUCKET/`
    root: Url,
    prefix: String,
}

impl Bucket {
    /// Reads the URL.
    ///
    /// # Errors
    /// [`Error::BadUrl`], also where it names no bucket or has a query.
    pub fn new(url: &str) -> Result<Self, Error> {
        let mut root = parse_url(url)?;
        let bad = |why: &str| Error::BadUrl { url: url.chars().take(200).collect(), why: why.to_owned() };
        let path = percent_decode_str(root.path()).decode_utf8().map_err(|_| bad("it is not UTF-8"))?.into_owned();
        let (bucket, prefix) = path.trim_start_matches('/').split_once('/').ok_or_else(|| bad("it names no bucket"))?;
        if bucket.is_empty() || root.query().is_some() {
            return Err(bad("it should be http(s)://HOST/BUCKET/PREFIX"));
        }
        root.set_path(&format!("/{}/", utf8_percent_encode(bucket, COMPONENT)));
        root.set_fragment(None);
        Ok(Self { root, prefix: prefix.to_owned() })
    }

    /// `https://HOST/BUCKET/`
    pub fn root(&self) -> &Url {
        &self.root
    }

    /// The URL of a key that a listing told.
    pub fn url_of(&self, key: &str) -> String {
        let parts: Vec<_> = key.split('/').map(encode).collect();
        format!("{}{}", self.root, parts.join("/"))
    }

    /// Every object below the prefix whose key ends so, as far as the bounds go.
    ///
    /// # Errors
    /// The client's; [`Error::BadListing`] for an answer that is no page of a listing, or that leads in a circle.
    pub async fn list(&self, client: &Client, ending: &str) -> Result<Listing, Error> {
        let bad = || Error::BadListing { url: self.root.to_string() };
        let mut listing = Listing::default();
        let mut seen = BTreeSet::new();
        let mut after: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut url = self.root.clone();
            let mut query = format!("encoding-type=url&list-type=2&prefix={}", encode(&self.prefix));
            if let Some(after) = &after {
                query = format!("continuation-token={}&{query}", encode(after));
            }
            url.set_query(Some(&query));
            let page = client.fetch_small(url.as_str(), PAGE_BYTES_MAX).await?;
            let page = read_page(&page).ok_or_else(bad)?;
            listing.left_out = listing.left_out.saturating_add(page.left_out);
            for object in page.objects.into_iter().filter(|object| object.key.ends_with(ending)) {
                // A server that answers with what lies elsewhere is not believed.
                if !object.key.starts_with(&self.prefix) {
                    return Err(bad());
                }
                listing.objects.push(object);
            }
            let Some(next) = page.next else { return Ok(listing) };
            if !seen.insert(*blake3::hash(next.as_bytes()).as_bytes()) {
                return Err(bad());
            }
            if listing.objects.len() >= OBJECTS_MAX {
                break;
            }
            after = Some(next);
        }
        listing.objects.truncate(OBJECTS_MAX);
        listing.cut = true;
        Ok(listing)
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_bucket_and_a_prefix() {
        let bucket = Bucket::new("https://s3.test/b/some%20where/").expect("a bucket");
        assert_eq!((bucket.root().as_str(), bucket.prefix.as_str()), ("https://s3.test/b/", "some where/"));
        assert_eq!(bucket.url_of("some where/a+b%2e\\"), "https://s3.test/b/some%20where/a%2Bb%252e%5C");
        for wrong in ["https://s3.test", "https://s3.test/", "https://s3.test/b", "https://s3.test/b/?x", "ftp://x/b/"]
        {
            assert!(Bucket::new(wrong).is_err(), "{wrong}");
        }
    }
}
