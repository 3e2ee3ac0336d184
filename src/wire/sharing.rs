//! Which contents take a part of the budget of their site's line. No name and no id of a content is told, only a word that
//! those know it by who know its topic.

use crate::content::hash::Topic;
use crate::wire::error::Error;
use crate::wire::limits::{SHARING_COUNT_MAX, SHARING_WORD_BYTES};
use crate::wire::message::{Frame, check_range};
use crate::wire::schema;

/// A content among those that share a line.
pub type SharingWord = [u8; SHARING_WORD_BYTES];

/// The word of a content, by the topic under which it is asked for.
pub fn sharing_word(topic: &Topic) -> SharingWord {
    let mut word = [0; SHARING_WORD_BYTES];
    let mut hasher = blake3::Hasher::new_derive_key("piecework line v1");
    hasher.update(topic.as_bytes());
    hasher.finalize_xof().fill(&mut word);
    word
}

/// What a node that lacks `own` contents divides the budget by for each of them, where the words of the site are `all` together,
/// its own that it tells of included: however many it lacks, they have the parts of those that it tells of. `own` of 0 counts as 1.
pub fn line_divisor(all: usize, own: usize) -> u32 {
    let own = own.max(1);
    u32::try_from(all.saturating_mul(own).div_ceil(own.min(SHARING_COUNT_MAX))).unwrap_or(u32::MAX)
}

pub(crate) fn sharing(message: schema::Sharing) -> Result<Frame, Error> {
    let words = message.contents;
    check_range("Sharing.contents", words.len() as u64, 0, SHARING_COUNT_MAX as u64)?;
    let word = |word: Vec<u8>| {
        let found = word.len();
        word.try_into().map_err(|_| Error::Length { field: "Sharing.contents", expected: "8", found })
    };
    Ok(Frame::Sharing { contents: words.into_iter().map(word).collect::<Result<_, _>>()? })
}
