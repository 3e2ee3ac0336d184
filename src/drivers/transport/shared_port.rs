//! libp2p's way into the shared port: a transport that listens on nothing and takes the sockets which the listener has
//! accepted and found to speak libp2p. Dialling is libp2p's own.

use std::collections::VecDeque;
use std::future::{Ready, ready};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::io::{AsyncRead, AsyncWrite};
use libp2p::Multiaddr;
use libp2p::core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent};
use libp2p::tcp::tokio::{TcpStream, Transport as Tcp};
use tokio::sync::mpsc;

use crate::drivers::transport::address;
use crate::drivers::transport::gate::{Established, Evicted, Handshake};

/// An accepted socket on its way to libp2p.
pub(crate) struct Accepted {
    pub(crate) tcp: tokio::net::TcpStream,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) ticket: Arc<Ticket>,
}

/// The place of a libp2p connection at the gate; held by its socket.
pub(crate) struct Ticket {
    place: Mutex<Place>,
    evicted: Arc<Evicted>,
}

enum Place {
    Handshake(Handshake),
    /// Held for its drop.
    Established(#[expect(dead_code, reason = "held for its drop")] Established),
    None,
}

impl Ticket {
    pub(crate) fn new(handshake: Handshake) -> Arc<Self> {
        let evicted = handshake.evicted();
        Arc::new(Self { place: Mutex::new(Place::Handshake(handshake)), evicted })
    }

    /// The handshake is done: from now on the connection gives way to nobody. Whether it had a place.
    pub(crate) fn establish(&self) -> bool {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *place, Place::None) {
            Place::Handshake(handshake) => match handshake.establish(None) {
                Ok(established) => *place = Place::Established(established),
                Err(_) => return false,
            },
            other => *place = other,
        }
        true
    }
}

/// A socket under libp2p. An accepted one fails once its handshake has to give way.
pub(crate) struct Socket {
    tcp: TcpStream,
    ticket: Option<Arc<Ticket>>,
}

impl Socket {
    fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match &self.ticket {
            Some(ticket) => ticket.evicted.poll(cx).map(|()| io::ErrorKind::ConnectionAborted.into()),
            None => Poll::Pending,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(cause) = self.poll_evicted(cx) {
            return Poll::Ready(Err(cause));
        }
        Pin::new(&mut self.tcp).poll_read(cx, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_close(cx)
    }
}

/// The transport.
pub(crate) struct SharedPort {
    tcp: Tcp,
    accepted: mpsc::Receiver<Accepted>,
    listener: Option<ListenerId>,
    /// Addresses that libp2p has not been told of yet.
    news: VecDeque<(ListenerId, Multiaddr)>,
}

impl SharedPort {
    pub(crate) fn new(accepted: mpsc::Receiver<Accepted>) -> Self {
        // Dialled sockets of libp2p send small frames: no delay, as on our own.
        let tcp = Tcp::new(libp2p::tcp::Config::new().nodelay(true));
        Self { tcp, accepted, listener: None, news: VecDeque::new() }
    }
}

impl Transport for SharedPort {
    type Output = Socket;
    type Error = io::Error;
    type ListenerUpgrade = Ready<io::Result<Socket>>;
    type Dial = BoxFuture<'static, io::Result<Socket>>;

    /// Nothing is bound here: `address` is one that the listener has bound already.
    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        if address::is_quic(&address) || address::is_relayed(&address) {
            return Err(TransportError::MultiaddrNotSupported(address));
        }
        self.listener.get_or_insert(id);
        self.news.push_back((id, address));
        Ok(())
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, address: Multiaddr, options: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let dial = self.tcp.dial(address, options)?;
        Ok(dial.map(|dialled| dialled.map(|tcp| Socket { tcp, ticket: None })).boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, Self::Error>> {
        if let Some((listener_id, listen_addr)) = self.news.pop_front() {
            return Poll::Ready(TransportEvent::NewAddress { listener_id, listen_addr });
        }
        let (Some(listener_id), Poll::Ready(Some(accepted))) = (self.listener, self.accepted.poll_recv(cx)) else {
            return Poll::Pending;
        };
        let Accepted { tcp, remote, local, ticket } = accepted;
        let socket = Socket { tcp: TcpStream(tcp), ticket: Some(ticket) };
        Poll::Ready(TransportEvent::Incoming {
            listener_id,
            upgrade: ready(Ok(socket)),
            local_addr: address::multiaddr(local),
            send_back_addr: address::multiaddr(remote),
        })
    }
}
