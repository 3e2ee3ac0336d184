//! The hashes that name things. Values only; hashing a file's bytes is `manifest`'s and the drivers' work.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits, found {found:?}")]
pub struct ParseHashError {
    /// At most the first 80 characters of what was given.
    pub found: String,
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes as they are.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Wraps a slice; `None` unless it is 32 bytes long.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The first 10 hexadecimal digits, for logs.
            pub fn short(&self) -> String {
                let mut text = self.to_string();
                text.truncate(10);
                text
            }
        }

        /// 64 lower-case hexadecimal digits.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let refuse = || ParseHashError { found: text.chars().take(80).collect() };
                if text.len() != 64 {
                    return Err(refuse());
                }
                let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| refuse())?;
                Self::from_slice(&bytes).ok_or_else(refuse)
            }
        }
    };
}

hash_type! {
    /// BLAKE3-256 root of a file's bytes; its only identity. `b3sum FILE` prints it.
    ContentId
}
hash_type! {
    /// BLAKE3-256 of a DSSE payload: one exact manifest, whoever signed it.
    ManifestId
}
hash_type! {
    /// BLAKE3 chaining value of a piece's subtree at its offset; of a file of one piece, the root itself.
    PieceHash
}
hash_type! {
    /// SHA-256 of a whole file.
    Sha256
}
hash_type! {
    /// SHA-256 of a public key's SPKI DER.
    KeyId
}
hash_type! {
    /// What a peer is asked by: it tells nothing to a peer that does not hold the content. design section 5.
    Topic
}

impl Topic {
    /// Topic of one content: `derive_key("piecework topic v1", 0x01 || id || group secret)`.
    pub fn of_content(id: &ContentId, group_secret: &[u8]) -> Self {
        Self::derive(1, id.as_bytes(), group_secret)
    }

    /// Topic of one manifest: `derive_key("piecework topic v1", 0x02 || id || group secret)`.
    pub fn of_manifest(id: &ManifestId, group_secret: &[u8]) -> Self {
        Self::derive(2, id.as_bytes(), group_secret)
    }

    /// What a provider of it is found by among strangers: `derive_key("piecework provider v1", topic)`. Who only keeps
    /// records cannot ask by it.
    pub fn provider_key(&self) -> [u8; 32] {
        blake3::derive_key("piecework provider v1", &self.0)
    }

    fn derive(kind: u8, id: &[u8; 32], group_secret: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("piecework topic v1");
        hasher.update(&[kind]).update(id).update(group_secret);
        Self(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_prints_and_parses_as_64_hex_digits() {
        let id = ContentId::new([0xab; 32]);
        assert_eq!(id.to_string().parse::<ContentId>(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse::<ContentId>(), Ok(id));
        assert_eq!(id.short(), "ababababab");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "ab", &"g".repeat(64), &"a".repeat(63), &"a".repeat(66), &"é".repeat(32)] {
            assert!(text.parse::<ContentId>().is_err(), "{text}");
        }
    }

    #[test]
    fn content_and_manifest_topics_of_one_value_differ() {
        let bytes = [7; 32];
        let content = Topic::of_content(&ContentId::new(bytes), b"");
        let manifest = Topic::of_manifest(&ManifestId::new(bytes), b"");
        assert_ne!(content, manifest);
        assert_ne!(content, Topic::of_content(&ContentId::new(bytes), b"secret"));
        assert_ne!(&content.provider_key(), content.as_bytes());
        assert_ne!(content.provider_key(), manifest.provider_key());
    }
}
