//! Goal: a bad client costs the others nothing, and a connection that must close does. Method: real
//! sockets on loopback; what is refused is seen as an end at the client.

use super::Listener;
use crate::fixture::{LIMITS, Party, Port, gateway, in_time, region, server, trust};
use crate::limits::Limits;
use crate::tasks::{OnExit, Tasks};
use crate::tls::{ClientAuth, ServerTls};
use futures_util::StreamExt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;

fn world() -> (Party, ServerTls, Party, Party) {
    let (gateway, a, b) = (gateway(), region("a"), region("b"));
    let tls = server(&[&gateway], trust(&[&a, &b]), ClientAuth::Optional);
    (gateway, tls, a, b)
}

impl Port {
    /// Runs the accept loop while `client` does its part.
    async fn beside<F: Future>(&mut self, client: F) -> F::Output {
        in_time(async {
            tokio::select! {
                done = client => done,
                _ = self.incoming.next() => panic!("nobody should get through"),
            }
        })
        .await
    }

    async fn connect(&mut self, to: &Party, from: &Party) -> (TlsStream<TcpStream>, super::Io) {
        let (client, endpoint) = (to.client(Some(&from.key())), self.addr.to_string());
        let both = async { tokio::join!(client.connect(&endpoint), self.incoming.next()) };
        let (stream, io) = in_time(both).await;
        (stream.expect("connected"), io.expect("one").expect("good"))
    }
}

/// Reads until the connection ends, which it must.
async fn ended(tcp: &mut TcpStream) {
    let mut rest = Vec::new();
    drop(in_time(tcp.read_to_end(&mut rest)).await);
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line() {
    let first = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("bound");
    let addr = first.addr();
    let error = Listener::bind(addr).await.expect_err("taken").to_string();
    let port = addr.port();
    assert_eq!(error, format!("port {port} is taken: another process listens on {addr}"));
    drop(first);
    Listener::bind(addr).await.expect("free again");
}

#[tokio::test]
async fn silent_clients_do_not_hurt_a_good_one() {
    let (gateway, tls, a, _) = world();
    let limits = Limits { handshakes_pending_max: 4, ..LIMITS };
    let mut port = Port::open(&tls, limits).await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(port.addr).await.expect("connected"));
    }
    let (_stream, io) = port.connect(&gateway, &a).await;
    assert_eq!(io.peer().identity, Some(a.identity));
    // The cap holds: all but the newest were pushed out.
    for tcp in &mut silent[..16] {
        port.beside(ended(tcp)).await;
    }
}

#[tokio::test]
async fn a_silent_client_is_closed_after_the_handshake_timeout() {
    let (gateway, tls, a, _) = world();
    let limits = Limits { handshake_timeout_ms: 50, ..LIMITS };
    let mut port = Port::open(&tls, limits).await;
    let mut silent = TcpStream::connect(port.addr).await.expect("connected");
    port.beside(ended(&mut silent)).await;
    let limits = Limits { handshake_timeout_ms: 5_000, ..LIMITS };
    let mut port = Port::open(&tls, limits).await;
    port.connect(&gateway, &a).await;
}

#[tokio::test]
async fn one_address_may_hold_only_so_many_handshakes() {
    let (_, tls, _, _) = world();
    let mut port = Port::open(&tls, Limits { handshakes_per_ip_max: 1, ..LIMITS }).await;
    let _first = TcpStream::connect(port.addr).await.expect("connected");
    let mut second = TcpStream::connect(port.addr).await.expect("connected");
    port.beside(ended(&mut second)).await;
}

#[tokio::test]
async fn a_full_server_refuses_until_a_connection_ends() {
    let (gateway, tls, a, b) = world();
    let mut port = Port::open(&tls, Limits { connections_max: 1, ..LIMITS }).await;
    let (_stream, first) = port.connect(&gateway, &a).await;
    let mut refused = TcpStream::connect(port.addr).await.expect("connected");
    port.beside(ended(&mut refused)).await;
    drop(first);
    let (_stream, io) = port.connect(&gateway, &b).await;
    assert_eq!((io.peer().identity.as_ref(), port.connections.count()), (Some(&b.identity), 1));
}

#[tokio::test]
async fn a_closed_identity_loses_its_connections_and_no_other_does() {
    let (gateway, tls, a, b) = world();
    let mut port = Port::open(&tls, LIMITS).await;
    let (mut a_client, mut a_io) = port.connect(&gateway, &a).await;
    let (mut b_client, mut b_io) = port.connect(&gateway, &b).await;
    // The reader waits in a task of its own, which only the close can wake: a byte went through
    // before, so the handshake has left nothing to read.
    let (tasks, (heard, mut hears)) = (Tasks::default(), mpsc::channel(2));
    tasks.spawn("test.read", OnExit::Log, async move {
        heard.send(a_io.read_u8().await.map_err(|error| error.kind())).await.expect("heard");
        heard.send(a_io.read_u8().await.map_err(|error| error.kind())).await.expect("heard");
        a_io.write_all(b"secret").await.expect_err("nothing leaves any more");
    });
    a_client.write_all(b"a").await.expect("written");
    a_client.flush().await.expect("flushed");
    assert_eq!(in_time(hears.recv()).await, Some(Ok(b'a')));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(port.connections.close(|peer| peer.identity.as_ref() == Some(&a.identity)), 1);
    assert_eq!(in_time(hears.recv()).await, Some(Err(ErrorKind::ConnectionAborted)));
    in_time(a_client.read_u8()).await.expect_err("ended");
    b_client.write_all(b"b").await.expect("written");
    b_client.flush().await.expect("flushed");
    assert_eq!(in_time(b_io.read_u8()).await.expect("alive"), b'b');
    assert_eq!(port.connections.count(), 1);
}

#[tokio::test]
async fn the_newest_connections_of_an_identity_win() {
    let (gateway, tls, a, _) = world();
    let mut port = Port::open(&tls, Limits { connections_per_identity_max: 1, ..LIMITS }).await;
    let (_old_client, mut old) = port.connect(&gateway, &a).await;
    let (mut new_client, mut new) = port.connect(&gateway, &a).await;
    in_time(old.read_u8()).await.expect_err("closed");
    new_client.write_all(b"n").await.expect("written");
    new_client.flush().await.expect("flushed");
    assert_eq!(in_time(new.read_u8()).await.expect("alive"), b'n');
}

#[tokio::test]
async fn a_revocation_reaches_a_handshake_that_has_begun() {
    let (gateway, tls, a, b) = world();
    let mut port = Port::open(&tls, LIMITS).await;
    let mut tcp = TcpStream::connect(port.addr).await.expect("connected");
    // The loop takes the connection, and with it the trust of before; should it be slow to, the
    // new trust refuses as well.
    let begun = tokio::time::timeout(Duration::from_millis(50), port.incoming.next()).await;
    assert!(begun.is_err());
    tls.reload(&[gateway.hosted()], trust(&[&b])).expect("reloaded");
    let client = gateway.client(Some(&a.key()));
    port.beside(async {
        if let Ok(mut stream) = client.connect_over(&mut tcp).await {
            stream.read_u8().await.expect_err("refused");
        }
    })
    .await;
    assert_eq!(port.connections.count(), 0);
}
