//! Open files that travel over the control socket: one leaves with the bytes of the answer that is about it (`unix(7)`,
//! `SCM_RIGHTS`), and is taken in by a client that expects one. A client that reads plainly, such as curl, never sees it:
//! the kernel closes it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// Where a file waits for the next bytes that leave.
#[derive(Clone, Default)]
pub(super) struct Outgoing(Arc<Mutex<Option<OwnedFd>>>);

impl Outgoing {
    /// Sends a file with the next bytes.
    pub(super) fn pass(&self, file: OwnedFd) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    fn take(&self) -> Option<OwnedFd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Writes as [`AsyncWrite`] has it; a file that waits goes along.
    pub(super) fn poll_write(
        &self,
        stream: &mut UnixStream,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Some(file) = self.take() else { return Pin::new(stream).poll_write(context, bytes) };
        loop {
            if stream.poll_write_ready(context)?.is_pending() {
                self.pass(file);
                return Poll::Pending;
            }
            match stream.try_io(Interest::WRITABLE, || send(stream, bytes, &file)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

fn send(stream: &UnixStream, bytes: &[u8], file: &OwnedFd) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// A client's end of the socket that takes one file in.
pub(super) struct Receiving {
    stream: UnixStream,
    taken: Arc<Mutex<Option<OwnedFd>>>,
}

impl Receiving {
    /// The stream, and where the file will be.
    pub(super) fn new(stream: UnixStream) -> (Self, Arc<Mutex<Option<OwnedFd>>>) {
        let taken = Arc::<Mutex<Option<OwnedFd>>>::default();
        (Self { stream, taken: Arc::clone(&taken) }, taken)
    }

    fn receive(&self, bytes: &mut [u8]) -> io::Result<usize> {
        // More than one would not fit and is closed by the kernel.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                files.for_each(|file| *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(file));
            }
        }
        Ok(received.bytes)
    }
}

impl AsyncRead for Receiving {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_io(Interest::READABLE, || self.receive(buffer.initialize_unfilled())) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Receiving {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
