//! The accept loop: from a port to connections whose peer is known.
//!
//! tonic's own loop has no handshake deadline, no cap on handshakes or connections, no reload of
//! certificates and no revocation. This one hands tonic only what has passed all of them. It runs
//! inside the stream that tonic polls: no task, no queue, and dropping the stream closes the port.

use crate::connections::{Connections, Line, Peer, Registration, Shown};
use crate::identity::{IdentityError, identity_of};
use crate::limits::Limits;
use crate::pki::{PkiError, fingerprint, serial_of};
use crate::telemetry::ErrorChain;
use crate::tls::{ServerTls, plain};
use futures_util::future::{AbortHandle, BoxFuture, FutureExt, abortable};
use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

/// How long no connection is taken after the system had no room for one.
const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);
/// Refusals are told at most so often, so that an attack does not fill the disk with lines.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How an HTTP/2 connection begins; a peer that is slower with it than with its handshake is not one.
const PREFACE_BYTES: usize = 24;
/// Files that a server needs besides its connections: stores, logs, links.
const FILES_BESIDE: u32 = 256;

/// A port that is held.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    addr: SocketAddr,
}

/// Why a port could not be held.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens there.
    #[error("port {} is taken: another process listens on {addr}", addr.port())]
    Taken {
        /// The address.
        addr: SocketAddr,
    },
    /// The system refused.
    #[error("cannot listen on {addr}")]
    Refused {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system allows too few open files for any connection.
    #[error(
        "{allowed} open files are allowed, {FILES_BESIDE} are needed before the first connection: raise RLIMIT_NOFILE"
    )]
    Files {
        /// How many it allows.
        allowed: u64,
    },
}

/// One connection, read and written in the clear. It fails as soon as it is told to close, and at its
/// deadline.
#[derive(Debug)]
pub struct Io {
    tls: TlsStream<TcpStream>,
    peer: Peer,
    /// Held, so that the connection is listed as long as it lives.
    #[expect(dead_code, reason = "its drop is what it does")]
    registration: Registration,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Of the first bytes, until they have come; then of the connection.
    deadline: Pin<Box<Sleep>>,
    /// Bytes of the preface that have not come.
    awaited: usize,
    end: Instant,
}

