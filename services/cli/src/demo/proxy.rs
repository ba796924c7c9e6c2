//! A line that can be cut: bytes pass between a region and its gateway, until they do not.

use std::net::SocketAddr;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A line that can be cut.
pub(super) struct Proxy {
    pub(super) addr: SocketAddr,
    up: watch::Sender<bool>,
}

impl Proxy {
    /// Takes a port and passes what comes to `to`, for as long as `tasks` run.
    pub(super) async fn start(to: SocketAddr, tasks: &runtime::Tasks) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let addr = listener.local_addr()?;
        let (up, line) = watch::channel(true);
        let (spawner, soft) = (tasks.clone(), tasks.soft().clone());
        tasks.spawn("demo.proxy", runtime::OnExit::Log, async move {
            loop {
                // No arm holds state across its await.
                let accepted = tokio::select! {
                    () = soft.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((from, _)) = accepted else { continue };
                spawner.spawn(
                    "demo.proxy.line",
                    runtime::OnExit::Log,
                    pass(from, to, line.clone()),
                );
            }
        });
        Ok(Self { addr, up })
    }

    /// Cuts the line, or heals it.
    pub(super) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }
}

/// Passes bytes both ways until either side ends or the line is cut; then both sides see a loss.
async fn pass(mut from: TcpStream, to: SocketAddr, mut line: watch::Receiver<bool>) {
    if !*line.borrow_and_update() {
        return;
    }
    let Ok(mut to) = TcpStream::connect(to).await else { return };
    // Small frames must not wait for an acknowledgement; a socket that refuses the option still works.
    drop((from.set_nodelay(true), to.set_nodelay(true)));
    tokio::select! {
        // The bytes under way are lost with the line, as on a real one.
        passed = copy_bidirectional(&mut from, &mut to) => drop(passed),
        cut = line.wait_for(|up| !*up) => drop(cut),
    }
}
