//! An HTTP/1.1 client for one URL.

use super::{PATIENCE, tcp};
use crate::http::{self, Message};
use std::{
    io::{self, BufReader, Write as _},
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
};

/// Gets `url` and prints the body on standard output, the status line and headers on standard error. A status outside
/// 200..=299 is a failure.
pub fn get(url: &str, headers: &[(String, String)]) -> io::Result<()> {
    let (address, authority, path) = parse(url)?;
    let request = Message::request("GET", &path, &authority);
    let request = headers.iter().fold(request, |request, (name, value)| request.with(name, value));
    let response = Client::connect(address)?.ask(&request)?;
    write!(io::stderr(), "{}", response.head())?;
    io::stdout().write_all(&response.body)?;
    let status = response.status()?;
    if (200..300).contains(&status) { Ok(()) } else { Err(io::Error::other(format!("{url} answered {status}"))) }
}

/// One request and its whole response on a stream of any kind.
pub fn exchange(stream: &mut (impl io::Read + io::Write), request: &Message) -> io::Result<Message> {
    request.write(stream)?;
    http::read_response(&mut BufReader::new(stream), request.target()?.0)
}

/// A connection that takes one request after the other.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { reader: BufReader::new(tcp::connect(address, PATIENCE)?) })
    }

    /// One request and its whole response.
    pub fn ask(&mut self, request: &Message) -> io::Result<Message> {
        self.send(request)?;
        http::read_response(&mut self.reader, request.target()?.0)
    }

    /// One request, whose response is read from [`Client::reader`].
    pub fn send(&mut self, request: &Message) -> io::Result<()> {
        request.write(&mut self.reader.get_ref())
    }

    pub fn reader(&mut self) -> &mut BufReader<TcpStream> {
        &mut self.reader
    }
}

/// The address, the authority and the path of an `http` URL.
fn parse(url: &str) -> io::Result<(SocketAddr, String, String)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("not an http:// URL: {url:?}"));
    let rest = url.strip_prefix("http://").ok_or_else(invalid)?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |slash| rest.split_at(slash));
    let address = match authority.parse() {
        Ok(address) => address,
        Err(_) if authority.contains(':') => authority.to_socket_addrs()?.next().ok_or_else(invalid)?,
        Err(_) => (authority, 80).to_socket_addrs()?.next().ok_or_else(invalid)?,
    };
    Ok((address, authority.to_owned(), path.to_owned()))
}
