//! Both of libp2p's ways to secure a connection, TLS first, as one upgrade.

use futures_util::future::{BoxFuture, Either, FutureExt as _};
use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};

/// Offers `/tls/1.0.0` and `/noise`.
#[derive(Clone)]
pub(crate) struct Security {
    tls: libp2p_tls::Config,
    noise: noise::Config,
}

/// Why neither came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecurityError {
    #[error("TLS: {0}")]
    Tls(#[from] libp2p_tls::UpgradeError),
    #[error("Noise: {0}")]
    Noise(#[from] noise::Error),
}

impl Security {
    /// `None` where the certificate cannot be made.
    pub(crate) fn new(keypair: &Keypair) -> Option<Self> {
        Some(Self { tls: libp2p_tls::Config::new(keypair).ok()?, noise: noise::Config::new(keypair).ok()? })
    }
}

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = Vec<&'static str>;

    fn protocol_info(&self) -> Vec<&'static str> {
        self.tls.protocol_info().chain(self.noise.protocol_info()).collect()
    }
}

type Secured<C> = Either<libp2p_tls::TlsStream<C>, noise::Output<C>>;

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> InboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, Secured<C>);
    type Error = SecurityError;
    type Future = BoxFuture<'static, Result<Self::Output, SecurityError>>;

    fn upgrade_inbound(self, socket: C, info: &'static str) -> Self::Future {
        async move {
            if self.noise.protocol_info().any(|name| name == info) {
                let (peer, stream) = self.noise.upgrade_inbound(socket, info).await?;
                return Ok((peer, Either::Right(stream)));
            }
            let (peer, stream) = self.tls.upgrade_inbound(socket, info).await?;
            Ok((peer, Either::Left(stream)))
        }
        .boxed()
    }
}

impl<C: AsyncRead + AsyncWrite + Unpin + Send + 'static> OutboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, Secured<C>);
    type Error = SecurityError;
    type Future = BoxFuture<'static, Result<Self::Output, SecurityError>>;

    fn upgrade_outbound(self, socket: C, info: &'static str) -> Self::Future {
        async move {
            if self.noise.protocol_info().any(|name| name == info) {
                let (peer, stream) = self.noise.upgrade_outbound(socket, info).await?;
                return Ok((peer, Either::Right(stream)));
            }
            let (peer, stream) = self.tls.upgrade_outbound(socket, info).await?;
            Ok((peer, Either::Left(stream)))
        }
        .boxed()
    }
}
