//! The commands that ask the daemon: tables for people, the daemon's own JSON for scripts.

use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, Table, presets};
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{daemon, output, setup};
use crate::content::code::Code;
use crate::surfaces::control::{Client, Error};

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

/// Arguments of `piecework dashboard`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework dashboard\n\nThe URL is good for one browser and two minutes. \
    The daemon serves the page where [control] listen names\nan address, such as 127.0.0.1:7681.")]
pub struct Dashboard {
    #[command(flatten)]
    show: Show,
}

/// Arguments of `piecework pause`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework pause\n\nDownloads stand still until\n\
    `piecework resume`, over restarts of the daemon too. Serving goes on.\n\n  piecework pause --sleep\n\n\
    tells peers that this machine is about to sleep, and ends when they know, so that they take over at once.")]
pub struct Pause {
    /// The machine is about to sleep: no peers until it has, or `resume --sleep`, or for half a minute
    #[arg(long)]
    sleep: bool,
    #[command(flatten)]
    show: Show,
}

/// Arguments of `piecework resume`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  piecework resume")]
pub struct Resume {
    /// The machine woke, or will not sleep after all
    #[arg(long)]
    sleep: bool,
    #[command(flatten)]
    show: Show,
}

/// Arguments of `piecework mode`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  piecework mode\n  piecework mode http-only\n  piecework mode --configured\n\n\
    Another mode holds at once, while downloads go on, until the daemon ends; SIGHUP leaves it. Peers that it\n\
    does not allow are parted with.")]
pub struct Mode {
    /// The mode to take: http-only, lan, group, simple or bypass; none: shows the one that holds
    #[arg(value_name = "MODE", conflicts_with = "configured")]
    mode: Option<String>,
    /// Back to what the configuration says
    #[arg(long)]
    configured: bool,
    #[command(flatten)]
    show: Show,
}

/// `piecework cache ...`
#[derive(Debug, Subcommand)]
pub enum Cache {
    /// Lists what the daemon's cache holds
    #[command(after_help = "Example:\n  piecework cache list")]
    List(Show),
    /// Keeps a content, whatever the limits
    #[command(after_help = "Example:\n  piecework cache pin acme/base-image")]
    Pin(Chosen),
    /// Lets a content go when its time has come
    #[command(after_help = "Example:\n  piecework cache unpin acme/base-image")]
    Unpin(Chosen),
    /// Removes a content that no download wants, pinned or not
    #[command(after_help = "Example:\n  piecework cache remove acme/base-image")]
    Remove(Chosen),
    /// Hashes every piece of a content again; wrong ones are dropped
    #[command(
        after_help = "Example:\n  piecework cache verify acme/base-image\n\nExit code 0 only if every byte is there and right."
    )]
    Verify(Chosen),
    /// Evicts now what is over the limits or has not been of use for too long
    #[command(after_help = "Examples:\n  piecework cache expire\n  piecework cache expire --unused 86400")]
    Expire(Expire),
    /// Removes everything that is neither pinned nor wanted
    #[command(after_help = "Example:\n  piecework cache clear")]
    Clear(Show),
}

/// One content of the cache.
#[derive(Debug, Args)]
pub struct Chosen {
    /// Its manifest id, the beginning of it, or its name
    #[arg(value_name = "ID|NAME")]
    content: String,
    #[command(flatten)]
    show: Show,
}

/// Arguments of `cache expire`.
#[derive(Debug, Args)]
pub struct Expire {
    /// Seconds without use after which a content goes, instead of max_cache_age
    #[arg(long, value_name = "S")]
    unused: Option<u64>,
    #[command(flatten)]
    show: Show,
}

