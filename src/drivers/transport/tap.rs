//! A hand on a TCP connection that another layer owns: its round trip as the receiver sees it, its receive window and buffer.

use std::net::SocketAddr;
use std::time::Duration;

/// What the kernel knows about bytes that come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// From a word of ours to the first bytes sent after it, smoothed (`tcpi_rcv_rtt`): the sender's queue is in it.
    pub round_trip: Duration,
    /// Payload that has come since the connection stands; an end (FIN) counts as one byte, as it does in sequence numbers.
    pub bytes: u64,
    /// Since the last of it came; milliseconds are all the kernel tells.
    pub silent: Duration,
    /// The longest segment that the sender may send, in bytes. A sender holds back where less fits (RFC 9293 section 3.8.6.2.1).
    pub segment: u64,
}

/// A second descriptor of a connection; the connection's own end is not delayed beyond this one's.
#[derive(Debug)]
pub struct Tap {
    #[cfg(target_os = "linux")]
    descriptor: std::os::fd::OwnedFd,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

    use socket2::SockRef;

    use super::*;

    /// Room that is asked for at first; the kernel makes it longer by itself where the line is long.
    const ROOM: usize = 1 << 20;

    impl Tap {
        /// The connection of this process between two addresses; none where there is none, or the system does not tell.
        pub fn find(local: SocketAddr, remote: SocketAddr) -> Option<Self> {
            let numbers = std::fs::read_dir("/proc/self/fd").ok()?.flatten();
            let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
            let found = numbers.filter(|number| *number > 2).find_map(|number| {
                // SAFETY: borrowed for two calls that refuse a number which is closed meanwhile. Were it reused, the
                // copy is looked at again before it is kept.
                let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
                if !joins(borrowed, local, remote) {
                    return None;
                }
                let copy: OwnedFd = borrowed.try_clone_to_owned().ok()?;
                joins(copy.as_fd(), local, remote).then_some(copy)
            });
            found.map(|descriptor| Self { descriptor })
        }

        /// What has come so far; none where nothing was measured yet.
        pub fn incoming(&self) -> Option<Incoming> {
            // SAFETY: a plain structure of integers, for which zeros are a value.
            let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
            let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
            let (number, target) = (self.descriptor.as_raw_fd(), std::ptr::from_mut(&mut info).cast());
            // SAFETY: an open descriptor, and a buffer of the length that is told.
            let got = unsafe { libc::getsockopt(number, libc::IPPROTO_TCP, libc::TCP_INFO, target, &mut length) };
            // An old kernel tells less, and leaves the rest at zero.
            (got == 0 && info.tcpi_bytes_received > 0 && info.tcpi_rcv_rtt > 0).then(|| Incoming {
                round_trip: Duration::from_micros(u64::from(info.tcpi_rcv_rtt)),
                bytes: info.tcpi_bytes_received,
                silent: Duration::from_millis(u64::from(info.tcpi_last_data_recv)),
                segment: u64::from(info.tcpi_advmss),
            })
        }

        /// Lets the sender have at most so many bytes on their way (tcp(7), `TCP_WINDOW_CLAMP`). What was granted before
        /// is not taken back.
        pub fn set_window(&self, bytes: u64) {
            let bytes = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
            let (number, source) = (self.descriptor.as_raw_fd(), std::ptr::from_ref(&bytes).cast());
            let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
            // SAFETY: an open descriptor, and an integer of the length that is told. A refusal costs politeness alone.
            let _ = unsafe { libc::setsockopt(number, libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, source, length) };
        }
    }

    impl Tap {
        /// Leaves no room for more than a segment that nobody has read, so that the sender has to wait once the reader does; or
        /// leaves the room to the kernel again. A window alone does not do it: it is granted anew with each segment, read or not.
        pub fn set_shut(&self, shut: bool) {
            let socket = SockRef::from(&self.descriptor);
            // A refusal costs politeness alone.
            if shut {
                let _ = socket.set_recv_buffer_size(1);
                return;
            }
            let _ = socket.set_recv_buffer_size(ROOM);
            let free: libc::c_int = 0;
            let (number, source) = (self.descriptor.as_raw_fd(), std::ptr::from_ref(&free).cast());
            let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
            // Who sets a buffer's length fixes it until this is cleared; before Linux 5.14 it stays as it was just made.
            // SAFETY: an open descriptor, and an integer of the length that is told.
            let _ = unsafe { libc::setsockopt(number, libc::SOL_SOCKET, libc::SO_BUF_LOCK, source, length) };
        }
    }

    fn joins(descriptor: BorrowedFd<'_>, local: SocketAddr, remote: SocketAddr) -> bool {
        let socket = SockRef::from(&descriptor);
        let is = |found: std::io::Result<socket2::SockAddr>, wanted: SocketAddr| {
            let found = found.ok().and_then(|address| address.as_socket());
            found.is_some_and(|it| it.port() == wanted.port() && it.ip().to_canonical() == wanted.ip().to_canonical())
        };
        is(socket.peer_addr(), remote) && is(socket.local_addr(), local)
    }
}

#[cfg(not(target_os = "linux"))]
impl Tap {
    /// No other system tells.
    pub fn find(_local: SocketAddr, _remote: SocketAddr) -> Option<Self> {
        None
    }

    /// Nothing.
    pub fn incoming(&self) -> Option<Incoming> {
        None
    }

    /// Does nothing.
    pub fn set_window(&self, _bytes: u64) {}

    /// Does nothing.
    pub fn set_shut(&self, _shut: bool) {}
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_found_by_its_ends_and_counts_what_comes() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let (mut theirs, _) = listener.accept().expect("dialled");
        let (local, remote) = (ours.local_addr().expect("up"), ours.peer_addr().expect("up"));
        let tap = Tap::find(local, remote).expect("a connection of ours");
        tap.set_window(8 << 10);
        // Handed back, and so not closed before the count is read: the end would count.
        let writer = std::thread::spawn(move || theirs.write_all(&vec![7; 1 << 20]).map(|()| theirs));
        let mut taken = vec![0; 1 << 20];
        ours.read_exact(&mut taken).expect("it comes");
        let _theirs = writer.join().expect("no panic").expect("it goes");
        let incoming = tap.incoming().expect("measured");
        assert_eq!(incoming.bytes, 1 << 20);
        assert!(incoming.round_trip > Duration::ZERO);
        assert!(Tap::find(remote, "127.0.0.1:1".parse().expect("valid")).is_none());
    }

    #[test]
    fn a_connection_that_is_shut_brings_nothing_until_it_is_opened() {
        const SENT: usize = 1 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut ours = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
        let (mut theirs, _) = listener.accept().expect("dialled");
        let tap = Tap::find(ours.local_addr().expect("up"), ours.peer_addr().expect("up")).expect("ours");
        let come = || tap.incoming().map_or(0, |incoming| incoming.bytes);
        tap.set_shut(true);
        theirs.set_nonblocking(true).expect("a socket");
        let mut left = vec![7; SENT];
        while let Some(written) = theirs.write(&left).ok().filter(|written| *written > 0) {
            left.truncate(left.len() - written);
        }
        assert!(come() < 128 << 10, "{}", come());
        tap.set_shut(false);
        theirs.set_nonblocking(false).expect("a socket");
        let writer = std::thread::spawn(move || theirs.write_all(&left).map(|()| theirs));
        let mut taken = vec![0; SENT];
        ours.read_exact(&mut taken).expect("it comes");
        let _theirs = writer.join().expect("no panic").expect("it goes");
        assert_eq!(come(), SENT as u64);
    }
}
