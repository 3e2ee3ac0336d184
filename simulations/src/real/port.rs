//! [`Port`]: one port of our own switch, a packet socket on its device. Frames pass as the kernel has them, large segments
//! whole and checksums still to be written: each has the kernel's virtio header in front, which goes back to it unread.

use std::ffi::{CString, c_int};
use std::fs::File;
use std::io::{Error, Read, Result, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Bytes in front of each frame: the kernel's `struct virtio_net_hdr`.
pub(super) const HEADER_BYTES: usize = 10;
/// The longest frame with its header: a segment of 64 KiB and what is in front of it.
pub(super) const FRAME_BYTES_MAX: usize = 66_000;
/// What the kernel keeps of frames that wait for us, and of those that wait for the device's shaper: more than its
/// queue, so that the shaper decides what is lost.
const KERNEL_BYTES: c_int = 16 << 20;

/// A port. It hears whatever its host sends.
#[derive(Debug)]
pub(super) struct Port(File);

impl Port {
    /// Opens the device of this name in the calling thread's network namespace.
    ///
    /// # Errors
    /// The system's: nobody but root may, and the device has to be there.
    pub(super) fn open(device: &str) -> Result<Self> {
        let name = CString::new(device)?;
        let every = libc::ETH_P_ALL as u16;
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // Deaf until it is bound, so that it never hears another port's host.
        // SAFETY: plain calls; `name` outlives the first.
        let (index, number) = unsafe { (libc::if_nametoindex(name.as_ptr()), libc::socket(libc::AF_PACKET, kind, 0)) };
        if number < 0 {
            return Err(Error::last_os_error());
        }
        // SAFETY: a descriptor that was opened above and that nobody else has.
        let socket = unsafe { OwnedFd::from_raw_fd(number) };
        if index == 0 {
            return Err(Error::new(std::io::ErrorKind::NotFound, format!("no device {device}")));
        }
        for (level, option, value) in [
            (libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1),
            (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
            (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, KERNEL_BYTES),
            (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, KERNEL_BYTES),
        ] {
            set(&socket, level, option, value)?;
        }
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: every.to_be(),
            sll_ifindex: c_int::try_from(index).map_err(Error::other)?,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: an open descriptor, and an address of the length that is told.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(Error::last_os_error()) } else { Ok(Self(File::from(socket))) }
    }

    /// The next frame with its header; `None` where none waits.
    ///
    /// # Errors
    /// The system's. A frame of a kind that the header cannot express is lost by it.
    pub(super) fn hear<'a>(&self, room: &'a mut [u8; FRAME_BYTES_MAX]) -> Result<Option<&'a [u8]>> {
        match (&self.0).read(room) {
            Ok(length) => Ok(room.get(..length)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a frame with its header to the device's shaper.
    ///
    /// # Errors
    /// The shaper's queue is full, or the device is gone: the frame is lost.
    pub(super) fn say(&self, frame: &[u8]) -> Result<()> {
        (&self.0).write(frame).map(|_| ())
    }

    /// Frames that came since this was asked last and for which the kernel had no room.
    pub(super) fn unheard(&self) -> u64 {
        let mut seen = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        let (number, target) = (self.0.as_raw_fd(), (&raw mut seen).cast());
        // SAFETY: an open descriptor, and a buffer of the length that is told.
        let got =
            unsafe { libc::getsockopt(number, libc::SOL_PACKET, libc::PACKET_STATISTICS, target, &raw mut length) };
        if got == 0 { u64::from(seen.tp_drops) } else { 0 }
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn set(socket: &OwnedFd, level: c_int, option: c_int, value: c_int) -> Result<()> {
    let length = size_of::<c_int>() as libc::socklen_t;
    // SAFETY: an open descriptor, and an integer of the length that is told.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}
