//! A download that is read while it comes: the bytes of one file, in order, each proven before it is handed on.
//!
//! The pieces lie in a file without a name ([`Scratch`](crate::drivers::store::Scratch)), so a slow reader costs disk and
//! no memory, and holds up neither the download nor those who are served from it. A thread of its own writes to the
//! reader, since a pipe may stay full for as long as it likes.

use std::io::{self, Write};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use crate::content::code::Code;
use crate::content::layout::{BlockIndex, PieceIndex};
use crate::content::manifest::Manifest;
use crate::drivers::store::PieceStore;
use crate::programs::peer::Failure;
use crate::services::node::{Node, Share};

/// Blocks (a MiB each at most) that wait for the writing thread.
const BLOCKS_WAITING_MAX: usize = 2;

/// How far the writing thread is.
#[derive(Debug, Clone, Default)]
enum Written {
    /// It goes on.
    #[default]
    Writing,
    /// Everything it was given is written.
    All,
    /// The reader went away.
    Unread,
    /// It could not write for another reason.
    Failed(Arc<io::Error>),
}

/// Where a stream goes to. One stream may be written to it.
pub struct Sink {
    blocks: mpsc::Sender<Vec<u8>>,
    written: watch::Receiver<Written>,
}

/// How a stream ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streamed {
    /// Every byte was written.
    Whole,
    /// The reader went away before; it wanted no more.
    Unread,
}

impl Sink {
    /// Starts the thread that writes to `to`. It ends when the sink is dropped or written to its end, and not before a
    /// write that waits has ended.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(to: impl Write + Send + 'static) -> Result<Self, Failure> {
        let (blocks, queue) = mpsc::channel(BLOCKS_WAITING_MAX);
        let (told, written) = watch::channel(Written::default());
        let thread = std::thread::Builder::new().name("stream".into());
        let started = thread.spawn(move || _ = told.send_replace(write_all(to, queue)));
        started.map_err(|error| Failure::new(Code::ResourceRefused, format!("no thread to write with: {error}")))?;
        Ok(Self { blocks, written })
    }

    /// Hands over one block; false once nothing more can be written.
    async fn take(&self, block: Vec<u8>) -> bool {
        self.blocks.send(block).await.is_ok()
    }

    /// How the writing ended, once it has.
    async fn ended(&self) -> Result<Streamed, Failure> {
        let mut written = self.written.clone();
        let ended = written.wait_for(|written| !matches!(written, Written::Writing)).await;
        match ended.map(|ended| ended.clone()) {
            Ok(Written::All) => Ok(Streamed::Whole),
            Ok(Written::Unread) => Ok(Streamed::Unread),
            Ok(Written::Failed(error)) => {
                let full = error.kind() == io::ErrorKind::StorageFull;
                let code = if full { Code::DiskFull } else { Code::Io };
                Err(Failure::new(code, format!("cannot write the output: {error}")).culprit("stdout"))
            }
            Ok(Written::Writing) | Err(_) => Err(Failure::new(Code::Io, "the output ended without a word")),
        }
    }
}

fn write_all(mut to: impl Write, mut queue: mpsc::Receiver<Vec<u8>>) -> Written {
    let mut write = |block: Option<Vec<u8>>| match block {
        // Nothing marks the end.
        Some(block) if !block.is_empty() => to.write_all(&block).map(|()| true),
        _ => to.flush().map(|()| false),
    };
    loop {
        match write(queue.blocking_recv()) {
            Ok(true) => {}
            Ok(false) => return Written::All,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Written::Unread,
            Err(error) => return Written::Failed(Arc::new(error)),
        }
    }
}

/// Whether a manifest can be streamed at all.
///
/// # Errors
/// It has not exactly one file.
pub(super) fn check(manifest: &Manifest) -> Result<(), Failure> {
    if !manifest.is_directory() && manifest.files().len() == 1 {
        return Ok(());
    }
    Err(Failure::new(Code::Usage, "only a single file can be written to stdout, and this manifest is of a folder")
        .remedy("name a folder with -o"))
}

/// Writes the only file of a share to the sink, in order, as its pieces come. Completes with the last byte written, or
/// once the reader is gone.
///
/// # Errors
/// The sink or the store fails.
pub(super) async fn run(
    node: &Node,
    share: &Share,
    store: &Arc<dyn PieceStore>,
    sink: &Sink,
) -> Result<Streamed, Failure> {
    let layout = store.manifest().layout().clone();
    let count = layout.piece_count();
    let mut progress = share.progress();
    share.reader_at(PieceIndex(0)).await;
    let mut next = 0;
    while next < count {
        let held = store.held();
        // Until the last piece fits, a manifest that nobody signed may be of another content.
        let proven = !store.manifest().is_bare() || held.has(PieceIndex(count - 1));
        if !proven || !held.has(PieceIndex(next)) {
            if progress.changed().await.is_err() {
                return Err(Failure::new(Code::Io, "the download ended without a word"));
            }
            continue;
        }
        let piece = PieceIndex(next);
        for block in (0..layout.block_count(piece).unwrap_or(0)).map(BlockIndex) {
            let length = layout.block_length(piece, block).unwrap_or(0);
            let (length, store) = (usize::try_from(length).unwrap_or(0), Arc::clone(store));
            let mut bytes = vec![0; length];
            let read = node.disk().run(move || store.read(piece, block, 0, &mut bytes).map(|()| bytes)).await?;
            let bytes = read.map_err(|error| Failure::new(Code::Io, error.to_string()))?;
            if !sink.take(bytes).await {
                return sink.ended().await;
            }
        }
        next += 1;
        share.reader_at(PieceIndex(next)).await;
    }
    sink.take(Vec::new()).await;
    sink.ended().await
}
