//! `piecework doctor`: what is wrong, why there are no peers, what a firewall must let through, and whether a machine has
//! the policies that it should have.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

use crate::cli::context::Context;
use crate::cli::error::CliError;
use crate::cli::{config, daemon, output};
use crate::content::code::Code;
use crate::policy::{Mode, Policy, Provider};

/// UDP port of multicast DNS (RFC 6762).
const MDNS_PORT: u16 = 5353;

/// Arguments of `piecework doctor`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  piecework doctor\n  piecework doctor --expect /srv/fleet/policy.toml\n  piecework doctor endpoints --nft\n\n\
    Exit code 0 where nothing is bad; 71 where something is, 78 where a policy is not as expected."
)]
pub struct Arguments {
    /// Findings and verdict as JSON
    #[arg(long)]
    json: bool,
    /// Also says which policies of the daemon are not as this configuration file sets them
    #[arg(long, value_name = "POLICY.toml")]
    expect: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What else the doctor knows.
#[derive(Debug, Subcommand)]
enum Command {
    /// Lists what firewalls and proxies must let through
    #[command(
        after_help = "Examples:\n  piecework doctor endpoints\n  piecework doctor endpoints --nft > piecework.nft"
    )]
    Endpoints(Endpoints),
}

/// Arguments of `doctor endpoints`.
#[derive(Debug, Args)]
struct Endpoints {
    /// An array of objects
    #[arg(long, conflicts_with = "nft")]
    json: bool,
    /// Rules for nftables
    #[arg(long)]
    nft: bool,
}

impl Arguments {
    /// Runs it.
    ///
    /// # Errors
    /// No daemon answers; something is bad; a policy is not as expected.
    pub fn run(self, context: &Context) -> Result<(), CliError> {
        match &self.command {
            Some(Command::Endpoints(endpoints)) => endpoints.run(context),
            None => self.diagnose(context),
        }
    }

    fn diagnose(&self, context: &Context) -> Result<(), CliError> {
        let expected = self.expect.as_deref().map(config::check).transpose()?;
        let mut diagnosis = daemon::ask(context, |client| async move { client.get("/v1/diagnosis").await })?;
        let mut differ = Vec::new();
        if let Some(expected) = &expected {
            let held = daemon::ask(context, |client| async move { client.get("/v1/config").await })?;
            differ = differences(expected, &held);
        }
        if self.json {
            diagnosis["unexpected"] = Value::Array(differ.clone());
            output::json(&diagnosis)?;
        } else {
            output::text(&shown(&diagnosis, &differ))?;
        }
        let bad = rows(&diagnosis["findings"]).any(|finding| finding["state"] == "bad");
        let fault = |code, message: String| Err(CliError::new(code, message).reported());
        match (differ.len(), bad) {
            (0, false) => Ok(()),
            (0, true) => fault(Code::ResourceRefused, text(&diagnosis, "verdict")),
            (count, _) => fault(Code::BadConfig, format!("{count} policies are not as expected")),
        }
    }
}

/// Every policy that a file sets and the daemon does not have so.
fn differences(expected: &crate::policy::Settings, held: &Value) -> Vec<Value> {
    let set = expected.rows().filter(|(.., provider)| **provider != Provider::Default);
    set.filter_map(|(key, wanted, _)| {
        let row = rows(held).find(|row| row["key"] == key.path());
        let value = row.map(|row| text(row, "value")).unwrap_or_default();
        let provider = row.map(|row| text(row, "provider")).unwrap_or_default();
        (value != wanted)
            .then(|| json!({ "key": key.path(), "expected": wanted, "value": value, "provider": provider }))
    })
    .collect()
}

