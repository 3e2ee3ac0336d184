//! The commands that ask the daemon: tables for people, the daemon's own JSON for scripts.

use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{daemon, output, setup};

/// Most pages of the cache that one command reads: a million entries.
const PAGES_MAX: usize = 2000;
/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Arguments of commands that only show something.
#[derive(Debug, Args)]
pub struct Show {
    /// The daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `piecework status`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  piecework status\n  piecework status --watch\n  piecework status --json | jq .totals"
)]
pub struct Status {
    /// The daemon's answer as JSON; with --watch, one object a line
    #[arg(long)]
    json: bool,
    /// Shows it anew every second, until interrupted
    #[arg(long)]
    watch: bool,
}

/// Arguments of `piecework peers`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework peers")]
pub struct Peers {
    #[command(flatten)]
    show: Show,
}

/// Arguments of `piecework perf`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework perf --json")]
pub struct Perf {
    #[command(flatten)]
    show: Show,
}

/// Arguments of `piecework pause`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework pause\n\nDownloads stand still until\n\
    `piecework resume`, over restarts of the daemon too. Serving goes on.")]
pub struct Pause {
    #[command(flatten)]
    show: Show,
}

/// Arguments of `piecework resume`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework resume")]
pub struct Resume {
    #[command(flatten)]
    show: Show,
}

/// `piecework cache ...`
#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Lists what the daemon's cache holds
    #[command(after_help = "Example:\n  piecework cache list")]
    List(Show),
}

impl Status {
    /// Runs it.
    ///
    /// # Errors
    /// No daemon answers, or it refuses.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let client = daemon::find(context)?;
        setup::runtime()?.block_on(async {
            let mut interrupted = Box::pin(setup::interrupted()?);
            loop {
                let status = client.get("/v1/status").await?;
                match (self.json, self.watch) {
                    (true, _) => output::json(&status)?,
                    (false, true) => output::text(&format!("\x1b[H\x1b[J{}", status_text(&status)))?,
                    (false, false) => output::text(&status_text(&status))?,
                }
                if !self.watch {
                    return Ok(());
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH_EVERY) => {}
                    () = &mut interrupted => return Ok(()),
                }
            }
        })
    }
}

impl Peers {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`].
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let peers = daemon::ask(context, |client| async move { client.get("/v1/peers").await })?;
        if self.show.json {
            return output::json(&peers);
        }
        let mut table = table(&["PEER", "ADDRESS", "SCOPE", "PATH", "DIALLED", "RTT", "RECEIVED", "SENT", "PROGRAM"]);
        for peer in rows(&peers) {
            let dialled = if peer["inbound"].as_bool() == Some(true) { "by it" } else { "by us" };
            let round_trip = format!("{:.1} ms", peer["round_trip_seconds"].as_f64().unwrap_or(0.0) * 1000.0);
            let (received, sent) = (size(peer, "bytes_received"), size(peer, "bytes_sent"));
            let (id, address) = (text(peer, "peer_id"), text(peer, "address"));
            table.add_row([
                id,
                address,
                text(peer, "scope"),
                text(peer, "path"),
                dialled.into(),
                round_trip,
                received,
                sent,
                text(peer, "agent"),
            ]);
        }
        right(&mut table, &[5, 6, 7]);
        output::text(&format!("{table}\n"))
    }
}

impl Perf {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`].
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let perf = daemon::ask(context, |client| async move { client.get("/v1/perf").await })?;
        if self.show.json {
            return output::json(&perf);
        }
        let mut table = table(&[]);
        for (label, value) in [
            ("up", output::duration(Duration::from_secs(number(&perf, "uptime_seconds")))),
            ("processor time", format!("{:.1} s", perf["cpu_seconds"].as_f64().unwrap_or(0.0))),
            ("resident memory", size(&perf, "resident_bytes")),
            ("descriptors", number(&perf, "descriptors").to_string()),
            ("contents in the cache", number(&perf, "contents").to_string()),
            ("contents open", number(&perf, "shares_open").to_string()),
            ("peers", number(&perf, "peer_count").to_string()),
            ("downloads", number(&perf, "downloads").to_string()),
            ("free on the cache's disk", size(&perf, "disk_free_bytes")),
            ("from peers", size(&perf["totals"], "bytes_from_peers")),
            ("over HTTP", size(&perf["totals"], "bytes_from_http")),
            ("to peers", size(&perf["totals"], "bytes_to_peers")),
            ("received in vain", size(&perf["totals"], "bytes_wasted")),
        ] {
            table.add_row([label.to_owned(), value]);
        }
        right(&mut table, &[1]);
        output::text(&format!("{table}\n"))
    }
}