/// Arguments of `piecework log`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  piecework log\n  piecework log -n 1000 --json")]
pub struct Log {
    /// How many records, the newest
    #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
    count: usize,
    #[command(flatten)]
    show: Show,
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
        let mut table = table(&["PEER", "ADDRESS", "SCOPE", "PATH", "FOUND BY", "RTT", "RECEIVED", "SENT", "PROGRAM"]);
        for peer in rows(&peers) {
            let found =
                if peer["inbound"].as_bool() == Some(true) { "it dialled".to_owned() } else { text(peer, "found_by") };
            let round_trip = format!("{:.1} ms", peer["round_trip_seconds"].as_f64().unwrap_or(0.0) * 1000.0);
            let (received, sent) = (size(peer, "bytes_received"), size(peer, "bytes_sent"));
            let (id, address) = (text(peer, "peer_id"), text(peer, "address"));
            table.add_row([
                id,
                address,
                text(peer, "scope"),
                text(peer, "path"),
                found,
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
        let month = &perf["month"];
        for (label, keys) in [
            ("this month, from the LAN", &["bytes_from_lan"][..]),
            ("this month, from farther peers", &["bytes_from_group", "bytes_from_internet"]),
            ("this month, over HTTP", &["bytes_from_http"]),
            ("this month, to the Internet", &["bytes_to_internet"]),
        ] {
            let bytes = keys.iter().fold(0u64, |sum, key| sum.saturating_add(number(month, key)));
            table.add_row([label.to_owned(), output::bytes(bytes)]);
        }
        for saved in rows(&perf["savings"]) {
            let label = match number(saved, "days") {
                1 => "saved by peers and cache hosts today".to_owned(),
                days => format!("saved by peers and cache hosts in {days} days"),
            };
            let percent = saved["percent"].as_f64().map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %"));
            table.add_row([label, percent]);
        }
        right(&mut table, &[1]);
        output::text(&format!("{table}\n"))
    }
}

impl Dashboard {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`]; the daemon serves no page.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let answer = daemon::ask(context, |client| async move { client.post("/v1/dashboard", None).await });
        let answer = answer.map_err(|error| match error.code() {
            Code::BadConfig => error.remedy("set [control] listen = \"127.0.0.1:7681\" and restart the daemon"),
            _ => error,
        })?;
        told(self.show.json, &answer, &text(&answer, "url"))
    }
}

impl Pause {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`]; the caller is neither the daemon's user nor root.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let (path, said) = match self.sleep {
            true => ("/v1/sleep", "peers know that this machine is about to sleep"),
            false => ("/v1/pause", "downloads are paused; serving goes on"),
        };
        let answer = daemon::ask(context, |client| async move { client.post(path, None).await })?;
        told(self.show.json, &answer, said)
    }
}

impl Mode {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`]; a mode that is none, or needs a group that is not set; to change it, the caller is neither the
    /// daemon's user nor root.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let answer = daemon::ask(context, |client| async move {
            match &self.mode {
                Some(mode) => client.post("/v1/mode", Some(&json!({ "mode": mode }))).await,
                None if self.configured => client.delete("/v1/mode").await,
                None => client.get("/v1/mode").await,
            }
        })?;
        let sentence = format!("{}, set by {}", text(&answer, "mode"), text(&answer, "provider"));
        told(self.show.json, &answer, &sentence)
    }
}

impl Resume {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Pause::run`].
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let (path, said) = match self.sleep {
            true => ("/v1/wake", "peers are looked for again"),
            false => ("/v1/resume", "downloads go on"),
        };
        let answer = daemon::ask(context, |client| async move { client.post(path, None).await })?;
        told(self.show.json, &answer, said)
    }
}

