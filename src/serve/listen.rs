//! Connections: TCP, TLS, HTTP/1.1, each with a bound on its number and on the time that a slow or silent peer may
//! take. Stopping closes the door first, lets what runs finish within bounds, and then leaves.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::Request,
    middleware::{self, Next},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep},
};
use tokio_rustls::TlsAcceptor;

use super::{
    intake::Peer,
    places::{Busy, Place, Places},
};
use crate::work::Fingerprint;

/// Bounds on connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    pub connections_max: usize,
    pub handshake_time_max: Duration,
    /// From the end of one request, or of the handshake, to the last byte of the next head.
    pub head_time_max: Duration,
    pub head_bytes_max: usize,
    pub headers_max: usize,
    /// How long a peer may take nothing of what is sent to it.
    pub write_stall_max: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections_max: 1024,
            handshake_time_max: Duration::from_secs(10),
            head_time_max: Duration::from_secs(30),
            head_bytes_max: 32 << 10,
            headers_max: 64,
            write_stall_max: Duration::from_secs(30),
        }
    }
}

/// Accepts until `stop` resolves, then waits at most `grace` for what runs.
pub async fn serve(
    listener: TcpListener,
    tls: TlsAcceptor,
    router: Router,
    limits: ConnectionLimits,
    stop: impl Future<Output = ()>,
    grace: Duration,
) {
    let graceful = GracefulShutdown::new();
    let places = Places::new(limits.connections_max);
    let mut stop = std::pin::pin!(stop);
    loop {
        let (stream, peer, place) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let connection = Connection { tls: tls.clone(), router: router.clone(), limits: limits.clone() };
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let requests = place.requests();
            tokio::select! {
                ended = connection.run(stream, peer, watcher, requests) => {
                    if let Err(error) = ended {
                        tracing::debug!(%peer, %error, "connection");
                    }
                }
                () = place.wanted() => tracing::debug!(%peer, "a silent connection made room"),
            }
        });
    }
    // Newcomers are refused at once, and not left waiting in the queue of a socket that nobody reads.
    drop(listener);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections were still open when the time to stop was up");
    }
}

/// The next connection, and a place for it.
async fn accept(listener: &TcpListener, places: &Places) -> (TcpStream, SocketAddr, Place) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => return (stream, peer, places.take().await),
            Err(error) => {
                // Mostly out of file descriptors: wait for some to come back rather than spin.
                tracing::warn!(%error, "accepting a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

struct Connection {
    tls: TlsAcceptor,
    router: Router,
    limits: ConnectionLimits,
}

impl Connection {
    async fn run(
        self,
        stream: TcpStream,
        peer: SocketAddr,
        watcher: hyper_util::server::graceful::Watcher,
        busy: impl Fn() -> Busy + Clone + Send + Sync + 'static,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // Tokens leave as they come.
        stream.set_nodelay(true)?;
        let stream = Stalling::new(stream, self.limits.write_stall_max);
        let stream = tokio::time::timeout(self.limits.handshake_time_max, self.tls.accept(stream)).await??;
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(<[_]>::first).map(|own| Fingerprint::of(own));
        let peer = Peer { address: peer.ip(), certificate };
        let answered = move |request: Request, next: Next| {
            let busy = busy();
            async move { next.run(request).await.map(|body| busy.until_sent(body)) }
        };
        let router = self.router.layer(middleware::from_fn(answered)).layer(Extension(peer));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.head_time_max)
            .max_buf_size(self.limits.head_bytes_max)
            .max_headers(self.limits.headers_max)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        watcher.watch(connection).await?;
        Ok(())
    }
}

/// A stream that gives up on a peer which takes nothing for too long.
struct Stalling {
    stream: TcpStream,
    stall_max: Duration,
    /// Armed while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Stalling {
    fn new(stream: TcpStream, stall_max: Duration) -> Self {
        Self { stream, stall_max, deadline: None }
    }

    fn watched<T>(&mut self, cx: &mut TaskContext<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.deadline = None;
            return outcome;
        }
        let until = Instant::now() + self.stall_max;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing of what is sent")))
    }
}

impl AsyncRead for Stalling {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stalling {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, outcome)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.watched(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watched(cx, outcome)
    }
}
