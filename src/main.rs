//! Arguments in, exit code out.

use std::process::ExitCode;

fn main() -> ExitCode {
    // libp2p's TLS would write every session's secrets to the file this names; no service environment may ask for that.
    // SAFETY: no other thread exists yet that could read the environment meanwhile.
    unsafe { std::env::remove_var("SSLKEYLOGFILE") };
    piecework::cli::run(std::env::args_os())
}
