//! Real processes: started, killed, started again; and waiting for what is to come.

use domain::kernel::Entropy as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::clock::SystemEntropy;
use std::fs::OpenOptions;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long a server may take to start or to stop; it takes a fraction of a second.
const STARTS: Duration = Duration::from_secs(30);
/// How often it is looked whether what is waited for has come.
const POLL: Duration = Duration::from_millis(20);
/// The same while a server starts or dies, where it counts.
const POLL_OFTEN: Duration = Duration::from_millis(2);

/// A server as a process of its own.
pub(crate) struct Process {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Process {
    /// Starts it and waits until it takes connections.
    pub(crate) async fn start(name: &str, config: &Path, port: u16, log: &Path) -> Self {
        let (config, log) = (config.to_owned(), log.to_owned());
        let mut process = Self { binary: binary(name), config, log, port, child: None };
        process.restart().await;
        process
    }

    /// Starts it again on the same folder and port.
    pub(crate) async fn restart(&mut self) {
        self.spawn();
        let took = self.ready().await;
        assert!(took.is_some(), "{} does not start: {}", self.binary.display(), self.log_text());
    }

    /// Starts it and does not wait.
    pub(crate) fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Waits until it takes connections; tells how long that was, `None` when it ended before.
    pub(crate) async fn ready(&mut self) -> Option<Duration> {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            if self.ended().is_some() || began.elapsed() > STARTS {
                return None;
            }
            tokio::time::sleep(POLL_OFTEN).await;
        }
        Some(began.elapsed())
    }

    /// Chooses what a process of the tests does wrong or where it dies, from its next start on; see
    /// `storage::known_bad`.
    pub(crate) fn configure(&self, known_bad: &[String]) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let own = |line: &&str| !line.starts_with("known_bad");
        let rest: Vec<&str> = text.lines().filter(own).collect();
        let text = format!("known_bad = {known_bad:?}\n{}\n", rest.join("\n"));
        std::fs::write(&self.config, text).unwrap();
    }

    /// Waits until it ends by itself; `None` when it still runs then.
    pub(crate) async fn dies(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.ended() {
                self.child = None;
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep(POLL_OFTEN).await;
        }
    }

    /// Whether it has ended by itself.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.ended().is_some()
    }

    /// Kills it without a word (SIGKILL).
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill(pid(&child), Signal::SIGKILL).unwrap();
        child.wait().unwrap();
    }

    /// Stops it as an operator does, and sees that it ended well.
    pub(crate) async fn stop(&mut self) {
        kill(pid(self.child.as_ref().expect("it runs")), Signal::SIGTERM).unwrap();
        let deadline = Instant::now() + STARTS;
        let status = loop {
            if let Some(status) = self.ended() {
                break status;
            }
            assert!(Instant::now() < deadline, "{} does not stop", self.binary.display());
            tokio::time::sleep(POLL).await;
        };
        self.child = None;
        assert!(
            status.success(),
            "{} did not stop well: {}",
            self.binary.display(),
            self.log_text()
        );
    }

    /// How it ended; `None` while it runs.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().expect("it was started").try_wait().unwrap()
    }

    pub(crate) fn pid(&self) -> i32 {
        pid(self.child.as_ref().expect("it runs")).as_raw()
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The test is over, also when it failed.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).unwrap())
}

/// A program of ours, built beside the tests.
pub(crate) fn binary(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.ancestors().nth(2).unwrap().join(name);
    let missing = "is missing: run `cargo build` first, as `cargo xtask test` does";
    assert!(path.exists(), "{} {missing}", path.display());
    path
}

/// A port below those that the system gives to clients, so that nobody takes it while a server is down.
pub(crate) fn free_port() -> u16 {
    loop {
        let mut bytes = [0; 2];
        SystemEntropy.fill(&mut bytes);
        let port = 10_000 + u16::from_be_bytes(bytes) % 22_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Polls until it holds; fails when it does not in time.
pub(crate) async fn until(what: &str, deadline: Duration, mut holds: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !holds().await {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}
