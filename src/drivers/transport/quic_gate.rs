//! Inbound handshakes over QUIC, bounded by the address they come from: a transport around libp2p's. Those over TCP pass the
//! node's gate before libp2p sees them; over UDP libp2p takes them itself, and counts them in all alone.
//!
//! The counts are apart from those of TCP: before a handshake is done the source of a UDP packet is anybody's word, and who
//! makes up another's address must not keep that one from TCP.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::quic::Error;

use crate::drivers::transport::address::endpoint_of;
use crate::drivers::transport::gate::{Evicted, Gate, Handshake};
use crate::drivers::transport::limits::{Limits, QUIC_HANDSHAKES_MAX, QUIC_HANDSHAKES_PER_ADDRESS_MAX};

/// A transport whose accepted connections take a place until their handshake is done.
pub(crate) struct QuicGate<T> {
    inner: T,
    gate: Arc<Gate>,
}

impl<T> QuicGate<T> {
    pub(crate) fn new(inner: T) -> Self {
        let limits = Limits {
            handshakes_max: QUIC_HANDSHAKES_MAX,
            handshakes_per_address_max: QUIC_HANDSHAKES_PER_ADDRESS_MAX,
            ..Limits::default()
        };
        Self { inner, gate: Gate::new(limits) }
    }

    /// A place for a handshake from this address, if need be that of an older one; `None`: there is none.
    fn place(&self, from: &Multiaddr) -> Option<Handshake> {
        self.gate.admit_begun(endpoint_of(from)?.ip()).ok()
    }
}

/// A handshake, as long as it has its place.
pub(crate) struct Placed<F> {
    inner: Pin<Box<F>>,
    evicted: Option<Arc<Evicted>>,
    /// Held for its drop.
    _place: Option<Handshake>,
}

impl<F, O> Future for Placed<F>
where
    F: Future<Output = Result<O, Error>>,
{
    type Output = Result<O, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Another has its place.
        if self.evicted.as_ref().is_some_and(|evicted| evicted.poll(cx).is_ready()) {
            return Poll::Ready(Err(Error::HandshakeTimedOut));
        }
        self.inner.as_mut().poll(cx)
    }
}

impl<T: Transport<Error = Error> + Unpin> Transport for QuicGate<T> {
    type Output = T::Output;
    type Error = Error;
    type ListenerUpgrade = Placed<T::ListenerUpgrade>;
    type Dial = T::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<Error>> {
        self.inner.dial(address, options)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<TransportEvent<Self::ListenerUpgrade, Error>> {
        loop {
            let event = ready!(Pin::new(&mut self.inner).poll(cx));
            let place = match &event {
                TransportEvent::Incoming { send_back_addr, .. } => match self.place(send_back_addr) {
                    Some(place) => Some(place),
                    // Dropping it ends it.
                    None => continue,
                },
                _ => None,
            };
            return Poll::Ready(event.map_upgrade(|inner| {
                let evicted = place.as_ref().map(Handshake::evicted);
                Placed { inner: Box::pin(inner), evicted, _place: place }
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;
    use std::task::Waker;

    use super::*;
    use crate::drivers::transport::address::quic;

    type Never = std::future::Pending<Result<(), Error>>;

    /// Connections that have come, from these addresses, whose handshakes never end.
    struct Crowd(VecDeque<SocketAddr>);

    impl Transport for Crowd {
        type Output = ();
        type Error = Error;
        type ListenerUpgrade = Never;
        type Dial = Never;

        fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), TransportError<Error>> {
            Err(TransportError::MultiaddrNotSupported(address))
        }

        fn remove_listener(&mut self, _: ListenerId) -> bool {
            false
        }

        fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Never, TransportError<Error>> {
            Err(TransportError::MultiaddrNotSupported(address))
        }

        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<TransportEvent<Never, Error>> {
            let Some(from) = self.0.pop_front() else { return Poll::Pending };
            let (listener_id, upgrade) = (ListenerId::next(), std::future::pending());
            let (local_addr, send_back_addr) = (quic(SocketAddr::from(([127, 0, 0, 1], 1))), quic(from));
            Poll::Ready(TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr })
        }
    }

    /// How many of these get a place, and how many of those still have it when all have come.
    fn let_in(gate: &mut QuicGate<Crowd>, crowd: impl IntoIterator<Item = SocketAddr>) -> (usize, Vec<Placed<Never>>) {
        gate.inner.0.extend(crowd);
        let mut cx = Context::from_waker(Waker::noop());
        let mut placed = Vec::new();
        while let Poll::Ready(TransportEvent::Incoming { upgrade, .. }) = Pin::new(&mut *gate).poll(&mut cx) {
            placed.push(upgrade);
        }
        let let_in = placed.len();
        placed.retain_mut(|upgrade| Pin::new(upgrade).poll(&mut cx).is_pending());
        (let_in, placed)
    }

    fn gate() -> QuicGate<Crowd> {
        QuicGate::new(Crowd(VecDeque::new()))
    }

    #[test]
    fn one_address_has_few_places_and_never_those_of_others() {
        let from = |ip: [u8; 4], port: u16| SocketAddr::from((ip, port));
        let mut gate = gate();
        let (_, honest) = let_in(&mut gate, [from([10, 0, 0, 1], 1)]);
        let (let_in_before, flood) = let_in(&mut gate, (1..1000).map(|port| from([10, 0, 0, 2], port)));
        // No faster than the others may come, and the oldest gives way.
        assert!(let_in_before < 200, "{let_in_before}");
        assert_eq!(flood.len(), QUIC_HANDSHAKES_PER_ADDRESS_MAX);
        let (later, late) = let_in(&mut gate, [from([10, 0, 0, 3], 1)]);
        assert_eq!((later, late.len(), honest.len()), (1, 1, 1));
        let mut cx = Context::from_waker(Waker::noop());
        for mut upgrade in honest.into_iter().chain(late) {
            assert!(Pin::new(&mut upgrade).poll(&mut cx).is_pending(), "it keeps its place");
        }
        drop(flood);
        assert_eq!(let_in(&mut gate, [from([10, 0, 0, 4], 1)]).1.len(), 1);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address_and_many_addresses_are_bounded_in_all() {
        let from = |host: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 1, 0, 0, 0, host], 7));
        let (_, of_one) = let_in(&mut gate(), (1..100).map(from));
        assert_eq!(of_one.len(), QUIC_HANDSHAKES_PER_ADDRESS_MAX);
        let from = |network: u16| SocketAddr::from(([0x2001, 0xdb8, 0, network, 0, 0, 0, 1], 7));
        let count = u16::try_from(QUIC_HANDSHAKES_MAX).expect("few") + 50;
        let (all, standing) = let_in(&mut gate(), (1..=count).map(from));
        assert_eq!((all, standing.len()), (usize::from(count), QUIC_HANDSHAKES_MAX));
    }
}
