//! The demo's web server, in a process of its own: it answers on stdout how many bytes have left it.

use std::io::{BufRead, Write};
use std::path::Path;

use crate::cli::error::CliError;
use crate::content::code::Code;
use crate::drivers::origin::{Options, Origin};

/// Serves `root` on a free port of loopback until stdin ends. First line on stdout: HOST:PORT; then, for every line on
/// stdin, the body bytes sent so far.
pub(super) fn serve(root: &Path) -> Result<(), CliError> {
    let failed = |error: &dyn std::fmt::Display| CliError::new(Code::Io, format!("the origin cannot serve: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    runtime.block_on(async {
        let listen = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let options = Options { listen, root: root.to_owned(), rate_bytes_max: None };
        let origin = Origin::start(options).await.map_err(|e| failed(&e))?;
        println!("{}", origin.local_addr());
        std::io::stdout().flush().map_err(|e| failed(&e))?;
        let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                if line.is_err() || tell.send(()).is_err() {
                    return;
                }
            }
        });
        while asked.recv().await.is_some() {
            let counts = origin.counts();
            println!("{}", counts.bytes_sent);
            std::io::stdout().flush().map_err(|e| failed(&e))?;
        }
        Ok(())
    })
}
