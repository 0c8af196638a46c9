//! An HTTP/1.1 client for one URL.

use super::{PATIENCE, tcp};
use crate::http::{self, Message};
use std::{
    io::{self, BufReader, Write as _},
    net::{SocketAddr, ToSocketAddrs as _},
};

/// Gets `url` and prints the body on standard output, the status line and headers on standard error. A status outside
/// 200..=299 is a failure.
pub fn get(url: &str, headers: &[(String, String)]) -> io::Result<()> {
    let (address, authority, path) = parse(url)?;
    let mut stream = tcp::connect(address, PATIENCE)?;
    let response = exchange(&mut stream, &request("GET", &path, &authority, headers))?;
    write!(io::stderr(), "{}", response.head())?;
    io::stdout().write_all(&response.body)?;
    let status = response.status()?;
    if (200..300).contains(&status) { Ok(()) } else { Err(io::Error::other(format!("{url} answered {status}"))) }
}

/// Posts `body` to `url` and gives the answer.
pub fn post(url: &str, body: &[u8]) -> io::Result<Message> {
    let (address, authority, path) = parse(url)?;
    let mut stream = tcp::connect(address, PATIENCE)?;
    exchange(&mut stream, &request("POST", &path, &authority, &[]).body(body))
}

/// One request and its response on a connection that may be used again afterwards.
pub fn exchange(stream: &mut (impl io::Read + io::Write), request: &Message) -> io::Result<Message> {
    request.write(stream)?;
    http::read_response(&mut BufReader::new(stream), request.target()?.0)
}

fn request(method: &str, path: &str, authority: &str, headers: &[(String, String)]) -> Message {
    let request = Message::request(method, path, authority);
    headers.iter().fold(request, |request, (name, value)| request.with(name, value))
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
