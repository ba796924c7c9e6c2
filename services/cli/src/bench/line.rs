//! A narrow line: what is sent in one direction, over however many connections, waits in one queue and leaves it at
//! so many bits a second, as at the modem of a township.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes that leave the queue at once, as a packet does.
const PACKET_BYTES: usize = 1_400;
/// Packets that wait in the queue: a quarter of a second at 2 Mbit/s.
const PACKETS_QUEUED_MAX: usize = 44;
/// What a side may have sent that the queue has not taken yet.
const BUFFER_BYTES: u32 = 16 * 1_024;

/// A packet, and where it goes.
type Packet = (mpsc::Sender<Bytes>, Bytes);

/// Carries bytes to a port. It ends when it is dropped.
pub(super) struct Line {
    pub(super) port: u16,
    _carriers: JoinSet<()>,
}

impl Line {
    /// Takes a port of its own.
    pub(super) fn start(target: u16, bits_per_s: u32) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(BUFFER_BYTES)?;
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let listener = socket.listen(64)?;
        let port = listener.local_addr()?.port();
        let mut carriers = JoinSet::new();
        let [up, down] = [(); 2].map(|()| {
            let (packets, waiting) = mpsc::channel(PACKETS_QUEUED_MAX);
            carriers.spawn(drain(waiting, bits_per_s));
            packets
        });
        carriers.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((from, _)) = listener.accept().await {
                let (up, down) = (up.clone(), down.clone());
                lines.spawn(async move {
                    // Either side may end it as it likes.
                    drop(carry(from, target, up, down).await);
                });
            }
        });
        Ok(Self { port, _carriers: carriers })
    }
}

/// The queue of one direction.
async fn drain(mut waiting: mpsc::Receiver<Packet>, bits_per_s: u32) {
    let mut free_at = Instant::now();
    while let Some((to, packet)) = waiting.recv().await {
        let takes = f64::from(u32::try_from(packet.len()).unwrap_or(u32::MAX)) * 8.0;
        free_at =
            free_at.max(Instant::now()) + Duration::from_secs_f64(takes / f64::from(bits_per_s));
        tokio::time::sleep_until(free_at).await;
        // Who has gone needs it no more.
        drop(to.send(packet).await);
    }
}

async fn carry(
    from: TcpStream,
    target: u16,
    up: mpsc::Sender<Packet>,
    down: mpsc::Sender<Packet>,
) -> Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?;
    let to = socket.connect(SocketAddr::from(([127, 0, 0, 1], target))).await?;
    from.set_nodelay(true)?;
    to.set_nodelay(true)?;
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    // The first that ends ends both: a half-closed connection is of no use to either side.
    tokio::select! {
        ended = one_way(from_read, up, to_write) => ended,
        ended = one_way(to_read, down, from_write) => ended,
    }
}

async fn one_way(
    mut from: OwnedReadHalf,
    queue: mpsc::Sender<Packet>,
    mut to: OwnedWriteHalf,
) -> Result<()> {
    let (arrived, mut arrives) = mpsc::channel::<Bytes>(PACKETS_QUEUED_MAX);
    let write = async {
        while let Some(packet) = arrives.recv().await {
            to.write_all(&packet).await?;
        }
        anyhow::Ok(())
    };
    let read = async {
        let mut buffer = vec![0; PACKET_BYTES];
        loop {
            let count = from.read(&mut buffer).await?;
            let packet = buffer.get(..count).filter(|packet| !packet.is_empty());
            let packet = Bytes::copy_from_slice(packet.context("closed")?);
            queue.send((arrived.clone(), packet)).await?;
        }
    };
    tokio::select! {
        ended = write => ended,
        ended = read => ended,
    }
}
