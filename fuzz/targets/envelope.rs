//! Envelopes: what is taken is written back to the same meaning, and its manifest is whole or refused.

use piecework::content::{Envelope, open_untrusted};

pub fn run(data: &[u8]) {
    let Ok(envelope) = Envelope::decode(data) else { return };
    assert!(!envelope.signatures().is_empty());
    assert_eq!(Envelope::decode(&envelope.encode()).as_ref(), Ok(&envelope));
    if let Ok(peeked) = open_untrusted(data.to_vec()) {
        assert_eq!(peeked.manifest.payload(), envelope.payload());
        assert_eq!(peeked.signatures.len(), envelope.signatures().len());
    }
}
