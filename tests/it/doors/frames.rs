//! HTTP/2 by hand: what no honest client sends.

use bytes::{Buf as _, BytesMut};
use runtime::tls::ClientTls;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GO_AWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that stand before a frame's payload.
const HEAD: usize = 9;

/// A frame as it lies on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// A connection on which frames are written and read by hand.
pub(crate) struct Raw {
    tls: TlsStream<TcpStream>,
    unread: BytesMut,
}

impl Frame {
    /// The error code of a reset or a farewell.
    pub(crate) fn code(&self) -> u32 {
        let at = if self.kind == GO_AWAY { 4 } else { 0 };
        (&self.payload[at..]).get_u32()
    }
}

impl Raw {
    /// Shakes hands and says nothing.
    pub(crate) async fn silent(tls: &ClientTls, endpoint: &str) -> io::Result<Self> {
        let tls = tls.connect(endpoint).await.map_err(io::Error::other)?;
        Ok(Self { tls, unread: BytesMut::new() })
    }

    /// Begins as every client does.
    pub(crate) async fn open(tls: &ClientTls, endpoint: &str) -> io::Result<Self> {
        let mut raw = Self::silent(tls, endpoint).await?;
        raw.begin().await?;
        Ok(raw)
    }

    /// Begins, and lets the server send nothing on its streams.
    pub(crate) async fn open_deaf(tls: &ClientTls, endpoint: &str) -> io::Result<Self> {
        let mut raw = Self::silent(tls, endpoint).await?;
        let deaf = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        raw.send(&[PREFACE, &deaf].concat()).await?;
        Ok(raw)
    }

    /// The certificate that the server showed.
    pub(crate) fn server_certificate(&self) -> Vec<u8> {
        let (_, session) = self.tls.get_ref();
        session.peer_certificates().unwrap()[0].to_vec()
    }

    /// Says what every client says first; what the server sends is never in the way.
    pub(crate) async fn begin(&mut self) -> io::Result<()> {
        let wide = frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes());
        self.send(&[PREFACE, WIDE_WINDOW, &wide].concat()).await
    }

    /// Reads to the end and answers nothing.
    pub(crate) async fn gone(&mut self) -> bool {
        while self.read().await.is_some() {}
        true
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes).await?;
        self.tls.flush().await
    }

    /// The next frame; `None` when the connection has ended. What every client answers is answered.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read().await?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => {
                    let answered = self.send(&self::frame(SETTINGS, ACK, 0, &[])).await;
                    if answered.is_err() {
                        return None;
                    }
                    return Some(frame);
                }
                PING if frame.flags & ACK == 0 => {
                    self.send(&self::frame(PING, ACK, 0, &frame.payload)).await.ok()?;
                }
                _ => return Some(frame),
            }
        }
    }

    async fn read(&mut self) -> Option<Frame> {
        loop {
            if self.unread.len() >= HEAD {
                let length = usize::from(self.unread[0]) << 16
                    | usize::from(self.unread[1]) << 8
                    | usize::from(self.unread[2]);
                if self.unread.len() >= HEAD + length {
                    let head = self.unread.split_to(HEAD);
                    let payload = self.unread.split_to(length).to_vec();
                    let stream = (&head[5..]).get_u32() & 0x7fff_ffff;
                    return Some(Frame { kind: head[3], flags: head[4], stream, payload });
                }
            }
            match self.tls.read_buf(&mut self.unread).await {
                Ok(read) if read > 0 => {}
                _ => return None,
            }
        }
    }

    /// Waits for a frame; `None` when the connection has ended before.
    pub(crate) async fn wait(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        loop {
            let frame = self.next().await?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    /// Waits until everything sent was looked at: the server answers a ping in turn. False when the
    /// connection has ended.
    pub(crate) async fn seen(&mut self) -> bool {
        let token = *b"all seen";
        if self.send(&frame(PING, 0, 0, &token)).await.is_err() {
            return false;
        }
        let answer = |frame: &Frame| frame.kind == PING && frame.payload == token;
        self.wait(answer).await.is_some()
    }

    /// Reads until the connection ends; gives the code of its last farewell.
    pub(crate) async fn ended(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            if frame.kind == GO_AWAY {
                code = Some(frame.code());
            }
        }
        code
    }
}

/// Settings: streams may send a gigabyte before they are read.
const WIDE_WINDOW: &[u8] = &[0, 0, 6, SETTINGS, 0, 0, 0, 0, 0, 0, 4, 0x3f, 0xff, 0, 0];

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a call of this method, and no more of it.
pub(crate) fn call(stream: u32, method: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &headers(method, &[]))
}

/// The headers of a call, as a client without a table writes them.
pub(crate) fn headers(method: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    let path = format!("/{method}");
    let fixed = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path.as_str()),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    for (name, value) in fixed.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            length(&mut block, text.len());
            block.extend(text.bytes());
        }
    }
    block
}

/// A length as header blocks write it.
fn length(block: &mut Vec<u8>, length: usize) {
    if length < 127 {
        block.push(u8::try_from(length).unwrap());
        return;
    }
    block.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        block.push(u8::try_from(rest % 128 + 128).unwrap());
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// What the header list of such a call counts as.
pub(crate) fn header_list_size(method: &str, more: &[(&str, &str)]) -> usize {
    let path = format!("/{method}");
    let fixed = 7 + 4 + 7 + 5 + 5 + path.len() + 10 + 9 + 2 + 8 + 12 + 16;
    let more: usize = more.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    fixed + 6 * 32 + more
}

/// A message as gRPC frames it.
pub(crate) fn message(compressed: bool, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![u8::from(compressed)];
    message.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    message.extend(bytes);
    message
}
