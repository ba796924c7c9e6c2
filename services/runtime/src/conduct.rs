//! How peers behave inside their connections, which neither TLS nor HTTP/2 watches: whether they take
//! what they asked for, and how often they give up what they asked for.

use crate::connections::{Line, Peer};
use crate::limits::Limits;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use hyper::body::{Body as _, Frame, SizeHint};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

/// Watches the calls of a server, as a layer of it. Clones share one watch.
///
/// A peer that opens calls to give them up costs a handler each time, and no longer counts against the
/// calls it may have at a time. One that never reads its answers keeps them in our memory.
#[derive(Clone, Debug)]
pub struct Conduct(Arc<Watch>);

#[derive(Debug)]
struct Watch {
    idle: Duration,
    resets_per_minute_max: u32,
    started_at: Instant,
    calls: Mutex<Vec<Weak<Call>>>,
}

/// One call.
#[derive(Debug)]
struct Call {
    watch: Arc<Watch>,
    line: Line,
    /// Milliseconds from the start of the watch at which the peer was last given something that it has
    /// not yet taken; 0 while it is we who are waited for.
    given_at: AtomicU64,
    /// Whether it was counted as given up.
    given_up: AtomicBool,
}

/// A service whose calls are watched.
#[derive(Clone, Debug)]
pub struct Watched<S> {
    inner: S,
    watch: Arc<Watch>,
}

/// An answer that is watched.
#[derive(Debug)]
pub struct Answer {
    inner: Body,
    call: Option<Open>,
}

/// A request that is watched.
#[derive(Debug)]
struct Asked {
    inner: Body,
    call: Arc<Call>,
}

/// Held while a call runs. One that is dropped before the call's end was seen was given up.
#[derive(Debug)]
struct Open {
    call: Arc<Call>,
    ended: bool,
}

impl Conduct {
    /// Watches for what goes beyond `limits`.
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Watch {
            idle: limits.stream_idle(),
            resets_per_minute_max: limits.resets_per_minute_max,
            started_at: Instant::now(),
            calls: Mutex::default(),
        }))
    }

    /// Closes the connections of peers that do not take what they asked for, until the soft stop.
    pub async fn run(self, soft: CancellationToken) {
        let every = (self.0.idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(10));
        loop {
            // No arm holds state across its await.
            tokio::select! {
                () = soft.cancelled() => return,
                () = tokio::time::sleep(every) => self.0.sweep(),
            }
        }
    }
}

impl<S> Layer<S> for Conduct {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, watch: Arc::clone(&self.0) }
    }
}

impl<S> Service<Request<Body>> for Watched<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let call = request.extensions().get::<Peer>().map(|peer| self.watch.open(&peer.line));
        let request = match &call {
            Some(open) => {
                let call = Arc::clone(&open.call);
                request.map(|inner| Body::new(Asked { inner, call }))
            }
            None => request,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(response.map(|inner| Answer { inner, call })),
                Err(error) => {
                    ended(call);
                    Err(error)
                }
            }
        })
    }
}

impl Watch {
    fn open(self: &Arc<Self>, line: &Line) -> Open {
        let call = Arc::new(Call {
            watch: Arc::clone(self),
            line: line.clone(),
            given_at: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
        });
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        // What has ended goes before the list grows: it stays as long as the calls there are.
        if calls.len() == calls.capacity() {
            calls.retain(|call| call.strong_count() > 0);
        }
        calls.push(Arc::downgrade(&call));
        drop(calls);
        Open { call, ended: false }
    }

    fn now_ms(&self) -> u64 {
        let ms = u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        ms.saturating_add(1)
    }

    fn sweep(&self) {
        let (now, idle) = (self.now_ms(), u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX));
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.retain(|call| {
            let Some(call) = call.upgrade() else { return false };
            let given_at = call.given_at.load(Ordering::Relaxed);
            if given_at > 0 && now.saturating_sub(given_at) > idle && call.line.close() {
                tracing::warn!("a peer does not take what it asked for, its connection is closed");
            }
            true
        });
    }
}

impl Call {
    /// Counts it as given up by its peer, once.
    fn give_up(&self) {
        if !self.given_up.swap(true, Ordering::Relaxed)
            && self.line.given_up(self.watch.resets_per_minute_max)
        {
            tracing::warn!("a peer gave up too many calls, its connection is closed");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.ended {
            self.call.give_up();
        }
    }
}

fn ended(call: Option<Open>) {
    if let Some(mut open) = call {
        open.ended = true;
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // Nobody asks for what follows where it is known that nothing does.
        if self.inner.is_end_stream() {
            ended(self.call.take());
        }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        // Whoever asks for more has taken what was given before.
        if let Some(open) = &this.call {
            open.call.given_at.store(0, Ordering::Relaxed);
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        let last = match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(None | Some(Err(_))) => true,
        };
        if last {
            ended(this.call.take());
        } else if let Some(Open { call, .. }) = &this.call {
            call.given_at.store(call.watch.now_ms(), Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl hyper::body::Body for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        // A handler that waits for the rest of a call that was given up is told so first, and answers.
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            this.call.give_up();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
