//! The closed list of code words by which piecework refuses or fails, and the exit code of each.
//!
//! Scripts rely on both. `docs/refusals.md` explains every word; a test keeps the two lists equal.

use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $exit:literal;)*) => {
        /// Why something was refused or failed. Closed: every refusal of the program is one of these.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code, in the order of their exit codes.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The stable code word.
            pub const fn word(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// The exit code, as in sysexits.h.
            pub const fn exit_code(self) -> u8 {
                match self { $(Code::$name => $exit,)* }
            }
        }
    };
}

codes! {
    /// The command line is wrong.
    Usage = "usage", 64;
    /// A manifest or envelope does not parse, or breaks a rule of its format.
    BadManifest = "bad_manifest", 65;
    /// A signature does not fit the bytes: the manifest was tampered with.
    BadSignature = "bad_signature", 65;
    /// A file is shorter or longer than its manifest says.
    WrongLength = "wrong_length", 65;
    /// A file's bytes are not those of its manifest.
    ContentMismatch = "content_mismatch", 65;
    /// Every source and peer was tried; what they hold is not what the manifest describes.
    SourceChanged = "source_changed", 65;
    /// A manifest names a path that is not safe below the destination.
    UnsafePath = "unsafe_path", 65;
    /// A key file, a trust store or a link does not parse.
    BadInput = "bad_input", 65;
    /// A durable bit without the right bytes, or books that do not close.
    StoreDamaged = "store_damaged", 65;
    /// A file or folder named on the command line is not there, or not readable.
    InputMissing = "input_missing", 66;
    /// Nobody who could deliver was found or reachable in time.
    NoSource = "no_source", 69;
    /// No daemon answers on the control socket.
    NoDaemon = "no_daemon", 69;
    /// The listening port is taken by another program.
    PortTaken = "port_taken", 71;
    /// The system refused a resource: descriptors, threads, sockets.
    ResourceRefused = "resource_refused", 71;
    /// The destination holds something else; `--force` replaces it.
    DestinationExists = "destination_exists", 73;
    /// A file or folder cannot be created.
    CannotCreate = "cannot_create", 73;
    /// Reading or writing failed.
    Io = "io", 74;
    /// No space, or the file size limit is reached.
    DiskFull = "disk_full", 74;
    /// Another process holds the lock.
    Locked = "locked", 75;
    /// Stopped by a signal; what was verified is kept.
    Interrupted = "interrupted", 75;
    /// The other end breaks the protocol.
    Protocol = "protocol", 76;
    /// No trusted publisher signed it.
    UnknownPublisher = "unknown_publisher", 77;
    /// Fewer distinct keys signed than the publisher's threshold asks for.
    ThresholdNotMet = "threshold_not_met", 77;
    /// The publisher is not trusted for this name.
    NameNotAllowed = "name_not_allowed", 77;
    /// The manifest is past its expiry, or older than policy allows.
    Expired = "expired", 77;
    /// An older publication than one already seen of this name.
    Rollback = "rollback", 77;
    /// A source's address is outside what trust or policy allows.
    OriginNotAllowed = "origin_not_allowed", 77;
    /// A policy forbids it.
    Policy = "policy", 77;
    /// A configuration file or environment variable is wrong.
    BadConfig = "bad_config", 78;
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_distinct_and_exit_codes_are_of_sysexits() {
        let mut words: Vec<_> = Code::ALL.iter().map(|code| code.word()).collect();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| (64..=78).contains(&code.exit_code())));
    }
}
