//! A log of what one engine was told and what it wanted: JSON, one object a line. Replayed, it proves that the same
//! events give the same actions; and it shows what an engine saw, without a debugger.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use piecework::content::bitfield::Bitfield;
use piecework::content::layout::{BlockIndex, FlatLayout, PieceIndex};
use piecework::swarm::event::{Action, AddressKey, Event, NodeId};
use piecework::swarm::{Options, Swarm, Uptime};
use serde::{Deserialize, Serialize};

/// Bytes of one line at most: a bitfield of the longest content, as numbers, and room.
const LINE_MAX: u64 = 16 << 20;
/// Form of the log; another one is refused.
const FORM: u32 = 1;

/// Why a log cannot be written or replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system.
    #[error("{path}: {source}")]
    Io {
        /// Which file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is no log, or of another form.
    #[error("line {line}: {text}")]
    Form {
        /// Where, from 1.
        line: u64,
        /// What.
        text: String,
    },
    /// The engine refuses what the log begins with.
    #[error("the engine refuses the log's beginning: {0}")]
    Engine(#[from] piecework::swarm::Error),
    /// The same events gave other actions.
    #[error("line {line}: the engine wants {found} where the log has {expected}")]
    Differs {
        /// Where, from 1.
        line: u64,
        /// What the log has.
        expected: String,
        /// What came.
        found: String,
    },
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Entry {
    /// An engine is made; also when its machine starts anew.
    Begin(Box<Begin>),
    /// It is told something.
    Event {
        /// Microseconds.
        at: u64,
        /// What.
        event: Event,
    },
    /// All that it then wanted, as text.
    Actions(Vec<String>),
}

/// What an engine is made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    form: u32,
    files: Vec<u64>,
    held: Bitfield,
    partial: Vec<(PieceIndex, Vec<BlockIndex>)>,
    options: Options,
    id: NodeId,
    address: AddressKey,
    seed: [u8; 32],
    at: u64,
}

/// Writes the log of one share.
#[derive(Debug)]
pub struct Recorder {
    pub(crate) share: u32,
    to: BufWriter<File>,
    failed: Option<std::io::Error>,
}

impl Recorder {
    /// Begins a log.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(path: &Path, share: u32) -> std::io::Result<Self> {
        Ok(Self { share, to: BufWriter::new(File::create(path)?), failed: None })
    }

    fn put(&mut self, entry: &Entry) {
        if self.failed.is_some() {
            return;
        }
        let line = serde_json::to_string(entry).map_err(std::io::Error::other);
        self.failed = line.and_then(|line| writeln!(self.to, "{line}")).err();
    }

    #[allow(clippy::too_many_arguments)]
    pub(crate) fn begin(
        &mut self,
        layout: &FlatLayout,
        held: &Bitfield,
        partial: &[(PieceIndex, Vec<BlockIndex>)],
        options: &Options,
        id: NodeId,
        address: AddressKey,
        seed: [u8; 32],
        at: u64,
    ) {
        let files = layout.places().iter().map(|place| place.layout.length()).collect();
        let (held, partial, options) = (held.clone(), partial.to_vec(), options.clone());
        let begin = Begin { form: FORM, files, held, partial, options, id, address, seed, at };
        self.put(&Entry::Begin(Box::new(begin)));
    }

    pub(crate) fn event(&mut self, at: u64, event: &Event) {
        self.put(&Entry::Event { at, event: event.clone() });
    }

    pub(crate) fn actions(&mut self, actions: &[Action]) {
        if !actions.is_empty() {
            self.put(&Entry::Actions(actions.iter().map(|action| format!("{action:?}")).collect()));
        }
    }

    /// What went wrong, if anything did; everything is on disk otherwise.
    pub(crate) fn finish(mut self) -> Option<std::io::Error> {
        self.failed.take().or_else(|| self.to.flush().err())
    }
}

/// How much was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Events handed in.
    pub events: u64,
    /// Actions that came out as the log has them.
    pub actions: u64,
}

/// Feeds a log to a fresh engine.
///
/// # Errors
/// [`Error`]; [`Error::Differs`] where the same events gave other actions.
pub fn replay(path: &Path) -> Result<Replayed, Error> {
    let io = |source| Error::Io { path: path.display().to_string(), source };
    let mut from = BufReader::new(File::open(path).map_err(io)?);
    let mut replayed = Replayed::default();
    let mut swarm: Option<Swarm> = None;
    let mut wants: Vec<String> = Vec::new();
    for line in 1.. {
        let mut text = String::new();
        if std::io::Read::take(&mut from, LINE_MAX).read_line(&mut text).map_err(io)? == 0 {
            break;
        }
        let entry: Entry =
            serde_json::from_str(&text).map_err(|error| Error::Form { line, text: error.to_string() })?;
        let expected = match &entry {
            Entry::Actions(actions) => actions.as_slice(),
            _ => &[],
        };
        if wants != expected {
            return Err(Error::Differs { line, expected: format!("{expected:?}"), found: format!("{wants:?}") });
        }
        replayed.actions += wants.len() as u64;
        wants.clear();
        match entry {
            Entry::Begin(begin) => {
                swarm = Some(make(*begin, line)?);
            }
            Entry::Event { at, event } => {
                let Some(swarm) = swarm.as_mut() else {
                    return Err(Error::Form { line, text: "an event before the beginning".into() });
                };
                replayed.events += 1;
                swarm.handle(Uptime::from_micros(at), event);
                wants.extend(std::iter::from_fn(|| swarm.poll_action()).map(|action| format!("{action:?}")));
            }
            Entry::Actions(_) => {}
        }
    }
    if wants.is_empty() {
        return Ok(replayed);
    }
    Err(Error::Differs { line: 0, expected: "its end".into(), found: format!("{wants:?}") })
}

fn make(begin: Begin, line: u64) -> Result<Swarm, Error> {
    if begin.form != FORM {
        let text = format!("a log of form {}; this program knows form {FORM}", begin.form);
        return Err(Error::Form { line, text });
    }
    let Ok(Some(layout)) = FlatLayout::new(begin.files.iter().copied()) else {
        return Err(Error::Form { line, text: "no files of such lengths may be".into() });
    };
    let at = Uptime::from_micros(begin.at);
    let Begin { held, partial, options, id, address, seed, .. } = begin;
    Ok(Swarm::new(Arc::new(layout), held, partial, options, id, address, seed, at)?)
}
