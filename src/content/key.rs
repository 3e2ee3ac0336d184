//! Ed25519 keys in the standard files that OpenSSL 3 reads and writes.
//!
//! Private: PKCS#8 version 1, RFC 5958 with RFC 8410's curve identifier; 48 bytes of DER. Public: SubjectPublicKeyInfo,
//! 44 bytes of DER. Both have one exact encoding, so they are compared, not parsed as ASN.1. Version 2 of PKCS#8, which
//! carries the public key too, is refused as OpenSSL refuses it.

use std::fmt;

use data_encoding::BASE64;
use ed25519_dalek::Signer;
use sha2::Digest;
use zeroize::Zeroizing;

use crate::content::error::Error;
use crate::content::hash::KeyId;

/// Everything of a private key's DER before its 32 bytes of seed.
const PRIVATE_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// Everything of a public key's DER before its 32 bytes.
const PUBLIC_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
/// Longest PEM text looked at, in bytes; a key's is 119 at most.
const PEM_BYTES_MAX: usize = 1024;

const PRIVATE_FORM: &str = "an Ed25519 private key in PEM (PKCS#8 version 1, as by openssl genpkey -algorithm ed25519)";
const PUBLIC_FORM: &str = "an Ed25519 public key in PEM (SubjectPublicKeyInfo, as by openssl pkey -pubout)";

/// A private key; wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// The key of a 32-byte seed, which the caller drew and wipes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Reads a private key's file.
    ///
    /// # Errors
    /// [`Error::Key`] for anything but one key of this form; never quotes the text.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let der = Zeroizing::new(unwrap_pem(pem, "PRIVATE KEY", PRIVATE_FORM)?);
        let refuse = |found| Error::Key { expected: PRIVATE_FORM, found };
        let seed = der.strip_prefix(&PRIVATE_HEAD).ok_or_else(|| refuse("a key of another kind or version"))?;
        let seed: &[u8; 32] = seed.try_into().map_err(|_| refuse("a key of another length"))?;
        Ok(Self::from_seed(seed))
    }

    /// What belongs into a private key's file; byte for byte what OpenSSL would write.
    pub fn to_pem(&self) -> Zeroizing<String> {
        let mut der = Zeroizing::new(PRIVATE_HEAD.to_vec());
        // Reserved at once: growing would leave copies behind.
        der.reserve_exact(32);
        der.extend_from_slice(self.0.as_bytes());
        wrap_pem(&der, "PRIVATE KEY")
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs a message as it is; an envelope's is the pre-authentication encoding.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public().id().short())
    }
}

/// A public key; never one of the small-order points that fit many signatures.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Reads a public key's file.
    ///
    /// # Errors
    /// [`Error::Key`] for anything but one key of this form.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        Self::from_der(&unwrap_pem(pem, "PUBLIC KEY", PUBLIC_FORM)?)
    }

    /// Reads 44 bytes of SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`Error::Key`] for anything else, or for a point that is no safe key.
    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let refuse = |found| Error::Key { expected: PUBLIC_FORM, found };
        let point = der.strip_prefix(&PUBLIC_HEAD).ok_or_else(|| refuse("a key of another kind"))?;
        Self::from_point(point.try_into().map_err(|_| refuse("a key of another length"))?)
    }

    /// The key of an encoded curve point (RFC 8032).
    ///
    /// # Errors
    /// [`Error::Key`] for a point that is no safe key.
    pub fn from_point(point: &[u8; 32]) -> Result<Self, Error> {
        let refuse = |found| Error::Key { expected: PUBLIC_FORM, found };
        let key = ed25519_dalek::VerifyingKey::from_bytes(point).map_err(|_| refuse("a point off the curve"))?;
        // Another encoding of the same point would be another key id.
        if key.is_weak() || key.to_edwards().compress().as_bytes() != point {
            return Err(refuse("a weak or non-canonical key"));
        }
        Ok(Self(key))
    }

    /// Reads the base64 of the DER, as it stands between the lines of a PEM file.
    ///
    /// # Errors
    /// As [`PublicKey::from_der`].
    pub fn from_base64(text: &str) -> Result<Self, Error> {
        let der = Some(text.trim()).filter(|text| text.len() <= PEM_BYTES_MAX);
        let der = der.and_then(|text| BASE64.decode(text.as_bytes()).ok());
        Self::from_der(&der.ok_or(Error::Key { expected: PUBLIC_FORM, found: "no base64" })?)
    }

    /// SubjectPublicKeyInfo.
    pub fn to_der(&self) -> [u8; 44] {
        let mut der = [0; 44];
        let (head, point) = der.split_at_mut(PUBLIC_HEAD.len());
        head.copy_from_slice(&PUBLIC_HEAD);
        point.copy_from_slice(self.0.as_bytes());
        der
    }

    /// What belongs into a public key's file; byte for byte what OpenSSL would write.
    pub fn to_pem(&self) -> String {
        wrap_pem(&self.to_der(), "PUBLIC KEY").to_string()
    }

    /// The base64 of the DER, on one line.
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.to_der())
    }

    /// SHA-256 of the DER.
    pub fn id(&self) -> KeyId {
        KeyId::new(sha2::Sha256::digest(self.to_der()).into())
    }

    /// Whether this key made the signature of a message; small-order points and second encodings do not count.
    pub fn check(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.id().short())
    }
}

