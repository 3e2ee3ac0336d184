//! What is said at a rendezvous: who else is of a scope. A scope is a group's word, and nothing is said of contents.

use std::time::Duration;

use crate::wire::error::Error;
use crate::wire::limits::*;
use crate::wire::member::{Member, member, member_message};
use crate::wire::message::{Frame, check_range};
use crate::wire::schema;

/// The word under which members of a group meet; `group_key` is what topics are derived with too, empty outside groups.
pub fn scope_word(group_key: &[u8]) -> [u8; SCOPE_BYTES] {
    blake3::derive_key("piecework rendezvous v1", group_key)
}

pub(crate) fn meet(message: schema::Meet) -> Result<Frame, Error> {
    Ok(Frame::Meet { scope: scope("Meet.scope", message.scope)? })
}

pub(crate) fn met(message: schema::Met) -> Result<Frame, Error> {
    let schema::Met { scope: word, lease_seconds, members } = message;
    let scope = scope("Met.scope", word)?;
    check_range("Met.lease_seconds", lease_seconds.into(), 0, MET_LEASE_SECONDS_MAX.into())?;
    check_range("Met.members", members.len() as u64, 0, MEMBERS_COUNT_MAX as u64)?;
    let members = members.into_iter().map(member).collect::<Result<_, _>>()?;
    Ok(Frame::Met { scope, lease: Duration::from_secs(lease_seconds.into()), members })
}

pub(crate) fn met_message(scope: &[u8; SCOPE_BYTES], lease: Duration, members: Vec<Member>) -> schema::Met {
    let lease_seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX).min(MET_LEASE_SECONDS_MAX);
    schema::Met { scope: scope.to_vec(), lease_seconds, members: members.into_iter().map(member_message).collect() }
}

fn scope(field: &'static str, word: Vec<u8>) -> Result<[u8; SCOPE_BYTES], Error> {
    let found = word.len();
    word.try_into().map_err(|_| Error::Length { field, expected: "32", found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_meet_under_words_of_their_own() {
        assert_ne!(scope_word(b"a"), scope_word(b"b"));
        assert_ne!(scope_word(b""), [0; SCOPE_BYTES]);
    }
}
