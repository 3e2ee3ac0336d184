//! Somebody who reads a content in order while it comes, as `get -o -` lets them.

use piecework::content::layout::PieceIndex;
use piecework::swarm::event::Event;

use crate::units::Rate;
use crate::world::{NEVER, Thing, World};

/// A reader, and how long it has stood still. Times in microseconds.
#[derive(Debug)]
pub struct Reader {
    /// How fast it reads what is there.
    rate: Rate,
    /// The piece it takes next.
    next: u32,
    /// When it is through with the piece before; `NEVER` before it starts.
    free_at: u64,
    /// From its start to its first piece.
    pub(crate) first_after: u64,
    /// How long it waited for pieces after that, in all.
    pub(crate) stalled: u64,
}

impl Reader {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, next: 0, free_at: NEVER, first_after: 0, stalled: 0 }
    }
}

impl World {
    /// The share has begun its work, perhaps not for the first time.
    pub(crate) fn reader_starts(&mut self, share: u32) {
        let now = self.now;
        let Some(reader) = self.shares[share as usize].reader.as_mut() else { return };
        if reader.free_at == NEVER {
            reader.free_at = now;
        }
        let piece = PieceIndex(reader.next);
        self.tell(share, Event::ReaderAt { piece });
    }

    /// The reader takes its next piece, if it is through with the last and the piece is there.
    pub(crate) fn read(&mut self, share: u32) {
        let now = self.now;
        let it = &mut self.shares[share as usize];
        let Some(reader) = it.reader.as_mut() else { return };
        if now < reader.free_at || !it.truth.has(PieceIndex(reader.next)) {
            return;
        }
        let waited = now - reader.free_at;
        if reader.next == 0 {
            reader.first_after = waited;
        } else {
            reader.stalled += waited;
        }
        let layout = &self.contents[it.content as usize].layout;
        let length = layout.piece_length(PieceIndex(reader.next)).unwrap_or(0);
        reader.free_at = now + reader.rate.time_of(length).max(1);
        reader.next += 1;
        let (piece, free_at) = (PieceIndex(reader.next), reader.free_at);
        self.fold(44, u64::from(share), u64::from(piece.0));
        self.at(free_at, Thing::Read { share });
        self.tell(share, Event::ReaderAt { piece });
    }
}
