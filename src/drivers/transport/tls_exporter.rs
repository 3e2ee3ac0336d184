//! Keying material that both ends of a TLS connection share and nobody else (RFC 8446, section 7.5).
//!
//! rustls exports it from its buffered connections alone. Its unbuffered ones, which are used here, tell the secret behind it
//! as they would to a key log; the rest is the suite's own HKDF.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::crypto::tls13::{HkdfExpander, OkmBlock};
use rustls::{ClientConfig, KeyLog, ServerConfig, Tls13CipherSuite};
use zeroize::Zeroizing;

/// Label of what is exported for proofs of a group secret.
pub(crate) const LABEL: &[u8] = b"EXPORTER-piecework group v1";
/// The exporter's secret, as key logs call it.
const SECRET: &str = "EXPORTER_SECRET";

/// Hears the exporter's secret of one connection, and no other.
#[derive(Default)]
pub(crate) struct Exporter(Mutex<Option<Zeroizing<Vec<u8>>>>);

impl Exporter {
    /// The same configuration for one connection, and what hears its secret.
    pub(crate) fn of_client(config: &ClientConfig) -> (Arc<ClientConfig>, Arc<Self>) {
        let (mut config, exporter) = (config.clone(), Arc::<Self>::default());
        config.key_log = exporter.clone();
        (Arc::new(config), exporter)
    }

    /// As [`Exporter::of_client`].
    pub(crate) fn of_server(config: &ServerConfig) -> (Arc<ServerConfig>, Arc<Self>) {
        let (mut config, exporter) = (config.clone(), Arc::<Self>::default());
        config.key_log = exporter.clone();
        (Arc::new(config), exporter)
    }

    /// 32 bytes for [`LABEL`], without a context; `None` before the handshake's end.
    pub(crate) fn export(&self, suite: &Tls13CipherSuite) -> Option<[u8; 32]> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = held.as_ref().filter(|secret| secret.len() <= OkmBlock::MAX_LEN)?;
        let hash = suite.common.hash_provider;
        let empty = hash.hash(&[]);
        let mut derived = Zeroizing::new([0; OkmBlock::MAX_LEN]);
        let derived = derived.get_mut(..hash.output_len())?;
        let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(secret));
        expand(expander.as_ref(), LABEL, empty.as_ref(), derived)?;
        let expander = suite.hkdf_provider.expander_for_okm(&OkmBlock::new(derived));
        let mut exported = [0; 32];
        expand(expander.as_ref(), b"exporter", empty.as_ref(), &mut exported)?;
        Some(exported)
    }
}

impl KeyLog for Exporter {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        if label == SECRET {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Zeroizing::new(secret.to_vec()));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        label == SECRET
    }
}

/// Never shows the secret.
impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

/// HKDF-Expand-Label of RFC 8446, section 7.1.
fn expand(expander: &dyn HkdfExpander, label: &[u8], context: &[u8], out: &mut [u8]) -> Option<()> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(out.len()).ok()?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len().checked_add(label.len())?).ok()?];
    let context_length = [u8::try_from(context.len()).ok()?];
    expander.expand_slice(&[&length, &label_length, PREFIX, label, &context_length, context], out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::transport::identity::Identity;
    use crate::drivers::transport::tls_config::TlsConfigs;

    /// What rustls' own exporter says, of both ends.
    #[test]
    fn what_is_exported_is_what_any_tls_library_exports() {
        let configs = |seed: u8| TlsConfigs::new(&Identity::from_seed(&mut [seed; 32])).expect("a certificate");
        let client = configs(1).client(None).expect("a configuration");
        let (client, client_exporter) = Exporter::of_client(&client);
        let (server, server_exporter) = Exporter::of_server(&configs(2).server());
        let name = rustls::pki_types::ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let mut client = rustls::ClientConnection::new(client, name).expect("a client");
        let mut server = rustls::ServerConnection::new(server).expect("a server");
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).expect("into memory");
            server.read_tls(&mut bytes.as_slice()).expect("from memory");
            server.process_new_packets().expect("the client is right");
            bytes.clear();
            server.write_tls(&mut bytes).expect("into memory");
            client.read_tls(&mut bytes.as_slice()).expect("from memory");
            client.process_new_packets().expect("the server is right");
        }
        let suite = client.negotiated_cipher_suite().and_then(|suite| suite.tls13()).expect("TLS 1.3");
        let expected = client.export_keying_material([0; 32], LABEL, None).expect("the handshake is over");
        assert_eq!(client_exporter.export(suite), Some(expected));
        assert_eq!(server_exporter.export(suite), Some(expected));
        assert_eq!(Exporter::default().export(suite), None);
    }
}
