//! What is said on a connection before it is a link: both sides' Hello, and in a group the proofs of its secret.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use libp2p::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::services::node::Inner;
use crate::services::node::group::{Bound, Group};
use crate::services::node::limits::{HELLO_TIMEOUT, WRITE_TIMEOUT};
use crate::services::node::session::{SessionEnd, read_body};
use crate::wire::limits::{HEADER_BYTES, PROOF_BYTES, SITE_BYTES};
use crate::wire::version::{self, Features};
use crate::wire::{Frame, FrameHeader, GoodbyeReason, Kind};

/// Whose connection it is.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    pub(crate) peer: PeerId,
    pub(crate) local: SocketAddr,
    pub(crate) we_dialled: bool,
    /// What both ends export from TLS.
    pub(crate) exported: Option<[u8; 32]>,
}

/// What a peer has said of itself.
pub(crate) struct Greeting {
    pub(crate) agent: String,
    pub(crate) listen_port: u16,
    pub(crate) site: Option<[u8; SITE_BYTES]>,
    pub(crate) record: Vec<u8>,
    /// Our group, as it was when the greetings began.
    pub(crate) group: Group,
    /// Which of its keys the peer shares.
    pub(crate) group_key: usize,
    /// What it can do beyond version 1, as far as we can too.
    pub(crate) features: Features,
}

/// Says Hello, hears the peer's, and proves to each other what a group asks for.
///
/// # Errors
/// The connection broke, the peer broke the protocol, speaks another version or is of another group; it has been told so.
pub(crate) async fn greet<R, W>(
    node: &Arc<Inner>,
    ends: Ends,
    reader: &mut R,
    writer: &mut W,
) -> Result<Greeting, SessionEnd>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let group = node.group();
    let our_nonce = group.proves().then(crate::services::node::entropy);
    say(writer, &node.hello(ends.local, our_nonce)).await?;
    let hello = hear(reader).await?;
    let Frame::Hello { version: theirs, features, agent, listen_port, site, record, group_nonce } = hello else {
        return Err(SessionEnd::Rule("the first frame is not Hello"));
    };
    if theirs != version::VERSION {
        part(writer, GoodbyeReason::Version).await;
        return Err(SessionEnd::Refused(GoodbyeReason::Version));
    }
    let shared = match (our_nonce, group_nonce) {
        (None, None) => Some(0),
        (Some(ours), Some(theirs)) => prove(&group, &bound(node, ends, ours, theirs), reader, writer).await?,
        _ => None,
    };
    let Some(group_key) = shared else {
        let knows = Features(features).has(Features::GROUP);
        part(writer, if knows { GoodbyeReason::Group } else { GoodbyeReason::Banned }).await;
        return Err(SessionEnd::OtherGroup);
    };
    let features = Features::OURS.with(Features::RENDEZVOUS).common(Features(features));
    Ok(Greeting { agent, listen_port, site, record, group, group_key, features })
}

fn bound(node: &Inner, ends: Ends, ours: [u8; PROOF_BYTES], theirs: [u8; PROOF_BYTES]) -> Bound {
    let Ends { peer, we_dialled, exported, .. } = ends;
    let (us, it) = ((node.peer_id, ours), (peer, theirs));
    let ((dialler, dialler_nonce), (listener, listener_nonce)) = if we_dialled { (us, it) } else { (it, us) };
    Bound { we_dialled, exported, dialler, listener, dialler_nonce, listener_nonce }
}

/// The dialler proves first. Returns the key that both have; `None` where there is none.
async fn prove<R, W>(group: &Group, bound: &Bound, reader: &mut R, writer: &mut W) -> Result<Option<usize>, SessionEnd>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if bound.we_dialled {
        say(writer, &Frame::Proof { macs: group.prove(bound) }).await?;
    }
    let macs = match hear(reader).await? {
        Frame::Proof { macs } => macs,
        Frame::Goodbye { reason: GoodbyeReason::Group } => return Err(SessionEnd::OtherGroup),
        Frame::Goodbye { reason } => return Err(SessionEnd::Goodbye(reason)),
        _ => return Err(SessionEnd::Rule("the second frame is not Proof")),
    };
    let Some(key) = group.proven(bound, &macs) else { return Ok(None) };
    if !bound.we_dialled {
        // By the one key that it has shown to know.
        say(writer, &Frame::Proof { macs: group.prove_by(key, bound).into_iter().collect() }).await?;
    }
    Ok(Some(key))
}

async fn say<W: AsyncWrite + Unpin>(writer: &mut W, frame: &Frame) -> Result<(), SessionEnd> {
    let mut out = Vec::new();
    frame.encode(&mut out);
    let written = timeout(HELLO_TIMEOUT, async {
        writer.write_all(&out).await?;
        writer.flush().await
    });
    Ok(written.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??)
}

/// Reads one control frame; a Piece frame here is an error of the peer's.
async fn hear<R: AsyncRead + Unpin>(reader: &mut R) -> Result<Frame, SessionEnd> {
    let read = async {
        let mut head = [0; HEADER_BYTES];
        reader.read_exact(&mut head).await?;
        let header = FrameHeader::decode(head)?;
        // Nothing else has a place here, and these are short.
        if !matches!(header.kind, Kind::Hello | Kind::Proof | Kind::Goodbye) {
            return Err(SessionEnd::Rule("a frame before the greetings are over"));
        }
        read_body(reader, header, &mut Vec::new()).await
    };
    timeout(HELLO_TIMEOUT, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

/// Says goodbye and ends our side of the stream.
pub(crate) async fn part<W: AsyncWrite + Unpin>(writer: &mut W, reason: GoodbyeReason) {
    let mut out = Vec::new();
    Frame::Goodbye { reason }.encode(&mut out);
    let _ = timeout(WRITE_TIMEOUT, async {
        writer.write_all(&out).await?;
        writer.flush().await?;
        writer.shutdown().await
    })
    .await;
}
