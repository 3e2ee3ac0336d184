//! `piecework seed`: serve one publication where it lies.

use std::path::PathBuf;

use clap::Args;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::output;
use crate::cli::setup::{self, PeerArguments};
use crate::content::code::Code;
use crate::policy::Mode;
use crate::programs::peer::seed::{self, Request};
use crate::services::node::{Company, Group};

/// Arguments of `piecework seed`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  piecework seed app.iso --manifest app.piecework\n  \
    piecework seed ./release --manifest release.piecework --listen 192.168.1.5:7680\n\n\
    Prints one full multiaddress a line, then serves until SIGINT or SIGTERM. The files are never copied or changed.")]
pub struct Arguments {
    /// The file or folder that was published.
    path: PathBuf,
    /// Its manifest.
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    #[command(flatten)]
    peers: PeerArguments,
}

impl Arguments {
    /// Runs it.
    ///
    /// # Errors
    /// As [`seed::start`]; the mode is `group`, and nothing says which.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        run(context, &self)
    }
}

fn run(context: &Context, args: &Arguments) -> Result<(), CliError> {
    let settings = setup::load(context, &args.peers)?;
    if settings.settings.policy.download_mode == Mode::Group && settings.company.group == Group::default() {
        // Outside its group, and without its secret, it would be served to everybody.
        let reason = settings.distrust.unwrap_or_default();
        return Err(CliError::new(Code::Policy, format!("whose contents are shared is not known: {reason}"))
            .remedy("set group_id, or serve it in another --mode"));
    }
    let request = Request {
        path: args.path.clone(),
        manifest: args.manifest.clone(),
        listen: settings.listen.clone(),
        company: match &settings.distrust {
            // Somebody serves it on purpose: to those who are told, and under a name of its own.
            Some(_) => {
                Company { peers: true, discover: false, far: None, rendezvous: Vec::new(), ..settings.company.clone() }
            }
            None => settings.company.clone(),
        },
        incognito: settings.distrust.is_some(),
        disk_threads: settings.disk_threads,
        site: settings.site,
        swarm: settings.swarm.clone(),
        path_preference: settings.path,
        rates: settings.rates,
        machine: settings.machine.clone(),
    };
    setup::runtime()?.block_on(async {
        let interrupted = setup::interrupted()?;
        if let Some(reason) = &settings.distrust {
            context.note(&format!("not announced, and under an identity of its own: {reason}"));
        }
        let incognito = request.incognito;
        let running = seed::start(request, &settings.state).await?;
        if running.fresh_identity && !incognito {
            let folder = settings.state.path().display();
            context.note(&format!("another process uses {folder}; this one serves under an identity of its own"));
        }
        for address in running.node.listening() {
            output::line(&address.to_string())?;
        }
        interrupted.await;
        running.node.stop().await;
        Ok(())
    })
}