/// Why a connection did not come about.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("too many connections")]
    TooMany,
    #[error("too many handshakes from one address")]
    TooManyOfOneIp,
    #[error("pushed out by newer handshakes")]
    PushedOut,
    #[error("handshake took too long")]
    TooSlow,
    #[error("handshake failed")]
    Handshake(#[source] io::Error),
    #[error("peer does not speak HTTP/2")]
    NoHttp2,
    #[error("certificate names nobody")]
    Nobody(#[source] IdentityError),
    #[error("certificate cannot be read")]
    Unreadable(#[source] PkiError),
    #[error("peer was revoked during its handshake")]
    Revoked,
    #[error("no room for a connection")]
    NoRoom(#[source] io::Error),
}

struct Acceptor {
    tcp: TcpListener,
    tls: ServerTls,
    limits: Limits,
    connections: Connections,
    handshakes: FuturesUnordered<BoxFuture<'static, Handshake>>,
    /// Oldest first.
    pending: BTreeMap<u64, (IpAddr, AbortHandle)>,
    next: u64,
    paused_until: Option<Instant>,
    report: Report,
}

/// The outcome of one handshake.
struct Handshake {
    id: u64,
    addr: SocketAddr,
    outcome: Result<Io, Refusal>,
}

#[derive(Default)]
struct Report {
    last: Option<Instant>,
    unreported: u64,
}

impl Listener {
    /// Takes a port; port 0 takes a free one.
    ///
    /// # Errors
    /// When the port is taken or may not be used.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken { addr },
            _ => BindError::Refused { addr, source },
        };
        let tcp = TcpListener::bind(addr).await.map_err(refused)?;
        let addr = tcp.local_addr().map_err(refused)?;
        Ok(Self { tcp, addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Makes sure that the system allows the files that so many connections need, and gives `limits` with as
/// many as it allows.
///
/// # Errors
/// When that is not one.
pub fn within_files(limits: Limits) -> Result<Limits, BindError> {
    let wanted = u64::from(limits.connections_max) + u64::from(FILES_BESIDE);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(limits) };
    let mut allowed = soft;
    // Where it cannot be raised, what is allowed already has to do.
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_ok() {
        allowed = wanted.min(hard);
    }
    let connections = allowed.saturating_sub(FILES_BESIDE.into());
    let connections_max =
        u32::try_from(connections).unwrap_or(u32::MAX).min(limits.connections_max);
    if connections_max == 0 {
        return Err(BindError::Files { allowed });
    }
    if connections_max < limits.connections_max {
        tracing::warn!(
            allowed,
            connections_max,
            "the system allows fewer open files than connections_max needs: raise RLIMIT_NOFILE"
        );
    }
    Ok(Limits { connections_max, ..limits })
}

/// Takes connections from `listener` for as long as the stream is polled; for tonic's
/// `serve_with_incoming_shutdown`, which drops it at the soft stop. It never ends and gives no
/// errors: a peer that is refused is told in the log.
pub fn serve(
    listener: Listener,
    tls: ServerTls,
    limits: Limits,
    connections: Connections,
) -> impl Stream<Item = io::Result<Io>> + Send {
    let acceptor = Acceptor {
        tcp: listener.tcp,
        tls,
        limits,
        connections,
        handshakes: FuturesUnordered::new(),
        pending: BTreeMap::new(),
        next: 0,
        paused_until: None,
        report: Report::default(),
    };
    stream::unfold(acceptor, async |mut acceptor| {
        let io = acceptor.accept().await;
        Some((Ok(io), acceptor))
    })
}

impl Acceptor {
    async fn accept(&mut self) -> Io {
        loop {
            tokio::select! {
                // Nothing is lost when the other arm wins: a connection that was not taken waits
                // in the kernel, and a pause is kept as its end.
                accepted = take(&self.tcp, self.paused_until) => match accepted {
                    Ok((tcp, addr)) => self.begin(tcp, addr),
                    Err(error) => self.pause(error),
                },
                // Nothing is lost here either: handshakes go on in the set.
                Some(Handshake { id, addr, outcome }) = self.handshakes.next() => {
                    self.pending.remove(&id);
                    self.connections.counted().pending(self.pending.len());
                    match outcome {
                        Ok(io) => return io,
                        Err(refusal) => self.refused(Some(addr), &refusal),
                    }
                }
            }
        }
    }

    /// Starts a handshake where the limits allow it.
    fn begin(&mut self, tcp: TcpStream, addr: SocketAddr) {
        self.paused_until = None;
        let Limits { handshakes_pending_max, handshakes_per_ip_max, connections_max, .. } =
            self.limits;
        let ip = addr.ip();
        let of_this_ip = || self.pending.values().filter(|(other, _)| *other == ip).count();
        if self.connections.count() + self.pending.len() >= connections_max as usize {
            return self.refused(Some(addr), &Refusal::TooMany);
        }
        if handshakes_per_ip_max > 0 && of_this_ip() >= handshakes_per_ip_max as usize {
            return self.refused(Some(addr), &Refusal::TooManyOfOneIp);
        }
        if self.pending.len() >= handshakes_pending_max as usize
            && let Some((_, (_, oldest))) = self.pending.pop_first()
        {
            oldest.abort();
        }
        let id = self.next;
        self.next += 1;
        let (tls, connections, limits) = (self.tls.clone(), self.connections.clone(), self.limits);
        let (handshake, abort) = abortable(shake_hands(tcp, addr, tls, connections, limits));
        self.pending.insert(id, (ip, abort));
        self.connections.counted().pending(self.pending.len());
        let handshake = async move {
            let outcome = handshake.await.unwrap_or(Err(Refusal::PushedOut));
            Handshake { id, addr, outcome }
        };
        self.handshakes.push(handshake.boxed());
    }

    fn refused(&mut self, addr: Option<SocketAddr>, refusal: &Refusal) {
        self.connections.counted().refused(refusal.reason());
        self.report.refused(addr, refusal);
    }

    fn pause(&mut self, error: io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        // These say that one client gave up while it waited; the next is not harmed.
        if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            self.paused_until = Some(Instant::now() + NO_ROOM_PAUSE);
            self.refused(None, &Refusal::NoRoom(error));
        }
    }
}

async fn take(
    tcp: &TcpListener,
    paused_until: Option<Instant>,
) -> io::Result<(TcpStream, SocketAddr)> {
    if let Some(end) = paused_until {
        tokio::time::sleep_until(end).await;
    }
    tcp.accept().await
}

async fn shake_hands(
    tcp: TcpStream,
    addr: SocketAddr,
    tls: ServerTls,
    connections: Connections,
    limits: Limits,
) -> Result<Io, Refusal> {
    tcp.set_nodelay(true).map_err(Refusal::Handshake)?;
    let handshake = TlsAcceptor::from(tls.config()).accept(tcp);
    let stream = tokio::time::timeout(limits.handshake_timeout(), handshake)
        .await
        .map_err(|_| Refusal::TooSlow)?
        .map_err(|error| Refusal::Handshake(plain(error)))?;
    let (_, session) = stream.get_ref();
    // A client that negotiates nothing would have its HTTP/1 misread.
    if session.alpn_protocol().is_none() {
        return Err(Refusal::NoHttp2);
    }
    let certificate = session.peer_certificates().and_then(|chain| chain.first());
    let identity = certificate.map(|der| identity_of(der)).transpose().map_err(Refusal::Nobody)?;
    let shown = |der: &[u8]| {
        let serial = serial_of(der).map_err(Refusal::Unreadable)?;
        Ok(Shown { sha256: fingerprint(der), serial: serial.into() })
    };
    let peer = Peer {
        addr,
        server_name: session.server_name().map(Into::into),
        identity: identity.map(|(_, identity)| identity),
        certificate: certificate.map(|der| shown(der)).transpose()?,
        line: Line::default(),
    };
    let per_identity_max = limits.connections_per_identity_max as usize;
    let registration = connections.admit(peer.clone(), per_identity_max);
    // Listed first, asked then: whoever revokes changes trust first and closes what is listed then,
    // so one of the two finds this connection.
    if !tls.admits(&peer) {
        return Err(Refusal::Revoked);
    }
    let closed = Box::pin(peer.line.closed().clone().cancelled_owned());
    let now = Instant::now();
    Ok(Io {
        tls: stream,
        peer,
        registration,
        closed,
        deadline: Box::pin(tokio::time::sleep_until(now + limits.handshake_timeout())),
        awaited: PREFACE_BYTES,
        end: now + limits.connection_end(),
    })
}

/// Names of the reasons why connections do not come about.
pub(crate) const REFUSALS: [&str; 10] = [
    "too_many",
    "too_many_of_one_address",
    "pushed_out",
    "too_slow",
    "handshake",
    "no_http2",
    "nobody",
    "unreadable",
    "revoked",
    "no_room",
];

impl Refusal {
    /// Its name among metrics.
    const fn reason(&self) -> &'static str {
        REFUSALS[match self {
            Self::TooMany => 0,
            Self::TooManyOfOneIp => 1,
            Self::PushedOut => 2,
            Self::TooSlow => 3,
            Self::Handshake(_) => 4,
            Self::NoHttp2 => 5,
            Self::Nobody(_) => 6,
            Self::Unreadable(_) => 7,
            Self::Revoked => 8,
            Self::NoRoom(_) => 9,
        }]
    }
}

impl Report {
    fn refused(&mut self, addr: Option<SocketAddr>, refusal: &Refusal) {
        // Port checks and lost phones end like this all day; a bad certificate does not.
        if let Refusal::Handshake(error) = refusal
            && error.kind() != io::ErrorKind::InvalidData
        {
            tracing::debug!(error = %ErrorChain(refusal), "connection given up");
            return;
        }
        let now = Instant::now();
        if self.last.is_some_and(|last| now < last + REPORT_EVERY) {
            self.unreported += 1;
            return;
        }
        tracing::warn!(
            peer.addr = addr.map(tracing::field::display),
            unreported = self.unreported,
            error = %ErrorChain(refusal),
            "connection refused"
        );
        *self = Self { last: Some(now), unreported: 0 };
    }
}

impl Io {
    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The stream below, unless the connection must close.
    fn open(&mut self) -> io::Result<Pin<&mut TlsStream<TcpStream>>> {
        if self.peer.line.closed().is_cancelled() {
            Err(io::ErrorKind::ConnectionAborted.into())
        } else {
            Ok(Pin::new(&mut self.tls))
        }
    }
}

impl Connected for Io {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Polled for its waker: a reader that waits for a silent peer must wake up to fail.
        if this.closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if this.deadline.as_mut().poll(cx).is_ready() {
            // Nothing is written any more either.
            this.peer.line.close();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.tls).poll_read(cx, buf);
        if this.awaited > 0 && read.is_ready() {
            this.awaited = this.awaited.saturating_sub(buf.filled().len() - before);
            if this.awaited == 0 {
                this.deadline.as_mut().reset(this.end);
            }
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().open()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().open()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().open()?.poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().open()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tls.is_write_vectored()
    }
}

#[cfg(test)]
mod tests;
