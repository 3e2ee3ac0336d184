//! The web server of docker-compose.yml: serves one file or folder by plain HTTP until it is told to end, then says what left
//! it. `origin IP:PORT PATH`.

use std::process::ExitCode;

use piecework::drivers::origin::{Options, Origin};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, root] = arguments.as_slice() else {
        eprintln!("usage: origin IP:PORT PATH");
        return ExitCode::from(64);
    };
    match serve(listen, root).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("origin: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(listen: &str, root: &str) -> Result<(), Box<dyn std::error::Error>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let options = Options { listen: listen.parse()?, root: root.into(), rate_bytes_max: None };
    let origin = Origin::start(options).await?;
    println!("serving {root} at http://{}", origin.local_addr());
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let counts = origin.counts();
    println!("{} bytes left in {} requests", counts.bytes_sent, counts.requests);
    Ok(())
}
