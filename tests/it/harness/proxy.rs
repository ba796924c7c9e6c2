//! A line between a region and its gateway that can be cut and healed.

use super::process::free_port;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Carries bytes to a port, unless it is cut. It ends when it is dropped.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    whole: watch::Sender<bool>,
    _carriers: JoinSet<()>,
}

impl Proxy {
    /// Takes a port of its own and carries what comes there to `target`.
    pub(crate) async fn start(target: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (whole, state) = watch::channel(true);
        let mut carriers = JoinSet::new();
        carriers.spawn(accept(listener, target, state));
        Self { port, whole, _carriers: carriers }
    }

    /// Ends every connection and takes no new one.
    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Takes connections again.
    pub(crate) fn heal(&self) {
        self.whole.send_replace(true);
    }
}

async fn accept(listener: TcpListener, target: u16, state: watch::Receiver<bool>) {
    let mut lines = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (from, _) = accepted.unwrap();
                lines.spawn(carry(from, target, state.clone()));
            }
            Some(ended) = lines.join_next() => ended.unwrap(),
        }
    }
}

async fn carry(mut from: TcpStream, target: u16, mut state: watch::Receiver<bool>) {
    let carried = async {
        if let Ok(mut to) = TcpStream::connect(("127.0.0.1", target)).await {
            // Either side may end it as it likes; the other is told by the drop.
            drop(copy_bidirectional(&mut from, &mut to).await);
        }
    };
    let cut = async { drop(state.wait_for(|whole| !whole).await) };
    tokio::select! {
        () = carried => {}
        () = cut => {}
    }
}
