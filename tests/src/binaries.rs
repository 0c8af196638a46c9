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
///
/// A test lies in `TARGET/[TRIPLE/]PROFILE/deps`; cargo marks `TARGET` with a `CACHEDIR.TAG`.
fn build() -> PathBuf {
    let test = env::current_exe().expect("/proc is mounted");
    let folder = test.parent().and_then(Path::parent).expect("tests lie in TARGET/PROFILE/deps").to_owned();
    let parent = folder.parent().expect("tests lie in TARGET/PROFILE/deps");
    let (target, triple) = if parent.join("CACHEDIR.TAG").exists() {
        (parent, None)
    } else {
        (parent.parent().expect("tests lie in TARGET/TRIPLE/PROFILE/deps"), parent.file_name())
    };
    let profile = match folder.file_name().and_then(|name| name.to_str()).expect("profiles are named in ASCII") {
        "debug" => "dev",
        other => other,
    };

    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--quiet", "--package", "nitrotap", "--package", "nitrotap-tests", "--bins"])
        .args(["--profile", profile])
        .arg("--target-dir")
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if let Some(triple) = triple {
        command.arg("--target").arg(triple);
    }
    let output = command.output().expect("cargo runs: it runs this test");
    assert!(output.status.success(), "building the binaries failed:\n{}", String::from_utf8_lossy(&output.stderr));
    folder
}
