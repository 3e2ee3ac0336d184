//! A file's bytes on their way out: read in small pieces away from the reactor, at a pace.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::try_unfold;
use hyper::body::{Bytes, Frame};
use tokio::time::{Instant, sleep_until};

use crate::drivers::origin::Tally;

/// Bytes read at a time.
const READ_BYTES: u64 = 256 << 10;

/// Lets bytes out at a steady rate, all connections together.
#[derive(Debug)]
pub(crate) struct Throttle {
    rate_bytes_max: Option<u64>,
    /// When what was let out so far will have gone out at that rate.
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    pub(crate) fn new(rate_bytes_max: Option<u64>) -> Self {
        Self { rate_bytes_max: rate_bytes_max.map(|rate| rate.max(1)), free_at: Mutex::new(None) }
    }

    /// How much to read at a time: a twentieth of a second's worth where that is less.
    fn read_bytes(&self) -> u64 {
        self.rate_bytes_max.map_or(READ_BYTES, |rate| (rate / 20).clamp(1 << 10, READ_BYTES))
    }

    async fn let_out(&self, bytes: u64) {
        let Some(rate) = self.rate_bytes_max else {
            return;
        };
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let turn = {
            let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let turn = free_at.map_or(now, |free| free.max(now));
            *free_at = turn.checked_add(takes);
            turn
        };
        sleep_until(turn).await;
    }
}

/// What is left of an answer's body.
struct Rest {
    file: Arc<File>,
    offset: u64,
    left: u64,
    path: String,
    throttle: Arc<Throttle>,
    tally: Arc<Tally>,
}

/// The bytes `offset..offset + length` of an open file. A file that became shorter ends the stream with an error, and
/// so the connection: a body is never padded.
pub(crate) fn file_body(
    file: File,
    offset: u64,
    length: u64,
    path: String,
    throttle: Arc<Throttle>,
    tally: Arc<Tally>,
) -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> + Send {
    let rest = Rest { file: Arc::new(file), offset, left: length, path, throttle, tally };
    try_unfold(rest, |mut rest| async move {
        if rest.left == 0 {
            return Ok(None);
        }
        let wanted = rest.throttle.read_bytes().min(rest.left);
        rest.throttle.let_out(wanted).await;
        let (file, offset) = (Arc::clone(&rest.file), rest.offset);
        let bytes =
            tokio::task::spawn_blocking(move || read_at(&file, offset, wanted)).await.map_err(io::Error::other)??;
        rest.offset = rest.offset.saturating_add(wanted);
        rest.left = rest.left.saturating_sub(wanted);
        rest.tally.count_path(&rest.path, 0, wanted);
        Ok(Some((Frame::data(bytes), rest)))
    })
}

fn read_at(file: &File, offset: u64, wanted: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer.into())
}
