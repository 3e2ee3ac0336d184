//! [`Scenario`]: a world in a page of TOML. Read strictly: an unknown key is refused with the nearest known one, and
//! every amount has a unit and a range.

mod check;
mod load;

use serde::Deserialize;

pub use crate::scenario::load::{Error, builtin, builtin_names, load, parse};
use crate::units::{Bytes, Rate, Span};

/// A world and what happens in it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in a line.
    pub about: String,
    /// From which all chance comes, unless the command line says otherwise.
    #[serde(default = "one")]
    pub seed: u64,
    /// When the run ends although somebody still lacks something.
    #[serde(default = "day")]
    pub stop_after: Span,
    /// What is delivered.
    pub content: Content,
    /// HTTP servers that have it.
    #[serde(default)]
    pub origin: Vec<Origin>,
    /// Places whose machines share a line.
    pub site: Vec<Site>,
    /// Machines.
    pub machines: Vec<Machines>,
    /// What goes wrong.
    #[serde(default)]
    pub trouble: Vec<Trouble>,
    /// Other traffic on the sites' lines.
    #[serde(default)]
    pub foreground: Vec<Foreground>,
    /// How machines find each other.
    #[serde(default)]
    pub discovery: Discovery,
    /// What the network is taken for.
    #[serde(default)]
    pub model: Model,
    /// Settings of every engine.
    #[serde(default)]
    pub engine: EngineSettings,
    /// Policies to run beside the engine, for comparison.
    #[serde(default)]
    pub compare: Vec<Policy>,
    /// What must come out; checked by `run` and in tests.
    #[serde(default)]
    pub figures: Figures,
}

fn one() -> u64 {
    1
}

fn day() -> Span {
    Span(86_400_000_000)
}

/// What is delivered.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// Of one content.
    pub size: Bytes,
    /// Contents of that size, each asked for by itself.
    #[serde(default = "one_u32")]
    pub count: u32,
    /// How many machines want each content; absent: all of them.
    pub wanted_by: Option<u32>,
    /// Over what time the contents come out one after the other.
    #[serde(default)]
    pub within: Span,
}

fn one_u32() -> u32 {
    1
}

/// An HTTP server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Of its line.
    pub rate: Rate,
    /// One way from it to a site's line.
    #[serde(default = "ten_ms")]
    pub latency: Span,
    /// What one connection gets at most.
    pub connection_rate: Option<Rate>,
    /// What it does wrong.
    #[serde(default)]
    pub fault: Vec<OriginFault>,
}

fn ten_ms() -> Span {
    Span(10_000)
}

/// A fault of an origin.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OriginFault {
    /// Which.
    pub kind: FaultKind,
    /// Of a hundred requests, how many meet it.
    #[serde(default = "hundred")]
    pub percent: u32,
    /// From when.
    #[serde(default)]
    pub from: Span,
    /// Until when; absent: for good.
    pub until: Option<Span>,
    /// The server's wish, with `busy`.
    pub retry_after: Option<Span>,
    /// What a connection still gets, with `slow`.
    pub rate: Option<Rate>,
}

fn hundred() -> u32 {
    100
}

/// What an origin may do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// 429 or 503.
    Busy,
    /// No connection.
    Unreachable,
    /// A connection, and then nothing.
    Silent,
    /// Bodies end in their middle.
    Truncated,
    /// 404 and the like.
    Refused,
    /// Answers every range with the whole file.
    NoRanges,
    /// Says that the file is another one.
    Changed,
    /// Sends another file's bytes.
    WrongBytes,
    /// Slow connections.
    Slow,
}

/// A place whose machines share a line to everywhere else.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// So many of the same kind.
    #[serde(default = "one_u32")]
    pub count: u32,
    /// Of its line, towards it.
    pub down: Rate,
    /// Of its line, away from it.
    pub up: Rate,
    /// One way from its line to the middle of the network.
    #[serde(default = "ten_ms")]
    pub latency: Span,
    /// Whether other sites' machines may be peers of its own.
    #[serde(default = "yes")]
    pub peers_outside: bool,
    /// Sites of one group know each other; others, and those without one, are the Internet to each other.
    #[serde(default)]
    pub group: String,
    /// Machines behind its line accept no connection from outside.
    #[serde(default)]
    pub nat: bool,
    /// Its access points isolate their clients: its machines hear of each other and cannot connect.
    #[serde(default)]
    pub isolated: bool,
    /// What policy lets come over its line (`line_budget`); absent: no limit. Where it is passed for longer than a burst,
    /// the run is void.
    pub line_budget: Option<Rate>,
}

fn yes() -> bool {
    true
}

