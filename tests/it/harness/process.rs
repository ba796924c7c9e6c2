//! Real processes: started, killed, started again.

use domain::kernel::Entropy as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::clock::SystemEntropy;
use std::fs::OpenOptions;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

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
    pub(crate) fn start(name: &str, config: &Path, port: u16, log: &Path) -> Self {
        let mut process = Self {
            binary: binary(name),
            config: config.to_owned(),
            log: log.to_owned(),
            port,
            child: None,
        };
        process.restart();
        process
    }

    /// Starts it again on the same folder and port.
    pub(crate) fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(&self.binary)
            .arg("--config")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let addr = SocketAddr::from(([127, 0, 0, 1], self.port));
        let up = wait_until(Duration::from_secs(20), || TcpStream::connect(addr).is_ok());
        assert!(up, "{} does not answer: {}", self.binary.display(), self.log_text());
    }

    /// Kills it without a word (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            kill(pid(&child), Signal::SIGKILL).unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops it as an operator does, and tells whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        let Some(mut child) = self.child.take() else { return false };
        kill(pid(&child), Signal::SIGTERM).unwrap();
        let mut ended = None;
        wait_until(Duration::from_secs(30), || {
            ended = child.try_wait().unwrap();
            ended.is_some()
        });
        ended.is_some_and(|status| status.success())
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| pid(child).as_raw())
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
    assert!(
        path.exists(),
        "{} is missing: run `cargo build` first (`cargo xtask test` does)",
        path.display()
    );
    path
}

/// A port below those that clients are given.
pub(crate) fn free_port() -> u16 {
    loop {
        let mut bytes = [0; 2];
        SystemEntropy.fill(&mut bytes);
        let port = 10_000 + u16::from_be_bytes(bytes) % 20_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Polls until it holds; false when it did not in time.
pub(crate) fn wait_until(deadline: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < deadline {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    holds()
}
