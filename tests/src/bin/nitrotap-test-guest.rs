//! App and client of the end-to-end tests: one subcommand per part, see [`nitrotap_tests::guest`].

use nitrotap_tests::guest::{churn, dns, dns_server, half_close, http_client, http_server, ping, process, tcp, udp};
use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
    str::FromStr,
    time::Duration,
};

const USAGE: &str = "\
usage: nitrotap-test-guest COMMAND ARGS...
  http-server ADDR                       http-get URL [NAME:VALUE]...
  tcp-echo ADDR [BACKLOG]                tcp-exchange ADDR CONNECTIONS BYTES SEED
  tcp-sink ADDR                          tcp-send ADDR BYTES SEED
  tcp-source ADDR BYTES SEED             tcp-recv ADDR [TIMEOUT_MS]
  half-close-server ADDR REPLY_BYTES     half-close ADDR BYTES SEED
  udp-echo ADDR                          udp-ping ADDR SIZE COUNT
  tcp-leave ADDR BYTES SEED              udp-probe ADDR SIZE
  udp-flood ADDR SIZE                    ping IP SIZE COUNT
  udp-strangers ADDR                     tcp-strangers ADDR
  dns-server ADDR                        dns-a NAME SERVER_ADDR
  churn-server ADDR                      churn ADDR CONNECTIONS server|client
  exit CODE                              crash
  spawn-orphans COUNT                    print-env
ADDR is IP:PORT; servers take port 0 and print \"listening on ADDR\".";

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(io::stderr(), "nitrotap-test-guest {}: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> io::Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["http-server", addr] => http_server::serve(parse(addr)?),
        ["http-get", url, ref headers @ ..] => http_client::get(url, &pairs(headers)?),
        ["tcp-echo", addr] => tcp::echo(parse(addr)?, None),
        ["tcp-echo", addr, backlog] => tcp::echo(parse(addr)?, Some(parse(backlog)?)),
        ["tcp-exchange", addr, connections, bytes, seed] => {
            tcp::exchange(parse(addr)?, parse(connections)?, parse(bytes)?, parse(seed)?)
        }
        ["tcp-sink", addr] => tcp::sink(parse(addr)?),
        ["tcp-send", addr, bytes, seed] => tcp::send(parse(addr)?, parse(bytes)?, parse(seed)?),
        ["tcp-leave", addr, bytes, seed] => tcp::leave(parse(addr)?, parse(bytes)?, parse(seed)?),
        ["tcp-source", addr, bytes, seed] => tcp::source(parse(addr)?, parse(bytes)?, parse(seed)?),
        ["tcp-recv", addr] => tcp::receive(parse(addr)?, nitrotap_tests::guest::PATIENCE),
        ["tcp-recv", addr, timeout] => tcp::receive(parse(addr)?, Duration::from_millis(parse(timeout)?)),
        ["half-close", addr, bytes, seed] => half_close::client(parse(addr)?, parse(bytes)?, parse(seed)?),
        ["half-close-server", addr, reply] => half_close::server(parse(addr)?, parse(reply)?),
        ["dns-server", addr] => dns_server::serve(parse(addr)?),
        ["dns-a", name, server] => dns::lookup(name, dns::TYPE_A, parse(server)?),
        ["dns-aaaa", name, server] => dns::lookup(name, dns::TYPE_AAAA, parse(server)?),
        ["udp-echo", addr] => udp::echo(parse(addr)?),
        ["udp-ping", addr, size, count] => udp::ping(parse(addr)?, parse(size)?, parse(count)?),
        ["udp-probe", addr, size] => udp::probe(parse(addr)?, parse(size)?),
        ["udp-flood", addr, size] => udp::flood(parse(addr)?, parse(size)?),
        ["udp-strangers", addr] => udp::strangers(parse(addr)?),
        ["tcp-strangers", addr] => tcp::strangers(parse(addr)?),
        ["ping", ip, size, count] => ping::ping(parse(ip)?, parse(size)?, parse(count)?),
        ["churn-server", addr] => churn::serve(parse(addr)?),
        // Who closes first.
        ["churn", addr, connections, who @ ("server" | "client")] => {
            churn::run(parse(addr)?, parse(connections)?, who == "client")
        }
        ["exit", code] => return Ok(ExitCode::from(parse::<u8>(code)?)),
        ["crash"] => process::crash(),
        ["spawn-orphans", count] => process::spawn_orphans(parse(count)?),
        ["print-env"] => process::print_env(),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, USAGE)),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn parse<T: FromStr>(word: &str) -> io::Result<T> {
    word.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("cannot read {word:?}\n{USAGE}")))
}

fn pairs(headers: &[&str]) -> io::Result<Vec<(String, String)>> {
    let pair = |header: &&str| {
        let (name, value) = header.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    headers.iter().map(pair).collect::<Option<_>>().ok_or_else(|| io::Error::other("headers are NAME:VALUE"))
}
