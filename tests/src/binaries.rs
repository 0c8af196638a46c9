//! The programs under test, built once per test process as the test itself was built.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The `nitrotap` binary; `$NITROTAP_BIN` names another one.
pub fn nitrotap() -> &'static Path {
    &built().nitrotap
}

/// The guest program; `$NITROTAP_TEST_GUEST` names another one.
pub fn guest() -> &'static Path {
    &built().guest
}

/// The simulator, built beside the running test.
pub fn simulator() -> PathBuf {
    let Place { folder, target, triple } = Place::of_this_test();
    let mut command = cargo(&target);
    command.args(["--package", "nitrotap-sim", "--bins", "--profile", profile(&folder)]);
    if let Some(triple) = triple {
        command.arg("--target").arg(triple);
    }
    run(command);
    folder.join("nitrotap-sim")
}

struct Built {
    nitrotap: PathBuf,
    guest: PathBuf,
}

fn built() -> &'static Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(|| {
        let given = |name| env::var_os(name).map(PathBuf::from);
        let (nitrotap, guest) = (given("NITROTAP_BIN"), given("NITROTAP_TEST_GUEST"));
        if let (Some(nitrotap), Some(guest)) = (&nitrotap, &guest) {
            return Built { nitrotap: nitrotap.clone(), guest: guest.clone() };
        }
        let folder = build();
        Built {
            nitrotap: nitrotap.unwrap_or_else(|| folder.join("nitrotap")),
            guest: guest.unwrap_or_else(|| folder.join("nitrotap-test-guest")),
        }
    })
}

/// Builds both binaries beside the running test and gives their folder.
fn build() -> PathBuf {
    let Place { folder, target, triple } = Place::of_this_test();
    let mut command = cargo_build(&target);
    command.args(["--profile", profile(&folder)]);
    if let Some(triple) = triple {
        command.arg("--target").arg(triple);
    }
    run(command);
    folder
}

/// Builds both binaries without any shared library, for a machine that has none, and gives their folder.
pub fn fully_static() -> PathBuf {
    let target = Place::of_this_test().target.join("static");
    let mut command = cargo_build(&target);
    command
        .args(["--target", STATIC_TRIPLE])
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("RUSTFLAGS", "-Ctarget-feature=+crt-static")
        // Debug information is nine tenths of the bytes, and all of them go into the guest's memory.
        .env("CARGO_PROFILE_DEV_DEBUG", "0");
    run(command);
    target.join(STATIC_TRIPLE).join("debug")
}

/// glibc links statically too, so that the standard library installed with the compiler is enough.
const STATIC_TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The profile that cargo put into this folder.
fn profile(folder: &Path) -> &str {
    match folder.file_name().and_then(|name| name.to_str()).expect("profiles are named in ASCII") {
        "debug" => "dev",
        other => other,
    }
}

fn cargo_build(target: &Path) -> Command {
    let mut command = cargo(target);
    command.args(["--package", "nitrotap", "--package", "nitrotap-tests", "--bins"]);
    command
}

fn cargo(target: &Path) -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--target-dir"]).arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn run(mut command: Command) {
    let output = command.output().expect("cargo runs: it runs this test");
    assert!(output.status.success(), "building the binaries failed:\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Where cargo put the running test: `TARGET/[TRIPLE/]PROFILE/deps`, the triple being there where one was asked for.
struct Place {
    folder: PathBuf,
    target: PathBuf,
    triple: Option<String>,
}

impl Place {
    fn of_this_test() -> Self {
        let test = env::current_exe().expect("/proc is mounted");
        let folder = test.parent().and_then(Path::parent).expect("tests lie in TARGET/PROFILE/deps");
        let above = folder.parent().expect("tests lie in TARGET/PROFILE/deps");
        let name = above.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_triple = name.starts_with(&format!("{}-", env::consts::ARCH));
        let (target, triple) = if is_triple {
            (above.parent().expect("tests lie in TARGET/TRIPLE/PROFILE/deps"), Some(name.to_owned()))
        } else {
            (above, None)
        };
        Self { folder: folder.to_owned(), target: target.to_owned(), triple }
    }
}