impl Pause {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`]; the caller is neither the daemon's user nor root.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let answer = daemon::ask(context, |client| async move { client.post("/v1/pause", None).await })?;
        told(self.show.json, &answer, "downloads are paused; serving goes on")
    }
}

impl Resume {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Pause::run`].
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let answer = daemon::ask(context, |client| async move { client.post("/v1/resume", None).await })?;
        told(self.show.json, &answer, "downloads go on")
    }
}

impl Cache {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`].
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let Cache::List(show) = self;
        let entries = daemon::ask(context, |client| async move {
            let mut entries = Vec::new();
            let mut path = "/v1/cache".to_owned();
            for _ in 0..PAGES_MAX {
                let page = client.get(&path).await?;
                entries.extend(rows(&page["entries"]).cloned());
                let Some(next) = page["next"].as_str() else { break };
                path = format!("/v1/cache?after={next}");
            }
            Ok(Value::Array(entries))
        })?;
        if show.json {
            return output::json(&entries);
        }
        let mut table = table(&["MANIFEST", "NAME", "SIZE", "ON DISK"]);
        for entry in rows(&entries) {
            let name = if entry["readable"].as_bool() == Some(true) { text(entry, "name") } else { "(damaged)".into() };
            table.add_row([text(entry, "manifest_id"), name, size(entry, "bytes_total"), size(entry, "bytes_on_disk")]);
        }
        right(&mut table, &[2, 3]);
        output::text(&format!("{table}\n"))
    }
}

fn told(json: bool, answer: &Value, sentence: &str) -> Result<(), CliError> {
    if json { output::json(answer) } else { output::line(sentence) }
}

fn status_text(status: &Value) -> String {
    let totals = &status["totals"];
    let paused = if status["paused"].as_bool() == Some(true) { ", downloads paused" } else { "" };
    let up = output::duration(Duration::from_secs(number(status, "uptime_seconds")));
    let mut table = table(&["NO", "NAME", "STATUS", "HELD", "OF", "PEERS", "FROM PEERS", "HTTP", "WASTED"]);
    for download in rows(&status["downloads"]) {
        let name = match text(download, "name") {
            name if name.is_empty() => text(download, "wanted"),
            name => name,
        };
        let status = match download["code"].as_str() {
            Some(code) => format!("{}: {}", text(download, "status"), output::plain(code)),
            None => text(download, "status"),
        };
        let (no, peers) = (number(download, "number").to_string(), number(download, "peers").to_string());
        let sizes = ["bytes_held", "bytes_total"].map(|key| size(download, key));
        let [held, total] = sizes;
        let [from, http, wasted] =
            ["bytes_from_peers", "bytes_from_http", "bytes_wasted"].map(|key| size(download, key));
        table.add_row([no, name, status, held, total, peers, from, http, wasted]);
    }
    right(&mut table, &[0, 3, 4, 5, 6, 7, 8]);
    format!(
        "piecework {}, mode {}, up {up}, {} peers{paused}\nfrom peers {}, over HTTP {}, to peers {}, in vain {}\n{table}\n",
        text(status, "version"),
        text(status, "mode"),
        number(status, "peer_count"),
        size(totals, "bytes_from_peers"),
        size(totals, "bytes_from_http"),
        size(totals, "bytes_to_peers"),
        size(totals, "bytes_wasted"),
    )
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.to_vec());
    }
    table
}

fn right(table: &mut Table, columns: &[usize]) {
    for column in columns {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text of the daemon's, much of which strangers chose.
fn text(value: &Value, key: &str) -> String {
    output::plain(value[key].as_str().unwrap_or_default()).into_owned()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

fn size(value: &Value, key: &str) -> String {
    value[key].as_u64().map_or_else(|| "-".to_owned(), output::bytes)
}
