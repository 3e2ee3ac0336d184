//! Key files: what is taken is one exact key, written back to a file of the same key.

use piecework::content::{PublicKey, SigningKey};

pub fn run(data: &[u8]) {
    if let Ok(key) = PublicKey::from_der(data) {
        assert_eq!(key.to_der(), data);
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(key) = PublicKey::from_pem(text) {
        assert_eq!(PublicKey::from_pem(&key.to_pem()).as_ref(), Ok(&key));
        assert_eq!(PublicKey::from_base64(&key.to_base64()), Ok(key));
    }
    if let Ok(key) = SigningKey::from_pem(text) {
        let again = SigningKey::from_pem(&key.to_pem()).expect("what was just written");
        assert_eq!(again.public(), key.public());
        assert!(PublicKey::from_pem(text).is_err());
    }
}
