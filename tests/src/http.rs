//! As much HTTP/1.1 as the tests need: messages read and written over any byte stream, both roles.

use std::io::{self, BufRead, Write};

/// The longest line accepted in a head, and the most header lines: a peer gone wrong must not fill memory.
const MAX_LINE: u64 = 64 * 1024;
const MAX_HEADERS: usize = 200;

/// A message: its first line, its headers in order, its body without transfer coding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// A request for `path`; the body's length is declared when it is written.
    pub fn request(method: &str, path: &str, host: &str) -> Self {
        Self { start: format!("{method} {path} HTTP/1.1"), ..Self::default() }.with("Host", host)
    }

    pub fn response(status: u16, reason: &str) -> Self {
        Self { start: format!("HTTP/1.1 {status} {reason}"), ..Self::default() }
    }

    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The status of a response.
    pub fn status(&self) -> io::Result<u16> {
        let status = self.start.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
        status
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| broken(format!("not a status line: {:?}", self.start)))
    }

    /// The method and the path of a request.
    pub fn target(&self) -> io::Result<(&str, &str)> {
        let mut words = self.start.split(' ');
        match (words.next(), words.next(), words.next()) {
            (Some(method), Some(path), Some("HTTP/1.1" | "HTTP/1.0")) => Ok((method, path)),
            _ => Err(broken(format!("not a request line: {:?}", self.start))),
        }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// The head as it goes on the wire, without any header that says how long the body is.
    pub fn head(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("{}\r\n{headers}", self.start)
    }

    /// Writes the message in one piece, with its `Content-Length`.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = format!("{}Content-Length: {}\r\n\r\n", self.head(), self.body.len()).into_bytes();
        bytes.extend_from_slice(&self.body);
        to.write_all(&bytes)?;
        to.flush()
    }
}

/// Reads a request; `None` when the peer closed between two requests.
pub fn read_request(from: &mut impl BufRead) -> io::Result<Option<Message>> {
    let Some(mut message) = read_head(from)? else { return Ok(None) };
    message.body = read_body(from, &message, false)?;
    Ok(Some(message))
}

/// Reads the response to a request with this method, to the end of its body.
pub fn read_response(from: &mut impl BufRead, method: &str) -> io::Result<Message> {
    let mut message = read_head(from)?.ok_or_else(|| broken("closed before the response"))?;
    let status = message.status()?;
    let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
    if !bodiless {
        message.body = read_body(from, &message, true)?;
    }
    Ok(message)
}

/// Reads a first line and headers, to the empty line; `None` at the end of the stream.
pub fn read_head(from: &mut impl BufRead) -> io::Result<Option<Message>> {
    let Some(start) = read_line(from)? else { return Ok(None) };
    let mut message = Message { start, ..Message::default() };
    loop {
        let line = read_line(from)?.ok_or_else(|| broken("closed inside the headers"))?;
        if line.is_empty() {
            return Ok(Some(message));
        }
        if message.headers.len() == MAX_HEADERS {
            return Err(broken("too many headers"));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| broken(format!("not a header: {line:?}")))?;
        message.headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn read_body(from: &mut impl BufRead, message: &Message, until_close: bool) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if message.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        while let Some(chunk) = read_chunk(from)? {
            body.extend_from_slice(&chunk);
        }
    } else if let Some(length) = message.header("content-length") {
        let length = length.parse().map_err(|_| broken(format!("not a length: {length:?}")))?;
        body.resize(length, 0);
        from.read_exact(&mut body)?;
    } else if until_close {
        from.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// Reads a chunk; `None` is the last one, with its trailers.
fn read_chunk(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let line = read_line(from)?.ok_or_else(|| broken("closed between chunks"))?;
    let digits = line.split(';').next().unwrap_or_default().trim();
    let length = usize::from_str_radix(digits, 16).map_err(|_| broken(format!("not a chunk size: {line:?}")))?;
    let mut chunk = vec![0; length];
    from.read_exact(&mut chunk)?;
    if length > 0 {
        return match read_line(from)?.as_deref() {
            Some("") => Ok(Some(chunk)),
            other => Err(broken(format!("after a chunk: {other:?}"))),
        };
    }
    while read_line(from)?.is_some_and(|trailer| !trailer.is_empty()) {}
    Ok(None)
}

fn read_line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    io::Read::take(&mut *from, MAX_LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8(line).map_err(|_| broken("a head is not text"))?;
    let text = text.strip_suffix('\n').ok_or_else(|| broken("a line is cut short or too long"))?;
    Ok(Some(text.strip_suffix('\r').unwrap_or(text).to_owned()))
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back_as_it_was_written() {
        let request = Message::request("POST", "/x", "h").with("A", "b").body("hello");
        let mut wire = Vec::new();
        request.write(&mut wire).unwrap();
        let read = read_request(&mut wire.as_slice()).unwrap().unwrap();
        assert_eq!(read.target().unwrap(), ("POST", "/x"));
        assert_eq!(read.header("a"), Some("b"));
        assert_eq!(read.body, b"hello");
    }

    #[test]
    fn chunks_are_joined_and_the_next_message_follows() {
        let mut wire =
            &b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n\
                         HTTP/1.1 204 No Content\r\n\r\n"[..];
        assert_eq!(read_response(&mut wire, "GET").unwrap().body, b"abcde");
        assert_eq!(read_response(&mut wire, "GET").unwrap().status().unwrap(), 204);
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        for wire in ["HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "GET / HT"] {
            assert!(read_response(&mut wire.as_bytes(), "GET").is_err(), "{wire:?}");
        }
    }
}