/// Machines of one kind.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machines {
    /// Their name, for troubles and reports.
    #[serde(default = "machines")]
    pub name: String,
    /// Where they stand: in each site of this name.
    pub site: String,
    /// How many in each such site.
    pub count: u32,
    /// Of each one's link, towards it.
    pub down: Rate,
    /// Of each one's link, away from it.
    pub up: Rate,
    /// One way from each to the site's switch.
    #[serde(default = "hundred_us")]
    pub latency: Span,
    /// They hold everything from the start.
    #[serde(default)]
    pub seed: bool,
    /// When the first starts.
    #[serde(default)]
    pub start: Span,
    /// Over what time the others follow, at random.
    #[serde(default)]
    pub within: Span,
    /// Weights of the hours of a day by which they start; replaces `within`.
    #[serde(default)]
    pub hours: Vec<u32>,
    /// Days over which they start by `hours`.
    #[serde(default = "one_u32")]
    pub days: u32,
    /// Of a hundred, how many start on the first day; the rest evenly on the days after.
    pub first_day_percent: Option<u32>,
    /// Machines behind one Wi-Fi access point, which sends or receives, one at a time.
    pub per_access_point: Option<u32>,
    /// Of an access point.
    pub access_point_rate: Option<Rate>,
    /// How long they stay when they are done; absent: to the end.
    pub stay: Option<Span>,
    /// Who left after its `stay` comes back on each day that follows, at the hour at which it started, with what it holds,
    /// and stays as long again.
    #[serde(default)]
    pub daily: bool,
    /// They ask only HTTP servers and serve nobody.
    #[serde(default)]
    pub http_only: bool,
    /// Somebody reads the content in order as it comes, at this rate where it is there.
    pub reader: Option<Rate>,
    /// Nobody waits for it: no more is taken from the origin than needs be. That such downloads yield to other traffic is
    /// the node's doing and not modelled.
    #[serde(default)]
    pub background: bool,
    /// When it should be there, from each one's start.
    pub deadline: Option<Span>,
    /// They run on battery: they take no origin duty for others, and serve nobody, as is the default of policy.
    #[serde(default)]
    pub on_battery: bool,
    /// They may be gone soon, on Wi-Fi or switched on a moment ago, and say so.
    #[serde(default)]
    pub unstable: bool,
    /// What they pretend.
    #[serde(default)]
    pub manner: Manner,
    /// All of them come from so many addresses; absent: one each.
    pub addresses: Option<u32>,
}

fn machines() -> String {
    "machines".into()
}

fn hundred_us() -> Span {
    Span(100)
}

/// How a machine behaves towards its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Manner {
    /// As it should.
    #[default]
    Honest,
    /// Says that it holds everything; every block it sends is wrong.
    WrongBytes,
    /// Says that it holds everything, takes requests, and sends nothing.
    Stall,
    /// Says that it holds everything, and is always busy.
    Refuse,
    /// Says that it holds everything, and then that it does not.
    FalseBitfield,
    /// Claims origin duty over and over, and fetches nothing.
    Claim,
    /// Sends right bytes, a hundred times slower than it could.
    Trickle,
    /// Wrong bytes in every other block.
    HalfWrong,
    /// Takes what it is given and gives nobody a turn. It lies about nothing and is expected to finish, later than others.
    FreeRide,
}

impl Manner {
    /// It takes part to have the content, and says of itself what is true.
    pub const fn downloads(self) -> bool {
        matches!(self, Self::Honest | Self::FreeRide)
    }
}

/// Something that goes wrong with machines.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trouble {
    /// What.
    pub kind: TroubleKind,
    /// The machines of this name; absent: all honest ones that are no seed.
    pub machines: Option<String>,
    /// Of a hundred, how many meet it.
    #[serde(default = "hundred")]
    pub percent: u32,
    /// When, at the earliest, after a machine's start. With `at_percent`, not used.
    #[serde(default)]
    pub after: Span,
    /// Over what time it comes.
    #[serde(default)]
    pub within: Span,
    /// When a machine has so much of its content instead, drawn between the two.
    pub at_percent: Option<[u32; 2]>,
    /// How long it lasts; absent with `die`: for good.
    pub lasts: Option<Span>,
    /// With `sleep`: its peers are told before, and need not find out.
    #[serde(default)]
    pub announced: bool,
    /// With `lie`: how they behave.
    pub manner: Option<Manner>,
}

/// What may go wrong with a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TroubleKind {
    /// It ends; peers see the connection close.
    Die,
    /// It ends without a word, as a power cut does it.
    Vanish,
    /// It says nothing for a while and then goes on: false suspicion.
    Silence,
    /// It sleeps: connections are lost, and it starts again when it wakes.
    Sleep,
    /// Pieces on its disk rot.
    Rot,
    /// It is a liar from the start.
    Lie,
}

