//! Goodbyes that arrive. A socket that is closed while bytes from its peer are unread is reset, and a reset overtakes
//! what was sent before it: the peer would never hear why, nor what was refused or given back just before. So who says
//! goodbye ends its own side alone and reads on, and forgets what it reads, until the peer has ended too.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::services::node::Inner;
use crate::services::node::limits::GOODBYE_TIMEOUT;
use crate::wire::GoodbyeReason;

/// A connection whose goodbye is on its way, as long as this lives.
pub(crate) struct Parting(Arc<Inner>);

impl Parting {
    pub(crate) fn new(node: &Arc<Inner>) -> Self {
        node.partings.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(node))
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        self.0.partings.fetch_sub(1, Ordering::Relaxed);
        self.0.link_count.send_modify(|count| *count += 1);
    }
}

/// Reads what still comes and forgets it, until the peer has ended its side or so much time has passed.
pub(crate) async fn drain<R: AsyncRead + Unpin>(reader: &mut R, most: Duration) {
    let mut scrap = vec![0; 64 << 10];
    let all = async { while matches!(reader.read(&mut scrap).await, Ok(read) if read > 0) {} };
    let _ = timeout(most, all).await;
}

impl Inner {
    /// Says goodbye to every peer, and waits a moment for that to arrive.
    pub(crate) async fn part_with_all(&self) {
        let mut count = self.link_count.subscribe();
        for link in self.links().values() {
            link.close(GoodbyeReason::Shutdown);
        }
        let gone = async {
            while !self.links().is_empty() || self.partings.load(Ordering::Relaxed) > 0 {
                if count.changed().await.is_err() {
                    break;
                }
            }
        };
        let _ = timeout(GOODBYE_TIMEOUT, gone).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_goodbye_arrives_though_the_peer_is_in_the_middle_of_sending() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut peer = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        let mut ours = listener.accept().await.expect("it dialled").0;
        ours.write_all(b"goodbye").await.expect("there is room");
        ours.shutdown().await.expect("it stands");
        let ours = tokio::spawn(async move { drain(&mut ours, Duration::from_secs(60)).await });
        // More than both kernels' buffers take: it has to be read.
        peer.write_all(&vec![7; 32 << 20]).await.expect("no reset");
        let mut said = Vec::new();
        peer.read_to_end(&mut said).await.expect("no reset");
        assert_eq!(said, b"goodbye");
        peer.shutdown().await.expect("no reset");
        ours.await.expect("no panic");
    }
}