fn wrap_pem(der: &[u8], label: &str) -> Zeroizing<String> {
    // Both keys' base64 is 64 characters at most, so one line holds it.
    let body = Zeroizing::new(BASE64.encode(der));
    let mut pem = Zeroizing::new(String::with_capacity(128));
    for part in ["-----BEGIN ", label, "-----\n", &body, "\n-----END ", label, "-----\n"] {
        pem.push_str(part);
    }
    pem
}

/// The bytes of the one block of this label; white space around it, and line ends of either kind, are all that may
/// stand beside it.
fn unwrap_pem(pem: &str, label: &str, expected: &'static str) -> Result<Vec<u8>, Error> {
    let refuse = |found| Error::Key { expected, found };
    if pem.len() > PEM_BYTES_MAX {
        return Err(refuse("a longer text"));
    }
    let inner = pem.trim().strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
    let inner = inner.and_then(|rest| rest.strip_prefix(label)?.strip_suffix(label));
    let inner = inner.and_then(|rest| rest.strip_prefix("-----")?.strip_suffix("-----END "));
    let inner = inner.filter(|body| body.starts_with(['\r', '\n']) && body.ends_with('\n'));
    let inner = inner.ok_or_else(|| refuse("no such PEM block, or more than one"))?;
    let mut body = Zeroizing::new(String::with_capacity(inner.len()));
    for line in inner.lines() {
        body.push_str(line);
    }
    BASE64.decode(body.as_bytes()).map_err(|_| refuse("a PEM block that is not base64"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_seed(&[seed; 32])
    }

    #[test]
    fn a_key_reads_back_from_its_own_files() {
        let (private, public) = (key(7).to_pem(), key(7).public().to_pem());
        assert_eq!(SigningKey::from_pem(&private).map(|key| key.public()), Ok(key(7).public()));
        assert_eq!(PublicKey::from_pem(&public), Ok(key(7).public()));
        assert_eq!(PublicKey::from_pem(&public.replace('\n', "\r\n")), Ok(key(7).public()));
        assert_eq!(PublicKey::from_base64(&key(7).public().to_base64()), Ok(key(7).public()));
        assert!(!format!("{:?}", key(7)).contains("07070707"));
    }

    #[test]
    fn anything_but_one_key_of_the_form_is_refused() {
        let (private, public) = (key(7).to_pem().to_string(), key(7).public().to_pem());
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----",
            "-----BEGIN -----END -----",
            "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
            &public,
            &private.repeat(2),
            &format!("{private}{public}"),
            &private.replace("PRIVATE", "ENCRYPTED PRIVATE"),
            &private.replace("MC4CAQAw", "MC4CAQEw"),
            &private.replace("\n-----END", "AAAA\n-----END"),
            &private.replace('H', "?"),
            &"\n".repeat(2000),
        ] {
            assert!(SigningKey::from_pem(text).is_err(), "{text}");
        }
        assert!(PublicKey::from_pem(&private).is_err());
        assert!(PublicKey::from_pem(&public.repeat(2)).is_err());
        // The identity, a point off the curve, and a point whose encoding is not reduced.
        let mut unreduced = [0xff; 32];
        (unreduced[0], unreduced[31]) = (0xee, 0x7f);
        let mut identity = [0; 32];
        identity[0] = 1;
        for point in [identity, unreduced, [2; 32]] {
            let der = [&PUBLIC_HEAD[..], &point].concat();
            assert!(PublicKey::from_der(&der).is_err(), "{point:x?}");
        }
    }

    fn openssl(folder: &Path, arguments: &[&str]) -> Option<Vec<u8>> {
        let output = Command::new("openssl").args(arguments).current_dir(folder).output();
        let Ok(output) = output else {
            println!("skipped: no openssl on this machine");
            return None;
        };
        assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(output.stdout)
    }

    #[test]
    fn openssl_reads_our_keys_and_we_read_its_keys() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        let read = |name: &str| std::fs::read_to_string(path.join(name)).expect("openssl wrote it");
        std::fs::write(path.join("ours"), key(3).to_pem().as_bytes()).expect("written");
        let Some(public) = openssl(path, &["pkey", "-in", "ours", "-pubout"]) else { return };
        assert_eq!(public, key(3).public().to_pem().as_bytes());
        openssl(path, &["pkey", "-in", "ours", "-out", "again"]);
        assert_eq!(read("again"), *key(3).to_pem());

        openssl(path, &["genpkey", "-algorithm", "ed25519", "-out", "theirs"]);
        openssl(path, &["pkey", "-in", "theirs", "-pubout", "-out", "theirs.pub"]);
        let theirs = SigningKey::from_pem(&read("theirs")).expect("openssl's own form");
        assert_eq!(*theirs.to_pem(), read("theirs"));
        assert_eq!(PublicKey::from_pem(&read("theirs.pub")), Ok(theirs.public()));

        std::fs::write(path.join("message"), b"hello").expect("written");
        openssl(path, &["pkeyutl", "-sign", "-inkey", "theirs", "-rawin", "-in", "message", "-out", "signature"]);
        let signature = std::fs::read(path.join("signature")).expect("openssl wrote it");
        assert_eq!(signature, theirs.sign(b"hello"));
        assert!(theirs.public().check(b"hello", &signature.try_into().expect("64 bytes")));
    }

    #[test]
    fn a_signature_fits_one_message_and_one_key() {
        let signature = key(1).sign(b"message");
        assert!(key(1).public().check(b"message", &signature));
        assert!(!key(1).public().check(b"massage", &signature));
        assert!(!key(2).public().check(b"message", &signature));
    }
}
