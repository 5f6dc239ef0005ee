//! The examples, as programs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The directory of the examples, which are built first: a run of one test file alone would find none, or old ones. Whoever has
/// built them as the test itself was built says so in `POLLER_EXAMPLES`.
pub fn examples() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().expect("this program");
        let profile = test.ancestors().nth(2).expect("PROFILE/deps/this");
        let examples = profile.join("examples");
        if std::env::var_os("POLLER_EXAMPLES").is_some_and(|value| value == "built") {
            return examples;
        }
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--examples", "-p", "poller"]);
        if cfg!(feature = "tls") {
            cargo.args(["--features", "tls"]);
        }
        // What this package is says nothing of others: ring would be built again because of it.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
                cargo.env_remove(&name);
            }
        }
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo").success(), "the examples are built");
        examples
    })
}
