//! The daemon's copy of a content becomes a file of the user's: read through descriptors that the daemon passes, every
//! piece hashed again, written beside the destination, renamed into place once it is whole. Where the file system can, the
//! destination shares the copy's blocks, and is hashed itself. The daemon needs no access to
//! the user's folders, and its word is not taken for anything.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::content::code::Code;
use crate::content::layout::{BlockIndex, FilePlace, PieceIndex};
use crate::content::manifest::Manifest;
use crate::drivers::store::{Download, DownloadOptions, Finished, Opened, PieceStore, StateDir};
use crate::programs::peer::Failure;
use crate::programs::peer::get::destination;

/// A destination that is being filled. Synchronous; dropping it keeps what was committed.
pub struct Delivery {
    download: Box<Download>,
    out: PathBuf,
}

/// Where pieces are read from.
struct Source<'a> {
    file: &'a File,
    /// It is the destination itself, which shares the blocks of the daemon's copy.
    in_place: bool,
}

/// What [`Delivery::open`] found.
pub enum Begun {
    /// Every byte is at the destination already.
    AlreadyThere(PathBuf),
    /// To be filled.
    Ready(Delivery),
}

impl Delivery {
    /// Opens the destination that `out` and the manifest give together. `tell` hears how many bytes of what lies there
    /// were compared.
    ///
    /// # Errors
    /// As `get` has them: another file is there, its folder is missing, no room.
    pub fn open(
        state: &StateDir,
        manifest: &Manifest,
        envelope: &[u8],
        out: Option<&Path>,
        force: bool,
        tell: &mut dyn FnMut(u64),
    ) -> Result<Begun, Failure> {
        let out = destination(out, manifest)?;
        let options = DownloadOptions { state, out: &out, manifest: manifest.clone(), envelope, force };
        Ok(match Download::open(options, &mut |progress| tell(progress.done_bytes))? {
            Opened::AlreadyThere => Begun::AlreadyThere(out),
            Opened::Ready(download) => Begun::Ready(Self { download, out }),
        })
    }

    /// Where it will be.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Bytes that an earlier run left here.
    pub fn bytes_held(&self) -> u64 {
        let layout = self.download.manifest().layout();
        self.download.held().iter_held().filter_map(|piece| layout.piece_length(piece)).sum()
    }

    /// Takes what is missing of one file from an open copy of it. `tell` hears of bytes as they are written, and says
    /// whether to go on.
    ///
    /// # Errors
    /// The copy is not the file; the destination cannot be written; [`Code::Interrupted`].
    pub fn take(&self, file: u32, from: &File, tell: &mut dyn FnMut(u64) -> bool) -> Result<(), Failure> {
        let manifest = self.download.manifest().clone();
        let Some(place) = manifest.layout().places().iter().find(|place| place.file == file) else { return Ok(()) };
        let held = self.download.held();
        let pieces = place.first_piece..place.first_piece.saturating_add(place.layout.piece_count());
        let untouched = !pieces.clone().any(|piece| held.has(PieceIndex(piece)));
        let shared = if untouched { self.download.share_blocks(file, from)? } else { None };
        for within in 0..place.layout.piece_count() {
            let piece = PieceIndex(place.first_piece.saturating_add(within));
            if held.has(piece) {
                continue;
            }
            let from = Source { file: shared.as_deref().unwrap_or(from), in_place: shared.is_some() };
            let bytes = self.take_piece(&manifest, place, piece, PieceIndex(within), &from)?;
            if self.download.commit_due() {
                self.download.commit().map_err(|failure| Failure::from(*failure.error))?;
            }
            if !tell(bytes) {
                return Err(Failure::new(Code::Interrupted, "stopped before it was complete")
                    .remedy("run the same command again: it goes on from there"));
            }
        }
        Ok(())
    }

    fn take_piece(
        &self,
        manifest: &Manifest,
        place: &FilePlace,
        piece: PieceIndex,
        within: PieceIndex,
        from: &Source<'_>,
    ) -> Result<u64, Failure> {
        let count = place.layout.block_count(within).unwrap_or(0);
        let (mut blocks, mut sum) = (Vec::new(), 0u64);
        for block in (0..count).map(BlockIndex) {
            let Some(range) = place.layout.block(within, block) else { break };
            let mut bytes = vec![0; usize::try_from(range.length).unwrap_or(0)];
            from.file
                .read_exact_at(&mut bytes, range.offset)
                .map_err(|error| Failure::new(Code::Io, format!("the daemon's copy cannot be read: {error}")))?;
            sum = sum.saturating_add(range.length);
            blocks.push(bytes);
        }
        let proven = match (count, blocks.pop()) {
            (1, Some(bytes)) => manifest.verify(piece, BlockIndex(0), None, bytes).map(|block| vec![block]).ok(),
            (_, Some(last)) => {
                blocks.push(last);
                manifest.verify_piece(piece, blocks).ok()
            }
            (_, None) => Some(Vec::new()),
        };
        let proven = proven.ok_or_else(|| {
            Failure::new(Code::ContentMismatch, format!("piece {} of the daemon's copy is not right", piece.0))
                .remedy("have its cache checked with `piecework cache verify`; `--no-daemon` fetches it anew")
        })?;
        for block in &proven {
            match from.in_place {
                true => self.download.adopt_bytes(block)?,
                false => self.download.put_bytes(block)?,
            };
        }
        Ok(sum)
    }

    /// Syncs, and renames it into place.
    ///
    /// # Errors
    /// Pieces are missing; the disk refuses.
    pub fn finish(self) -> Result<PathBuf, Failure> {
        match self.download.finish() {
            Ok(Finished::InPlace) => Ok(self.out),
            Ok(Finished::Lost(pieces)) => {
                let message = format!("{} pieces of an earlier run turned out wrong on disk", pieces.len());
                Err(Failure::new(Code::StoreDamaged, message).remedy("run the same command again"))
            }
            Err(failure) => Err(Failure::from(*failure.error)),
        }
    }

    /// Commits what is there, for a later run.
    pub fn leave(self) {
        if let Err(failure) = self.download.close() {
            tracing::warn!(error = %failure.error, "what was written could not be committed");
        }
    }
}
