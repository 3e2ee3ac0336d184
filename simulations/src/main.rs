//! `piecework-sim`: runs scenarios and says what came of them.

use std::process::ExitCode;

fn main() -> ExitCode {
    piecework_sim::cli::main()
}
