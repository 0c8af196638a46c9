//! A gateway of the user's choice outside the pseudo-enclave: a `gvproxy`, as a child process.

use super::publish::Publish;
use crate::errors::Error;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, body::Bytes, header};
use hyper_util::rt::TokioIo;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::VecDeque,
    env,
    io::{BufRead, BufReader, Read},
    net::Ipv4Addr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};
use tokio::{net::UnixStream, sync::watch};

/// A running gateway; ended on drop.
#[derive(Debug)]
pub(crate) struct Gvproxy {
    child: Child,
    socket: PathBuf,
    /// True once its output has ended, and so has it.
    gone: watch::Receiver<bool>,
    last_words: Arc<Mutex<VecDeque<String>>>,
}

/// Lines of output kept for the message when it fails.
const LAST_WORDS: usize = 5;

/// How long a gateway may take to listen.
const START: Duration = Duration::from_secs(10);

/// How long a gateway may take to end when told to.
const END: Duration = Duration::from_secs(2);

impl Gvproxy {
    /// Starts `command` (a program, and arguments separated by blanks) listening on `socket`.
    pub(crate) async fn start(command: &str, socket: &Path) -> Result<Self, Error> {
        let mut words = command.split_whitespace();
        let name = words.next().ok_or_else(|| Error::usage("--gateway-command is empty; give a gvproxy"))?;
        let program = find(name).ok_or_else(|| {
            Error::runtime(format!(
                "cannot find the gateway command {name}; give the path of a gvproxy, or leave --gateway-command out for the \
                 built-in gateway"
            ))
        })?;
        let mut command = Command::new(&program);
        command.args(words).arg("-listen").arg(format!("unix://{}", socket.display())).args(["-ssh-port", "-1"]);
        // Its own process group: Ctrl-C must not take the network away from an app that is still saying goodbye.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        crate::sys::process::die_with_parent(&mut command, Signal::KILL);
        let mut child = command
            .spawn()
            .map_err(|e| Error::runtime(format!("cannot start the gateway {}: {e}", program.display())))?;

        let last_words = Arc::default();
        let (ended, gone) = watch::channel(false);
        let ended = Arc::new(ended);
        listen(child.stdout.take(), &last_words, &ended);
        listen(child.stderr.take(), &last_words, &ended);
        let mut gateway = Self { child, socket: socket.to_owned(), gone, last_words };
        gateway.listening().await?;
        tracing::debug!(gateway = %program.display(), socket = %socket.display(), "gateway is up");
        Ok(gateway)
    }

    /// Resolves when the gateway has ended by itself.
    pub(crate) async fn failed(&mut self) -> Error {
        let _ = self.gone.wait_for(|gone| *gone).await;
        let words = self.last_words.lock().unwrap_or_else(PoisonError::into_inner);
        let words = words.iter().map(String::as_str).collect::<Vec<_>>().join(" | ");
        Error::runtime(format!("the gateway ended: {}", if words.is_empty() { "it said nothing" } else { &words }))
    }

    /// Makes a port outside lead to `guest`, through gvproxy's `/services/forwarder/expose`.
    pub(crate) async fn publish(&self, publish: Publish, guest: Ipv4Addr) -> Result<(), Error> {
        let cannot = |e: &dyn std::fmt::Display| Error::runtime(format!("cannot publish {}: {e}", publish.outside));
        let body =
            format!(r#"{{"local":"{}","remote":"{guest}:{}","protocol":"tcp"}}"#, publish.outside, publish.inside);
        let (status, answer) =
            self.post("/services/forwarder/expose", body).await.map_err(|e| cannot(&format!("the gateway: {e}")))?;
        if status.is_success() {
            return Ok(());
        }
        Err(cannot(&format!("the gateway says: {}", answer.trim())))
    }

    async fn listening(&mut self) -> Result<(), Error> {
        let socket = self.socket.clone();
        let up = async {
            while UnixStream::connect(&socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            result = tokio::time::timeout(START, up) => result.map_err(|_| {
                Error::runtime(format!("the gateway does not listen after {} s; is it a gvproxy?", START.as_secs()))
            }),
            error = self.failed() => Err(error),
        }
    }

    async fn post(
        &self,
        path: &str,
        body: String,
    ) -> Result<(hyper::StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
        /// A reply is one line; more than this is not gvproxy.
        const REPLY_MAX: usize = 64 << 10;
        let exchange = async {
            let stream = TokioIo::new(UnixStream::connect(&self.socket).await?);
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            let request = Request::builder()
                .method(Method::POST)
                .uri(path)
                .header(header::HOST, "gateway")
                .header(header::CONTENT_TYPE, "application/json")
                .body(Full::<Bytes>::from(body))?;
            let answer = async {
                let response = sender.send_request(request).await?;
                let status = response.status();
                let body = Limited::new(response.into_body(), REPLY_MAX).collect().await?.to_bytes();
                Ok((status, String::from_utf8_lossy(&body).into_owned()))
            };
            tokio::pin!(answer);
            tokio::select! {
                biased;
                answer = &mut answer => answer,
                Err(error) = connection => Err(error.into()),
            }
        };
        tokio::time::timeout(START, exchange).await?
    }
}

impl Drop for Gvproxy {
    fn drop(&mut self) {
        // Nobody else waits for it, so its number is still its own.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let step = Duration::from_millis(10);
        for _ in 0..END.as_millis() / step.as_millis() {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(step),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Logs what the gateway says and keeps its last lines.
fn listen(
    output: Option<impl Read + Send + 'static>,
    last_words: &Arc<Mutex<VecDeque<String>>>,
    ended: &Arc<watch::Sender<bool>>,
) {
    let Some(output) = output else { return };
    let (last_words, ended) = (Arc::clone(last_words), Arc::clone(ended));
    thread::spawn(move || {
        let mut reader = BufReader::new(output).take(LINE_MAX);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            tracing::debug!(target: "gateway", "{text}");
            let mut words = last_words.lock().unwrap_or_else(PoisonError::into_inner);
            if words.len() == LAST_WORDS {
                words.pop_front();
            }
            words.push_back(text);
            drop(words);
            line.clear();
            reader.set_limit(LINE_MAX);
        }
        ended.send_replace(true);
    });
}

/// Longest piece of output taken as one line.
const LINE_MAX: u64 = 4096;

/// The program behind a name, as a shell finds it.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let runs = |path: &Path| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| runs(path));
    }
    let path = env::var_os("PATH")?;
    // Fedora and podman keep it off the PATH.
    let more = ["/usr/libexec/podman", "/usr/lib/podman"].map(PathBuf::from);
    env::split_paths(&path).chain(more).map(|dir| dir.join(name)).find(|path| runs(path))
}
