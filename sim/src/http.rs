//! As much HTTP/1.1 as a load generator and a test app need: heads, bodies of known length, chunked bodies.

use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Reads messages off a stream.
#[derive(Debug)]
pub struct Reader<S> {
    /// The stream itself, for writing.
    pub stream: S,
    buf: Vec<u8>,
    at: usize,
}

/// A message's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// The request or status line.
    pub line: String,
    /// Header lines, in order, names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The value of the first field of this name.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The status code of a response.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.line.split(' ').nth(1)?.parse().ok()
    }

    /// Whether the sender closes after this message.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.field("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"))
    }
}

/// Longest head taken.
const MAX_HEAD: usize = 64 << 10;

impl<S: AsyncRead + Unpin> Reader<S> {
    /// Reads messages off `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, buf: Vec::new(), at: 0 }
    }

    /// The next head; `None` at the end of the stream between two messages.
    ///
    /// # Errors
    /// Those of the stream; `UnexpectedEof` inside a head; `InvalidData` for what is none.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(end) = self.buf[self.at..].windows(4).position(|w| w == b"\r\n\r\n") {
                let text = std::str::from_utf8(&self.buf[self.at..self.at + end]).map_err(|_| bad("not a head"))?;
                let mut lines = text.split("\r\n");
                let line = lines.next().unwrap_or_default().to_owned();
                let fields = lines
                    .map(|line| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())))
                    .collect::<Option<Vec<_>>>();
                let head = Head { line, fields: fields.ok_or_else(|| bad("not a header line"))? };
                self.at += end + 4;
                return Ok(Some(head));
            }
            if self.buf.len() - self.at > MAX_HEAD {
                return Err(bad("the head is too long"));
            }
            if self.more().await? == 0 {
                return if self.at == self.buf.len() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// The body that follows `head`; a response without a length ends with the stream.
    ///
    /// # Errors
    /// Those of the stream; `UnexpectedEof` when it ends early; `InvalidData` for chunks that are none.
    pub async fn body(&mut self, head: &Head, until_end: bool) -> io::Result<Vec<u8>> {
        if head.field("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            return self.chunked().await;
        }
        match head.field("content-length") {
            Some(len) => {
                let len = len.parse().map_err(|_| bad("not a length"))?;
                self.exactly(len).await
            }
            None if until_end => self.to_end().await,
            None => Ok(Vec::new()),
        }
    }

    async fn chunked(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.map_err(|_| bad("not a chunk"))?;
            let chunk = self.exactly(size).await?;
            body.extend(chunk);
            if !self.line().await?.is_empty() {
                return Err(bad("a chunk is longer than it says"));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buf[self.at..].windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buf[self.at..self.at + end]).into_owned();
                self.at += end + 2;
                return Ok(line);
            }
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// Those of the stream; `UnexpectedEof` when it ends early.
    pub async fn exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buf.len() - self.at < len {
            if self.more().await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let bytes = self.buf[self.at..self.at + len].to_vec();
        self.at += len;
        Ok(bytes)
    }

    /// Everything up to the end of the stream.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.more().await? > 0 {}
        let rest = self.buf[self.at..].to_vec();
        self.at = self.buf.len();
        Ok(rest)
    }

    /// What was read and not yet taken, and the stream.
    pub fn into_parts(self) -> (Vec<u8>, S) {
        (self.buf[self.at..].to_vec(), self.stream)
    }

    async fn more(&mut self) -> io::Result<usize> {
        if self.at == self.buf.len() {
            self.buf.clear();
            self.at = 0;
        }
        self.buf.reserve(16 << 10);
        self.stream.read_buf(&mut self.buf).await
    }
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn messages_follow_each_other_whatever_their_framing() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Id: 7\r\n\r\nhelloHTTP/1.1 200 OK\r\n\
            Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\nHTTP/1.1 404 No\r\n\r\nrest";
        block_on(async {
            let mut reader = Reader::new(&text[..]);
            let head = reader.head().await.unwrap().unwrap();
            assert_eq!((head.status(), head.field("x-id")), (Some(200), Some("7")));
            assert_eq!(reader.body(&head, false).await.unwrap(), b"hello");
            let head = reader.head().await.unwrap().unwrap();
            assert_eq!(reader.body(&head, false).await.unwrap(), b"abc0123456789abcdef");
            let head = reader.head().await.unwrap().unwrap();
            assert_eq!(reader.body(&head, true).await.unwrap(), b"rest");
            assert_eq!(reader.head().await.unwrap(), None);
        });
    }

    #[test]
    fn what_breaks_off_is_an_error() {
        block_on(async {
            assert!(Reader::new(&b"GET / HT"[..]).head().await.is_err());
            let mut reader = Reader::new(&b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"[..]);
            let head = reader.head().await.unwrap().unwrap();
            assert!(reader.body(&head, false).await.is_err());
        });
    }
}
