//! Requests signed as object storage wants them: AWS Signature Version 4, header form, for GET without a body. One host and
//! port is signed for; what it redirects to gets no signature.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use percent_encoding::utf8_percent_encode;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use url::Url;
use zeroize::Zeroizing;

use crate::drivers::sources::gate::authority;
use crate::drivers::sources::source::COMPONENT;

/// SHA-256 of nothing: the body of a GET.
const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const SIGNED: &str = "host;x-amz-content-sha256;x-amz-date";

/// An access key, and where it is used.
pub struct Signer {
    at: (String, u16),
    region: String,
    access: String,
    secret: Zeroizing<String>,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("at", &self.at).field("region", &self.region).finish_non_exhaustive()
    }
}

impl Signer {
    /// Signs for the host and port of this URL; `None` where it has none.
    pub fn new(at: &Url, region: &str, access: &str, secret: &str) -> Option<Self> {
        let (region, access) = (region.to_owned(), access.to_owned());
        Some(Self { at: authority(at)?, region, access, secret: Zeroizing::new(secret.to_owned()) })
    }

    /// Headers for a GET of this URL at this moment; none for any other host.
    pub(crate) fn headers(&self, url: &Url) -> Vec<(&'static str, String)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.headers_at(url, now).unwrap_or_default()
    }

    /// The same at a time in seconds since the epoch.
    pub fn headers_at(&self, url: &Url, now: u64) -> Option<Vec<(&'static str, String)>> {
        if authority(url)? != self.at {
            return None;
        }
        let at = OffsetDateTime::from_unix_timestamp(i64::try_from(now).ok()?).ok()?;
        let day = format!("{:04}{:02}{:02}", at.year(), u8::from(at.month()), at.day());
        let moment = format!("{day}T{:02}{:02}{:02}Z", at.hour(), at.minute(), at.second());
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        // As the HTTP client sends it: without the scheme's own port.
        let host = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str()?),
            None => url.host_str()?.to_owned(),
        };
        let asked = format!(
            "GET\n{}\n{}\nhost:{host}\nx-amz-content-sha256:{EMPTY}\nx-amz-date:{moment}\n\n{SIGNED}\n{EMPTY}",
            url.path(),
            query(url)
        );
        let asked = data_encoding::HEXLOWER.encode(&Sha256::digest(asked.as_bytes()));
        let to_sign = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{asked}");
        let first = Zeroizing::new(format!("AWS4{}", self.secret.as_str()));
        let mut key = mac(first.as_bytes(), day.as_bytes());
        for part in [self.region.as_str(), "s3", "aws4_request"] {
            key = mac(key.as_ref(), part.as_bytes());
        }
        let signature = data_encoding::HEXLOWER.encode(mac(key.as_ref(), to_sign.as_bytes()).as_ref());
        let credential = format!("{}/{scope}", self.access);
        let authorization =
            format!("AWS4-HMAC-SHA256 Credential={credential},SignedHeaders={SIGNED},Signature={signature}");
        Some(vec![("x-amz-date", moment), ("x-amz-content-sha256", EMPTY.to_owned()), ("authorization", authorization)])
    }
}

fn mac(key: &[u8], message: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message)
}

/// The query in the form that is signed: each name and value percent-encoded, in order of names.
fn query(url: &Url) -> String {
    let encode = |text: &str| utf8_percent_encode(text, COMPONENT).to_string();
    let mut pairs: Vec<_> = url.query_pairs().map(|(name, value)| (encode(&name), encode(&value))).collect();
    pairs.sort();
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the Amazon S3 API reference, "Signature Calculations for the Authorization Header": GET Bucket Lifecycle
    /// and GET Bucket (List Objects).
    #[test]
    fn the_signatures_are_those_of_the_reference() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let base = url("https://examplebucket.s3.amazonaws.com/");
        let secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
        let signer = Signer::new(&base, "us-east-1", "AKIAIOSFODNN7EXAMPLE", secret).expect("it has a host");
        for (query, expected) in [
            ("?lifecycle", "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
            ("?max-keys=2&prefix=J", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
            ("?prefix=J&max-keys=2", "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
        ] {
            let headers = signer.headers_at(&url(&format!("{base}{query}")), 1_369_353_600).expect("its host");
            let (_, authorization) = headers.last().expect("three of them");
            assert!(authorization.ends_with(expected), "{query}: {authorization}");
        }
        // Calculated with openssl: a port, a path that is encoded, another region and day.
        let other = url("http://127.0.0.1:9000/b/some%20where/a%2Bb.piecework");
        let signer = Signer::new(&other, "eu-test-1", "the key", "a secret of the test").expect("it has a host");
        let headers = signer.headers_at(&other, 1_795_741_323).expect("its host");
        let expected = "25520f24773356a6fce808048d5a0dfd2ff4332aade87a9d1cda619c0e0bd96e";
        assert!(headers.last().is_some_and(|(_, authorization)| authorization.ends_with(expected)), "{headers:?}");
        assert!(signer.headers_at(&url("https://elsewhere.test/"), 0).is_none(), "no other host gets one");
        assert!(!format!("{signer:?}").contains("a secret"), "the secret is not shown");
    }
}
