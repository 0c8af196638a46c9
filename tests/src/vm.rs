//! An emulated enclave: a microVM with a real kernel and real AF_VSOCK, whose host side is unix sockets.
//!
//! qemu runs it without KVM, and vhost-device-vsock stands in for the hypervisor: a guest that connects to CID 2, port P
//! reaches the unix socket `enclave.vsock_P`; to reach a port of the guest, one connects to `enclave.vsock` and asks. The
//! vsock of the machine itself is not touched. What the guest's init script prints is its serial log: [`Vm::log`].

mod initramfs;

use crate::{
    Finished, Process, Scratch, binaries,
    peers::{self, Missing},
    wait,
};
use initramfs::Archive;
use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// The programs and files that the emulation consists of.
#[derive(Debug)]
pub struct Emulation {
    qemu: PathBuf,
    vhost: PathBuf,
    kernel: PathBuf,
    modules: PathBuf,
    busybox: PathBuf,
}

/// A running microVM. Dropping it ends its processes; a test that is failing prints the serial log.
#[derive(Debug)]
pub struct Vm {
    qemu: Process,
    _vhost: Process,
    scratch: Scratch,
}

impl Emulation {
    /// Finds everything, or names the first thing that is missing.
    pub fn find() -> Result<Self, Missing> {
        if cfg!(not(all(target_arch = "x86_64", target_os = "linux"))) {
            return Err(Missing::new("the microVM is an x86_64 machine", "run this test on one"));
        }
        let order = peers::find("modules/order")?;
        Ok(Self {
            qemu: peers::find("qemu-system-x86_64")?,
            vhost: peers::find("vhost-device-vsock")?,
            kernel: peers::find("vmlinuz")?,
            modules: order.parent().expect("a file lies in a folder").to_owned(),
            busybox: peers::find("busybox")?,
        })
    }

    /// Boots a guest that runs `script` with busybox's shell once /proc, /sys, /dev and the modules are there.
    ///
    /// In its `/bin` are busybox's commands, `nitrotap` and `nitrotap-test-guest`; `files` are put beside them.
    /// `parent` is the unix socket that the guest reaches as `vsock://2:1024`. The end of the script powers it off.
    pub fn boot(&self, script: &str, files: &[(&str, &str)], parent: &Path) -> Vm {
        let scratch = Scratch::new();
        let initrd = scratch.join("initrd");
        fs::write(&initrd, self.initramfs(script, files)).expect("scratch directory is writable");
        std::os::unix::fs::symlink(parent, scratch.join("enclave.vsock_1024")).expect("scratch directory is writable");

        let (device, vsock) = (scratch.join("vhost.sock"), scratch.join("enclave.vsock"));
        let mut command = Command::new(&self.vhost);
        command.arg("--vm").arg(format!("guest-cid={CID},socket={},uds-path={}", device.display(), vsock.display()));
        let vhost = Process::start("vhost-device-vsock", command, &scratch);
        wait::until("vhost-device-vsock to listen", wait::SOON, || device.exists().then_some(()));

        let mut command = Command::new(&self.qemu);
        command
            .args(["-M", "microvm,accel=tcg,rtc=on,memory-backend=memory"])
            // Shared with vhost-device-vsock, which reads and writes the rings in it.
            .args(["-object", "memory-backend-memfd,id=memory,size=512M,share=on", "-m", "512M"])
            .args(["-cpu", "max", "-smp", "2", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-nographic", "-serial", "stdio"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initrd)
            .arg("-append")
            .arg(format!("console=ttyS0 quiet panic=-1 reboot=t mitigations=off tsc=reliable {}", tsc_frequency()))
            .arg("-chardev")
            .arg(format!("socket,id=vsock,path={}", device.display()))
            .args(["-device", "vhost-user-vsock-device,chardev=vsock"]);
        let qemu = Process::start("qemu", command, &scratch);
        Vm { qemu, _vhost: vhost, scratch }
    }

    fn initramfs(&self, script: &str, files: &[(&str, &str)]) -> Vec<u8> {
        let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let programs = binaries::fully_static();
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp"] {
            archive.folder(folder);
        }
        archive.file("init", 0o755, format!("{PREPARE}{script}{FINISH}").as_bytes());
        archive.file("bin/busybox", 0o755, &read(&self.busybox));
        for name in ["nitrotap", "nitrotap-test-guest"] {
            archive.file(&format!("bin/{name}"), 0o755, &read(&programs.join(name)));
        }
        for (name, content) in files {
            archive.file(&format!("bin/{name}"), 0o755, content.as_bytes());
        }
        // A Nitro enclave's resolv.conf: its target is not there until somebody writes it.
        archive.link("etc/resolv.conf", "/run/resolvconf/resolv.conf");
        let order = read(&self.modules.join("order"));
        archive.file("modules/order", 0o644, &order);
        for module in String::from_utf8_lossy(&order).lines() {
            archive.file(&format!("modules/{module}"), 0o644, &read(&self.modules.join(module)));
        }
        archive.finish()
    }
}

impl Vm {
    /// What the guest has printed so far, with the kernel's messages between.
    pub fn log(&self) -> String {
        self.qemu.stdout().replace('\r', "")
    }

    /// Waits for a line of the log that starts with `start`, and gives the rest of the line.
    pub fn expect_line(&mut self, start: &str, limit: Duration) -> String {
        let what = format!("the guest to print {start:?}");
        wait::until(&what, limit, || {
            let running = self.qemu.is_running();
            let log = self.log();
            let line = log.split_inclusive('\n').find_map(|line| line.strip_suffix('\n')?.strip_prefix(start));
            assert!(running || line.is_some(), "the guest ended before it printed {start:?}");
            line.map(str::to_owned)
        })
    }

    /// Connects to a vsock port of the guest, as its host does.
    pub fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(self.scratch.join("enclave.vsock"))?;
        stream.set_read_timeout(Some(wait::SOON))?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
        // Byte by byte: what follows the line belongs to the caller.
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
        if answer.starts_with(b"OK ") { Ok(stream) } else { Err(io::Error::other("the guest refused the connection")) }
    }

    /// Waits until the guest has powered off, and gives its log as the output.
    pub fn finish(&mut self, limit: Duration) -> Finished {
        let finished = self.qemu.finish(limit);
        Finished { stdout: self.log(), ..finished }
    }
}

/// Any number above the host's, 2: it is known only to qemu and vhost-device-vsock.
const CID: u32 = 4;

/// Before the script: what every guest needs.
const PREPARE: &str = "\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod /modules/$module || echo \"insmod $module failed\"; done </modules/order
";

/// After the script.
const FINISH: &str = "\npoweroff -f\n";

/// The kernel parameter that spares the guest measuring its clock.
///
/// It measures against an emulated timer, and where the emulator does not get the processor for a moment it finds no
/// frequency at all and then waits for ever for time to pass: one boot in five on a busy machine. Without KVM the guest
/// reads the processor's own counter, so that its frequency is ours, near enough for a test.
fn tsc_frequency() -> String {
    let about = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz =
        about.lines().find_map(|line| line.strip_prefix("cpu MHz")?.trim_start_matches([' ', '\t', ':']).parse().ok());
    mhz.map(|mhz: f64| format!("tsc_early_khz={:.0}", mhz * 1000.0)).unwrap_or_default()
}
