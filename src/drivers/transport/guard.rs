//! Where libp2p may dial, and what it may tell of where we listen, while strangers tell it addresses: a transport around
//! another. Without a rule it changes nothing.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};

use crate::drivers::transport::address::endpoint_of;
use crate::drivers::transport::limits::NAMED_ADDRESSES_MAX;
use crate::policy::network::is_public;

/// Which addresses may be dialled: public ones, and those that somebody here named or judged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule(Arc<Mutex<BTreeSet<SocketAddr>>>);

impl Rule {
    /// This address may be dialled, whatever it is. Where there are too many, an older one is forgotten.
    pub(crate) fn allow(&self, address: SocketAddr) {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() >= NAMED_ADDRESSES_MAX && !named.contains(&address) {
            named.pop_first();
        }
        named.insert(address);
    }

    /// Whether an address may be dialled.
    pub(crate) fn allows(&self, address: &Multiaddr) -> bool {
        let named = |at: &SocketAddr| self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(at);
        endpoint_of(address).is_some_and(|at| at.port() != 0 && (is_public(at.ip()) || named(&at)))
    }
}

/// A transport that goes by a rule; by none, if there is none.
pub(crate) struct Guarded<T> {
    inner: T,
    rule: Option<Rule>,
}

impl<T> Guarded<T> {
    pub(crate) fn new(inner: T, rule: Option<Rule>) -> Self {
        Self { inner, rule }
    }

    /// Addresses of private networks are nobody's business on the Internet.
    fn tells(&self, address: &Multiaddr) -> bool {
        self.rule.is_none() || endpoint_of(address).is_some_and(|at| is_public(at.ip()))
    }
}

impl<T: Transport + Unpin> Transport for Guarded<T> {
    type Output = T::Output;
    type Error = T::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<T::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<T::Error>> {
        if self.rule.as_ref().is_some_and(|rule| endpoint_of(&address).is_some() && !rule.allows(&address)) {
            tracing::debug!(%address, "an address that strangers told is not dialled");
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        loop {
            let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
            match &event {
                TransportEvent::NewAddress { listen_addr, .. } | TransportEvent::AddressExpired { listen_addr, .. }
                    if !self.tells(listen_addr) => {}
                _ => return Poll::Ready(event),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_tell_leads_to_the_internet_or_nowhere() {
        let rule = Rule::default();
        let allows = |text: &str| rule.allows(&text.parse().expect("valid"));
        assert!(allows("/ip4/203.0.113.1/tcp/7680") && allows("/ip6/2001:db8::1/udp/7680/quic-v1"));
        for told in [
            "/ip4/10.0.0.1/tcp/22",
            "/ip4/127.0.0.1/tcp/22",
            "/ip4/169.254.169.254/tcp/80",
            "/ip6/fe80::1/tcp/1",
            "/ip4/203.0.113.1/tcp/0",
            "/ip4/203.0.113.1/tcp/1/ws",
            "/dns4/metadata.internal/tcp/80",
        ] {
            assert!(!allows(told), "{told}");
        }
        rule.allow("10.0.0.1:22".parse().expect("an address"));
        assert!(allows("/ip4/10.0.0.1/tcp/22"), "somebody named it");
    }

    #[test]
    fn what_was_named_is_bounded() {
        let rule = Rule::default();
        for port in 1..2 * NAMED_ADDRESSES_MAX as u16 {
            rule.allow(SocketAddr::from(([10, 0, 0, 1], port)));
        }
        assert_eq!(rule.0.lock().expect("whole").len(), NAMED_ADDRESSES_MAX);
    }
}
