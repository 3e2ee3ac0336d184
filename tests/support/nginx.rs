//! Debian's nginx, in the foreground, for one test: own prefix, own port, the current user.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// A running nginx; dropping it ends it.
pub struct Nginx {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

/// How it is configured.
#[derive(Debug, Clone, Default)]
pub struct NginxOptions {
    /// Directives of the `server` block, such as `max_ranges 0;`.
    pub directives: String,
    /// PEM certificate chain and key: HTTPS with HTTP/2 in place of plain HTTP.
    pub tls: Option<(PathBuf, PathBuf)>,
}

impl Nginx {
    /// Serves a folder on 127.0.0.1. `None`, with the reason on stderr, where there is no nginx and none to be had.
    pub fn start(root: &Path, options: &NginxOptions) -> Option<Self> {
        let program = match program() {
            Ok(program) => program,
            Err(reason) => {
                eprintln!("skipped: {reason}");
                return None;
            }
        };
        // Inherited as nginx passes sockets to its successor: bound before it starts, so that nobody waits or races.
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket");
        let folder = tempfile::tempdir().expect("a temporary folder");
        let configuration = folder.path().join("nginx.conf");
        std::fs::write(&configuration, configure(address, root, folder.path(), options)).expect("written");
        let child = Command::new(program)
            .arg("-p")
            .arg(folder.path())
            .arg("-e")
            .arg(folder.path().join("error.log"))
            .arg("-c")
            .arg(&configuration)
            .env("NGINX", "0;")
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nginx starts");
        Some(Self { child, address, folder })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it; a line for each request: protocol, status, range asked for.
    pub fn stop(mut self) -> Vec<String> {
        self.end();
        let log = std::fs::read_to_string(self.folder.path().join("access.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn end(&mut self) {
        // The master ends its worker when asked, not when killed; it may have ended by itself.
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.end();
    }
}

fn configure(address: SocketAddr, root: &Path, folder: &Path, options: &NginxOptions) -> String {
    let (root, folder) = (root.display(), folder.display());
    // Its worker would else give up the rights that the tests' folders ask for.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let mut text = format!(
        "{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nevents {{ worker_connections 256; }}\nhttp {{\n\
         log_format lines '$server_protocol $status $http_range';\naccess_log {folder}/access.log lines;\n\
         default_type application/octet-stream;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(text, "{kind}_temp_path {folder}/{kind};").expect("written to a string");
    }
    let mode = if options.tls.is_some() { " ssl http2" } else { "" };
    writeln!(text, "server {{\nlisten {address}{mode};\nroot {root};").expect("written to a string");
    if let Some((chain, key)) = &options.tls {
        writeln!(text, "ssl_certificate {};\nssl_certificate_key {};", chain.display(), key.display())
            .expect("written to a string");
    }
    text + &options.directives + "\n}\n}\n"
}

/// nginx, installed if need be; once for all tests of a process.
fn program() -> Result<&'static Path, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAM.get_or_init(find_or_install).as_deref().map_err(Clone::clone)
}

fn find() -> Option<PathBuf> {
    ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

fn find_or_install() -> Result<PathBuf, String> {
    if let Some(program) = find() {
        return Ok(program);
    }
    let apt = |arguments: &[&str]| {
        Command::new("apt-get")
            .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::http::Timeout=20"])
            .args(arguments)
            // Tests want the program, not a service on port 80.
            .env("RUNLEVEL", "1")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .output()
    };
    let install = ["install", "--no-install-recommends", "nginx-light"];
    let mut output = apt(&install);
    if !output.as_ref().is_ok_and(|output| output.status.success()) {
        // Package lists may be missing or old.
        let _ = apt(&["update"]);
        output = apt(&install);
    }
    if let Some(program) = find() {
        return Ok(program);
    }
    let why = match output {
        Err(error) => error.to_string(),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            said.lines().last().unwrap_or("it said nothing").to_owned()
        }
    };
    Err(format!("nginx is not installed and apt-get cannot install nginx-light: {why}"))
}
