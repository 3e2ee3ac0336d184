//! One question at the start, of which the answers come to us alone (RFC 6762, 6.7). What goes to all is said once a
//! second at most, so that of machines that come in one second all but the first would wait for the next.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use if_addrs::IfAddr;
use libp2p::PeerId;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use crate::drivers::discovery::answer;
use crate::drivers::discovery::crowd::Heard;
use crate::drivers::discovery::lan::is_link_local;
use crate::drivers::discovery::{Lan, Options, may_be_neighbour};

/// Where multicast DNS is spoken (RFC 6762, 3).
const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// How long answers are waited for; they come at once.
const PATIENCE: Duration = Duration::from_secs(1);
/// Answers read of one link: more than nodes announce themselves.
const ANSWERS_MAX: usize = 256;
/// Links that are asked.
const LINKS_MAX: usize = 16;
/// Longest answer, bytes: a UDP packet of an Ethernet frame with room to spare.
const ANSWER_BYTES_MAX: usize = 9000;

/// Asks on every link and tells what is answered.
pub(super) fn all(options: &Options, lan: &Arc<Lan>, heard: &mpsc::Sender<Heard>) {
    let mut number = [0; 2];
    if getrandom::fill(&mut number).is_err() {
        return;
    }
    let id = u16::from_be_bytes(number);
    for socket in sockets(options.loopback_only) {
        // Sent before the event loop knows the socket, which would not believe yet that it can be written.
        let asked = socket.and_then(|(socket, group)| {
            socket.send_to(&answer::question(id), group)?;
            tokio::net::UdpSocket::from_std(socket)
        });
        match asked {
            Ok(socket) => {
                let (options, lan, heard) = (options.clone(), Arc::clone(lan), heard.clone());
                tokio::spawn(async move {
                    // Whoever answers later is heard by the listener.
                    let _ = tokio::time::timeout(PATIENCE, gather(&socket, id, &options, &lan, &heard)).await;
                });
            }
            Err(error) => tracing::debug!(%error, "a link is not asked"),
        }
    }
}

async fn gather(socket: &tokio::net::UdpSocket, id: u16, options: &Options, lan: &Lan, heard: &mpsc::Sender<Heard>) {
    let mut packet = vec![0; ANSWER_BYTES_MAX];
    for _ in 0..ANSWERS_MAX {
        let Ok((length, from)) = socket.recv_from(&mut packet).await else { return };
        if from.port() != PORT || !may_be_neighbour(from.ip(), options.loopback_only, lan) {
            continue;
        }
        let told = packet.get(..length).and_then(|packet| answer::read(packet, id)).unwrap_or_default();
        for told in told {
            let Some(peer) = told.instance.parse::<PeerId>().ok().filter(|peer| *peer != options.peer_id) else {
                continue;
            };
            let near = |ip: &IpAddr| may_be_neighbour(*ip, options.loopback_only, lan);
            let addresses: Vec<_> = told.ips.into_iter().filter(near).map(|ip| placed(ip, told.port, from)).collect();
            if !addresses.is_empty() && heard.send((peer, addresses)).await.is_err() {
                return;
            }
        }
    }
}

/// An address that is link-local means the link on which it was told.
fn placed(ip: IpAddr, port: u16, from: SocketAddr) -> SocketAddr {
    match (ip, from) {
        (IpAddr::V6(ip), SocketAddr::V6(from)) if is_link_local(ip) => {
            SocketAddrV6::new(ip, port, 0, from.scope_id()).into()
        }
        _ => SocketAddr::new(ip, port),
    }
}

/// A socket for each link and family, and where it sends to.
fn sockets(loopback_only: bool) -> Vec<std::io::Result<(UdpSocket, SocketAddr)>> {
    let mut sockets = Vec::new();
    let mut indices = Vec::new();
    for interface in if_addrs::get_if_addrs().unwrap_or_default() {
        if interface.is_loopback() != loopback_only || sockets.len() >= LINKS_MAX {
            continue;
        }
        match (interface.addr, interface.index) {
            (IfAddr::V4(address), _) => sockets.push(v4(address.ip)),
            (IfAddr::V6(_), Some(index)) if !loopback_only && !indices.contains(&index) => {
                indices.push(index);
                sockets.push(v6(index));
            }
            _ => {}
        }
    }
    sockets
}

fn v4(own: Ipv4Addr) -> std::io::Result<(UdpSocket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_multicast_if_v4(&own)?;
    socket.set_multicast_ttl_v4(255)?;
    socket.bind(&SocketAddr::new(own.into(), 0).into())?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), SocketAddr::new(GROUP_V4.into(), PORT)))
}

fn v6(index: u32) -> std::io::Result<(UdpSocket, SocketAddr)> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(true)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(255)?;
    socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0).into())?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), SocketAddrV6::new(GROUP_V6, PORT, 0, index).into()))
}