fn shown(diagnosis: &Value, differ: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    for finding in rows(&diagnosis["findings"]) {
        table.add_row([text(finding, "state"), text(finding, "check"), text(finding, "text")]);
    }
    for row in differ {
        let (key, value, expected) = (text(row, "key"), text(row, "value"), text(row, "expected"));
        let said = format!("{key} is {value}, set by {}; expected is {expected}", text(row, "provider"));
        table.add_row(["bad".to_owned(), "policy".to_owned(), said]);
    }
    format!("{table}\n\n{}\n", text(diagnosis, "verdict"))
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text of the daemon's, much of which strangers chose.
fn text(value: &Value, key: &str) -> String {
    output::plain(value[key].as_str().unwrap_or_default()).into_owned()
}

/// One thing to be let through.
struct Endpoint {
    name: &'static str,
    protocol: &'static str,
    port: String,
    direction: &'static str,
    why: &'static str,
}

/// What these policies need of a network.
fn endpoints(policy: &Policy) -> Vec<Endpoint> {
    let mut needed = Vec::new();
    let mut add = |name, protocol, port: String, direction, why| {
        needed.push(Endpoint { name, protocol, port, direction, why });
    };
    if policy.download_mode.uses_peers() {
        let mut ports: Vec<u16> = policy.listen.iter().map(std::net::SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports.into_iter().filter(|port| *port != 0) {
            let why = "peers; TLS 1.3 whose certificate proves a peer id: must not be intercepted";
            add("peers", "tcp", port.to_string(), "in and out", why);
            if policy.download_mode == Mode::Internet {
                add("peers", "udp", port.to_string(), "in and out", "QUIC, for holes in NATs; must not be intercepted");
            }
        }
        if policy.download_mode == Mode::Internet {
            let port_of = |node: &String| node.split('/').nth(4).map(str::to_owned);
            let mut ports: Vec<String> = policy.bootstrap.iter().filter_map(port_of).collect();
            ports.sort_unstable();
            ports.dedup();
            for port in ports {
                let why = "the nodes of node.bootstrap; TLS 1.3 inside libp2p: must not be intercepted";
                add("bootstrap", "tcp", port, "out", why);
            }
        }
        if policy.download_mode.discovers() {
            let why = "DNS-SD: multicast to 224.0.0.251 and ff02::fb, on the link alone";
            add("discovery", "udp", MDNS_PORT.to_string(), "in and out", why);
        }
    }
    let why = "the sources that manifests and links name; whoever intercepts it can withhold, not alter";
    add("sources", "tcp", "443".to_owned(), "out", why);
    add("sources", "tcp", "80".to_owned(), "out", why);
    if let Some(address) = policy.control_listen.filter(|address| !address.ip().is_loopback()) {
        add("control", "tcp", address.port().to_string(), "in", "browsers and programs of administrators");
    }
    let port_of = |host: &String| host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()).unwrap_or(80);
    let mut ports: Vec<u16> = policy.cache_host.iter().map(port_of).filter(|port| *port != 80).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        add("cache host", "tcp", port.to_string(), "out", "the cache hosts of this site");
    }
    let port_of = |host: &String| host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let mut ports: Vec<u16> = policy.rendezvous.iter().filter_map(port_of).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports.into_iter().filter(|_| policy.download_mode.discovers()) {
        add("rendezvous", "tcp", port.to_string(), "out", "where the group meets; TLS 1.3 as between peers");
    }
    let port_of = |bucket: &String| url::Url::parse(bucket).ok()?.port();
    let mut ports: Vec<u16> = policy.appliance_objects.iter().filter_map(port_of).collect();
    ports.sort_unstable();
    ports.dedup();
    for port in ports {
        let why = "the buckets of appliance.objects; whoever intercepts it can withhold, not alter";
        add("object storage", "tcp", port.to_string(), "out", why);
    }
    if let Some(address) = policy.metrics_listen {
        add("metrics", "tcp", address.port().to_string(), "in", "Prometheus");
    }
    needed
}

