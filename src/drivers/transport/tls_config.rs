//! TLS of the data plane: version 1.3 only, ALPN `piecework/1`, no server name, no resumption, and on both sides a
//! certificate that proves a libp2p peer id (libp2p specification, "libp2p TLS handshake").
//!
//! The verifiers accept a certificate of any peer, or of the one dialled; who may be a peer is decided above.

use std::sync::Arc;

use libp2p::PeerId;
use libp2p_tls::certificate;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig,
    SignatureScheme,
};

use crate::drivers::transport::error::Error;
use crate::drivers::transport::identity::Identity;
use crate::wire::version;

/// What both sides of the data plane need, made once an endpoint.
pub(crate) struct TlsConfigs {
    provider: Arc<CryptoProvider>,
    certificate: Arc<OneCertificate>,
    server: Arc<ServerConfig>,
}

impl TlsConfigs {
    /// Makes the certificate of an identity and the server's configuration.
    pub(crate) fn new(identity: &Identity) -> Result<Self, Error> {
        let refuse = |cause: &dyn std::fmt::Display| Error::Certificate { cause: cause.to_string() };
        let provider = Arc::new(provider());
        let (certificate, key) = certificate::generate(identity.keypair()).map_err(|cause| refuse(&cause))?;
        let key = provider.key_provider.load_private_key(key).map_err(|cause| refuse(&cause))?;
        let certificate = Arc::new(OneCertificate(Arc::new(CertifiedKey::new(vec![certificate], key))));
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|cause| refuse(&cause))?
            .with_client_cert_verifier(Arc::new(PeerCertificate { expected: None }))
            .with_cert_resolver(certificate.clone());
        server.alpn_protocols = vec![version::ALPN.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        // The record layer is ours (`tls_records`).
        server.enable_secret_extraction = true;
        Ok(Self { provider, certificate, server: Arc::new(server) })
    }

    /// For an accepted connection.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For a dialled connection: the handshake fails unless `expected` is there, before our certificate is shown.
    pub(crate) fn client(&self, expected: Option<PeerId>) -> Result<Arc<ClientConfig>, Error> {
        let mut client = ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|cause| Error::Certificate { cause: cause.to_string() })?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PeerCertificate { expected }))
            .with_client_cert_resolver(self.certificate.clone());
        client.alpn_protocols = vec![version::ALPN.to_vec()];
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        client.enable_secret_extraction = true;
        Ok(Arc::new(client))
    }
}

/// The crypto provider, never the process-wide default: AES-128-GCM first where the CPU has AES, since the dialler's
/// order decides and the three suites differ by half in speed.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    if has_aes() {
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => 0,
            CipherSuite::TLS13_AES_256_GCM_SHA384 => 1,
            _ => 2,
        });
    } else {
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_CHACHA20_POLY1305_SHA256);
    }
    provider
}

fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    false
}

/// The peer id that a handshake has proven. `None` where it has not: no certificate, more than one, or not a peer's.
pub(crate) fn proven_peer(chain: &[CertificateDer<'_>]) -> Option<PeerId> {
    let [only] = chain else { return None };
    certificate::parse(only).ok().map(|parsed| parsed.peer_id())
}

/// For fuzz targets: whose certificate this is, as a handshake would find.
#[doc(hidden)]
pub fn peer_of_certificate(der: &[u8]) -> Option<PeerId> {
    proven_peer(&[CertificateDer::from(der)])
}

/// Presents our one certificate, whatever is asked for. A resolver, because loading it as a chain would have it parsed
/// by a library that refuses libp2p's critical extension.
#[derive(Debug)]
struct OneCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OneCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ResolvesServerCert for OneCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

/// Accepts exactly one self-signed certificate whose extension proves a peer id, of `expected` where that is set.
#[derive(Debug)]
struct PeerCertificate {
    expected: Option<PeerId>,
}

/// What a handshake with the wrong peer fails with, so that the dialler can say whom it found.
#[derive(Debug, thiserror::Error)]
#[error("expected peer {expected}, found {found}")]
pub(crate) struct UnexpectedPeer {
    pub(crate) expected: PeerId,
    pub(crate) found: PeerId,
}

impl PeerCertificate {
    fn check(&self, end: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        if !rest.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let parsed = certificate::parse(end).map_err(|_| CertificateError::BadEncoding)?;
        let found = parsed.peer_id();
        match self.expected {
            Some(expected) if expected != found => {
                let cause = UnexpectedPeer { expected, found };
                Err(CertificateError::Other(rustls::OtherError(Arc::new(cause))).into())
            }
            _ => Ok(()),
        }
    }
}

/// Schemes that a libp2p certificate's own key may sign with.
const SCHEMES: [SignatureScheme; 3] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ECDSA_NISTP384_SHA384, SignatureScheme::ED25519];

fn check_signature(
    message: &[u8],
    end: &CertificateDer<'_>,
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, rustls::Error> {
    certificate::parse(end)
        .map_err(|_| CertificateError::BadEncoding)?
        .verify_signature(signed.scheme, message, signed.signature())
        .map_err(|_| CertificateError::BadSignature)?;
    Ok(HandshakeSignatureValid::assertion())
}

fn refuse_old_version() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(rustls::Error::General("TLS 1.2 is never offered here".to_owned()))
}

impl ServerCertVerifier for PeerCertificate {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end, rest).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_old_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, end, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for PeerCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end, rest).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        refuse_old_version()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        end: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        check_signature(message, end, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
