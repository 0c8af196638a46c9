//! `nitrotap local`: a pseudo-enclave on any Linux box.

use crate::{
    app::{App, Signals, in_terminal_foreground},
    drive::Offload,
    errors::Error,
    http::ListenAddr,
    local::{folder::Folder, gateway::Gateway, namespace, publish::Publish},
};
use ipnet::Ipv6Net;
use nitrotap_proxy::UpstreamUrl;
use std::{ffi::OsString, fs, net::Ipv4Addr, process::ExitCode};

/// Run a command in a pseudo-enclave: namespaces, a real TAP device, real frames, a gateway outside
///
/// The command finds the network that it would have in an enclave behind `nitrotap host`: address 192.168.127.2, gateway and
/// name server 192.168.127.1, this machine's loopback as 192.168.127.254. It is root inside and nobody outside, and its
/// exit code becomes ours. Works as root and as an ordinary user; leaves nothing behind.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  \
    nitrotap local -- ping -c 3 192.168.127.1\n  \
    nitrotap local --publish 8080:80 -- /bin/app --port 80\n  \
    nitrotap local --publish 8080:80 --listen 0.0.0.0:80 --upstream http://127.0.0.1:3000 -- /bin/app\n  \
    nitrotap local --gateway-command '/opt/gvproxy -debug' -- sh")]
pub(crate) struct Args {
    /// Let a port of this machine (of its loopback, unless ADDR is given) lead to a port inside; repeatable
    #[arg(long, value_name = "[ADDR:]PORT[:PORT]")]
    publish: Vec<Publish>,

    /// The gateway to run: a gvproxy, with arguments separated by blanks [default: that of nitrotap host, built in]
    #[arg(long, value_name = "CMD")]
    gateway_command: Option<String>,

    /// Give the command IPv6 too, with an address that its kernel makes itself in this /64; this machine's ::1 is its ::fe
    /// [default: no IPv6]
    #[arg(long, value_name = "PREFIX/64", conflicts_with = "gateway_command")]
    subnet6: Option<Ipv6Net>,

    /// Run the reverse proxy inside on this address, or on vsock://:PORT; repeatable
    #[arg(long, value_name = "ADDR:PORT|vsock://:PORT", requires = "upstream")]
    listen: Vec<ListenAddr>,

    /// Where the reverse proxy's requests go: the app inside, as http://HOST:PORT
    #[arg(long, value_name = "URL", requires = "listen")]
    upstream: Option<UpstreamUrl>,

    /// Work that the kernel inside leaves to us: all, none, or a list of csum, tso, uso, gro (see nitrotap enclave)
    #[arg(long, value_name = "all|none|LIST", default_value_t = Offload::ALL)]
    offload: Offload,

    /// Send the gateway nothing but what any network takes (see nitrotap enclave)
    #[arg(long)]
    strict: bool,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The address that `nitrotap enclave` takes by default.
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 2);

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    crate::limits::raise_nofile();
    // One thread: a child's wish to die with its parent is tied to the thread that started it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime(format!("cannot start the async runtime: {e}")))?;
    runtime.block_on(local(args))
}

async fn local(args: Args) -> Result<ExitCode, Error> {
    let shared_terminal = in_terminal_foreground();
    let mut signals = Signals::catch(shared_terminal)?;
    let folder = Folder::create()?;
    let socket = folder.gateway_socket();
    let mut gateway = Gateway::start(args.gateway_command.as_deref(), &socket, args.subnet6).await?;
    for publish in args.publish {
        gateway.publish(publish, GUEST).await?;
        tracing::info!("published {} as port {} inside", publish.outside, publish.inside);
    }

    let failed = |e: std::io::Error| Error::runtime(format!("cannot prepare the pseudo-enclave: {e}"));
    fs::write(folder.resolv_conf(), "").map_err(failed)?;
    let sync = tokio::net::UnixListener::bind(folder.sync_socket()).map_err(failed)?;
    let mut init: Vec<OsString> = ["enclave", "--namespace-init", "--host"].map(Into::into).to_vec();
    init.push(format!("unix://{}", socket.display()).into());
    if let Some(mtu) = gateway.mtu() {
        init.extend(["--mtu".into(), mtu.to_string().into()]);
    }
    init.extend(["--offload".into(), args.offload.to_string().into()]);
    if args.strict {
        init.push("--strict".into());
    }
    if shared_terminal {
        init.push("--shared-terminal".into());
    }
    for listen in args.listen {
        init.extend(["--listen".into(), listen.to_string().into()]);
    }
    if let Some(upstream) = args.upstream {
        init.extend(["--upstream".into(), upstream.to_string().into()]);
    }
    init.push("--".into());
    init.extend(args.command);
    let stage = namespace::stage(&folder.sync_socket(), &folder.resolv_conf(), shared_terminal, &init)?;
    let mut app = App::start_part(stage)?;

    tokio::select! {
        biased;
        // The stage gave up before it reported, and has said why.
        ended = app.ended() => return Ok(ended.code()),
        admitted = namespace::admit(sync) => admitted?,
    }
    tokio::select! {
        code = namespace::supervise(&mut app, &mut signals) => Ok(code),
        error = gateway.failed() => {
            app.stop(std::time::Duration::from_secs(10)).await;
            Err(error)
        }
    }
}