impl Endpoints {
    fn run(&self, context: &Context) -> Result<(), CliError> {
        let settings = context.settings([])?;
        let needed = endpoints(&settings.policy);
        if self.json {
            let row = |end: &Endpoint| json!({ "name": end.name, "protocol": end.protocol, "port": end.port, "direction": end.direction, "why": end.why });
            return output::json(&Value::Array(needed.iter().map(row).collect()));
        }
        if self.nft {
            return output::text(&nft(&needed));
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["NAME", "PROTOCOL", "PORT", "DIRECTION", "WHY"]);
        for end in &needed {
            table.add_row([end.name, end.protocol, &end.port, end.direction, end.why]);
        }
        output::text(&format!("{table}\n"))
    }
}

/// Rules that accept what is needed, in a table of their own; what other tables drop stays dropped (`nft(8)`).
fn nft(needed: &[Endpoint]) -> String {
    let mut text = "table inet piecework {\n".to_owned();
    for (chain, hook, word) in [("input", "input", "in"), ("output", "output", "out")] {
        text += &format!("    chain {chain} {{\n        type filter hook {hook} priority filter; policy accept;\n");
        for end in needed.iter().filter(|end| end.direction.contains(word)) {
            text += &format!("        {} dport {} accept comment \"{}\"\n", end.protocol, end.port, end.name);
        }
        text += "    }\n";
    }
    text + "}\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Layer, Settings};

    fn settings(text: &str) -> Settings {
        let layer = Layer::from_toml(text, &Provider::ConfigFile("x".into())).expect("known keys");
        Settings::merge([layer]).expect("in range")
    }

    #[test]
    fn endpoints_follow_from_the_policies() {
        let names = |text: &str| {
            endpoints(&settings(text).policy).iter().map(|end| format!("{} {}", end.name, end.port)).collect::<Vec<_>>()
        };
        assert_eq!(names(""), ["peers 7680", "discovery 5353", "sources 443", "sources 80"]);
        assert_eq!(names("[policy]\ndownload_mode = \"http-only\""), ["sources 443", "sources 80"]);
        let named = "[policy]\ndownload_mode = \"simple\"\n[node]\nlisten = [\"1.2.3.4:5\"]\n[metrics]\nlisten = \"127.0.0.1:9780\"";
        assert_eq!(names(named), ["peers 5", "sources 443", "sources 80", "metrics 9780"]);
        let meets = "[policy]\nrendezvous = [\"a\", \"b:7\", \"c\"]";
        let expected = ["peers 7680", "discovery 5353", "sources 443", "sources 80", "rendezvous 7", "rendezvous 7680"];
        assert_eq!(names(meets), expected);
        let stored =
            "[policy]\ndownload_mode = \"http-only\"\n[appliance]\nobjects = [\"http://a:9000/b/\", \"https://a/b/\"]";
        assert_eq!(names(stored), ["sources 443", "sources 80", "object storage 9000"]);
        let far = "[policy]\ndownload_mode = \"internet\"\n[node]\nbootstrap = [\"/ip4/198.51.100.1/tcp/7700/p2p/12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf\"]";
        let far = endpoints(&settings(far).policy);
        let ports: Vec<_> = far.iter().map(|end| format!("{} {} {}", end.name, end.protocol, end.port)).collect();
        assert_eq!(ports[..4], ["peers tcp 7680", "peers udp 7680", "bootstrap tcp 7700", "discovery udp 5353"]);
        let rules = nft(&endpoints(&settings("").policy));
        assert!(rules.contains("tcp dport 7680 accept") && rules.matches('{').count() == rules.matches('}').count());
    }

    #[test]
    fn only_what_a_file_sets_is_expected() {
        let held = json!([
            { "key": "policy.upload_slots", "value": "8", "provider": "the defaults" },
            { "key": "policy.metered", "value": "\"auto\"", "provider": "the defaults" },
        ]);
        let found = differences(&settings("[policy]\nupload_slots = 9\nmetered = \"auto\""), &held);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (&found[0]["key"], &found[0]["expected"], &found[0]["value"]),
            (&json!("policy.upload_slots"), &json!("9"), &json!("8"))
        );
    }
}
