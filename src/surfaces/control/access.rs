//! Which caller may do what. The kernel says who calls; the socket's mode (0660) decides who may call at all.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;

use crate::surfaces::control::descriptor::Outgoing;
use crate::surfaces::control::socket::Bounded;

/// Who is at the other end, as the kernel had it when the connection was made (`unix(7)`, `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its effective user; `None` where the kernel does not tell.
    pub uid: Option<u32>,
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Whoever may connect: the daemon's user, root, and members of the socket's group.
    Member,
    /// The daemon's own user, and root.
    Owner,
}

impl Caller {
    /// Whether this caller is the daemon's own user `own`, or root.
    pub fn is_owner(self, own: u32) -> bool {
        self.uid.is_some_and(|uid| uid == 0 || uid == own)
    }

    /// Whether this caller may use a route, given the daemon's own user.
    pub fn may(self, right: Right, own: u32) -> bool {
        match right {
            Right::Member => self.uid.is_some(),
            Right::Owner => self.is_owner(own),
        }
    }
}

/// The connection that a request came by.
#[derive(Clone)]
pub(super) struct Connection {
    /// Who is at its other end.
    pub caller: Caller,
    /// What leaves with the next bytes.
    pub outgoing: Outgoing,
}

impl Connected<IncomingStream<'_, Bounded>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        Self { caller: Caller { uid: stream.io().uid() }, outgoing: stream.io().outgoing() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_and_fetch_and_only_the_owner_and_root_steer() {
        for (uid, right, allowed) in [
            (Some(1000), Right::Member, true),
            (Some(1000), Right::Owner, false),
            (Some(997), Right::Owner, true),
            (Some(0), Right::Owner, true),
            (None, Right::Member, false),
            (None, Right::Owner, false),
        ] {
            assert_eq!(Caller { uid }.may(right, 997), allowed, "{uid:?} {right:?}");
        }
    }
}