/// Traffic of people on a site's line.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Foreground {
    /// Whose line.
    pub site: String,
    /// What it takes, towards the site.
    pub down: Rate,
    /// From when.
    #[serde(default)]
    pub from: Span,
    /// Until when.
    pub until: Span,
    /// It comes and goes: so long at a time, and as long between.
    pub burst: Option<Span>,
}

/// How machines find each other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Discovery {
    /// Members of its own site that a machine finds.
    pub local: u32,
    /// Members elsewhere that it finds.
    pub remote: u32,
    /// How long it takes.
    pub delay: Span,
    /// Every machine of a site finds the same first members, as where only so many advertise.
    pub advertisers: bool,
    /// Members tell members.
    pub gossip: bool,
    /// Connections that a machine keeps for one content at most.
    pub connections: u32,
}

impl Default for Discovery {
    fn default() -> Self {
        Self { local: 16, remote: 8, delay: Span(100_000), advertisers: false, gossip: true, connections: 1024 }
    }
}

/// What the network is taken for.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Model {
    /// How flows share a link.
    pub sharing: Sharing,
    /// Of a thousand payload bytes, how many more are sent: headers of TCP, IP, TLS and ours.
    pub overhead_permille: u32,
    /// Of a thousand bytes sent, how many come back as acknowledgements on the lines of the other direction.
    pub acks_permille: u32,
    /// What a full link keeps in its queue: a control message waits behind that much payload at most.
    pub buffer: Span,
    /// What the kernel takes of one connection before its sender has to wait: a piece counts as served when the rest of
    /// it is no more than this.
    pub unsent: Bytes,
    /// Messages may come between the parts of a piece. If not, what is said to a peer while a piece is written to it
    /// comes after the piece.
    pub interleaved: bool,
    /// From a block's last byte to its being verified and written.
    pub verify: Span,
    /// Haves of one connection are collected this long before they are sent. 0: as the engine sends them.
    pub have_tick: Span,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            sharing: Sharing::Fifo,
            overhead_permille: 0,
            acks_permille: 0,
            buffer: Span(5_000),
            unsent: Bytes(256 << 10),
            interleaved: false,
            verify: Span(400),
            have_tick: Span(0),
        }
    }
}

/// How flows share a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Block after block, in the order in which they come.
    Fifo,
    /// Max-min fair, solved anew whenever a flow begins or ends. For a thousand machines at most.
    MaxMin,
}

/// Settings of every engine; absent ones keep the engine's own default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EngineSettings {
    /// What every machine runs.
    pub policy: Policy,
    /// Peers served at a time.
    pub upload_slots: Option<u32>,
    /// Nodes of a site that fetch from the origin.
    pub origin_gateways: Option<u32>,
    /// Ranges at a time from one origin.
    pub origin_connections: Option<u32>,
    /// What seeds serve at a time.
    pub seed_upload_slots: Option<u32>,
    /// From peers, below which the origin helps: the policy `min_background_rate`.
    pub min_rate: Option<Rate>,
}

/// What a machine runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The engine as it is.
    #[default]
    Piecework,
    /// The engine without peers: everything by HTTP.
    Http,
    /// The engine with pieces in order.
    Sequential,
    /// A plain engine: rarest first, tit for tat, origin as a web seed.
    Bittorrent,
    /// A plain engine: random pieces, no reciprocity, origin as a web seed.
    Random,
}

impl Policy {
    /// As scenarios write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Piecework => "piecework",
            Self::Http => "http",
            Self::Sequential => "sequential",
            Self::Bittorrent => "bittorrent",
            Self::Random => "random",
        }
    }
}

/// What must come out, in thousandths; absent: not looked at.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Figures {
    /// Copies that leave the origins, each content for itself.
    pub origin_copies: Option<u64>,
    /// Copies across each site's line.
    pub site_copies: Option<u64>,
    /// The last machine's time over the lower bound.
    pub last: Option<u64>,
    /// The mean time over the lower bound.
    pub mean: Option<u64>,
    /// The time within which 999 of 1,000 are done over the lower bound.
    pub p999: Option<u64>,
    /// Bytes moved over bytes needed.
    pub bytes: Option<u64>,
    /// How long any reader may stand still after its first piece, in milliseconds.
    pub reader_stall: Option<u64>,
    /// Downloads that may miss their deadline.
    pub late: Option<u64>,
    /// Mean time of those who give over that of those who ride free.
    pub givers_over_riders: Option<u64>,
}
