//! A response body held to what its head promised: in bounds and in time.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Bytes;
use hyper_util::client::legacy::connect::HttpInfo;
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use crate::drivers::sources::error::{Change, Error, Stage};

/// How long the end of a body without a length is waited for; its bytes are all here by then.
const END_WAIT: Duration = Duration::from_secs(1);

/// What a body is held to while somebody waits for it. Time in which nobody asks does not count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) stall_timeout: Duration,
    pub(crate) rate_bytes_min: u64,
    pub(crate) rate_window: Duration,
}

/// Waiting and bytes of the current window.
#[derive(Debug, Default)]
struct Window {
    waited: Duration,
    bytes: u64,
}

/// The bytes `start..end` of a file, in order.
#[derive(Debug)]
pub struct Body {
    /// `None` once it ended, well or not.
    response: Option<Response>,
    url: String,
    start: u64,
    position: u64,
    end: u64,
    asked_end: u64,
    /// The head gave no length, so that only the body's own framing tells its end.
    open_ended: bool,
    /// It is a whole file whose framing tells where it ends: a clean end is the server's word for the file's length.
    end_tells_length: bool,
    whole_file: bool,
    overlong: bool,
    pace: Pace,
    window: Window,
    _slot: OwnedSemaphorePermit,
}

/// What the head of an answer promised.
pub(crate) struct Promise {
    pub(crate) url: String,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) asked_end: u64,
    pub(crate) open_ended: bool,
    pub(crate) end_tells_length: bool,
    pub(crate) whole_file: bool,
}

impl Body {
    pub(crate) fn new(response: Response, promise: Promise, pace: Pace, slot: OwnedSemaphorePermit) -> Self {
        Self {
            response: Some(response),
            url: promise.url,
            start: promise.start,
            position: promise.start,
            end: promise.end,
            asked_end: promise.asked_end,
            open_ended: promise.open_ended,
            end_tells_length: promise.end_tells_length,
            whole_file: promise.whole_file,
            overlong: false,
            pace,
            window: Window::default(),
            _slot: slot,
        }
    }

    /// Our end and theirs of the connection that carries it; a proxy's end where there is one.
    pub fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let info = self.response.as_ref()?.extensions().get::<HttpInfo>()?;
        Some((info.local_addr(), info.remote_addr()))
    }

    /// Offset in the file of the first byte it delivers: that of the range, or 0 where the server sends whole files.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// One past the last byte it will deliver.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Offset of the next byte.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the server sends the whole file although a range was asked for: it serves no ranges.
    pub fn is_whole_file(&self) -> bool {
        self.whole_file
    }

    /// The URL that answered, for people and logs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The next bytes, at most what was promised; `None` after the last. Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Truncated`] where the body ends early or the server promised less than was asked for,
    /// [`Error::TimedOut`], [`Error::Overlong`] after all promised bytes, [`Error::Changed`] where a whole file ends
    /// early by the server's own word. No byte comes after an error.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if self.position >= self.end {
                return self.finish().await;
            }
            let Some(response) = self.response.as_mut() else {
                // Asked again after an error.
                return Err(self.truncated(self.end));
            };
            let since = Instant::now();
            let received = timeout(self.pace.stall_timeout, response.chunk()).await;
            let waited = since.elapsed();
            let mut bytes = match received {
                Err(_) => return Err(self.fail_timeout(Stage::Body, self.pace.stall_timeout)),
                Ok(Err(_)) => return Err(self.fail_early(false)),
                Ok(Ok(None)) => return Err(self.fail_early(true)),
                Ok(Ok(Some(bytes))) => bytes,
            };
            let left = self.end.saturating_sub(self.position);
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if length > left {
                self.overlong = true;
                bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            }
            let length = length.min(left);
            self.position = self.position.saturating_add(length);
            if self.too_slow(waited, length) {
                let bytes_min = self.pace.rate_bytes_min;
                return Err(self.fail_timeout(Stage::Rate { bytes_min }, self.pace.rate_window));
            }
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Counts a wait, and judges whenever a window of waiting is full.
    fn too_slow(&mut self, waited: Duration, bytes: u64) -> bool {
        self.window.waited = self.window.waited.saturating_add(waited);
        self.window.bytes = self.window.bytes.saturating_add(bytes);
        if self.window.waited < self.pace.rate_window {
            return false;
        }
        let window = std::mem::take(&mut self.window);
        let bytes_min = u128::from(self.pace.rate_bytes_min).saturating_mul(window.waited.as_millis()) / 1000;
        // The last bytes of a body are never too slow.
        self.position < self.end && u128::from(window.bytes) < bytes_min
    }

    /// After the last promised byte: nothing may follow, and nothing asked for may be missing.
    async fn finish(&mut self) -> Result<Option<Bytes>, Error> {
        let ended = self.response.take().filter(|_| self.open_ended && !self.overlong);
        if let Some(mut response) = ended {
            // Empty chunks are no bytes; a handful is more than any server sends.
            for _ in 0..8 {
                match timeout(END_WAIT, response.chunk()).await {
                    Ok(Ok(Some(more))) if more.is_empty() => {}
                    Ok(Ok(Some(_))) => {
                        self.overlong = true;
                        break;
                    }
                    _ => break,
                }
            }
        }
        if self.overlong {
            return Err(Error::Overlong { url: self.url.clone(), promised: self.end });
        }
        if self.end < self.asked_end {
            return Err(self.truncated(self.asked_end));
        }
        Ok(None)
    }

    fn truncated(&self, expected: u64) -> Error {
        Error::Truncated { url: self.url.clone(), expected, found: self.position }
    }

    fn fail_early(&mut self, clean: bool) -> Error {
        self.response = None;
        if clean && self.end_tells_length {
            let change = Change::Length { expected: self.end, found: self.position, kind: "" };
            return Error::Changed { url: self.url.clone(), change };
        }
        self.truncated(self.end)
    }

    fn fail_timeout(&mut self, stage: Stage, waited: Duration) -> Error {
        self.response = None;
        Error::TimedOut { url: self.url.clone(), stage, waited }
    }
}
