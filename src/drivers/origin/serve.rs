//! One request, one answer.

use std::fs::{File, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, IF_RANGE, LAST_MODIFIED,
    RANGE,
};
use hyper::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;

use crate::drivers::origin::Tally;
use crate::drivers::origin::file_body::{Throttle, file_body};
use crate::drivers::origin::range::{Asked, parse_range};

/// Body of every answer.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, io::Error>;

/// What is served.
#[derive(Debug)]
pub(crate) enum Root {
    /// The files of a folder, by its real path.
    Folder(PathBuf),
    /// One file, under its name.
    File { name: String, path: PathBuf },
}

impl Root {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let real = path.canonicalize()?;
        if real.is_dir() {
            return Ok(Self::Folder(real));
        }
        // The name as given, not that of what a symlink leads to.
        let name = path.file_name().or(real.file_name()).and_then(|name| name.to_str());
        let name = name.ok_or_else(|| io::Error::other("its name is not UTF-8"))?.to_owned();
        Ok(Self::File { name, path: real })
    }

    /// The real path of what a decoded request path names; `None` where it names nothing here. Symlinks are followed
    /// within the folder and not out of it.
    fn find(&self, below: &str) -> Option<PathBuf> {
        match self {
            Self::File { name, path } => (name == below).then(|| path.clone()),
            Self::Folder(folder) => {
                let plain =
                    |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(|c| c.is_control() || c == '\\');
                if !below.split('/').all(plain) {
                    return None;
                }
                folder.join(below).canonicalize().ok().filter(|real| real.starts_with(folder))
            }
        }
    }
}

/// Answers a request.
pub(crate) async fn respond(
    request: &Request<Incoming>,
    root: &Arc<Root>,
    throttle: Arc<Throttle>,
    tally: Arc<Tally>,
) -> Response<AnswerBody> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED);
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let Some(path) = decoded_path(request.uri().path()) else {
        return plain(StatusCode::BAD_REQUEST);
    };
    let (root, below) = (Arc::clone(root), path.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let real = root.find(&below)?;
        // Looked at first: opening a pipe would wait for its other end.
        if !real.metadata().ok()?.is_file() {
            return None;
        }
        let file = File::open(real).ok()?;
        let metadata = file.metadata().ok()?;
        Some((file, metadata))
    });
    let Some((file, metadata)) = opened.await.ok().flatten() else {
        return plain(StatusCode::NOT_FOUND);
    };
    file_answer(request, file, &metadata, path, throttle, tally)
}

fn file_answer(
    request: &Request<Incoming>,
    file: File,
    metadata: &Metadata,
    path: String,
    throttle: Arc<Throttle>,
    tally: Arc<Tally>,
) -> Response<AnswerBody> {
    let length = metadata.len();
    let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
    let (tag, date) = (entity_tag(length, modified), http_date(modified));
    let fresh = request
        .headers()
        .get(IF_RANGE)
        .is_none_or(|condition| condition.as_bytes() == tag.as_bytes() || condition.as_bytes() == date.as_bytes());
    let asked = match request.headers().get(RANGE).filter(|_| fresh) {
        Some(range) => parse_range(range.as_bytes(), length),
        None => Asked::Whole,
    };
    let (status, first, count) = match asked {
        Asked::Whole => (StatusCode::OK, 0, length),
        // `last` lies within the file, so neither the difference nor the sum overflows.
        Asked::Part { first, last } => {
            (StatusCode::PARTIAL_CONTENT, first, last.saturating_sub(first).saturating_add(1))
        }
        Asked::Unsatisfiable => {
            let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            set(&mut answer, CONTENT_RANGE, format!("bytes */{length}"));
            return answer;
        }
    };
    tally.count_path(&path, 1, 0);
    let body = if *request.method() == Method::HEAD {
        Empty::new().map_err(|never| match never {}).boxed_unsync()
    } else {
        BodyExt::boxed_unsync(StreamBody::new(file_body(file, first, count, path, throttle, tally)))
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    set(&mut answer, CONTENT_LENGTH, count.to_string());
    set(&mut answer, CONTENT_TYPE, "application/octet-stream".to_owned());
    set(&mut answer, ACCEPT_RANGES, "bytes".to_owned());
    set(&mut answer, ETAG, tag);
    set(&mut answer, LAST_MODIFIED, date);
    if status == StatusCode::PARTIAL_CONTENT {
        let last = first.saturating_add(count).saturating_sub(1);
        set(&mut answer, CONTENT_RANGE, format!("bytes {first}-{last}/{length}"));
    }
    answer
}

fn set(answer: &mut Response<AnswerBody>, name: hyper::header::HeaderName, value: String) {
    let value = HeaderValue::try_from(value).expect("digits, tags and dates are header values");
    answer.headers_mut().insert(name, value);
}

/// An answer that is its status.
fn plain(status: StatusCode) -> Response<AnswerBody> {
    let text = format!("{status}\n");
    let mut answer = Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

/// A request path without its leading `/`, percent-decoded once.
fn decoded_path(path: &str) -> Option<String> {
    percent_decode_str(path.strip_prefix('/')?).decode_utf8().ok().map(|path| path.into_owned())
}

/// A strong tag: a file that is replaced or changed has another length or time.
fn entity_tag(length: u64, modified: SystemTime) -> String {
    let nanoseconds = modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    format!("\"{length:x}-{nanoseconds:x}\"")
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(moment: SystemTime) -> String {
    let at = OffsetDateTime::from(moment);
    let (weekday, month) = (at.weekday().to_string(), at.month().to_string());
    format!(
        "{weekday:.3}, {:02} {month:.3} {:04} {:02}:{:02}:{:02} GMT",
        at.day(),
        at.year(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_written_as_the_rfc_shows_them() {
        let moment = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(http_date(moment), "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn paths_do_not_leave_the_folder() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).expect("created");
        std::fs::write(folder.path().join("secret"), b"s").expect("written");
        std::fs::write(inside.join("file"), b"f").expect("written");
        std::os::unix::fs::symlink("../secret", inside.join("out")).expect("linked");
        std::os::unix::fs::symlink("file", inside.join("in")).expect("linked");
        let root = Root::open(&inside).expect("a folder");
        assert!(root.find("file").is_some() && root.find("in").is_some());
        for path in
            ["../secret", "out", "/file", "./file", "file/", "", "..", "a/../file", "file\0", "..\\secret", "no"]
        {
            assert!(root.find(path).is_none(), "{path:?}");
        }
        let one = Root::open(&inside.join("file")).expect("a file");
        assert!(one.find("file").is_some() && one.find("in").is_none());
    }
}
