//! Which caller may do what. On the socket the kernel says who calls, and its mode (0660) decides who may call at all; on
//! TCP, `tcp` does.

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;

use crate::surfaces::control::descriptor::Outgoing;
use crate::surfaces::control::socket::Bounded;

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// This effective user, as the kernel had it when the connection was made (`unix(7)`, `SO_PEERCRED`), or the daemon's
    /// own for whoever has the token.
    User(u32),
    /// A browser with a session.
    Browser,
    /// The kernel does not tell.
    Nobody,
}

/// What a route asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// A browser with a session too.
    Look,
    /// Whoever may connect to the socket: the daemon's user, root, and members of the socket's group.
    Member,
    /// The daemon's own user, and root.
    Owner,
}

impl Caller {
    /// The user, where there is one.
    pub fn uid(self) -> Option<u32> {
        match self {
            Caller::User(uid) => Some(uid),
            Caller::Browser | Caller::Nobody => None,
        }
    }

    /// Whether this caller is the daemon's own user `own`, or root.
    pub fn is_owner(self, own: u32) -> bool {
        self.uid().is_some_and(|uid| uid == 0 || uid == own)
    }

    /// Whether this caller may use a route, given the daemon's own user.
    pub fn may(self, right: Right, own: u32) -> bool {
        match right {
            Right::Look => self != Caller::Nobody,
            Right::Member => self.uid().is_some(),
            Right::Owner => self.is_owner(own),
        }
    }
}

/// The connection that a request came by.
#[derive(Clone)]
pub(super) struct Connection {
    /// Who is at its other end.
    pub caller: Caller,
    /// What leaves with the next bytes; `None` where no open file can.
    pub outgoing: Option<Outgoing>,
}

impl Connected<IncomingStream<'_, Bounded>> for Connection {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Self {
        let caller = stream.io().uid().map_or(Caller::Nobody, Caller::User);
        Self { caller, outgoing: Some(stream.io().outgoing()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_read_and_fetch_and_only_the_owner_and_root_steer() {
        use Right::{Look, Member, Owner};
        for (caller, rights) in [
            (Caller::User(1000), [(Look, true), (Member, true), (Owner, false)]),
            (Caller::User(997), [(Look, true), (Member, true), (Owner, true)]),
            (Caller::User(0), [(Look, true), (Member, true), (Owner, true)]),
            (Caller::Browser, [(Look, true), (Member, false), (Owner, false)]),
            (Caller::Nobody, [(Look, false), (Member, false), (Owner, false)]),
        ] {
            for (right, allowed) in rights {
                assert_eq!(caller.may(right, 997), allowed, "{caller:?} {right:?}");
            }
        }
    }
}