impl Cache {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`]; for what changes the cache, the caller is neither the daemon's user nor root.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Cache::List(show) => list(context, show.json),
            Cache::Pin(chosen) => {
                let answer = on_entry(context, &chosen, |client, id| async move {
                    client.post(&format!("/v1/cache/{id}/pin"), None).await
                })?;
                told(chosen.show.json, &answer, "pinned: it stays, whatever the limits")
            }
            Cache::Unpin(chosen) => {
                let answer = on_entry(context, &chosen, |client, id| async move {
                    client.delete(&format!("/v1/cache/{id}/pin")).await
                })?;
                told(chosen.show.json, &answer, "unpinned: the limits hold for it again")
            }
            Cache::Remove(chosen) => {
                let answer =
                    on_entry(
                        context,
                        &chosen,
                        |client, id| async move { client.delete(&format!("/v1/cache/{id}")).await },
                    )?;
                told(chosen.show.json, &answer, "removed")
            }
            Cache::Verify(chosen) => {
                let answer = on_entry(context, &chosen, |client, id| async move {
                    client.post(&format!("/v1/cache/{id}/verify"), None).await
                })?;
                verified(&answer, chosen.show.json)
            }
            Cache::Expire(expire) => {
                let body = json!({ "unused_seconds": expire.unused });
                let answer =
                    daemon::ask(context, |client| async move { client.post("/v1/cache/expire", Some(&body)).await })?;
                told(expire.show.json, &answer, &format!("{} contents evicted", rows(&answer["removed"]).count()))
            }
            Cache::Clear(show) => {
                let answer = daemon::ask(context, |client| async move { client.delete("/v1/cache").await })?;
                told(show.json, &answer, &format!("{} contents removed", rows(&answer["removed"]).count()))
            }
        }
    }
}

fn verified(answer: &Value, json: bool) -> Result<(), CliError> {
    let wrong = rows(&answer["wrong_pieces"]).count();
    let whole = answer["whole"].as_bool() == Some(true);
    let sentence = format!("{} pieces held, {wrong} wrong", number(answer, "pieces_held"));
    told(json, answer, &sentence)?;
    if whole {
        return Ok(());
    }
    let error =
        CliError::new(Code::StoreDamaged, "the content is not whole any more").culprit(text(answer, "manifest_id"));
    let error = error.remedy("get it again: only what is missing is fetched");
    Err(if json { error.reported() } else { error })
}

/// Everything that the cache lists.
async fn entries(client: &Client) -> Result<Vec<Value>, Error> {
    let mut entries = Vec::new();
    let mut path = "/v1/cache".to_owned();
    for _ in 0..PAGES_MAX {
        let page = client.get(&path).await?;
        entries.extend(rows(&page["entries"]).cloned());
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/cache?after={next}");
    }
    Ok(entries)
}

/// Finds the entry that is meant, and asks something about it.
fn on_entry<F: Future<Output = Result<Value, Error>>>(
    context: &Context,
    chosen: &Chosen,
    exchange: impl FnOnce(Client, String) -> F,
) -> Result<Value, CliError> {
    let client = daemon::find(context)?;
    setup::runtime()?.block_on(async {
        let entries = entries(&client).await?;
        let id = find(&entries, &chosen.content)?;
        Ok(exchange(client, id).await?)
    })
}

/// The one entry with this name, or whose id begins so.
fn find(entries: &[Value], wanted: &str) -> Result<String, CliError> {
    let hex = wanted.len() >= 4 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    let fits = |entry: &&Value| {
        let id = entry["manifest_id"].as_str().unwrap_or_default();
        entry["name"] == wanted || (hex && id.starts_with(&wanted.to_ascii_lowercase()))
    };
    let found: Vec<_> = entries.iter().filter(fits).filter_map(|entry| entry["manifest_id"].as_str()).collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(CliError::new(Code::InputMissing, "the cache has no such content")
            .culprit(wanted)
            .remedy("`piecework cache list` shows what it has")),
        many => Err(CliError::new(Code::Usage, format!("{} contents are meant by this", many.len()))
            .culprit(wanted)
            .remedy(format!("name one by its manifest id: {}", many.join(", ")))),
    }
}

fn list(context: &Context, json: bool) -> Result<(), CliError> {
    let listed = daemon::ask(context, |client| async move { Ok(Value::Array(entries(&client).await?)) })?;
    if json {
        return output::json(&listed);
    }
    let mut table = table(&["MANIFEST", "NAME", "SIZE", "ON DISK", "LAST USED", "PINNED"]);
    for entry in rows(&listed) {
        let name = if entry["readable"].as_bool() == Some(true) { text(entry, "name") } else { "(damaged)".into() };
        let used = match number(entry, "last_used") {
            0 => "-".to_owned(),
            seconds => output::timestamp(seconds),
        };
        let pinned = if entry["pinned"].as_bool() == Some(true) { "yes" } else { "" };
        let (total, disk) = (size(entry, "bytes_total"), size(entry, "bytes_on_disk"));
        table.add_row([text(entry, "manifest_id"), name, total, disk, used, pinned.into()]);
    }
    right(&mut table, &[2, 3]);
    output::text(&format!("{table}\n"))
}

impl Log {
    /// Runs it.
    ///
    /// # Errors
    /// As [`Status::run`].
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        let path = format!("/v1/log?count={}", self.count);
        let records = daemon::ask(context, |client| async move { client.get(&path).await })?;
        if self.show.json {
            return output::json(&records);
        }
        let mut table = table(&["WHEN", "WHAT", "BY", "SUBJECT", "WHY"]);
        for record in rows(&records) {
            let by = record["uid"].as_u64().map_or_else(|| "daemon".to_owned(), |uid| format!("uid {uid}"));
            let when = output::timestamp(number(record, "at"));
            table.add_row([when, text(record, "what"), by, text(record, "subject"), text(record, "why")]);
        }
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
    let gates: String = rows(&status["gates"])
        .map(|gate| format!("gate {}: {} ({})\n", text(gate, "gate"), text(gate, "effect"), text(gate, "reason")))
        .collect();
    let appliance = appliance_text(&status["appliance"]);
    let line = match number(status, "line_shared_by") {
        0 | 1 => String::new(),
        contents => format!("the line's budget is shared by {contents} contents of the site\n"),
    };
    format!(
        "piecework {}, mode {}, up {up}, {} peers{paused}\nfrom peers {}, over HTTP {}, to peers {}, in vain {}\n{gates}{line}{appliance}{table}\n",
        text(status, "version"),
        text(status, "mode"),
        number(status, "peer_count"),
        size(totals, "bytes_from_peers"),
        size(totals, "bytes_from_http"),
        size(totals, "bytes_to_peers"),
        size(totals, "bytes_wasted"),
    )
}

/// What the seed of a site does besides; nothing for any other node.
fn appliance_text(appliance: &Value) -> String {
    if appliance.is_null() {
        return String::new();
    }
    let [served, waiting, refused, right, lost] =
        ["watched_served", "watched_waiting", "watched_refused", "scrub_pieces_right", "scrub_pieces_lost"]
            .map(|key| number(appliance, key));
    let now = match text(appliance, "scrubbing") {
        name if name.is_empty() => name,
        name => format!(", now {name}"),
    };
    let reasons: String = rows(&appliance["refused"])
        .map(|row| format!("refused {}: {}\n", text(row, "path"), text(row, "reason")))
        .collect();
    format!(
        "watched folders: {served} served, {waiting} waiting, {refused} refused\n{reasons}hashed again: {right} pieces right, \
         {lost} lost{now}\n"
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
